//! A vocabulary of byte-level BPE: GPT-2's, with Hugging Face's library.
//!
//! Each byte is a token, so that every text can be encoded. A token is written with one character per
//! byte, as in GPT-2.

use std::array;
use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};

use super::token_bytes::TokenBytes;

/// A learned token has fewer bytes, which bounds tokenizer.json where a text repeats itself without
/// spaces.
const MAX_TOKEN_BYTES: usize = 24;

/// The minimum number of times that a pair of tokens occurs to become a token.
const MIN_FREQUENCY: u64 = 2;

/// The number of bytes to split into words at a time; a word takes some 20 bytes per byte meanwhile.
const PART_BYTES: usize = 64 << 10;

/// Tokens and merges.
#[derive(Debug, PartialEq)]
pub struct ByteLevelBpe {
    bpe: BPE,
    bytes: TokenBytes,
    /// The token of each byte.
    byte_tokens: Vec<u32>,
}

impl ByteLevelBpe {
    /// Learns `size` tokens from texts: all bytes, then the most frequent pair of tokens, again and
    /// again. Texts with fewer pairs that occur twice give fewer.
    pub fn learn<'a>(texts: impl Iterator<Item = &'a str>, size: usize) -> Result<Self> {
        let mut trainer: BpeTrainer = BpeTrainerBuilder::new()
            .vocab_size(size)
            .min_frequency(MIN_FREQUENCY)
            .max_token_length(Some(MAX_TOKEN_BYTES))
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .show_progress(false)
            .build();
        let parts: Vec<&str> = texts.flat_map(parts).collect();
        let words = |text: &str| Ok(words(text));
        let mut bpe = BPE::default();
        trainer
            .feed(parts.into_iter(), words)
            .and_then(|()| trainer.train(&mut bpe))
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
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": special_tokens.iter().map(added).collect::<Vec<_>>(),
            "normalizer": null,
            "pre_tokenizer": pre_tokenizer(),
            "post_processor": null,
            "decoder": pre_tokenizer(),
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
        for word in parts(text).flat_map(words) {
            let tokens = self.bpe.tokenize(&word).expect("every byte is a token");
            ids.extend(tokens.iter().map(|token| token.id));
        }
    }
}

/// Splits a text as GPT-2 does: a prefix of spaces, then letters, digits or other characters.
fn pre_tokenizer() -> ByteLevel {
    ByteLevel::new(false, true, true)
}

/// The words of a text, in the characters of bytes. No token extends over the end of a word.
fn words(text: &str) -> Vec<String> {
    let mut words = PreTokenizedString::from(text);
    pre_tokenizer()
        .pre_tokenize(&mut words)
        .expect("the pre-tokenizer accepts any text");
    let splits = words.get_splits(OffsetReferential::Original, OffsetType::None);
    splits
        .into_iter()
        .map(|(word, ..)| word.to_string())
        .collect()
}

/// Splits a text before white space that follows another character, where a word ends in any case.
fn parts(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let mut is_inside = false;
        let mut is_end = |&(at, c): &(usize, char)| {
            let is_end = is_inside && c.is_whitespace() && at >= PART_BYTES;
            is_inside = !c.is_whitespace();
            is_end
        };
        let end = text.char_indices().find(|next| is_end(next));
        let (part, rest) = text.split_at(end.map_or(text.len(), |(at, _)| at));
        text = rest;
        (!part.is_empty()).then_some(part)
    })
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

    #[test]
    fn text_in_parts_has_the_tokens_of_the_whole() {
        let bpe = learned(270);
        let long = TEXT.repeat(3000);
        assert!(parts(&long).count() > 2);
        let whole = words(&long);
        assert_eq!(parts(&long).flat_map(words).collect::<Vec<_>>(), whole);
        let tokens = |word: &String| bpe.bpe.tokenize(word).unwrap().len();
        assert_eq!(
            encode(&bpe, &long).len(),
            whole.iter().map(tokens).sum::<usize>()
        );
    }

    #[test]
    fn learning_is_repeatable_and_limited_by_the_text() {
        assert_eq!(learned(270), learned(270));
        let few = ByteLevelBpe::learn(["abab"].into_iter(), 300).unwrap();
        assert_eq!(few.bytes.len(), 257);
    }
}
