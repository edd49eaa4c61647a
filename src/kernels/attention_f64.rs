//! Causal attention of one head to its KV cache, in f64: `softmax(q·Kᵀ/√D)·V`.
//!
//! Four queries at a time share what is dequantized of keys and values. Scores are computed for
//! eight keys per vector, without sums over lanes. The scale of each value is multiplied into its
//! weight, so that the weighted sum dequantizes by conversion alone.

use std::ops::Range;

use super::head_cache::HeadCache;
use super::simd::{LANES, Simd};
use super::softmax_f64::exp_shifted;

/// Queries per tile.
const QUERY_TILE: usize = 4;

/// Blocks of eight keys multiplied in turn: one is converted while the other is multiplied.
const KEY_BLOCKS: usize = 2;

/// Accumulators of a sum of weighted values, token `t` in accumulator `t mod 4`: additions to a
/// single one would wait for one another.
const ACCUMULATORS: usize = 4;

/// Tokens whose values are added before the next columns are: few enough to stay in the L1 cache.
const VALUE_TILE: usize = 32;

impl HeadCache {
    /// Computes the attention of the queries at `positions`, each to the tokens up to its own.
    ///
    /// Each query in `queries`, and each result in `out`, begins `stride` elements after the one
    /// before. `scores` is scratch memory.
    #[inline(always)]
    pub fn attention<S: Simd>(
        &self,
        simd: S,
        positions: Range<usize>,
        stride: usize,
        queries: &[f64],
        out: &mut [f64],
        scores: &mut Vec<f64>,
    ) {
        let mut query = 0;
        while query < positions.len() {
            let offset = query * stride;
            let (queries, out) = (&queries[offset..], &mut out[offset..]);
            let tile = |queries: usize| QueryTile {
                cache: self,
                tokens: positions.start + query + queries,
                stride,
            };
            if positions.len() - query >= QUERY_TILE {
                tile(QUERY_TILE).run::<S, QUERY_TILE>(simd, queries, scores, out);
                query += QUERY_TILE;
            } else {
                tile(1).run::<S, 1>(simd, queries, scores, out);
                query += 1;
            }
        }
    }
}

/// Attention of `Q` consecutive queries.
struct QueryTile<'a> {
    cache: &'a HeadCache,
    /// The tokens that the last query sees; each other one sees one less than the next.
    tokens: usize,
    stride: usize,
}

