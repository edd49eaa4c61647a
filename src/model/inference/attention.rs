//! What the model remembers of a text, its keys and values, and attention to them.
//!
//! A key or value of a head is kept as whole numbers of 32 bits and their scale, an f64: as exact as
//! nine digits of its largest number, in half the memory of f64. Memory is what attention to a long
//! text waits for, so it also lies in the order in which it is read. All arithmetic is in f64.

use super::arithmetic::{exponentials, larger, largest, nearest, sum};
use super::lanes::{LANES, Lanes, Work};
use super::share::Share;
use crate::model::ModelConfig;

/// How many tokens of a head lie together.
const TILE: usize = 32;

/// How many queries are computed together, where there are several: what is read of keys and values
/// is widened once for all of them.
const QUERIES: usize = 4;

/// The keys and values of one layer for one text, with room for the whole context.
#[derive(Clone, Debug)]
pub struct KvCache {
    shape: Shape,
    /// `[tile, head, tokens / 8, D, 8]`: a vector holds one element of eight tokens' keys.
    keys: Vec<i32>,
    /// `[tile, head, tokens, D]`, each row filled up to whole lanes.
    values: Vec<i32>,
    /// `[tile, head, tokens]` each. Those of the keys are over `√D`, as scores are.
    key_scales: Vec<f64>,
    value_scales: Vec<f64>,
}

/// How many numbers there are of what.
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    head_dim: usize,
    /// Tokens of a tile, in whole lanes.
    tile: usize,
    tiles: usize,
}

impl Shape {
    fn new(config: ModelConfig) -> Self {
        let tile = config.block_size.next_multiple_of(LANES).min(TILE);
        Self {
            heads: config.n_head,
            head_dim: config.head_dim(),
            tile,
            tiles: config.block_size.div_ceil(tile),
        }
    }

    /// How many numbers a head's value takes.
    fn width(self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Scales of so many tiles' keys, or values.
    fn scales(self, tiles: usize) -> usize {
        tiles * self.heads * self.tile
    }

    /// Where the tokens of a tile's head begin, counted in tokens.
    fn place(self, tile: usize, head: usize) -> usize {
        (tile * self.heads + head) * self.tile
    }
}

impl KvCache {
    pub fn new(config: ModelConfig) -> Self {
        let shape = Shape::new(config);
        let scales = shape.scales(shape.tiles);
        Self {
            shape,
            // Memory that is only zeros costs nothing before it is written.
            keys: vec![0; scales * shape.head_dim],
            values: vec![0; scales * shape.width()],
            key_scales: vec![0.0; scales],
            value_scales: vec![0.0; scales],
        }
    }

    /// How much memory a cache takes.
    pub fn bytes(config: ModelConfig) -> usize {
        let shape = Shape::new(config);
        let of_token = (shape.head_dim + shape.width()) * size_of::<i32>() + 2 * size_of::<f64>();
        shape.scales(shape.tiles) * of_token
    }

    /// Remembers a token's key and value, `[E]` each.
    #[inline(always)]
    pub fn insert(&mut self, position: usize, key: &[f64], value: &[f64]) {
        let Shape { head_dim, tile, .. } = self.shape;
        let width = self.shape.width();
        let root = (head_dim as f64).sqrt();
        let columns = key.chunks_exact(head_dim).zip(value.chunks_exact(head_dim));
        for (head, (key, value)) in columns.enumerate() {
            let (first, token) = (self.shape.place(position / tile, head), position % tile);
            let place = (first + token / LANES * LANES) * head_dim + token % LANES;
            let places = self.keys[place..].iter_mut().step_by(LANES);
            self.key_scales[first + token] = to_whole(key, places) / root;
            let places = self.values[(first + token) * width..].iter_mut();
            self.value_scales[first + token] = to_whole(value, places);
        }
    }

    /// Takes over the first `tokens` tokens of another cache of the same shape.
    pub fn copy_from(&mut self, other: &Self, tokens: usize) {
        let Shape { head_dim, tile, .. } = self.shape;
        let scales = self.shape.scales(tokens.div_ceil(tile));
        let (keys, values) = (scales * head_dim, scales * self.shape.width());
        self.keys[..keys].copy_from_slice(&other.keys[..keys]);
        self.values[..values].copy_from_slice(&other.values[..values]);
        self.key_scales[..scales].copy_from_slice(&other.key_scales[..scales]);
        self.value_scales[..scales].copy_from_slice(&other.value_scales[..scales]);
    }

