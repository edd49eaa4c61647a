//! Vectors of eight f64 and of sixteen f32 on each kind of CPU, and the dispatch to it.

mod scalar;
mod vector;
mod weight;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
use pulp::Arch;
pub use scalar::Scalar;
pub use vector::{F32_LANES, F32x16, LANES, Simd, reduce_sum};
pub use weight::Weight;

use super::cpu;

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

#[cfg(test)]
mod tests {
    use half::f16;

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
