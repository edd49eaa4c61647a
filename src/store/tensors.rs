//! Weights and moments as safetensors files, validated on reading.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorInfo, TensorView};

use super::snapshot::FileBytes;

/// One tensor in main memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, NamedTensor>;

/// The number format of stored tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    BF16,
}

impl Precision {
    /// The name in messages and `info --json`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::BF16 => "bf16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
            Precision::BF16 => Dtype::BF16,
        }
    }
}

/// A validated safetensors file, or several that hold the tensors of one model.
#[derive(Debug)]
pub struct TensorFile {
    files: Vec<FileBytes>,
    tensors: BTreeMap<String, StoredTensor>,
    /// F16 or BF16 if any tensor is.
    pub precision: Precision,
}

/// A tensor in its file, row-major.
#[derive(Debug)]
pub struct StoredTensor {
    pub shape: [usize; 2],
    pub precision: Precision,
    pub location: ByteRange,
}

/// The bytes of a tensor.
#[derive(Clone, Debug)]
pub struct ByteRange {
    /// The index of the file.
    file: usize,
    range: Range<usize>,
}

impl TensorFile {
    /// Validates a file. It must contain exactly the expected names and shapes, in f32 or, with
    /// `allow_half`, f16 or bf16, and only finite numbers. Errors name the tensor, the value and the
    /// expectation.
    pub fn new(
        bytes: FileBytes,
        expected: impl Iterator<Item = (String, [usize; 2])>,
        allow_half: bool,
    ) -> Result<Self> {
        let expected = expected.map(|(name, shape)| (name.clone(), name, shape));
        Self::from_files(vec![bytes], expected, allow_half)
    }

    /// Validates files that together contain the tensors, as [`Self::new`]. A tensor is expected as its
    /// name, its name in the file, and its shape.
    pub fn from_files(
        files: Vec<FileBytes>,
        expected: impl Iterator<Item = (String, String, [usize; 2])>,
        allow_half: bool,
    ) -> Result<Self> {
        let mut stored = stored_tensors(&files)?;
        let mut tensors = BTreeMap::new();
        let mut precision = Precision::F32;
        for (name, file_name, shape) in expected {
            let Some((info, location)) = stored.remove(&file_name) else {
                bail!("the tensor {file_name} is missing")
            };
            ensure!(
                info.shape == shape,
                "the tensor {file_name} has the shape {:?}, expected {shape:?}",
                info.shape
            );
            let tensor = StoredTensor {
                shape,
                precision: match info.dtype {
                    Dtype::F32 => Precision::F32,
                    Dtype::F16 if allow_half => Precision::F16,
                    Dtype::BF16 if allow_half => Precision::BF16,
                    other => {
                        let expected = if allow_half {
                            "F32, F16 or BF16"
                        } else {
                            "F32"
                        };
                        bail!(
                            "the tensor {file_name} holds {other:?} numbers, expected {expected}"
                        );
                    }
                },
                location,
            };
            let bytes = &files[tensor.location.file][tensor.location.range.clone()];
            if let Some(at) = tensor.precision.first_non_finite(bytes) {
                bail!(
                    "the tensor {file_name} holds {} at [{}, {}], expected finite numbers",
                    tensor.precision.decode(bytes)[at],
                    at / shape[1],
                    at % shape[1]
                );
            }
            if tensor.precision != Precision::F32 {
                precision = tensor.precision;
            }
            tensors.insert(name, tensor);
        }
        if let Some(name) = stored.keys().next() {
            bail!("the tensor {name} is not part of this model");
        }
        Ok(Self {
            files,
            tensors,
            precision,
        })
    }

    /// The bytes of a tensor.
    pub fn bytes(&self, location: &ByteRange) -> &[u8] {
        &self.files[location.file][location.range.clone()]
    }

    /// Returns a tensor. Panics if it was not among the expected ones.
    pub fn tensor(&self, name: &str) -> &StoredTensor {
        &self.tensors[name]
    }

    /// Decodes a tensor. F32 represents f16 and bf16 exactly.
    pub fn decode(&self, tensor: &StoredTensor) -> Vec<f32> {
        tensor.precision.decode(self.bytes(&tensor.location))
    }

    /// Decodes all tensors.
    pub fn to_tensors(&self) -> Tensors {
        let read = |(name, tensor): (&String, &StoredTensor)| {
            let shape = tensor.shape.to_vec();
            let values = self.decode(tensor);
            (name.clone(), NamedTensor { shape, values })
        };
        self.tensors.iter().map(read).collect()
    }
}

/// Returns the header entry and the bytes of each tensor in the files, by name. Errors if two files have
/// the same one.
fn stored_tensors(files: &[FileBytes]) -> Result<BTreeMap<String, (TensorInfo, ByteRange)>> {
    let mut stored = BTreeMap::new();
    for (file, bytes) in files.iter().enumerate() {
        let (header, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|error| anyhow::anyhow!("not a complete safetensors file: {error}"))?;
        // The file starts with the length of its header, in eight bytes.
        let start = 8 + header;
        for (name, info) in metadata.tensors() {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            let location = ByteRange { file, range };
            if stored
                .insert(name.clone(), (info.clone(), location))
                .is_some()
            {
                bail!("the tensor {name} is in two files");
            }
        }
    }
    Ok(stored)
}

