//! Every custom operation against its reference implementation, forward and gradient, for odd
//! sizes.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::reference;
use crate::kernels::cpu::test_override::for_each_cpu;

/// The smallest sizes, and sizes around the widths of vectors.
const SIZES: [usize; 8] = [1, 2, 3, 7, 8, 9, 17, 33];

struct Random(fastrand::Rng);

impl Random {
    fn var(&mut self, rows: usize, cols: usize) -> Var {
        let mut value = || (0.25 + 0.75 * self.0.f32()) * if self.0.bool() { 1.0 } else { -1.0 };
        let values: Vec<f32> = (0..rows * cols).map(|_| value()).collect();
        Var::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
    }

    fn ids(&mut self, count: usize, below: usize) -> Arc<[u32]> {
        (0..count).map(|_| self.0.u32(0..below as u32)).collect()
    }
}

fn assert_close(found: &Tensor, expected: &Tensor, context: &str) {
    assert_eq!(found.shape(), expected.shape(), "{context}");
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (flat(found), flat(expected));
    // Relative to the largest magnitude, but at least 0.1: tiny results are those of cancellation.
    let scale = expected.iter().fold(0.1f32, |max, v| max.max(v.abs()));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (found - expected).abs() <= 2e-5 * scale,
            "{context}[{i}]: {found}, expected {expected}"
        );
    }
}

/// Compares an operation with its reference: the result, and the gradient of a randomly weighted
/// sum of it for every argument.
fn compare(
    args: &[Var],
    op: impl Fn(&[Var]) -> Result<Tensor>,
    reference_op: impl Fn(&[Var]) -> Result<Tensor>,
    context: &str,
) {
    let (found, expected) = (op(args).unwrap(), reference_op(args).unwrap());
    assert_close(&found, &expected, context);
    let mut random = Random(fastrand::Rng::with_seed(9));
    let weights = random
        .var(1, found.elem_count())
        .reshape(found.shape())
        .unwrap();
    let gradients = |result: &Tensor| {
        (result * &weights)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap()
    };
    let (found, expected) = (gradients(&found), gradients(&expected));
    for (i, arg) in args.iter().enumerate() {
        let expected = expected.get(arg).unwrap();
        assert_close(
            found.get(arg).unwrap(),
            expected,
            &format!("{context}, gradient of argument {i}"),
        );
    }
}

#[test]
fn rms_norm_matches_its_reference() {
    let mut random = Random(fastrand::Rng::with_seed(1));
    for rows in SIZES {
        for cols in SIZES {
            let x = [random.var(rows, cols)];
            compare(
                &x,
                |x| super::rms_norm(&x[0]),
                |x| reference::rms_norm(&x[0]),
                &format!("rms_norm {rows}x{cols}"),
            );
        }
    }
}

#[test]
fn linear_matches_its_reference() {
    let mut random = Random(fastrand::Rng::with_seed(2));
    for tokens in SIZES {
        for inputs in SIZES {
            for outputs in SIZES {
                let args = [random.var(tokens, inputs), random.var(outputs, inputs)];
                let context = format!("linear {tokens}x{inputs}x{outputs}");
                compare(
                    &args,
                    |a| super::linear(&a[0], &a[1]),
                    |a| reference::linear(&a[0], &a[1]),
                    &context,
                );
            }
        }
    }
}

#[test]
fn mlp_block_matches_its_reference() {
    let mut random = Random(fastrand::Rng::with_seed(6));
    for tokens in SIZES {
        for n_embd in SIZES {
            for width in SIZES {
                let args = [
                    random.var(tokens, n_embd),
                    random.var(width, n_embd),
                    random.var(n_embd, width),
                ];
                compare(
                    &args,
                    |a| super::mlp_block(&a[0], &a[1], &a[2]),
                    |a| reference::mlp_block(&a[0], &a[1], &a[2]),
                    &format!("mlp_block {tokens}x{n_embd}x{width}"),
                );
            }
        }
    }
}

#[test]
fn embedding_matches_its_reference() {
    let mut random = Random(fastrand::Rng::with_seed(3));
    for tokens in SIZES {
        for n_embd in SIZES {
            let (ids, positions) = (random.ids(tokens, 5), random.ids(tokens, 3));
            let args = [random.var(5, n_embd), random.var(3, n_embd)];
            compare(
                &args,
                |a| super::embedding(&a[0], &a[1], &ids, &positions),
                |a| reference::embedding(&a[0], &a[1], &ids, &positions),
                &format!("embedding {tokens}x{n_embd}"),
            );
        }
    }
    let table = random.var(5, 2);
    assert!(super::embedding(&table, &table, &[5].into(), &[0].into()).is_err());
    assert!(super::embedding(&table, &table, &[0].into(), &[5].into()).is_err());
}

