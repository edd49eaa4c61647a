//! The bytes of the tokens of a vocabulary.

/// The bytes of each token, end to end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TokenBytes {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl TokenBytes {
    /// Adds the bytes of the next token.
    pub fn push(&mut self, token: &[u8]) {
        self.bytes.extend_from_slice(token);
        self.ends.push(self.bytes.len());
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token; `None` beyond the last.
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)?;
        let start = id
            .checked_sub(1)
            .map_or(0, |before| self.ends[before as usize]);
        Some(&self.bytes[start..end])
    }
}