impl QueryTile<'_> {
    /// The length of a row of scores.
    fn padded_tokens(&self) -> usize {
        self.tokens.next_multiple_of(LANES)
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
        let size = Q * self.padded_tokens();
        scores.resize(size.max(scores.len()), 0.0);
        let scores = &mut scores[..size];
        let queries = std::array::from_fn(|q| &queries[q * self.stride..][..head_dim]);
        if Q * KEY_BLOCKS <= S::ACCUMULATORS {
            self.scores::<S, Q, KEY_BLOCKS>(simd, queries, scores);
        } else {
            self.scores::<S, Q, 1>(simd, queries, scores);
        }
        self.softmax::<S, Q>(simd, scores);
        for first in (0..self.tokens).step_by(VALUE_TILE) {
            let mut column = 0;
            while column < head_dim {
                if Q == 1 && 2 * ACCUMULATORS <= S::ACCUMULATORS && head_dim - column > LANES {
                    self.add_weighted_values::<S, Q, 2>(simd, first, column, scores, out);
                    column += 2 * LANES;
                } else {
                    self.add_weighted_values::<S, Q, 1>(simd, first, column, scores, out);
                    column += LANES;
                }
            }
        }
    }

    /// Computes the scores `[Q, tokens]`.
    #[inline(always)]
    fn scores<S: Simd, const Q: usize, const B: usize>(
        &self,
        simd: S,
        queries: [&[f64]; Q],
        scores: &mut [f64],
    ) {
        let head_dim = self.cache.head_dim;
        let (keys, _) = self.cache.keys.as_chunks::<LANES>();
        let (scales, _) = self.cache.key_scales.as_chunks::<LANES>();
        let (scores, _) = scores.as_chunks_mut::<LANES>();
        let blocks = self.padded_tokens() / LANES;
        for first in (0..blocks).step_by(B) {
            // Past the end, the last block is computed again, which costs no time.
            let tile: [usize; B] = std::array::from_fn(|b| (first + b).min(blocks - 1));
            let keys = tile.map(|block| &keys[block * head_dim..][..head_dim]);
            let mut sums = [[simd.splat(0.0); B]; Q];
            for d in 0..head_dim {
                let mut wide = [simd.splat(0.0); B];
                for b in 0..B {
                    wide[b] = simd.convert_i32(&keys[b][d]);
                }
                for q in 0..Q {
                    let query = simd.splat(queries[q][d]);
                    for b in 0..B {
                        sums[q][b] = simd.mul_add(query, wide[b], sums[q][b]);
                    }
                }
            }
            for (q, sums) in sums.into_iter().enumerate() {
                for (sum, block) in sums.into_iter().zip(tile) {
                    let scale = simd.load(&scales[block]);
                    scores[q * blocks + block] = simd.store(simd.mul(sum, scale));
                }
            }
        }
    }

    /// Turns scores into probabilities times the scales of the values.
    #[inline(always)]
    fn softmax<S: Simd, const Q: usize>(&self, simd: S, scores: &mut [f64]) {
        let (scales, _) = self.cache.value_scales.as_chunks::<LANES>();
        for (q, scores) in scores.chunks_exact_mut(self.padded_tokens()).enumerate() {
            scores[self.tokens - Q + 1 + q..].fill(f64::NEG_INFINITY);
            let (_, sum) = exp_shifted(simd, scores, std::convert::identity);
            let inverse = simd.splat(1.0 / sum);
            for (scores, scales) in scores.as_chunks_mut::<LANES>().0.iter_mut().zip(scales) {
                let factors = simd.mul(simd.load(scales), inverse);
                *scores = simd.store(simd.mul(simd.load(scores), factors));
            }
        }
    }

    /// Adds `Σ p[q, t]·values[t, d]` to `out[q, d]`, for the tile of tokens from `first` on and `C`
    /// vectors of columns from `column` on. The first tile overwrites `out`.
    // The indexed loops unroll completely, which keeps the sums in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn add_weighted_values<S: Simd, const Q: usize, const C: usize>(
        &self,
        simd: S,
        first: usize,
        column: usize,
        p: &[f64],
        out: &mut [f64],
    ) {
        let head_dim = self.cache.head_dim;
        let row_vectors = self.cache.value_stride() / LANES;
        let (values, _) = self.cache.values.as_chunks::<LANES>();
        let tokens = (self.tokens - first)
            .next_multiple_of(ACCUMULATORS)
            .min(VALUE_TILE);
        let p: [&[[f64; ACCUMULATORS]]; Q] = std::array::from_fn(|q| {
            p[q * self.padded_tokens() + first..][..tokens]
                .as_chunks()
                .0
        });
        let values = &values[first * row_vectors + column / LANES..(first + tokens) * row_vectors];
        let sums = if Q * C * ACCUMULATORS <= S::ACCUMULATORS {
            weighted_sums::<S, Q, C, ACCUMULATORS>(simd, p, values, row_vectors, 0)
        } else {
            // A loop, since LLVM would spill the sums of four inlined calls.
            let mut sums = [[[simd.splat(0.0); ACCUMULATORS]; C]; Q];
            for index in 0..ACCUMULATORS {
                let partial = weighted_sums::<S, Q, C, 1>(simd, p, values, row_vectors, index);
                for q in 0..Q {
                    for c in 0..C {
                        sums[q][c][index] = partial[q][c][0];
                    }
                }
            }
            sums
        };
        for (q, sums) in sums.into_iter().enumerate() {
            let out = &mut out[q * self.stride..][column..head_dim];
            for (out, [a, b, c, d]) in out.chunks_mut(LANES).zip(sums) {
                let sum = simd.add(simd.add(a, c), simd.add(b, d));
                for (out, sum) in out.iter_mut().zip(simd.store(sum)) {
                    *out = if first == 0 { sum } else { *out + sum };
                }
            }
        }
    }
}

