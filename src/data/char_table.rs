//! Sets and tables of characters that take a few nanoseconds per character.

use super::tokenizer::Tokenizer;

/// A set of characters.
pub struct CharSet {
    ascii: [bool; 128],
    /// One bit per code point.
    others: Vec<u64>,
}

impl Default for CharSet {
    fn default() -> Self {
        Self {
            ascii: [false; 128],
            others: vec![0; (char::MAX as usize + 1) / 64],
        }
    }
}

impl CharSet {
    /// Adds the characters of a text.
    pub fn add(&mut self, text: &str) {
        if text.is_ascii() {
            for byte in text.bytes() {
                self.ascii[usize::from(byte & 0x7f)] = true;
            }
            return;
        }
        for code_point in text.chars().map(|c| c as usize) {
            self.others[code_point / 64] |= 1 << (code_point % 64);
        }
    }

    fn contains(&self, c: char) -> bool {
        let code_point = c as usize;
        self.ascii.get(code_point) == Some(&true)
            || self.others[code_point / 64] >> (code_point % 64) & 1 == 1
    }
}

/// The characters in code point order.
impl std::fmt::Display for CharSet {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        use std::fmt::Write;
        let mut known = ('\0'..=char::MAX).filter(|&c| self.contains(c));
        known.try_for_each(|c| f.write_char(c))
    }
}

/// The tokens of a text's characters.
pub struct CharTable {
    /// Indexed by code point up to the last character; [`UNKNOWN`] for those without a token.
    ids: Vec<u32>,
}

const UNKNOWN: u32 = u32::MAX;

impl CharTable {
    /// Looks up the tokens of `characters`.
    pub fn new(characters: &str, tokenizer: &Tokenizer) -> Self {
        let last = characters.chars().map(|c| c as usize).max().unwrap_or(0);
        let mut ids = vec![UNKNOWN; last.max(127) + 1];
        let mut buffer = [0; 4];
        for c in characters.chars() {
            if let Some(id) = tokenizer.encode(c.encode_utf8(&mut buffer)).first() {
                ids[c as usize] = *id;
            }
        }
        Self { ids }
    }

    /// Appends the tokens of a text. Drops characters without a token.
    pub fn encode(&self, text: &str, tokens: &mut Vec<u32>) {
        match text.is_ascii() {
            true => tokens.extend(
                text.bytes()
                    .map(|byte| self.ids[usize::from(byte)])
                    .filter(|&id| id != UNKNOWN),
            ),
            false => tokens.extend(
                text.chars()
                    .filter_map(|c| self.ids.get(c as usize).copied())
                    .filter(|&id| id != UNKNOWN),
            ),
        }
    }
}
