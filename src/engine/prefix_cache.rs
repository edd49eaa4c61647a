//! Prefix cache: a trie of KV entries and next-token values, shared by sequences that start alike.
//!
//! Names begin like other names, and lines of a log like the lines before them. The root stands for
//! the tokens that all sequences begin with, each other node for one more token. A sequence inserts at
//! most one node, for the token that missed the cache, so that the trie grows along the most common
//! prefixes. A full trie evicts the nodes that no sequence visited since the last eviction.

use std::sync::Arc;

use crate::infer::{Chunk, InferenceGpt, QuantizedToken, SequenceCache, Workspace};

/// The memory of a trie, in bytes.
const MEMORY: usize = 4 << 20;

/// Prefilled tokens that all sequences begin with. `T` is the value that is cached for the next token:
/// its [`Distribution`](super::Distribution) for sampling, the bits of every token for scoring.
#[derive(Debug)]
pub struct Prefix<T> {
    cache: SequenceCache,
    next: T,
}

impl<T> Prefix<T> {
    /// Prefills tokens, at least one and at most a context. `next` converts the logits `[V]`.
    pub fn new(model: &InferenceGpt, tokens: &[u32], next: impl FnOnce(&[f64]) -> T) -> Self {
        let (mut cache, mut workspace) = (model.new_cache(), Workspace::default());
        let chunk = Chunk {
            cache: &mut cache,
            tokens,
            logits_from: tokens.len() - 1,
        };
        model.forward(&mut workspace, &mut [chunk]);
        let next = next(workspace.logits(0));
        Self { cache, next }
    }
}

/// A trie of prefixes.
pub struct PrefixCache<T> {
    prefix: Arc<Prefix<T>>,
    vocab_size: usize,
    max_nodes: usize,
    /// The root, then the others, each after its parent.
    nodes: Vec<TrieNode<T>>,
    /// The number of evictions, each of which renumbers the nodes.
    generation: u64,
}

struct TrieNode<T> {
    /// The KV entry of the node's token; empty for the root.
    token: QuantizedToken,
    next: T,
    parent: u32,
    /// `[V]`: the child for each token; 0, the root, if there is none. Empty in a leaf.
    children: Box<[u32]>,
    /// Set if a sequence visited the node since the last eviction.
    visited: bool,
}

/// A node of the trie. Valid up to the next eviction.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    index: u32,
    /// The number of tokens from the start of the sequence.
    length: usize,
    generation: u64,
}

impl Node {
    /// The number of tokens from the start of the sequence up to this node.
    pub fn length(self) -> usize {
        self.length
    }
}

impl<T: Clone> PrefixCache<T> {
    pub fn new(model: &InferenceGpt, prefix: Arc<Prefix<T>>) -> Self {
        Self::with_memory(model, prefix, MEMORY)
    }

    fn with_memory(model: &InferenceGpt, prefix: Arc<Prefix<T>>, memory: usize) -> Self {
        let vocab_size = model.meta().tokenizer.vocab_size();
        let next_bytes = vocab_size * size_of::<f64>();
        let children_bytes = vocab_size * size_of::<u32>();
        let token_bytes = QuantizedToken::bytes(model.meta().config);
        let node_bytes = size_of::<TrieNode<T>>() + token_bytes + next_bytes + children_bytes;
        let root = TrieNode {
            token: QuantizedToken::default(),
            next: prefix.next.clone(),
            parent: 0,
            children: Box::default(),
            visited: false,
        };
        Self {
            prefix,
            vocab_size,
            max_nodes: (memory / node_bytes).max(2),
            nodes: vec![root],
            generation: 0,
        }
    }

    /// The root: the end of the common prefix.
    pub fn root(&self) -> Node {
        Node {
            index: 0,
            length: self.prefix.cache.length(),
            generation: self.generation,
        }
    }

    /// The cached value for the token after a node.
    pub fn next(&self, node: Node) -> &T {
        &self.nodes[node.index as usize].next
    }

    /// The child for a token, if it is cached.
    pub fn child(&mut self, node: Node, token: u32) -> Option<Node> {
        let children = &self.nodes[node.index as usize].children;
        let index = *children.get(token as usize)?;
        self.nodes[index as usize].visited = true;
        (index != 0).then_some(Node {
            index,
            length: node.length + 1,
            ..node
        })
    }

    /// Replaces `cache` by the KV cache of the tokens up to a node.
    pub fn copy_to(&self, node: Node, cache: &mut SequenceCache) {
        cache.copy_from(&self.prefix.cache);
        let mut index = node.index as usize;
        for position in (cache.length()..node.length).rev() {
            cache.write_token(position, &self.nodes[index].token);
            index = self.nodes[index].parent as usize;
        }
        cache.extend_length(node.length - cache.length());
    }

