//! Settings of mimalloc. They have no effect on platforms with another allocator.

/// Keeps freed memory for 10 seconds. With mimalloc's default of 10 milliseconds, the kernel cleared
/// the same pages again in every training step, a tenth of the time of larger models.
pub fn retain_freed_memory() {
    #[cfg(target_os = "linux")]
    {
        /// `mi_option_purge_delay`, which the bindings don't declare.
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        const MILLISECONDS: std::ffi::c_long = 10_000;
        // SAFETY: the option is an integer.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, MILLISECONDS) };
    }
}

/// Returns freed memory to the system.
pub fn release_freed_memory() {
    #[cfg(target_os = "linux")]
    // SAFETY: callable at any time, from any thread.
    unsafe {
        libmimalloc_sys::mi_collect(true)
    };
}
