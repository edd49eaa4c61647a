//! The tokens of a corpus, in memory or in a temporary file.

use std::ops::Range;

use anyhow::{Context, Result};

use super::byte_store::{ByteStore, ByteStoreWriter, SpillOptions};

/// Tokens end to end, and the bounds of documents in them.
pub struct TokenStore {
    tokens: ByteStore<'static>,
    /// Bytes per token: 1, 2 or 4.
    width: usize,
    /// Little-endian `u64`: document `d` has the tokens `bounds[d]..bounds[d + 1]`.
    bounds: ByteStore<'static>,
}

impl TokenStore {
    /// The number of tokens.
    pub fn len(&self) -> u64 {
        self.tokens.len() / self.width as u64
    }

    /// The number of documents.
    pub fn documents(&self) -> u64 {
        self.bounds.len() / 8 - 1
    }

    /// Reads the range of a document's tokens.
    pub fn range(&self, document: u64) -> Result<Range<u64>> {
        let mut bytes = [0; 16];
        self.bounds
            .read_exact_at(document * 8, &mut bytes)
            .context(READ_ERROR)?;
        let bound = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("it is 8 bytes"));
        Ok(bound(&bytes[..8])..bound(&bytes[8..]))
    }

    /// Reads the tokens of a range.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u32>> {
        let mut bytes = vec![0; (range.end - range.start) as usize * self.width];
        self.tokens
            .read_exact_at(range.start * self.width as u64, &mut bytes)
            .context(READ_ERROR)?;
        let decode = |bytes: &[u8]| {
            let number = bytes.iter().rev();
            number.fold(0, |number, &byte| number << 8 | u32::from(byte))
        };
        Ok(bytes.chunks_exact(self.width).map(decode).collect())
    }
}

const READ_ERROR: &str = "cannot read the temporary file of tokens";

/// Writes the tokens of a corpus, document by document.
pub struct TokenWriter {
    tokens: ByteStoreWriter,
    width: usize,
    bounds: ByteStoreWriter,
    /// The bytes of the latest tokens.
    bytes: Vec<u8>,
}

impl TokenWriter {
    /// A store of tokens below `vocab_size`.
    pub fn new(vocab_size: usize, options: &SpillOptions) -> Result<Self> {
        let mut bounds = ByteStoreWriter::new(options);
        bounds.push(&0u64.to_le_bytes())?;
        Ok(Self {
            tokens: ByteStoreWriter::new(options),
            width: match vocab_size {
                0..=0x100 => 1,
                0x101..=0x1_0000 => 2,
                _ => 4,
            },
            bounds,
            bytes: Vec::new(),
        })
    }

    /// Appends tokens to the latest document.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        self.bytes.clear();
        match self.width {
            1 => self.bytes.extend(tokens.iter().map(|&token| token as u8)),
            width => {
                let bytes = tokens.iter().map(|token| token.to_le_bytes());
                bytes.for_each(|bytes| self.bytes.extend_from_slice(&bytes[..width]));
            }
        }
        self.tokens.push(&self.bytes)
    }

    /// Ends the latest document.
    pub fn end_document(&mut self) -> Result<()> {
        let end = self.tokens.len() / self.width as u64;
        self.bounds.push(&end.to_le_bytes())
    }

    pub fn finish(self) -> Result<TokenStore> {
        Ok(TokenStore {
            tokens: self.tokens.finish()?,
            width: self.width,
            bounds: self.bounds.finish()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_every_width_are_read_back() {
        for vocab_size in [256, 257, 65_536, 65_537] {
            let mut writer = TokenWriter::new(vocab_size, &SpillOptions::memory()).unwrap();
            let last = vocab_size as u32 - 1;
            writer.push(&[0, last]).unwrap();
            writer.end_document().unwrap();
            writer.push(&[1]).unwrap();
            writer.push(&[last, 2]).unwrap();
            writer.end_document().unwrap();
            let store = writer.finish().unwrap();
            assert_eq!((store.len(), store.documents()), (5, 2));
            assert_eq!(store.range(1).unwrap(), 2..5);
            assert_eq!(store.read(2..5).unwrap(), [1, last, 2]);
        }
    }
}
