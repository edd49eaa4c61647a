//! What both benchmarks do: read their arguments, and run the same model in PyTorch.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

/// Waits for a process, and gives the most memory that it had while it ran (on Linux; 0 elsewhere).
pub fn watch_memory(child: &mut Child) -> f64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0f64;
    while child.try_wait().expect("it can be waited for").is_none() {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        peak = peak.max(kilobytes.unwrap_or_default() / 1024.0);
        std::thread::sleep(Duration::from_millis(5));
    }
    peak
}
