//! Causal multi-head attention over documents packed end to end (Vaswani et al. 2017,
//! <https://arxiv.org/abs/1706.03762>), on plain slices.
//!
//! Queries, keys and values are the three thirds of the columns of `qkv` `[N, 3E]`; head `h` is the
//! columns `h·D..(h+1)·D` of each, where `D = E / n_head`. Each token looks at itself and the earlier
//! ones of its own document. The probabilities are computed again for the gradient rather than kept.

use super::matmul::{Matrix, add_matmul, matmul};
use super::vector::{dot, exp, max_lanes, softmax_in_place, sum_lanes, vectorized};

/// How many queries of a long document are taken together. All keys up to the last of them are
/// looked at, so more of them waste more; fewer make slower products.
const QUERIES: usize = 64;

/// Documents up to this length fit one tile: a vector of keys for each query.
const TILE: usize = 16;

/// How the columns of `qkv` are split, and its rows.
pub struct Heads<'a> {
    /// Document `d` is rows `offsets[d]..offsets[d + 1]`.
    pub offsets: &'a [usize],
    pub n_head: usize,
    pub n_embd: usize,
}

/// One head of one document: `tokens` rows from row `row`, the `D` columns from column `column` of
/// each third.
#[derive(Clone, Copy)]
struct Head {
    row: usize,
    tokens: usize,
    column: usize,
    head_dim: usize,
    n_embd: usize,
}

impl Heads<'_> {
    /// The values that each token attends to, `[N, E]`.
    pub fn forward(&self, qkv: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; qkv.len() / 3];
        let mut p = vec![0f32; self.room()];
        self.for_each(|head| match head.head_dim {
            4 if head.tokens <= TILE => head.tile_forward::<4>(qkv, &mut out),
            8 if head.tokens <= TILE => head.tile_forward::<8>(qkv, &mut out),
            16 if head.tokens <= TILE => head.tile_forward::<16>(qkv, &mut out),
            _ => head.forward(qkv, &mut p, &mut out),
        });
        out
    }

    /// The gradient of `qkv`, `[N, 3E]`, from `out`, what `forward` gave, and its gradient.
    pub fn backward(&self, qkv: &[f32], out: &[f32], dout: &[f32]) -> Vec<f32> {
        let mut dqkv = vec![0f32; qkv.len()];
        let (mut p, mut ds) = (vec![0f32; self.room()], vec![0f32; self.room()]);
        self.for_each(|head| match head.head_dim {
            4 if head.tokens <= TILE => head.tile_backward::<4>(qkv, dout, &mut dqkv),
            8 if head.tokens <= TILE => head.tile_backward::<8>(qkv, dout, &mut dqkv),
            16 if head.tokens <= TILE => head.tile_backward::<16>(qkv, dout, &mut dqkv),
            _ => head.backward(qkv, out, dout, &mut p, &mut ds, &mut dqkv),
        });
        dqkv
    }

    /// Room for the scores of a block of queries.
    fn room(&self) -> usize {
        let lengths = self.offsets.windows(2).map(|d| d[1] - d[0]);
        let longest = lengths.max().unwrap_or(0);
        longest * longest.min(QUERIES)
    }

    fn for_each(&self, mut visit: impl FnMut(Head)) {
        let head_dim = self.n_embd / self.n_head;
        for document in self.offsets.windows(2).filter(|d| d[1] > d[0]) {
            for head in 0..self.n_head {
                visit(Head {
                    row: document[0],
                    tokens: document[1] - document[0],
                    column: head * head_dim,
                    head_dim,
                    n_embd: self.n_embd,
                });
            }
        }
    }
}

/// The thirds of `qkv`.
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;

/// Products of matrices, for documents of any length.
impl Head {
    /// Where the row of token `i` begins in a third of `[N, 3E]`.
    fn at(&self, third: usize, i: usize) -> usize {
        (self.row + i) * 3 * self.n_embd + third * self.n_embd + self.column
    }

    /// Where the row of token `i` begins in `[N, E]`.
    fn out_at(&self, i: usize) -> usize {
        (self.row + i) * self.n_embd + self.column
    }

