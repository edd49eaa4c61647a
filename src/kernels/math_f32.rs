//! Inlined f32 functions for loops that the compiler vectorizes (see [`super::simd::dispatch`]).
//!
//! Sums run over sixteen lanes on every CPU, so that its vectors' width changes no result.

use std::f32::consts::LOG2_E;

use super::simd::F32_LANES as LANES;

/// Returns `Σ a[i]·b[i]`.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_vectors, a_rest) = a.as_chunks::<LANES>();
    let (b_vectors, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a_vectors.iter().zip(b_vectors) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    reduce(sums, |a, b| a + b) + rest
}

/// Combines all lanes into one, the upper half with the lower half until one is left.
#[inline(always)]
fn reduce(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = combine(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The larger of two numbers in one instruction. Unlike `f32::max`, it may return a NaN.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Returns `2^x` for `x` ≤ 127, to within two units in the last place; 0 for `x` < −126, NaN for
/// NaN.
///
/// Base 2 saves a multiplication: the factor `log₂ e` is merged into the scale of the scores. `x =
/// n + f`: a minimax polynomial of relative error 7.5e-8 gives `2^f` for `|f| ≤ 1/2`, and `n` is
/// added to its exponent.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    // 1.5 · 2^23: added and subtracted, it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    // The coefficient of the minimax polynomial is not ln 2.
    #[allow(clippy::approx_constant)]
    const LINEAR: f32 = 6.931_47e-1;
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    let mut p = 1.327_647_2e-3;
    p = p * f + 9.675_541e-3;
    p = p * f + 5.550_713_3e-2;
    p = p * f + 2.402_212e-1;
    p = p * f + LINEAR;
    p = p * f + 1.000_000_1;
    // The low bits of `shifted` are n. A NaN stays one, whatever is added to its exponent's bits.
    let power = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -126.0 { 0.0 } else { power }
}

/// Returns 1 for `x` > 0, else 0: `relu(x) = x·heaviside(x)`, which keeps NaN.
///
/// Selecting between `x` and 0 would compile to a masked store, which is very slow on AMD's CPUs
/// without AVX-512.
#[inline(always)]
pub fn heaviside(x: f32) -> f32 {
    if x > 0.0 { 1.0 } else { 0.0 }
}

/// Replaces scores by probabilities `exp(s[i]) / Σ exp(s[j])`. Returns `ln Σ exp(s[j])`.
#[inline(always)]
pub fn softmax_in_place(scores: &mut [f32]) -> f32 {
    let max = slice_max(scores);
    let sum = exp_shifted(scores, max);
    let inverse = 1.0 / sum;
    for score in scores.iter_mut() {
        *score *= inverse;
    }
    max + sum.ln()
}

#[inline(always)]
fn slice_max(scores: &[f32]) -> f32 {
    let mut running = [f32::NEG_INFINITY; LANES];
    let (vectors, rest) = scores.as_chunks::<LANES>();
    for scores in vectors {
        for lane in 0..LANES {
            running[lane] = max(running[lane], scores[lane]);
        }
    }
    for (running, &score) in running.iter_mut().zip(rest) {
        *running = max(*running, score);
    }
    reduce(running, max)
}

/// Replaces each score by `exp(score − max)`. Returns their sum.
#[inline(always)]
fn exp_shifted(scores: &mut [f32], max: f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (vectors, rest) = scores.as_chunks_mut::<LANES>();
    for scores in vectors {
        for lane in 0..LANES {
            scores[lane] = exp2(LOG2_E * (scores[lane] - max));
            sums[lane] += scores[lane];
        }
    }
    for (sum, score) in sums.iter_mut().zip(rest) {
        *score = exp2(LOG2_E * (*score - max));
        *sum += *score;
    }
    reduce(sums, |a, b| a + b)
}

/// Replaces each element by `2^(score − max)` of its column's `max`. Returns the columns' sums.
#[inline(always)]
pub fn exp2_columns<const C: usize>(scores: &mut [[f32; C]], max: &[f32; C]) -> [f32; C] {
    let mut sums = [0f32; C];
    for row in scores {
        for c in 0..C {
            row[c] = exp2(row[c] - max[c]);
            sums[c] += row[c];
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::dispatch;

    #[test]
    fn exp2_is_within_two_units_in_the_last_place() {
        for i in 0..200_000 {
            let x = i as f32 * -125.9 / 199_999.0 + if i % 3 == 0 { 20.0 } else { 0.0 };
            let (found, expected) = (f64::from(exp2(x)), f64::from(x).exp2());
            let unit = f64::from(f32::EPSILON) * expected;
            assert!(
                (found - expected).abs() <= 2.0 * unit,
                "{x}: {found} {expected}"
            );
        }
        assert_eq!([exp2(-126.1), exp2(f32::NEG_INFINITY)], [0.0, 0.0]);
        assert!((exp2(0.0) - 1.0).abs() <= f32::EPSILON);
        assert!(exp2(f32::NAN).is_nan());
    }

    #[test]
    fn dot_and_softmax_have_the_same_bits_on_every_cpu() {
        let mut rng = fastrand::Rng::with_seed(1);
        for length in 1..70 {
            let a: Vec<f32> = (0..length).map(|_| rng.f32() * 9.0 - 4.0).collect();
            let (mut dispatched, mut scalar) = (a.clone(), a.clone());
            let sums = dispatch(
                #[inline(always)]
                || (dot(&a, &a), softmax_in_place(&mut dispatched)),
            );
            assert_eq!(sums, (dot(&a, &a), softmax_in_place(&mut scalar)));
            assert_eq!(dispatched, scalar);
            let exact: f64 = a.iter().map(|&a| f64::from(a).exp()).sum();
            assert!((f64::from(sums.1) - exact.ln()).abs() < 1e-5);
            for (p, &a) in dispatched.iter().zip(&a) {
                assert!((f64::from(*p) - f64::from(a).exp() / exact).abs() < 1e-6);
            }
        }
    }
}
