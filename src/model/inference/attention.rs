//! What the model remembers of a text, its keys and values, and attention to them.
//!
//! A key or value of a head is kept as whole numbers of 32 bits and their scale, an f64: as exact as
//! nine digits of its largest number, in half the memory of f64. Memory is what attention to a long
//! text waits for. All arithmetic is in f64.

use super::arithmetic::{exponentials, largest, sum};
use super::lanes::{LANES, Lanes, Work};
use super::share::Share;
use crate::model::ModelConfig;

/// The keys and values of one layer for one text, with room for the whole context.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// `[head, tokens / 8, D, 8]`: a vector holds one element of eight tokens' keys.
    keys: Vec<i32>,
    /// `[head, tokens, D]`, each row filled up to whole lanes.
    values: Vec<i32>,
    /// `[head, tokens]` each, the tokens filled up to whole lanes. Those of the keys are over `√D`, as
    /// scores are.
    key_scales: Vec<f64>,
    value_scales: Vec<f64>,
}

impl KvCache {
    pub fn new(config: ModelConfig) -> Self {
        let (keys, values, scales) = Self::sizes(config);
        Self {
            // Memory that is only zeros costs nothing before it is written.
            keys: vec![0; keys],
            values: vec![0; values],
            key_scales: vec![0.0; scales],
            value_scales: vec![0.0; scales],
        }
    }

    /// How much memory a cache takes.
    pub fn bytes(config: ModelConfig) -> usize {
        let (keys, values, scales) = Self::sizes(config);
        (keys + values) * size_of::<i32>() + 2 * scales * size_of::<f64>()
    }

    /// The numbers of keys, of values, and of either's scales.
    fn sizes(config: ModelConfig) -> (usize, usize, usize) {
        let tokens = config.block_size.next_multiple_of(LANES);
        (
            tokens * config.n_embd,
            tokens * config.n_head * width(config),
            tokens * config.n_head,
        )
    }

    /// Remembers a token's key and value, `[E]` each.
    #[inline(always)]
    pub fn insert(&mut self, config: ModelConfig, position: usize, key: &[f64], value: &[f64]) {
        let (head_dim, width) = (config.head_dim(), width(config));
        let tokens = config.block_size.next_multiple_of(LANES);
        for head in 0..config.n_head {
            let first = position / LANES * LANES * head_dim + position % LANES;
            let places = self.keys[head * tokens * head_dim + first..].iter_mut();
            let key = &key[head * head_dim..][..head_dim];
            let scale = to_whole(key, places.step_by(LANES)) / (head_dim as f64).sqrt();
            self.key_scales[head * tokens + position] = scale;
            let places = self.values[(head * tokens + position) * width..].iter_mut();
            let value = &value[head * head_dim..][..head_dim];
            self.value_scales[head * tokens + position] = to_whole(value, places);
        }
    }

    /// Takes over the first `tokens` tokens of another cache.
    pub fn copy_from(&mut self, config: ModelConfig, other: &Self, tokens: usize) {
        fn copy<T: Copy>(heads: usize, to: &mut [T], from: &[T], used: usize) {
            let size = from.len() / heads;
            let heads = to.chunks_exact_mut(size).zip(from.chunks_exact(size));
            heads.for_each(|(to, from)| to[..used].copy_from_slice(&from[..used]));
        }
        let heads = config.n_head;
        let blocks = tokens.next_multiple_of(LANES);
        copy(
            heads,
            &mut self.keys,
            &other.keys,
            blocks * config.head_dim(),
        );
        copy(
            heads,
            &mut self.values,
            &other.values,
            tokens * width(config),
        );
        copy(heads, &mut self.key_scales, &other.key_scales, tokens);
        copy(heads, &mut self.value_scales, &other.value_scales, tokens);
    }

    /// Attention of some tokens' queries `[queries, E]`, to give `out`, of the same shape. The first
    /// query sees `tokens` tokens, and each other one more than the one before.
    pub fn attention<'a>(
        &'a self,
        config: ModelConfig,
        tokens: usize,
        queries: &'a [f64],
        out: &'a mut [f64],
    ) -> Attention<'a> {
        Attention {
            heads: config.n_head,
            queries: queries.len() / config.n_embd,
            tokens,
            keys: &self.keys,
            values: &self.values,
            key_scales: &self.key_scales,
            value_scales: &self.value_scales,
            query: queries,
            out,
        }
    }
}

/// Writes numbers as the nearest whole multiples of a scale, which it returns.
#[inline(always)]
fn to_whole<'a>(numbers: &[f64], places: impl Iterator<Item = &'a mut i32>) -> f64 {
    const MOST: f64 = i32::MAX as f64;
    let larger = |max: f64, number: &f64| {
        if number.abs() > max {
            number.abs()
        } else {
            max
        }
    };
    // So that there is something to divide by.
    let max = numbers.iter().fold(f64::MIN_POSITIVE * MOST, larger);
    let inverse = MOST / max;
    for (place, number) in places.zip(numbers) {
        *place = (number * inverse).round_ties_even() as i32;
    }
    max / MOST
}

