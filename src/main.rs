//! The `microgpt` program: everything happens in the library; this turns how it ended into an exit
//! code.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps freed memory for the next step of training: given back after 10 milliseconds, as mimalloc
/// does by itself, it would have to be cleared by the kernel over and over, which took a tenth of the
/// time of larger models.
#[cfg(target_os = "linux")]
fn keep_freed_memory() {
    /// `mi_option_purge_delay`, which the bindings have no name for.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const MILLISECONDS: std::ffi::c_long = 10_000;
    // SAFETY: it sets a number, before any other thread runs.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, MILLISECONDS) };
}

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    keep_freed_memory();
    // Training splits the batch over threads of its own; candle's, which spin while they wait,
    // would only be in their way. This is the one setting that candle has for it. SAFETY: no other
    // thread runs yet that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    match microgpt::cli::run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
