//! Sums, maxima and exponentials in f64 with the same bits on every CPU.
//!
//! A sum runs over eight lanes, element `i` in lane `i mod 8`, which are then added two halves at a
//! time. `exp` is our own, since those of the systems' libraries differ, and are not vectorized.

use super::simd::{LANES, Simd, reduce_sum};

/// Returns up to eight elements, padded with zeros.
#[inline(always)]
pub fn pad<T: Copy + Default>(elements: &[T]) -> [T; LANES] {
    let mut padded = [T::default(); LANES];
    for (padded, element) in padded.iter_mut().zip(elements) {
        *padded = *element;
    }
    padded
}

/// 1.5 · 2^52. Added to a number, it leaves the nearest integer in the lowest bits.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// Returns the nearest integer, which must fit an i32.
#[inline(always)]
pub fn round_to_i32(x: f64) -> i32 {
    (x + ROUND).to_bits() as i32
}

/// Returns `e^x` for `x` ≤ 0, to about one unit in the last place; 0 for `x` ≤ −708.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    /// ln 2 in two parts, the first so short that its products with integers are exact.
    const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    const MIN: f64 = -708.0;
    /// 1/k! for k = 13 down to 0: e^r for |r| ≤ ln 2 / 2, to less than half a unit.
    const TAYLOR: [f64; 14] = [
        1.605_904_383_682_161_3e-10,
        2.087_675_698_786_81e-9,
        2.505_210_838_544_172e-8,
        2.755_731_922_398_589_4e-7,
        2.755_731_922_398_589e-6,
        2.480_158_730_158_73e-5,
        1.984_126_984_126_984e-4,
        1.388_888_888_888_889e-3,
        8.333_333_333_333_333e-3,
        4.166_666_666_666_666_4e-2,
        1.666_666_666_666_666_6e-1,
        0.5,
        1.0,
        1.0,
    ];
    // e^x = 2^n · e^r, with x = n·ln 2 + r.
    let clamped = if x > MIN { x } else { MIN };
    let shifted = clamped.mul_add(std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], clamped));
    let mut power = TAYLOR[0];
    for coefficient in &TAYLOR[1..] {
        power = power.mul_add(r, *coefficient);
    }
    // The exponent bits of 2^n.
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1f64.to_bits()));
    if x > MIN { power * scale } else { 0.0 }
}

/// The larger of two numbers, neither of which is NaN, in one instruction.
#[inline(always)]
pub fn max(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

/// The largest element; negative infinity for an empty slice.
#[inline(always)]
pub fn slice_max<S: Simd>(simd: S, elements: &[f64]) -> f64 {
    let (vectors, rest) = elements.as_chunks::<LANES>();
    let mut running = simd.splat(f64::NEG_INFINITY);
    for vector in vectors {
        running = simd.max(running, simd.load(vector));
    }
    let lanes = simd.store(running);
    // Two halves at a time, which is faster than one lane after the other.
    let quad: [f64; 4] = std::array::from_fn(|l| max(lanes[l], lanes[l + 4]));
    let largest = max(max(quad[0], quad[2]), max(quad[1], quad[3]));
    rest.iter().copied().fold(largest, max)
}

/// The sum of the elements.
#[inline(always)]
pub fn slice_sum<S: Simd>(simd: S, elements: &[f64]) -> f64 {
    let (vectors, rest) = elements.as_chunks::<LANES>();
    let mut sums = simd.load(&pad(rest));
    for vector in vectors {
        sums = simd.add(sums, simd.load(vector));
    }
    reduce_sum(simd.store(sums))
}

#[cfg(test)]
mod tests {
    use super::super::simd::Scalar;
    use super::*;

    #[test]
    fn exp_matches_the_standard_library() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..200_000 {
            let x = -rng.f64() * if rng.bool() { 1.0 } else { 708.0 };
            let (found, expected) = (exp(x), x.exp());
            assert!(
                (found / expected - 1.0).abs() < 4e-16,
                "exp({x}) is {found}"
            );
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([-708.0, -1e300, f64::NEG_INFINITY].map(exp), [0.0; 3]);
        assert!(exp(-707.9) > 0.0);
    }

    #[test]
    fn slice_sum_and_slice_max_of_any_length() {
        for length in 0..40 {
            let elements: Vec<f64> = (0..length).map(|i| f64::from(i * 5 % 7) - 3.0).collect();
            let expected = elements.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(slice_max(Scalar, &elements), expected);
            assert_eq!(slice_sum(Scalar, &elements), elements.iter().sum::<f64>());
        }
    }
}
