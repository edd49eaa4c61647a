//! The operations that the model is made of.
//!
//! Each is a candle custom operation: a small struct with a forward pass over plain slices and its
//! own gradient, which on a CPU spares the copies, transposes and graph nodes that a composition of
//! candle's operations costs. A layer is two of them, [`attention_block`] and [`mlp_block`]. Each has
//! a twin in [`reference`], composed of candle's operations: other devices use it, and tests hold the
//! two against each other. The public functions choose by the device of their arguments.
//!
//! The tokens of a batch of documents are packed end to end, so `N` below is the number of tokens
//! in the batch, without any padding; `E` is `n_embd`, `V` is `vocab_size`.

mod attention_block;
mod cross_entropy;
mod embedding;
mod linear;
mod mlp_block;
pub mod reference;
mod rms_norm;
#[cfg(test)]
mod tests;

pub use attention_block::attention_block;
pub use cross_entropy::cross_entropy;
pub use embedding::embedding;
pub use linear::linear;
pub use mlp_block::mlp_block;
pub use rms_norm::rms_norm;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, Var, bail};

/// The values of an operation's argument, which has to be contiguous f32.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a custom operation needs contiguous arguments"),
    }
}

/// Lets `read` see the values of contiguous f32 tensors in main memory.
pub fn with_slices<const N: usize, R>(
    tensors: [&Tensor; N],
    read: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    with_all_slices(&tensors, |slices| {
        read(std::array::from_fn(|index| slices[index]))
    })
}

/// The same for any number of tensors.
pub fn with_all_slices<R>(tensors: &[&Tensor], read: impl FnOnce(&[&[f32]]) -> R) -> Result<R> {
    let storages: Vec<_> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    let slices = storages.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(storage) => values(storage, layout),
        _ => bail!("the tensor is not in main memory"),
    });
    Ok(read(&slices.collect::<Result<Vec<_>>>()?))
}

/// Lets `change` write the values of a contiguous f32 variable in main memory, in place.
pub fn with_slice_mut(var: &Var, change: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
    var.inplace_op1(&InPlace(std::cell::RefCell::new(change)))
}

struct InPlace<F>(std::cell::RefCell<F>);

impl<F: FnMut(&mut [f32]) -> Result<()>> candle_core::InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "with_slice_mut"
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
