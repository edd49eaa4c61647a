//! Characters to token ids and back.
//!
//! Ids 0…n-1 are the characters of the training text in code point order. A text model has one more
//! token, `bos`, that stands before and after each document; a chat model has `user`, `assistant`
//! and `end_turn` before `bos`.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Result, bail};

use super::{CorpusKind, Message, Role};

/// The names of a chat model's special tokens in meta.json, in the order of their ids.
pub const SPECIAL_TOKENS: [&str; 3] = ["user", "assistant", "end_turn"];

/// The ids of a chat model's special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatTokens {
    pub user: u32,
    pub assistant: u32,
    pub end_turn: u32,
}

impl ChatTokens {
    pub fn role(&self, role: Role) -> u32 {
        match role {
            Role::User => self.user,
            Role::Assistant => self.assistant,
        }
    }
}

/// The vocabulary of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenizer {
    chars: Vec<char>,
    ids: HashMap<char, u32>,
    kind: CorpusKind,
}

impl Tokenizer {
    /// A vocabulary of the given characters, in the given order. Errors where one stands twice.
    pub fn new(chars: Vec<char>, kind: CorpusKind) -> Result<Self> {
        let mut ids = HashMap::with_capacity(chars.len());
        for (id, &c) in chars.iter().enumerate() {
            if ids.insert(c, id as u32).is_some() {
                bail!("the character {c:?} stands twice in the vocabulary");
            }
        }
        Ok(Self { chars, ids, kind })
    }

    /// The vocabulary of a training text: all its characters, sorted by code point.
    pub fn from_texts<'a>(texts: impl Iterator<Item = &'a str>, kind: CorpusKind) -> Self {
        let chars: BTreeSet<char> = texts.flat_map(str::chars).collect();
        Self::new(chars.into_iter().collect(), kind).expect("a set holds each character once")
    }

    /// What kind of text the tokens make up.
    pub fn kind(&self) -> CorpusKind {
        self.kind
    }

    /// The characters, by id.
    pub fn chars(&self) -> &[char] {
        &self.chars
    }

    /// The number of tokens: the characters and the special ones.
    pub fn vocab_size(&self) -> usize {
        let special = match self.kind {
            CorpusKind::Conversations => SPECIAL_TOKENS.len(),
            CorpusKind::Documents | CorpusKind::Continuous => 0,
        };
        self.chars.len() + special + 1
    }

    /// The token that stands before and after each document. Always the last id.
    pub fn bos(&self) -> u32 {
        self.vocab_size() as u32 - 1
    }

    /// The special tokens of a chat model; none for a text model.
    pub fn chat_tokens(&self) -> Option<ChatTokens> {
        let n = self.chars.len() as u32;
        (self.kind == CorpusKind::Conversations).then_some(ChatTokens {
            user: n,
            assistant: n + 1,
            end_turn: n + 2,
        })
    }

    /// The character of an id; none for the special tokens.
    pub fn char_of(&self, id: u32) -> Option<char> {
        self.chars.get(id as usize).copied()
    }

    /// The ids of a text's characters, leaving out those that the vocabulary lacks.
    pub fn encode<'a>(&'a self, text: &'a str) -> impl Iterator<Item = u32> + 'a {
        text.chars().filter_map(|c| self.ids.get(&c).copied())
    }

    /// The characters of a text that the vocabulary lacks, each once, sorted.
    pub fn unknown_chars<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Vec<char> {
        let unknown: BTreeSet<char> = texts
            .flat_map(str::chars)
            .filter(|c| !self.ids.contains_key(c))
            .collect();
        unknown.into_iter().collect()
    }

    /// The token that a text of this model goes on from where nothing comes before it: `bos`, or,
    /// within a continuous text, a line break.
    pub fn start_token(&self) -> u32 {
        match (self.kind, self.ids.get(&'\n')) {
            (CorpusKind::Continuous, Some(&line_break)) => line_break,
            _ => self.bos(),
        }
    }

    /// Whether the vocabulary has all characters of a text.
    pub fn can_encode(&self, text: &str) -> bool {
        text.chars().all(|c| self.ids.contains_key(&c))
    }

    /// A line of a continuous text: the line break before it, its characters, and the line break
    /// after it. In a vocabulary without line breaks, `bos` and the characters.
    pub fn encode_line(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![self.start_token()];
        ids.extend(self.encode(text));
        ids.extend(self.encode("\n"));
        ids
    }

    /// `[bos, the characters, bos]`.
    pub fn encode_document(&self, text: &str) -> Vec<u32> {
        let bos = std::iter::once(self.bos());
        bos.clone().chain(self.encode(text)).chain(bos).collect()
    }

    /// `[role, the characters, end_turn]`.
    pub fn encode_turn(&self, tokens: ChatTokens, message: &Message) -> Vec<u32> {
        let mut turn = vec![tokens.role(message.role)];
        turn.extend(self.encode(&message.content));
        turn.push(tokens.end_turn);
        turn
    }

    /// `[bos]`, each message's turn, `[bos]`.
    pub fn encode_conversation(&self, tokens: ChatTokens, messages: &[Message]) -> Vec<u32> {
        let mut ids = vec![self.bos()];
        for message in messages {
            ids.extend(self.encode_turn(tokens, message));
        }
        ids.push(self.bos());
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_vocabulary_is_sorted_and_ends_with_bos() {
        let t = Tokenizer::from_texts(["héllo", "abba"].into_iter(), CorpusKind::Documents);
        assert_eq!(t.chars(), ['a', 'b', 'h', 'l', 'o', 'é']);
        assert_eq!((t.bos(), t.vocab_size(), t.chat_tokens()), (6, 7, None));
        assert_eq!(t.encode_document("hé"), [6, 2, 5, 6]);
        assert_eq!(t.unknown_chars(["xhx!"].into_iter()), ['!', 'x']);
    }

    #[test]
    fn a_chat_vocabulary_has_its_roles_before_bos() {
        let t = Tokenizer::from_texts(["ab"].into_iter(), CorpusKind::Conversations);
        let tokens = t.chat_tokens().unwrap();
        assert_eq!(
            (tokens.user, tokens.assistant, tokens.end_turn, t.bos()),
            (2, 3, 4, 5)
        );
        let messages = [
            Message::new(Role::User, "b?"),
            Message::new(Role::Assistant, "a"),
        ];
        // The unknown '?' is left out.
        assert_eq!(
            t.encode_conversation(tokens, &messages),
            [5, 2, 1, 4, 3, 0, 4, 5]
        );
    }

    #[test]
    fn a_character_that_stands_twice_is_refused() {
        assert!(
            Tokenizer::new(vec!['a', 'b', 'a'], CorpusKind::Documents)
                .unwrap_err()
                .to_string()
                .contains("'a'")
        );
    }
}
