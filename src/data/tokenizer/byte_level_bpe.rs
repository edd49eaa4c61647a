//! A vocabulary of byte-level BPE: GPT-2's, with Hugging Face's library.
//!
//! Each byte is a token, so that every text can be encoded. A token is written with one character per
//! byte, as in GPT-2.

use std::array;
use std::collections::HashMap;
use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow, ensure};
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::{Anchored, Input};
use serde_json::{Value, json};
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, BpeTrainer, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::token_bytes::TokenBytes;

/// A learned token has fewer bytes, which bounds tokenizer.json where a text repeats itself without
/// spaces.
const MAX_TOKEN_BYTES: usize = 24;

/// The minimum number of times that a pair of tokens occurs to become a token.
const MIN_FREQUENCY: u64 = 2;

/// Tokens and merges.
#[derive(Debug, PartialEq)]
pub struct ByteLevelBpe {
    bpe: BPE,
    bytes: TokenBytes,
    alphabet: [char; 256],
    /// The token of each byte.
    byte_tokens: Vec<u32>,
}

impl ByteLevelBpe {
    /// Learns `size` tokens from texts: all bytes, then the most frequent pair of tokens, again and
    /// again. Texts with fewer pairs that occur twice give fewer.
    pub fn learn<'a>(texts: impl Iterator<Item = &'a str>, size: usize) -> Result<Self> {
        let trainer: BpeTrainer = BpeTrainerBuilder::new()
            .vocab_size(size)
            .min_frequency(MIN_FREQUENCY)
            .max_token_length(Some(MAX_TOKEN_BYTES))
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .show_progress(false)
            .build();
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for word in texts.flat_map(words) {
            *counts.entry(word).or_default() += 1;
        }
        let alphabet = byte_alphabet();
        let counts = counts.into_iter();
        let counts = counts.map(|(word, count)| (spell(word, &alphabet).into(), count));
        let mut bpe = BPE::default();
        trainer
            .do_train(&counts.collect(), &mut bpe)
            .map_err(|error| anyhow!("cannot learn a vocabulary: {error}"))?;
        Self::new(bpe)
    }

    /// Errors unless the ids are those from 0 on, and the tokens consist of bytes, all of which are
    /// tokens.
    pub fn new(bpe: BPE) -> Result<Self> {
        let vocabulary = bpe.get_vocab();
        let alphabet = byte_alphabet();
        let byte_of: HashMap<char, u8> = alphabet.iter().copied().zip(0..=255).collect();
        let mut tokens: Vec<(u32, &String)> = vocabulary.iter().map(|(t, id)| (*id, t)).collect();
        tokens.sort_unstable();
        let mut bytes = TokenBytes::default();
        for (expected, (id, token)) in (0..).zip(tokens) {
            ensure!(
                id == expected,
                "the model has no token with the id {expected}, but one with {id}"
            );
            let token_bytes: Option<Vec<u8>> =
                token.chars().map(|c| byte_of.get(&c).copied()).collect();
            let token_bytes = token_bytes.filter(|bytes| !bytes.is_empty());
            bytes.push(&token_bytes.ok_or_else(|| {
                anyhow!("the token {token:?} is not written in the bytes of a byte-level BPE")
            })?);
        }
        let byte_token = |c: &char| {
            let id = vocabulary.get(&c.to_string()).copied();
            id.with_context(|| {
                format!("the model has no token {c:?}, and a byte-level BPE has all bytes")
            })
        };
        let byte_tokens = alphabet.iter().map(byte_token).collect::<Result<_>>()?;
        Ok(Self {
            bpe,
            bytes,
            alphabet,
            byte_tokens,
        })
    }

    /// The content of tokenizer.json, with special tokens and their ids.
    pub fn to_json(&self, special_tokens: &[(u32, String)]) -> Value {
        let added = |(id, content): &(u32, String)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        };
        let byte_level = ByteLevel::new(false, true, true);
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": special_tokens.iter().map(added).collect::<Vec<_>>(),
            "normalizer": null,
            "pre_tokenizer": byte_level,
            "post_processor": null,
            "decoder": byte_level,
            "model": self.bpe,
        })
    }

    /// The bytes of each token.
    pub fn bytes(&self) -> &TokenBytes {
        &self.bytes
    }

    /// The token of one byte.
    pub fn byte_token(&self, byte: u8) -> u32 {
        self.byte_tokens[usize::from(byte)]
    }

    /// Appends the tokens of a text.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        for word in words(text).map(|word| spell(word, &self.alphabet)) {
            let tokens = self.bpe.tokenize(&word).expect("every byte is a token");
            ids.extend(tokens.iter().map(|token| token.id));
        }
    }
}