/// Computes `N` of the [`ACCUMULATORS`] for each query and vector of columns: accumulator `first`,
/// and every `ACCUMULATORS / N`th from there. A row of `values` begins `row_vectors` after the one
/// before.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn weighted_sums<S: Simd, const Q: usize, const C: usize, const N: usize>(
    simd: S,
    p: [&[[f64; ACCUMULATORS]]; Q],
    values: &[[i32; LANES]],
    row_vectors: usize,
    first: usize,
) -> [[[S::Vector; N]; C]; Q] {
    let mut sums = [[[simd.splat(0.0); N]; C]; Q];
    for (i, rows) in values.chunks(ACCUMULATORS * row_vectors).enumerate() {
        for n in 0..N {
            let t = (first + n * (ACCUMULATORS / N)) % ACCUMULATORS;
            for c in 0..C {
                let value = simd.convert_i32(&rows[t * row_vectors + c]);
                for q in 0..Q {
                    let p = simd.splat(p[q][i][t]);
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
    use crate::kernels::cpu::test_override::for_each_cpu;
    use crate::kernels::simd::{self, Kernel};

    /// `softmax(q·Kᵀ/√D)·V` for one query, `keys` and `values` `[tokens, D]`.
    fn reference(query: &[f64], keys: &[f64], values: &[f64]) -> Vec<f64> {
        let head_dim = query.len();
        let dot = |key: &[f64]| key.iter().zip(query).map(|(k, q)| k * q).sum::<f64>();
        let scores = keys.chunks_exact(head_dim).map(dot);
        let powers: Vec<f64> = scores
            .map(|s| (s / (head_dim as f64).sqrt()).exp())
            .collect();
        let sum: f64 = powers.iter().sum();
        let mut out = vec![0.0; head_dim];
        for (power, value) in powers.iter().zip(values.chunks_exact(head_dim)) {
            for (out, v) in out.iter_mut().zip(value) {
                *out += power / sum * v;
            }
        }
        out
    }

    struct Attention<'a> {
        cache: &'a HeadCache,
        positions: Range<usize>,
        queries: &'a [f64],
        out: &'a mut [f64],
    }

    impl Kernel for Attention<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let (head_dim, mut scores) = (self.cache.head_dim, Vec::new());
            let Self {
                positions,
                queries,
                out,
                ..
            } = self;
            self.cache
                .attention(simd, positions, head_dim, queries, out, &mut scores);
        }
    }

    #[test]
    fn attention_matches_the_reference_and_has_the_same_bits_on_every_cpu() {
        let mut rng = fastrand::Rng::with_seed(4);
        for head_dim in [1, 4, 7, 8, 9, 16, 24] {
            for (start, count) in [(0, 1), (0, 9), (6, 5), (31, 1), (30, 4), (64, 3), (90, 10)] {
                let tokens = start + count;
                let mut random = |count: usize| -> Vec<f64> {
                    (0..count * head_dim).map(|_| rng.f64() - 0.5).collect()
                };
                let [keys, values] = [(); 2].map(|()| random(tokens));
                let queries = random(count);
                let mut cache = HeadCache::new(head_dim, tokens);
                let rows = keys.chunks(head_dim).zip(values.chunks(head_dim));
                for (position, (key, value)) in rows.enumerate() {
                    cache.write(position, key, value);
                }
                let mut results = Vec::new();
                for_each_cpu(|cpu| {
                    let mut out = vec![f64::NAN; count * head_dim];
                    simd::run(Attention {
                        cache: &cache,
                        positions: start..tokens,
                        queries: &queries,
                        out: &mut out,
                    });
                    for (i, query) in queries.chunks(head_dim).enumerate() {
                        let seen = (start + i + 1) * head_dim;
                        let expected = reference(query, &keys[..seen], &values[..seen]);
                        for (d, expected) in expected.into_iter().enumerate() {
                            let error = (out[i * head_dim + d] - expected).abs();
                            assert!(error < 1e-8, "{head_dim}, {start}+{i}, {cpu:?}: {error}");
                        }
                    }
                    results.push(out);
                });
                assert!(results.windows(2).all(|r| r[0] == r[1]));
            }
        }
    }
}
