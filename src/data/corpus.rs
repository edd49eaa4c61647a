//! A training text of any size, split into documents or conversations.

use std::cell::Cell;

use anyhow::{Context, Result, bail, ensure};

use super::byte_store::ByteStore;
use super::char_table::CharTable;
use super::corpus_kind::CorpusKind;
use super::fingerprint::{Fingerprint, Hasher};
use super::message::{Message, Role, is_like_conversation, parse_conversation};
use super::text_blocks::{BlockEnd, for_each_block};
use super::tokenizer::Tokenizer;

/// The size of the text in bytes that a byte-level BPE is learned from.
const BPE_SAMPLE: usize = 32 << 20;

/// A training text. It is read once to check and count it, and again for its tokens.
pub struct Corpus<'a> {
    text: ByteStore<'a>,
    kind: CorpusKind,
    /// The number of documents, characters or conversations.
    len: u64,
    /// The distinct characters, sorted.
    characters: String,
    has_system: bool,
    fingerprint: Fingerprint,
}

impl<'a> Corpus<'a> {
    /// Reads a text of the given kind. Errors if it is empty or of another kind.
    pub fn new(text: &'a str, kind: CorpusKind) -> Result<Self> {
        Self::read(ByteStore::Borrowed(text.as_bytes()), kind, &|_| {})
    }

    /// Takes each non-empty line as a document, trimmed.
    pub fn documents(text: &'a str) -> Result<Self> {
        Self::new(text, CorpusKind::Documents)
    }

    /// Takes all of `text`, white space included.
    pub fn continuous(text: &'a str) -> Result<Self> {
        Self::new(text, CorpusKind::Continuous)
    }

    /// Reads a text from its start to its end. `progress` is called with the number of bytes read.
    ///
    /// Errors if the text has no document or conversation, or less than two characters; if a
    /// conversation is not valid; and if other lines are conversations.
    pub fn read(text: ByteStore<'a>, kind: CorpusKind, progress: &dyn Fn(u64)) -> Result<Self> {
        let mut corpus = Self {
            text,
            kind,
            len: 0,
            characters: String::new(),
            has_system: false,
            fingerprint: Fingerprint::default(),
        };
        let mut survey = Survey::default();
        let fingerprint = corpus.for_each_item(progress, |item| {
            survey.add(item);
            Ok(())
        })?;
        match kind {
            CorpusKind::Documents if survey.items == 0 => {
                bail!("there is no text to train on, only empty lines")
            }
            CorpusKind::Conversations if survey.items == 0 => {
                bail!("there is no conversation to train on, only empty lines")
            }
            CorpusKind::Continuous if survey.characters < 2 || !survey.has_text => {
                bail!("there is no text to train on")
            }
            CorpusKind::Continuous => corpus.len = survey.characters,
            _ => corpus.len = survey.items,
        }
        corpus.characters = survey.known.to_string();
        corpus.has_system = survey.has_system;
        corpus.fingerprint = fingerprint;
        Ok(corpus)
    }

    /// The number of documents, characters or conversations.
    #[allow(clippy::len_without_is_empty)] // a corpus is never empty
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn kind(&self) -> CorpusKind {
        self.kind
    }

    /// The size of the text in bytes.
    pub fn bytes(&self) -> u64 {
        self.text.len()
    }

    /// The distinct characters, sorted by code point.
    pub fn characters(&self) -> &str {
        &self.characters
    }

    /// Returns whether a conversation has a system message.
    pub fn has_system(&self) -> bool {
        self.has_system
    }

    /// The length and the hash of the text.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Creates the tokenizer of this text's characters.
    pub fn tokenizer(&self) -> Tokenizer {
        let tokenizer = Tokenizer::from_texts([self.characters()].into_iter(), self.kind());
        match self.has_system {
            true => tokenizer.with_system(),
            false => tokenizer,
        }
    }

    /// Visits the strings that are encoded: documents, blocks of a continuous text, and the contents
    /// of messages.
    pub fn for_each_text(&self, mut visit: impl FnMut(&str) -> Result<()>) -> Result<()> {
        self.for_each_item(&|_| {}, |item| match item {
            Item::Document(text) | Item::Block(text) => visit(text),
            Item::Conversation(messages) => {
                let mut contents = messages.iter().map(|message| &*message.content);
                contents.try_for_each(&mut visit)
            }
        })?;
        Ok(())
    }

