//! What a model is trained on: documents, one a line; conversations, one a line as JSON; or one
//! continuous text.

use anyhow::{Context, Result, anyhow, bail};

use super::{Message, Tokenizer, parse_conversation};

/// The kinds of text that there are models of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorpusKind {
    /// A document a line.
    Documents,
    /// One text without a beginning or an end that would matter.
    Continuous,
    /// A conversation a line.
    Conversations,
}

/// A training text, taken apart.
pub enum Corpus<'a> {
    Documents(Vec<&'a str>),
    Continuous(&'a str),
    Conversations(Vec<Vec<Message>>),
}

impl<'a> Corpus<'a> {
    /// Takes a text of the given kind apart. Errors where it is empty or of another kind.
    pub fn new(text: &'a str, kind: CorpusKind) -> Result<Self> {
        match kind {
            CorpusKind::Documents => Self::documents(text),
            CorpusKind::Continuous => Self::continuous(text),
            CorpusKind::Conversations => Self::conversations(text),
        }
    }

    /// Documents are the lines of `text`, trimmed, less the empty ones. Errors where there is none,
    /// and where they are conversations, which are hardly meant to be learned as JSON.
    pub fn documents(text: &'a str) -> Result<Self> {
        let documents: Vec<&str> = lines(text).map(|(_, line)| line).collect();
        let Some(first) = documents.first() else {
            bail!("there is no text to train on, only empty lines");
        };
        if first.starts_with("[{") && parse_conversation(first).is_ok() {
            bail!("these are conversations, a line each: train on them with --chat");
        }
        Ok(Corpus::Documents(documents))
    }

    /// All of `text`, as it is. Errors where it has no two characters.
    pub fn continuous(text: &'a str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() || text.chars().nth(1).is_none() {
            bail!("there is no text to train on");
        }
        Ok(Corpus::Continuous(text))
    }

    /// Conversations are the non-empty lines of `text`, as JSON. Errors name the line.
    pub fn conversations(text: &str) -> Result<Self> {
        let conversations = lines(text)
            .map(|(number, line)| {
                let messages = parse_conversation(line).with_context(|| {
                    format!(
                        "line {number} is not a conversation, [{{\"role\": \"user\", \
                        \"content\": \"…\"}}, …] (plain text is trained on without --chat)"
                    )
                })?;
                if messages.is_empty() {
                    bail!("line {number} is a conversation without messages");
                }
                Ok(messages)
            })
            .collect::<Result<Vec<_>>>()?;
        if conversations.is_empty() {
            bail!("there is no conversation to train on, only empty lines");
        }
        Ok(Corpus::Conversations(conversations))
    }

    /// How many documents, characters or conversations there are.
    #[allow(clippy::len_without_is_empty)] // a corpus is never empty
    pub fn len(&self) -> usize {
        match self {
            Corpus::Documents(documents) => documents.len(),
            Corpus::Continuous(text) => text.chars().count(),
            Corpus::Conversations(conversations) => conversations.len(),
        }
    }

    /// All the text that the model is to learn the characters of.
    pub fn texts(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Corpus::Documents(documents) => Box::new(documents.iter().copied()),
            Corpus::Continuous(text) => Box::new(std::iter::once(*text)),
            Corpus::Conversations(conversations) => Box::new(
                conversations
                    .iter()
                    .flatten()
                    .map(|message| message.content.as_str()),
            ),
        }
    }

    pub fn kind(&self) -> CorpusKind {
        match self {
            Corpus::Documents(_) => CorpusKind::Documents,
            Corpus::Continuous(_) => CorpusKind::Continuous,
            Corpus::Conversations(_) => CorpusKind::Conversations,
        }
    }

    /// The vocabulary of this text.
    pub fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_texts(self.texts(), self.kind())
    }

    /// Calls `visit` with each document's tokens, a continuous text being one. Errors where
    /// `tokenizer` is of another kind.
    pub fn for_each(&self, tokenizer: &Tokenizer, mut visit: impl FnMut(Vec<u32>)) -> Result<()> {
        match (self, tokenizer.kind()) {
            (Corpus::Documents(documents), CorpusKind::Documents) => {
                documents
                    .iter()
                    .for_each(|text| visit(tokenizer.encode_document(text)));
            }
            (Corpus::Continuous(text), CorpusKind::Continuous) => {
                visit(tokenizer.encode(text).collect())
            }
            (Corpus::Conversations(conversations), CorpusKind::Conversations) => {
                let chat = tokenizer.chat_tokens().expect("its kind has them");
                conversations
                    .iter()
                    .for_each(|messages| visit(tokenizer.encode_conversation(chat, messages)));
            }
            (_, CorpusKind::Documents) => bail!("this model is trained on documents, a line each"),
            (_, CorpusKind::Continuous) => bail!("this model is trained on one continuous text"),
            (_, CorpusKind::Conversations) => bail!("this model is trained on conversations"),
        }
        Ok(())
    }
}

/// The non-empty lines, trimmed, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .map(str::trim)
        .enumerate()
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.is_empty())
}

/// Bytes as text. Errors where they are not UTF-8, or hold a NUL: such a file is no text, and `-0`
/// could not tell its samples apart.
pub fn decode_utf8(bytes: Vec<u8>) -> Result<String> {
    let line = |at: usize, bytes: &[u8]| 1 + bytes[..at].iter().filter(|&&b| b == b'\n').count();
    if let Some(at) = bytes.iter().position(|&b| b == 0) {
        bail!(
            "line {} holds a NUL byte, so this is not text",
            line(at, &bytes)
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        anyhow!("line {} is not UTF-8 text", line(valid, error.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_the_non_empty_lines_trimmed() {
        let Corpus::Documents(documents) =
            Corpus::documents("\u{feff} emma \r\n\n\t\nava").unwrap()
        else {
            panic!("not documents");
        };
        assert_eq!(documents, ["emma", "ava"]);
        assert!(Corpus::documents(" \n\n").is_err());
        let conversation = "[{\"role\": \"user\", \"content\": \"hi\"}]";
        let error = Corpus::documents(conversation).err().unwrap().to_string();
        assert!(error.contains("--chat"), "{error}");
    }

    #[test]
    fn a_continuous_text_is_kept_as_it_is() {
        let corpus = Corpus::continuous("\u{feff} ab \n\nc\n").unwrap();
        assert_eq!(corpus.len(), 8);
        let mut tokens = Vec::new();
        corpus
            .for_each(&corpus.tokenizer(), |t| tokens = t)
            .unwrap();
        assert_eq!(tokens, [1, 2, 3, 1, 0, 0, 4, 0]);
        assert!(Corpus::continuous("a").is_err() && Corpus::continuous(" \n ").is_err());
    }

    #[test]
    fn a_wrong_conversation_is_named_by_its_line() {
        let text = "\n[{\"role\": \"user\", \"content\": \"hi\"}]\nhello\n";
        let error = Corpus::conversations(text).err().unwrap();
        assert!(
            format!("{error:#}").starts_with("line 3 is not a conversation"),
            "{error:#}"
        );
        assert!(Corpus::conversations("[]").is_err());
    }

    #[test]
    fn text_that_is_not_utf8_is_named_by_its_line() {
        let error = decode_utf8(b"ab\ncd\n\xff\n".to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "line 3 is not UTF-8 text");
    }
}