    /// Tokens `from..from + count` of a third, `[count, D]`.
    fn third<'a>(&self, qkv: &'a [f32], third: usize, from: usize, count: usize) -> Matrix<'a> {
        let data = &qkv[self.at(third, from)..];
        Matrix::new(data, count, self.head_dim, 3 * self.n_embd)
    }

    /// Tokens `from..from + count` of the result, `[count, D]`.
    fn out<'a>(&self, out: &'a [f32], from: usize, count: usize) -> Matrix<'a> {
        Matrix::new(&out[self.out_at(from)..], count, self.head_dim, self.n_embd)
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    /// The blocks of queries, the last one first: where each begins, and how many they are.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let tokens = self.tokens;
        let starts = (0..tokens).step_by(QUERIES).rev();
        starts.map(move |start| (start, QUERIES.min(tokens - start)))
    }

    /// The probabilities `[count, from + count]` of a block of queries, zero for what comes later.
    fn probabilities(&self, qkv: &[f32], from: usize, count: usize, p: &mut [f32]) {
        let seen = from + count;
        let keys = self.third(qkv, K, 0, seen).t();
        matmul(p, seen, self.scale(), self.third(qkv, Q, from, count), keys);
        vectorized(|| {
            for (i, row) in p.chunks_exact_mut(seen).take(count).enumerate() {
                let (past, future) = row.split_at_mut(from + i + 1);
                softmax_in_place(past);
                future.fill(0.0);
            }
        });
    }

    fn forward(&self, qkv: &[f32], p: &mut [f32], out: &mut [f32]) {
        for (from, count) in self.blocks() {
            let seen = from + count;
            self.probabilities(qkv, from, count, p);
            let p = Matrix::dense(p, count, seen);
            let out = &mut out[self.out_at(from)..];
            matmul(out, self.n_embd, 1.0, p, self.third(qkv, V, 0, seen));
        }
    }

    /// With `P = softmax(S)`, `S = scale·Q·Kᵀ`, `O = P·V`: `dV = Pᵀ·dO`, `dP = dO·Vᵀ`, `dS = P∘(dP −
    /// rowsum(dO∘O))`, `dQ = scale·dS·K`, `dK = scale·dSᵀ·Q`.
    fn backward(
        &self,
        qkv: &[f32],
        out: &[f32],
        dout: &[f32],
        p: &mut [f32],
        ds: &mut [f32],
        dqkv: &mut [f32],
    ) {
        let (stride, scale) = (3 * self.n_embd, self.scale());
        for (from, count) in self.blocks() {
            let seen = from + count;
            self.probabilities(qkv, from, count, p);
            let douts = self.out(dout, from, count);
            matmul(ds, seen, 1.0, douts, self.third(qkv, V, 0, seen).t());
            vectorized(|| {
                let rows = ds.chunks_exact_mut(seen).zip(p.chunks_exact(seen));
                for (i, (ds, p)) in rows.take(count).enumerate() {
                    let at = self.out_at(from + i);
                    let columns = at..at + self.head_dim;
                    let sum = dot(&out[columns.clone()], &dout[columns]);
                    for (ds, p) in ds.iter_mut().zip(p) {
                        *ds = p * (*ds - sum);
                    }
                }
            });
            let (p, ds) = (
                Matrix::dense(p, count, seen),
                Matrix::dense(ds, count, seen),
            );
            let queries = self.third(qkv, Q, from, count);
            let dq = &mut dqkv[self.at(Q, from)..];
            matmul(dq, stride, scale, ds, self.third(qkv, K, 0, seen));
            add_matmul(&mut dqkv[self.at(K, 0)..], stride, scale, ds.t(), queries);
            add_matmul(&mut dqkv[self.at(V, 0)..], stride, 1.0, p.t(), douts);
        }
    }
}

/// A vector over the keys of a tile.
type Keys = [f32; TILE];

