//! The character tokenizer.
//!
//! Ids 0…n-1 are the characters of the training text in code point order. A chat model's special
//! tokens `user`, `assistant`, `system` (if its data has system messages) and `end_turn` follow. The
//! last id is `bos`, which delimits documents.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Result, bail};

use super::corpus_kind::CorpusKind;
use super::message::{Message, Role};

/// A chat model's special tokens as meta.json names them, in the order of their ids.
pub const SPECIAL_TOKENS: [&str; 3] = ["user", "assistant", "end_turn"];

/// Those of a chat model with system messages.
pub const SPECIAL_TOKENS_WITH_SYSTEM: [&str; 4] = ["user", "assistant", "system", "end_turn"];

/// The ids of a chat model's special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatTokens {
    pub user: u32,
    pub assistant: u32,
    /// `None` if the model was trained without system messages.
    pub system: Option<u32>,
    pub end_turn: u32,
}

impl ChatTokens {
    /// Returns the token that starts a turn of this role, if the model knows it.
    pub fn role(&self, role: Role) -> Option<u32> {
        match role {
            Role::System => self.system,
            Role::User => Some(self.user),
            Role::Assistant => Some(self.assistant),
        }
    }

    /// Returns the role whose turns this token starts; `None` for other tokens.
    pub fn role_of(&self, token: u32) -> Option<Role> {
        let mut roles = [Role::System, Role::User, Role::Assistant].into_iter();
        roles.find(|&role| self.role(role) == Some(token))
    }
}

/// The vocabulary of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenizer {
    chars: Vec<char>,
    ids: HashMap<char, u32>,
    kind: CorpusKind,
    has_system: bool,
    /// Unknown characters have ids.
    keeps_unknown: bool,
}

impl Tokenizer {
    /// Creates a vocabulary of characters in the order of their ids. Errors if one is repeated.
    pub fn new(chars: Vec<char>, kind: CorpusKind) -> Result<Self> {
        let mut ids = HashMap::with_capacity(chars.len());
        for (id, &c) in chars.iter().enumerate() {
            if ids.insert(c, id as u32).is_some() {
                bail!("the vocabulary repeats the character {c:?}");
            }
        }
        Ok(Self {
            chars,
            ids,
            kind,
            has_system: false,
            keeps_unknown: false,
        })
    }

    /// Adds the special token of system messages to a chat model's vocabulary.
    pub fn with_system(self) -> Self {
        Self {
            has_system: self.kind == CorpusKind::Conversations,
            ..self
        }
    }

    /// Encodes an unknown character as the number of tokens plus its code point instead of dropping it.
    /// No model has these ids.
    pub fn keeping_unknown(self) -> Self {
        Self {
            keeps_unknown: true,
            ..self
        }
    }

