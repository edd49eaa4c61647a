//! Sums and exponentials in f64 that give the same bits everywhere.
//!
//! A sum runs over eight simd, element `i` in lane `i mod 8`, whose reduce_sums are then added two
//! halves at a time; every product is fused with its sum. So neither the width of a processor's
//! vectors nor how many columns are computed together changes a result. `exp` is our own for the
//! same reason, and so that it can be computed for a whole vector.

use super::simd::{LANES, Simd, reduce_sum};

/// Eight numbers, the last ones 0 where there are fewer.
#[inline(always)]
pub fn pad<T: Copy + Default>(numbers: &[T]) -> [T; LANES] {
    let mut padded = [T::default(); LANES];
    for (padded, number) in padded.iter_mut().zip(numbers) {
        *padded = *number;
    }
    padded
}

/// Added to a number, this leaves its nearest whole number in the lowest bits.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// The nearest whole number, if it has no more than 32 bits.
#[inline(always)]
pub fn nearest(x: f64) -> i32 {
    (x + ROUND).to_bits() as i32
}

/// `e^x` for x up to 0, to about one unit in the last place; 0 from where that is no normal number.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    /// ln 2 in two parts, the first with so few digits that whole multiples of it are exact.
    const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    const LEAST: f64 = -708.0;
    /// 1/k!, from k = 13 down to 0: e^r for |r| <= ln 2 / 2 to less than half a unit.
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
    let kept = if x > LEAST { x } else { LEAST };
    let shifted = kept.mul_add(std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], kept));
    let mut power = TAYLOR[0];
    for coefficient in &TAYLOR[1..] {
        power = power.mul_add(r, *coefficient);
    }
    // 2^n, put together from its bits.
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1f64.to_bits()));
    if x > LEAST { power * scale } else { 0.0 }
}

/// The larger of two numbers, neither of which is NaN.
#[inline(always)]
pub fn max(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

/// The largest of some numbers; negative infinity where there are none.
#[inline(always)]
pub fn slice_max<S: Simd>(simd: S, numbers: &[f64]) -> f64 {
    let (eights, rest) = numbers.as_chunks::<LANES>();
    let mut running = simd.splat(f64::NEG_INFINITY);
    for numbers in eights {
        running = simd.max(running, simd.load(numbers));
    }
    let lanes = simd.store(running);
    // Two halves at a time, which is faster than one number after the other.
    let four: [f64; 4] = std::array::from_fn(|l| max(lanes[l], lanes[l + 4]));
    let largest = max(max(four[0], four[2]), max(four[1], four[3]));
    rest.iter().copied().fold(largest, max)
}

/// `e^x` for each number, all of them up to 0, in place.
#[inline(always)]
pub fn exponentials(numbers: &mut [f64]) {
    for number in numbers {
        *number = exp(*number);
    }
}

/// The sum of some numbers.
#[inline(always)]
pub fn slice_sum<S: Simd>(simd: S, numbers: &[f64]) -> f64 {
    let (eights, rest) = numbers.as_chunks::<LANES>();
    let mut sums = simd.load(&pad(rest));
    for numbers in eights {
        sums = simd.add(sums, simd.load(numbers));
    }
    reduce_sum(simd.store(sums))
}

#[cfg(test)]
mod tests {
    use super::super::simd::Scalar;
    use super::*;

    #[test]
    fn the_exponential_is_right_to_the_last_places() {
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
    fn sums_and_maxima_run_over_any_length() {
        for length in 0..40 {
            let numbers: Vec<f64> = (0..length).map(|i| f64::from(i * 5 % 7) - 3.0).collect();
            let expected = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(slice_max(Scalar, &numbers), expected);
            assert_eq!(slice_sum(Scalar, &numbers), numbers.iter().sum::<f64>());
        }
    }
}
