//! Prefix cache: a trie of KV entries and next-token weights, shared by sequences that start alike.
//!
//! Names begin like other names, and lines of a log like the lines before them. The root stands for
//! the tokens that all sequences begin with, each other node for one token more. A sequence adds at
//! most one node, for the token with which it leaves the trie, so that the trie grows along the most
//! common beginnings. A full trie evicts the nodes that no sequence passed since the last eviction.

use std::sync::Arc;

use crate::infer::{Chunk, InferenceGpt, SequenceCache, Workspace};

/// The memory of a trie, in bytes.
const MEMORY: usize = 4 << 20;

/// The tokens that texts have in common, as the model has seen them.
#[derive(Debug)]
pub struct Prefix {
    stream: SequenceCache,
    next: Vec<f64>,
}

impl Prefix {
    /// Lets the model see some tokens, at least one and no more than its context. `next` turns logits
    /// into what is to be remembered of the token that comes next, so many numbers.
    pub fn new(
        model: &InferenceGpt,
        tokens: &[u32],
        next: impl FnOnce(&[f64]) -> Vec<f64>,
    ) -> Self {
        let (mut stream, mut room) = (model.new_cache(), Workspace::default());
        let run = Chunk {
            stream: &mut stream,
            tokens,
            logits_from: tokens.len() - 1,
        };
        model.forward(&mut room, &mut [run]);
        let next = next(room.logits(0));
        Self { stream, next }
    }
}

/// Which tokens the model has seen, and what it made of them.
pub struct PrefixCache {
    prefix: Arc<Prefix>,
    vocab_size: usize,
    /// The numbers and the scales of a token's KV entry.
    token_size: (usize, usize),
    /// The maximum number of nodes.
    most: usize,
    /// A row for each node: what is remembered of the token that comes next; the scales and the numbers
    /// of the token that leads to it; and the node that each token leads to, `[V]`, which is the root, to
    /// which none does, where that is not remembered. The last two are of 32 bits.
    rows: Rows,
    parents: Vec<u32>,
    /// Set for each node that a sequence passed since the last eviction.
    visited: Vec<bool>,
    /// The number of evictions.
    renewals: u64,
}

/// A place in a tree, until nodes of it are forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    number: u32,
    /// The number of tokens up to it, those of the prefix included.
    length: usize,
    renewals: u64,
}

impl Node {
    /// The number of tokens up to this node.
    pub fn length(self) -> usize {
        self.length
    }
}

impl PrefixCache {
    /// Of texts that begin with a prefix.
    pub fn new(model: &InferenceGpt, prefix: Arc<Prefix>) -> Self {
        Self::with_memory(model, prefix, MEMORY)
    }

    fn with_memory(model: &InferenceGpt, prefix: Arc<Prefix>, memory: usize) -> Self {
        let vocab_size = model.meta().tokenizer.vocab_size();
        let (numbers, scales) = prefix.stream.token_size();
        let width = prefix.next.len() + scales + (numbers + vocab_size).div_ceil(2);
        let mut tree = Self {
            vocab_size,
            token_size: (numbers, scales),
            most: (memory / (width * size_of::<f64>())).max(2),
            rows: Rows::new(width),
            parents: Vec::new(),
            visited: Vec::new(),
            renewals: 0,
            prefix,
        };
        tree.push(0, &Arc::clone(&tree.prefix).next);
        tree
    }

    /// Adds a node to which no token leads yet, and of whose token nothing is remembered.
    fn push(&mut self, parent: u32, next: &[f64]) {
        self.rows.push()[..next.len()].copy_from_slice(next);
        self.parents.push(parent);
        self.visited.push(false);
    }

    /// The KV entry of a node's token.
    fn token(&self, number: usize) -> (&[i32], &[f64]) {
        let (numbers, scales) = self.token_size;
        let (scales, rest) = self.rows.get(number)[self.prefix.next.len()..].split_at(scales);
        (&bytemuck::cast_slice(rest)[..numbers], scales)
    }

    fn token_mut(&mut self, number: usize) -> (&mut [i32], &mut [f64]) {
        let (numbers, scales) = self.token_size;
        let row = &mut self.rows.get_mut(number)[self.prefix.next.len()..];
        let (scales, rest) = row.split_at_mut(scales);
        (&mut bytemuck::cast_slice_mut(rest)[..numbers], scales)
    }