    /// Creates the vocabulary of a training text: its characters, sorted by code point.
    pub fn from_texts<'a>(texts: impl Iterator<Item = &'a str>, kind: CorpusKind) -> Self {
        let chars: BTreeSet<char> = texts.flat_map(str::chars).collect();
        Self::new(chars.into_iter().collect(), kind).expect("a set has no repeated characters")
    }

    /// Returns this vocabulary with the characters and special tokens of `other`, and its kind. The order
    /// changes only with the characters.
    pub fn extended_by(&self, other: &Self) -> Self {
        let mut chars = self.chars.clone();
        chars.extend(other.chars.iter().filter(|c| !self.ids.contains_key(c)));
        if chars.len() > self.chars.len() {
            chars.sort_unstable();
        }
        let extended = Self::new(chars, other.kind).expect("each character is added once");
        match self.has_system || other.has_system {
            true => extended.with_system(),
            false => extended,
        }
    }

    /// Returns, for each token, the id of the same character or special token in `other`.
    pub fn ids_in(&self, other: &Self) -> Vec<Option<u32>> {
        let special = |name: &&str| {
            let index = other
                .special_tokens()
                .iter()
                .position(|known| known == name)?;
            Some((other.chars.len() + index) as u32)
        };
        let chars = self.chars.iter().map(|c| other.ids.get(c).copied());
        let specials = self.special_tokens().iter().map(special);
        chars.chain(specials).chain([Some(other.bos())]).collect()
    }

    /// The kind of corpus that the tokens encode.
    pub fn kind(&self) -> CorpusKind {
        self.kind
    }

    /// The characters, indexed by id.
    pub fn chars(&self) -> &[char] {
        &self.chars
    }

    /// The number of tokens, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.chars.len() + self.special_tokens().len() + 1
    }

    /// The names of the special tokens before `bos`, in the order of their ids.
    pub fn special_tokens(&self) -> &'static [&'static str] {
        match (self.kind, self.has_system) {
            (CorpusKind::Documents | CorpusKind::Continuous, _) => &[],
            (CorpusKind::Conversations, false) => &SPECIAL_TOKENS,
            (CorpusKind::Conversations, true) => &SPECIAL_TOKENS_WITH_SYSTEM,
        }
    }

    /// The token before and after each document: the last id.
    pub fn bos(&self) -> u32 {
        self.vocab_size() as u32 - 1
    }

    /// The special tokens of a chat model; `None` for other models.
    pub fn chat_tokens(&self) -> Option<ChatTokens> {
        let n = self.chars.len() as u32;
        (self.kind == CorpusKind::Conversations).then_some(ChatTokens {
            user: n,
            assistant: n + 1,
            system: self.has_system.then_some(n + 2),
            end_turn: n + 2 + u32::from(self.has_system),
        })
    }

    /// Decodes the characters among tokens; special tokens are dropped.
    pub fn decode(&self, tokens: &[u32]) -> String {
        tokens.iter().filter_map(|&id| self.char_of(id)).collect()
    }

    /// Decodes the messages of a conversation: a role token starts each, characters before the first
    /// are dropped. Empty for a model that has no role tokens.
    pub fn decode_conversation(&self, tokens: &[u32]) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        let Some(chat) = self.chat_tokens() else {
            return messages;
        };
        for &id in tokens {
            if let Some(role) = chat.role_of(id) {
                messages.push(Message::new(role, ""));
            } else if let (Some(c), Some(message)) = (self.char_of(id), messages.last_mut()) {
                message.content.push(c);
            }
        }
        messages
    }

    /// The character of an id, or the name of a special token as `<bos>`.
    pub fn name_of(&self, id: u32) -> String {
        let special = (id as usize).checked_sub(self.chars.len());
        let name = special.and_then(|index| self.special_tokens().get(index));
        match (self.char_of(id), name) {
            (Some(c), _) => c.to_string(),
            (None, Some(name)) => format!("<{name}>"),
            (None, _) => "<bos>".to_string(),
        }
    }

    /// The character of an id; `None` for special tokens.
    pub fn char_of(&self, id: u32) -> Option<char> {
        match id.checked_sub(self.vocab_size() as u32) {
            Some(code_point) => char::from_u32(code_point),
            None => self.chars.get(id as usize).copied(),
        }
    }

    /// Encodes a text and drops unknown characters, unless they are to be kept.
    pub fn encode<'a>(&'a self, text: &'a str) -> impl Iterator<Item = u32> + 'a {
        let unknown = self.keeps_unknown.then(|| self.vocab_size() as u32);
        text.chars().filter_map(move |c| {
            let id = self.ids.get(&c).copied();
            id.or_else(|| Some(unknown? + u32::from(c)))
        })
    }

    /// Returns the distinct unknown characters of texts, sorted.
    pub fn unknown_chars<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Vec<char> {
        let unknown: BTreeSet<char> = texts
            .flat_map(str::chars)
            .filter(|c| !self.ids.contains_key(c))
            .collect();
        unknown.into_iter().collect()
    }

    /// The token that generation and scoring start from: `bos`, or a line break in a model of a
    /// continuous text that has one.
    pub fn start_token(&self) -> u32 {
        match (self.kind, self.ids.get(&'\n')) {
            (CorpusKind::Continuous, Some(&line_break)) => line_break,
            _ => self.bos(),
        }
    }

    /// Returns whether the vocabulary has every character of a text.
    pub fn can_encode(&self, text: &str) -> bool {
        text.chars().all(|c| self.ids.contains_key(&c))
    }

    /// Encodes a line of a continuous text with the line breaks around it. A vocabulary without line
    /// breaks gives `[bos, characters…]`.
    pub fn encode_line(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![self.start_token()];
        ids.extend(self.encode(text));
        ids.extend(self.ids.get(&'\n'));
        ids
    }

    /// Encodes a document: `[bos, characters…, bos]`.
    pub fn encode_document(&self, text: &str) -> Vec<u32> {
        let bos = std::iter::once(self.bos());
        bos.clone().chain(self.encode(text)).chain(bos).collect()
    }

    /// Encodes a message: `[role, characters…, end_turn]`; empty if the model does not know the role.
    pub fn encode_turn(&self, tokens: ChatTokens, message: &Message) -> Vec<u32> {
        let Some(role) = tokens.role(message.role) else {
            return Vec::new();
        };
        let mut turn = vec![role];
        turn.extend(self.encode(&message.content));
        turn.push(tokens.end_turn);
        turn
    }

    /// Encodes a conversation: `[bos, turns…, bos]`.
    pub fn encode_conversation(&self, tokens: ChatTokens, messages: &[Message]) -> Vec<u32> {
        let mut ids = vec![self.bos()];
        for message in messages {
            ids.extend(self.encode_turn(tokens, message));
        }
        ids.push(self.bos());
        ids
    }
}