    /// Creates the tokenizer of a byte-level BPE, learned from the first `BPE_SAMPLE` bytes.
    pub fn bpe_tokenizer(&self, vocab_size: usize) -> Result<Tokenizer> {
        let (mut sample, mut ends) = (String::new(), vec![0]);
        let read = self.for_each_text(|text| {
            sample.push_str(text);
            ends.push(sample.len());
            ensure!(sample.len() < BPE_SAMPLE, "the sample is complete");
            Ok(())
        });
        if sample.len() < BPE_SAMPLE {
            read?;
        }
        let texts = ends.windows(2).map(|ends| &sample[ends[0]..ends[1]]);
        self.tokenizer().learn_bpe(texts, vocab_size)
    }

    /// Visits the tokens of each document. Those of a continuous text come in blocks. Errors if the
    /// tokenizer is of another kind, or if the text has changed since it was read.
    pub fn for_each_encoded(
        &self,
        tokenizer: &Tokenizer,
        progress: &dyn Fn(u64),
        mut visit: impl FnMut(&[u32]) -> Result<()>,
    ) -> Result<()> {
        if self.kind != tokenizer.kind() {
            match tokenizer.kind() {
                CorpusKind::Documents => bail!("this model is trained on documents, one per line"),
                CorpusKind::Continuous => bail!("this model is trained on one continuous text"),
                CorpusKind::Conversations => bail!("this model is trained on conversations"),
            }
        }
        let table = tokenizer.chars();
        let table = table.map(|_| CharTable::new(&self.characters, tokenizer));
        let encode = |text: &str, tokens: &mut Vec<u32>| match &table {
            Some(table) => table.encode(text, tokens),
            None => tokens.extend(tokenizer.encode(text)),
        };
        let chat = tokenizer.chat_tokens();
        let mut tokens = Vec::new();
        let fingerprint = self.for_each_item(progress, |item| {
            tokens.clear();
            match (item, chat) {
                (Item::Document(text), _) => {
                    tokens.push(tokenizer.bos());
                    encode(text, &mut tokens);
                    tokens.push(tokenizer.bos());
                }
                (Item::Block(text), _) => encode(text, &mut tokens),
                (Item::Conversation(messages), Some(chat)) => {
                    tokens = tokenizer.encode_conversation(chat, &messages);
                }
                (Item::Conversation(_), None) => unreachable!("the kind is checked"),
            }
            visit(&tokens)
        })?;
        ensure!(
            fingerprint == self.fingerprint,
            "it changed while it was read"
        );
        Ok(())
    }

    /// Visits the documents, blocks or conversations of the text.
    fn for_each_item(
        &self,
        progress: &dyn Fn(u64),
        mut visit: impl FnMut(Item) -> Result<()>,
    ) -> Result<Fingerprint> {
        let end = match self.kind {
            CorpusKind::Continuous => BlockEnd::Character,
            _ => BlockEnd::Line,
        };
        let mut hasher = Hasher::default();
        let is_first_line = Cell::new(true);
        let check_first_line = |line: &str| match is_first_line.take() {
            true if is_like_conversation(line) => {
                bail!("the lines are conversations; train on them with --chat")
            }
            _ => Ok(()),
        };
        for_each_block(&self.text, end, progress, |block, lines_before| {
            hasher.add(block.as_bytes());
            match self.kind {
                CorpusKind::Continuous => {
                    if let Some((_, line)) = lines(block).next() {
                        check_first_line(line)?;
                    }
                    visit(Item::Block(block))
                }
                CorpusKind::Documents => lines(block).try_for_each(|(_, line)| {
                    check_first_line(line)?;
                    visit(Item::Document(line))
                }),
                CorpusKind::Conversations => lines(block).try_for_each(|(number, line)| {
                    let messages = parse_numbered(line, lines_before + number)?;
                    visit(Item::Conversation(messages))
                }),
            }
        })?;
        Ok(hasher.finish())
    }
}

