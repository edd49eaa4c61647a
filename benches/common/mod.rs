//! Helpers of both benchmarks: arguments, medians, memory, the PyTorch peer.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The value of a numeric option such as `--threads 2`.
pub fn option(name: &str) -> Option<usize> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

/// The median (the upper one of an even count).
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The path of the PyTorch program, if it exists and PyTorch is installed.
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

/// The number after `key` in a program's output.
pub fn number(output: &str, key: &str) -> f64 {
    let value = output.split_once(key).expect("the key is printed").1;
    let value = value.split_whitespace().next().unwrap_or_default();
    value.parse().expect("the value is a number")
}

/// Waits for a process and returns its peak resident memory in MiB (on Linux; 0 elsewhere).
pub fn peak_memory(child: &mut Child) -> f64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0f64;
    while child
        .try_wait()
        .expect("the process can be waited for")
        .is_none()
    {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        peak = peak.max(kilobytes.unwrap_or_default() / 1024.0);
        std::thread::sleep(Duration::from_millis(5));
    }
    peak
}
