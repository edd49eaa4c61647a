//! The kernels against a scalar reference. The tests of `ops` hold the whole block, with its
//! gradients, to candle's operations.

use super::PackedAttention;
use crate::kernels::cpu::test_override::for_each_cpu;

/// Attention and its gradient in f64, one query, key and element at a time. Returns the output
/// `[N, E]` and `dqkv` `[N, 3E]`.
fn reference(shape: &PackedAttention, qkv: &[f32], dout: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (n_embd, head_dim) = (shape.n_embd, shape.n_embd / shape.n_head);
    let scale = 1.0 / (head_dim as f64).sqrt();
    let (mut out, mut dqkv) = (vec![0.0; qkv.len() / 3], vec![0.0; qkv.len()]);
    for (document, head) in shape
        .offsets
        .windows(2)
        .flat_map(|document| (0..shape.n_head).map(move |head| (document, head)))
    {
        let index = |slice: usize, token: usize, d: usize| {
            token * 3 * n_embd + slice * n_embd + head * head_dim + d
        };
        let at = |slice, token, d| f64::from(qkv[index(slice, token, d)]);
        for i in document[0]..document[1] {
            let keys = document[0]..=i;
            let elements = || (0..head_dim).map(|d| (d, i * n_embd + head * head_dim + d));
            let score = |j| {
                scale
                    * elements()
                        .map(|(d, _)| at(0, i, d) * at(1, j, d))
                        .sum::<f64>()
            };
            let powers: Vec<f64> = keys.clone().map(|j| score(j).exp()).collect();
            let sum: f64 = powers.iter().sum();
            let p = |j: usize| powers[j - document[0]] / sum;
            let dp = |j| {
                let products = elements().map(|(d, o)| f64::from(dout[o]) * at(2, j, d));
                products.sum::<f64>()
            };
            let mean: f64 = keys.clone().map(|j| p(j) * dp(j)).sum();
            for j in keys {
                let ds = scale * p(j) * (dp(j) - mean);
                for (d, o) in elements() {
                    out[o] += p(j) * at(2, j, d);
                    dqkv[index(0, i, d)] += ds * at(1, j, d);
                    dqkv[index(1, j, d)] += ds * at(0, i, d);
                    dqkv[index(2, j, d)] += p(j) * f64::from(dout[o]);
                }
            }
        }
    }
    (out, dqkv)
}

#[test]
fn short_and_long_attention_match_the_reference_on_every_cpu() {
    let mut rng = fastrand::Rng::with_seed(6);
    let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.f32() - 0.5).collect() };
    // Around the lengths and widths of the short kernels and the blocks of the long one.
    for (n_head, head_dim) in [(1, 1), (4, 4), (2, 8), (3, 16), (2, 5), (1, 17), (1, 33)] {
        for lengths in [vec![1], vec![8, 0, 9, 3], vec![16, 17], vec![15, 33, 1]] {
            let offsets: Vec<usize> = std::iter::once(0)
                .chain(lengths.iter().scan(0, |end, length| {
                    *end += length;
                    Some(*end)
                }))
                .collect();
            let (tokens, n_embd) = (offsets[lengths.len()], n_head * head_dim);
            let (qkv, dout) = (random(tokens * 3 * n_embd), random(tokens * n_embd));
            let shape = PackedAttention {
                offsets: &offsets,
                n_head,
                n_embd,
            };
            let (out, dqkv) = reference(&shape, &qkv, &dout);
            for_each_cpu(|cpu| {
                let output = shape.forward(&qkv);
                let gradient = shape.backward(&qkv, &output, &dout);
                let pairs = output
                    .out
                    .iter()
                    .zip(&out)
                    .chain(gradient.iter().zip(&dqkv));
                for (found, expected) in pairs {
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-5,
                        "{lengths:?}, {n_head} heads of {head_dim}, {cpu:?}: {found}, not {expected}"
                    );
                }
            });
        }
    }
}
