//! The second half of a layer: what a token makes of what it has.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{reference, rms_norm, values, with_slices};
use crate::kernels::math_f32::heaviside;
use crate::kernels::matmul_f32::{MatrixView, matmul, matmul_add};
use crate::kernels::simd::dispatch;

/// `x + relu(rms_norm(x)·W1ᵀ)·W2ᵀ` for `x` `[N, E]`, `fc1` `[H, E]` and `fc2` `[E, H]`, giving `[N, E]`.
/// The gradient of `relu` at 0 is 0.
pub fn mlp_block(x: &Tensor, fc1: &Tensor, fc2: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return reference::mlp_block(x, fc1, fc2);
    }
    let op = MlpBlock {
        kept: OnceLock::new(),
    };
    x.apply_op3(fc1, fc2, op)
}

struct MlpBlock {
    kept: OnceLock<Kept>,
}

/// What the backward pass needs of the forward pass.
struct Kept {
    /// The normalized input, `[N, E]`.
    h: Vec<f32>,
    /// The hidden values, after `relu`, `[N, H]`.
    hidden: Vec<f32>,
}

impl CustomOp3 for MlpBlock {
    fn name(&self) -> &'static str {
        "mlp_block"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        fc1: &CpuStorage,
        fc1_l: &Layout,
        fc2: &CpuStorage,
        fc2_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, n_embd) = x_l.shape().dims2()?;
        let (width, _) = fc1_l.shape().dims2()?;
        let x = values(x, x_l)?;
        let fc1 = MatrixView::dense(values(fc1, fc1_l)?, width, n_embd);
        let fc2 = MatrixView::dense(values(fc2, fc2_l)?, n_embd, width);

        let h = rms_norm::forward(x, n_embd);
        let mut hidden = matmul(MatrixView::dense(&h, tokens, n_embd), fc1.t());
        dispatch(
            #[inline(always)]
            || {
                for value in &mut hidden {
                    // Not f32::max, which turns NaN into 0: a NaN has to reach the loss to be noticed.
                    *value *= heaviside(*value);
                }
            },
        );
        let mut y = x.to_vec();
        let values = MatrixView::dense(&hidden, tokens, width);
        matmul_add(&mut y, values, fc2.t());
        // An operation runs once.
        let _ = self.kept.set(Kept { h, hidden });
        Ok((CpuStorage::F32(y), x_l.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        fc1: &Tensor,
        fc2: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (tokens, n_embd) = x.dims2()?;
        let width = fc1.dim(0)?;
        let Some(Kept { h, hidden }) = self.kept.get() else {
            bail!("mlp_block: the backward pass comes before the forward pass");
        };
        let gradients = with_slices([x, fc1, fc2, dy], |[x, fc1, fc2, dy]| {
            let rows = |values, cols| MatrixView::dense(values, tokens, cols);
            let dfc2 = matmul(rows(dy, n_embd).t(), rows(hidden, width));
            let mut dhidden = matmul(rows(dy, n_embd), MatrixView::dense(fc2, n_embd, width));
            dispatch(
                #[inline(always)]
                || {
                    for (dvalue, &value) in dhidden.iter_mut().zip(hidden) {
                        *dvalue *= heaviside(value);
                    }
                },
            );
            let dfc1 = matmul(rows(&dhidden, width).t(), rows(h, n_embd));
            let dh = matmul(rows(&dhidden, width), MatrixView::dense(fc1, width, n_embd));
            let mut dx = dy.to_vec();
            rms_norm::add_gradient(&mut dx, x, h, &dh, n_embd);
            [dx, dfc1, dfc2]
        })?;
        let [dx, dfc1, dfc2] = gradients;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dfc1, fc1.shape(), x.device())?),
            Some(Tensor::from_vec(dfc2, fc2.shape(), x.device())?),
        ))
    }
}