/// Attention of some heads, still to be done; but for those of the queries, all slices have an equal
/// part for each head. Where there are several queries, it is of all heads.
pub struct Attention<'a> {
    heads: usize,
    queries: usize,
    tokens: usize,
    keys: &'a [i32],
    values: &'a [i32],
    key_scales: &'a [f64],
    value_scales: &'a [f64],
    query: &'a [f64],
    out: &'a mut [f64],
}

impl Share for Attention<'_> {
    fn bytes(&self) -> usize {
        self.queries * self.tokens * size_of::<i32>() * 2 * (self.query.len() / self.queries)
    }

    fn halves(self) -> Result<(Self, Self), Self> {
        if self.queries > QUERIES {
            return Ok(self.halve_queries());
        }
        if self.queries > 1 || self.heads == 1 {
            return Err(self);
        }
        Ok(self.halve_heads())
    }
}

impl<'a> Attention<'a> {
    fn halve_queries(self) -> (Self, Self) {
        let (queries, elements) = (self.queries, self.query.len() / self.queries);
        let first = (queries / 2).next_multiple_of(QUERIES);
        let (query, more_query) = self.query.split_at(first * elements);
        let (out, more_out) = self.out.split_at_mut(first * elements);
        let lower = Self {
            queries: first,
            query,
            out,
            ..self
        };
        let upper = Self {
            queries: queries - first,
            tokens: self.tokens + first,
            query: more_query,
            out: more_out,
            ..self
        };
        (lower, upper)
    }

    fn halve_heads(self) -> (Self, Self) {
        fn part<T>(slice: &[T], first: usize, heads: usize) -> (&[T], &[T]) {
            slice.split_at(slice.len() / heads * first)
        }
        let (heads, first) = (self.heads, self.heads / 2);
        let (keys, more_keys) = part(self.keys, first, heads);
        let (values, more_values) = part(self.values, first, heads);
        let (key_scales, more_key_scales) = part(self.key_scales, first, heads);
        let (value_scales, more_value_scales) = part(self.value_scales, first, heads);
        let (query, more_query) = part(self.query, first, heads);
        let (out, more_out) = self.out.split_at_mut(query.len());
        let lower = Self {
            heads: first,
            keys,
            values,
            key_scales,
            value_scales,
            query,
            out,
            ..self
        };
        let upper = Self {
            heads: heads - first,
            keys: more_keys,
            values: more_values,
            key_scales: more_key_scales,
            value_scales: more_value_scales,
            query: more_query,
            out: more_out,
            ..self
        };
        (lower, upper)
    }

    /// Does it; `scores` is room to compute in.
    #[inline(always)]
    pub fn run_in<L: Lanes>(self, lanes: L, scores: &mut Vec<f64>) {
        let elements = self.query.len() / self.queries;
        let head_dim = elements / self.heads;
        let padded = (self.tokens + self.queries).next_multiple_of(LANES);
        let room = padded * QUERIES.min(self.queries);
        scores.resize(room.max(scores.len()), 0.0);
        let queries = self.query.chunks(QUERIES * elements);
        let outs = self.out.chunks_mut(QUERIES * elements);
        for (index, (queries, out)) in queries.zip(outs).enumerate() {
            let tokens = self.tokens + index * QUERIES;
            for h in 0..self.heads {
                let part = |slice: &'a [i32]| &slice[slice.len() / self.heads * h..];
                let scales = |slice: &'a [f64]| &slice[slice.len() / self.heads * h..];
                let head = Head {
                    keys: part(self.keys),
                    values: part(self.values),
                    key_scales: scales(self.key_scales),
                    value_scales: scales(self.value_scales),
                    head_dim,
                };
                let (queries, out) = (&queries[h * head_dim..], &mut out[h * head_dim..]);
                if out.len() >= (QUERIES - 1) * elements + head_dim {
                    head.attend::<L, QUERIES, 2>(lanes, tokens, queries, elements, scores, out);
                    continue;
                }
                let queries = queries.chunks(elements).zip(out.chunks_mut(elements));
                for (q, (query, out)) in queries.enumerate() {
                    head.attend::<L, 1, 4>(lanes, tokens + q, query, elements, scores, out);
                }
            }
        }
    }
}

impl Work for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        self.run_in(lanes, &mut Vec::new());
    }
}

/// How many queries are computed together, where there are several: what is read of the keys and
/// values is widened once for all of them.
const QUERIES: usize = 4;

/// The keys and values of one head.
struct Head<'a> {
    keys: &'a [i32],
    values: &'a [i32],
    key_scales: &'a [f64],
    value_scales: &'a [f64],
    head_dim: usize,
}

