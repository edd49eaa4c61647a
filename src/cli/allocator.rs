//! What becomes of memory that is freed, where the program has an allocator that can be told.

/// Keeps it for the next step of training: given back after 10 milliseconds, as mimalloc does by
/// itself, it would have to be cleared by the kernel over and over, which took a tenth of the time of
/// larger models.
pub fn keep_freed() {
    #[cfg(target_os = "linux")]
    {
        /// `mi_option_purge_delay`, which the bindings have no name for.
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        const MILLISECONDS: std::ffi::c_long = 10_000;
        // SAFETY: it sets a number that the allocator reads as one.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, MILLISECONDS) };
    }
}

/// Gives it back to the system, when it is not needed again.
pub fn give_back_freed() {
    #[cfg(target_os = "linux")]
    // SAFETY: it may be called at any time.
    unsafe {
        libmimalloc_sys::mi_collect(true)
    };
}