impl Precision {
    /// Decodes the bytes of a tensor.
    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let halves = bytes.as_chunks().0.iter();
        match self {
            Precision::F32 => {
                let numbers = bytes.as_chunks().0.iter();
                numbers.map(|&b| f32::from_le_bytes(b)).collect()
            }
            Precision::F16 => halves.map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Precision::BF16 => halves.map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        }
    }

    /// Returns the index of the first infinity or NaN.
    fn first_non_finite(self, bytes: &[u8]) -> Option<usize> {
        let mut halves = bytes.as_chunks().0.iter();
        match self {
            Precision::F32 => {
                let mut numbers = bytes.as_chunks().0.iter();
                numbers.position(|&b| !f32::from_le_bytes(b).is_finite())
            }
            Precision::F16 => halves.position(|&b| !f16::from_le_bytes(b).is_finite()),
            Precision::BF16 => halves.position(|&b| !bf16::from_le_bytes(b).is_finite()),
        }
    }
}

/// Encodes a safetensors file. Errors if a number overflows the precision.
pub fn encode_tensors(tensors: &Tensors, precision: Precision) -> Result<Vec<u8>> {
    encode_with_metadata(tensors, precision, None)
}

/// Encodes the weights of a model, with the metadata that transformers requires: `format: pt`. Errors
/// as [`encode_tensors`].
pub fn encode_weights(tensors: &Tensors, precision: Precision) -> Result<Vec<u8>> {
    let metadata = [("format".to_string(), "pt".to_string())];
    encode_with_metadata(tensors, precision, Some(metadata.into()))
}

fn encode_with_metadata(
    tensors: &Tensors,
    precision: Precision,
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let encoded = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = encode(&tensor.values, precision)
                .with_context(|| format!("cannot store the tensor {name}"))?;
            Ok((name, &tensor.shape, values))
        })
        .collect::<Result<Vec<_>>>()?;
    let dtype = precision.dtype();
    let views = encoded
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(dtype, shape.to_vec(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, metadata).context("cannot serialize the tensors")
}

fn encode(values: &[f32], precision: Precision) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() * precision.dtype().bitsize() / 8);
    for &value in values {
        match precision {
            Precision::F32 => bytes.extend(value.to_le_bytes()),
            Precision::F16 => {
                let half = f16::from_f32(value);
                ensure!(half.is_finite(), "{value} is too large for half precision");
                bytes.extend(half.to_le_bytes());
            }
            Precision::BF16 => {
                let half = bf16::from_f32(value);
                ensure!(half.is_finite(), "{value} is too large for bf16");
                bytes.extend(half.to_le_bytes());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(values: Vec<f32>) -> Tensors {
        Tensors::from([(
            "a".to_string(),
            NamedTensor {
                shape: vec![2, 2],
                values,
            },
        )])
    }

    fn tensor_file(
        bytes: &[u8],
        expected: impl Iterator<Item = (String, [usize; 2])>,
        half: bool,
    ) -> Result<TensorFile> {
        TensorFile::new(bytes.to_vec().into(), expected, half)
    }

    fn expect(names: &[&str]) -> std::vec::IntoIter<(String, [usize; 2])> {
        names
            .iter()
            .map(|name| (name.to_string(), [2, 2]))
            .collect::<Vec<_>>()
            .into_iter()
    }

    #[test]
    fn round_trip() {
        let written = tensors(vec![1.0, -2.5, 0.0, 3e-3]);
        let bytes = encode_tensors(&written, Precision::F32).unwrap();
        let read = tensor_file(&bytes, expect(&["a"]), true).unwrap();
        assert_eq!(read.to_tensors(), written);
        let bytes = encode_tensors(&written, Precision::F16).unwrap();
        let read = tensor_file(&bytes, expect(&["a"]), true).unwrap();
        assert_eq!(read.precision, Precision::F16);
        for (read, written) in read.to_tensors()["a"]
            .values
            .iter()
            .zip(&written["a"].values)
        {
            assert!((read - written).abs() <= written.abs() / 2048.0);
        }
    }

    #[test]
    fn errors_name_the_tensor() {
        let error = |values: [f32; 4], names: &[&str], half| {
            let precision = if half { Precision::F32 } else { Precision::F16 };
            let bytes = encode_tensors(&tensors(values.to_vec()), precision).unwrap();
            tensor_file(&bytes, expect(names), half)
                .err()
                .unwrap()
                .to_string()
        };
        assert!(error([0.0; 4], &["a", "b"], true).contains("b is missing"));
        assert!(error([0.0; 4], &[], true).contains("a is not part"));
        assert!(error([0.0; 4], &["a"], false).contains("holds F16 numbers, expected F32"));
        assert!(error([0.0, 0.0, f32::NAN, 0.0], &["a"], true).contains("holds NaN at [1, 0]"));
        let misshapen = encode_tensors(&tensors(vec![0.0; 4]), Precision::F32).unwrap();
        let error = tensor_file(&misshapen, [("a".to_string(), [4, 1])].into_iter(), true)
            .err()
            .unwrap();
        assert!(error.to_string().contains("[2, 2], expected [4, 1]"));
        assert!(encode_tensors(&tensors(vec![1e6; 4]), Precision::F16).is_err());
    }

    #[test]
    fn file_truncated_at_any_byte_is_rejected() {
        let bytes = encode_tensors(&tensors(vec![1.0; 4]), Precision::F32).unwrap();
        for length in 0..bytes.len() {
            assert!(tensor_file(&bytes[..length], expect(&["a"]), true).is_err());
        }
    }
}
