//! The documents of the training text, to count the samples that repeat one.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::data::Corpus;

/// The hashes of all documents, sorted: eight bytes per document.
pub struct KnownDocuments(Vec<u64>);

impl KnownDocuments {
    /// None for a corpus whose samples are not whole lines.
    pub fn new(corpus: &Corpus) -> Option<Self> {
        let Corpus::Documents(documents) = corpus else {
            return None;
        };
        let mut hashes: Vec<u64> = documents.iter().map(|text| hash(text)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        Some(Self(hashes))
    }

    pub fn contains(&self, text: &str) -> bool {
        self.0.binary_search(&hash(text)).is_ok()
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
