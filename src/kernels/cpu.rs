//! The kinds of processors that code is compiled for; which one is at hand shows when the program runs.

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

/// A kind of processor for which some code names the instructions itself.
pub enum Cpu {
    #[cfg(target_arch = "x86_64")]
    Avx512(V4),
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    /// One of which nothing is known.
    Scalar,
}

impl Cpu {
    /// The processor at hand.
    pub fn detect() -> Self {
        #[cfg(test)]
        if let Some(chosen) = test_override::chosen() {
            return chosen;
        }
        #[cfg(target_arch = "x86_64")]
        match pulp::Arch::new() {
            pulp::Arch::V4(instructions) => return Self::Avx512(instructions),
            pulp::Arch::V3(instructions) => return Self::Avx2(instructions),
            _ => {}
        }
        Self::Scalar
    }
}

/// How many cores there are for this program.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs a closure compiled for the processor at hand. What it calls has to be inlined into it to
/// profit.
#[inline(always)]
pub fn dispatch<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(test)]
    match test_override::chosen() {
        #[cfg(target_arch = "x86_64")]
        Some(Cpu::Avx2(instructions)) => return pulp::Simd::vectorize(instructions, body),
        Some(_) => return body(),
        None => {}
    }
    pulp::Arch::new().dispatch(body)
}

/// Lets tests choose for which vectors their thread's code is compiled.
#[cfg(test)]
pub mod test_override {
    use super::Cpu;
    use std::cell::Cell;

    #[derive(Clone, Copy, Debug)]
    pub enum CpuOverride {
        Any,
        None,
        #[cfg(target_arch = "x86_64")]
        Avx2,
    }

    thread_local! {
        static WIDTH: Cell<CpuOverride> = const { Cell::new(CpuOverride::Any) };
    }

    impl CpuOverride {
        /// Does something with each that this processor has.
        pub fn for_each(mut visit: impl FnMut(Self)) {
            let mut all = vec![CpuOverride::Any, CpuOverride::None];
            #[cfg(target_arch = "x86_64")]
            if pulp::x86::V3::try_new().is_some() {
                all.push(CpuOverride::Avx2);
            }
            for width in all {
                WIDTH.set(width);
                visit(width);
            }
            WIDTH.set(CpuOverride::Any);
        }
    }

    pub fn chosen() -> Option<Cpu> {
        match WIDTH.get() {
            CpuOverride::Any => None,
            CpuOverride::None => Some(Cpu::Scalar),
            #[cfg(target_arch = "x86_64")]
            CpuOverride::Avx2 => pulp::x86::V3::try_new().map(Cpu::Avx2),
        }
    }
}
