//! The tokens of a training text, and the batches taken from them.

use std::sync::Arc;

use anyhow::Result;

use super::{Corpus, Tokenizer};

/// All documents as tokens, packed end to end, and the order in which training takes them, over and
/// over.
pub struct Dataset {
    tokens: Vec<u32>,
    /// Document `d` is `tokens[offsets[d]..offsets[d + 1]]`.
    offsets: Vec<usize>,
    order: Vec<u32>,
    /// How many documents were cut to fit the context.
    pub cut: usize,
}

impl Dataset {
    /// Tokenizes a corpus; documents of more than `block_size + 1` tokens are cut there.
    pub fn new(corpus: &Corpus, tokenizer: &Tokenizer, block_size: usize) -> Result<Self> {
        let mut dataset = Self {
            tokens: Vec::new(),
            offsets: vec![0],
            order: Vec::new(),
            cut: 0,
        };
        corpus.for_each(tokenizer, |document| {
            let kept = document.len().min(block_size + 1);
            dataset.cut += usize::from(kept < document.len());
            dataset.tokens.extend_from_slice(&document[..kept]);
            dataset.order.push(dataset.order.len() as u32);
            dataset.offsets.push(dataset.tokens.len());
        })?;
        Ok(dataset)
    }

    /// Changes the order of the documents, by the seed.
    pub fn shuffle(&mut self, seed: u64) {
        self.order.sort_unstable();
        fastrand::Rng::with_seed(seed).shuffle(&mut self.order);
    }

    /// The batch of `count` documents from the one with number `first` in their order, beginning
    /// again after the last. It comes in at most `parts` parts of about the same number of tokens.
    pub fn batch(&self, first: u64, count: usize, parts: usize) -> Vec<Batch> {
        let start = (first % self.order.len() as u64) as usize;
        let documents: Vec<&[u32]> = self
            .order
            .iter()
            .cycle()
            .skip(start)
            .take(count)
            .map(|&index| self.document(index))
            .collect();
        let total: usize = documents.iter().map(|document| document.len() - 1).sum();
        let mut batches = Vec::with_capacity(parts);
        let (mut begin, mut tokens) = (0, 0);
        for (i, document) in documents.iter().enumerate() {
            tokens += document.len() - 1;
            if tokens * parts >= total * (batches.len() + 1) || i + 1 == count {
                batches.push(Batch::new(&documents[begin..=i]));
                begin = i + 1;
            }
        }
        batches
    }

    fn document(&self, index: u32) -> &[u32] {
        &self.tokens[self.offsets[index as usize]..self.offsets[index as usize + 1]]
    }
}

/// The tokens of some documents, packed end to end, ready for the model; `N` in all.
#[derive(Debug)]
pub struct Batch {
    /// What the model sees, `[N]`: each document but its last token.
    pub tokens: Arc<[u32]>,
    /// Where in its document each token stands, `[N]`.
    pub positions: Arc<[u32]>,
    /// What comes next, `[N]`: each document but its first token.
    pub targets: Arc<[u32]>,
    /// Document `d` is `offsets[d]..offsets[d + 1]` of the above.
    pub offsets: Arc<[usize]>,
}

impl Batch {
    pub fn new(documents: &[&[u32]]) -> Self {
        let (mut tokens, mut positions, mut targets, mut offsets) =
            (vec![], vec![], vec![], vec![0]);
        for document in documents {
            let length = document.len() - 1;
            tokens.extend_from_slice(&document[..length]);
            targets.extend_from_slice(&document[1..]);
            positions.extend(0..length as u32);
            offsets.push(tokens.len());
        }
        Self {
            tokens: tokens.into(),
            positions: positions.into(),
            targets: targets.into(),
            offsets: offsets.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(text: &str, block_size: usize) -> Dataset {
        let corpus = Corpus::documents(text).unwrap();
        Dataset::new(&corpus, &corpus.tokenizer(), block_size).unwrap()
    }

    #[test]
    fn a_batch_is_packed_without_padding() {
        let dataset = dataset("ab\nc\ndefg", 4);
        assert_eq!(dataset.cut, 1);
        let [batch] = &dataset.batch(4, 3, 1)[..] else {
            panic!("more than one part")
        };
        assert_eq!(*batch.tokens, [7, 2, 7, 3, 4, 5, 7, 0, 1]);
        assert_eq!(*batch.targets, [2, 7, 3, 4, 5, 6, 0, 1, 7]);
        assert_eq!(*batch.positions, [0, 1, 0, 1, 2, 3, 0, 1, 2]);
        assert_eq!(*batch.offsets, [0, 2, 6, 9]);
    }

    #[test]
    fn the_order_follows_the_seed_and_loses_nothing() {
        let mut dataset = dataset("a\nb\nc\nd\ne\nf\ng", 4);
        let order = |dataset: &Dataset| dataset.batch(0, 7, 1)[0].tokens.to_vec();
        dataset.shuffle(1);
        let one = order(&dataset);
        dataset.shuffle(2);
        let two = order(&dataset);
        dataset.shuffle(1);
        assert_eq!(order(&dataset), one);
        assert_ne!(one, two);
        let mut sorted = [one, two];
        sorted.iter_mut().for_each(|tokens| tokens.sort_unstable());
        assert_eq!(sorted[0], sorted[1]);
    }

    #[test]
    fn parts_share_the_tokens_and_lose_none() {
        let text: String = (0..40).map(|d| "x".repeat(1 + d % 7) + "\n").collect();
        let dataset = dataset(&text, 16);
        let whole = dataset.batch(3, 40, 1)[0].tokens.len();
        for parts in 1..50 {
            let sizes: Vec<usize> = dataset
                .batch(3, 40, parts)
                .iter()
                .map(|b| b.tokens.len())
                .collect();
            assert_eq!(sizes.iter().sum::<usize>(), whole);
            assert!(sizes.len() <= parts && sizes.iter().all(|&n| n > 0));
            assert!(
                sizes.iter().all(|n| *n <= whole / parts + 8),
                "{parts}: {sizes:?}"
            );
        }
    }
}
