//! Training batches from tokenized text.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::corpus::Corpus;
use super::tokenizer::{ChatTokens, Tokenizer};

/// The tokens of a training text and the order of its examples.
pub struct Dataset {
    tokens: Vec<u32>,
    examples: Examples,
    /// The number of documents truncated to the context.
    pub truncated: usize,
    /// The number of conversations left out because they have no reply to predict.
    pub without_reply: usize,
    /// Set if only replies are predicted.
    replies: Option<ChatTokens>,
}

/// The division of a dataset into examples.
enum Examples {
    /// Documents end to end, in shuffled order: document `d` is `tokens[offsets[d]..offsets[d + 1]]`.
    Documents {
        offsets: Vec<usize>,
        order: Vec<u32>,
    },
    /// Windows of `length + 1` tokens at random positions of a continuous text.
    Windows { length: usize, seed: u64 },
}

impl Dataset {
    /// Tokenizes a corpus and truncates its documents to `block_size + 1` tokens. The seed determines
    /// the order of the examples.
    pub fn new(
        corpus: &Corpus,
        tokenizer: &Tokenizer,
        block_size: usize,
        seed: u64,
    ) -> Result<Self> {
        if let Corpus::Continuous(_) = corpus {
            let mut tokens = Vec::new();
            corpus.for_each(tokenizer, |text| tokens = text)?;
            let length = block_size.min(tokens.len() - 1);
            return Ok(Self {
                tokens,
                examples: Examples::Windows { length, seed },
                truncated: 0,
                without_reply: 0,
                replies: None,
            });
        }
        let (mut tokens, mut offsets, mut truncated) = (Vec::new(), vec![0], 0);
        corpus.for_each(tokenizer, |document| {
            let length = document.len().min(block_size + 1);
            truncated += usize::from(length < document.len());
            tokens.extend_from_slice(&document[..length]);
            offsets.push(tokens.len());
        })?;
        let mut order: Vec<u32> = (0..offsets.len() as u32 - 1).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        Ok(Self {
            tokens,
            examples: Examples::Documents { offsets, order },
            truncated,
            without_reply: 0,
            replies: None,
        })
    }

    /// Restricts the predictions to the assistant's messages and their ends. Removes the conversations
    /// without any in the context. Errors if none is left.
    pub fn predict_replies_only(&mut self, chat: ChatTokens) -> Result<()> {
        if let Examples::Documents { offsets, order } = &mut self.examples {
            let count = order.len();
            let tokens = &self.tokens;
            order.retain(|&d| {
                reply_rows(&tokens[range(offsets, d)], chat)
                    .next()
                    .is_some()
            });
            ensure!(
                !order.is_empty(),
                "no conversation has an assistant's message within the context"
            );
            self.without_reply = count - order.len();
        }
        self.replies = Some(chat);
        Ok(())
    }

    /// Restores the documents' order in the corpus.
    pub fn unshuffled(mut self) -> Self {
        if let Examples::Documents { order, .. } = &mut self.examples {
            order.sort_unstable();
        }
        self
    }

    /// Removes a fraction of the data for validation: the last documents in shuffled order, or the
    /// end of a continuous text. Errors if either part would be empty.
    pub fn split_validation(&mut self, fraction: f64) -> Result<ValidationSet> {
        let part_of = |total: usize| (total as f64 * fraction).round() as usize;
        match &mut self.examples {
            Examples::Documents { offsets, order } => {
                let count = part_of(order.len()).max(1);
                ensure!(
                    count < order.len(),
                    "--validation-fraction {fraction} of {} leaves nothing to train on",
                    order.len()
                );
                let validation_order = order.split_off(order.len() - count);
                let document = |&d: &u32| self.tokens[range(offsets, d)].to_vec();
                let examples = validation_order.iter().map(document).collect();
                Ok(ValidationSet {
                    examples,
                    count,
                    replies: self.replies,
                })
            }
            Examples::Windows { length, .. } => {
                let count = part_of(self.tokens.len());
                ensure!(
                    count > 1 && self.tokens.len() - count > 1,
                    "--validation-fraction {fraction} of {} characters leaves too few",
                    self.tokens.len()
                );
                let tokens = self.tokens.split_off(self.tokens.len() - count);
                // Adjacent windows overlap by one token, so that every token but the first is
                // predicted once.
                let starts = (0..tokens.len() - 1).step_by(*length);
                let window = |start: usize| tokens[start..].iter().take(*length + 1);
                let examples = starts.map(|start| window(start).copied().collect());
                let examples = examples.collect();
                *length = (*length).min(self.tokens.len() - 1);
                Ok(ValidationSet {
                    examples,
                    count,
                    replies: None,
                })
            }
        }
    }