    /// Attention of the queries `[queries, E]` of some tokens, to give `out`, of the same shape. The
    /// first query sees `tokens` tokens, and each other one more than the one before.
    pub fn attention<'a>(
        &'a self,
        tokens: usize,
        queries: &'a [f64],
        out: &'a mut [f64],
    ) -> Attention<'a> {
        let Shape {
            heads, head_dim, ..
        } = self.shape;
        Attention {
            cache: self,
            first_head: 0,
            heads,
            queries: queries.len() / (heads * head_dim),
            tokens,
            query: queries,
            out,
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
        .fold(f64::MIN_POSITIVE * MOST, |max, number| {
            larger(max, number.abs())
        });
    let inverse = MOST / largest;
    for (place, number) in places.zip(numbers) {
        *place = nearest(number * inverse);
    }
    largest / MOST
}

/// Attention of some queries, still to be done: of all heads, or, if it is one query, of some.
pub struct Attention<'a> {
    cache: &'a KvCache,
    first_head: usize,
    heads: usize,
    queries: usize,
    tokens: usize,
    /// `[queries, heads, D]`.
    query: &'a [f64],
    out: &'a mut [f64],
}

impl Share for Attention<'_> {
    fn bytes(&self) -> usize {
        self.query.len() * self.tokens * 2 * size_of::<i32>()
    }

    fn halves(self) -> Result<(Self, Self), Self> {
        let one = self.queries == 1;
        let (queries, heads) = match one {
            true => (1, self.heads / 2),
            false => ((self.queries / 2).next_multiple_of(QUERIES), self.heads),
        };
        let size = queries * heads * self.cache.shape.head_dim;
        if size == 0 || size >= self.query.len() {
            return Err(self);
        }
        let (query, more_query) = self.query.split_at(size);
        let (out, more_out) = self.out.split_at_mut(size);
        let upper = Self {
            first_head: self.first_head + if one { heads } else { 0 },
            heads: if one { self.heads - heads } else { heads },
            queries: if one { 1 } else { self.queries - queries },
            tokens: self.tokens + if one { 0 } else { queries },
            query: more_query,
            out: more_out,
            ..self
        };
        let lower = Self {
            heads,
            queries,
            query,
            out,
            ..self
        };
        Ok((lower, upper))
    }
}

impl Work for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        self.run_in(lanes, &mut Vec::new());
    }
}

impl Attention<'_> {
    /// Does it; `scores` is room to compute in.
    #[inline(always)]
    pub fn run_in<L: Lanes>(self, lanes: L, scores: &mut Vec<f64>) {
        let head_dim = self.cache.shape.head_dim;
        let step = self.heads * head_dim;
        let fours = self.query.chunks(QUERIES * step);
        let outs = self.out.chunks_mut(QUERIES * step);
        for (index, (query, out)) in fours.zip(outs).enumerate() {
            let tokens = self.tokens + index * QUERIES;
            let pass = |heads: usize, first_head, tokens| Pass {
                cache: self.cache,
                first_head: self.first_head + first_head,
                heads,
                tokens,
                step,
            };
            if query.len() == QUERIES * step {
                for head in 0..self.heads {
                    let from = head * head_dim;
                    let (query, out) = (&query[from..], &mut out[from..]);
                    pass(1, head, tokens).run::<L, QUERIES, 2>(lanes, query, scores, out);
                }
            } else {
                let rows = query.chunks_exact(step).zip(out.chunks_exact_mut(step));
                for (later, (query, out)) in rows.enumerate() {
                    let all = pass(self.heads, 0, tokens + later);
                    all.run::<L, 1, 4>(lanes, query, scores, out);
                }
            }
        }
    }
}

/// Attention of `Q` queries at once, of which the first sees `tokens` tokens. Each query, and each
/// result, is `step` numbers after the one before.
struct Pass<'a> {
    cache: &'a KvCache,
    first_head: usize,
    heads: usize,
    tokens: usize,
    step: usize,
}

