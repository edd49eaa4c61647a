//! What a model has made of the beginnings of texts, for texts that begin in the same way.
//!
//! Names begin like other names, and lines of a log like the lines before them. A tree remembers what
//! comes next: at its root after the tokens that all texts begin with, at each other node after one
//! token more. A text adds at most one node, for the token with which it leaves what is remembered, so
//! that the tree grows where texts come by most often. When it is full it begins anew, and so holds what
//! is useful now.

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
    vocab_size: usize,
    /// How many nodes there can be.
    most: usize,
    /// What is remembered of the token that comes next, a row for each node.
    next: Vec<f64>,
    /// The node that each token leads to, `[nodes, V]`; the root, to which none does, where that is not
    /// remembered.
    children: Vec<u32>,
    parents: Vec<u32>,
    /// What the model remembers of each node's token, which is the one at the node's number.
    tokens: Stream,
    /// How often the tree has begun anew.
    renewals: u64,
}

/// A place in a tree, as long as that does not begin anew.
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

    fn with_memory(model: &InferenceGpt, prefix: Arc<Prefix>, memory: usize) -> Self {
        let (vocab_size, width) = (model.meta().tokenizer.vocab_size(), prefix.next.len());
        let numbers = width * size_of::<f64>() + (vocab_size + 1) * size_of::<u32>();
        let most = (memory / (numbers + model.token_bytes())).max(2);
        let mut beginnings = Self {
            prefix,
            vocab_size,
            most,
            next: Vec::with_capacity(most * width),
            children: Vec::with_capacity(most * vocab_size),
            parents: Vec::with_capacity(most),
            tokens: model.stream_of(most),
            renewals: 0,
        };
        beginnings.add_node(0, &Arc::clone(&beginnings.prefix).next);
        beginnings
    }

    /// Adds a node to which no token leads yet.
    fn add_node(&mut self, parent: u32, next: &[f64]) {
        self.next.extend_from_slice(next);
        self.children
            .resize(self.children.len() + self.vocab_size, 0);
        self.parents.push(parent);
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
        let width = self.prefix.next.len();
        &self.next[node.number as usize * width..][..width]
    }

    /// Where a token leads to, if that is remembered.
    pub fn after(&self, node: Node, token: u32) -> Option<Node> {
        let number = self.children[self.place(node, token)];
        (number != 0).then_some(Node {
            number,
            length: node.length + 1,
            ..node
        })
    }

    fn place(&self, node: Node, token: u32) -> usize {
        node.number as usize * self.vocab_size + token as usize
    }

    /// Makes a stream one that has seen the tokens that lead to a node.
    pub fn copy_to(&self, node: Node, stream: &mut Stream) {
        stream.copy_from(&self.prefix.stream);
        let mut number = node.number as usize;
        for position in (self.prefix.stream.length()..node.length).rev() {
            stream.copy_token(position, &self.tokens, number);
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
            return self.begin_anew();
        }
        let (place, number) = (self.place(node, token), self.parents.len());
        self.children[place] = number as u32;
        self.add_node(node.number, next);
        self.tokens.copy_token(number, stream, node.length);
    }

    /// Forgets all but the root.
    fn begin_anew(&mut self) {
        self.renewals += 1;
        self.next.truncate(self.prefix.next.len());
        self.children.truncate(self.vocab_size);
        self.children.fill(0);
        self.parents.truncate(1);
    }
}
