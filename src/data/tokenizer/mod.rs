//! The tokenizer: characters or byte-level BPE, and special tokens.
//!
//! Ids 0…n-1 are the characters of the training text in code point order, or the tokens of a byte-level
//! BPE. A chat model's special tokens `user`, `assistant`, `system` (if its data has system messages)
//! and `end_turn` follow. The last id is `bos`, which delimits documents.

mod byte_level_bpe;
mod characters;
mod chat_tokens;
mod text_decoder;
mod token_bytes;
mod tokenizer_json;

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Result, ensure};

use self::byte_level_bpe::ByteLevelBpe;
use self::characters::Characters;
pub use self::chat_tokens::{ChatTokens, SPECIAL_TOKENS, SPECIAL_TOKENS_WITH_SYSTEM};
pub use self::text_decoder::TextDecoder;
use self::token_bytes::TokenBytes;
pub use self::tokenizer_json::TokenizerJson;
use super::corpus_kind::CorpusKind;
use super::message::{Message, Role};

/// The tokens of a model. A clone shares its vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    kind: CorpusKind,
    has_system: bool,
    /// Unknown characters have ids.
    keeps_unknown: bool,
}

/// The tokens of text.
#[derive(Clone, Debug, PartialEq)]
enum Vocabulary {
    Characters(Arc<Characters>),
    Bpe(Arc<ByteLevelBpe>),
}

impl Vocabulary {
    /// The bytes of each token.
    fn bytes(&self) -> &TokenBytes {
        match self {
            Vocabulary::Characters(characters) => characters.bytes(),
            Vocabulary::Bpe(bpe) => bpe.bytes(),
        }
    }
}

impl Tokenizer {
    fn with_vocabulary(vocabulary: Vocabulary, kind: CorpusKind) -> Self {
        Self {
            vocabulary,
            kind,
            has_system: false,
            keeps_unknown: false,
        }
    }

    /// Creates a vocabulary of characters in the order of their ids. Errors if one is repeated.
    pub fn new(chars: Vec<char>, kind: CorpusKind) -> Result<Self> {
        let characters = Arc::new(Characters::new(chars)?);
        Ok(Self::with_vocabulary(
            Vocabulary::Characters(characters),
            kind,
        ))
    }

