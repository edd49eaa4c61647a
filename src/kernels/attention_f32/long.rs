//! Attention to documents of any length, in blocks of sixteen queries.
//!
//! A matrix of scores has a row per key and a column per query, `[T, 16]`, so that a softmax does
//! the same to all lanes of a vector. The backward pass restores the probabilities from the
//! logarithms of their sums, as FlashAttention does (Dao et al. 2022,
//! <https://arxiv.org/abs/2205.14135>).

use std::f32::consts::LOG2_E;

use super::head::{AttentionOutput, Head, Slice};
use crate::kernels::math_f32::{dot, exp2, exp2_columns, max};
use crate::kernels::matmul_f32::MatrixView;
use crate::kernels::microkernel::{PanelMatrix, matmul, matmul_add, panel_view};
use crate::kernels::simd::{F32_LANES, F32x16, dispatch};

/// Scratch memory for documents of up to `T` tokens.
pub struct LongScratch {
    /// Scores, then probabilities, `[T, 16]`.
    p: Vec<F32x16>,
    /// The gradient of the scores, `[T, 16]`.
    ds: Vec<F32x16>,
    /// The queries of a block, `[16, D]`.
    queries: PanelMatrix,
    /// The output of a block, or the gradient of its queries, `[16, D]`.
    out: PanelMatrix,
    /// The gradient of the output, `[16, D]`.
    dout: PanelMatrix,
    /// The transpose of one of these, `[D, 16]`.
    transposed: Vec<F32x16>,
    /// Keys (backward) or values (forward), `[T, D]`.
    keys: PanelMatrix,
    dkeys: PanelMatrix,
    dvalues: PanelMatrix,
}

impl LongScratch {
    pub fn new(tokens: usize, head_dim: usize) -> Self {
        Self {
            p: vec![F32x16::ZERO; tokens],
            ds: vec![F32x16::ZERO; tokens],
            queries: PanelMatrix::new(F32_LANES, head_dim),
            out: PanelMatrix::new(F32_LANES, head_dim),
            dout: PanelMatrix::new(F32_LANES, head_dim),
            transposed: vec![F32x16::ZERO; head_dim],
            keys: PanelMatrix::new(tokens, head_dim),
            dkeys: PanelMatrix::new(tokens, head_dim),
            dvalues: PanelMatrix::new(tokens, head_dim),
        }
    }
}

