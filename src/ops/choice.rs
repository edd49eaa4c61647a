//! The choice between the custom operations and their reference implementations.

use candle_core::Device;

/// Returns whether tensors on a device use the custom operations, which are for the CPU.
pub fn has_custom_ops(device: &Device) -> bool {
    #[cfg(test)]
    if test_override::USES_REFERENCE.get() {
        return false;
    }
    device.is_cpu()
}

/// Makes the CPU a device that has no custom operations.
#[cfg(test)]
pub mod test_override {
    use std::cell::Cell;

    thread_local! {
        pub static USES_REFERENCE: Cell<bool> = const { Cell::new(false) };
    }

    /// Calls a function whose operations on this thread use the reference implementations.
    pub fn with_reference<R>(function: impl FnOnce() -> R) -> R {
        USES_REFERENCE.set(true);
        let result = function();
        USES_REFERENCE.set(false);
        result
    }
}
