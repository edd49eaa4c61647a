//! The `microgpt` program. The library parses and dispatches; this maps the result to an exit code.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    microgpt::cli::allocator::retain_freed_memory();
    // Training has its own threads. Candle's would spin on the same cores, and this variable is the
    // only way to turn them off. SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    match microgpt::cli::run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
