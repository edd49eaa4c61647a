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
pub fn reduce_sum(sums: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = sums;
    let four = [a + e, b + f, c + g, d + h];
    let two = [four[0] + four[2], four[1] + four[3]];
    two[0] + two[1]
}

/// What a kind of processor does with eight numbers, each apart from the others.
pub trait Simd: Copy {
    type Vector: Copy;

    /// How many values can be summed up in registers, with what is added to them in registers too.
    const ACCUMULATORS: usize;

    fn load(self, numbers: &[f64; LANES]) -> Self::Vector;
    fn from_f32(self, numbers: &[f32; LANES]) -> Self::Vector;
    /// Finite numbers as f32, which holds them exactly.
    fn single(self, numbers: &[f16; LANES]) -> [f32; LANES];
    fn from_i32(self, numbers: &[i32; LANES]) -> Self::Vector;
    fn store(self, v: Self::Vector) -> [f64; LANES];
    fn splat(self, number: f64) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger of two numbers, neither of which is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a·b + c`, rounded once.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The total of each value's numbers, added up as by [`reduce_sum`].
    fn reduce_sums(self, values: [Self::Vector; 4]) -> [f64; 4];

    /// `sums[c][r] + weights[r]·x[c]`, in an order in which it fits into the registers.
    // By numbers, so that all loops are unrolled and the sums stay in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn mul_add_tile<const R: usize, const C: usize>(
        self,
        weights: [&[f32; LANES]; R],
        x: [&[f64; LANES]; C],
        mut sums: [[Self::Vector; R]; C],
    ) -> [[Self::Vector; R]; C] {
        let mut wide = [self.splat(0.0); R];
        for r in 0..R {
            wide[r] = self.from_f32(weights[r]);
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

/// The reduce_sums of four numbers each, added up as by the second half of [`reduce_sum`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn reduce_sum_quads(avx: pulp::core_arch::x86::Avx, [a, b, c, d]: [__m256d; 4]) -> [f64; 4] {
    let lower = avx._mm256_permute2f128_pd::<0x20>(a, c);
    let ac = avx._mm256_add_pd(lower, avx._mm256_permute2f128_pd::<0x31>(a, c));
    let lower = avx._mm256_permute2f128_pd::<0x20>(b, d);
    let bd = avx._mm256_add_pd(lower, avx._mm256_permute2f128_pd::<0x31>(b, d));
    pulp::cast(avx._mm256_hadd_pd(ac, bd))
}

/// Kernel that is compiled for each kind of processor. All that it calls has to be inlined into it.
pub trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Does some work as the processor at hand does it fastest.
pub fn run<W: Kernel>(work: W) -> W::Output {
    match Cpu::detect() {
        #[cfg(target_arch = "x86_64")]
        Cpu::Avx512(simd) => pulp::Simd::vectorize(
            simd,
            #[inline(always)]
            || work.run(simd),
        ),
        #[cfg(target_arch = "x86_64")]
        Cpu::Avx2(simd) => pulp::Simd::vectorize(
            simd,
            #[inline(always)]
            || work.run(simd),
        ),
        Cpu::Scalar => work.run(Scalar),
    }
}

/// A processor of which nothing is known.
#[derive(Clone, Copy)]
pub struct Scalar;

impl Simd for Scalar {
    type Vector = [f64; LANES];
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn load(self, numbers: &[f64; LANES]) -> Self::Vector {
        *numbers
    }
    #[inline(always)]
    fn from_f32(self, numbers: &[f32; LANES]) -> Self::Vector {
        numbers.map(f64::from)
    }
    #[inline(always)]
    fn single(self, numbers: &[f16; LANES]) -> [f32; LANES] {
        numbers.map(Weight::to_f32)
    }
    #[inline(always)]
    fn from_i32(self, numbers: &[i32; LANES]) -> Self::Vector {
        numbers.map(f64::from)
    }
    #[inline(always)]
    fn store(self, v: Self::Vector) -> [f64; LANES] {
        v
    }
    #[inline(always)]
    fn splat(self, number: f64) -> Self::Vector {
        [number; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|l| a[l] + b[l])
    }
    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|l| a[l] * b[l])
    }
    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
    }
    #[inline(always)]
    fn reduce_sums(self, values: [Self::Vector; 4]) -> [f64; 4] {
        values.map(reduce_sum)
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for V4 {
    type Vector = std::arch::x86_64::__m512d;
    const ACCUMULATORS: usize = 24;

    #[inline(always)]
    fn load(self, numbers: &[f64; LANES]) -> Self::Vector {
        pulp::cast(*numbers)
    }
    #[inline(always)]
    fn from_f32(self, numbers: &[f32; LANES]) -> Self::Vector {
        self.avx512f._mm512_cvtps_pd(pulp::cast(*numbers))
    }
    #[inline(always)]
    fn single(self, numbers: &[f16; LANES]) -> [f32; LANES] {
        let sixteen = self.avx._mm256_zextsi128_si256(pulp::cast(*numbers));
        let wide = self.avx512f._mm512_cvtph_ps(sixteen);
        pulp::cast(self.avx512f._mm512_castps512_ps256(wide))
    }
    #[inline(always)]
    fn from_i32(self, numbers: &[i32; LANES]) -> Self::Vector {
        self.avx512f._mm512_cvtepi32_pd(pulp::cast(*numbers))
    }
    #[inline(always)]
    fn store(self, v: Self::Vector) -> [f64; LANES] {
        pulp::cast(v)
    }
    #[inline(always)]
    fn splat(self, number: f64) -> Self::Vector {
        self.avx512f._mm512_set1_pd(number)
    }
    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        self.avx512f._mm512_add_pd(a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        self.avx512f._mm512_mul_pd(a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        self.avx512f._mm512_max_pd(a, b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        self.avx512f._mm512_fmadd_pd(a, b, c)
    }
    #[inline(always)]
    fn reduce_sums(self, values: [Self::Vector; 4]) -> [f64; 4] {
        let (avx, avx512f) = (self.avx, self.avx512f);
        let mut fours = [avx._mm256_setzero_pd(); 4];
        for (four, value) in fours.iter_mut().zip(values) {
            let lower = avx512f._mm512_castpd512_pd256(value);
            *four = avx._mm256_add_pd(lower, avx512f._mm512_extractf64x4_pd::<1>(value));
        }
        reduce_sum_quads(avx, fours)
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for V3 {
    type Vector = [__m256d; 2];
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn load(self, numbers: &[f64; LANES]) -> Self::Vector {
        pulp::cast(*numbers)
    }
    #[inline(always)]
    fn from_f32(self, numbers: &[f32; LANES]) -> Self::Vector {
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
    fn from_i32(self, numbers: &[i32; LANES]) -> Self::Vector {
        let [lower, upper]: [_; 2] = pulp::cast(*numbers);
        let avx = self.avx;
        [avx._mm256_cvtepi32_pd(lower), avx._mm256_cvtepi32_pd(upper)]
    }
    #[inline(always)]
    fn store(self, v: Self::Vector) -> [f64; LANES] {
        pulp::cast(v)
    }
    #[inline(always)]
    fn splat(self, number: f64) -> Self::Vector {
        [self.avx._mm256_set1_pd(number); 2]
    }
    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let add = self.avx;
        [add._mm256_add_pd(a[0], b[0]), add._mm256_add_pd(a[1], b[1])]
    }
    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let mul = self.avx;
        [mul._mm256_mul_pd(a[0], b[0]), mul._mm256_mul_pd(a[1], b[1])]
    }
    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let max = self.avx;
        [max._mm256_max_pd(a[0], b[0]), max._mm256_max_pd(a[1], b[1])]
    }
    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        let fma = self.fma;
        [
            fma._mm256_fmadd_pd(a[0], b[0], c[0]),
            fma._mm256_fmadd_pd(a[1], b[1], c[1]),
        ]
    }
    // By numbers, so that all loops are unrolled and the sums stay in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn mul_add_tile<const R: usize, const C: usize>(
        self,
        weights: [&[f32; LANES]; R],
        x: [&[f64; LANES]; C],
        mut sums: [[Self::Vector; R]; C],
    ) -> [[Self::Vector; R]; C] {
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
    fn reduce_sums(self, values: [Self::Vector; 4]) -> [f64; 4] {
        let avx = self.avx;
        let mut fours = [avx._mm256_setzero_pd(); 4];
        for (four, [lower, upper]) in fours.iter_mut().zip(values) {
            *four = avx._mm256_add_pd(lower, upper);
        }
        reduce_sum_quads(avx, fours)
    }
}

/// A weight as it is stored.
pub trait Weight: bytemuck::Pod + Default + Send + Sync {
    /// Eight of them as f64.
    fn load<S: Simd>(simd: S, weights: &[Self; LANES]) -> S::Vector;

    fn to_f32(self) -> f32;

    /// Some weights as f32, in `room` if they are not stored as such.
    fn f32s<'a, S: Simd>(
        simd: S,
        weights: &'a [[Self; LANES]],
        room: &'a mut Vec<[f32; LANES]>,
    ) -> &'a [[f32; LANES]];
}

impl Weight for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, weights: &[f32; LANES]) -> S::Vector {
        simd.from_f32(weights)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn f32s<'a, S: Simd>(
        _simd: S,
        weights: &'a [[f32; LANES]],
        _room: &'a mut Vec<[f32; LANES]>,
    ) -> &'a [[f32; LANES]] {
        weights
    }
}

impl Weight for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, weights: &[f16; LANES]) -> S::Vector {
        simd.from_f32(&simd.single(weights))
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
    fn f32s<'a, S: Simd>(
        simd: S,
        weights: &'a [[f16; LANES]],
        room: &'a mut Vec<[f32; LANES]>,
    ) -> &'a [[f32; LANES]] {
        room.resize(weights.len(), [0.0; LANES]);
        for (single, weights) in room.iter_mut().zip(weights) {
            *single = simd.single(weights);
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
