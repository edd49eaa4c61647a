//! How much memory there is. An allocation does not tell: the system promises more than it has, and
//! ends the program when that is used.

use std::fs;

/// The memory and swap of this machine in bytes, or less where this process may not have all of
/// that; none where the system does not say.
pub fn available() -> Option<u64> {
    let machine = total(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|limit| limit.trim().parse().ok());
    Some(limit.map_or(machine, |limit: u64| limit.min(machine)))
}

/// The bytes of memory and swap in /proc/meminfo.
fn total(info: &str) -> Option<u64> {
    let kilobytes = |name| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kilobytes("MemTotal:")? + kilobytes("SwapTotal:").unwrap_or(0)) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_swap_are_added() {
        let info = "MemTotal:       1000 kB\nMemFree:   1 kB\nSwapTotal:   24 kB\n";
        assert_eq!(total(info), Some(1 << 20));
        assert_eq!(total("MemTotal: 1 kB\n"), Some(1024));
        assert_eq!(total("MemTotal: much\n"), None);
    }
}
