//! Eight f64 as one value, on the vectors that a processor has.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256d;

use half::f16;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

use super::cpu::Cpu;

/// How many numbers a value has, whatever the width of the vectors.
pub const LANES: usize = 8;

/// The total of a sum that runs over the numbers of one value.
#[inline(always)]
pub fn total_of(sums: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = sums;
    let four = [a + e, b + f, c + g, d + h];
    let two = [four[0] + four[2], four[1] + four[3]];
    two[0] + two[1]
}

/// What a kind of processor does with eight numbers, each apart from the others.
pub trait F64x8: Copy {
    type V: Copy;

    /// How many values can be summed up in registers, with what is added to them in registers too.
    const SUMS: usize;

    fn load(self, numbers: &[f64; LANES]) -> Self::V;
    fn widen(self, numbers: &[f32; LANES]) -> Self::V;
    /// Finite numbers as f32, which holds them exactly.
    fn single(self, numbers: &[f16; LANES]) -> [f32; LANES];
    fn widen_whole(self, numbers: &[i32; LANES]) -> Self::V;
    fn store(self, v: Self::V) -> [f64; LANES];
    fn splat(self, number: f64) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger of two numbers, neither of which is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The total of each value's numbers, added up as by [`total_of`].
    fn totals(self, values: [Self::V; 4]) -> [f64; 4];

    /// `sums[c][r] + weights[r]·x[c]`, in an order in which it fits into the registers.
    // By numbers, so that all loops are unrolled and the sums stay in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn add_products<const R: usize, const C: usize>(
        self,
        weights: [&[f32; LANES]; R],
        x: [&[f64; LANES]; C],
        mut sums: [[Self::V; R]; C],
    ) -> [[Self::V; R]; C] {
        let mut wide = [self.splat(0.0); R];
        for r in 0..R {
            wide[r] = self.widen(weights[r]);
        }
        for c in 0..C {
            let x = self.load(x[c]);
            for r in 0..R {
                sums[c][r] = self.mul_add(wide[r], x, sums[c][r]);
            }
        }
        sums
    }
}

/// The totals of four numbers each, added up as by the second half of [`total_of`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn totals_of_fours(avx: pulp::core_arch::x86::Avx, [a, b, c, d]: [__m256d; 4]) -> [f64; 4] {
    let lower = avx._mm256_permute2f128_pd::<0x20>(a, c);
    let ac = avx._mm256_add_pd(lower, avx._mm256_permute2f128_pd::<0x31>(a, c));
    let lower = avx._mm256_permute2f128_pd::<0x20>(b, d);
    let bd = avx._mm256_add_pd(lower, avx._mm256_permute2f128_pd::<0x31>(b, d));
    pulp::cast(avx._mm256_hadd_pd(ac, bd))
}

/// Kernel that is compiled for each kind of processor. All that it calls has to be inlined into it.
pub trait Kernel {
    type Output;
    fn run<L: F64x8>(self, lanes: L) -> Self::Output;
}

/// Does some work as the processor at hand does it fastest.
pub fn run<W: Kernel>(work: W) -> W::Output {
    match Cpu::detect() {
        #[cfg(target_arch = "x86_64")]
        Cpu::Avx512(lanes) => pulp::Simd::vectorize(
            lanes,
            #[inline(always)]
            || work.run(lanes),
        ),
        #[cfg(target_arch = "x86_64")]
        Cpu::Avx2(lanes) => pulp::Simd::vectorize(
            lanes,
            #[inline(always)]
            || work.run(lanes),
        ),
        Cpu::Scalar => work.run(Scalar),
    }
}

/// A processor of which nothing is known.
#[derive(Clone, Copy)]
pub struct Scalar;

impl F64x8 for Scalar {
    type V = [f64; LANES];
    const SUMS: usize = 6;

    #[inline(always)]
    fn load(self, numbers: &[f64; LANES]) -> Self::V {
        *numbers
    }
    #[inline(always)]
    fn widen(self, numbers: &[f32; LANES]) -> Self::V {
        numbers.map(f64::from)
    }
    #[inline(always)]
    fn single(self, numbers: &[f16; LANES]) -> [f32; LANES] {
        numbers.map(Weight::to_f32)
    }
    #[inline(always)]
    fn widen_whole(self, numbers: &[i32; LANES]) -> Self::V {
        numbers.map(f64::from)
    }
    #[inline(always)]
    fn store(self, v: Self::V) -> [f64; LANES] {
        v
    }
    #[inline(always)]
    fn splat(self, number: f64) -> Self::V {
        [number; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|l| a[l] + b[l])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|l| a[l] * b[l])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
    }
    #[inline(always)]
    fn totals(self, values: [Self::V; 4]) -> [f64; 4] {
        values.map(total_of)
    }
}

