//! What both benchmarks do: read their arguments, and run the same model in PyTorch.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The number after an argument.
pub fn option(name: &str) -> Option<usize> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

/// The middle one of some numbers.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// PyTorch's program, if it and PyTorch are there.
pub fn find_peer() -> Option<PathBuf> {
    let path = std::env::var_os("MICROGPT_TORCH_PEER").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/peers/torch_peer.py"),
        PathBuf::from,
    );
    let torch = Command::new("python3")
        .args(["-c", "import torch"])
        .stderr(Stdio::null())
        .status();
    (path.exists() && torch.is_ok_and(|status| status.success())).then_some(path)
}

/// The number after `key` in what a program printed.
pub fn number(output: &str, key: &str) -> f64 {
    let value = output.split_once(key).expect("it prints its speed").1;
    let value = value.split_whitespace().next().unwrap_or_default();
    value.parse().expect("its speed is a number")
}
