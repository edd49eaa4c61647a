//! The second half of a layer: the MLP.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::choice::has_custom_ops;
use super::slices::{as_slice, gradient, with_slices};
use super::{reference, rms_norm};
use crate::kernels::math_f32::heaviside;
use crate::kernels::matmul_f32::{MatrixView, matmul, matmul_add};
use crate::kernels::simd::dispatch;

/// Returns `x + relu(rms_norm(x)·W1ᵀ)·W2ᵀ` `[N, E]`, for `x` `[N, E]`, `fc1` `[H, E]` and `fc2`
/// `[E, H]`. The gradient of `relu` at 0 is 0.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[[3f32, 4.0, 0.0, 0.0]], &Device::Cpu)?; // normalized: [1.2, 1.6, 0, 0]
/// let fc1 = Tensor::new(&[[1f32, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]], &Device::Cpu)?;
/// let fc2 = Tensor::new(&[[0f32, 9.0], [0.0, 9.0], [10.0, 9.0], [0.0, 9.0]], &Device::Cpu)?;
/// let y = microgpt::ops::mlp_block(&x, &fc1, &fc2)?.to_vec2::<f32>()?;
/// assert!((y[0][2] - 28.0).abs() < 1e-3); // 10 · relu(1.2 + 1.6), and relu(-1.2) = 0
/// assert_eq!(y[0][..2], [3.0, 4.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn mlp_block(x: &Tensor, fc1: &Tensor, fc2: &Tensor) -> Result<Tensor> {
    if !has_custom_ops(x.device()) {
        return reference::mlp_block(x, fc1, fc2);
    }
    x.apply_op3(fc1, fc2, MlpBlock::default())
}

#[derive(Default)]
struct MlpBlock {
    activations: OnceLock<Activations>,
}

/// The forward pass's activations that the backward pass uses.
struct Activations {
    /// The normalized input, `[N, E]`.
    h: Vec<f32>,
    /// The output of `relu`, `[N, H]`.
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
        let (hidden_width, _) = fc1_l.shape().dims2()?;
        let x = as_slice(x, x_l)?;
        let fc1 = MatrixView::dense(as_slice(fc1, fc1_l)?, hidden_width, n_embd);
        let fc2 = MatrixView::dense(as_slice(fc2, fc2_l)?, n_embd, hidden_width);

        let h = rms_norm::forward(x, n_embd);
        let mut hidden = matmul(MatrixView::dense(&h, tokens, n_embd), fc1.t());
        dispatch(
            #[inline(always)]
            || {
                for value in &mut hidden {
                    // Unlike f32::max this keeps a NaN, which has to reach the loss to be noticed.
                    *value *= heaviside(*value);
                }
            },
        );
        let mut y = x.to_vec();
        let hidden_view = MatrixView::dense(&hidden, tokens, hidden_width);
        matmul_add(&mut y, hidden_view, fc2.t());
        // Each instance runs once, so that the cell is empty.
        let _ = self.activations.set(Activations { h, hidden });
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
        let hidden_width = fc1.dim(0)?;
        let Some(Activations { h, hidden }) = self.activations.get() else {
            bail!("mlp_block: backward before forward");
        };
        let [dx, dfc1, dfc2] = with_slices([x, fc1, fc2, dy], |[x, fc1, fc2, dy]| {
            let rows = |elements, cols| MatrixView::dense(elements, tokens, cols);
            let dfc2 = matmul(rows(dy, n_embd).t(), rows(hidden, hidden_width));
            let mut dhidden = matmul(
                rows(dy, n_embd),
                MatrixView::dense(fc2, n_embd, hidden_width),
            );
            dispatch(
                #[inline(always)]
                || {
                    for (dh, &h) in dhidden.iter_mut().zip(hidden) {
                        *dh *= heaviside(h);
                    }
                },
            );
            let dfc1 = matmul(rows(&dhidden, hidden_width).t(), rows(h, n_embd));
            let dh = matmul(
                rows(&dhidden, hidden_width),
                MatrixView::dense(fc1, hidden_width, n_embd),
            );
            let mut dx = dy.to_vec();
            rms_norm::add_gradient(&mut dx, x, h, &dh, n_embd);
            [dx, dfc1, dfc2]
        })?;
        Ok((gradient(dx, x)?, gradient(dfc1, fc1)?, gradient(dfc2, fc2)?))
    }
}