    /// Creates the vocabulary of a training text: its characters, sorted by code point.
    pub fn from_texts<'a>(texts: impl Iterator<Item = &'a str>, kind: CorpusKind) -> Self {
        let characters = Arc::new(texts.flat_map(str::chars).collect());
        Self::with_vocabulary(Vocabulary::Characters(characters), kind)
    }

    /// Returns this tokenizer with a byte-level BPE learned from a training text, of `vocab_size` tokens
    /// with the special tokens. Errors if the text is too short for so many, or if a vocabulary of this
    /// size has no token for each byte.
    pub fn learn_bpe<'a>(
        &self,
        texts: impl Iterator<Item = &'a str>,
        vocab_size: usize,
    ) -> Result<Self> {
        let special = self.special_tokens().len() + 1;
        ensure!(
            vocab_size >= 256 + special,
            "--vocab-size must be at least {} for all bytes and {special} special tokens, got \
            {vocab_size}",
            256 + special
        );
        let bpe = Arc::new(ByteLevelBpe::learn(texts, vocab_size - special)?);
        let learned = bpe.bytes().len() + special;
        ensure!(
            learned == vocab_size,
            "--vocab-size must be at most {learned} for this text, got {vocab_size}: no other part \
            of a word occurs twice"
        );
        Ok(Self {
            vocabulary: Vocabulary::Bpe(bpe),
            ..self.clone()
        })
    }

    /// Creates the tokenizer of a byte-level BPE.
    pub fn from_json(json: TokenizerJson, kind: CorpusKind) -> Self {
        Self::with_vocabulary(Vocabulary::Bpe(Arc::new(json.bpe)), kind)
    }

    /// The content of tokenizer.json; `None` for a vocabulary of characters.
    pub fn to_json(&self) -> Option<serde_json::Value> {
        match &self.vocabulary {
            Vocabulary::Characters(_) => None,
            Vocabulary::Bpe(bpe) => Some(bpe.to_json(&self.added_tokens())),
        }
    }

    /// The ids and names of all special tokens.
    pub fn added_tokens(&self) -> Vec<(u32, String)> {
        let ids = self.text_tokens() as u32..self.vocab_size() as u32;
        ids.map(|id| (id, self.name_of(id))).collect()
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

    /// Returns this vocabulary with the characters and special tokens of `other`, and its kind. The order
    /// changes only with the characters. A byte-level BPE has all characters.
    pub fn extended_by(&self, other: &Self) -> Self {
        let vocabulary = match (&self.vocabulary, &other.vocabulary) {
            (Vocabulary::Characters(own), Vocabulary::Characters(other)) => {
                Vocabulary::Characters(Arc::new(own.extended_by(other)))
            }
            (vocabulary, _) => vocabulary.clone(),
        };
        let extended = Self::with_vocabulary(vocabulary, other.kind);
        match self.has_system || other.has_system {
            true => extended.with_system(),
            false => extended,
        }
    }

    /// Returns, for each token, the id of the same character or special token in `other`. Tokens of a
    /// byte-level BPE have an id in the same one only.
    pub fn ids_in(&self, other: &Self) -> Vec<Option<u32>> {
        let special = |name: &&str| {
            let index = other
                .special_tokens()
                .iter()
                .position(|known| known == name)?;
            Some((other.text_tokens() + index) as u32)
        };
        let text_tokens: Vec<Option<u32>> = match (&self.vocabulary, &other.vocabulary) {
            (Vocabulary::Characters(own), Vocabulary::Characters(other)) => {
                own.chars().iter().map(|&c| other.id(c)).collect()
            }
            (own, other) if own == other => (0..self.text_tokens() as u32).map(Some).collect(),
            _ => vec![None; self.text_tokens()],
        };
        let specials = self.special_tokens().iter().map(special);
        let all = text_tokens.into_iter().chain(specials);
        all.chain([Some(other.bos())]).collect()
    }

    /// The kind of corpus that the tokens encode.
    pub fn kind(&self) -> CorpusKind {
        self.kind
    }

    /// The characters, indexed by id; `None` for a byte-level BPE.
    pub fn chars(&self) -> Option<&[char]> {
        match &self.vocabulary {
            Vocabulary::Characters(characters) => Some(characters.chars()),
            Vocabulary::Bpe(_) => None,
        }
    }

    /// The number of tokens, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.text_tokens() + self.special_tokens().len() + 1
    }

    /// The number of tokens without the special ones: their ids come first.
    pub fn text_tokens(&self) -> usize {
        self.vocabulary.bytes().len()
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
        let n = self.text_tokens() as u32;
        (self.kind == CorpusKind::Conversations).then_some(ChatTokens {
            user: n,
            assistant: n + 1,
            system: self.has_system.then_some(n + 2),
            end_turn: n + 2 + u32::from(self.has_system),
        })
    }

    /// The bytes of a token; `None` for special tokens and unknown characters. Those of a character are
    /// its UTF-8.
    pub fn bytes_of(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes().get(id)
    }

    /// The character of an id that stands for an unknown one.
    pub fn unknown_char(&self, id: u32) -> Option<char> {
        id.checked_sub(self.vocab_size() as u32)
            .and_then(char::from_u32)
    }

    /// Decodes the text of tokens; special tokens are dropped. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes = tokens.iter().filter_map(|&id| self.bytes_of(id));
        decode_utf8_lossy(bytes.flatten().copied().collect())
    }

    /// Removes bytes from the end of tokens of text. Tokens of single bytes replace one of which a part
    /// remains.
    pub fn truncate(&self, tokens: &mut Vec<u32>, mut removed: usize) {
        while removed > 0
            && let Some(bytes) = tokens.pop().and_then(|id| self.bytes_of(id))
        {
            if let (Some(kept), Vocabulary::Bpe(bpe)) =
                (bytes.len().checked_sub(removed), &self.vocabulary)
            {
                tokens.extend(bytes[..kept].iter().map(|&byte| bpe.byte_token(byte)));
            }
            removed = removed.saturating_sub(bytes.len());
        }
    }

    /// Decodes the messages of a conversation: a role token starts each, text before the first is
    /// dropped. Empty for a model that has no role tokens.
    pub fn decode_conversation(&self, tokens: &[u32]) -> Vec<Message> {
        let mut messages: Vec<(Role, Vec<u8>)> = Vec::new();
        let Some(chat) = self.chat_tokens() else {
            return Vec::new();
        };
        for &id in tokens {
            if let Some(role) = chat.role_of(id) {
                messages.push((role, Vec::new()));
            } else if let (Some(bytes), Some((_, content))) =
                (self.bytes_of(id), messages.last_mut())
            {
                content.extend_from_slice(bytes);
            }
        }
        let message = |(role, content)| Message::new(role, decode_utf8_lossy(content));
        messages.into_iter().map(message).collect()
    }

    /// The text of an id, `bytes:` and their values if it is not UTF-8, or the name of a special token as
    /// `<bos>`.
    pub fn name_of(&self, id: u32) -> String {
        if let Some(bytes) = self.bytes_of(id) {
            let escaped = || bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            let text = str::from_utf8(bytes).map(str::to_string);
            return text.unwrap_or_else(|_| ["bytes:".to_string(), escaped()].concat());
        }
        let special = id as usize - self.text_tokens();
        match (self.unknown_char(id), self.special_tokens().get(special)) {
            (Some(c), _) => c.to_string(),
            (None, Some(name)) => format!("<{name}>"),
            (None, None) => "<bos>".to_string(),
        }
    }

    /// Encodes a text and drops unknown characters, unless they are to be kept.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the tokens of a text, as [`Self::encode`].
    fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        match &self.vocabulary {
            Vocabulary::Characters(characters) => {
                let unknown = self.keeps_unknown.then(|| self.vocab_size() as u32);
                ids.extend(text.chars().filter_map(|c| {
                    let id = characters.id(c);
                    id.or_else(|| Some(unknown? + u32::from(c)))
                }));
            }
            Vocabulary::Bpe(bpe) => bpe.encode_into(text, ids),
        }
    }

    /// Returns the distinct unknown characters of texts, sorted.
    pub fn unknown_chars<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Vec<char> {
        let Vocabulary::Characters(characters) = &self.vocabulary else {
            return Vec::new();
        };
        let unknown: BTreeSet<char> = texts
            .flat_map(str::chars)
            .filter(|&c| characters.id(c).is_none())
            .collect();
        unknown.into_iter().collect()
    }

    /// The token of a line break, if the vocabulary has one.
    fn line_break(&self) -> Option<u32> {
        match &self.vocabulary {
            Vocabulary::Characters(characters) => characters.id('\n'),
            Vocabulary::Bpe(bpe) => Some(bpe.byte_token(b'\n')),
        }
    }

    /// The token that generation and scoring start from: `bos`, or a line break in a model of a
    /// continuous text that has one.
    pub fn start_token(&self) -> u32 {
        match (self.kind, self.line_break()) {
            (CorpusKind::Continuous, Some(line_break)) => line_break,
            _ => self.bos(),
        }
    }

    /// Encodes a line of a continuous text with the line breaks around it. A vocabulary without line
    /// breaks gives `[bos, text…]`.
    pub fn encode_line(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![self.start_token()];
        self.encode_into(text, &mut ids);
        ids.extend(self.line_break());
        ids
    }

    /// Encodes a document: `[bos, text…, bos]`.
    pub fn encode_document(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![self.bos()];
        self.encode_into(text, &mut ids);
        ids.push(self.bos());
        ids
    }

    /// Encodes a message: `[role, text…, end_turn]`; empty if the model does not know the role.
    pub fn encode_turn(&self, tokens: ChatTokens, message: &Message) -> Vec<u32> {
        let Some(role) = tokens.role(message.role) else {
            return Vec::new();
        };
        let mut turn = vec![role];
        self.encode_into(&message.content, &mut turn);
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

/// Decodes UTF-8; other bytes become U+FFFD.
fn decode_utf8_lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
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
        assert_eq!(t.chars().unwrap(), ['a', 'b', 'h', 'l', 'o', 'é']);
        assert_eq!((t.bos(), t.vocab_size(), t.chat_tokens()), (6, 7, None));
        assert_eq!(t.encode_document("hé"), [6, 2, 5, 6]);
        assert_eq!(t.unknown_chars(["xhx!"].into_iter()), ['!', 'x']);
    }

    #[test]
    fn unknown_characters_have_ids_beyond_the_vocabulary_when_kept() {
        let t = Tokenizer::from_texts(["ab"].into_iter(), CorpusKind::Continuous).keeping_unknown();
        let encoded = t.encode_line("a#b\u{10ffff}");
        assert_eq!(encoded, [2, 0, 3 + 35, 1, 3 + 0x10ffff]);
        assert_eq!(t.unknown_char(encoded[3]), None);
        assert_eq!(t.unknown_char(encoded[2]), Some('#'));
        assert_eq!(t.name_of(encoded[4]), "\u{10ffff}");
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
            (Some(&['a', 'b', 'd'][..]), chat.kind())
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