    /// The child of a node for each token.
    fn children(&mut self, number: usize) -> &mut [u32] {
        let (numbers, scales) = self.token_size;
        let rest = &mut self.rows.get_mut(number)[self.prefix.next.len() + scales..];
        &mut bytemuck::cast_slice_mut(rest)[numbers..][..self.vocab_size]
    }

    /// The root: the end of the common prefix.
    pub fn root(&self) -> Node {
        Node {
            number: 0,
            length: self.prefix.stream.length(),
            renewals: self.renewals,
        }
    }

    /// The cached values for the next token.
    pub fn next(&self, node: Node) -> &[f64] {
        &self.rows.get(node.number as usize)[..self.prefix.next.len()]
    }

    /// The child for a token, if it is cached.
    pub fn after(&mut self, node: Node, token: u32) -> Option<Node> {
        let number = self.children(node.number as usize)[token as usize];
        self.visited[number as usize] = true;
        (number != 0).then_some(Node {
            number,
            length: node.length + 1,
            ..node
        })
    }

    /// Makes a stream one that has seen the tokens that lead to a node.
    pub fn copy_to(&self, node: Node, stream: &mut SequenceCache) {
        stream.copy_from(&self.prefix.stream);
        let mut number = node.number as usize;
        for position in (self.prefix.stream.length()..node.length).rev() {
            let (numbers, scales) = self.token(number);
            stream.write_token(position, numbers, scales);
            number = self.parents[number] as usize;
        }
        stream.set_length(node.length);
    }

    /// Remembers what comes after a node and a token, which `stream` has seen.
    pub fn add(&mut self, node: Node, token: u32, next: &[f64], stream: &SequenceCache) {
        if node.renewals != self.renewals || self.after(node, token).is_some() {
            return;
        }
        if self.parents.len() == self.most {
            return self.forget();
        }
        let number = self.parents.len();
        self.push(node.number, next);
        self.children(node.number as usize)[token as usize] = number as u32;
        let (numbers, scales) = self.token_mut(number);
        stream.read_token(node.length, numbers, scales);
    }

    /// Forgets what no text came by since the last time, and so much of the rest, of which the oldest
    /// is the most common, that half of the tree is free.
    fn forget(&mut self) {
        self.renewals += 1;
        let mut renumbered = vec![0; self.parents.len()];
        let mut kept = 1;
        for number in 1..self.parents.len() {
            if self.visited[number] && kept < self.most / 2 {
                renumbered[number] = kept as u32;
                self.rows.copy_within(number, kept);
                // A parent is older than its children, and visited when they are.
                self.parents[kept] = renumbered[self.parents[number] as usize];
                kept += 1;
            }
        }
        self.rows.truncate(kept);
        self.parents.truncate(kept);
        self.visited.truncate(kept);
        self.visited.fill(false);
        for number in 0..kept {
            for child in self.children(number) {
                *child = renumbered[*child as usize];
            }
        }
    }
}

/// Rows per chunk.
const CHUNK: usize = 64;

/// Rows of the same width, in chunks, so that they take no more memory than there are.
struct Rows {
    width: usize,
    chunks: Vec<Vec<f64>>,
}

impl Rows {
    fn new(width: usize) -> Self {
        Self {
            width,
            chunks: Vec::new(),
        }
    }

    fn get(&self, row: usize) -> &[f64] {
        &self.chunks[row / CHUNK][row % CHUNK * self.width..][..self.width]
    }