/// Tiles, for short documents: all keys of a document lie in one vector, so the matrices' products
/// are loops over a few of these, without a call. `D` is `head_dim`.
impl Head {
    /// The rows of a third.
    #[inline(always)]
    fn rows<const D: usize>(&self, qkv: &[f32], third: usize) -> [[f32; D]; TILE] {
        let mut rows = [[0f32; D]; TILE];
        for (i, row) in rows.iter_mut().enumerate().take(self.tokens) {
            row.copy_from_slice(&qkv[self.at(third, i)..][..D]);
        }
        rows
    }

    /// The probabilities of query `i`, zero for what comes later.
    #[inline(always)]
    fn tile_probabilities<const D: usize>(&self, q: &[f32; D], k: &[Keys; D], i: usize) -> Keys {
        let scale = (D as f32).sqrt().recip();
        let mut p = products(q, k);
        for (j, p) in p.iter_mut().enumerate() {
            *p = if j > i { f32::NEG_INFINITY } else { *p * scale };
        }
        let max = max_lanes(p);
        p.iter_mut().for_each(|p| *p = exp(*p - max));
        let inverse = 1.0 / sum_lanes(p);
        p.iter_mut().for_each(|p| *p *= inverse);
        p
    }

    fn tile_forward<const D: usize>(&self, qkv: &[f32], out: &mut [f32]) {
        vectorized(|| {
            let (q, v) = (self.rows::<D>(qkv, Q), self.rows::<D>(qkv, V));
            let k = transpose(&self.rows::<D>(qkv, K));
            for i in 0..self.tokens {
                let p = self.tile_probabilities(&q[i], &k, i);
                let sum = weighted_sum(&p, &v, i + 1);
                out[self.out_at(i)..][..D].copy_from_slice(&sum);
            }
        });
    }

    fn tile_backward<const D: usize>(&self, qkv: &[f32], dout: &[f32], dqkv: &mut [f32]) {
        vectorized(|| {
            let (q, k) = (self.rows::<D>(qkv, Q), self.rows::<D>(qkv, K));
            let (k_keys, v_keys) = (transpose(&k), transpose(&self.rows::<D>(qkv, V)));
            let (mut dk, mut dv) = ([[0f32; TILE]; D], [[0f32; TILE]; D]);
            let scale = (D as f32).sqrt().recip();
            for i in 0..self.tokens {
                let p = self.tile_probabilities(&q[i], &k_keys, i);
                let mut dout_row = [0f32; D];
                dout_row.copy_from_slice(&dout[self.out_at(i)..][..D]);
                let mut ds = products(&dout_row, &v_keys);
                let sum = sum_lanes(std::array::from_fn(|j| p[j] * ds[j]));
                for (ds, p) in ds.iter_mut().zip(&p) {
                    *ds = scale * p * (*ds - sum);
                }
                let dq = weighted_sum(&ds, &k, i + 1);
                dqkv[self.at(Q, i)..][..D].copy_from_slice(&dq);
                for d in 0..D {
                    for j in 0..TILE {
                        dk[d][j] += q[i][d] * ds[j];
                        dv[d][j] += dout_row[d] * p[j];
                    }
                }
            }
            for j in 0..self.tokens {
                for d in 0..D {
                    dqkv[self.at(K, j) + d] = dk[d][j];
                    dqkv[self.at(V, j) + d] = dv[d][j];
                }
            }
        });
    }
}

#[inline(always)]
fn transpose<const D: usize>(rows: &[[f32; D]; TILE]) -> [Keys; D] {
    std::array::from_fn(|d| std::array::from_fn(|j| rows[j][d]))
}

/// The product of a row with each key.
#[inline(always)]
fn products<const D: usize>(row: &[f32; D], keys: &[Keys; D]) -> Keys {
    let mut products = [0f32; TILE];
    for (x, keys) in row.iter().zip(keys) {
        for (product, key) in products.iter_mut().zip(keys) {
            *product += x * key;
        }
    }
    products
}

/// The sum of the first `count` rows, each times its weight.
#[inline(always)]
fn weighted_sum<const D: usize>(weights: &Keys, rows: &[[f32; D]; TILE], count: usize) -> [f32; D] {
    let mut sum = [0f32; D];
    for (weight, row) in weights.iter().zip(rows).take(count) {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += weight * x;
        }
    }
    sum
}