impl Pass<'_> {
    /// `B` blocks of eight keys are multiplied together: so many that a product takes no longer than
    /// it takes the processor to begin those of the others.
    #[inline(always)]
    fn run<L: Lanes, const Q: usize, const B: usize>(
        self,
        lanes: L,
        query: &[f64],
        scores: &mut Vec<f64>,
        out: &mut [f64],
    ) {
        let Shape { head_dim, tile, .. } = self.cache.shape;
        let padded = (self.tokens + Q - 1).next_multiple_of(LANES);
        let size = Q * self.heads * padded;
        scores.resize(size.max(scores.len()), 0.0);
        let scores = &mut scores[..size];
        for first in (0..padded).step_by(tile) {
            for head in 0..self.heads {
                let query =
                    std::array::from_fn(|q| &query[q * self.step + head * head_dim..][..head_dim]);
                self.scores::<L, Q, B>(lanes, first, head, query, scores);
            }
        }
        self.softmax::<L, Q>(lanes, scores);
        for q in 0..Q {
            out[q * self.step..][..self.heads * head_dim].fill(0.0);
        }
        for first in (0..padded).step_by(tile) {
            for head in 0..self.heads {
                let out = &mut out[head * head_dim..];
                let mut column = 0;
                while column < head_dim {
                    if Q == 1 && head_dim - column > LANES {
                        self.weigh::<L, Q, 2>(lanes, first, head, column, scores, out);
                        column += 2 * LANES;
                    } else {
                        self.weigh::<L, Q, 1>(lanes, first, head, column, scores, out);
                        column += LANES;
                    }
                }
            }
        }
    }

    /// The scores, in `[heads, Q, tokens]`, of a head and the tile that begins with token `first`.
    #[inline(always)]
    fn scores<L: Lanes, const Q: usize, const B: usize>(
        &self,
        lanes: L,
        first: usize,
        head: usize,
        query: [&[f64]; Q],
        scores: &mut [f64],
    ) {
        let Shape { head_dim, tile, .. } = self.cache.shape;
        let padded = scores.len() / (Q * self.heads);
        let place = self.cache.shape.place(first / tile, self.first_head + head);
        let (keys, _) = self.cache.keys[place * head_dim..].as_chunks::<LANES>();
        let (scales, _) = self.cache.key_scales[place..].as_chunks::<LANES>();
        let (scores, _) = scores[head * Q * padded + first..].as_chunks_mut::<LANES>();
        let blocks = tile.min(padded - first) / LANES;
        for block in (0..blocks).step_by(B) {
            // In place of blocks that are not there, the last is multiplied again, which takes no
            // longer.
            let blocks: [usize; B] = std::array::from_fn(|b| (block + b).min(blocks - 1));
            let keys = blocks.map(|block| &keys[block * head_dim..][..head_dim]);
            let mut sums = [[lanes.splat(0.0); B]; Q];
            for d in 0..head_dim {
                let keys = keys.map(
                    #[inline(always)]
                    |keys| lanes.widen_whole(&keys[d]),
                );
                for q in 0..Q {
                    let query = lanes.splat(query[q][d]);
                    for b in 0..B {
                        sums[q][b] = lanes.mul_add(query, keys[b], sums[q][b]);
                    }
                }
            }
            for (q, sums) in sums.into_iter().enumerate() {
                for (sum, block) in sums.into_iter().zip(blocks) {
                    let scale = lanes.load(&scales[block]);
                    let place = q * (padded / LANES) + block;
                    scores[place] = lanes.store(lanes.mul(sum, scale));
                }
            }
        }
    }

    /// Turns scores into weights of the values, whose scales these take along.
    #[inline(always)]
    fn softmax<L: Lanes, const Q: usize>(&self, lanes: L, scores: &mut [f64]) {
        let Shape { tile, .. } = self.cache.shape;
        let padded = scores.len() / (Q * self.heads);
        for (index, scores) in scores.chunks_exact_mut(padded).enumerate() {
            scores[self.tokens + index % Q..].fill(f64::NEG_INFINITY);
            let max = largest(lanes, scores);
            for score in scores {
                *score -= max;
            }
        }
        exponentials(scores);
        for (index, scores) in scores.chunks_exact_mut(padded).enumerate() {
            let factor = 1.0 / sum(lanes, scores);
            for (t, scores) in scores.chunks_mut(tile).enumerate() {
                let place = self.cache.shape.place(t, self.first_head + index / Q);
                for (score, scale) in scores.iter_mut().zip(&self.cache.value_scales[place..]) {
                    *score *= factor * scale;
                }
            }
        }
    }

    /// `out[q, d] += Σ p[q, t]·values[t, d]` for a head, `C` times eight columns from `column` on, and
    /// the tile that begins with token `first`. It runs over four sums, token `t` in sum `t mod 4`, as
    /// one alone could not be added to as fast as a processor multiplies.
    #[inline(always)]
    fn weigh<L: Lanes, const Q: usize, const C: usize>(
        &self,
        lanes: L,
        first: usize,
        head: usize,
        column: usize,
        p: &[f64],
        out: &mut [f64],
    ) {
        const SUMS: usize = 4;
        let Shape { head_dim, tile, .. } = self.cache.shape;
        let width = self.cache.shape.width();
        let padded = p.len() / (Q * self.heads);
        let place = self.cache.shape.place(first / tile, self.first_head + head);
        let (values, _) = self.cache.values[place * width..].as_chunks::<LANES>();
        let tokens = tile.min(padded - first);
        let p: [&[[f64; SUMS]]; Q] = std::array::from_fn(|q| {
            let from = (head * Q + q) * padded + first;
            p[from..from + tokens].as_chunks().0
        });
        let chunks = width / LANES;
        let mut sums = [[[lanes.splat(0.0); SUMS]; C]; Q];
        let rows = values[..tokens * chunks].chunks_exact(SUMS * chunks);
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
        for (q, sums) in sums.into_iter().enumerate() {
            let out = &mut out[q * self.step..][column..head_dim];
            for (out, sums) in out.chunks_mut(LANES).zip(sums) {
                let [first, second, third, fourth] = sums;
                let sum = lanes.add(lanes.add(first, third), lanes.add(second, fourth));
                for (out, sum) in out.iter_mut().zip(lanes.store(sum)) {
                    *out += sum;
                }
            }
        }
    }
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
