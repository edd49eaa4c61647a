//! Root-mean-square normalization without a gain (Zhang and Sennrich 2019,
//! <https://arxiv.org/abs/1910.07467>).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::choice::has_custom_ops;
use super::reference;
use super::slices::{as_slice, gradient, with_slices};
use crate::kernels::layers_f64::RMS_NORM_EPS;
use crate::kernels::math_f32::dot;
use crate::kernels::simd::dispatch;

/// Returns `x / sqrt(mean(x²) + 1e-5)` for each row of `x` `[N, E]`.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[[3f32, 4.0, 0.0, 0.0]], &Device::Cpu)?;
/// let y = microgpt::ops::rms_norm(&x)?.to_vec2::<f32>()?;
/// assert!((y[0][0] - 1.2).abs() < 1e-5 && (y[0][1] - 1.6).abs() < 1e-5);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn rms_norm(x: &Tensor) -> Result<Tensor> {
    if has_custom_ops(x.device()) {
        x.apply_op1(RmsNorm)
    } else {
        reference::rms_norm(x)
    }
}

struct RmsNorm;

/// Returns `1 / sqrt(mean(x²) + 1e-5)`.
#[inline(always)]
fn inverse_rms(row: &[f32]) -> f32 {
    (dot(row, row) / row.len() as f32 + RMS_NORM_EPS as f32)
        .sqrt()
        .recip()
}

/// Returns the normalized rows of `x` `[N, n_embd]`.
pub fn forward(x: &[f32], n_embd: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    dispatch(
        #[inline(always)]
        || {
            for row in x.chunks_exact(n_embd) {
                let scale = inverse_rms(row);
                y.extend(row.iter().map(|x| x * scale));
            }
        },
    );
    y
}

/// Adds the gradient of `x` to `dx`: `r·(dy − y·mean(dy∘y))`, where `y = r·x`.
pub fn add_gradient(dx: &mut [f32], x: &[f32], y: &[f32], dy: &[f32], n_embd: usize) {
    dispatch(
        #[inline(always)]
        || {
            let rows = x.chunks_exact(n_embd).zip(y.chunks_exact(n_embd));
            let gradients = dx.chunks_exact_mut(n_embd).zip(dy.chunks_exact(n_embd));
            for ((x, y), (dx, dy)) in rows.zip(gradients) {
                let scale = inverse_rms(x);
                let mean = dot(dy, y) / n_embd as f32;
                for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                    *dx += scale * (dy - y * mean);
                }
            }
        },
    );
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, n_embd) = layout.shape().dims2()?;
        let y = forward(as_slice(x, layout)?, n_embd);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (tokens, n_embd) = x.dims2()?;
        let mut dx = vec![0f32; tokens * n_embd];
        with_slices([x, y, dy], |[x, y, dy]| {
            add_gradient(&mut dx, x, y, dy, n_embd)
        })?;
        gradient(dx, x)
    }
}
