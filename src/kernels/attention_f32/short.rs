//! Attention to short documents: the queries of a document lie side by side in one vector of `L` lanes,
//! so that the products are loops over a few of these, without a call. `D` is `head_dim`.

use std::f32::consts::LOG2_E;

use super::head::{Head, K, Q, V};
use crate::kernels::cpu::dispatch;
use crate::kernels::math_f32::{exp2, larger};

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

    /// Writes what the tokens attend to into `out` `[N, E]`.
    pub fn tile_forward<const D: usize, const L: usize>(&self, qkv: &[f32], out: &mut [f32]) {
        dispatch(
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

    /// Writes the gradients of queries, keys and values into `dqkv` `[N, 3E]`.
    pub fn tile_backward<const D: usize, const L: usize>(
        &self,
        qkv: &[f32],
        dout: &[f32],
        dqkv: &mut [f32],
    ) {
        dispatch(
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
