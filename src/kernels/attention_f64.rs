//! What a head remembers of a text, its keys and values, and attention to them.
//!
//! A key or value is kept as whole numbers of 32 bits and their scale, an f64: as exact as nine
//! digits of its largest number, in half the memory of f64. Memory is what attention to a long text
//! waits for, so it also lies in the order in which it is read. All arithmetic is in f64.

use std::ops::Range;

use super::math_f64::{exponentials, max, nearest, slice_max, slice_sum};
use super::simd::{LANES, Simd};

/// How many queries are computed together, where there are several: what is read of keys and values
/// is widened once for all of them.
const QUERIES: usize = 4;

/// How many blocks of eight keys are multiplied together: while they are widened, a product is made.
const BLOCKS: usize = 2;

/// How many sums the values that a query attends to are added up in, token `t` in sum `t mod 4`: one
/// alone could not be added to as fast as a processor multiplies.
const SUMS: usize = 4;

/// How many tokens' values are added up at a time: few enough to stay near the processor for the next
/// of these sums.
const TILE: usize = 32;

/// The keys and values of one head of one layer for one text, with room for the whole context.
#[derive(Clone, Debug)]
pub struct HeadCache {
    head_dim: usize,
    /// `1/√D`.
    score_factor: f64,
    /// `[tokens / 8, D, 8]`: a vector holds one element of eight tokens' keys.
    keys: Vec<i32>,
    /// `[tokens, D]`, each row filled up to whole simd.
    values: Vec<i32>,
    /// `[tokens]` each. Those of the keys are over `√D`, as scores are.
    key_scales: Vec<f64>,
    value_scales: Vec<f64>,
}

impl HeadCache {
    pub fn new(head_dim: usize, block_size: usize) -> Self {
        let tokens = block_size.next_multiple_of(LANES);
        Self {
            head_dim,
            score_factor: 1.0 / (head_dim as f64).sqrt(),
            // Memory that is only zeros costs nothing before it is written.
            keys: vec![0; tokens * head_dim],
            values: vec![0; tokens * head_dim.next_multiple_of(LANES)],
            key_scales: vec![0.0; tokens],
            value_scales: vec![0.0; tokens],
        }
    }

    /// How much memory a cache takes.
    pub fn bytes(head_dim: usize, block_size: usize) -> usize {
        let numbers = head_dim + head_dim.next_multiple_of(LANES);
        let of_token = numbers * size_of::<i32>() + 2 * size_of::<f64>();
        block_size.next_multiple_of(LANES) * of_token
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// How many numbers a value takes.
    fn width(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Where a token's key begins, of which each number is [`LANES`] after the one before.
    fn key(&self, token: usize) -> usize {
        token / LANES * LANES * self.head_dim + token % LANES
    }

    /// Remembers a token's key and value, `[D]` each.
    #[inline(always)]
    pub fn write(&mut self, token: usize, key: &[f64], value: &[f64]) {
        let (place, width) = (self.key(token), self.width());
        let places = self.keys[place..].iter_mut().step_by(LANES);
        self.key_scales[token] = to_whole(key, places) * self.score_factor;
        let places = self.values[token * width..].iter_mut();
        self.value_scales[token] = to_whole(value, places);
    }

    /// Copies a token's key and value, `[2, D]`, and their scales.
    pub fn read_token(&self, token: usize, numbers: &mut [i32], scales: &mut [f64; 2]) {
        let (key, value) = numbers.split_at_mut(self.head_dim);
        let keys = self.keys[self.key(token)..].iter().step_by(LANES);
        key.iter_mut().zip(keys).for_each(|(to, from)| *to = *from);
        value.copy_from_slice(&self.values[token * self.width()..][..self.head_dim]);
        *scales = [self.key_scales[token], self.value_scales[token]];
    }

    /// Remembers what was read of a token.
    pub fn write_token(&mut self, token: usize, numbers: &[i32], scales: &[f64; 2]) {
        let (place, width) = (self.key(token), self.width());
        let (key, value) = numbers.split_at(self.head_dim);
        let keys = self.keys[place..].iter_mut().step_by(LANES);
        keys.zip(key).for_each(|(to, from)| *to = *from);
        self.values[token * width..][..self.head_dim].copy_from_slice(value);
        [self.key_scales[token], self.value_scales[token]] = *scales;
    }

    /// Takes over the first `tokens` tokens of another cache of the same shape.
    pub fn copy_from(&mut self, other: &Self, tokens: usize) {
        fn copy<T: Copy>(to: &mut [T], from: &[T], count: usize) {
            to[..count].copy_from_slice(&from[..count]);
        }
        let keys = tokens.next_multiple_of(LANES) * self.head_dim;
        let values = tokens * self.width();
        copy(&mut self.keys, &other.keys, keys);
        copy(&mut self.values, &other.values, values);
        copy(&mut self.key_scales, &other.key_scales, tokens);
        copy(&mut self.value_scales, &other.value_scales, tokens);
    }

    /// Attention of the queries of the tokens at some positions, to give `out`: each sees the tokens up to
    /// its own. Each query, and each result, begins `step` numbers after the one before. `scores` is room
    /// to compute in.
    #[inline(always)]
    pub fn attention<S: Simd>(
        &self,
        simd: S,
        positions: Range<usize>,
        step: usize,
        queries: &[f64],
        out: &mut [f64],
        scores: &mut Vec<f64>,
    ) {
        let mut query = 0;
        while query < positions.len() {
            let (from, rest) = (query * step, positions.len() - query);
            let (queries, out) = (&queries[from..], &mut out[from..]);
            let pass = |queries: usize| Pass {
                cache: self,
                seen: positions.start + query + queries,
                step,
            };
            if rest >= QUERIES {
                pass(QUERIES).run::<S, QUERIES>(simd, queries, scores, out);
                query += QUERIES;
            } else {
                pass(1).run::<S, 1>(simd, queries, scores, out);
                query += 1;
            }
        }
    }
}

/// Writes numbers as the nearest whole multiples of a scale, which it returns.
#[inline(always)]
fn to_whole<'a>(numbers: &[f64], places: impl Iterator<Item = &'a mut i32>) -> f64 {
    const MOST: f64 = i32::MAX as f64;
    // Never 0, so that it can be divided by.
    let largest = numbers
        .iter()
        .fold(f64::MIN_POSITIVE * MOST, |largest, number| {
            max(largest, number.abs())
        });
    let inverse = MOST / largest;
    for (place, number) in places.zip(numbers) {
        *place = nearest(number * inverse);
    }
    largest * (1.0 / MOST)
}

/// Attention of `Q` queries at once.
struct Pass<'a> {
    cache: &'a HeadCache,
    /// The tokens that the last query sees; each other one sees one less than the one after.
    seen: usize,
    step: usize,
}

