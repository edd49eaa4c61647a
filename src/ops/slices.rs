//! The elements of tensors and variables as slices.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, Var, bail};

/// The elements of an argument. An error unless it is contiguous f32.
pub(super) fn as_slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a custom operation needs contiguous arguments"),
    }
}

/// Returns a gradient with the shape of its argument.
pub(super) fn gradient(elements: Vec<f32>, argument: &Tensor) -> Result<Option<Tensor>> {
    Tensor::from_vec(elements, argument.shape(), argument.device()).map(Some)
}

/// Passes the elements of contiguous f32 tensors in main memory to `read`.
pub fn with_slices<const N: usize, R>(
    tensors: [&Tensor; N],
    read: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    with_all_slices(&tensors, |slices| {
        read(std::array::from_fn(|index| slices[index]))
    })
}

/// [`with_slices`] for any number of tensors.
pub fn with_all_slices<R>(tensors: &[&Tensor], read: impl FnOnce(&[&[f32]]) -> R) -> Result<R> {
    let storages: Vec<_> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    let slices = storages.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(storage) => as_slice(storage, layout),
        _ => bail!("the tensor is not in main memory"),
    });
    Ok(read(&slices.collect::<Result<Vec<_>>>()?))
}

/// Passes the elements of a contiguous f32 variable in main memory to `update`, to change in place.
pub fn with_slice_mut(var: &Var, update: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
    var.inplace_op1(&InPlace(RefCell::new(update)))
}

struct InPlace<F>(RefCell<F>);

impl<F: FnMut(&mut [f32]) -> Result<()>> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "with_slice_mut"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("an in-place update needs a contiguous variable");
        };
        match storage {
            CpuStorage::F32(elements) => (self.0.borrow_mut())(&mut elements[start..end]),
            _ => bail!("an in-place update needs an f32 variable"),
        }
    }
}
