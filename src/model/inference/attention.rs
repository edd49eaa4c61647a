//! What the model remembers of a text, its keys and values, and attention to them.

use super::arithmetic::{exponentials, largest, sum};
use super::lanes::{LANES, Lanes, Work};
use super::share::Share;
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

    /// Attention of a query `[E]` to the first `tokens` tokens, to give `out`, `[E]`. `scores` is
    /// room for one number a head and token of the context, this rounded up to whole lanes.
    pub fn attention<'a>(
        &'a self,
        config: ModelConfig,
        tokens: usize,
        query: &'a [f64],
        scores: &'a mut [f64],
        out: &'a mut [f64],
    ) -> Attention<'a> {
        let padded = tokens.next_multiple_of(LANES);
        Attention {
            heads: config.n_head,
            tokens,
            keys: &self.keys,
            values: &self.values,
            query,
            scores: &mut scores[..padded * config.n_head],
            out,
        }
    }
}

/// Attention of some heads, still to be done; all slices have an equal part for each head.
pub struct Attention<'a> {
    heads: usize,
    tokens: usize,
    keys: &'a [f64],
    values: &'a [f64],
    query: &'a [f64],
    scores: &'a mut [f64],
    out: &'a mut [f64],
}

impl Share for Attention<'_> {
    fn bytes(&self) -> usize {
        self.tokens * size_of_val(self.query) * 2
    }

    fn halves(self) -> Result<(Self, Self), Self> {
        if self.heads == 1 {
            return Err(self);
        }
        let (heads, tokens, first) = (self.heads, self.tokens, self.heads / 2);
        let part = |slice: &[f64]| slice.len() / heads * first;
        let (keys, more_keys) = self.keys.split_at(part(self.keys));
        let (values, more_values) = self.values.split_at(part(self.values));
        let (query, more_query) = self.query.split_at(part(self.query));
        let (scores, more_scores) = self.scores.split_at_mut(part(self.scores));
        let (out, more_out) = self.out.split_at_mut(part(self.out));
        let lower = Self {
            heads: first,
            tokens,
            keys,
            values,
            query,
            scores,
            out,
        };
        let upper = Self {
            heads: heads - first,
            tokens,
            keys: more_keys,
            values: more_values,
            query: more_query,
            scores: more_scores,
            out: more_out,
        };
        Ok((lower, upper))
    }
}

impl Work for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self {
            heads,
            tokens,
            keys,
            values,
            query,
            scores,
            out,
        } = self;
        let head_dim = query.len() / heads;
        let width = head_dim.next_multiple_of(LANES);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let padded = tokens.next_multiple_of(LANES);
        let keys = keys.chunks_exact(keys.len() / heads);
        let queries = query.chunks_exact(head_dim);
        for ((scores, keys), query) in scores.chunks_exact_mut(padded).zip(keys).zip(queries) {
            let blocks = keys.chunks(BLOCKS * LANES * head_dim);
            for (scores, keys) in scores.chunks_mut(BLOCKS * LANES).zip(blocks) {
                block_scores(lanes, keys, query, scale, scores);
            }
            scores[tokens..].fill(f64::NEG_INFINITY);
            let max = largest(lanes, scores);
            for score in scores {
                *score -= max;
            }
        }
        exponentials(scores);
        let values = values.chunks_exact(values.len() / heads);
        let outs = out.chunks_exact_mut(head_dim);
        for ((scores, values), out) in scores.chunks_exact(padded).zip(values).zip(outs) {
            let total = sum(lanes, scores);
            let p = &scores[..tokens];
            let mut column = 0;
            while column < head_dim {
                let mut weighted = [[0.0; LANES]; 2];
                if width - column >= 2 * LANES {
                    weighted = weighted_sum::<L, 2>(lanes, p, values, width, column);
                } else {
                    [weighted[0]] = weighted_sum::<L, 1>(lanes, p, values, width, column);
                }
                let out = out[column..].iter_mut();
                for (out, weighted) in out.zip(weighted.as_flattened()) {
                    *out = weighted / total;
                }
                column += 2 * LANES;
            }
        }
    }
}

/// How many numbers a head's value takes.
fn width(config: ModelConfig) -> usize {
    config.head_dim().next_multiple_of(LANES)
}

/// How many blocks of eight keys are multiplied together: a product takes as long as it takes the
/// processor to begin four.
const BLOCKS: usize = 4;

/// The scores of up to four blocks of eight tokens, whose keys are `[blocks, D, 8]`.
#[inline(always)]
fn block_scores<L: Lanes>(lanes: L, keys: &[f64], query: &[f64], scale: f64, scores: &mut [f64]) {
    let (keys, _) = keys.as_chunks::<LANES>();
    let (scores, _) = scores.as_chunks_mut::<LANES>();
    // In place of those that are not there, the last is multiplied again: that takes no longer.
    let last = scores.len() - 1;
    let block = |b: usize| keys[b.min(last) * query.len()..][..query.len()].iter();
    let blocks = block(0).zip(block(1)).zip(block(2).zip(block(3)));
    let mut sums = [lanes.splat(0.0); BLOCKS];
    for (query, ((first, second), (third, fourth))) in query.iter().zip(blocks) {
        let query = lanes.splat(*query);
        for (sum, keys) in sums.iter_mut().zip([first, second, third, fourth]) {
            *sum = lanes.mul_add(query, lanes.load(keys), *sum);
        }
    }
    for (scores, sum) in scores.iter_mut().zip(sums) {
        *scores = lanes.store(lanes.mul(sum, lanes.splat(scale)));
    }
}

/// `Σ p[t]·values[t, d]` for `CHUNKS` times eight columns from `column` on, of rows that are `width`
/// wide. It runs over four sums, token `t` in sum `t mod 4`, as one alone could not be added to as
/// fast as a processor multiplies.
#[inline(always)]
fn weighted_sum<L: Lanes, const CHUNKS: usize>(
    lanes: L,
    p: &[f64],
    values: &[f64],
    width: usize,
    column: usize,
) -> [[f64; LANES]; CHUNKS] {
    const SUMS: usize = 4;
    let mut sums = [[lanes.splat(0.0); SUMS]; CHUNKS];
    let (fours, rest) = p.as_chunks::<SUMS>();
    let (four_values, rest_values) = values.split_at(fours.len() * SUMS * width);
    for (p, values) in fours.iter().zip(four_values.chunks_exact(SUMS * width)) {
        for t in 0..SUMS {
            let p = lanes.splat(p[t]);
            for (c, sums) in sums.iter_mut().enumerate() {
                let value = lanes.load(eight(values, t * width + column + c * LANES));
                sums[t] = lanes.mul_add(p, value, sums[t]);
            }
        }
    }
    for t in 0..SUMS {
        if t < rest.len() {
            for (c, sums) in sums.iter_mut().enumerate() {
                let value = lanes.load(eight(rest_values, t * width + column + c * LANES));
                sums[t] = lanes.mul_add(lanes.splat(rest[t]), value, sums[t]);
            }
        }
    }
    let mut totals = [[0.0; LANES]; CHUNKS];
    for c in 0..CHUNKS {
        let even = lanes.add(sums[c][0], sums[c][2]);
        let odd = lanes.add(sums[c][1], sums[c][3]);
        totals[c] = lanes.store(lanes.add(even, odd));
    }
    totals
}

/// Eight of some numbers, from one on.
#[inline(always)]
fn eight(numbers: &[f64], from: usize) -> &[f64; LANES] {
    numbers[from..].first_chunk().expect("rows are whole lanes")
}
