//! The first half of a layer: causal self-attention.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::choice::has_custom_ops;
use super::slices::{as_slice, gradient, with_slices};
use super::{reference, rms_norm};
use crate::kernels::attention_f32::{AttentionOutput, PackedAttention};
use crate::kernels::matmul_f32::{MatrixView, matmul, matmul_add};

/// Returns `x + attention(Q, K, V)·Woᵀ` `[N, E]`, where `[Q, K, V] = rms_norm(x)·Wqkvᵀ`, for `x`
/// `[N, E]`, `qkv_weight` `[3E, E]` and `out_weight` `[E, E]`.
///
/// Each token attends to itself and the earlier tokens of its own document; document `d` is rows
/// `offsets[d]..offsets[d + 1]`. Head `h` is the columns `h·head_dim..(h+1)·head_dim`, where
/// `head_dim = E / n_head`; scores are scaled by `1/sqrt(head_dim)`. A shape that does not divide
/// so is an error.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[[3f32, 3.0], [0.0, 0.0]], &Device::Cpu)?; // normalized: [1, 1], [0, 0]
/// // Q = K = 0: the second token attends to both alike.
/// let value = [[0f32, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 2.0]];
/// let qkv_weight = Tensor::new(&value, &Device::Cpu)?;
/// let out_weight = Tensor::new(&[[1f32, 0.0], [0.0, 3.0]], &Device::Cpu)?;
/// let y = microgpt::ops::attention_block(&x, &qkv_weight, &out_weight, &[0, 2].into(), 1)?;
/// for (y, expected) in y.flatten_all()?.to_vec1::<f32>()?.iter().zip([5.0, 9.0, 1.0, 3.0]) {
///     assert!((y - expected).abs() < 1e-4);
/// }
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn attention_block(
    x: &Tensor,
    qkv_weight: &Tensor,
    out_weight: &Tensor,
    offsets: &Arc<[usize]>,
    n_head: usize,
) -> Result<Tensor> {
    let (tokens, n_embd) = x.dims2()?;
    if offsets.last() != Some(&tokens) || n_head == 0 || n_embd % n_head != 0 {
        bail!(
            "attention_block: [{tokens}, {n_embd}] does not split into {n_head} heads and \
            documents at {offsets:?}"
        );
    }
    if !has_custom_ops(x.device()) {
        return reference::attention_block(x, qkv_weight, out_weight, offsets, n_head);
    }
    let op = AttentionBlock {
        offsets: offsets.clone(),
        n_head,
        activations: OnceLock::new(),
    };
    x.apply_op3(qkv_weight, out_weight, op)
}

struct AttentionBlock {
    offsets: Arc<[usize]>,
    n_head: usize,
    activations: OnceLock<Activations>,
}

/// The forward pass's activations that the backward pass uses.
struct Activations {
    /// The normalized input, `[N, E]`.
    h: Vec<f32>,
    /// Queries, keys and values, `[N, 3E]`.
    qkv: Vec<f32>,
    attention: AttentionOutput,
}

impl AttentionBlock {
    fn packed_attention(&self, n_embd: usize) -> PackedAttention<'_> {
        PackedAttention {
            offsets: &self.offsets,
            n_head: self.n_head,
            n_embd,
        }
    }
}

impl CustomOp3 for AttentionBlock {
    fn name(&self) -> &'static str {
        "attention_block"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        qkv_weight: &CpuStorage,
        qkv_l: &Layout,
        out_weight: &CpuStorage,
        out_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, n_embd) = x_l.shape().dims2()?;
        let x = as_slice(x, x_l)?;
        let qkv_weight = MatrixView::dense(as_slice(qkv_weight, qkv_l)?, 3 * n_embd, n_embd);
        let out_weight = MatrixView::dense(as_slice(out_weight, out_l)?, n_embd, n_embd);

        let h = rms_norm::forward(x, n_embd);
        let qkv = matmul(MatrixView::dense(&h, tokens, n_embd), qkv_weight.t());
        let attention = self.packed_attention(n_embd).forward(&qkv);
        let mut y = x.to_vec();
        let out = MatrixView::dense(&attention.out, tokens, n_embd);
        matmul_add(&mut y, out, out_weight.t());
        // Each instance runs once, so that the cell is empty.
        let _ = self.activations.set(Activations { h, qkv, attention });
        Ok((CpuStorage::F32(y), x_l.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        qkv_weight: &Tensor,
        out_weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (tokens, n_embd) = x.dims2()?;
        let Some(Activations { h, qkv, attention }) = self.activations.get() else {
            bail!("attention_block: backward before forward");
        };
        let packed_attention = self.packed_attention(n_embd);
        let arguments = [x, qkv_weight, out_weight, dy];
        let [dx, dqkv_weight, dout_weight] =
            with_slices(arguments, |[x, qkv_weight, out_weight, dy]| {
                let rows = |elements, cols| MatrixView::dense(elements, tokens, cols);
                let dout_weight = matmul(rows(dy, n_embd).t(), rows(&attention.out, n_embd));
                let out_weight = MatrixView::dense(out_weight, n_embd, n_embd);
                let dout = matmul(rows(dy, n_embd), out_weight);
                let dqkv = packed_attention.backward(qkv, attention, &dout);
                let dqkv = rows(&dqkv, 3 * n_embd);
                let dqkv_weight = matmul(dqkv.t(), rows(h, n_embd));
                let dh = matmul(dqkv, MatrixView::dense(qkv_weight, 3 * n_embd, n_embd));
                let mut dx = dy.to_vec();
                rms_norm::add_gradient(&mut dx, x, h, &dh, n_embd);
                [dx, dqkv_weight, dout_weight]
            })?;
        Ok((
            gradient(dx, x)?,
            gradient(dqkv_weight, qkv_weight)?,
            gradient(dout_weight, out_weight)?,
        ))
    }
}