    /// Returns `count` examples from number `first` on, wrapping around at the last document. The
    /// batch comes in at most `shards` shards with about the same number of tokens each.
    pub fn batch(&self, first: u64, count: usize, shards: usize) -> Vec<Batch> {
        let example = |i| self.example(first.wrapping_add(i));
        let examples: Vec<&[u32]> = (0..count as u64).map(example).collect();
        let sizes: Vec<usize> = examples.iter().map(|example| example.len() - 1).collect();
        partition(&sizes, shards)
            .into_iter()
            .filter(|shard| !shard.is_empty())
            .map(|shard| {
                let numbers = shard
                    .iter()
                    .map(|&i| first.wrapping_add(i as u64))
                    .collect();
                let examples: Vec<&[u32]> = shard.into_iter().map(|i| examples[i]).collect();
                Batch {
                    numbers,
                    ..Batch::new(&examples).with_targets_in(&examples, self.replies)
                }
            })
            .collect()
    }

    /// Returns the example with this number in training order.
    fn example(&self, number: u64) -> &[u32] {
        match &self.examples {
            Examples::Documents { offsets, order } => {
                let index = (number % order.len() as u64) as usize;
                &self.tokens[range(offsets, order[index])]
            }
            Examples::Windows { length, seed } => {
                // Hashing the number decorrelates the generators of adjacent windows.
                let hash = fastrand::Rng::with_seed(number).u64(..);
                let start =
                    fastrand::Rng::with_seed(seed ^ hash).usize(..self.tokens.len() - length);
                &self.tokens[start..=start + length]
            }
        }
    }
}

/// Partitions the indices of `sizes` into shards of about the same total size: greedily, the largest
/// first, into the smallest shard. A single shard keeps the order.
pub fn partition(sizes: &[usize], shards: usize) -> Vec<Vec<usize>> {
    let mut indices: Vec<usize> = (0..sizes.len()).collect();
    if shards > 1 {
        indices.sort_by_key(|&i| Reverse(sizes[i]));
    }
    let mut shards = vec![(0, Vec::new()); shards];
    for i in indices {
        let smallest = shards.iter_mut().min_by_key(|(size, _)| *size);
        let (size, shard) = smallest.expect("there is at least one shard");
        *size += sizes[i];
        shard.push(i);
    }
    shards.into_iter().map(|(_, shard)| shard).collect()
}

/// The range of a document's tokens.
fn range(offsets: &[usize], document: u32) -> Range<usize> {
    offsets[document as usize]..offsets[document as usize + 1]
}

/// The examples held out for validation.
pub struct ValidationSet {
    examples: Vec<Vec<u32>>,
    /// The number of documents, or of characters of a continuous text.
    pub count: usize,
    replies: Option<ChatTokens>,
}

impl ValidationSet {
    /// Returns all examples, in batches of at least `min_tokens` tokens but for the last.
    pub fn batches(&self, min_tokens: usize) -> Vec<Batch> {
        let mut batches = Vec::new();
        let (mut batch, mut size) = (Vec::new(), 0);
        for example in &self.examples {
            batch.push(&example[..]);
            size += example.len() - 1;
            if size >= min_tokens {
                batches.push(Batch::new(&batch).with_targets_in(&batch, self.replies));
                (batch, size) = (Vec::new(), 0);
            }
        }
        if !batch.is_empty() {
            batches.push(Batch::new(&batch).with_targets_in(&batch, self.replies));
        }
        batches
    }
}