#[cfg(target_arch = "x86_64")]
impl F64x8 for V4 {
    type V = std::arch::x86_64::__m512d;
    const SUMS: usize = 24;

    #[inline(always)]
    fn load(self, numbers: &[f64; LANES]) -> Self::V {
        pulp::cast(*numbers)
    }
    #[inline(always)]
    fn widen(self, numbers: &[f32; LANES]) -> Self::V {
        self.avx512f._mm512_cvtps_pd(pulp::cast(*numbers))
    }
    #[inline(always)]
    fn single(self, numbers: &[f16; LANES]) -> [f32; LANES] {
        let sixteen = self.avx._mm256_zextsi128_si256(pulp::cast(*numbers));
        let wide = self.avx512f._mm512_cvtph_ps(sixteen);
        pulp::cast(self.avx512f._mm512_castps512_ps256(wide))
    }
    #[inline(always)]
    fn widen_whole(self, numbers: &[i32; LANES]) -> Self::V {
        self.avx512f._mm512_cvtepi32_pd(pulp::cast(*numbers))
    }
    #[inline(always)]
    fn store(self, v: Self::V) -> [f64; LANES] {
        pulp::cast(v)
    }
    #[inline(always)]
    fn splat(self, number: f64) -> Self::V {
        self.avx512f._mm512_set1_pd(number)
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        self.avx512f._mm512_add_pd(a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        self.avx512f._mm512_mul_pd(a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        self.avx512f._mm512_max_pd(a, b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.avx512f._mm512_fmadd_pd(a, b, c)
    }
    #[inline(always)]
    fn totals(self, values: [Self::V; 4]) -> [f64; 4] {
        let (avx, avx512f) = (self.avx, self.avx512f);
        let mut fours = [avx._mm256_setzero_pd(); 4];
        for (four, value) in fours.iter_mut().zip(values) {
            let lower = avx512f._mm512_castpd512_pd256(value);
            *four = avx._mm256_add_pd(lower, avx512f._mm512_extractf64x4_pd::<1>(value));
        }
        totals_of_fours(avx, fours)
    }
}

#[cfg(target_arch = "x86_64")]
impl F64x8 for V3 {
    type V = [__m256d; 2];
    const SUMS: usize = 6;

    #[inline(always)]
    fn load(self, numbers: &[f64; LANES]) -> Self::V {
        pulp::cast(*numbers)
    }
    #[inline(always)]
    fn widen(self, numbers: &[f32; LANES]) -> Self::V {
        // Not by `map`, into which this processor's instructions would not be inlined.
        let [lower, upper]: [_; 2] = pulp::cast(*numbers);
        let avx = self.avx;
        [avx._mm256_cvtps_pd(lower), avx._mm256_cvtps_pd(upper)]
    }
    #[inline(always)]
    fn single(self, numbers: &[f16; LANES]) -> [f32; LANES] {
        // As `to_f32` below does it.
        let (avx, avx2) = (self.avx, self.avx2);
        let bits = avx2._mm256_cvtepu16_epi32(pulp::cast(*numbers));
        let sign = avx2._mm256_and_si256(bits, avx._mm256_set1_epi32(0x8000));
        let rest = avx2._mm256_and_si256(bits, avx._mm256_set1_epi32(0x7fff));
        let rest = pulp::cast(avx2._mm256_slli_epi32::<13>(rest));
        let rest = avx._mm256_mul_ps(rest, avx._mm256_set1_ps(2f32.powi(112)));
        let sign = pulp::cast(avx2._mm256_slli_epi32::<16>(sign));
        pulp::cast(avx._mm256_or_ps(rest, sign))
    }
    #[inline(always)]
    fn widen_whole(self, numbers: &[i32; LANES]) -> Self::V {
        let [lower, upper]: [_; 2] = pulp::cast(*numbers);
        let avx = self.avx;
        [avx._mm256_cvtepi32_pd(lower), avx._mm256_cvtepi32_pd(upper)]
    }
    #[inline(always)]
    fn store(self, v: Self::V) -> [f64; LANES] {
        pulp::cast(v)
    }
    #[inline(always)]
    fn splat(self, number: f64) -> Self::V {
        [self.avx._mm256_set1_pd(number); 2]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        let add = self.avx;
        [add._mm256_add_pd(a[0], b[0]), add._mm256_add_pd(a[1], b[1])]
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        let mul = self.avx;
        [mul._mm256_mul_pd(a[0], b[0]), mul._mm256_mul_pd(a[1], b[1])]
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        let max = self.avx;
        [max._mm256_max_pd(a[0], b[0]), max._mm256_max_pd(a[1], b[1])]
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let fma = self.fma;
        [
            fma._mm256_fmadd_pd(a[0], b[0], c[0]),
            fma._mm256_fmadd_pd(a[1], b[1], c[1]),
        ]
    }
    // By numbers, so that all loops are unrolled and the sums stay in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn add_products<const R: usize, const C: usize>(
        self,
        weights: [&[f32; LANES]; R],
        x: [&[f64; LANES]; C],
        mut sums: [[Self::V; R]; C],
    ) -> [[Self::V; R]; C] {
        let (avx, fma) = (self.avx, self.fma);
        let mut wide = [avx._mm256_setzero_pd(); R];
        for half in 0..2 {
            for r in 0..R {
                wide[r] = avx._mm256_cvtps_pd(pulp::cast(weights[r].as_chunks::<4>().0[half]));
            }
            for c in 0..C {
                let x = pulp::cast(x[c].as_chunks::<4>().0[half]);
                for r in 0..R {
                    sums[c][r][half] = fma._mm256_fmadd_pd(wide[r], x, sums[c][r][half]);
                }
            }
        }
        sums
    }
    #[inline(always)]
    fn totals(self, values: [Self::V; 4]) -> [f64; 4] {
        let avx = self.avx;
        let mut fours = [avx._mm256_setzero_pd(); 4];
        for (four, [lower, upper]) in fours.iter_mut().zip(values) {
            *four = avx._mm256_add_pd(lower, upper);
        }
        totals_of_fours(avx, fours)
    }
}

/// A weight as it is stored.
pub trait Weight: bytemuck::Pod + Default + Send + Sync {
    /// Eight of them as f64.
    fn load<L: F64x8>(lanes: L, weights: &[Self; LANES]) -> L::V;

    fn to_f32(self) -> f32;

    /// Some weights as f32, in `room` if they are not stored as such.
    fn singles<'a, L: F64x8>(
        lanes: L,
        weights: &'a [[Self; LANES]],
        room: &'a mut Vec<[f32; LANES]>,
    ) -> &'a [[f32; LANES]];
}

impl Weight for f32 {
    #[inline(always)]
    fn load<L: F64x8>(lanes: L, weights: &[f32; LANES]) -> L::V {
        lanes.widen(weights)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn singles<'a, L: F64x8>(
        _lanes: L,
        weights: &'a [[f32; LANES]],
        _room: &'a mut Vec<[f32; LANES]>,
    ) -> &'a [[f32; LANES]] {
        weights
    }
}

impl Weight for f16 {
    #[inline(always)]
    fn load<L: F64x8>(lanes: L, weights: &[f16; LANES]) -> L::V {
        lanes.widen(&lanes.single(weights))
    }

    /// Of finite numbers alone. Unlike `half`'s own conversion, this is one that loops are
    /// vectorised with.
    #[inline(always)]
    fn to_f32(self) -> f32 {
        // The exponent's bias is 15 in f16 and 127 in f32; the product is exact, also where the
        // f16 is subnormal.
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * 2f32.powi(112);
        f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn singles<'a, L: F64x8>(
        lanes: L,
        weights: &'a [[f16; LANES]],
        room: &'a mut Vec<[f32; LANES]>,
    ) -> &'a [[f32; LANES]] {
        room.resize(weights.len(), [0.0; LANES]);
        for (single, weights) in room.iter_mut().zip(weights) {
            *single = lanes.single(weights);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            if half.is_finite() {
                assert_eq!(Weight::to_f32(half).to_bits(), half.to_f32().to_bits());
            }
        }
    }
}
