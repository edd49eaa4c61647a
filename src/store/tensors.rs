//! Weights and moments as safetensors files, checked completely when they are read.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// One tensor in main memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, NamedTensor>;

/// How numbers are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
}

impl Precision {
    /// The name that safetensors gives it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
        }
    }
}

/// What a safetensors file holds.
pub struct TensorFile {
    pub tensors: Tensors,
    /// The precision that the numbers have in the file.
    pub precision: Precision,
}

/// The tensors of a safetensors file, which must be exactly the expected ones: every name, its
/// shape, f32 or (where `half` allows it) f16, and nothing that is not finite. The errors name the
/// tensor, what was found and what was expected.
pub fn tensor_file(
    bytes: &[u8],
    expected: impl Iterator<Item = (String, [usize; 2])>,
    half: bool,
) -> Result<TensorFile> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| anyhow::anyhow!("not a whole safetensors file: {error}"))?;
    let mut tensors = Tensors::new();
    let mut precision = Precision::F32;
    for (name, shape) in expected {
        let Ok(view) = file.tensor(&name) else {
            bail!("the tensor {name} is missing")
        };
        ensure!(
            view.shape() == shape,
            "the tensor {name} has the shape {:?}, expected {shape:?}",
            view.shape()
        );
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|&b| f32::from_le_bytes(b))
                .collect(),
            Dtype::F16 if half => {
                precision = Precision::F16;
                view.data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&b| f16::from_le_bytes(b).to_f32())
                    .collect()
            }
            other => {
                let expected = if half { "F32 or F16" } else { "F32" };
                bail!("the tensor {name} holds {other:?} numbers, expected {expected}");
            }
        };
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            bail!(
                "the tensor {name} holds {} at [{}, {}], expected finite numbers",
                values[at],
                at / shape[1],
                at % shape[1]
            );
        }
        tensors.insert(
            name,
            NamedTensor {
                shape: shape.to_vec(),
                values,
            },
        );
    }
    if let Some(name) = file
        .names()
        .into_iter()
        .find(|name| !tensors.contains_key(*name))
    {
        bail!("the tensor {name} does not belong to this model");
    }
    Ok(TensorFile { tensors, precision })
}

/// The bytes of a safetensors file. Errors where a number is too large for the precision.
pub fn encode_tensors(tensors: &Tensors, precision: Precision) -> Result<Vec<u8>> {
    let encoded = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = encode(&tensor.values, precision)
                .with_context(|| format!("the tensor {name} can't be stored"))?;
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
    safetensors::serialize(views, None).context("cannot lay out the tensors")
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

    fn expect(names: &[&str]) -> std::vec::IntoIter<(String, [usize; 2])> {
        names
            .iter()
            .map(|name| (name.to_string(), [2, 2]))
            .collect::<Vec<_>>()
            .into_iter()
    }

    #[test]
    fn what_is_written_is_read() {
        let written = tensors(vec![1.0, -2.5, 0.0, 3e-3]);
        let bytes = encode_tensors(&written, Precision::F32).unwrap();
        assert_eq!(
            tensor_file(&bytes, expect(&["a"]), true).unwrap().tensors,
            written
        );
        let bytes = encode_tensors(&written, Precision::F16).unwrap();
        let read = tensor_file(&bytes, expect(&["a"]), true).unwrap();
        assert_eq!(read.precision, Precision::F16);
        for (read, written) in read.tensors["a"].values.iter().zip(&written["a"].values) {
            assert!((read - written).abs() <= written.abs() / 2048.0);
        }
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let error = |values: [f32; 4], names: &[&str], half| {
            let precision = if half { Precision::F32 } else { Precision::F16 };
            let bytes = encode_tensors(&tensors(values.to_vec()), precision).unwrap();
            tensor_file(&bytes, expect(names), half)
                .err()
                .unwrap()
                .to_string()
        };
        assert!(error([0.0; 4], &["a", "b"], true).contains("b is missing"));
        assert!(error([0.0; 4], &[], true).contains("a does not belong"));
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
    fn a_truncated_file_is_refused_at_every_byte() {
        let bytes = encode_tensors(&tensors(vec![1.0; 4]), Precision::F32).unwrap();
        for length in 0..bytes.len() {
            assert!(tensor_file(&bytes[..length], expect(&["a"]), true).is_err());
        }
    }
}
