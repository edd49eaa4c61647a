//! The KV cache of a sequence, and the tokens to append to it.

use std::ops::Range;

use super::thread_group::share;
use crate::kernels::head_cache::HeadCache;
use crate::model::ModelConfig;

/// The KV cache of one sequence.
#[derive(Clone, Debug)]
pub struct SequenceCache {
    length: usize,
    layers: usize,
    /// `[heads, layers]`: who computes some heads needs theirs alone.
    caches: Vec<HeadCache>,
}

impl SequenceCache {
    /// Nothing yet.
    pub fn new(config: ModelConfig) -> Self {
        let caches = 0..config.n_head * config.n_layer;
        Self {
            length: 0,
            layers: config.n_layer,
            caches: caches
                .map(|_| HeadCache::new(config.head_dim(), config.block_size))
                .collect(),
        }
    }

    /// The memory of a full cache, in bytes.
    pub fn bytes(config: ModelConfig) -> usize {
        config.n_head * config.n_layer * HeadCache::bytes(config.head_dim(), config.block_size)
    }

    /// The number of cached tokens.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Forgets all but the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Becomes another text of the same model.
    pub fn copy_from(&mut self, other: &Self) {
        self.length = other.length;
        for (cache, other) in self.caches.iter_mut().zip(&other.caches) {
            cache.copy_from(other, self.length);
        }
    }

    /// The numbers and the scales that are cached per token.
    pub fn token_size(&self) -> (usize, usize) {
        let head_dim = self.caches[0].head_dim();
        (2 * head_dim * self.caches.len(), 2 * self.caches.len())
    }

    /// Copies what is remembered of the token at `position`.
    pub fn read_token(&self, position: usize, numbers: &mut [i32], scales: &mut [f64]) {
        let numbers = numbers.chunks_exact_mut(numbers.len() / self.caches.len());
        let places = numbers.zip(scales.as_chunks_mut().0);
        for (cache, (numbers, scales)) in self.caches.iter().zip(places) {
            cache.read_token(position, numbers, scales);
        }
    }

    /// Remembers as the token at `position` what was read of one.
    pub fn write_token(&mut self, position: usize, numbers: &[i32], scales: &[f64]) {
        let numbers = numbers.chunks_exact(numbers.len() / self.caches.len());
        let places = numbers.zip(scales.as_chunks().0);
        for (cache, (numbers, scales)) in self.caches.iter_mut().zip(places) {
            cache.write_token(position, numbers, scales);
        }
    }

    /// Says that the first `length` tokens are there.
    pub fn set_length(&mut self, length: usize) {
        self.length = length;
    }
}

/// The next tokens of a text.
pub struct Chunk<'a> {
    pub stream: &'a mut SequenceCache,
    pub tokens: &'a [u32],
    /// Logits are wanted after each token from this one on.
    pub logits_from: usize,
}

impl Chunk<'_> {
    /// The run of each of some members, who have some heads each.
    pub fn parts(&mut self, members: usize) -> impl Iterator<Item = HeadShard<'_>> {
        let (tokens, logits_from) = (self.tokens, self.logits_from);
        let (length, layers) = (self.stream.length, self.stream.layers);
        let mut rest = &mut self.stream.caches[..];
        let heads = rest.len() / layers;
        (0..members).map(move |number| {
            let own = share(heads, number, members).len() * layers;
            HeadShard {
                length,
                layers,
                caches: rest.split_off_mut(..own).expect("there are so many"),
                tokens,
                logits_from,
            }
        })
    }
}

/// A run for some heads.
pub struct HeadShard<'a> {
    length: usize,
    layers: usize,
    /// `[heads, layers]`.
    caches: &'a mut [HeadCache],
    pub tokens: &'a [u32],
    pub logits_from: usize,
}

impl HeadShard<'_> {
    /// The positions of the tokens in the sequence.
    pub fn positions(&self) -> Range<usize> {
        self.length..self.length + self.tokens.len()
    }

    /// The cache of one of these heads in a layer.
    pub fn cache(&mut self, head: usize, layer: usize) -> &mut HeadCache {
        &mut self.caches[head * self.layers + layer]
    }
}
