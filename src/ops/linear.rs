//! The linear layer that computes logits.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::choice::has_custom_ops;
use super::reference;
use super::slices::{as_slice, gradient, with_slices};
use crate::kernels::matmul_f32::{MatrixView, matmul};

/// Returns `x·Wᵀ` `[N, out]`, for `x` `[N, in]` and `weight` `[out, in]`.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
/// let weight = Tensor::new(&[[3f32, 4.0], [5.0, 6.0], [0.0, -1.0]], &Device::Cpu)?;
/// assert_eq!(microgpt::ops::linear(&x, &weight)?.to_vec2::<f32>()?, [[11.0, 17.0, -2.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if has_custom_ops(x.device()) {
        x.apply_op2(weight, Linear)
    } else {
        reference::linear(x, weight)
    }
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        w: &CpuStorage,
        w_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, inputs) = x_l.shape().dims2()?;
        let (outputs, weight_inputs) = w_l.shape().dims2()?;
        if inputs != weight_inputs {
            bail!("linear: x is [{tokens}, {inputs}], the weight [{outputs}, {weight_inputs}]");
        }
        let x = MatrixView::dense(as_slice(x, x_l)?, tokens, inputs);
        let w = MatrixView::dense(as_slice(w, w_l)?, outputs, inputs);
        let y = matmul(x, w.t());
        Ok((CpuStorage::F32(y), (tokens, outputs).into()))
    }

    /// `dx = dy·W`, `dW = dyᵀ·x`.
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (tokens, inputs) = x.dims2()?;
        let outputs = w.dim(0)?;
        let (dx, dw) = with_slices([x, w, dy], |[x, w, dy]| {
            let dy = MatrixView::dense(dy, tokens, outputs);
            let dx = matmul(dy, MatrixView::dense(w, outputs, inputs));
            (dx, matmul(dy.t(), MatrixView::dense(x, tokens, inputs)))
        })?;
        Ok((gradient(dx, x)?, gradient(dw, w)?))
    }
}
