//! The loss.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::choice::has_custom_ops;
use super::reference;
use super::slices::{as_slice, gradient, with_slices};
use crate::kernels::math_f32::softmax_in_place;
use crate::kernels::simd::dispatch;

/// Returns `Σ −ln softmax(logits[n])[targets[n]] / count`, in nats, for `logits` `[N, V]`. A target
/// out of range is an error.
///
/// `count` is the number of predictions in the whole batch: the losses and gradients of its parts
/// add up to the mean of the batch.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// let logits = Tensor::new(&[[0f32, 0.0], [0.0, 0.0]], &Device::Cpu)?;
/// let loss = microgpt::ops::cross_entropy(&logits, &[0, 1].into(), 2)?.to_scalar::<f32>()?;
/// assert!((loss - 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn cross_entropy(logits: &Tensor, targets: &Arc<[u32]>, count: usize) -> Result<Tensor> {
    if has_custom_ops(logits.device()) {
        logits.apply_op1(CrossEntropy {
            targets: targets.clone(),
            count,
        })
    } else {
        reference::cross_entropy(logits, targets, count)
    }
}

struct CrossEntropy {
    targets: Arc<[u32]>,
    count: usize,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, vocab_size) = layout.shape().dims2()?;
        if tokens != self.targets.len() {
            bail!(
                "cross_entropy: {tokens} rows of logits for {} targets",
                self.targets.len()
            );
        }
        if let Some(target) = self.targets.iter().find(|&&t| t as usize >= vocab_size) {
            bail!("cross_entropy: target {target} is not less than {vocab_size}");
        }
        let logits = as_slice(logits, layout)?;
        let mut row = vec![0f32; vocab_size];
        let mut sum = 0f64;
        dispatch(
            #[inline(always)]
            || {
                for (logits, &target) in logits.chunks_exact(vocab_size).zip(&*self.targets) {
                    row.copy_from_slice(logits);
                    sum += f64::from(softmax_in_place(&mut row) - logits[target as usize]);
                }
            },
        );
        Ok((
            CpuStorage::F32(vec![(sum / self.count as f64) as f32]),
            ().into(),
        ))
    }

    /// `(softmax(logits) − one_hot(target)) / count`.
    fn bwd(&self, logits: &Tensor, _loss: &Tensor, dloss: &Tensor) -> Result<Option<Tensor>> {
        let (_, vocab_size) = logits.dims2()?;
        let scale = dloss.to_scalar::<f32>()? / self.count as f32;
        let mut grad = with_slices([logits], |[logits]| logits.to_vec())?;
        dispatch(
            #[inline(always)]
            || {
                for (row, &target) in grad.chunks_exact_mut(vocab_size).zip(&*self.targets) {
                    softmax_in_place(row);
                    row[target as usize] -= 1.0;
                    for value in row {
                        *value *= scale;
                    }
                }
            },
        );
        gradient(grad, logits)
    }
}
