//! Batches of training examples.

use std::cmp::Reverse;
use std::sync::Arc;

use super::tokenizer::ChatTokens;

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
    pub fn with_targets_in(self, documents: &[&[u32]], replies: Option<ChatTokens>) -> Self {
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

/// Returns the positions of a conversation's tokens before each token of a reply.
pub fn reply_rows(document: &[u32], chat: ChatTokens) -> impl Iterator<Item = usize> + '_ {
    let mut in_reply = false;
    let inputs = document[..document.len() - 1].iter().enumerate();
    inputs.filter_map(move |(position, &token)| {
        in_reply = token == chat.assistant || (in_reply && token != chat.end_turn);
        in_reply.then_some(position)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

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