impl Pass<'_> {
    /// The tokens that are seen, filled up to whole simd.
    fn padded(&self) -> usize {
        self.seen.next_multiple_of(LANES)
    }

    #[inline(always)]
    fn run<S: Simd, const Q: usize>(
        self,
        simd: S,
        queries: &[f64],
        scores: &mut Vec<f64>,
        out: &mut [f64],
    ) {
        let head_dim = self.cache.head_dim;
        let size = Q * self.padded();
        scores.resize(size.max(scores.len()), 0.0);
        let scores = &mut scores[..size];
        let queries = std::array::from_fn(|q| &queries[q * self.step..][..head_dim]);
        if Q * BLOCKS <= S::ACCUMULATORS {
            self.scores::<S, Q, BLOCKS>(simd, queries, scores);
        } else {
            self.scores::<S, Q, 1>(simd, queries, scores);
        }
        self.softmax::<S, Q>(simd, scores);
        for first in (0..self.seen).step_by(TILE) {
            let mut column = 0;
            while column < head_dim {
                if Q == 1 && 2 * SUMS <= S::ACCUMULATORS && head_dim - column > LANES {
                    self.weigh::<S, Q, 2>(simd, first, column, scores, out);
                    column += 2 * LANES;
                } else {
                    self.weigh::<S, Q, 1>(simd, first, column, scores, out);
                    column += LANES;
                }
            }
        }
    }

    /// The scores, `[Q, tokens]`.
    #[inline(always)]
    fn scores<S: Simd, const Q: usize, const BLOCKS: usize>(
        &self,
        simd: S,
        queries: [&[f64]; Q],
        scores: &mut [f64],
    ) {
        let head_dim = self.cache.head_dim;
        let (keys, _) = self.cache.keys.as_chunks::<LANES>();
        let (scales, _) = self.cache.key_scales.as_chunks::<LANES>();
        let (scores, _) = scores.as_chunks_mut::<LANES>();
        let all = self.padded() / LANES;
        for block in (0..all).step_by(BLOCKS) {
            // In place of blocks that are not there, the last is multiplied again, which takes no
            // longer.
            let blocks: [usize; BLOCKS] = std::array::from_fn(|b| (block + b).min(all - 1));
            let keys = blocks.map(|block| &keys[block * head_dim..][..head_dim]);
            let mut sums = [[simd.splat(0.0); BLOCKS]; Q];
            for d in 0..head_dim {
                let mut wide = [simd.splat(0.0); BLOCKS];
                for b in 0..BLOCKS {
                    wide[b] = simd.from_i32(&keys[b][d]);
                }
                for q in 0..Q {
                    let query = simd.splat(queries[q][d]);
                    for b in 0..BLOCKS {
                        sums[q][b] = simd.mul_add(query, wide[b], sums[q][b]);
                    }
                }
            }
            for (q, sums) in sums.into_iter().enumerate() {
                for (sum, block) in sums.into_iter().zip(blocks) {
                    let scale = simd.load(&scales[block]);
                    scores[q * all + block] = simd.store(simd.mul(sum, scale));
                }
            }
        }
    }

    /// Turns scores into weights of the values, whose scales these take along.
    #[inline(always)]
    fn softmax<S: Simd, const Q: usize>(&self, simd: S, scores: &mut [f64]) {
        for (later, scores) in scores.chunks_exact_mut(self.padded()).enumerate() {
            scores[self.seen - Q + 1 + later..].fill(f64::NEG_INFINITY);
            let max = simd.splat(-slice_max(simd, scores));
            for scores in scores.as_chunks_mut::<LANES>().0 {
                *scores = simd.store(simd.add(simd.load(scores), max));
            }
        }
        exponentials(scores);
        let (scales, _) = self.cache.value_scales.as_chunks::<LANES>();
        for scores in scores.chunks_exact_mut(self.padded()) {
            let factor = simd.splat(1.0 / slice_sum(simd, scores));
            for (scores, scales) in scores.as_chunks_mut::<LANES>().0.iter_mut().zip(scales) {
                let scales = simd.mul(simd.load(scales), factor);
                *scores = simd.store(simd.mul(simd.load(scores), scales));
            }
        }
    }

    /// Adds `Σ p[q, t]·values[t, d]` to `out[q, d]` for the tokens from `first` on that make a tile, and
    /// `C` times eight columns from `column` on.
    // By numbers, as below.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn weigh<S: Simd, const Q: usize, const C: usize>(
        &self,
        simd: S,
        first: usize,
        column: usize,
        p: &[f64],
        out: &mut [f64],
    ) {
        let head_dim = self.cache.head_dim;
        let chunks = self.cache.width() / LANES;
        let (values, _) = self.cache.values.as_chunks::<LANES>();
        let tokens = (self.seen - first).next_multiple_of(SUMS).min(TILE);
        let p: [&[[f64; SUMS]]; Q] =
            std::array::from_fn(|q| p[q * self.padded() + first..][..tokens].as_chunks().0);
        let rows = &values[first * chunks + column / LANES..(first + tokens) * chunks];
        let sums = if Q * C * SUMS <= S::ACCUMULATORS {
            some_sums::<S, Q, C, SUMS>(simd, p, rows, chunks, 0)
        } else {
            // As a loop: written out, LLVM keeps what becomes of one sum in registers while it adds up
            // the next one in memory.
            let mut sums = [[[simd.splat(0.0); SUMS]; C]; Q];
            for number in 0..SUMS {
                let one = some_sums::<S, Q, C, 1>(simd, p, rows, chunks, number);
                for q in 0..Q {
                    for c in 0..C {
                        sums[q][c][number] = one[q][c][0];
                    }
                }
            }
            sums
        };
        for (q, sums) in sums.into_iter().enumerate() {
            let out = &mut out[q * self.step..][column..head_dim];
            for (out, sums) in out.chunks_mut(LANES).zip(sums) {
                let [first_sum, second, third, fourth] = sums;
                let sum = simd.add(simd.add(first_sum, third), simd.add(second, fourth));
                for (out, sum) in out.iter_mut().zip(simd.store(sum)) {
                    *out = if first == 0 { sum } else { *out + sum };
                }
            }
        }
    }
}