    /// Inserts the child of a node for a token, whose KV entry `cache` holds and after which `next`
    /// is the value. A full trie evicts instead. Does nothing if the child exists or the node is of an
    /// earlier generation.
    pub fn insert(
        &mut self,
        node: Node,
        token: u32,
        cache: &SequenceCache,
        next: impl FnOnce() -> T,
    ) {
        if node.generation != self.generation || self.child(node, token).is_some() {
            return;
        }
        if self.nodes.len() == self.max_nodes {
            return self.evict();
        }
        let index = self.nodes.len() as u32;
        let children = &mut self.nodes[node.index as usize].children;
        if children.is_empty() {
            *children = vec![0; self.vocab_size].into();
        }
        children[token as usize] = index;
        self.nodes.push(TrieNode {
            token: cache.token(node.length),
            next: next(),
            parent: node.index,
            children: Box::default(),
            visited: false,
        });
    }

    /// Evicts the nodes that no sequence visited since the last eviction, and the newest of the others
    /// until half of the trie is free: the oldest are the most common.
    fn evict(&mut self) {
        self.generation += 1;
        let mut new_indices = vec![0; self.nodes.len()];
        let mut kept = 1;
        for index in 1..self.nodes.len() {
            if self.nodes[index].visited && kept < self.max_nodes / 2 {
                new_indices[index] = kept as u32;
                self.nodes.swap(index, kept);
                // A parent is older than its children, and visited when they are.
                let parent = &mut self.nodes[kept].parent;
                *parent = new_indices[*parent as usize];
                kept += 1;
            }
        }
        self.nodes.truncate(kept);
        for node in &mut self.nodes {
            node.visited = false;
            for child in &mut node.children {
                *child = new_indices[*child as usize];
            }
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
            // Large enough that logits depend on earlier tokens.
            *weight *= 4.0;
        }
        Arc::new(InferenceGpt::from_tensors(meta, &weights))
    }

    /// Decodes many sequences, a few at a time, and compares each with the same one decoded alone.
    /// Returns the number of evictions and of nodes.
    fn compare(generator: &Generator, memory: usize) -> (u64, usize) {
        let prefix = generator.prefix().unwrap();
        let mut batch = DecodeBatch::new(generator.model(), Some(Arc::clone(&prefix)));
        let prefix_cache = PrefixCache::with_memory(generator.model(), prefix, memory);
        *batch.prefix_cache() = Some(prefix_cache);
        for index in 0..400 {
            batch.add(index, generator.sequence(index));
            while batch.len() > 4 {
                batch.step(
                    |_, _| true,
                    |index, sequence, _| {
                        let sample = generator.decode(sequence.sampled());
                        assert_eq!(sample, generator.sample(index), "sample {index}");
                    },
                );
            }
        }
        let prefix_cache = batch.prefix_cache().take().unwrap();
        (prefix_cache.generation, prefix_cache.nodes.len())
    }

    #[test]
    fn samples_are_the_same_as_without_the_cache() {
        for kind in [CorpusKind::Documents, CorpusKind::Continuous] {
            let mut evictions = 0;
            for (prompt, temperature) in [("", 1.0), ("ab", 0.7), ("", 0.0), ("abcabc", 1.0)] {
                let options = GenerateOptions {
                    sampling: SamplingOptions {
                        temperature,
                        ..Default::default()
                    },
                    // More than the context of a continuous text.
                    max_tokens: Some(2 * CONTEXT),
                    prompt: prompt.into(),
                    ..Default::default()
                };
                let generator = Generator::new(model(kind), options).unwrap();
                let (generation, nodes) = compare(&generator, 1 << 20);
                assert!(generation == 0 && nodes > 1, "{nodes} nodes");
                // Memory for two nodes, a few, and many.
                for memory in [0, 5_000, 40_000] {
                    evictions += compare(&generator, memory).0;
                }
            }
            assert!(evictions > 100, "{kind:?}: {evictions}");
        }
    }

    #[test]
    fn scores_are_the_same_as_without_the_cache() {
        let model = model(CorpusKind::Documents);
        let mut rng = fastrand::Rng::with_seed(4);
        // Empty lines, lines that others begin with, and lines longer than the context.
        let mut line = || -> Vec<u32> {
            let length = rng.usize(0..20);
            let tokens = std::iter::repeat_with(|| rng.u32(0..2)).take(length);
            let bos = model.meta().tokenizer.start_token();
            [bos].into_iter().chain(tokens).chain([bos]).collect()
        };
        let lines: Vec<_> = std::iter::repeat_with(&mut line).take(500).collect();
        let lines: Vec<&[u32]> = lines.iter().map(Vec::as_slice).collect();
        let cached = Scorer::new(&model).score_tokens(&lines);
        for (line, cached) in lines.iter().zip(cached) {
            let alone = Scorer::new(&model).score_tokens(&[line])[0];
            assert_eq!(alone.bits.to_bits(), cached.bits.to_bits(), "{line:?}");
        }
    }
}
