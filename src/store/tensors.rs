//! Weights and moments as safetensors files, validated on reading.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

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
}

impl Precision {
    /// The name in messages and `info --json`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
        }
    }
}

/// A validated safetensors file.
#[derive(Debug)]
pub struct TensorFile {
    bytes: FileBytes,
    tensors: BTreeMap<String, StoredTensor>,
    /// F16 if any tensor is.
    pub precision: Precision,
}

/// The location of a tensor in its file, row-major.
#[derive(Debug)]
pub struct StoredTensor {
    pub shape: [usize; 2],
    pub precision: Precision,
    /// The tensor's bytes in the file.
    pub range: Range<usize>,
}

impl TensorFile {
    /// Validates a file. It must contain exactly the expected names and shapes, in f32 or, with
    /// `allow_half`, f16, and only finite numbers. Errors name the tensor, the value and the
    /// expectation.
    pub fn new(
        bytes: FileBytes,
        expected: impl Iterator<Item = (String, [usize; 2])>,
        allow_half: bool,
    ) -> Result<Self> {
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| anyhow::anyhow!("not a complete safetensors file: {error}"))?;
        let mut tensors = BTreeMap::new();
        let mut precision = Precision::F32;
        for (name, shape) in expected {
            let Some(info) = metadata.info(&name) else {
                bail!("the tensor {name} is missing")
            };
            ensure!(
                info.shape == shape,
                "the tensor {name} has the shape {:?}, expected {shape:?}",
                info.shape
            );
            // The file starts with the length of its header, in eight bytes.
            let start = 8 + header;
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            let stored = match info.dtype {
                Dtype::F32 => Precision::F32,
                Dtype::F16 if allow_half => {
                    precision = Precision::F16;
                    Precision::F16
                }
                other => {
                    let expected = if allow_half { "F32 or F16" } else { "F32" };
                    bail!("the tensor {name} holds {other:?} numbers, expected {expected}");
                }
            };
            if let Some(at) = stored.first_non_finite(&bytes[range.clone()]) {
                let values = stored.decode(&bytes[range]);
                bail!(
                    "the tensor {name} holds {} at [{}, {}], expected finite numbers",
                    values[at],
                    at / shape[1],
                    at % shape[1]
                );
            }
            tensors.insert(
                name,
                StoredTensor {
                    shape,
                    precision: stored,
                    range,
                },
            );
        }
        if let Some(name) = metadata
            .offset_keys()
            .into_iter()
            .find(|name| !tensors.contains_key(name))
        {
            bail!("the tensor {name} is not part of this model");
        }
        Ok(Self {
            bytes,
            tensors,
            precision,
        })
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the location of a tensor. Panics if it was not among the expected ones.
    pub fn tensor(&self, name: &str) -> &StoredTensor {
        &self.tensors[name]
    }

    /// Decodes all tensors. F32 represents f16 exactly.
    pub fn to_tensors(&self) -> Tensors {
        let read = |(name, tensor): (&String, &StoredTensor)| {
            let values = tensor.precision.decode(&self.bytes[tensor.range.clone()]);
            let shape = tensor.shape.to_vec();
            (name.clone(), NamedTensor { shape, values })
        };
        self.tensors.iter().map(read).collect()
    }
}

impl Precision {
    /// Decodes the bytes of a tensor.
    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Precision::F32 => {
                let numbers = bytes.as_chunks().0.iter();
                numbers.map(|&b| f32::from_le_bytes(b)).collect()
            }
            Precision::F16 => {
                let numbers = bytes.as_chunks().0.iter();
                numbers.map(|&b| f16::from_le_bytes(b).to_f32()).collect()
            }
        }
    }

    /// Returns the index of the first infinity or NaN.
    fn first_non_finite(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Precision::F32 => {
                let mut numbers = bytes.as_chunks().0.iter();
                numbers.position(|&b| !f32::from_le_bytes(b).is_finite())
            }
            Precision::F16 => {
                let mut numbers = bytes.as_chunks().0.iter();
                numbers.position(|&b| !f16::from_le_bytes(b).is_finite())
            }
        }
    }
}

/// Encodes a safetensors file. Errors if a number overflows the precision.
pub fn encode_tensors(tensors: &Tensors, precision: Precision) -> Result<Vec<u8>> {
    let encoded = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = encode(&tensor.values, precision)
                .with_context(|| format!("cannot store the tensor {name}"))?;
            Ok((name, &tensor.shape, values))
        })
        .collect::<Result<Vec<_>>>()?;
    let dtype = match precision {
        Precision::F32 => Dtype::F32,
        Precision::F16 => Dtype::F16,
    };
    let views = encoded
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(dtype, shape.to_vec(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, None).context("cannot serialize the tensors")
}

fn encode(values: &[f32], precision: Precision) -> Result<Vec<u8>> {
    match precision {
        Precision::F32 => Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Precision::F16 => {
            let mut bytes = Vec::with_capacity(values.len() * 2);
            for &value in values {
                let half = f16::from_f32(value);
                ensure!(half.is_finite(), "{value} is too large for half precision");
                bytes.extend(half.to_le_bytes());
            }
            Ok(bytes)
        }
    }
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
