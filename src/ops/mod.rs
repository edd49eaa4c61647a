//! The operations that the model is made of.
//!
//! Each is a candle custom operation: a small struct with a forward pass over plain slices and its
//! own gradient, which on a CPU spares the copies, transposes and graph nodes that a composition of
//! candle's operations costs. Each has a twin in [`plain`], composed of candle's operations: other
//! devices use it, and tests hold the two against each other. The public functions choose by the
//! device of their arguments.
//!
//! The tokens of a batch of documents are packed end to end, so `N` below is the number of tokens
//! in the batch, without any padding; `E` is `n_embd`, `V` is `vocab_size`.

mod attention;
mod cross_entropy;
mod embedding;
mod linear;
mod matmul;
pub mod plain;
mod relu;
mod rms_norm;
#[cfg(test)]
mod tests;

pub use attention::attention;
pub use cross_entropy::cross_entropy;
pub use embedding::embedding;
pub use linear::linear;
pub use relu::relu;
pub use rms_norm::rms_norm;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, Var, bail};

/// Added to the mean square in [`rms_norm`].
pub const RMS_NORM_EPS: f64 = 1e-5;

/// The values of an operation's argument, which has to be contiguous f32.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a custom operation needs contiguous arguments"),
    }
}

/// Lets `read` see the values of a contiguous f32 tensor in main memory.
pub fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(values(storage, layout)?)),
        _ => bail!("the tensor is not in main memory"),
    }
}

/// Lets `change` write the values of a contiguous f32 variable in main memory, in place.
pub fn with_values_mut(var: &Var, change: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
    var.inplace_op1(&InPlace(std::cell::RefCell::new(change)))
}

struct InPlace<F>(std::cell::RefCell<F>);

impl<F: FnMut(&mut [f32]) -> Result<()>> candle_core::InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "with_values_mut"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("an in-place change needs a contiguous variable");
        };
        match storage {
            CpuStorage::F32(all) => (self.0.borrow_mut())(&mut all[start..end]),
            _ => bail!("an in-place change needs f32 values"),
        }
    }
}

/// `Σ a[i]·b[i]`, summed in eight lanes so that the compiler can use vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Turns scores into probabilities: `p[i] = exp(s[i]) / Σ exp(s[j])`, shifted by the largest score.
/// Returns `ln Σ exp(s[j])`.
fn softmax_in_place(scores: &mut [f32]) -> f32 {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0f32;
    for score in scores.iter_mut() {
        *score = (*score - max).exp();
        sum += *score;
    }
    let inverse = 1.0 / sum;
    for score in scores.iter_mut() {
        *score *= inverse;
    }
    max + sum.ln()
}