/// The words of a text, as GPT-2 splits it: no token extends over the end of one.
fn words(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let input = Input::new(text).anchored(Anchored::Yes);
        let word = WORD.try_search_fwd(&input).expect("any text is matched");
        let mut end = word?.offset();
        let last = text[..end].chars().next_back()?;
        // White space before a word leaves its last character to it: `\s+(?!\S)`.
        if last.is_whitespace() && end < text.len() && end > last.len_utf8() {
            end -= last.len_utf8();
        }
        let (word, rest) = text.split_at(end);
        text = rest;
        Some(word)
    })
}

/// The expression of GPT-2, but for white space before a word: the library matches that with a look-ahead,
/// which would bring another regular expression engine into the program.
static WORD: LazyLock<dense::DFA<Vec<u32>>> = LazyLock::new(|| {
    let expression = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
    let config = dense::Config::new().start_kind(StartKind::Anchored);
    let word = dense::Builder::new().configure(config).build(expression);
    word.expect("the expression is valid")
});

/// Writes the bytes of a word in the characters of tokens.
fn spell(word: &str, alphabet: &[char; 256]) -> String {
    word.bytes()
        .map(|byte| alphabet[usize::from(byte)])
        .collect()
}

/// The character that stands for each byte in a token: itself, if it is printable Latin-1, or one from
/// U+0100 on. From `bytes_to_unicode` of GPT-2.
fn byte_alphabet() -> [char; 256] {
    let mut others = '\u{100}'..;
    array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => others.next().expect("there are more characters than bytes"),
    })
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    const TEXT: &str =
        "the cat, the hat and the bat; the rat  sat\non the mat\n\n that’s the 🙂 the 🙂";

    fn learned(size: usize) -> ByteLevelBpe {
        ByteLevelBpe::learn([TEXT].into_iter(), size).unwrap()
    }

    fn encode(bpe: &ByteLevelBpe, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        bpe.encode_into(text, &mut ids);
        ids
    }

    #[test]
    fn byte_alphabet_is_that_of_the_library() {
        assert_eq!(ByteLevel::alphabet(), byte_alphabet().into_iter().collect());
        assert_eq!(byte_alphabet()[usize::from(b' ')], 'Ġ');
        assert_eq!(byte_alphabet()[usize::from(b'\n')], 'Ċ');
    }

    #[test]
    fn any_text_is_encoded_and_decoded_unchanged() {
        let bpe = learned(270);
        let long = TEXT.repeat(3000);
        for text in [
            TEXT,
            "e\u{301}\0\u{7f}\u{10ffff}漢字\r\n\t x",
            "",
            "   ",
            &long,
        ] {
            let ids = encode(&bpe, text);
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|id| bpe.bytes.get(*id).unwrap())
                .copied()
                .collect();
            assert_eq!(bytes, text.as_bytes());
        }
        assert_eq!(encode(&bpe, "\n"), [bpe.byte_token(b'\n')]);
        assert!(encode(&bpe, TEXT).len() < TEXT.len());
    }

    /// The words that the library splits a text into, in the characters of tokens.
    fn library_words(text: &str) -> Vec<String> {
        let mut words = PreTokenizedString::from(text);
        let pre_tokenizer = ByteLevel::new(false, true, true);
        pre_tokenizer.pre_tokenize(&mut words).unwrap();
        let splits = words.get_splits(OffsetReferential::Original, OffsetType::None);
        splits
            .into_iter()
            .map(|(word, ..)| word.to_string())
            .collect()
    }

    #[test]
    fn words_are_those_of_the_library() {
        let parts = [
            " ",
            " ",
            " ",
            "\n",
            "\t",
            "\r\n",
            "\u{a0}",
            "\u{3000}",
            "\u{85}",
            "\u{2028}",
            "'s",
            "'ll",
            "'",
            "don't",
            "a",
            "É",
            "ß",
            "漢",
            "ª",
            "ʰ",
            "e\u{301}",
            "1",
            "٣",
            "Ⅷ",
            "½",
            ".",
            "_",
            "—",
            "🙂",
            "\u{200d}",
            "\u{feff}",
            "\0",
            "\u{10ffff}",
        ];
        let alphabet = byte_alphabet();
        let mut rng = fastrand::Rng::with_seed(1);
        for length in (0..3000).map(|n| n % 12) {
            let text: String = (0..length)
                .map(|_| parts[rng.usize(..parts.len())])
                .collect();
            let words: Vec<String> = words(&text).map(|word| spell(word, &alphabet)).collect();
            assert_eq!(words, library_words(&text), "{text:?}");
        }
    }

    #[test]
    fn learning_is_repeatable_and_limited_by_the_text() {
        assert_eq!(learned(270), learned(270));
        let few = ByteLevelBpe::learn(["abab"].into_iter(), 300).unwrap();
        assert_eq!(few.bytes.len(), 257);
    }
}