/// A part of a text that is encoded at once.
enum Item<'a> {
    Document(&'a str),
    Block(&'a str),
    Conversation(Vec<Message>),
}

/// The counts and characters of a text.
#[derive(Default)]
struct Survey {
    items: u64,
    /// Characters of a continuous text.
    characters: u64,
    /// A continuous text has more than white space.
    has_text: bool,
    has_system: bool,
    known: super::char_table::CharSet,
}

impl Survey {
    fn add(&mut self, item: Item) {
        self.items += 1;
        match item {
            Item::Document(text) => self.known.add(text),
            Item::Block(text) => {
                self.known.add(text);
                self.characters += text.chars().count() as u64;
                self.has_text |= !text.trim().is_empty();
            }
            Item::Conversation(messages) => {
                for message in messages {
                    self.known.add(&message.content);
                    self.has_system |= message.role == Role::System;
                }
            }
        }
    }
}

/// Iterates over the non-empty lines, trimmed, with their numbers from 1.
fn lines(block: &str) -> impl Iterator<Item = (u64, &str)> {
    let lines = (1..).zip(block.split('\n').map(str::trim));
    lines.filter(|(_, line)| !line.is_empty())
}

/// Parses a line as a conversation with messages. Errors name the line's number.
fn parse_numbered(line: &str, number: u64) -> Result<Vec<Message>> {
    let messages = parse_conversation(line).with_context(|| {
        format!(
            "line {number} is not a conversation, [{{\"role\": \"user\", \"content\": \
            \"…\"}}, …] or {{\"messages\": […]}} (for plain text, leave out --chat)"
        )
    })?;
    ensure!(
        !messages.is_empty(),
        "line {number} is a conversation without messages"
    );
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(corpus: &Corpus) -> Vec<String> {
        let mut texts = Vec::new();
        let visit = |text: &str| {
            texts.push(text.to_string());
            Ok(())
        };
        corpus.for_each_text(visit).unwrap();
        texts
    }

    #[test]
    fn documents_are_trimmed_non_empty_lines() {
        let corpus = Corpus::documents(" emma \n\n\t\nava").unwrap();
        assert_eq!((corpus.len(), corpus.characters()), (2, "aemv"));
        assert_eq!(texts(&corpus), ["emma", "ava"]);
        assert!(Corpus::documents(" \n\n").is_err());
        let conversation = "[{\"role\": \"user\", \"content\": \"hi\"}]";
        let error = Corpus::documents(conversation).err().unwrap().to_string();
        assert!(error.contains("--chat"), "{error}");
    }

    #[test]
    fn continuous_text_keeps_white_space() {
        let corpus = Corpus::continuous(" ab \n\nc\n").unwrap();
        assert_eq!(corpus.len(), 8);
        let mut encoded = Vec::new();
        let visit = |tokens: &[u32]| {
            encoded.extend_from_slice(tokens);
            Ok(())
        };
        let tokenizer = corpus.tokenizer();
        corpus.for_each_encoded(&tokenizer, &|_| {}, visit).unwrap();
        assert_eq!(encoded, [1, 2, 3, 1, 0, 0, 4, 0]);
        assert!(Corpus::continuous("a").is_err() && Corpus::continuous(" \n ").is_err());
    }

    #[test]
    fn conversation_error_names_the_line() {
        let parse = |text| Corpus::new(text, CorpusKind::Conversations).err().unwrap();
        let error = parse("\n[{\"role\": \"user\", \"content\": \"hi\"}]\nhello\n");
        assert!(
            format!("{error:#}").starts_with("line 3 is not a conversation"),
            "{error:#}"
        );
        parse("[]");
    }

    #[test]
    fn text_of_many_blocks_is_read_whole() {
        let text: String = (0..400_000).map(|i| format!(" línea {i} \n")).collect();
        let corpus = Corpus::documents(&text).unwrap();
        assert_eq!(
            (corpus.len(), corpus.characters()),
            (400_000, " 0123456789aelní")
        );
        assert_eq!(texts(&corpus)[123_456], "línea 123456");
        let corpus = Corpus::continuous(&text).unwrap();
        assert_eq!(corpus.len(), text.chars().count() as u64);
        assert!(texts(&corpus).concat() == text);
        assert_eq!(corpus.fingerprint().bytes, text.len() as u64);
    }

    #[test]
    fn file_changed_between_the_passes_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, "emma\nava\n").unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let text = ByteStore::File { file, len: 9 };
        let corpus = Corpus::read(text, CorpusKind::Documents, &|_| {}).unwrap();
        let encode = || corpus.for_each_encoded(&corpus.tokenizer(), &|_| {}, |_| Ok(()));
        encode().unwrap();
        std::fs::write(&path, "emma\neva\n").unwrap();
        let error = encode().unwrap_err().to_string();
        assert_eq!(error, "it changed while it was read");
    }
}
