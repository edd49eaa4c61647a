//! CPU detection at run time.

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

/// A kind of CPU that kernels are compiled for, with the proof that its instructions exist.
pub enum Cpu {
    #[cfg(target_arch = "x86_64")]
    Avx512(V4),
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    /// Any other: compiled for the baseline of the target, which includes Neon on aarch64.
    Scalar,
}

impl Cpu {
    /// Returns the best kind that the CPU supports. The answer is cached by `pulp`.
    pub fn detect() -> Self {
        #[cfg(test)]
        if let Some(cpu) = test_override::current() {
            return cpu;
        }
        #[cfg(target_arch = "x86_64")]
        match pulp::Arch::new() {
            pulp::Arch::V4(simd) => return Self::Avx512(simd),
            pulp::Arch::V3(simd) => return Self::Avx2(simd),
            _ => {}
        }
        Self::Scalar
    }
}

/// The number of CPU cores available to the process, at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Overrides the detected CPU on the test's own thread.
#[cfg(test)]
pub mod test_override {
    use super::Cpu;
    #[cfg(target_arch = "x86_64")]
    use pulp::x86::V3;
    use std::cell::Cell;

    #[derive(Clone, Copy, Debug)]
    pub enum CpuOverride {
        Detected,
        Scalar,
        #[cfg(target_arch = "x86_64")]
        Avx2,
    }

    thread_local! {
        static OVERRIDE: Cell<CpuOverride> = const { Cell::new(CpuOverride::Detected) };
    }

    impl CpuOverride {
        /// Calls `test` once per kind that this CPU can run.
        pub fn for_each(mut test: impl FnMut(Self)) {
            let mut kinds = vec![Self::Detected, Self::Scalar];
            #[cfg(target_arch = "x86_64")]
            if V3::try_new().is_some() {
                kinds.push(Self::Avx2);
            }
            for kind in kinds {
                OVERRIDE.set(kind);
                test(kind);
            }
            OVERRIDE.set(Self::Detected);
        }
    }

    pub fn current() -> Option<Cpu> {
        match OVERRIDE.get() {
            CpuOverride::Detected => None,
            CpuOverride::Scalar => Some(Cpu::Scalar),
            #[cfg(target_arch = "x86_64")]
            CpuOverride::Avx2 => V3::try_new().map(Cpu::Avx2),
        }
    }
}
