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

/// How many blocks of eight keys are multiplied together: while they are widened, a product is made.
const BLOCKS: usize = 2;

/// How many sums the values that a query attends to are added up in.
const SUMS: usize = 4;

/// The keys and values of one layer for one text, with room for the whole context.
#[derive(Clone, Debug)]
pub struct KvCache {
    shape: Shape,
    /// `1/√D`.
    score_factor: f64,
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

    /// Where a head's token is, counted in tokens.
    fn token(self, position: usize, head: usize) -> usize {
        self.place(position / self.tile, head) + position % self.tile
    }

    /// Where a token's key begins, of which each number is [`LANES`] after the one before.
    fn key(self, token: usize) -> usize {
        token / LANES * LANES * self.head_dim + token % LANES
    }
}

impl KvCache {
    pub fn new(config: ModelConfig) -> Self {
        let shape = Shape::new(config);
        let scales = shape.scales(shape.tiles);
        Self {
            shape,
            score_factor: 1.0 / (shape.head_dim as f64).sqrt(),
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
        let (head_dim, width) = (self.shape.head_dim, self.shape.width());
        let columns = key.chunks_exact(head_dim).zip(value.chunks_exact(head_dim));
        for (head, (key, value)) in columns.enumerate() {
            let token = self.shape.token(position, head);
            let places = self.keys[self.shape.key(token)..].iter_mut();
            let places = places.step_by(LANES);
            self.key_scales[token] = to_whole(key, places) * self.score_factor;
            let places = self.values[token * width..].iter_mut();
            self.value_scales[token] = to_whole(value, places);
        }
    }

    /// How many whole numbers, and scales, a token takes.
    pub fn token_size(&self) -> (usize, usize) {
        let Shape {
            heads, head_dim, ..
        } = self.shape;
        (2 * heads * head_dim, 2 * heads)
    }

    /// Copies a token's keys and values, `[heads, 2, D]`, and their scales, `[heads, 2]`.
    pub fn read_token(&self, position: usize, numbers: &mut [i32], scales: &mut [f64]) {
        let (head_dim, width) = (self.shape.head_dim, self.shape.width());
        let heads = numbers.chunks_exact_mut(2 * head_dim);
        for (head, (numbers, scales)) in heads.zip(scales.as_chunks_mut().0).enumerate() {
            let token = self.shape.token(position, head);
            let (key, value) = numbers.split_at_mut(head_dim);
            let keys = self.keys[self.shape.key(token)..].iter().step_by(LANES);
            key.iter_mut().zip(keys).for_each(|(to, from)| *to = *from);
            value.copy_from_slice(&self.values[token * width..][..head_dim]);
            *scales = [self.key_scales[token], self.value_scales[token]];
        }
    }

    /// Remembers what was read of a token.
    pub fn write_token(&mut self, position: usize, numbers: &[i32], scales: &[f64]) {
        let (head_dim, width) = (self.shape.head_dim, self.shape.width());
        let heads = numbers.chunks_exact(2 * head_dim);
        for (head, (numbers, scales)) in heads.zip(scales.as_chunks().0).enumerate() {
            let token = self.shape.token(position, head);
            let (key, value) = numbers.split_at(head_dim);
            let keys = self.keys[self.shape.key(token)..].iter_mut();
            let keys = keys.step_by(LANES).zip(key);
            keys.for_each(|(to, from)| *to = *from);
            self.values[token * width..][..head_dim].copy_from_slice(value);
            [self.key_scales[token], self.value_scales[token]] = *scales;
        }
    }

    /// Takes over the first `tokens` tokens of another cache of the same shape.
    pub fn copy_from(&mut self, other: &Self, tokens: usize) {
        fn copy<T: Copy>(to: &mut [T], from: &[T], first: usize, count: usize) {
            to[first..][..count].copy_from_slice(&from[first..][..count]);
        }
        let Shape { head_dim, tile, .. } = self.shape;
        let width = self.shape.width();
        for (index, first) in (0..tokens).step_by(tile).enumerate() {
            let used = tile.min(tokens - first);
            let blocks = used.next_multiple_of(LANES);
            for head in 0..self.shape.heads {
                let place = self.shape.place(index, head);
                copy(
                    &mut self.keys,
                    &other.keys,
                    place * head_dim,
                    blocks * head_dim,
                );
                copy(&mut self.values, &other.values, place * width, used * width);
                copy(&mut self.key_scales, &other.key_scales, place, used);
                copy(&mut self.value_scales, &other.value_scales, place, used);
            }
        }
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
    largest * (1.0 / MOST)
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
            let pass = |first_head, heads, tokens, queries: usize| Pass {
                cache: self.cache,
                first_head: self.first_head + first_head,
                heads,
                tokens,
                seen: tokens + queries - 1,
                padded: (tokens + queries - 1).next_multiple_of(LANES),
                step,
            };
            if query.len() == QUERIES * step {
                for head in 0..self.heads {
                    let from = head * head_dim;
                    let (query, out) = (&query[from..], &mut out[from..]);
                    let pass = pass(head, 1, tokens, QUERIES);
                    pass.run::<L, QUERIES>(lanes, query, scores, out);
                }
            } else {
                let rows = query.chunks_exact(step).zip(out.chunks_exact_mut(step));
                for (later, (query, out)) in rows.enumerate() {
                    let pass = pass(0, self.heads, tokens + later, 1);
                    pass.run::<L, 1>(lanes, query, scores, out);
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
    /// The tokens that the last query sees, and they filled up to whole lanes.
    seen: usize,
    padded: usize,
    step: usize,
}

impl Pass<'_> {
    #[inline(always)]
    fn run<L: Lanes, const Q: usize>(
        self,
        lanes: L,
        query: &[f64],
        scores: &mut Vec<f64>,
        out: &mut [f64],
    ) {
        let Shape { head_dim, tile, .. } = self.cache.shape;
        let size = Q * self.heads * self.padded;
        scores.resize(size.max(scores.len()), 0.0);
        let scores = &mut scores[..size];
        let tiles = self.padded.div_ceil(tile);
        for tile in 0..tiles {
            for head in 0..self.heads {
                let query =
                    std::array::from_fn(|q| &query[q * self.step + head * head_dim..][..head_dim]);
                if Q * BLOCKS <= L::SUMS {
                    self.scores::<L, Q, BLOCKS>(lanes, tile, head, query, scores);
                } else {
                    self.scores::<L, Q, 1>(lanes, tile, head, query, scores);
                }
            }
        }
        self.softmax::<L, Q>(lanes, scores);
        for tile in 0..tiles {
            for head in 0..self.heads {
                let out = &mut out[head * head_dim..];
                let mut column = 0;
                while column < head_dim {
                    if Q == 1 && 2 * SUMS <= L::SUMS && head_dim - column > LANES {
                        self.weigh::<L, Q, 2>(lanes, tile, head, column, scores, out);
                        column += 2 * LANES;
                    } else {
                        self.weigh::<L, Q, 1>(lanes, tile, head, column, scores, out);
                        column += LANES;
                    }
                }
            }
        }
    }

    /// The tokens of a tile that any query sees, filled up to whole `parts`: the first, and how many.
    #[inline(always)]
    fn tokens_of(&self, tile: usize, parts: usize) -> (usize, usize) {
        let first = tile * self.cache.shape.tile;
        let seen = (self.seen - first).next_multiple_of(parts);
        (first, seen.min(self.cache.shape.tile))
    }

    /// The scores, in `[heads, Q, tokens]`, of a head and a tile.
    #[inline(always)]
    fn scores<L: Lanes, const Q: usize, const BLOCKS: usize>(
        &self,
        lanes: L,
        tile: usize,
        head: usize,
        query: [&[f64]; Q],
        scores: &mut [f64],
    ) {
        let Shape { head_dim, .. } = self.cache.shape;
        let padded = self.padded;
        let (first, tokens) = self.tokens_of(tile, LANES);
        let place = self.cache.shape.place(tile, self.first_head + head);
        let (keys, _) = self.cache.keys[place * head_dim..].as_chunks::<LANES>();
        let (scales, _) = self.cache.key_scales[place..].as_chunks::<LANES>();
        let (scores, _) = scores[head * Q * padded + first..].as_chunks_mut::<LANES>();
        let blocks = tokens / LANES;
        for block in (0..blocks).step_by(BLOCKS) {
            // In place of blocks that are not there, the last is multiplied again, which takes no
            // longer.
            let blocks: [usize; BLOCKS] = std::array::from_fn(|b| (block + b).min(blocks - 1));
            let keys = blocks.map(|block| &keys[block * head_dim..][..head_dim]);
            let mut sums = [[lanes.splat(0.0); BLOCKS]; Q];
            for d in 0..head_dim {
                let mut wide = [lanes.splat(0.0); BLOCKS];
                for b in 0..BLOCKS {
                    wide[b] = lanes.widen_whole(&keys[b][d]);
                }
                for q in 0..Q {
                    let query = lanes.splat(query[q][d]);
                    for b in 0..BLOCKS {
                        sums[q][b] = lanes.mul_add(query, wide[b], sums[q][b]);
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
        for (index, scores) in scores.chunks_exact_mut(self.padded).enumerate() {
            scores[self.tokens + index % Q..].fill(f64::NEG_INFINITY);
            let max = lanes.splat(-largest(lanes, scores));
            for scores in scores.as_chunks_mut::<LANES>().0 {
                *scores = lanes.store(lanes.add(lanes.load(scores), max));
            }
        }
        exponentials(scores);
        for (index, scores) in scores.chunks_exact_mut(self.padded).enumerate() {
            let factor = lanes.splat(1.0 / sum(lanes, scores));
            for (tile, scores) in scores.chunks_mut(self.cache.shape.tile).enumerate() {
                let place = self.cache.shape.place(tile, self.first_head + index / Q);
                let scales = self.cache.value_scales[place..].as_chunks::<LANES>().0;
                for (scores, scales) in scores.as_chunks_mut::<LANES>().0.iter_mut().zip(scales) {
                    let scales = lanes.mul(lanes.load(scales), factor);
                    *scores = lanes.store(lanes.mul(lanes.load(scores), scales));
                }
            }
        }
    }

    /// Adds `Σ p[q, t]·values[t, d]` to `out[q, d]` for a head, a tile, and `C` times eight columns from
    /// `column` on. It runs over four sums, token `t` in sum `t mod 4`, as one alone could not be added
    /// to as fast as a processor multiplies.
    // By numbers, as below.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn weigh<L: Lanes, const Q: usize, const C: usize>(
        &self,
        lanes: L,
        tile: usize,
        head: usize,
        column: usize,
        p: &[f64],
        out: &mut [f64],
    ) {
        let Shape { head_dim, .. } = self.cache.shape;
        let width = self.cache.shape.width();
        let (first, tokens) = self.tokens_of(tile, SUMS);
        let place = self.cache.shape.place(tile, self.first_head + head);
        let (values, _) = self.cache.values[place * width..].as_chunks::<LANES>();
        let p: [&[[f64; SUMS]]; Q] = std::array::from_fn(|q| {
            let from = (head * Q + q) * self.padded + first;
            p[from..from + tokens].as_chunks().0
        });
        let chunks = width / LANES;
        let rows = &values[column / LANES..tokens * chunks];
        let sums = if Q * C * SUMS <= L::SUMS {
            some_sums::<L, Q, C, SUMS>(lanes, p, rows, chunks, 0)
        } else {
            // As a loop: written out, LLVM keeps what becomes of one sum in registers while it adds up
            // the next one in memory.
            let mut sums = [[[lanes.splat(0.0); SUMS]; C]; Q];
            for first in 0..SUMS {
                let one = some_sums::<L, Q, C, 1>(lanes, p, rows, chunks, first);
                for q in 0..Q {
                    for c in 0..C {
                        sums[q][c][first] = one[q][c][0];
                    }
                }
            }
            sums
        };
        for (q, sums) in sums.into_iter().enumerate() {
            let out = &mut out[q * self.step..][column..head_dim];
            for (out, sums) in out.chunks_mut(LANES).zip(sums) {
                let [first, second, third, fourth] = sums;
                let sum = lanes.add(lanes.add(first, third), lanes.add(second, fourth));
                for (out, sum) in out.iter_mut().zip(lanes.store(sum)) {
                    *out = if tile == 0 { sum } else { *out + sum };
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
fn some_sums<L: Lanes, const Q: usize, const C: usize, const N: usize>(
    lanes: L,
    p: [&[[f64; SUMS]]; Q],
    rows: &[[i32; LANES]],
    chunks: usize,
    first: usize,
) -> [[[L::V; N]; C]; Q] {
    let step = SUMS / N;
    let mut sums = [[[lanes.splat(0.0); N]; C]; Q];
    for (four, rows) in rows.chunks(SUMS * chunks).enumerate() {
        for n in 0..N {
            let t = (first + n * step) % SUMS;
            for c in 0..C {
                let value = lanes.widen_whole(&rows[t * chunks + c]);
                for q in 0..Q {
                    let p = lanes.splat(p[q][four][t]);
                    sums[q][c][n] = lanes.mul_add(p, value, sums[q][c][n]);
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
