//! What a model has made of the beginnings of texts, for texts that begin in the same way.
//!
//! Names begin like other names, and lines of a log like the lines before them. A tree remembers what
//! comes next: at its root after the tokens that all texts begin with, at each other node after one
//! token more. A text adds at most one node, for the token with which it leaves what is remembered, so
//! that the tree grows where texts come by most often. When it is full, nodes that no text came by are
//! forgotten, so that it holds what is of use now.

use std::sync::Arc;

use super::{InferenceGpt, Room, Run, Stream};

/// How much a tree remembers, in bytes.
const MEMORY: usize = 4 << 20;

/// The tokens that texts have in common, as the model has seen them.
#[derive(Debug)]
pub struct Prefix {
    stream: Stream,
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
        let (mut stream, mut room) = (model.stream(), Room::default());
        let run = Run {
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
pub struct Beginnings {
    prefix: Arc<Prefix>,
    /// How many nodes there can be.
    most: usize,
    /// What is remembered of the token that comes next.
    next: Rows<f64>,
    /// The node that each token leads to, `[nodes, V]`; the root, to which none does, where that is not
    /// remembered.
    children: Rows<u32>,
    /// What the model remembers of each node's token.
    numbers: Rows<i32>,
    scales: Rows<f64>,
    parents: Vec<u32>,
    /// Whether a text came by since nodes were forgotten.
    visited: Vec<bool>,
    /// How often nodes were forgotten.
    renewals: u64,
}

/// A place in a tree, until nodes of it are forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    number: u32,
    /// How many tokens lead to it, those of the prefix included.
    length: usize,
    renewals: u64,
}

impl Node {
    /// How many tokens the model has seen here.
    pub fn length(self) -> usize {
        self.length
    }
}

impl Beginnings {
    /// Of texts that begin with a prefix.
    pub fn new(model: &InferenceGpt, prefix: Arc<Prefix>) -> Self {
        Self::with_memory(model, prefix, MEMORY)
    }

    pub(super) fn with_memory(model: &InferenceGpt, prefix: Arc<Prefix>, memory: usize) -> Self {
        let (numbers, scales) = prefix.stream.token_size();
        let mut tree = Self {
            most: 0,
            next: Rows::new(prefix.next.len()),
            children: Rows::new(model.meta().tokenizer.vocab_size()),
            numbers: Rows::new(numbers),
            scales: Rows::new(scales),
            parents: Vec::new(),
            visited: Vec::new(),
            renewals: 0,
            prefix,
        };
        let row = tree.next.bytes()
            + tree.children.bytes()
            + tree.numbers.bytes()
            + tree.scales.bytes()
            + size_of::<(u32, bool)>();
        tree.most = (memory / row).max(2);
        tree.push(0, &Arc::clone(&tree.prefix).next);
        tree
    }

    /// Adds a node to which no token leads yet, and of whose token nothing is remembered.
    fn push(&mut self, parent: u32, next: &[f64]) {
        self.next.push().copy_from_slice(next);
        self.children.push();
        self.numbers.push();
        self.scales.push();
        self.parents.push(parent);
        self.visited.push(false);
    }

    /// Where all texts begin.
    pub fn root(&self) -> Node {
        Node {
            number: 0,
            length: self.prefix.stream.length(),
            renewals: self.renewals,
        }
    }

    /// What is remembered of the token that comes next.
    pub fn next(&self, node: Node) -> &[f64] {
        self.next.get(node.number as usize)
    }

    /// Where a token leads to, if that is remembered.
    pub fn after(&mut self, node: Node, token: u32) -> Option<Node> {
        let number = self.children.get(node.number as usize)[token as usize];
        self.visited[number as usize] = true;
        (number != 0).then_some(Node {
            number,
            length: node.length + 1,
            ..node
        })
    }

    /// Makes a stream one that has seen the tokens that lead to a node.
    pub fn copy_to(&self, node: Node, stream: &mut Stream) {
        stream.copy_from(&self.prefix.stream);
        let mut number = node.number as usize;
        for position in (self.prefix.stream.length()..node.length).rev() {
            stream.write_token(position, self.numbers.get(number), self.scales.get(number));
            number = self.parents[number] as usize;
        }
        stream.set_length(node.length);
    }