/// Returns the positions of a conversation's tokens before each token of a reply.
fn reply_rows(document: &[u32], chat: ChatTokens) -> impl Iterator<Item = usize> + '_ {
    let mut in_reply = false;
    let inputs = document[..document.len() - 1].iter().enumerate();
    inputs.filter_map(move |(position, &token)| {
        in_reply = token == chat.assistant || (in_reply && token != chat.end_turn);
        in_reply.then_some(position)
    })
}

/// Documents packed end to end without padding, `N` tokens in all.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The model's input, `[N]`: each document without its last token.
    pub tokens: Arc<[u32]>,
    /// The position of each token in its document, `[N]`.
    pub positions: Arc<[u32]>,
    /// The next tokens to predict, `[N]`: each document without its first token; fewer with
    /// [`Self::target_rows`].
    pub targets: Arc<[u32]>,
    /// The rows of the tokens before the targets; `None` for all.
    pub target_rows: Option<Arc<[u32]>>,
    /// The bounds of the documents: document `d` is `offsets[d]..offsets[d + 1]` of the above.
    pub offsets: Arc<[usize]>,
    /// The number of each document in training order; empty for one outside of training.
    pub numbers: Arc<[u64]>,
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
            target_rows: None,
            offsets: offsets.into(),
            numbers: [].into(),
        }
    }

    /// Restricts the targets of the batch of `documents` to replies, if `replies` is set.
    fn with_targets_in(self, documents: &[&[u32]], replies: Option<ChatTokens>) -> Self {
        let Some(chat) = replies else {
            return self;
        };
        let mut rows = Vec::new();
        for (document, offset) in documents.iter().zip(&*self.offsets) {
            rows.extend(reply_rows(document, chat).map(|row| (offset + row) as u32));
        }
        Self {
            targets: rows.iter().map(|&row| self.targets[row as usize]).collect(),
            target_rows: Some(rows.into()),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::corpus_kind::CorpusKind;
    use super::*;

    fn dataset(text: &str, block_size: usize, seed: u64) -> Dataset {
        let corpus = Corpus::documents(text).unwrap();
        Dataset::new(&corpus, &corpus.tokenizer(), block_size, seed).unwrap()
    }

    #[test]
    fn batch_is_packed_without_padding() {
        let dataset = dataset("ab\nc\ndefg", 4, 1).unshuffled();
        assert_eq!(dataset.truncated, 1);
        let [batch] = &dataset.batch(4, 3, 1)[..] else {
            panic!("more than one shard")
        };
        assert_eq!(*batch.tokens, [7, 2, 7, 3, 4, 5, 7, 0, 1]);
        assert_eq!(*batch.targets, [2, 7, 3, 4, 5, 6, 0, 1, 7]);
        assert_eq!(*batch.positions, [0, 1, 0, 1, 2, 3, 0, 1, 2]);
        assert_eq!(*batch.offsets, [0, 2, 6, 9]);
    }

    #[test]
    fn order_is_a_permutation_by_seed() {
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
    fn shards_are_balanced_and_complete() {
        let text: String = (0..40).map(|d| "x".repeat(1 + d % 7) + "\n").collect();
        let dataset = dataset(&text, 16, 1);
        let whole = dataset.batch(3, 40, 1)[0].tokens.len();
        for shards in 1..50 {
            let sizes: Vec<usize> = dataset
                .batch(3, 40, shards)
                .iter()
                .map(|b| b.tokens.len())
                .collect();
            assert_eq!(sizes.iter().sum::<usize>(), whole);
            assert!(sizes.len() <= shards && sizes.iter().all(|&n| n > 0));
            assert!(
                sizes.iter().all(|n| *n <= whole / shards + 8),
                "{shards}: {sizes:?}"
            );
            if shards <= 4 {
                assert!(sizes.iter().all(|n| n.abs_diff(whole / shards) <= 1));
            }
        }
    }

    #[test]
    fn validation_documents_are_not_trained_on() {
        let text: String = ('a'..='t').map(|c| format!("{c}\n")).collect();
        let tokens = |batches: Vec<Batch>| {
            let tokens = batches.iter().flat_map(|b| b.targets.to_vec());
            let mut tokens: Vec<u32> = tokens.filter(|&t| t < 20).collect();
            tokens.sort_unstable();
            tokens
        };
        let mut split = dataset(&text, 4, 5);
        let validation = split.split_validation(0.25).unwrap();
        assert_eq!(validation.count, 5);
        let mut all = tokens(split.batch(0, 15, 2));
        all.extend(tokens(validation.batches(3)));
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<u32>>());
        assert!(dataset("a\nb", 4, 1).split_validation(0.9).is_err());
        assert!(dataset("a", 4, 1).split_validation(0.1).is_err());
    }

    #[test]
    fn windows_cover_all_but_the_validation_tokens() {
        let text: String = (0..100)
            .map(|i| char::from_u32(0x4e00 + i).unwrap())
            .collect();
        let corpus = Corpus::continuous(&text).unwrap();
        let mut dataset = Dataset::new(&corpus, &corpus.tokenizer(), 8, 1).unwrap();
        let validation = dataset.split_validation(0.2).unwrap();
        let [batch] = &dataset.batch(0, 2000, 1)[..] else {
            panic!("more than one shard")
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
        let targets = validation.batches(10);
        let targets: Vec<u32> = targets.iter().flat_map(|b| b.targets.to_vec()).collect();
        assert_eq!(targets, (81..100).collect::<Vec<u32>>());
        // A window depends on its number, not on its batch.
        assert_eq!(dataset.batch(7, 1, 1)[0].tokens[..], batch.tokens[56..64]);
    }

    #[test]
    fn targets_can_be_restricted_to_replies() {
        let turns = |user: &str, reply: &str| {
            let message = |role: &str, content: &str| {
                format!(r#"{{"role": "{role}", "content": "{content}"}}"#)
            };
            let (question, reply) = (message("user", user), message("assistant", reply));
            format!("[{question}, {reply}, {}]", message("user", "a"))
        };
        let text = [turns("ab", "ba"), turns("aaaaaaaa", "b"), turns("", "")].join("\n");
        let corpus = Corpus::new(&text, CorpusKind::Conversations).unwrap();
        let tokenizer = corpus.tokenizer();
        let chat = tokenizer.chat_tokens().unwrap();
        let dataset = Dataset::new(&corpus, &tokenizer, 8, 1).unwrap();
        let mut restricted = dataset.unshuffled();
        restricted.predict_replies_only(chat).unwrap();
        assert_eq!(restricted.without_reply, 1);
        let [batch] = &restricted.batch(0, 2, 1)[..] else {
            panic!("more than one shard")
        };
        // bos user a b end assistant b a end, and bos user end assistant end user a end bos.
        assert_eq!(*batch.targets, [1, 0, 4, 4]);
        assert_eq!(batch.target_rows.as_deref(), Some(&[5, 6, 7, 11][..]));
        let validation = restricted.split_validation(0.5).unwrap().batches(1);
        assert_eq!(*validation[0].targets, [4]);
        let text = turns("aaaaaaaa", "b");
        let corpus = Corpus::new(&text, CorpusKind::Conversations).unwrap();
        let mut without_reply = Dataset::new(&corpus, &tokenizer, 8, 1).unwrap();
        assert!(without_reply.predict_replies_only(chat).is_err());
    }

    #[test]
    fn partition_balances_the_sizes() {
        let sizes = [30_000, 10_000, 40_000, 40_000, 20_000, 1_000];
        for count in [1, 2, 3] {
            let shards = partition(&sizes, count);
            let mut all: Vec<usize> = shards.concat();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5]);
            let totals = shards
                .iter()
                .map(|shard| shard.iter().map(|&i| sizes[i]).sum::<usize>());
            // The bound of greedy partitioning: 4/3 of the optimum (Graham 1969).
            assert!(totals.max().unwrap() * 3 <= 141_000 / count * 4);
        }
    }
}
