//! A vocabulary of characters.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Result, bail};

use super::token_bytes::TokenBytes;

/// The characters of a text, in the order of their ids.
#[derive(Debug, PartialEq, Eq)]
pub struct Characters {
    chars: Vec<char>,
    ids: HashMap<char, u32>,
    bytes: TokenBytes,
}

impl Characters {
    /// Errors if a character is repeated.
    pub fn new(chars: Vec<char>) -> Result<Self> {
        let mut ids = HashMap::with_capacity(chars.len());
        for (id, &c) in chars.iter().enumerate() {
            if ids.insert(c, id as u32).is_some() {
                bail!("the vocabulary repeats the character {c:?}");
            }
        }
        let mut buffer = [0; 4];
        let mut bytes = TokenBytes::default();
        for c in &chars {
            bytes.push(c.encode_utf8(&mut buffer).as_bytes());
        }
        Ok(Self { chars, ids, bytes })
    }

    /// The characters, indexed by id.
    pub fn chars(&self) -> &[char] {
        &self.chars
    }

    pub fn id(&self, c: char) -> Option<u32> {
        self.ids.get(&c).copied()
    }

    /// The UTF-8 of each character.
    pub fn bytes(&self) -> &TokenBytes {
        &self.bytes
    }

    /// Returns this vocabulary with the characters of `other`. The order changes only with the
    /// characters.
    pub fn extended_by(&self, other: &Self) -> Self {
        let mut chars = self.chars.clone();
        chars.extend(other.chars.iter().filter(|c| !self.ids.contains_key(c)));
        if chars.len() > self.chars.len() {
            chars.sort_unstable();
        }
        Self::new(chars).expect("each character is added once")
    }
}

impl FromIterator<char> for Characters {
    /// The characters of a text, sorted by code point.
    fn from_iter<I: IntoIterator<Item = char>>(text: I) -> Self {
        let chars: BTreeSet<char> = text.into_iter().collect();
        Self::new(chars.into_iter().collect()).expect("a set has no repeated characters")
    }
}