/// Quotes up to 20 characters for an error message, and counts the rest.
pub fn quote_chars(chars: &[char]) -> String {
    let mut quoted: Vec<String> = chars.iter().take(20).map(|c| format!("{c:?}")).collect();
    if chars.len() > quoted.len() {
        quoted.push(format!("and {} more", chars.len() - quoted.len()));
    }
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_vocabulary_is_sorted_and_ends_with_bos() {
        let t = Tokenizer::from_texts(["héllo", "abba"].into_iter(), CorpusKind::Documents);
        assert_eq!(t.chars(), ['a', 'b', 'h', 'l', 'o', 'é']);
        assert_eq!((t.bos(), t.vocab_size(), t.chat_tokens()), (6, 7, None));
        assert_eq!(t.encode_document("hé"), [6, 2, 5, 6]);
        assert_eq!(t.unknown_chars(["xhx!"].into_iter()), ['!', 'x']);
    }

    #[test]
    fn unknown_characters_have_ids_beyond_the_vocabulary_when_kept() {
        let t = Tokenizer::from_texts(["ab"].into_iter(), CorpusKind::Continuous).keeping_unknown();
        let encoded = t.encode_line("a#b\u{10ffff}");
        assert_eq!(encoded, [2, 0, 3 + 35, 1, 3 + 0x10ffff]);
        assert_eq!(t.decode(&encoded), "a#b\u{10ffff}");
    }

    #[test]
    fn chat_vocabulary_has_special_tokens_before_bos() {
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
        // The unknown '?' is dropped.
        assert_eq!(
            t.encode_conversation(tokens, &messages),
            [5, 2, 1, 4, 3, 0, 4, 5]
        );
        let decoded = t.decode_conversation(&[5, 2, 1, 4, 3, 0, 4, 5]);
        assert_eq!(
            decoded,
            [
                Message::new(Role::User, "b"),
                Message::new(Role::Assistant, "a"),
            ]
        );
    }

    #[test]
    fn system_token_stands_before_end_turn() {
        let t = Tokenizer::from_texts(["ab"].into_iter(), CorpusKind::Conversations);
        let messages = [
            Message::new(Role::System, "b"),
            Message::new(Role::User, "a"),
        ];
        let tokens = t.chat_tokens().unwrap();
        assert_eq!(t.encode_conversation(tokens, &messages), [5, 2, 0, 4, 5]);
        let t = t.with_system();
        let tokens = t.chat_tokens().unwrap();
        assert_eq!(
            (t.bos(), t.special_tokens()),
            (6, &SPECIAL_TOKENS_WITH_SYSTEM[..])
        );
        let encoded = t.encode_conversation(tokens, &messages);
        assert_eq!(encoded, [6, 4, 1, 5, 2, 0, 5, 6]);
        assert_eq!(t.decode_conversation(&encoded), messages);
    }

    #[test]
    fn extended_vocabulary_keeps_the_known_tokens() {
        let text = Tokenizer::from_texts(["bd"].into_iter(), CorpusKind::Documents);
        let chat = Tokenizer::from_texts(["ab"].into_iter(), CorpusKind::Conversations);
        let extended = text.extended_by(&chat);
        assert_eq!(
            (extended.chars(), extended.kind()),
            (&['a', 'b', 'd'][..], chat.kind())
        );
        let old = [None, Some(0), Some(1), None, None, None, Some(2)];
        assert_eq!(extended.ids_in(&text), old);
        let with_system = extended.extended_by(&chat.clone().with_system());
        let old = [0, 1, 2, 3, 4].map(Some);
        assert_eq!(with_system.ids_in(&extended)[..5], old);
        assert_eq!(with_system.ids_in(&extended)[5..], [None, Some(5), Some(6)]);
        assert_eq!(text.extended_by(&text), text);
    }

    #[test]
    fn repeated_characters_are_rejected() {
        assert!(
            Tokenizer::new(vec!['a', 'b', 'a'], CorpusKind::Documents)
                .unwrap_err()
                .to_string()
                .contains("'a'")
        );
    }
}
