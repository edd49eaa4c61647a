//! The tokens of a training text, and the batches taken from them.

use std::cmp::Reverse;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{Corpus, Tokenizer};

/// The tokens of a training text, and the order in which training takes pieces of it.
pub struct Dataset {
    tokens: Vec<u32>,
    pieces: Pieces,
    /// How many documents were cut to fit the context.
    pub truncated: usize,
}

/// What a batch is made of.
enum Pieces {
    /// Documents end to end: document `d` is `tokens[offsets[d]..offsets[d + 1]]`. They are taken
    /// in a given order, over and over.
    Documents {
        offsets: Vec<usize>,
        order: Vec<u32>,
    },
    /// Windows of so many tokens, and one more to predict, from anywhere in a continuous text.
    Windows { length: usize, seed: u64 },
}

impl Dataset {
    /// Tokenizes a corpus; documents of more than `block_size + 1` tokens are cut there. The seed
    /// gives the order in which they are taken.
    pub fn new(
        corpus: &Corpus,
        tokenizer: &Tokenizer,
        block_size: usize,
        seed: u64,
    ) -> Result<Self> {
        if let Corpus::Continuous(_) = corpus {
            let mut tokens = Vec::new();
            corpus.for_each(tokenizer, |text| tokens = text)?;
            return Ok(Self::windows(tokens, block_size, seed));
        }
        let (mut tokens, mut offsets, mut truncated) = (Vec::new(), vec![0], 0);
        corpus.for_each(tokenizer, |document| {
            let kept = document.len().min(block_size + 1);
            truncated += usize::from(kept < document.len());
            tokens.extend_from_slice(&document[..kept]);
            offsets.push(tokens.len());
        })?;
        let mut order: Vec<u32> = (0..offsets.len() as u32 - 1).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        Ok(Self {
            tokens,
            pieces: Pieces::Documents { offsets, order },
            truncated,
        })
    }

    fn windows(tokens: Vec<u32>, block_size: usize, seed: u64) -> Self {
        let length = block_size.min(tokens.len() - 1);
        Self {
            tokens,
            pieces: Pieces::Windows { length, seed },
            truncated: 0,
        }
    }

    /// Takes documents in the order in which the corpus has them.
    pub fn unshuffled(mut self) -> Self {
        if let Pieces::Documents { order, .. } = &mut self.pieces {
            order.sort_unstable();
        }
        self
    }

    /// Takes a share away, to test on: the documents that come last in the order, or the last part
    /// of a continuous text. Errors where that leaves nothing to train or to test on.
    pub fn split_validation(&mut self, fraction: f64) -> Result<ValidationSet> {
        let share = |total: usize| (total as f64 * fraction).round() as usize;
        match &mut self.pieces {
            Pieces::Documents { offsets, order } => {
                let count = share(order.len()).max(1);
                ensure!(
                    count < order.len(),
                    "--validation-fraction {fraction} of {} leaves nothing to train on",
                    order.len()
                );
                let held_out = order.split_off(order.len() - count);
                let document = |&d: &u32| self.tokens[range(offsets, d)].to_vec();
                let documents = held_out.iter().map(document).collect();
                Ok(ValidationSet { documents, count })
            }
            Pieces::Windows { length, .. } => {
                let count = share(self.tokens.len());
                ensure!(
                    count > 1 && self.tokens.len() - count > 1,
                    "--validation-fraction {fraction} of {} characters leaves too few",
                    self.tokens.len()
                );
                let tokens = self.tokens.split_off(self.tokens.len() - count);
                // Each token but the first is predicted once: a window begins with the last one
                // of the window before.
                let starts = (0..tokens.len() - 1).step_by(*length);
                let window = |start: usize| tokens[start..].iter().take(*length + 1);
                let documents = starts.map(|start| window(start).copied().collect());
                let documents = documents.collect();
                *length = (*length).min(self.tokens.len() - 1);
                Ok(ValidationSet { documents, count })
            }
        }
    }

    /// The batch of `count` documents from the one with number `first` in their order, beginning
    /// again after the last. It comes in at most `parts` parts of about the same number of tokens.
    pub fn batch(&self, first: u64, count: usize, parts: usize) -> Vec<Batch> {
        let piece = |number| self.piece(first.wrapping_add(number));
        let documents: Vec<&[u32]> = (0..count as u64).map(piece).collect();
        let sizes: Vec<usize> = documents
            .iter()
            .map(|document| document.len() - 1)
            .collect();
        let part = |dealt: Vec<usize>| -> Vec<&[u32]> {
            dealt.into_iter().map(|i| documents[i]).collect()
        };
        let parts = partition(&sizes, parts).into_iter().map(part);
        parts
            .filter(|part| !part.is_empty())
            .map(|part| Batch::new(&part))
            .collect()
    }

    /// The document, or window, with this number in the order of training.
    fn piece(&self, number: u64) -> &[u32] {
        match &self.pieces {
            Pieces::Documents { offsets, order } => {
                let place = (number % order.len() as u64) as usize;
                &self.tokens[range(offsets, order[place])]
            }
            Pieces::Windows { length, seed } => {
                // Neighbouring numbers give unrelated places once they have gone through a
                // generator themselves.
                let number = fastrand::Rng::with_seed(number).u64(..);
                let start =
                    fastrand::Rng::with_seed(seed ^ number).usize(..self.tokens.len() - length);
                &self.tokens[start..=start + length]
            }
        }
    }
}

