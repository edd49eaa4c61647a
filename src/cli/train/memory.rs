//! The memory limit of the process. Linux overcommits: a too large allocation succeeds, and the
//! process is killed when it uses the memory.

use std::fs;

/// Returns the machine's memory and swap in bytes, or the cgroup's limit if that is lower; `None` on
/// systems without /proc/meminfo.
pub fn limit() -> Option<u64> {
    let machine = total(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let cgroup = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let cgroup = cgroup.and_then(|limit| limit.trim().parse().ok());
    Some(cgroup.map_or(machine, |limit: u64| limit.min(machine)))
}

/// Parses the total of memory and swap in bytes from /proc/meminfo.
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
    fn meminfo_total_includes_swap() {
        let info = "MemTotal:       1000 kB\nMemFree:   1 kB\nSwapTotal:   24 kB\n";
        assert_eq!(total(info), Some(1 << 20));
        assert_eq!(total("MemTotal: 1 kB\n"), Some(1024));
        assert_eq!(total("MemTotal: much\n"), None);
    }
}
