//! Training examples from the tokens of a corpus.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::batch::{Batch, partition, reply_rows};
use super::byte_store::SpillOptions;
use super::corpus::Corpus;
use super::corpus_kind::CorpusKind;
use super::token_store::{TokenStore, TokenWriter};
use super::tokenizer::{ChatTokens, Tokenizer};
use super::visiting_order::{MAX_TABLE, VisitingOrder};

/// The settings of a dataset.
#[derive(Clone)]
pub struct DatasetOptions {
    /// Documents are truncated to `block_size + 1` tokens.
    pub block_size: usize,
    /// Determines the order of the examples.
    pub seed: u64,
    /// Restricts the predictions to the assistant's messages and their ends, and leaves out
    /// conversations without any in the context.
    pub replies: Option<ChatTokens>,
    pub spill: SpillOptions,
}

/// The tokens of a training text and the order of its examples.
pub struct Dataset {
    examples: Examples,
    /// The number of documents truncated to the context.
    pub truncated: u64,
    /// The number of conversations left out because they have no reply to predict.
    pub without_reply: u64,
}

/// Examples, by number.
#[derive(Clone)]
struct Examples {
    store: Arc<TokenStore>,
    division: Division,
    /// Set if only replies are predicted.
    replies: Option<ChatTokens>,
}

/// The division of a text into examples.
#[derive(Clone)]
enum Division {
    /// The documents at these positions of the visiting order.
    Documents {
        order: Arc<VisitingOrder>,
        positions: Range<u64>,
    },
    /// Windows of `length + 1` tokens at random positions of a continuous text, among its first
    /// `tokens`.
    Windows { length: u64, tokens: u64, seed: u64 },
    /// Windows of at most `length + 1` tokens that cover these tokens of a continuous text. Adjacent
    /// ones overlap by one token, so that every token but the first is predicted once.
    Cover { length: u64, tokens: Range<u64> },
}

impl Dataset {
    /// Tokenizes a corpus in memory and truncates its documents to `block_size + 1` tokens. The seed
    /// determines the order of the examples.
    pub fn new(
        corpus: &Corpus,
        tokenizer: &Tokenizer,
        block_size: usize,
        seed: u64,
    ) -> Result<Self> {
        let options = DatasetOptions {
            block_size,
            seed,
            replies: None,
            spill: SpillOptions::memory(),
        };
        Self::build(corpus, tokenizer, &options, &|_| {})
    }

    /// Tokenizes a corpus. `progress` is called with the number of bytes read.
    pub fn build(
        corpus: &Corpus,
        tokenizer: &Tokenizer,
        options: &DatasetOptions,
        progress: &dyn Fn(u64),
    ) -> Result<Self> {
        let mut writer = TokenWriter::new(tokenizer.vocab_size(), &options.spill)?;
        let (mut truncated, mut documents, mut left_out) = (0, 0, Vec::new());
        let is_continuous = corpus.kind() == CorpusKind::Continuous;
        corpus.for_each_encoded(tokenizer, progress, |tokens| {
            if is_continuous {
                return writer.push(tokens);
            }
            let length = tokens.len().min(options.block_size + 1);
            truncated += u64::from(length < tokens.len());
            let tokens = &tokens[..length];
            documents += 1;
            let is_reply = |chat| reply_rows(tokens, chat).next().is_some();
            if options.replies.is_none_or(is_reply) {
                writer.push(tokens)?;
                writer.end_document()?;
            } else if documents <= MAX_TABLE {
                left_out.push(documents as u32 - 1);
            }
            Ok(())
        })?;
        let store = Arc::new(writer.finish()?);
        let kept = store.documents();
        let division = match is_continuous {
            true => Division::Windows {
                length: (options.block_size as u64).min(store.len() - 1),
                tokens: store.len(),
                seed: options.seed,
            },
            false => Division::Documents {
                order: VisitingOrder::new(documents, kept, &left_out, options.seed).into(),
                positions: 0..kept,
            },
        };
        ensure!(
            is_continuous || kept > 0,
            "no conversation has an assistant's message within the context"
        );
        Ok(Self {
            examples: Examples {
                store,
                division,
                replies: options.replies.filter(|_| !is_continuous),
            },
            truncated,
            without_reply: documents - kept,
        })
    }

    /// Restores the documents' order in the corpus.
    pub fn unshuffled(mut self) -> Self {
        if let Division::Documents { order, positions } = &mut self.examples.division {
            *order = VisitingOrder::Sequential.into();
            *positions = 0..self.examples.store.documents();
        }
        self
    }

