//! Softmax and cross-entropy over logits, in f64.

use super::math_f64::{exponentials, slice_max, slice_sum};
use super::simd::{self, Kernel, Simd};

/// `-log2 p` of a token, by the logits, which it takes.
pub fn neg_log2_prob(logits: &mut [f64], token: u32) -> f64 {
    let logit = logits[token as usize];
    bits_of(logit, simd::run(LogSum(logits)))
}

/// The same of every token.
pub fn neg_log2_probs(logits: &[f64]) -> Vec<f64> {
    let log_sum = simd::run(LogSum(&mut logits.to_vec()));
    logits
        .iter()
        .map(|&logit| bits_of(logit, log_sum))
        .collect()
}

fn bits_of(logit: f64, (max, log_sum): (f64, f64)) -> f64 {
    (log_sum - (logit - max)) / std::f64::consts::LN_2
}

/// The largest of some logits, and the logarithm of the sum of the exponentials of how much they are
/// below it.
struct LogSum<'a>(&'a mut [f64]);

impl Kernel for LogSum<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f64, f64) {
        let Self(logits) = self;
        let max = slice_max(simd, logits);
        for logit in logits.iter_mut() {
            *logit -= max;
        }
        exponentials(logits);
        (max, libm::log(slice_sum(simd, logits)))
    }
}

/// Turns logits into what is proportional to the tokens' probabilities at a temperature, in place.
/// Gives their sum.
pub fn unnormalized_softmax(logits: &mut [f64], temperature: f64) -> f64 {
    struct Weigh<'a>(&'a mut [f64], f64);
    impl Kernel for Weigh<'_> {
        type Output = f64;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> f64 {
            let Self(logits, temperature) = self;
            // The largest is taken off before the division, so that no temperature is too small
            // for it.
            let max = slice_max(simd, logits);
            for logit in logits.iter_mut() {
                *logit = (*logit - max) / temperature;
            }
            exponentials(logits);
            slice_sum(simd, logits)
        }
    }
    simd::run(Weigh(logits, temperature))
}
