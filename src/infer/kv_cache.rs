//! The KV cache of a sequence, and the tokens to append to it.

use std::ops::Range;

use super::thread_group::partition;
use crate::kernels::head_cache::HeadCache;
use crate::model::ModelConfig;

/// The KV cache of one sequence.
#[derive(Clone, Debug)]
pub struct SequenceCache {
    length: usize,
    n_layer: usize,
    /// `[n_head, n_layer]`, so that the caches of a range of heads are one slice.
    caches: Vec<HeadCache>,
}

impl SequenceCache {
    /// An empty cache, allocated for the whole context.
    pub fn new(config: ModelConfig) -> Self {
        let caches = 0..config.n_head * config.n_layer;
        Self {
            length: 0,
            n_layer: config.n_layer,
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

    /// Drops all but the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Counts the next `count` entries, which are written, as cached.
    pub fn extend_length(&mut self, count: usize) {
        self.length += count;
    }

    /// Copies the cache of another sequence of the same model.
    pub fn copy_from(&mut self, other: &Self) {
        self.length = other.length;
        for (cache, other) in self.caches.iter_mut().zip(&other.caches) {
            cache.copy_from(other, self.length);
        }
    }

    /// The number of elements of a token's KV entry, `[n_head, n_layer, 2, head_dim]`.
    pub fn token_elements(config: ModelConfig) -> usize {
        2 * config.n_embd * config.n_layer
    }

    /// The number of scale pairs of a token's KV entry, `[n_head, n_layer]`: of key and value.
    pub fn token_scales(config: ModelConfig) -> usize {
        config.n_head * config.n_layer
    }

    /// Copies the quantized entry of the token at `position` to `elements` and `scales`.
    pub fn read_token(&self, position: usize, elements: &mut [i32], scales: &mut [[f64; 2]]) {
        let elements = elements.chunks_exact_mut(elements.len() / self.caches.len());
        for ((cache, elements), scales) in self.caches.iter().zip(elements).zip(scales) {
            cache.read_token(position, elements, scales);
        }
    }

    /// Writes an entry of [`Self::read_token`] at `position`, which [`Self::extend_length`] must count
    /// then.
    pub fn write_token(&mut self, position: usize, elements: &[i32], scales: &[[f64; 2]]) {
        let elements = elements.chunks_exact(elements.len() / self.caches.len());
        for ((cache, elements), scales) in self.caches.iter_mut().zip(elements).zip(scales) {
            cache.write_token(position, elements, scales);
        }
    }
}

/// Tokens to append to a sequence.
pub struct Chunk<'a> {
    pub cache: &'a mut SequenceCache,
    pub tokens: &'a [u32],
    /// The first of these tokens whose logits are asked for; those of all later ones are, too.
    pub logits_from: usize,
}

impl Chunk<'_> {
    /// The chunk's part for each rank, with the KV caches of the rank's heads.
    pub fn shards(&mut self, ranks: usize) -> impl Iterator<Item = HeadShard<'_>> {
        let (tokens, logits_from) = (self.tokens, self.logits_from);
        let (length, n_layer) = (self.cache.length, self.cache.n_layer);
        let mut rest = &mut self.cache.caches[..];
        let n_head = rest.len() / n_layer;
        (0..ranks).map(move |rank| {
            let own = partition(n_head, rank, ranks).len() * n_layer;
            HeadShard {
                length,
                n_layer,
                caches: rest
                    .split_off_mut(..own)
                    .expect("the ranges cover the heads"),
                tokens,
                logits_from,
                queries_from: 0,
            }
        })
    }
}

/// A chunk with the KV caches of one rank's heads.
pub struct HeadShard<'a> {
    length: usize,
    n_layer: usize,
    /// `[heads, n_layer]`.
    caches: &'a mut [HeadCache],
    pub tokens: &'a [u32],
    pub logits_from: usize,
    /// The first of the tokens that still attends.
    pub queries_from: usize,
}

impl HeadShard<'_> {
    /// The positions of the tokens in the sequence.
    pub fn positions(&self) -> Range<usize> {
        self.length..self.length + self.tokens.len()
    }

    /// The positions of the tokens that attend.
    pub fn query_positions(&self) -> Range<usize> {
        self.length + self.queries_from..self.positions().end
    }

    /// The cache of a head, counted from the rank's first, in a layer.
    pub fn cache(&mut self, head: usize, layer: usize) -> &mut HeadCache {
        &mut self.caches[head * self.n_layer + layer]
    }
}