    /// Remembers what comes after a node and a token, which `stream` has seen.
    pub fn add(&mut self, node: Node, token: u32, next: &[f64], stream: &Stream) {
        if node.renewals != self.renewals || self.after(node, token).is_some() {
            return;
        }
        if self.parents.len() == self.most {
            return self.forget();
        }
        let number = self.parents.len();
        self.push(node.number, next);
        self.children.get_mut(node.number as usize)[token as usize] = number as u32;
        let (numbers, scales) = (self.numbers.get_mut(number), self.scales.get_mut(number));
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
                self.next.copy_within(number, kept);
                self.children.copy_within(number, kept);
                self.numbers.copy_within(number, kept);
                self.scales.copy_within(number, kept);
                // A parent is older than its children, and visited when they are.
                self.parents[kept] = renumbered[self.parents[number] as usize];
                kept += 1;
            }
        }
        self.next.truncate(kept);
        self.children.truncate(kept);
        self.numbers.truncate(kept);
        self.scales.truncate(kept);
        self.parents.truncate(kept);
        self.visited.truncate(kept);
        self.visited.fill(false);
        for child in &mut self.children.data {
            *child = renumbered[*child as usize];
        }
    }
}

/// Rows of the same width.
struct Rows<T> {
    width: usize,
    data: Vec<T>,
}

impl<T: Copy + Default> Rows<T> {
    fn new(width: usize) -> Self {
        Self {
            width,
            data: Vec::new(),
        }
    }

    /// How much memory a row takes.
    fn bytes(&self) -> usize {
        self.width * size_of::<T>()
    }

    fn get(&self, row: usize) -> &[T] {
        &self.data[row * self.width..][..self.width]
    }

    fn get_mut(&mut self, row: usize) -> &mut [T] {
        &mut self.data[row * self.width..][..self.width]
    }

    /// Adds a row of zeros.
    fn push(&mut self) -> &mut [T] {
        let start = self.data.len();
        self.data.resize(start + self.width, T::default());
        &mut self.data[start..]
    }

    fn copy_within(&mut self, from: usize, to: usize) {
        let from = from * self.width;
        self.data
            .copy_within(from..from + self.width, to * self.width);
    }

    fn truncate(&mut self, rows: usize) {
        self.data.truncate(rows * self.width);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Batch, GenerateOptions, Generator, ModelConfig, ModelMeta, SamplingOptions, Scorer,
        initial_weights,
    };
    use super::*;
    use crate::data::{Kind, Tokenizer};

    const CONTEXT: usize = 9;

    /// How much the model remembers of a token does not fill whole vectors.
    fn model(kind: Kind) -> Arc<InferenceGpt> {
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
        let mut batch = Batch::new(generator.model(), Some(Arc::clone(&prefix)));
        let beginnings = Beginnings::with_memory(generator.model(), prefix, memory);
        *batch.beginnings() = Some(beginnings);
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
        let beginnings = batch.beginnings().take().unwrap();
        (beginnings.renewals, beginnings.parents.len())
    }

    #[test]
    fn a_text_is_what_it_would_be_alone() {
        for kind in [Kind::Documents, Kind::Continuous] {
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
                // Room for two nodes, a few, and many.
                for memory in [0, 5_000, 40_000] {
                    forgotten += compare(&generator, memory).0;
                }
            }
            assert!(forgotten > 100, "{kind:?}: {forgotten}");
        }
    }

    #[test]
    fn a_line_has_the_score_that_it_would_have_alone() {
        let model = model(Kind::Documents);
        let mut rng = fastrand::Rng::with_seed(4);
        // The ends of lines, lines that others begin with, and lines longer than the context.
        let mut line = || -> Vec<u32> {
            let length = rng.usize(0..20);
            let tokens = std::iter::repeat_with(|| rng.u32(0..2)).take(length);
            let bos = model.meta().tokenizer.beginning();
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
