//! The fingerprint of a text, to notice that it has changed.

/// The length and the hash of a text, line breaks unified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The length in bytes.
    pub bytes: u64,
    pub hash: u64,
}

/// Computes a fingerprint, block by block. The hash is one multiplication per 8 bytes, faster than
/// any disk; it is not to resist an attacker.
#[derive(Default)]
pub struct Hasher {
    state: Fingerprint,
}

/// 2^64 divided by the golden ratio, made odd: its bits have no pattern (Knuth 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher {
    /// Adds a block. The result depends on the blocks' borders.
    pub fn add(&mut self, block: &[u8]) {
        self.state.bytes += block.len() as u64;
        let (words, rest) = block.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last));
    }

    fn mix(&mut self, word: u64) {
        let product = (self.state.hash ^ word).wrapping_mul(MULTIPLIER);
        // The high bits depend on all others.
        self.state.hash = product ^ (product >> 32);
    }

    pub fn finish(mut self) -> Fingerprint {
        self.mix(self.state.bytes);
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(text: &[u8]) -> Fingerprint {
        let mut hasher = Hasher::default();
        hasher.add(text);
        hasher.finish()
    }

    #[test]
    fn every_bit_changes_the_hash() {
        let text = b"0123456789abcdefghi";
        let mut hashes = std::collections::HashSet::from(
            [fingerprint(text)].map(|fingerprint| fingerprint.hash),
        );
        for bit in 0..text.len() * 8 {
            let mut changed = text.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(hashes.insert(fingerprint(&changed).hash), "{bit}");
        }
        assert_eq!(fingerprint(text).bytes, 19);
        assert_ne!(fingerprint(b"a"), fingerprint(b"a\0"));
    }
}
