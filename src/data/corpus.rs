//! What a model is trained on: documents, one a line, or conversations, one a line as JSON.

use anyhow::{Context, Result, bail};

use super::{Message, Tokenizer, parse_conversation};

/// A training text, taken apart.
pub enum Corpus<'a> {
    Documents(Vec<&'a str>),
    Conversations(Vec<Vec<Message>>),
}

impl<'a> Corpus<'a> {
    /// Documents are the lines of `text`, trimmed, less the empty ones. Errors where there is none.
    pub fn documents(text: &'a str) -> Result<Self> {
        let documents: Vec<&str> = lines(text).map(|(_, line)| line).collect();
        if documents.is_empty() {
            bail!("there is no text to train on, only empty lines");
        }
        Ok(Corpus::Documents(documents))
    }

    /// Conversations are the non-empty lines of `text`, as JSON. Errors name the line.
    pub fn conversations(text: &str) -> Result<Self> {
        let conversations = lines(text)
            .map(|(number, line)| {
                let messages = parse_conversation(line).with_context(|| {
                    format!(
                        "line {number} is not a conversation, [{{\"role\": \"user\", \
                    \"content\": \"…\"}}, …]"
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

    /// How many documents or conversations there are.
    #[allow(clippy::len_without_is_empty)] // a corpus is never empty
    pub fn len(&self) -> usize {
        match self {
            Corpus::Documents(documents) => documents.len(),
            Corpus::Conversations(conversations) => conversations.len(),
        }
    }

    /// All the text that the model is to learn the characters of.
    pub fn texts(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Corpus::Documents(documents) => Box::new(documents.iter().copied()),
            Corpus::Conversations(conversations) => Box::new(
                conversations
                    .iter()
                    .flatten()
                    .map(|message| message.content.as_str()),
            ),
        }
    }

    /// The vocabulary of this text.
    pub fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_texts(self.texts(), matches!(self, Corpus::Conversations(_)))
    }

    /// Calls `visit` with each document's tokens. Errors where `tokenizer` is of the other kind.
    pub fn for_each(&self, tokenizer: &Tokenizer, mut visit: impl FnMut(Vec<u32>)) -> Result<()> {
        match (self, tokenizer.chat_tokens()) {
            (Corpus::Documents(documents), None) => {
                documents
                    .iter()
                    .for_each(|text| visit(tokenizer.document(text)));
            }
            (Corpus::Conversations(conversations), Some(chat)) => {
                conversations
                    .iter()
                    .for_each(|messages| visit(tokenizer.conversation(chat, messages)));
            }
            (Corpus::Documents(_), Some(_)) => {
                bail!("a chat model is trained on conversations, not on text")
            }
            (Corpus::Conversations(_), None) => {
                bail!("a text model is trained on text, not on conversations")
            }
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

/// Bytes as text. Errors name the line of the first byte that is not UTF-8.
pub fn decode_utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        anyhow::anyhow!("line {line} is not UTF-8 text")
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
