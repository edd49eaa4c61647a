//! CPU detection at run time.

use pulp::Arch;

/// Returns the best instruction set of the CPU that kernels are compiled for. `pulp` caches the
/// answer.
#[inline(always)]
pub fn detect() -> Arch {
    #[cfg(test)]
    if let Some(arch) = test_override::current() {
        return arch;
    }
    Arch::new()
}

/// The number of CPU cores available to the process, at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Overrides the detected CPU on the test's own thread.
#[cfg(test)]
pub mod test_override {
    use std::cell::Cell;

    use pulp::Arch;

    thread_local! {
        static OVERRIDE: Cell<Option<Arch>> = const { Cell::new(None) };
    }

    pub fn current() -> Option<Arch> {
        OVERRIDE.get()
    }

    /// Calls `test` once per instruction set that this CPU can run.
    pub fn for_each_cpu(mut test: impl FnMut(Arch)) {
        let mut archs = vec![Arch::new(), Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        for arch in archs {
            OVERRIDE.set(Some(arch));
            test(arch);
        }
        OVERRIDE.set(None);
    }
}
