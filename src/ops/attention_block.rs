//! The first half of a layer: what a token takes from those before it.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{reference, rms_norm, values, with_slices};
use crate::kernels::attention_f32::{AttentionOutput, PackedAttention};
use crate::kernels::matmul_f32::{MatrixView, matmul, matmul_add};

/// `x + attention(q, k, v)·Woᵀ`, where `q`, `k` and `v` are the thirds of `rms_norm(x)·Wqkvᵀ`, for `x`
/// `[N, E]`, `qkv_weight` `[3E, E]` and `out_weight` `[E, E]`, giving `[N, E]`.
///
/// Each token attends to itself and the earlier tokens of its own document; document `d` is rows
/// `offsets[d]..offsets[d + 1]`. Head `h` is the columns `h·head_dim..(h+1)·head_dim`, where
/// `head_dim = E / n_head`; scores are scaled by `1/sqrt(head_dim)`.
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
            "attention: [{tokens}, {n_embd}] does not split into {n_head} heads and documents \
            {offsets:?}"
        );
    }
    if !x.device().is_cpu() {
        return reference::attention_block(x, qkv_weight, out_weight, offsets, n_head);
    }
    let op = AttentionBlock {
        offsets: offsets.clone(),
        n_head,
        kept: OnceLock::new(),
    };
    x.apply_op3(qkv_weight, out_weight, op)
}

struct AttentionBlock {
    offsets: Arc<[usize]>,
    n_head: usize,
    kept: OnceLock<Kept>,
}

/// What the backward pass needs of the forward pass.
struct Kept {
    /// The normalized input, `[N, E]`.
    h: Vec<f32>,
    /// Queries, keys and values, `[N, 3E]`.
    qkv: Vec<f32>,
    attended: AttentionOutput,
}

impl AttentionBlock {
    fn heads(&self, n_embd: usize) -> PackedAttention<'_> {
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
        let x = values(x, x_l)?;
        let qkv_weight = MatrixView::dense(values(qkv_weight, qkv_l)?, 3 * n_embd, n_embd);
        let out_weight = MatrixView::dense(values(out_weight, out_l)?, n_embd, n_embd);

        let h = rms_norm::forward(x, n_embd);
        let qkv = matmul(MatrixView::dense(&h, tokens, n_embd), qkv_weight.t());
        let attended = self.heads(n_embd).forward(&qkv);
        let mut y = x.to_vec();
        let values = MatrixView::dense(&attended.out, tokens, n_embd);
        matmul_add(&mut y, values, out_weight.t());
        // An operation runs once.
        let _ = self.kept.set(Kept { h, qkv, attended });
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
        let Some(Kept { h, qkv, attended }) = self.kept.get() else {
            bail!("attention_block: the backward pass comes before the forward pass");
        };
        let heads = self.heads(n_embd);
        let arguments = [x, qkv_weight, out_weight, dy];
        let gradients = with_slices(arguments, |[x, qkv_weight, out_weight, dy]| {
            let rows = |values, cols| MatrixView::dense(values, tokens, cols);
            let dout_weight = matmul(rows(dy, n_embd).t(), rows(&attended.out, n_embd));
            let out_weight = MatrixView::dense(out_weight, n_embd, n_embd);
            let dattended = matmul(rows(dy, n_embd), out_weight);
            let dqkv = heads.backward(qkv, attended, &dattended);
            let dqkv = rows(&dqkv, 3 * n_embd);
            let dqkv_weight = matmul(dqkv.t(), rows(h, n_embd));
            let dh = matmul(dqkv, MatrixView::dense(qkv_weight, 3 * n_embd, n_embd));
            let mut dx = dy.to_vec();
            rms_norm::add_gradient(&mut dx, x, h, &dh, n_embd);
            [dx, dqkv_weight, dout_weight]
        })?;
        let [dx, dqkv, dout] = gradients;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dqkv, qkv_weight.shape(), x.device())?),
            Some(Tensor::from_vec(dout, out_weight.shape(), x.device())?),
        ))
    }
}
