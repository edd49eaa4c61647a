//! Weights as they lie in the file, f32 or f16: mapped into memory, and widened to f64 only in the
//! processor's registers.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::kernels::matmul_f64::matmul;
use crate::kernels::simd::Weight;
use crate::store::{NamedTensor, Precision, TensorFile};

/// Numbers of a mapped file, or a copy where they are not aligned there.
#[derive(Debug)]
enum Storage<T> {
    Mapped(Arc<TensorFile>, Range<usize>),
    Copied(Vec<T>),
}

impl<T: Weight> Storage<T> {
    fn new(file: &Arc<TensorFile>, range: Range<usize>) -> Self {
        match bytemuck::try_cast_slice::<u8, T>(&file.bytes()[range.clone()]) {
            Ok(_) => Storage::Mapped(Arc::clone(file), range),
            Err(_) => {
                let numbers = file.bytes()[range].chunks_exact(size_of::<T>());
                Storage::Copied(numbers.map(bytemuck::pod_read_unaligned).collect())
            }
        }
    }

    fn as_slice(&self) -> &[T] {
        match self {
            Storage::Mapped(file, range) => bytemuck::cast_slice(&file.bytes()[range.clone()]),
            Storage::Copied(values) => values,
        }
    }
}

#[derive(Debug)]
enum Stored {
    F32(Storage<f32>),
    F16(Storage<f16>),
}

/// The numbers of a matrix, as they are stored.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

/// Weights `[rows, cols]`, row-major.
#[derive(Debug)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    stored: Stored,
}

impl Matrix {
    /// The matrix of this name. Panics unless the file has it.
    pub fn new(file: &Arc<TensorFile>, name: &str) -> Self {
        let tensor = file.tensor(name);
        let range = tensor.range.clone();
        Self {
            rows: tensor.shape[0],
            cols: tensor.shape[1],
            stored: match tensor.precision {
                Precision::F32 => Stored::F32(Storage::new(file, range)),
                Precision::F16 => Stored::F16(Storage::new(file, range)),
            },
        }
    }

    pub fn values(&self) -> Values<'_> {
        match &self.stored {
            Stored::F32(values) => Values::F32(values.as_slice()),
            Stored::F16(values) => Values::F16(values.as_slice()),
        }
    }

    /// The memory of the numbers, in bytes.
    pub fn bytes(&self) -> usize {
        match self.values() {
            Values::F32(values) => size_of_val(values),
            Values::F16(values) => size_of_val(values),
        }
    }

    /// Adds row `index` to `out`.
    #[inline(always)]
    pub fn add_row(&self, index: usize, out: &mut [f64]) {
        fn add<T: Weight>(row: &[T], out: &mut [f64]) {
            for (out, weight) in out.iter_mut().zip(row) {
                *out += f64::from(weight.to_f32());
            }
        }
        let row = index * self.cols..(index + 1) * self.cols;
        match self.values() {
            Values::F32(values) => add(&values[row], out),
            Values::F16(values) => add(&values[row], out),
        }
    }

    /// `out = W[rows]·x` for all columns: `x` `[columns, cols]`, `out` `[columns, rows]`.
    pub fn matmul(&self, rows: Range<usize>, x: &[f64], out: &mut [f64]) {
        if rows.is_empty() {
            return;
        }
        let own = rows.start * self.cols..rows.end * self.cols;
        match self.values() {
            Values::F32(values) => matmul(&values[own], self.cols, x, out),
            Values::F16(values) => matmul(&values[own], self.cols, x, out),
        }
    }

    /// The numbers as f32, which holds them exactly.
    pub fn to_tensor(&self) -> NamedTensor {
        NamedTensor {
            shape: vec![self.rows, self.cols],
            values: match self.values() {
                Values::F32(values) => values.to_vec(),
                Values::F16(values) => values.iter().map(|value| value.to_f32()).collect(),
            },
        }
    }
}
