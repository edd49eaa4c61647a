//! Attention to short documents: all queries of a document lie in one vector of `L` lanes, so that
//! products are loops over a few vectors, without a call. `D` is `head_dim`.

use std::f32::consts::LOG2_E;

use super::head::{Head, Slice};
use crate::kernels::math_f32::{exp2_columns, max};
use crate::kernels::simd::dispatch;

/// The kernels of one `head_dim` for documents of up to a number of tokens.
pub struct ShortKernels {
    /// `(head, qkv, out)`: writes the output, in `out` `[N, E]`.
    pub forward: fn(&Head, &[f32], &mut [f32]),
    /// `(head, qkv, dout, dqkv)`: writes the gradients of queries, keys and values, in `dqkv` `[N,
    /// 3E]`.
    pub backward: fn(&Head, &[f32], &[f32], &mut [f32]),
}

/// Returns the kernels for a head, if its shape has any.
pub fn kernels(head: &Head) -> Option<ShortKernels> {
    fn kernels<const D: usize, const L: usize>() -> Option<ShortKernels> {
        Some(ShortKernels {
            forward: Head::short_forward::<D, L>,
            backward: Head::short_backward::<D, L>,
        })
    }
    match (head.head_dim, head.tokens) {
        (4, ..=8) => kernels::<4, 8>(),
        (4, ..=16) => kernels::<4, 16>(),
        (8, ..=8) => kernels::<8, 8>(),
        (8, ..=16) => kernels::<8, 16>(),
        (16, ..=8) => kernels::<16, 8>(),
        _ => None,
    }
}

impl Head {
    fn short_forward<const D: usize, const L: usize>(&self, qkv: &[f32], out: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || {
                let p = self.probabilities::<D, L>(qkv);
                for i in 0..self.tokens {
                    let mut sum = [0f32; D];
                    for (j, p) in p.iter().enumerate().take(i + 1) {
                        add_scaled(&mut sum, p[i], self.qkv_row(qkv, Slice::V, j));
                    }
                    out[self.out_offset(i)..][..D].copy_from_slice(&sum);
                }
            },
        );
    }

    fn short_backward<const D: usize, const L: usize>(
        &self,
        qkv: &[f32],
        dout: &[f32],
        dqkv: &mut [f32],
    ) {
        dispatch(
            #[inline(always)]
            || {
                let p = self.probabilities::<D, L>(qkv);
                let ds = self.score_gradients::<D, L>(qkv, dout, &p);
                for i in 0..self.tokens {
                    let mut dq = [0f32; D];
                    for (j, ds) in ds.iter().enumerate().take(i + 1) {
                        add_scaled(&mut dq, ds[i], self.qkv_row(qkv, Slice::K, j));
                    }
                    dqkv[self.qkv_offset(Slice::Q, i)..][..D].copy_from_slice(&dq);
                }
                for j in 0..self.tokens {
                    let (mut dk, mut dv) = ([0f32; D], [0f32; D]);
                    for i in j..self.tokens {
                        add_scaled(&mut dk, ds[j][i], self.qkv_row(qkv, Slice::Q, i));
                        add_scaled(&mut dv, p[j][i], self.out_row(dout, i));
                    }
                    dqkv[self.qkv_offset(Slice::K, j)..][..D].copy_from_slice(&dk);
                    dqkv[self.qkv_offset(Slice::V, j)..][..D].copy_from_slice(&dv);
                }
            },
        );
    }

    /// Returns token `i` of a slice of `qkv`.
    #[inline(always)]
    fn qkv_row<'a, const D: usize>(&self, qkv: &'a [f32], slice: Slice, i: usize) -> &'a [f32; D] {
        let row = qkv[self.qkv_offset(slice, i)..].first_chunk();
        row.expect("qkv has the row of the token")
    }

    /// Returns token `i` of the output or its gradient.
    #[inline(always)]
    fn out_row<'a, const D: usize>(&self, out: &'a [f32], i: usize) -> &'a [f32; D] {
        let row = out[self.out_offset(i)..].first_chunk();
        row.expect("the output has the row of the token")
    }

    /// Returns the probabilities by key and query; 0 where the key comes later than the query.
    #[inline(always)]
    fn probabilities<const D: usize, const L: usize>(&self, qkv: &[f32]) -> [[f32; L]; L] {
        let scale = self.scale() * LOG2_E;
        let mut queries = [[0f32; L]; D];
        (0..self.tokens).for_each(|i| {
            set_column(&mut queries, i, self.qkv_row(qkv, Slice::Q, i));
        });
        let mut p = [[0f32; L]; L];
        let mut largest = [f32::NEG_INFINITY; L];
        for (j, p) in p.iter_mut().enumerate().take(self.tokens) {
            *p = vector_matrix(self.qkv_row(qkv, Slice::K, j), &queries);
            for i in 0..L {
                p[i] = if i < j {
                    f32::NEG_INFINITY
                } else {
                    p[i] * scale
                };
                largest[i] = max(largest[i], p[i]);
            }
        }
        let seen = &mut p[..self.tokens];
        let inverse = exp2_columns(seen, &largest).map(|sum| 1.0 / sum);
        for p in seen {
            for i in 0..L {
                p[i] *= inverse[i];
            }
        }
        p
    }

    /// Returns the gradients of `Q·Kᵀ` by key and query.
    #[inline(always)]
    fn score_gradients<const D: usize, const L: usize>(
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
            *ds = vector_matrix(self.qkv_row(qkv, Slice::V, j), &douts);
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

/// Returns `x·rows`, for `x` `[D]` and `rows` `[D, L]`.
#[inline(always)]
fn vector_matrix<const D: usize, const L: usize>(x: &[f32; D], rows: &[[f32; L]; D]) -> [f32; L] {
    let mut out = [0f32; L];
    for (x, row) in x.iter().zip(rows) {
        for i in 0..L {
            out[i] += x * row[i];
        }
    }
    out
}

#[inline(always)]
fn add_scaled<const D: usize>(sum: &mut [f32; D], scale: f32, row: &[f32; D]) {
    for d in 0..D {
        sum[d] += scale * row[d];
    }
}
