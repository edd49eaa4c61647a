//! Vectors of eight f64 and of sixteen f32 on each kind of CPU, and the dispatch to it.

#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;
#[cfg(target_arch = "x86_64")]
use pulp::Arch;

use super::cpu;

/// Elements of an f64 vector, on every CPU.
pub const LANES: usize = 8;

/// Elements of an f32 vector, on every CPU.
pub const F32_LANES: usize = 16;

/// Sixteen f32 in one cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct F32x16(pub [f32; F32_LANES]);

impl F32x16 {
    pub const ZERO: Self = Self([0.0; F32_LANES]);
}

/// Returns the sum of a vector's lanes, adding its upper half to its lower half until one is left.
#[inline(always)]
pub fn reduce_sum(lanes: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    let quad = [a + e, b + f, c + g, d + h];
    let pair = [quad[0] + quad[2], quad[1] + quad[3]];
    pair[0] + pair[1]
}

/// The vector instructions of one kind of CPU. Every f64 operation gives the same bits on all.
pub trait Simd: Copy {
    /// Eight f64.
    type Vector: Copy;
    /// Sixteen f32, with the layout of [`F32x16`].
    type F32Vector: bytemuck::Pod;

    /// f64 vectors that can accumulate in registers, with registers left for their operands.
    const ACCUMULATORS: usize;
    /// The same for f32 vectors.
    const F32_ACCUMULATORS: usize;

    fn load(self, elements: &[f64; LANES]) -> Self::Vector;
    fn store(self, v: Self::Vector) -> [f64; LANES];
    fn splat(self, element: f64) -> Self::Vector;
    fn convert_f32(self, elements: &[f32; LANES]) -> Self::Vector;
    fn convert_i32(self, elements: &[i32; LANES]) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger elements. None may be NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a·b + c`, rounded once.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// [`reduce_sum`] of four vectors.
    fn reduce_sums(self, vectors: [Self::Vector; 4]) -> [f64; 4];

    /// Converts finite f16 exactly.
    // `half`'s `convert_to_f32_slice`, 16 rows of 128 weights at a time, made the product with a lone
    // column 8% to 17% slower on AVX2 (231 to 252 instead of 215 µs for [6144, 128]).
    #[inline(always)]
    fn f16_to_f32(self, elements: &[f16; LANES]) -> [f32; LANES] {
        elements.map(f16_to_f32)
    }

    /// Adds `weights[r]·x[c]` to `sums[c][r]`.
    // The indexed loops unroll completely, which keeps the sums in registers.
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
            wide[r] = self.convert_f32(weights[r]);
        }
        for c in 0..C {
            let x = self.load(x[c]);
            for r in 0..R {
                sums[c][r] = self.mul_add(wide[r], x, sums[c][r]);
            }
        }
        sums
    }

    #[inline(always)]
    fn load_f32(self, row: &F32x16) -> Self::F32Vector {
        pulp::cast(*row)
    }
    #[inline(always)]
    fn store_f32(self, v: Self::F32Vector) -> F32x16 {
        pulp::cast(v)
    }
    fn add_f32(self, a: Self::F32Vector, b: Self::F32Vector) -> Self::F32Vector;
    /// `a·b + c` for a scalar `a`, rounded once where the CPU has the instruction.
    fn mul_add_f32(self, a: f32, b: Self::F32Vector, c: Self::F32Vector) -> Self::F32Vector;
}

/// Converts a finite f16 exactly.
#[inline(always)]
fn f16_to_f32(x: f16) -> f32 {
    // The exponent's bias is 15 in f16 and 127 in f32; the product is exact, also for subnormals.
    let bits = u32::from(x.to_bits());
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * 2f32.powi(112);
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

/// A computation that is compiled once per kind of CPU. Whatever it calls must be
/// `#[inline(always)]` to be compiled for that CPU, too.
pub trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel with the instructions of the CPU at hand.
#[inline(always)]
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    match cpu::detect() {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => pulp::Simd::vectorize(
            simd,
            #[inline(always)]
            || kernel.run(simd),
        ),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(simd) => pulp::Simd::vectorize(
            simd,
            #[inline(always)]
            || kernel.run(simd),
        ),
        _ => kernel.run(Scalar),
    }
}

/// Runs an `#[inline(always)]` closure whose loops the compiler vectorizes for the CPU at hand.
#[inline(always)]
pub fn dispatch<R>(body: impl FnOnce() -> R) -> R {
    struct Autovectorized<F>(F);
    impl<R, F: FnOnce() -> R> Kernel for Autovectorized<F> {
        type Output = R;

        #[inline(always)]
        fn run<S: Simd>(self, _simd: S) -> R {
            self.0()
        }
    }
    run(Autovectorized(body))
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::test_override::for_each_cpu;

    #[test]
    fn finite_f16_convert_exactly_on_every_cpu() {
        struct Convert([f16; LANES]);
        impl Kernel for Convert {
            type Output = [f32; LANES];

            #[inline(always)]
            fn run<S: Simd>(self, simd: S) -> [f32; LANES] {
                simd.f16_to_f32(&self.0)
            }
        }
        for_each_cpu(|cpu| {
            for first in (0..=u16::MAX).step_by(LANES) {
                let halves = std::array::from_fn(|l| f16::from_bits(first + l as u16));
                for (converted, half) in run(Convert(halves)).iter().zip(halves) {
                    if half.is_finite() {
                        assert_eq!(converted.to_bits(), half.to_f32().to_bits(), "{cpu:?}");
                    }
                }
            }
        });
    }
}