/// `N` of the four sums of weighted values that each query and each of `C` times eight columns has:
/// number `first`, and those at equal steps from there. `rows` begin with the first column; the next row
/// is `chunks` further on.
// By numbers, so that all loops are unrolled and the sums stay in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn some_sums<S: Simd, const Q: usize, const C: usize, const N: usize>(
    simd: S,
    p: [&[[f64; SUMS]]; Q],
    rows: &[[i32; LANES]],
    chunks: usize,
    first: usize,
) -> [[[S::Vector; N]; C]; Q] {
    let step = SUMS / N;
    let mut sums = [[[simd.splat(0.0); N]; C]; Q];
    for (four, rows) in rows.chunks(SUMS * chunks).enumerate() {
        for n in 0..N {
            let t = (first + n * step) % SUMS;
            for c in 0..C {
                let value = simd.from_i32(&rows[t * chunks + c]);
                for q in 0..Q {
                    let p = simd.splat(p[q][four][t]);
                    sums[q][c][n] = simd.mul_add(p, value, sums[q][c][n]);
                }
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_keep_nine_digits_at_any_size() {
        for size in [1.0, 1e-3, 1e200, 1e-200] {
            let numbers = [0.3, -1.0, 0.0, 0.999_999_999, -1e-5].map(|number| number * size);
            let mut whole = [0; 5];
            let scale = to_whole(&numbers, whole.iter_mut());
            for (number, whole) in numbers.iter().zip(whole) {
                assert!((f64::from(whole) * scale - number).abs() < 3e-10 * size);
            }
        }
        let mut whole = [1; 3];
        assert!(to_whole(&[0.0; 3], whole.iter_mut()).is_finite());
        assert_eq!(whole, [0; 3]);
    }
}
