//! Memory of the machine and of this process, in bytes; `None` except on Linux.

use std::fs;
use std::path::Path;

use crate::proc;

/// Bytes this process could allocate without swapping, limited by the system and its cgroup.
pub fn available() -> Option<u64> {
    let system = proc::bytes(&proc::read("/proc/meminfo")?, "MemAvailable")?;
    let groups = proc::read("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup_memory(&groups, Path::new("/sys/fs/cgroup"));
    Some(limit.map_or(system, |limit| limit.min(system)))
}

/// Total memory of the machine, in bytes.
pub fn total() -> Option<u64> {
    proc::bytes(&proc::read("/proc/meminfo")?, "MemTotal")
}

/// Resident memory of this process in bytes, including resident pages of mapped files.
pub fn resident() -> Option<u64> {
    proc::bytes(&proc::read("/proc/self/status")?, "VmRSS")
}

/// Bytes left under the strictest memory limit of a process's cgroups (`groups` as in
/// `/proc/self/cgroup`) and their ancestors. Cached file pages count as free because they are reclaimable.
fn cgroup_memory(groups: &str, root: &Path) -> Option<u64> {
    let left = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (mount, limit, usage, stat) = match controllers {
            "" => (root.into(), "memory.max", "memory.current", "inactive_file "),
            "memory" => (
                root.join("memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file ",
            ),
            _ => return None,
        };
        let group = mount.join(path.trim_start_matches('/'));
        let groups = group.ancestors().take_while(|group| group.starts_with(&mount));
        groups.filter_map(|group| group_memory(group, limit, usage, stat)).min()
    });
    left.min()
}

/// Bytes left in one cgroup; `None` if it has no limit (`max`) or does not exist here.
fn group_memory(group: &Path, limit: &str, usage: &str, stat: &str) -> Option<u64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (limit, usage) = (number(&read(limit)?)?, number(&read(usage)?)?);
    let stats = read("memory.stat").unwrap_or_default();
    let cached = stats.lines().find_map(|l| number(l.strip_prefix(stat)?)).unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn available_and_resident_memory_are_within_the_total() {
        let (available, total) = (available().unwrap(), total().unwrap());
        assert!(available > 0 && available <= total, "{available} of {total}");
        assert!((1..=total).contains(&resident().unwrap()));
    }

    #[test]
    fn the_strictest_memory_limit_applies() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let left = |groups| cgroup_memory(groups, root.path());
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "10\n");
        assert_eq!(left("0::/a/b\n"), None);
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 300\ninactive_file 400\n");
        assert_eq!(left("0::/a/b\n"), Some(700));
        assert_eq!(left("0::/elsewhere\n"), None);
        write("memory/c/memory.limit_in_bytes", "500\n");
        write("memory/c/memory.usage_in_bytes", "600\n");
        assert_eq!(left("9:pids:/x\n4:memory:/c/gone\n0::/a\n"), Some(0));
        assert_eq!(left("nonsense"), None);
    }
}