    fn get_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.chunks[row / CHUNK][row % CHUNK * self.width..][..self.width]
    }

    /// Adds a row of zeros.
    fn push(&mut self) -> &mut [f64] {
        let (width, size) = (self.width, CHUNK * self.width);
        if self.chunks.last().is_none_or(|chunk| chunk.len() == size) {
            self.chunks.push(Vec::with_capacity(size));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        chunk.resize(chunk.len() + width, 0.0);
        let start = chunk.len() - width;
        &mut chunk[start..]
    }

    fn copy_within(&mut self, from: usize, to: usize) {
        let row = self.get(from).to_vec();
        self.get_mut(to).copy_from_slice(&row);
    }

    fn truncate(&mut self, rows: usize) {
        self.chunks.truncate(rows.div_ceil(CHUNK));
        if let Some(last) = self.chunks.last_mut() {
            last.truncate((rows - (rows - 1) / CHUNK * CHUNK) * self.width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DecodeBatch, GenerateOptions, Generator, SamplingOptions, Scorer};
    use super::*;
    use crate::data::{CorpusKind, Tokenizer};
    use crate::model::{ModelConfig, ModelMeta, initial_weights};

    const CONTEXT: usize = 9;

    /// A token's KV entry does not fill whole vectors.
    fn model(kind: CorpusKind) -> Arc<InferenceGpt> {
        let config = ModelConfig {
            n_embd: 15,
            n_head: 3,
            n_layer: 2,
            block_size: CONTEXT,
        };
        let tokenizer = Tokenizer::from_texts(["abcdefgh\n"].into_iter(), kind);
        let meta = ModelMeta { config, tokenizer };
        let mut weights = initial_weights(config, meta.tokenizer.vocab_size(), 5);
        for weight in weights.values_mut().flat_map(|tensor| &mut tensor.values) {
            // Large enough that it matters what comes before.
            *weight *= 4.0;
        }
        Arc::new(InferenceGpt::from_tensors(meta, &weights))
    }

    /// Makes many texts, a few at a time, and compares each with what it is alone. Gives how often nodes
    /// were forgotten, and how many there are.
    fn compare(generator: &Generator, memory: usize) -> (u64, usize) {
        let prefix = generator.prefix().unwrap();
        let mut batch = DecodeBatch::new(generator.model(), Some(Arc::clone(&prefix)));
        let prefix_cache = PrefixCache::with_memory(generator.model(), prefix, memory);
        *batch.prefix_cache() = Some(prefix_cache);
        for index in 0..400 {
            batch.add(index, generator.text(index));
            while batch.len() > 4 {
                batch.step(
                    |_, _| true,
                    |index, text, _| {
                        let sample = generator.sample_of(text.sampled());
                        assert_eq!(sample, generator.sample(index), "sample {index}");
                    },
                );
            }
        }
        let prefix_cache = batch.prefix_cache().take().unwrap();
        (prefix_cache.renewals, prefix_cache.parents.len())
    }

    #[test]
    fn a_text_is_what_it_would_be_alone() {
        for kind in [CorpusKind::Documents, CorpusKind::Continuous] {
            let mut forgotten = 0;
            for (prompt, temperature) in [("", 1.0), ("ab", 0.7), ("", 0.0), ("abcabc", 1.0)] {
                let options = GenerateOptions {
                    sampling: SamplingOptions {
                        temperature,
                        ..Default::default()
                    },
                    // Further than the context of a continuous text.
                    max_tokens: Some(2 * CONTEXT),
                    prompt: prompt.into(),
                    ..Default::default()
                };
                let generator = Generator::new(model(kind), options).unwrap();
                let (renewals, nodes) = compare(&generator, 1 << 20);
                assert!(renewals == 0 && nodes > 1, "{nodes} nodes");
                // Workspace for two nodes, a few, and many.
                for memory in [0, 5_000, 40_000] {
                    forgotten += compare(&generator, memory).0;
                }
            }
            assert!(forgotten > 100, "{kind:?}: {forgotten}");
        }
    }

    #[test]
    fn a_line_has_the_score_that_it_would_have_alone() {
        let model = model(CorpusKind::Documents);
        let mut rng = fastrand::Rng::with_seed(4);
        // The ends of lines, lines that others begin with, and lines longer than the context.
        let mut line = || -> Vec<u32> {
            let length = rng.usize(0..20);
            let tokens = std::iter::repeat_with(|| rng.u32(0..2)).take(length);
            let bos = model.meta().tokenizer.start_token();
            [bos].into_iter().chain(tokens).chain([bos]).collect()
        };
        let lines: Vec<_> = std::iter::repeat_with(&mut line).take(500).collect();
        let lines: Vec<&[u32]> = lines.iter().map(Vec::as_slice).collect();
        let together = Scorer::new(&model).score_tokens(&lines);
        for (line, together) in lines.iter().zip(together) {
            let alone = Scorer::new(&model).score_tokens(&[line])[0];
            assert_eq!(alone.bits.to_bits(), together.bits.to_bits(), "{line:?}");
        }
    }
}