impl Head<'_> {
    /// Attention of `Q` queries, of which the first sees `tokens` tokens; each query, and each result,
    /// is `step` numbers after the one before. `B` blocks of eight keys are multiplied together: as many as
    /// make a product take no longer than the processor takes to begin those of the others.
    #[inline(always)]
    fn attend<L: Lanes, const Q: usize, const B: usize>(
        &self,
        lanes: L,
        tokens: usize,
        queries: &[f64],
        step: usize,
        scores: &mut [f64],
        out: &mut [f64],
    ) {
        let padded = (tokens + Q - 1).next_multiple_of(LANES);
        let scores = &mut scores[..Q * padded];
        let queries: [&[f64]; Q] = std::array::from_fn(|q| &queries[q * step..][..self.head_dim]);
        for block in (0..padded / LANES).step_by(B) {
            self.scores::<L, Q, B>(lanes, queries, block, scores);
        }
        for (q, scores) in scores.chunks_exact_mut(padded).enumerate() {
            scores[tokens + q..].fill(f64::NEG_INFINITY);
            let max = largest(lanes, scores);
            for score in scores {
                *score -= max;
            }
        }
        exponentials(scores);
        let mut totals = [0.0; Q];
        for (total, scores) in totals.iter_mut().zip(scores.chunks_exact_mut(padded)) {
            *total = sum(lanes, scores);
            for (score, scale) in scores.iter_mut().zip(self.value_scales) {
                *score *= scale;
            }
        }
        let mut column = 0;
        while column < self.head_dim {
            if Q == 1 && self.head_dim - column > LANES {
                self.weigh::<L, Q, 2>(lanes, scores, &totals, column, step, out);
                column += 2 * LANES;
            } else {
                self.weigh::<L, Q, 1>(lanes, scores, &totals, column, step, out);
                column += LANES;
            }
        }
    }

    /// The scores, `[Q, tokens]`, of `B` blocks of eight tokens.
    #[inline(always)]
    fn scores<L: Lanes, const Q: usize, const B: usize>(
        &self,
        lanes: L,
        queries: [&[f64]; Q],
        first: usize,
        scores: &mut [f64],
    ) {
        let padded = scores.len() / Q;
        // In place of blocks that are not there, the last is multiplied again: that takes no longer.
        let blocks: [usize; B] = std::array::from_fn(|b| (first + b).min(padded / LANES - 1));
        let (keys, _) = self.keys.as_chunks::<LANES>();
        let keys = blocks.map(|block| &keys[block * self.head_dim..][..self.head_dim]);
        let mut sums = [[lanes.splat(0.0); B]; Q];
        for d in 0..self.head_dim {
            let keys = keys.map(
                #[inline(always)]
                |keys| lanes.widen_whole(&keys[d]),
            );
            for q in 0..Q {
                let query = lanes.splat(queries[q][d]);
                for b in 0..B {
                    sums[q][b] = lanes.mul_add(query, keys[b], sums[q][b]);
                }
            }
        }
        let (scales, _) = self.key_scales.as_chunks::<LANES>();
        let (scores, _) = scores.as_chunks_mut::<LANES>();
        for q in 0..Q {
            for b in 0..B {
                let scale = lanes.load(&scales[blocks[b]]);
                scores[q * (padded / LANES) + blocks[b]] =
                    lanes.store(lanes.mul(sums[q][b], scale));
            }
        }
    }

    /// `out[q, d] = Σ p[q, t]·values[t, d] / totals[q]` for `C` times eight columns from `column` on.
    /// It runs over four sums, token `t` in sum `t mod 4`, as one alone could not be added to as fast
    /// as a processor multiplies.
    #[inline(always)]
    fn weigh<L: Lanes, const Q: usize, const C: usize>(
        &self,
        lanes: L,
        p: &[f64],
        totals: &[f64; Q],
        column: usize,
        step: usize,
        out: &mut [f64],
    ) {
        const SUMS: usize = 4;
        let padded = p.len() / Q;
        let p: [&[[f64; SUMS]]; Q] =
            std::array::from_fn(|q| p[q * padded..][..padded].as_chunks().0);
        let chunks = self.head_dim.div_ceil(LANES);
        let (values, _) = self.values.as_chunks::<LANES>();
        let mut sums = [[[lanes.splat(0.0); SUMS]; C]; Q];
        let rows = values[..padded * chunks].chunks_exact(SUMS * chunks);
        for (four, rows) in rows.enumerate() {
            for t in 0..SUMS {
                for c in 0..C {
                    let value = lanes.widen_whole(&rows[t * chunks + column / LANES + c]);
                    for q in 0..Q {
                        let p = lanes.splat(p[q][four][t]);
                        sums[q][c][t] = lanes.mul_add(p, value, sums[q][c][t]);
                    }
                }
            }
        }
        for q in 0..Q {
            let total = lanes.splat(totals[q]);
            for c in 0..C {
                let [first, second, third, fourth] = sums[q][c];
                let sum = lanes.add(lanes.add(first, third), lanes.add(second, fourth));
                let sum = lanes.store(lanes.div(sum, total));
                let from = column + c * LANES;
                let out = &mut out[q * step..][from..self.head_dim.min(from + LANES)];
                out.copy_from_slice(&sum[..out.len()]);
            }
        }
    }
}

/// How many numbers a head's value takes.
fn width(config: ModelConfig) -> usize {
    config.head_dim().next_multiple_of(LANES)
}