impl Head {
    /// Returns tokens `0..count` of a slice of `qkv`, `[count, D]`.
    fn view<'a>(&self, qkv: &'a [f32], slice: Slice, count: usize) -> MatrixView<'a> {
        let data = &qkv[self.qkv_offset(slice, 0)..];
        MatrixView::new(data, count, self.head_dim, 3 * self.n_embd)
    }

    /// The first query of each block, and their number. The first block is the short one, since its
    /// queries see the fewest keys.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let first = self.tokens % F32_LANES;
        let others = (first..self.tokens).step_by(F32_LANES);
        let first = (first > 0).then_some((0, first));
        first
            .into_iter()
            .chain(others.map(|start| (start, F32_LANES)))
    }

    /// Writes the output and the logarithms of the sums.
    pub fn long_forward(
        &self,
        qkv: &[f32],
        scratch: &mut LongScratch,
        output: &mut AttentionOutput,
    ) {
        let stride = 3 * self.n_embd;
        let scale = self.scale() * LOG2_E;
        let values = &mut scratch.keys;
        values.read(self.tokens, &qkv[self.qkv_offset(Slice::V, 0)..], stride);
        for (start, count) in self.blocks() {
            let seen = start + count;
            let p = &mut scratch.p[..seen];
            let queries = &qkv[self.qkv_offset(Slice::Q, start)..];
            scratch.queries.read(count, queries, stride);
            scratch.queries.transpose(scale, &mut scratch.transposed);
            matmul(p, self.view(qkv, Slice::K, seen), &scratch.transposed);
            mask(&mut p[start..], f32::NEG_INFINITY);
            let (largest, sums) = softmax(p);
            for (out, values) in scratch.out.iter_mut(F32_LANES).zip(values.iter(seen)) {
                matmul(out, panel_view(p).t(), values);
            }
            let out = &mut output.out[self.out_offset(start)..];
            scratch
                .out
                .write(count, |i| 1.0 / sums[i], out, self.n_embd);
            for i in 0..count {
                output.log2_sum_exp2[self.head_offset(start + i)] = largest[i] + sums[i].log2();
            }
        }
    }

    /// Writes `dQ`, `dK` and `dV` into `dqkv`. Here `rowsum(P∘dP)` is `rowsum(dO∘O)`.
    pub fn long_backward(
        &self,
        qkv: &[f32],
        output: &AttentionOutput,
        dout: &[f32],
        scratch: &mut LongScratch,
        dqkv: &mut [f32],
    ) {
        let (stride, scale) = (3 * self.n_embd, self.scale());
        let tokens = self.tokens;
        let keys = &qkv[self.qkv_offset(Slice::K, 0)..];
        scratch.keys.read(tokens, keys, stride);
        for gradient in [&mut scratch.dkeys, &mut scratch.dvalues] {
            gradient
                .iter_mut(tokens)
                .for_each(|panel| panel.fill(F32x16::ZERO));
        }
        for (start, count) in self.blocks() {
            let seen = start + count;
            let (p, ds) = (&mut scratch.p[..seen], &mut scratch.ds[..seen]);
            let transposed = &mut scratch.transposed;
            let queries = &qkv[self.qkv_offset(Slice::Q, start)..];
            scratch.queries.read(count, queries, stride);
            scratch.queries.transpose(scale * LOG2_E, transposed);
            matmul(p, self.view(qkv, Slice::K, seen), transposed);
            let block_dout = &dout[self.out_offset(start)..];
            scratch.dout.read(count, block_dout, self.n_embd);
            scratch.dout.transpose(1.0, transposed);
            matmul(ds, self.view(qkv, Slice::V, seen), transposed);
            self.score_gradients_of_block(p, ds, output, dout, (start, count));
            for (dqueries, keys) in scratch.out.iter_mut(F32_LANES).zip(scratch.keys.iter(seen)) {
                matmul(dqueries, panel_view(ds).t(), keys);
            }
            let dqueries = &mut dqkv[self.qkv_offset(Slice::Q, start)..];
            scratch.out.write(count, |_| scale, dqueries, stride);
            let queries = scratch.queries.iter(F32_LANES);
            for (queries, dkeys) in queries.zip(scratch.dkeys.iter_mut(seen)) {
                matmul_add(dkeys, panel_view(ds), queries);
            }
            let douts = scratch.dout.iter(F32_LANES);
            for (dout, dvalues) in douts.zip(scratch.dvalues.iter_mut(seen)) {
                matmul_add(dvalues, panel_view(p), dout);
            }
        }
        let dkeys = &mut dqkv[self.qkv_offset(Slice::K, 0)..];
        scratch.dkeys.write(tokens, |_| scale, dkeys, stride);
        let dvalues = &mut dqkv[self.qkv_offset(Slice::V, 0)..];
        scratch.dvalues.write(tokens, |_| 1.0, dvalues, stride);
    }

    /// Turns the scores of a block into probabilities, and `dP` into `dS`.
    fn score_gradients_of_block(
        &self,
        p: &mut [F32x16],
        ds: &mut [F32x16],
        output: &AttentionOutput,
        dout: &[f32],
        (start, count): (usize, usize),
    ) {
        dispatch(
            #[inline(always)]
            || {
                let mut log_sums = [0f32; F32_LANES];
                let mut sums = [0f32; F32_LANES];
                for i in 0..count {
                    let offset = self.out_offset(start + i);
                    let columns = offset..offset + self.head_dim;
                    sums[i] = dot(&output.out[columns.clone()], &dout[columns]);
                    log_sums[i] = output.log2_sum_exp2[self.head_offset(start + i)];
                }
                for (F32x16(p), F32x16(ds)) in p.iter_mut().zip(ds.iter_mut()) {
                    for i in 0..F32_LANES {
                        p[i] = exp2(p[i] - log_sums[i]);
                        ds[i] = p[i] * (ds[i] - sums[i]);
                    }
                }
            },
        );
        mask(&mut p[start..], 0.0);
        mask(&mut ds[start..], 0.0);
    }
}

/// Sets the scores of keys that come later than the query. The rows are the block's own keys.
fn mask(rows: &mut [F32x16], value: f32) {
    for (key, row) in rows.iter_mut().enumerate() {
        row.0[..key].fill(value);
    }
}

/// Turns the scores of each column into `2^(score − max)`. Returns the maxima and the sums.
fn softmax(scores: &mut [F32x16]) -> ([f32; F32_LANES], [f32; F32_LANES]) {
    dispatch(
        #[inline(always)]
        || {
            let mut largest = [f32::NEG_INFINITY; F32_LANES];
            for row in &*scores {
                for (largest, &score) in largest.iter_mut().zip(&row.0) {
                    *largest = max(*largest, score);
                }
            }
            let sums = exp2_columns(bytemuck::cast_slice_mut(scores), &largest);
            (largest, sums)
        },
    )
}
