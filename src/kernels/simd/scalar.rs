//! The operations without explicit vectors.

use super::vector::{F32_LANES, LANES, Simd, reduce_sum};

/// The baseline of the target, which the compiler vectorizes as it can.
#[derive(Clone, Copy)]
pub struct Scalar;

/// Every CPU of the target fuses f32 multiply and add. Elsewhere a fused one is a library call.
const FUSED_F32: bool = cfg!(target_arch = "aarch64");

impl Simd for Scalar {
    type Vector = [f64; LANES];
    type F32Vector = [f32; F32_LANES];
    const ACCUMULATORS: usize = 6;
    const F32_ACCUMULATORS: usize = if FUSED_F32 { 6 } else { 3 };

    #[inline(always)]
    fn load(self, elements: &[f64; LANES]) -> Self::Vector {
        *elements
    }
    #[inline(always)]
    fn store(self, v: Self::Vector) -> [f64; LANES] {
        v
    }
    #[inline(always)]
    fn splat(self, element: f64) -> Self::Vector {
        [element; LANES]
    }
    #[inline(always)]
    fn convert_f32(self, elements: &[f32; LANES]) -> Self::Vector {
        elements.map(f64::from)
    }
    #[inline(always)]
    fn convert_i32(self, elements: &[i32; LANES]) -> Self::Vector {
        elements.map(f64::from)
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
    fn reduce_sums(self, vectors: [Self::Vector; 4]) -> [f64; 4] {
        vectors.map(reduce_sum)
    }
    #[inline(always)]
    fn add_f32(self, a: Self::F32Vector, b: Self::F32Vector) -> Self::F32Vector {
        std::array::from_fn(|l| a[l] + b[l])
    }
    #[inline(always)]
    fn mul_add_f32(self, a: f32, b: Self::F32Vector, c: Self::F32Vector) -> Self::F32Vector {
        std::array::from_fn(|l| {
            if FUSED_F32 {
                a.mul_add(b[l], c[l])
            } else {
                a * b[l] + c[l]
            }
        })
    }
}
