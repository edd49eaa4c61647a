//! The weights as they lie in the file, f32 or f16: mapped into memory, and widened to f64 only in
//! the CPU's registers.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::kernels::matmul_f64::matmul;
use crate::kernels::simd::Weight;
use crate::store::{ByteRange, NamedTensor, Precision, TensorFile, Tensors};

/// All matrices of a model, `[rows, cols]` each, with `V` tokens, `T` = `block_size`, `E` = `n_embd`.
#[derive(Debug)]
pub struct Weights {
    /// Token embeddings `[V, E]`.
    pub wte: WeightMatrix,
    /// Position embeddings `[T, E]`.
    pub wpe: WeightMatrix,
    /// `[V, E]`.
    pub lm_head: WeightMatrix,
    pub layers: Vec<LayerWeights>,
}

/// The matrices of one layer.
#[derive(Debug)]
pub struct LayerWeights {
    /// `[E, E]`, as the next three.
    pub attn_wq: WeightMatrix,
    pub attn_wk: WeightMatrix,
    pub attn_wv: WeightMatrix,
    pub attn_wo: WeightMatrix,
    /// `[4E, E]`.
    pub mlp_fc1: WeightMatrix,
    /// `[E, 4E]`.
    pub mlp_fc2: WeightMatrix,
}

impl Weights {
    /// Panics unless the file has all matrices of `n_layer` layers.
    pub fn new(file: TensorFile, n_layer: usize) -> Self {
        let file = Arc::new(file);
        let layer = |i| {
            let matrix = |name: &str| WeightMatrix::new(&file, &format!("layer{i}.{name}"));
            LayerWeights {
                attn_wq: matrix("attn_wq"),
                attn_wk: matrix("attn_wk"),
                attn_wv: matrix("attn_wv"),
                attn_wo: matrix("attn_wo"),
                mlp_fc1: matrix("mlp_fc1"),
                mlp_fc2: matrix("mlp_fc2"),
            }
        };
        Self {
            wte: WeightMatrix::new(&file, "wte"),
            wpe: WeightMatrix::new(&file, "wpe"),
            lm_head: WeightMatrix::new(&file, "lm_head"),
            layers: (0..n_layer).map(layer).collect(),
        }
    }

    /// The memory of a layer's largest matrix, in bytes.
    pub fn max_bytes(&self) -> usize {
        self.layers[0].mlp_fc1.bytes()
    }

    pub fn to_tensors(&self) -> Tensors {
        let layers = self.layers.iter().enumerate().flat_map(|(i, layer)| {
            [
                ("attn_wq", &layer.attn_wq),
                ("attn_wk", &layer.attn_wk),
                ("attn_wv", &layer.attn_wv),
                ("attn_wo", &layer.attn_wo),
                ("mlp_fc1", &layer.mlp_fc1),
                ("mlp_fc2", &layer.mlp_fc2),
            ]
            .map(|(name, matrix)| (format!("layer{i}.{name}"), matrix))
        });
        let embeddings = [
            ("wte", &self.wte),
            ("wpe", &self.wpe),
            ("lm_head", &self.lm_head),
        ];
        let embeddings = embeddings.map(|(name, matrix)| (name.to_string(), matrix));
        let tensor = |(name, matrix): (String, &WeightMatrix)| (name, matrix.to_tensor());
        embeddings.into_iter().chain(layers).map(tensor).collect()
    }
}

/// Elements of a mapped file, or a copy if they are not aligned there.
#[derive(Debug)]
enum Storage<T> {
    Mapped(Arc<TensorFile>, ByteRange),
    Copied(Vec<T>),
}

impl<T: Weight> Storage<T> {
    fn new(file: &Arc<TensorFile>, location: ByteRange) -> Self {
        let bytes = file.bytes(&location);
        match bytemuck::try_cast_slice::<u8, T>(bytes) {
            Ok(_) => Storage::Mapped(Arc::clone(file), location),
            Err(_) => {
                let elements = bytes.chunks_exact(size_of::<T>());
                Storage::Copied(elements.map(bytemuck::pod_read_unaligned).collect())
            }
        }
    }

    fn as_slice(&self) -> &[T] {
        match self {
            Storage::Mapped(file, location) => bytemuck::cast_slice(file.bytes(location)),
            Storage::Copied(values) => values,
        }
    }
}

#[derive(Debug)]
enum StoredElements {
    F32(Storage<f32>),
    F16(Storage<f16>),
}

/// The elements of a matrix, as they are stored.
#[derive(Clone, Copy)]
pub enum Elements<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

/// Weights `[rows, cols]`, row-major.
#[derive(Debug)]
pub struct WeightMatrix {
    pub rows: usize,
    pub cols: usize,
    stored: StoredElements,
}

impl WeightMatrix {
    /// Panics unless the file has a matrix of this name.
    fn new(file: &Arc<TensorFile>, name: &str) -> Self {
        let tensor = file.tensor(name);
        let location = tensor.location.clone();
        Self {
            rows: tensor.shape[0],
            cols: tensor.shape[1],
            stored: match tensor.precision {
                Precision::F32 => StoredElements::F32(Storage::new(file, location)),
                Precision::F16 => StoredElements::F16(Storage::new(file, location)),
                // The kernels have no bf16; f32 represents it exactly.
                Precision::BF16 => StoredElements::F32(Storage::Copied(file.decode(tensor))),
            },
        }
    }

    pub fn elements(&self) -> Elements<'_> {
        match &self.stored {
            StoredElements::F32(values) => Elements::F32(values.as_slice()),
            StoredElements::F16(values) => Elements::F16(values.as_slice()),
        }
    }

    /// The memory of the elements, in bytes.
    pub fn bytes(&self) -> usize {
        match self.elements() {
            Elements::F32(values) => size_of_val(values),
            Elements::F16(values) => size_of_val(values),
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
        match self.elements() {
            Elements::F32(values) => add(&values[row], out),
            Elements::F16(values) => add(&values[row], out),
        }
    }

    /// Computes `out = W[rows]·x` for all columns: `x` `[columns, cols]`, `out` `[columns, rows]`.
    pub fn matmul(&self, rows: Range<usize>, x: &[f64], out: &mut [f64]) {
        if rows.is_empty() {
            return;
        }
        let rows = rows.start * self.cols..rows.end * self.cols;
        match self.elements() {
            Elements::F32(values) => matmul(&values[rows], self.cols, x, out),
            Elements::F16(values) => matmul(&values[rows], self.cols, x, out),
        }
    }

    /// The elements as f32, which is exact.
    pub fn to_tensor(&self) -> NamedTensor {
        NamedTensor {
            shape: vec![self.rows, self.cols],
            values: match self.elements() {
                Elements::F32(values) => values.to_vec(),
                Elements::F16(values) => values.iter().map(|value| value.to_f32()).collect(),
            },
        }
    }
}
