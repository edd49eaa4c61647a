//! The small functions that dispatch loops are made of.
//!
//! Sums run over a fixed number of lanes, so that the width of the vectors does not change them.

use std::f32::consts::LOG2_E;

const LANES: usize = 16;

/// `Σ a[i]·b[i]`.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sum_lanes(sums) + rest
}

/// The sum of all lanes, two halves at a time.
#[inline(always)]
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest of all lanes.
#[inline(always)]
fn max_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = larger(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The larger of two numbers, in one instruction: unlike `f32::max` it may pass over NaN.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `2^x` for `x` up to 127, to within two units in the last place; 0 below −126. NaN stays NaN.
///
/// A power of two is what a softmax takes: the factor `log₂ e` goes into a product that is made anyway.
/// `x = n + f`: a polynomial for `2^f` (of the least relative error where `|f| ≤ 1/2`, 7.5e-8), and
/// `n` added to its exponent.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    // Adding and taking away 1.5 · 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // The best polynomial's factor: near ln 2, but not ln 2.
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
    // The low bits of `shifted` are n; a NaN's are of no consequence.
    let power = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -126.0 { 0.0 } else { power }
}

/// 1 above 0, else 0: `relu(x) = x·step(x)`, and NaN stays NaN.
///
/// A choice between a number and 0 in its place would become a store of some of a vector's numbers, which
/// AMD's processors without AVX-512 are very slow at.
#[inline(always)]
pub fn step(x: f32) -> f32 {
    if x > 0.0 { 1.0 } else { 0.0 }
}

/// The largest of some scores.
#[inline(always)]
fn largest(scores: &[f32]) -> f32 {
    let mut max = [f32::NEG_INFINITY; LANES];
    let (lanes, rest) = scores.as_chunks::<LANES>();
    for scores in lanes {
        for lane in 0..LANES {
            max[lane] = larger(max[lane], scores[lane]);
        }
    }
    for (max, &score) in max.iter_mut().zip(rest) {
        *max = larger(*max, score);
    }
    max_lanes(max)
}

/// Turns each score into `exp(score − max)`, and gives their sum.
#[inline(always)]
fn powers_in_place(scores: &mut [f32], max: f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (lanes, rest) = scores.as_chunks_mut::<LANES>();
    for scores in lanes {
        for lane in 0..LANES {
            scores[lane] = exp2(LOG2_E * (scores[lane] - max));
            sums[lane] += scores[lane];
        }
    }
    for (sum, score) in sums.iter_mut().zip(rest) {
        *score = exp2(LOG2_E * (*score - max));
        *sum += *score;
    }
    sum_lanes(sums)
}

/// Turns scores into probabilities: `p[i] = exp(s[i]) / Σ exp(s[j])`, shifted by the largest score.
/// Returns `ln Σ exp(s[j])`.
#[inline(always)]
pub fn softmax_in_place(scores: &mut [f32]) -> f32 {
    let max = largest(scores);
    let sum = powers_in_place(scores, max);
    let inverse = 1.0 / sum;
    for score in scores.iter_mut() {
        *score *= inverse;
    }
    max + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::dispatch;

    #[test]
    fn powers_of_two_are_right_to_two_units_in_the_last_place() {
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
    fn the_kind_of_vectors_changes_no_bit() {
        let mut rng = fastrand::Rng::with_seed(1);
        for length in 1..70 {
            let a: Vec<f32> = (0..length).map(|_| rng.f32() * 9.0 - 4.0).collect();
            let (mut wide, mut plain) = (a.clone(), a.clone());
            let sums = dispatch(
                #[inline(always)]
                || (dot(&a, &a), softmax_in_place(&mut wide)),
            );
            assert_eq!(sums, (dot(&a, &a), softmax_in_place(&mut plain)));
            assert_eq!(wide, plain);
            let exact: f64 = a.iter().map(|&a| f64::from(a).exp()).sum();
            assert!((f64::from(sums.1) - exact.ln()).abs() < 1e-5);
        }
    }
}