/// Deals things of these sizes to so many hands, by their numbers: the largest first, each to the hand
/// that has least, since work is done when the fullest hand is. A single hand has them in their order.
pub fn partition(sizes: &[usize], hands: usize) -> Vec<Vec<usize>> {
    let mut numbers: Vec<usize> = (0..sizes.len()).collect();
    if hands > 1 {
        numbers.sort_by_key(|&i| Reverse(sizes[i]));
    }
    let mut dealt = vec![(0, Vec::new()); hands];
    for i in numbers {
        let least = dealt.iter_mut().min_by_key(|(size, _)| *size);
        let (size, hand) = least.expect("there is a hand");
        *size += sizes[i];
        hand.push(i);
    }
    dealt.into_iter().map(|(_, hand)| hand).collect()
}

/// Where in the tokens a document is.
fn range(offsets: &[usize], document: u32) -> std::ops::Range<usize> {
    offsets[document as usize]..offsets[document as usize + 1]
}

/// What is kept from training, to test on.
pub struct ValidationSet {
    documents: Vec<Vec<u32>>,
    /// How many documents that is, or characters of a continuous text.
    pub count: usize,
}

impl ValidationSet {
    /// All of it, in batches of about `tokens` tokens.
    pub fn batches(&self, tokens: usize) -> Vec<Batch> {
        let mut batches = Vec::new();
        let (mut batch, mut size) = (Vec::new(), 0);
        for document in &self.documents {
            batch.push(&document[..]);
            size += document.len() - 1;
            if size >= tokens {
                batches.push(Batch::new(&batch));
                (batch, size) = (Vec::new(), 0);
            }
        }
        if !batch.is_empty() {
            batches.push(Batch::new(&batch));
        }
        batches
    }
}

/// The tokens of some documents, packed end to end, ready for the model; `N` in all.
#[derive(Clone, Debug)]
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

    fn dataset(text: &str, block_size: usize, seed: u64) -> Dataset {
        let corpus = Corpus::documents(text).unwrap();
        Dataset::new(&corpus, &corpus.tokenizer(), block_size, seed).unwrap()
    }

    #[test]
    fn a_batch_is_packed_without_padding() {
        let dataset = dataset("ab\nc\ndefg", 4, 1).unshuffled();
        assert_eq!(dataset.truncated, 1);
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
        let order = |seed| {
            let dataset = dataset("a\nb\nc\nd\ne\nf\ng", 4, seed);
            dataset.batch(0, 7, 1)[0].tokens.to_vec()
        };
        let (one, two) = (order(1), order(2));
        assert_eq!(order(1), one);
        assert_ne!(one, two);
        let mut sorted = [one, two];
        sorted.iter_mut().for_each(|tokens| tokens.sort_unstable());
        assert_eq!(sorted[0], sorted[1]);
    }

    #[test]
    fn parts_share_the_tokens_and_lose_none() {
        let text: String = (0..40).map(|d| "x".repeat(1 + d % 7) + "\n").collect();
        let dataset = dataset(&text, 16, 1);
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
            if parts <= 4 {
                assert!(sizes.iter().all(|n| n.abs_diff(whole / parts) <= 1));
            }
        }
    }

    #[test]
    fn what_is_held_out_is_not_trained_on() {
        let text: String = ('a'..='t').map(|c| format!("{c}\n")).collect();
        let tokens = |batches: Vec<Batch>| {
            let tokens = batches.iter().flat_map(|b| b.targets.to_vec());
            let mut tokens: Vec<u32> = tokens.filter(|&t| t < 20).collect();
            tokens.sort_unstable();
            tokens
        };
        let mut split = dataset(&text, 4, 5);
        let held_out = split.split_validation(0.25).unwrap();
        assert_eq!(held_out.count, 5);
        let mut all = tokens(split.batch(0, 15, 2));
        all.extend(tokens(held_out.batches(3)));
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<u32>>());
        assert!(dataset("a\nb", 4, 1).split_validation(0.9).is_err());
        assert!(dataset("a", 4, 1).split_validation(0.1).is_err());
    }

    #[test]
    fn windows_come_from_anywhere_but_the_last_part() {
        let text: String = (0..100)
            .map(|i| char::from_u32(0x4e00 + i).unwrap())
            .collect();
        let corpus = Corpus::continuous(&text).unwrap();
        let mut dataset = Dataset::new(&corpus, &corpus.tokenizer(), 8, 1).unwrap();
        let held_out = dataset.split_validation(0.2).unwrap();
        let [batch] = &dataset.batch(0, 2000, 1)[..] else {
            panic!("more than one part")
        };
        assert_eq!(batch.tokens.len(), 16_000);
        assert!(
            batch
                .tokens
                .iter()
                .zip(&*batch.targets)
                .all(|(a, b)| a + 1 == *b)
        );
        let seen: std::collections::BTreeSet<u32> = batch.targets.iter().copied().collect();
        assert_eq!(seen, (1..80).collect());
        let targets = held_out.batches(10);
        let targets: Vec<u32> = targets.iter().flat_map(|b| b.targets.to_vec()).collect();
        assert_eq!(targets, (81..100).collect::<Vec<u32>>());
        // The same number is the same window in any batch.
        assert_eq!(dataset.batch(7, 1, 1)[0].tokens[..], batch.tokens[56..64]);
    }
}
