//! Weights as they are stored: f32 or f16.

use half::f16;

use super::vector::{LANES, Simd, f16_to_f32};

/// A weight in its stored precision.
pub trait Weight: bytemuck::Pod + Default + Send + Sync {
    /// Loads eight weights as f64.
    fn load<S: Simd>(simd: S, weights: &[Self; LANES]) -> S::Vector;

    fn to_f32(self) -> f32;

    /// Returns weights as f32, converted into `scratch` unless they are stored as such.
    fn to_f32s<'a, S: Simd>(
        simd: S,
        weights: &'a [[Self; LANES]],
        scratch: &'a mut Vec<[f32; LANES]>,
    ) -> &'a [[f32; LANES]];
}

impl Weight for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, weights: &[f32; LANES]) -> S::Vector {
        simd.convert_f32(weights)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn to_f32s<'a, S: Simd>(
        _simd: S,
        weights: &'a [[f32; LANES]],
        _scratch: &'a mut Vec<[f32; LANES]>,
    ) -> &'a [[f32; LANES]] {
        weights
    }
}

impl Weight for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, weights: &[f16; LANES]) -> S::Vector {
        simd.convert_f32(&simd.f16_to_f32(weights))
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16_to_f32(self)
    }

    #[inline(always)]
    fn to_f32s<'a, S: Simd>(
        simd: S,
        weights: &'a [[f16; LANES]],
        scratch: &'a mut Vec<[f32; LANES]>,
    ) -> &'a [[f32; LANES]] {
        scratch.resize(weights.len(), [0.0; LANES]);
        for (out, weights) in scratch.iter_mut().zip(weights) {
            *out = simd.f16_to_f32(weights);
        }
        scratch
    }
}
