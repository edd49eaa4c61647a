//! The memory limit of the process. Linux overcommits: a too large allocation succeeds, and the
//! process is killed when it uses the memory.

use std::fs;
use std::path::{Path, PathBuf};

/// A limit of memory.
#[derive(Debug, PartialEq)]
pub struct MemoryLimit {
    pub bytes: u64,
    /// The origin, for messages: `of this machine`.
    pub origin: &'static str,
}

/// Returns the lowest limit of the process: memory and swap of the machine, its cgroups, and the
/// shell's `ulimit`; `None` on systems without /proc.
pub fn limit() -> Option<MemoryLimit> {
    lowest_limit(Path::new("/"))
}

/// Reads the files of Linux under `root`.
fn lowest_limit(root: &Path) -> Option<MemoryLimit> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let limits = [
        (total(&read("proc/meminfo")), "of this machine"),
        (ulimit(&read("proc/self/limits")), "of `ulimit -v`"),
        (
            cgroup_directories(&read("proc/self/cgroup"), &read("proc/self/mountinfo"))
                .iter()
                .filter_map(|dir| cgroup_limit(&root.join(dir.strip_prefix("/").ok()?)))
                .min(),
            "of the cgroup",
        ),
    ];
    let limits = limits.into_iter().filter_map(|(bytes, origin)| {
        let bytes = bytes?;
        Some(MemoryLimit { bytes, origin })
    });
    limits.min_by_key(|limit| limit.bytes)
}

/// Parses the total of memory and swap in bytes from /proc/meminfo.
fn total(info: &str) -> Option<u64> {
    let kilobytes = |name| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kilobytes("MemTotal:")? + kilobytes("SwapTotal:").unwrap_or(0)) << 10)
}

/// Parses the soft limit of the address space in bytes from /proc/self/limits.
fn ulimit(limits: &str) -> Option<u64> {
    let values = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    values.split_whitespace().next()?.parse().ok()
}

/// Returns the directories of the process's cgroups, versions 1 and 2, that may limit its memory,
/// parents included, from /proc/self/cgroup and /proc/self/mountinfo.
fn cgroup_directories(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for line in cgroup.lines() {
        // ID:CONTROLLERS:PATH, with no controllers in version 2.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let kind = if controllers.is_empty() {
            "cgroup2"
        } else {
            "cgroup"
        };
        if kind == "cgroup" && !has_memory(controllers) {
            continue;
        }
        for (root, point) in mountinfo
            .lines()
            .filter_map(|mount| cgroup_mount(mount, kind))
        {
            // A container may see only its own part of the tree.
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            let own = Path::new(point).join(below);
            let parents = own.ancestors().take_while(|dir| dir.starts_with(point));
            directories.extend(parents.map(Path::to_path_buf));
        }
    }
    directories
}

/// Returns the root and the mount point in a line of /proc/self/mountinfo if it mounts cgroups of
/// this kind, and those of version 1 for memory.
fn cgroup_mount<'a>(line: &'a str, kind: &str) -> Option<(&'a str, &'a str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let mut file_system = file_system.split(' ');
    let is_kind = file_system.next() == Some(kind);
    let options = file_system.nth(1).unwrap_or_default();
    let is_for_memory = kind == "cgroup2" || has_memory(options);
    (is_kind && is_for_memory).then_some((mount.next()?, mount.next()?))
}

/// Returns whether a list with commas has `memory`.
fn has_memory(list: &str) -> bool {
    list.split(',').any(|name| name == "memory")
}

/// Reads the limit of a cgroup in bytes; `None` for `max`.
fn cgroup_limit(dir: &Path) -> Option<u64> {
    let read = |name| fs::read_to_string(dir.join(name)).ok();
    let limit = read("memory.max").or_else(|| read("memory.limit_in_bytes"))?;
    limit.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the files under a temporary root and returns their limit.
    fn limit_of(files: &[(&str, &str)]) -> Option<(u64, &'static str)> {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        lowest_limit(root.path()).map(|limit| (limit.bytes, limit.origin))
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       1000 kB\nMemFree:   1 kB\nSwapTotal:   24 kB\n",
    );

    #[test]
    fn machine_limit_includes_swap() {
        assert_eq!(limit_of(&[MEMINFO]), Some((1 << 20, "of this machine")));
        assert_eq!(total("MemTotal: 1 kB\n"), Some(1024));
        assert_eq!(total("MemTotal: much\n"), None);
        assert_eq!(limit_of(&[]), None);
    }

    #[test]
    fn address_space_limit() {
        let limits = |soft: &str| {
            let header = "Limit                     Soft Limit           Hard Limit     Units\n";
            let line = format!("{header}Max address space         {soft}    unlimited    bytes\n");
            limit_of(&[MEMINFO, ("proc/self/limits", &line)])
        };
        assert_eq!(limits("5000"), Some((5000, "of `ulimit -v`")));
        assert_eq!(limits("unlimited"), Some((1 << 20, "of this machine")));
    }

    #[test]
    fn lowest_limit_of_a_version_2_cgroup_and_its_parents() {
        let limit = |own: &str, parent: &str| {
            limit_of(&[
                MEMINFO,
                ("proc/self/cgroup", "0::/user.slice/run-1.scope\n"),
                (
                    "proc/self/mountinfo",
                    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
                ),
                ("sys/fs/cgroup/user.slice/run-1.scope/memory.max", own),
                ("sys/fs/cgroup/user.slice/memory.max", parent),
                ("sys/fs/cgroup/other.slice/memory.max", "1\n"),
            ])
        };
        assert_eq!(limit("4096\n", "max\n"), Some((4096, "of the cgroup")));
        assert_eq!(limit("4096\n", "1024\n"), Some((1024, "of the cgroup")));
        assert_eq!(limit("max\n", "max\n"), Some((1 << 20, "of this machine")));
    }

    #[test]
    fn version_1_cgroup_limit_beside_version_2() {
        let limit = |root: &str| {
            let mounts = format!(
                "35 31 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                 36 31 0:33 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            );
            limit_of(&[
                MEMINFO,
                ("proc/self/cgroup", "4:cpu:/\n3:memory:/docker/1\n0::/\n"),
                ("proc/self/mountinfo", &mounts),
                (
                    "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
                    "4096\n",
                ),
                (
                    "sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("sys/fs/cgroup/cpu/memory.limit_in_bytes", "1\n"),
            ])
        };
        assert_eq!(limit("/"), Some((4096, "of the cgroup")));
        // In a container, the mount is the process's own cgroup.
        assert_eq!(limit("/docker/1"), Some((1 << 20, "of this machine")));
    }
}
