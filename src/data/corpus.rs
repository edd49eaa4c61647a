//! A training text, split into documents or conversations.

use anyhow::{Context, Result, bail};

use super::corpus_kind::CorpusKind;
use super::message::{Message, Role, is_like_conversation, parse_conversation};
use super::tokenizer::Tokenizer;

/// A training text.
pub enum Corpus<'a> {
    Documents(Vec<&'a str>),
    Continuous(&'a str),
    Conversations(Vec<Vec<Message>>),
}

impl<'a> Corpus<'a> {
    /// Parses a text of the given kind. Errors if it is empty or of another kind.
    pub fn new(text: &'a str, kind: CorpusKind) -> Result<Self> {
        match kind {
            CorpusKind::Documents => Self::documents(text),
            CorpusKind::Continuous => Self::continuous(text),
            CorpusKind::Conversations => Ok(Corpus::Conversations(parse_conversations(text)?)),
        }
    }

    /// Takes each non-empty line as a document, trimmed. Errors if there is none, or if the lines are
    /// conversations in JSON.
    pub fn documents(text: &'a str) -> Result<Self> {
        let documents: Vec<&str> = numbered_lines(text).map(|(_, line)| line).collect();
        if documents.is_empty() {
            bail!("there is no text to train on, only empty lines");
        }
        reject_conversations(text)?;
        Ok(Corpus::Documents(documents))
    }

    /// Takes all of `text`, white space included. Errors if it has fewer than two characters, or if
    /// its lines are conversations in JSON.
    pub fn continuous(text: &'a str) -> Result<Self> {
        reject_conversations(text)?;
        if text.trim().is_empty() || text.chars().nth(1).is_none() {
            bail!("there is no text to train on");
        }
        Ok(Corpus::Continuous(text))
    }

    /// The number of documents, characters or conversations.
    #[allow(clippy::len_without_is_empty)] // a corpus is never empty
    pub fn len(&self) -> usize {
        match self {
            Corpus::Documents(documents) => documents.len(),
            Corpus::Continuous(text) => text.chars().count(),
            Corpus::Conversations(conversations) => conversations.len(),
        }
    }

    /// Iterates over the strings that the vocabulary is built from.
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

    /// Creates the tokenizer of this text.
    pub fn tokenizer(&self) -> Tokenizer {
        let tokenizer = Tokenizer::from_texts(self.texts(), self.kind());
        match self.has_system() {
            true => tokenizer.with_system(),
            false => tokenizer,
        }
    }

    /// Returns whether a conversation has a system message.
    pub fn has_system(&self) -> bool {
        let Corpus::Conversations(conversations) = self else {
            return false;
        };
        let mut messages = conversations.iter().flatten();
        messages.any(|message| message.role == Role::System)
    }

    /// Visits the tokens of each document; a continuous text is one document. Errors if the
    /// tokenizer is of another kind.
    pub fn for_each(&self, tokenizer: &Tokenizer, mut visit: impl FnMut(Vec<u32>)) -> Result<()> {
        match (self, tokenizer.kind()) {
            (Corpus::Documents(documents), CorpusKind::Documents) => {
                documents
                    .iter()
                    .for_each(|text| visit(tokenizer.encode_document(text)));
            }
            (Corpus::Continuous(text), CorpusKind::Continuous) => {
                visit(tokenizer.encode(text));
            }
            (Corpus::Conversations(conversations), CorpusKind::Conversations) => {
                let chat = tokenizer.chat_tokens().expect("the kind is checked");
                conversations
                    .iter()
                    .for_each(|messages| visit(tokenizer.encode_conversation(chat, messages)));
            }
            (_, CorpusKind::Documents) => bail!("this model is trained on documents, one per line"),
            (_, CorpusKind::Continuous) => bail!("this model is trained on one continuous text"),
            (_, CorpusKind::Conversations) => bail!("this model is trained on conversations"),
        }
        Ok(())
    }
}

/// Errors if the first line is a conversation as JSON.
fn reject_conversations(text: &str) -> Result<()> {
    match numbered_lines(text).next() {
        Some((_, line)) if is_like_conversation(line) => {
            bail!("the lines are conversations; train on them with --chat")
        }
        _ => Ok(()),
    }
}

/// Parses conversations as JSON, one per non-empty line. Errors name the line.
pub fn parse_conversations(text: &str) -> Result<Vec<Vec<Message>>> {
    let parse = |(number, line)| {
        let messages = parse_conversation(line).with_context(|| {
            format!(
                "line {number} is not a conversation, [{{\"role\": \"user\", \"content\": \
                \"…\"}}, …] or {{\"messages\": […]}} (for plain text, leave out --chat)"
            )
        })?;
        if messages.is_empty() {
            bail!("line {number} is a conversation without messages");
        }
        Ok(messages)
    };
    let conversations = numbered_lines(text)
        .map(parse)
        .collect::<Result<Vec<_>>>()?;
    if conversations.is_empty() {
        bail!("there is no conversation to train on, only empty lines");
    }
    Ok(conversations)
}

/// Iterates over the non-empty lines, trimmed, with their numbers from 1.
fn numbered_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_trimmed_non_empty_lines() {
        let Corpus::Documents(documents) = Corpus::documents(" emma \n\n\t\nava").unwrap() else {
            panic!("not documents");
        };
        assert_eq!(documents, ["emma", "ava"]);
        assert!(Corpus::documents(" \n\n").is_err());
        let conversation = "[{\"role\": \"user\", \"content\": \"hi\"}]";
        let error = Corpus::documents(conversation).err().unwrap().to_string();
        assert!(error.contains("--chat"), "{error}");
    }

    #[test]
    fn continuous_text_keeps_white_space() {
        let corpus = Corpus::continuous(" ab \n\nc\n").unwrap();
        assert_eq!(corpus.len(), 8);
        let mut tokens = Vec::new();
        corpus
            .for_each(&corpus.tokenizer(), |t| tokens = t)
            .unwrap();
        assert_eq!(tokens, [1, 2, 3, 1, 0, 0, 4, 0]);
        assert!(Corpus::continuous("a").is_err() && Corpus::continuous(" \n ").is_err());
    }

    #[test]
    fn conversation_error_names_the_line() {
        let text = "\n[{\"role\": \"user\", \"content\": \"hi\"}]\nhello\n";
        let error = parse_conversations(text).err().unwrap();
        assert!(
            format!("{error:#}").starts_with("line 3 is not a conversation"),
            "{error:#}"
        );
        assert!(parse_conversations("[]").is_err());
    }
}
