//! Causal multi-head attention over documents packed end to end (Vaswani et al. 2017,
//! <https://arxiv.org/abs/1706.03762>), on plain slices.
//!
//! Queries, keys and values are the three thirds of the columns of `qkv` `[N, 3E]`; head `h` is the
//! columns `h·D..(h+1)·D` of each, where `D = E / n_head`. Each token looks at itself and the earlier
//! ones of its own document. The probabilities are computed again for the gradient rather than kept,
//! those of long documents from the logarithms of their sums.

use std::f32::consts::LOG2_E;

use super::matmul::{Matrix, add_matmul, matmul};
use super::vector::{dot, exp2, larger, largest, powers_in_place, vectorized};

/// How many queries of a long document are taken together. All keys up to the last of them are
/// looked at, so more of them waste more; fewer make slower products.
const QUERIES: usize = 32;

/// How the columns of `qkv` are split, and its rows.
pub struct Heads<'a> {
    /// Document `d` is rows `offsets[d]..offsets[d + 1]`.
    pub offsets: &'a [usize],
    pub n_head: usize,
    pub n_embd: usize,
}

/// What the tokens attend to.
pub struct Attended {
    /// The values, `[N, E]`.
    pub out: Vec<f32>,
    /// For each token and head, `[N, n_head]`, the binary logarithm of what its probabilities were
    /// divided by; 0 where tiles do without.
    log_sums: Vec<f32>,
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
    /// What each token attends to.
    pub fn forward(&self, qkv: &[f32]) -> Attended {
        let mut out = vec![0f32; qkv.len() / 3];
        let mut log_sums = vec![0f32; out.len() / (self.n_embd / self.n_head)];
        let mut p = vec![0f32; self.room()];
        self.for_each(|head| match (head.head_dim, head.tokens) {
            (4, ..=8) => head.tile_forward::<4, 8>(qkv, &mut out),
            (4, ..=16) => head.tile_forward::<4, 16>(qkv, &mut out),
            (8, ..=8) => head.tile_forward::<8, 8>(qkv, &mut out),
            (8, ..=16) => head.tile_forward::<8, 16>(qkv, &mut out),
            (16, ..=8) => head.tile_forward::<16, 8>(qkv, &mut out),
            (16, ..=16) => head.tile_forward::<16, 16>(qkv, &mut out),
            _ => head.forward(qkv, &mut p, &mut out, &mut log_sums),
        });
        Attended { out, log_sums }
    }

