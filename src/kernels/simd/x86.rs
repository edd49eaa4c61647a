//! AVX-512 (`V4`) and AVX2 (`V3`).

use std::arch::x86_64::{__m256, __m256d, __m512, __m512d};

use half::f16;
use pulp::core_arch::x86::Avx;
use pulp::x86::{V3, V4};

use super::vector::{LANES, Simd};

/// The second half of [`super::vector::reduce_sum`], for four vectors of four lanes each.
#[inline(always)]
fn reduce_quads(avx: Avx, [a, b, c, d]: [__m256d; 4]) -> [f64; 4] {
    let lower = avx._mm256_permute2f128_pd::<0x20>(a, c);
    let ac = avx._mm256_add_pd(lower, avx._mm256_permute2f128_pd::<0x31>(a, c));
    let lower = avx._mm256_permute2f128_pd::<0x20>(b, d);
    let bd = avx._mm256_add_pd(lower, avx._mm256_permute2f128_pd::<0x31>(b, d));
    pulp::cast(avx._mm256_hadd_pd(ac, bd))
}

impl Simd for V4 {
    type Vector = __m512d;
    type F32Vector = __m512;
    const ACCUMULATORS: usize = 24;
    const F32_ACCUMULATORS: usize = 12;

    #[inline(always)]
    fn load(self, elements: &[f64; LANES]) -> Self::Vector {
        pulp::cast(*elements)
    }
    #[inline(always)]
    fn store(self, v: Self::Vector) -> [f64; LANES] {
        pulp::cast(v)
    }
    #[inline(always)]
    fn splat(self, element: f64) -> Self::Vector {
        self.avx512f._mm512_set1_pd(element)
    }
    #[inline(always)]
    fn convert_f32(self, elements: &[f32; LANES]) -> Self::Vector {
        self.avx512f._mm512_cvtps_pd(pulp::cast(*elements))
    }
    #[inline(always)]
    fn convert_i32(self, elements: &[i32; LANES]) -> Self::Vector {
        self.avx512f._mm512_cvtepi32_pd(pulp::cast(*elements))
    }
    #[inline(always)]
    fn f16_to_f32(self, elements: &[f16; LANES]) -> [f32; LANES] {
        let sixteen = self.avx._mm256_zextsi128_si256(pulp::cast(*elements));
        let wide = self.avx512f._mm512_cvtph_ps(sixteen);
        pulp::cast(self.avx512f._mm512_castps512_ps256(wide))
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
    fn reduce_sums(self, vectors: [Self::Vector; 4]) -> [f64; 4] {
        let (avx, avx512f) = (self.avx, self.avx512f);
        let mut quads = [avx._mm256_setzero_pd(); 4];
        for (quad, vector) in quads.iter_mut().zip(vectors) {
            let lower = avx512f._mm512_castpd512_pd256(vector);
            *quad = avx._mm256_add_pd(lower, avx512f._mm512_extractf64x4_pd::<1>(vector));
        }
        reduce_quads(avx, quads)
    }
    #[inline(always)]
    fn add_f32(self, a: Self::F32Vector, b: Self::F32Vector) -> Self::F32Vector {
        self.avx512f._mm512_add_ps(a, b)
    }
    #[inline(always)]
    fn mul_add_f32(self, a: f32, b: Self::F32Vector, c: Self::F32Vector) -> Self::F32Vector {
        let a = self.avx512f._mm512_set1_ps(a);
        self.avx512f._mm512_fmadd_ps(a, b, c)
    }
}

// Both halves are written out: LLVM would not inline these instructions into the closure of an
// array's `map`.
impl Simd for V3 {
    type Vector = [__m256d; 2];
    type F32Vector = [__m256; 2];
    const ACCUMULATORS: usize = 6;
    const F32_ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn load(self, elements: &[f64; LANES]) -> Self::Vector {
        pulp::cast(*elements)
    }
    #[inline(always)]
    fn store(self, v: Self::Vector) -> [f64; LANES] {
        pulp::cast(v)
    }
    #[inline(always)]
    fn splat(self, element: f64) -> Self::Vector {
        [self.avx._mm256_set1_pd(element); 2]
    }
    #[inline(always)]
    fn convert_f32(self, elements: &[f32; LANES]) -> Self::Vector {
        let [lower, upper]: [_; 2] = pulp::cast(*elements);
        let avx = self.avx;
        [avx._mm256_cvtps_pd(lower), avx._mm256_cvtps_pd(upper)]
    }
    #[inline(always)]
    fn convert_i32(self, elements: &[i32; LANES]) -> Self::Vector {
        let [lower, upper]: [_; 2] = pulp::cast(*elements);
        let avx = self.avx;
        [avx._mm256_cvtepi32_pd(lower), avx._mm256_cvtepi32_pd(upper)]
    }
    // As the scalar `f16_to_f32`, which LLVM does not vectorize in every caller: batches of 32
    // sequences took 1.5 times as long with it.
    #[inline(always)]
    fn f16_to_f32(self, elements: &[f16; LANES]) -> [f32; LANES] {
        let (avx, avx2) = (self.avx, self.avx2);
        let bits = avx2._mm256_cvtepu16_epi32(pulp::cast(*elements));
        let sign = avx2._mm256_and_si256(bits, avx._mm256_set1_epi32(0x8000));
        let rest = avx2._mm256_and_si256(bits, avx._mm256_set1_epi32(0x7fff));
        let rest = pulp::cast(avx2._mm256_slli_epi32::<13>(rest));
        let magnitude = avx._mm256_mul_ps(rest, avx._mm256_set1_ps(2f32.powi(112)));
        let sign = pulp::cast(avx2._mm256_slli_epi32::<16>(sign));
        pulp::cast(avx._mm256_or_ps(magnitude, sign))
    }
    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let avx = self.avx;
        [avx._mm256_add_pd(a[0], b[0]), avx._mm256_add_pd(a[1], b[1])]
    }
    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let avx = self.avx;
        [avx._mm256_mul_pd(a[0], b[0]), avx._mm256_mul_pd(a[1], b[1])]
    }
    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let avx = self.avx;
        [avx._mm256_max_pd(a[0], b[0]), avx._mm256_max_pd(a[1], b[1])]
    }
    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        let fma = self.fma;
        [
            fma._mm256_fmadd_pd(a[0], b[0], c[0]),
            fma._mm256_fmadd_pd(a[1], b[1], c[1]),
        ]
    }
    /// One half of the vectors after the other, so that the weights of a tile fit into the sixteen
    /// registers beside its sums.
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
    fn reduce_sums(self, vectors: [Self::Vector; 4]) -> [f64; 4] {
        let avx = self.avx;
        let mut quads = [avx._mm256_setzero_pd(); 4];
        for (quad, [lower, upper]) in quads.iter_mut().zip(vectors) {
            *quad = avx._mm256_add_pd(lower, upper);
        }
        reduce_quads(avx, quads)
    }
    #[inline(always)]
    fn add_f32(self, a: Self::F32Vector, b: Self::F32Vector) -> Self::F32Vector {
        let avx = self.avx;
        [avx._mm256_add_ps(a[0], b[0]), avx._mm256_add_ps(a[1], b[1])]
    }
    #[inline(always)]
    fn mul_add_f32(self, a: f32, b: Self::F32Vector, c: Self::F32Vector) -> Self::F32Vector {
        let (a, fma) = (self.avx._mm256_set1_ps(a), self.fma);
        [
            fma._mm256_fmadd_ps(a, b[0], c[0]),
            fma._mm256_fmadd_ps(a, b[1], c[1]),
        ]
    }
}