    /// Removes a fraction of the data for validation: the last documents in shuffled order, or the
    /// end of a continuous text. Errors if either part would be empty.
    pub fn split_validation(&mut self, fraction: f64) -> Result<ValidationSet> {
        let part_of = |total: u64| (total as f64 * fraction).round() as u64;
        let (count, division) = match &mut self.examples.division {
            Division::Documents { order, positions } => {
                let total = positions.end;
                let count = part_of(total).max(1);
                ensure!(
                    count < total,
                    "--validation-fraction {fraction} of {total} leaves nothing to train on"
                );
                positions.end = total - count;
                let division = Division::Documents {
                    order: Arc::clone(order),
                    positions: total - count..total,
                };
                (count, division)
            }
            Division::Windows { length, tokens, .. } => {
                let total = *tokens;
                let count = part_of(total);
                ensure!(
                    count > 1 && total - count > 1,
                    "--validation-fraction {fraction} of {total} characters leaves too few"
                );
                *tokens = total - count;
                let division = Division::Cover {
                    length: *length,
                    tokens: *tokens..total,
                };
                *length = (*length).min(*tokens - 1);
                (count, division)
            }
            Division::Cover { .. } => unreachable!("a dataset is not a validation set"),
        };
        Ok(ValidationSet {
            examples: Examples {
                division,
                ..self.examples.clone()
            },
            count,
        })
    }

    /// Returns `count` examples from number `first` on, wrapping around at the last document. The
    /// batch comes in at most `shards` shards with about the same number of tokens each. Errors if
    /// the temporary file of tokens cannot be read.
    pub fn batch(&self, first: u64, count: usize, shards: usize) -> Result<Vec<Batch>> {
        let example = |i| self.examples.get(first.wrapping_add(i));
        let examples = (0..count as u64).map(example).collect::<Result<Vec<_>>>()?;
        let sizes: Vec<usize> = examples.iter().map(|example| example.len() - 1).collect();
        let shards = partition(&sizes, shards)
            .into_iter()
            .filter(|shard| !shard.is_empty())
            .map(|shard| {
                let number = |&i: &usize| first.wrapping_add(i as u64);
                let numbers = shard.iter().map(number).collect();
                let examples: Vec<&[u32]> = shard.into_iter().map(|i| &examples[i][..]).collect();
                Batch {
                    numbers,
                    ..Batch::new(&examples).with_targets_in(&examples, self.examples.replies)
                }
            });
        Ok(shards.collect())
    }
}

impl Examples {
    /// The number of examples that cover the text once.
    fn len(&self) -> u64 {
        match &self.division {
            Division::Documents { positions, .. } => positions.end - positions.start,
            Division::Windows { length, tokens, .. } => tokens - length,
            Division::Cover { length, tokens } => (tokens.end - tokens.start - 1).div_ceil(*length),
        }
    }

    /// Reads the example with this number.
    fn get(&self, number: u64) -> Result<Vec<u32>> {
        let range = match &self.division {
            Division::Documents { order, positions } => {
                let position = positions.start + number % self.len();
                self.store.range(order.get(position))?
            }
            Division::Windows { length, seed, .. } => {
                // Hashing the number decorrelates the generators of adjacent windows.
                let hash = fastrand::Rng::with_seed(number).u64(..);
                let start = fastrand::Rng::with_seed(seed ^ hash).u64(..self.len());
                start..start + length + 1
            }
            Division::Cover { length, tokens } => {
                let start = tokens.start + number * length;
                start..(start + length + 1).min(tokens.end)
            }
        };
        self.store.read(range)
    }
}

/// The examples held out for validation.
pub struct ValidationSet {
    examples: Examples,
    /// The number of documents, or of characters of a continuous text.
    pub count: u64,
}