#[test]
fn cross_entropy_matches_its_reference() {
    let mut random = Random(fastrand::Rng::with_seed(4));
    for tokens in SIZES {
        for vocab_size in SIZES {
            let targets = random.ids(tokens, vocab_size);
            let logits = [random.var(tokens, vocab_size)];
            compare(
                &logits,
                |a| super::cross_entropy(&a[0], &targets, tokens + 3),
                |a| reference::cross_entropy(&a[0], &targets, tokens + 3),
                &format!("cross_entropy {tokens}x{vocab_size}"),
            );
        }
    }
    assert!(super::cross_entropy(&random.var(1, 3), &[3].into(), 1).is_err());
    assert!(super::cross_entropy(&random.var(2, 3), &[0].into(), 1).is_err());
}

fn offsets(lengths: &[usize]) -> Arc<[usize]> {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    offsets.into()
}

#[test]
fn attention_block_matches_its_reference() {
    let mut random = Random(fastrand::Rng::with_seed(5));
    // Also around the sizes of the short kernels and of the long ones' blocks.
    let documents: [&[usize]; 8] = [
        &[1],
        &[1, 1, 1],
        &[5],
        &[3, 1, 9],
        &[17, 2, 8, 33],
        &[16, 16],
        &[15, 17],
        &[64, 65, 130],
    ];
    let heads = [
        (1, 1),
        (3, 1),
        (1, 7),
        (2, 8),
        (4, 4),
        (5, 3),
        (2, 17),
        (2, 16),
    ];
    for (lengths, (n_head, head_dim)) in documents.iter().flat_map(|d| heads.map(|h| (d, h))) {
        let offsets = offsets(lengths);
        let n_embd = n_head * head_dim;
        let args = [
            random.var(offsets[lengths.len()], n_embd),
            random.var(3 * n_embd, n_embd),
            random.var(n_embd, n_embd),
        ];
        for_each_cpu(|cpu| {
            compare(
                &args,
                |a| super::attention_block(&a[0], &a[1], &a[2], &offsets, n_head),
                |a| reference::attention_block(&a[0], &a[1], &a[2], &offsets, n_head),
                &format!("attention {lengths:?}, {n_head} heads of {head_dim}, {cpu:?}"),
            );
        });
    }
    let args = [random.var(4, 6), random.var(18, 6), random.var(6, 6)];
    let block = |offsets: &[usize], n_head| {
        super::attention_block(&args[0], &args[1], &args[2], &offsets.into(), n_head)
    };
    assert!(block(&[0, 3], 2).is_err(), "rows without a document");
    assert!(block(&[0, 4], 4).is_err(), "heads of different widths");
}

#[test]
fn large_scores_do_not_overflow() {
    for (tokens, head_dim) in [(2, 2), (2, 4), (40, 2)] {
        let mut random = Random(fastrand::Rng::with_seed(7));
        let x = random.var(tokens, head_dim);
        let weight = |rows| (random_weight(rows, head_dim) * 300.0).unwrap();
        let offsets = offsets(&[tokens]);
        let y = super::attention_block(&x, &weight(3 * head_dim), &weight(head_dim), &offsets, 1);
        let targets = random.ids(tokens, head_dim);
        let loss = super::cross_entropy(&y.unwrap(), &targets, tokens).unwrap();
        assert!(loss.to_scalar::<f32>().unwrap().is_finite());
        let gradients = loss.backward().unwrap();
        let gradient = gradients.get(&x).unwrap().flatten_all().unwrap();
        let gradient = gradient.to_vec1::<f32>().unwrap();
        assert!(gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
    }
}

fn random_weight(rows: usize, cols: usize) -> Tensor {
    let mut random = Random(fastrand::Rng::with_seed(8));
    random.var(rows, cols).as_tensor().clone()
}

#[test]
fn a_nan_reaches_the_loss() {
    let x = Var::from_vec(vec![f32::NAN, 1.0], (1, 2), &Device::Cpu).unwrap();
    let weight = random_weight(2, 2);
    let qkv = random_weight(6, 2);
    let mlp = super::mlp_block(&x, &weight, &weight).unwrap();
    let attention = super::attention_block(&x, &qkv, &weight, &[0, 1].into(), 1).unwrap();
    for y in [mlp, attention] {
        let loss = super::cross_entropy(&y, &[1].into(), 1).unwrap();
        assert!(loss.to_scalar::<f32>().unwrap().is_nan());
    }
}
