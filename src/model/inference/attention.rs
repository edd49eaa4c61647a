//! What the model remembers of a text, its keys and values, and attention to them.

use super::arithmetic::{exponentials, largest, sum};
use super::lanes::{LANES, Lanes};
use crate::model::ModelConfig;

/// The keys and values of one layer for one text, with room for the whole context.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// `[head, tokens / 8, D, 8]`: a vector holds one element of eight tokens' keys.
    keys: Vec<f64>,
    /// `[head, tokens, D]`, each row filled up to whole lanes.
    values: Vec<f64>,
}

impl KvCache {
    pub fn new(config: ModelConfig) -> Self {
        let (keys, values) = Self::sizes(config);
        Self {
            // Memory that is only zeros costs nothing before it is written.
            keys: vec![0.0; keys],
            values: vec![0.0; values],
        }
    }

    /// How much memory a cache takes.
    pub fn bytes(config: ModelConfig) -> usize {
        let (keys, values) = Self::sizes(config);
        (keys + values) * size_of::<f64>()
    }

    /// The numbers of keys and of values.
    fn sizes(config: ModelConfig) -> (usize, usize) {
        let tokens = config.block_size.next_multiple_of(LANES);
        (
            tokens * config.n_embd,
            tokens * config.n_head * width(config),
        )
    }

    /// Remembers a token's key and value, `[E]` each.
    #[inline(always)]
    pub fn insert(&mut self, config: ModelConfig, position: usize, key: &[f64], value: &[f64]) {
        let (head_dim, width) = (config.head_dim(), width(config));
        let (keys, values) = (self.keys.len(), self.values.len());
        let heads = self.keys.chunks_exact_mut(keys / config.n_head);
        let rows = self.values.chunks_exact_mut(values / config.n_head);
        let columns = key.chunks_exact(head_dim).zip(value.chunks_exact(head_dim));
        for ((keys, values), (key, value)) in heads.zip(rows).zip(columns) {
            let place = position / LANES * LANES * head_dim + position % LANES;
            let places = keys[place..].iter_mut().step_by(LANES);
            for (place, key) in places.zip(key) {
                *place = *key;
            }
            values[position * width..][..head_dim].copy_from_slice(value);
        }
    }

    /// Takes over the first `tokens` tokens of another cache.
    pub fn copy_from(&mut self, config: ModelConfig, other: &Self, tokens: usize) {
        let copy = |to: &mut [f64], from: &[f64], used: usize| {
            let size = from.len() / config.n_head;
            let heads = to.chunks_exact_mut(size).zip(from.chunks_exact(size));
            heads.for_each(|(to, from)| to[..used].copy_from_slice(&from[..used]));
        };
        let blocks = tokens.next_multiple_of(LANES);
        copy(&mut self.keys, &other.keys, blocks * config.head_dim());
        copy(&mut self.values, &other.values, tokens * width(config));
    }

    /// Attention of a query `[E]` to the first `tokens` tokens, giving `[E]`. `scores` is room for
    /// one number a head and token of the context, this rounded up to whole lanes.
    #[inline(always)]
    pub fn attend<L: Lanes>(
        &self,
        lanes: L,
        config: ModelConfig,
        tokens: usize,
        query: &[f64],
        scores: &mut [f64],
        out: &mut [f64],
    ) {
        let (head_dim, width) = (config.head_dim(), width(config));
        let scale = 1.0 / (head_dim as f64).sqrt();
        let padded = tokens.next_multiple_of(LANES);
        let scores = &mut scores[..padded * config.n_head];
        let keys = self.keys.chunks_exact(self.keys.len() / config.n_head);
        let queries = query.chunks_exact(head_dim);
        for ((scores, keys), query) in scores.chunks_exact_mut(padded).zip(keys).zip(queries) {
            let blocks = keys.chunks_exact(LANES * head_dim);
            for (keys, scores) in blocks.zip(scores.as_chunks_mut().0) {
                *scores = block_scores(lanes, keys, query, scale);
            }
            scores[tokens..].fill(f64::NEG_INFINITY);
            let max = largest(lanes, scores);
            for score in scores {
                *score -= max;
            }
        }
        exponentials(scores);
        let values = self.values.chunks_exact(self.values.len() / config.n_head);
        let outs = out.chunks_exact_mut(head_dim);
        for ((scores, values), out) in scores.chunks_exact(padded).zip(values).zip(outs) {
            let total = sum(lanes, scores);
            for (column, out) in out.chunks_mut(LANES).enumerate() {
                let weighted = weighted_sum(lanes, &scores[..tokens], values, width, column);
                for (out, weighted) in out.iter_mut().zip(weighted) {
                    *out = weighted / total;
                }
            }
        }
    }
}

/// How many numbers a head's value takes.
fn width(config: ModelConfig) -> usize {
    config.head_dim().next_multiple_of(LANES)
}

/// The scores of eight tokens, whose keys are `[D, 8]`.
#[inline(always)]
fn block_scores<L: Lanes>(lanes: L, keys: &[f64], query: &[f64], scale: f64) -> [f64; LANES] {
    let mut sums = lanes.splat(0.0);
    for (keys, query) in keys.as_chunks().0.iter().zip(query) {
        sums = lanes.mul_add(lanes.splat(*query), lanes.load(keys), sums);
    }
    lanes.store(lanes.mul(sums, lanes.splat(scale)))
}

/// `Σ p[t]·values[t, d]` for the eight columns with number `column`, of rows that are `width` wide.
/// It runs over four sums, token `t` in sum `t mod 4`, as one alone could not be added to as fast as
/// a processor multiplies.
#[inline(always)]
fn weighted_sum<L: Lanes>(
    lanes: L,
    p: &[f64],
    values: &[f64],
    width: usize,
    column: usize,
) -> [f64; LANES] {
    const SUMS: usize = 4;
    let mut sums = [lanes.splat(0.0); SUMS];
    let (fours, rest) = p.as_chunks::<SUMS>();
    let (four_values, rest_values) = values.split_at(fours.len() * SUMS * width);
    for (p, values) in fours.iter().zip(four_values.chunks_exact(SUMS * width)) {
        for t in 0..SUMS {
            let value = lanes.load(eight(values, t * width + column * LANES));
            sums[t] = lanes.mul_add(lanes.splat(p[t]), value, sums[t]);
        }
    }
    for t in 0..SUMS {
        if t < rest.len() {
            let value = lanes.load(eight(rest_values, t * width + column * LANES));
            sums[t] = lanes.mul_add(lanes.splat(rest[t]), value, sums[t]);
        }
    }
    let total = lanes.add(lanes.add(sums[0], sums[2]), lanes.add(sums[1], sums[3]));
    lanes.store(total)
}

/// Eight of some numbers, from one on.
#[inline(always)]
fn eight(numbers: &[f64], from: usize) -> &[f64; LANES] {
    numbers[from..].first_chunk().expect("rows are whole lanes")
}
