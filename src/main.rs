//! The `microgpt` program: everything happens in the library; this turns how it ended into an exit
//! code.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    microgpt::cli::allocator::keep_freed();
    // Training splits the batch over threads of its own; candle's, which spin while they wait,
    // would only be in their way. This is the one setting that candle has for it. SAFETY: no other
    // thread runs yet that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    match microgpt::cli::run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