impl ValidationSet {
    /// Iterates over all examples, in batches of at least `min_tokens` tokens but for the last.
    pub fn batches(&self, min_tokens: usize) -> impl Iterator<Item = Result<Batch>> + '_ {
        let mut numbers = 0..self.examples.len();
        std::iter::from_fn(move || {
            let (mut batch, mut size) = (Vec::new(), 0);
            for number in numbers.by_ref() {
                match self.examples.get(number) {
                    Ok(example) => {
                        size += example.len() - 1;
                        batch.push(example);
                    }
                    Err(error) => return Some(Err(error)),
                }
                if size >= min_tokens {
                    break;
                }
            }
            let examples: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
            let batch = || Batch::new(&examples).with_targets_in(&examples, self.examples.replies);
            (!examples.is_empty()).then(|| Ok(batch()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(text: &str, block_size: usize, seed: u64) -> Dataset {
        let corpus = Corpus::documents(text).unwrap();
        Dataset::new(&corpus, &corpus.tokenizer(), block_size, seed).unwrap()
    }

    fn batches(validation: &ValidationSet, min_tokens: usize) -> Vec<Batch> {
        validation.batches(min_tokens).map(Result::unwrap).collect()
    }

    #[test]
    fn batch_is_packed_without_padding() {
        let dataset = dataset("ab\nc\ndefg", 4, 1).unshuffled();
        assert_eq!(dataset.truncated, 1);
        let [batch] = &dataset.batch(4, 3, 1).unwrap()[..] else {
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
            dataset.batch(0, 7, 1).unwrap()[0].tokens.to_vec()
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
        let whole = dataset.batch(3, 40, 1).unwrap()[0].tokens.len();
        for shards in 1..50 {
            let sizes: Vec<usize> = dataset
                .batch(3, 40, shards)
                .unwrap()
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
        let mut all = tokens(split.batch(0, 15, 2).unwrap());
        all.extend(tokens(batches(&validation, 3)));
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
        let [batch] = &dataset.batch(0, 2000, 1).unwrap()[..] else {
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
        let targets = batches(&validation, 10);
        let targets: Vec<u32> = targets.iter().flat_map(|b| b.targets.to_vec()).collect();
        assert_eq!(targets, (81..100).collect::<Vec<u32>>());
        // A window depends on its number, not on its batch.
        assert_eq!(
            dataset.batch(7, 1, 1).unwrap()[0].tokens[..],
            batch.tokens[56..64]
        );
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
        let options = DatasetOptions {
            block_size: 8,
            seed: 1,
            replies: Some(chat),
            spill: SpillOptions::memory(),
        };
        let dataset = Dataset::build(&corpus, &tokenizer, &options, &|_| {}).unwrap();
        let mut restricted = dataset.unshuffled();
        assert_eq!(restricted.without_reply, 1);
        let [batch] = &restricted.batch(0, 2, 1).unwrap()[..] else {
            panic!("more than one shard")
        };
        // bos user a b end assistant b a end, and bos user end assistant end user a end bos.
        assert_eq!(*batch.targets, [1, 0, 4, 4]);
        assert_eq!(batch.target_rows.as_deref(), Some(&[5, 6, 7, 11][..]));
        let validation = batches(&restricted.split_validation(0.5).unwrap(), 1);
        assert_eq!(*validation[0].targets, [4]);
        let text = turns("aaaaaaaa", "b");
        let corpus = Corpus::new(&text, CorpusKind::Conversations).unwrap();
        assert!(Dataset::build(&corpus, &tokenizer, &options, &|_| {}).is_err());
    }

    #[test]
    fn dataset_in_files_gives_the_batches_of_one_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let turn = |i: usize| {
            let (role, content) = (["user", "assistant"][i % 2], i * i);
            format!(
                r#"[{{"role": "user", "content": "{i}"}}, {{"role": "{role}", "content": "{content}é"}}]"#
            )
        };
        let lines = |line: fn(usize) -> String| (0..999).map(line).collect::<Vec<_>>().join("\n");
        for (kind, text) in [
            (CorpusKind::Documents, lines(|i| format!("line {i}"))),
            (CorpusKind::Continuous, lines(|i| format!("line {i}é"))),
            // Tokens of 2 and of 4 bytes.
            (
                CorpusKind::Documents,
                (0..500)
                    .filter_map(|i| char::from_u32(0x4e00 + i))
                    .map(|c| format!("{c}\n"))
                    .collect(),
            ),
            (
                CorpusKind::Documents,
                (0..=char::MAX as u32)
                    .step_by(16)
                    .filter_map(char::from_u32)
                    .map(|c| format!("a{c}b\n"))
                    .collect(),
            ),
            (
                CorpusKind::Conversations,
                (0..999).map(turn).collect::<Vec<_>>().join("\n"),
            ),
        ] {
            let text = text.replace('\0', "");
            let build = |spill| {
                let corpus = Corpus::new(&text, kind).unwrap();
                let tokenizer = corpus.tokenizer();
                let options = DatasetOptions {
                    block_size: 11,
                    seed: 3,
                    replies: tokenizer.chat_tokens(),
                    spill,
                };
                let mut dataset = Dataset::build(&corpus, &tokenizer, &options, &|_| {}).unwrap();
                let validation = dataset.split_validation(0.2).unwrap();
                let mut all = dataset.batch(5, 3000, 2).unwrap();
                all.extend(batches(&validation, 100));
                (all, dataset.truncated, dataset.without_reply)
            };
            let (memory, truncated, without_reply) = build(SpillOptions::memory());
            let (file, truncated_too, without_reply_too) = build(SpillOptions {
                max_memory: 0,
                dir: dir.path().into(),
            });
            assert_eq!(
                (truncated, without_reply),
                (truncated_too, without_reply_too)
            );
            assert_eq!(without_reply > 0, kind == CorpusKind::Conversations);
            assert_eq!(memory.len(), file.len());
            for (memory, file) in memory.iter().zip(&file) {
                assert_eq!(memory.tokens, file.tokens);
                assert_eq!(memory.targets, file.targets);
                assert_eq!(memory.target_rows, file.target_rows);
                assert_eq!(memory.offsets, file.offsets);
            }
        }
    }
}