    /// The gradient of `qkv`, `[N, 3E]`, from what `forward` gave and the gradient of its values.
    pub fn backward(&self, qkv: &[f32], attended: &Attended, dout: &[f32]) -> Vec<f32> {
        let mut dqkv = vec![0f32; qkv.len()];
        let (mut p, mut ds) = (vec![0f32; self.room()], vec![0f32; self.room()]);
        self.for_each(|head| match (head.head_dim, head.tokens) {
            (4, ..=8) => head.tile_backward::<4, 8>(qkv, dout, &mut dqkv),
            (4, ..=16) => head.tile_backward::<4, 16>(qkv, dout, &mut dqkv),
            (8, ..=8) => head.tile_backward::<8, 8>(qkv, dout, &mut dqkv),
            (8, ..=16) => head.tile_backward::<8, 16>(qkv, dout, &mut dqkv),
            (16, ..=8) => head.tile_backward::<16, 8>(qkv, dout, &mut dqkv),
            (16, ..=16) => head.tile_backward::<16, 16>(qkv, dout, &mut dqkv),
            _ => head.backward(qkv, attended, dout, &mut p, &mut ds, &mut dqkv),
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

    /// Where what belongs to the query of token `i` is in `[N, n_head]`.
    fn query_at(&self, i: usize) -> usize {
        self.out_at(i) / self.head_dim
    }

    /// The scores `[count, from + count]` of a block of queries, as powers of two want them.
    fn scores(&self, qkv: &[f32], from: usize, count: usize, scores: &mut [f32]) {
        let seen = from + count;
        let scale = self.scale() * LOG2_E;
        let keys = self.third(qkv, K, 0, seen).t();
        matmul(scores, seen, scale, self.third(qkv, Q, from, count), keys);
    }

    fn forward(&self, qkv: &[f32], p: &mut [f32], out: &mut [f32], log_sums: &mut [f32]) {
        let mut scales = [0f32; QUERIES];
        for (from, count) in self.blocks() {
            let seen = from + count;
            self.scores(qkv, from, count, p);
            vectorized(
                #[inline(always)]
                || {
                    for (i, row) in p.chunks_exact_mut(seen).take(count).enumerate() {
                        let (past, future) = row.split_at_mut(from + i + 1);
                        let max = largest(past);
                        let sum = powers_in_place(past, 1.0, max);
                        future.fill(0.0);
                        log_sums[self.query_at(from + i)] = max + sum.log2();
                        scales[i] = 1.0 / sum;
                    }
                },
            );
            let p = Matrix::dense(p, count, seen);
            let block = &mut out[self.out_at(from)..];
            matmul(block, self.n_embd, 1.0, p, self.third(qkv, V, 0, seen));
            // Fewer numbers than there are probabilities.
            for (i, scale) in scales.iter().take(count).enumerate() {
                let row = &mut out[self.out_at(from + i)..][..self.head_dim];
                row.iter_mut().for_each(|out| *out *= scale);
            }
        }
    }

    /// With `P = softmax(S)`, `S = scale·Q·Kᵀ`, `O = P·V`: `dV = Pᵀ·dO`, `dP = dO·Vᵀ`, `dS = P∘(dP −
    /// rowsum(dO∘O))`, `dQ = scale·dS·K`, `dK = scale·dSᵀ·Q`.
    fn backward(
        &self,
        qkv: &[f32],
        attended: &Attended,
        dout: &[f32],
        p: &mut [f32],
        ds: &mut [f32],
        dqkv: &mut [f32],
    ) {
        let (stride, scale) = (3 * self.n_embd, self.scale());
        for (from, count) in self.blocks() {
            let seen = from + count;
            self.scores(qkv, from, count, p);
            let douts = self.out(dout, from, count);
            matmul(ds, seen, 1.0, douts, self.third(qkv, V, 0, seen).t());
            vectorized(
                #[inline(always)]
                || {
                    let rows = p.chunks_exact_mut(seen).zip(ds.chunks_exact_mut(seen));
                    for (i, (p, ds)) in rows.take(count).enumerate() {
                        let at = self.out_at(from + i);
                        let columns = at..at + self.head_dim;
                        let sum = dot(&attended.out[columns.clone()], &dout[columns]);
                        let log_sum = attended.log_sums[self.query_at(from + i)];
                        let (p, p_future) = p.split_at_mut(from + i + 1);
                        let (ds, ds_future) = ds.split_at_mut(from + i + 1);
                        for (p, ds) in p.iter_mut().zip(ds) {
                            *p = exp2(*p - log_sum);
                            *ds = *p * (*ds - sum);
                        }
                        p_future.fill(0.0);
                        ds_future.fill(0.0);
                    }
                },
            );
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

/// Tiles, for short documents: the queries of a document lie side by side in one vector of `L` lanes,
/// so that the products are loops over a few of these, without a call. `D` is `head_dim`.
impl Head {
    /// The row of token `i` in a third.
    #[inline(always)]
    fn row<'a, const D: usize>(&self, qkv: &'a [f32], third: usize, i: usize) -> &'a [f32; D] {
        let row = qkv[self.at(third, i)..].first_chunk();
        row.expect("the row is there")
    }

    /// The row of token `i` in the result.
    #[inline(always)]
    fn out_row<'a, const D: usize>(&self, out: &'a [f32], i: usize) -> &'a [f32; D] {
        let row = out[self.out_at(i)..].first_chunk();
        row.expect("the row is there")
    }

    /// The probabilities, by key and query; zero where the key comes later than the query.
    #[inline(always)]
    fn tile_probabilities<const D: usize, const L: usize>(&self, qkv: &[f32]) -> [[f32; L]; L] {
        let scale = self.scale() * LOG2_E;
        let mut queries = [[0f32; L]; D];
        (0..self.tokens).for_each(|i| set_column(&mut queries, i, self.row(qkv, Q, i)));
        let mut p = [[0f32; L]; L];
        let mut max = [f32::NEG_INFINITY; L];
        for (j, p) in p.iter_mut().enumerate().take(self.tokens) {
            *p = products(self.row(qkv, K, j), &queries);
            for i in 0..L {
                p[i] = if i < j {
                    f32::NEG_INFINITY
                } else {
                    p[i] * scale
                };
                max[i] = larger(max[i], p[i]);
            }
        }
        let mut sums = [0f32; L];
        for p in p.iter_mut().take(self.tokens) {
            for i in 0..L {
                p[i] = exp2(p[i] - max[i]);
                sums[i] += p[i];
            }
        }
        let inverse = sums.map(|sum| 1.0 / sum);
        for p in p.iter_mut().take(self.tokens) {
            for i in 0..L {
                p[i] *= inverse[i];
            }
        }
        p
    }

    fn tile_forward<const D: usize, const L: usize>(&self, qkv: &[f32], out: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || {
                let p = self.tile_probabilities::<D, L>(qkv);
                for i in 0..self.tokens {
                    let mut sum = [0f32; D];
                    for (j, p) in p.iter().enumerate().take(i + 1) {
                        add_scaled(&mut sum, p[i], self.row(qkv, V, j));
                    }
                    out[self.out_at(i)..][..D].copy_from_slice(&sum);
                }
            },
        );
    }

    fn tile_backward<const D: usize, const L: usize>(
        &self,
        qkv: &[f32],
        dout: &[f32],
        dqkv: &mut [f32],
    ) {
        vectorized(
            #[inline(always)]
            || {
                let p = self.tile_probabilities::<D, L>(qkv);
                let ds = self.tile_score_gradients::<D, L>(qkv, dout, &p);
                for i in 0..self.tokens {
                    let mut dq = [0f32; D];
                    for (j, ds) in ds.iter().enumerate().take(i + 1) {
                        add_scaled(&mut dq, ds[i], self.row(qkv, K, j));
                    }
                    dqkv[self.at(Q, i)..][..D].copy_from_slice(&dq);
                }
                for j in 0..self.tokens {
                    let (mut dk, mut dv) = ([0f32; D], [0f32; D]);
                    for i in j..self.tokens {
                        add_scaled(&mut dk, ds[j][i], self.row(qkv, Q, i));
                        add_scaled(&mut dv, p[j][i], self.out_row(dout, i));
                    }
                    dqkv[self.at(K, j)..][..D].copy_from_slice(&dk);
                    dqkv[self.at(V, j)..][..D].copy_from_slice(&dv);
                }
            },
        );
    }

    /// The gradients of the products `Q·Kᵀ`, by key and query.
    #[inline(always)]
    fn tile_score_gradients<const D: usize, const L: usize>(
        &self,
        qkv: &[f32],
        dout: &[f32],
        p: &[[f32; L]; L],
    ) -> [[f32; L]; L] {
        let scale = self.scale();
        let mut douts = [[0f32; L]; D];
        (0..self.tokens).for_each(|i| set_column(&mut douts, i, self.out_row(dout, i)));
        let mut ds = [[0f32; L]; L];
        let mut sums = [0f32; L];
        for (j, ds) in ds.iter_mut().enumerate().take(self.tokens) {
            *ds = products(self.row(qkv, V, j), &douts);
            for i in 0..L {
                sums[i] += p[j][i] * ds[i];
            }
        }
        for (j, ds) in ds.iter_mut().enumerate().take(self.tokens) {
            for i in 0..L {
                ds[i] = scale * p[j][i] * (ds[i] - sums[i]);
            }
        }
        ds
    }
}

#[inline(always)]
fn set_column<const D: usize, const L: usize>(
    rows: &mut [[f32; L]; D],
    i: usize,
    column: &[f32; D],
) {
    for (row, value) in rows.iter_mut().zip(column) {
        row[i] = *value;
    }
}

/// The product of a row with each column.
#[inline(always)]
fn products<const D: usize, const L: usize>(row: &[f32; D], columns: &[[f32; L]; D]) -> [f32; L] {
    let mut products = [0f32; L];
    for (x, columns) in row.iter().zip(columns) {
        for i in 0..L {
            products[i] += x * columns[i];
        }
    }
    products
}

#[inline(always)]
fn add_scaled<const D: usize>(sum: &mut [f32; D], scale: f32, row: &[f32; D]) {
    for d in 0..D {
        sum[d] += scale * row[d];
    }
}
