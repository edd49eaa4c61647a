//! Softmax and cross-entropy over logits, in f64.

use super::math_f64::{exp, slice_max, slice_sum};
use super::simd::{self, Kernel, Simd};

/// Replaces each element by `exp(scale(x − max))`. Returns `max` and the sum of the results.
///
/// `scale` must map negative numbers to negative ones, and 0 to 0. The maximum is subtracted before
/// it is applied, so that no temperature overflows.
#[inline(always)]
pub fn exp_shifted<S: Simd>(
    simd: S,
    elements: &mut [f64],
    scale: impl Fn(f64) -> f64,
) -> (f64, f64) {
    let max = slice_max(simd, elements);
    for x in elements.iter_mut() {
        *x = exp(scale(*x - max));
    }
    (max, slice_sum(simd, elements))
}

struct ExpShifted<'a, F> {
    logits: &'a mut [f64],
    scale: F,
}

impl<F: Fn(f64) -> f64> Kernel for ExpShifted<'_, F> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f64, f64) {
        exp_shifted(simd, self.logits, self.scale)
    }
}

/// Replaces logits by numbers proportional to the tokens' probabilities at `temperature` > 0, and
/// returns their sum.
pub fn unnormalized_softmax(logits: &mut [f64], temperature: f64) -> f64 {
    let scale = |x| x / temperature;
    simd::run(ExpShifted { logits, scale }).1
}

/// Returns `-log2 p(token)`. Overwrites the logits.
pub fn neg_log2_prob(logits: &mut [f64], token: u32) -> f64 {
    let logit = logits[token as usize];
    neg_log2(logit, max_and_log_sum(logits))
}

/// Returns `-log2 p` of every token.
pub fn neg_log2_probs(logits: &[f64]) -> Vec<f64> {
    let normalizer = max_and_log_sum(&mut logits.to_vec());
    let probs = logits.iter().map(|&logit| neg_log2(logit, normalizer));
    probs.collect()
}

fn neg_log2(logit: f64, (max, log_sum): (f64, f64)) -> f64 {
    (log_sum - (logit - max)) / std::f64::consts::LN_2
}

/// Returns `max` and `ln Σ exp(logit − max)`. Overwrites the logits.
fn max_and_log_sum(logits: &mut [f64]) -> (f64, f64) {
    let scale = std::convert::identity;
    let (max, sum) = simd::run(ExpShifted { logits, scale });
    // Not the logarithm of the system's library, whose bits differ between systems.
    (max, libm::log(sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::test_override::for_each_cpu;

    fn reference(logits: &[f64], temperature: f64) -> Vec<f64> {
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = logits
            .iter()
            .map(|x| ((x - max) / temperature).exp())
            .collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|power| power / sum).collect()
    }

    #[test]
    fn softmax_matches_the_reference_and_has_the_same_bits_on_every_cpu() {
        let mut rng = fastrand::Rng::with_seed(3);
        for length in 1..40 {
            let logits: Vec<f64> = (0..length).map(|_| rng.f64() * 20.0 - 10.0).collect();
            let mut results = Vec::new();
            for_each_cpu(|_| {
                let mut powers = logits.clone();
                let sum = unnormalized_softmax(&mut powers, 0.7);
                for (power, expected) in powers.iter().zip(reference(&logits, 0.7)) {
                    assert!((power / sum - expected).abs() < 1e-14);
                }
                let bits = neg_log2_probs(&logits);
                for (token, expected) in reference(&logits, 1.0).iter().enumerate() {
                    assert!((bits[token] + expected.log2()).abs() < 1e-12);
                    let bits_of_token = neg_log2_prob(&mut logits.clone(), token as u32);
                    assert_eq!(bits_of_token, bits[token]);
                }
                results.push((powers, sum, bits));
            });
            assert!(results.windows(2).all(|r| r[0] == r[1]), "{length}");
        }
    }
}
