//! What this machine gives a process: cores and memory.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The cores a process may use, and what keeps it from using more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Hardware threads of the machine.
    pub online: usize,
    /// Those in this process's affinity mask.
    pub allowed: usize,
    /// Physical cores behind the allowed ones: hyper-threads counted once.
    pub physical: usize,
    /// Whole CPUs' worth of time it gets: the allowed ones, or less by the quota of its cgroup.
    pub granted: usize,
}

impl Cores {
    /// Those of this process; where the system does not say, what the standard library finds.
    pub fn available() -> Self {
        let granted = std::thread::available_parallelism().map_or(1, usize::from);
        let allowed = allowed_cpus();
        let physical = allowed.as_deref().and_then(physical_cores).unwrap_or(granted);
        let allowed = allowed.map_or(granted, |cpus| cpus.len());
        let online = fs::read_to_string("/sys/devices/system/cpu/online");
        let online = online.ok().and_then(|list| parse_cpu_list(list.trim()));
        Self { online: online.map_or(allowed, |cpus| cpus.len()), allowed, physical, granted }
    }

    /// Threads an engine uses by default. Decoding is bound by memory, and hyper-threads share the
    /// integer units of their core, so that a second thread per core only adds waiting.
    pub fn threads(&self) -> usize {
        self.physical.min(self.granted).max(1)
    }
}

/// Physical cores this process may use: its CPU affinity and cgroup quota, hyper-threads counted
/// once.
pub fn default_threads() -> usize {
    Cores::available().threads()
}

/// The CPUs of this process's affinity mask.
fn allowed_cpus() -> Option<Vec<usize>> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    parse_cpu_list(list.trim())
}

/// Distinct cores behind CPUs.
fn physical_cores(cpus: &[usize]) -> Option<usize> {
    let mut cores = HashSet::new();
    for cpu in cpus {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        cores.insert(fs::read_to_string(topology).ok()?);
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// `0-3,8` → 0, 1, 2, 3, 8.
fn parse_cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to) = (from.parse().ok()?, to.parse::<usize>().ok()?);
        cpus.extend(from..=to);
    }
    Some(cpus)
}

/// Bytes this process could get without swapping: what the system has, or less by the memory limit
/// of its cgroup; `None` where the system does not say.
pub fn available_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let system = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup_memory(&groups, Path::new("/sys/fs/cgroup"));
    Some(limit.map_or(system, |limit| limit.min(system)))
}

/// Bytes left below the strictest memory limit among a process's cgroups (`groups` as in
/// `/proc/self/cgroup`) and those above them. Cached file pages count as left: they make room.
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

/// The same of one cgroup; `None` if it has no limit (`max`), or does not exist here.
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

    #[test]
    fn cpu_lists_as_the_kernel_writes_them() {
        assert_eq!(parse_cpu_list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_cpu_list("5"), Some(vec![5]));
        assert_eq!(parse_cpu_list("x"), None);
    }

    #[test]
    fn threads_fit_the_machine() {
        let n = default_threads();
        assert!(n >= 1 && n <= std::thread::available_parallelism().unwrap().get());
    }

    #[test]
    fn every_reason_takes_threads_away() {
        let all = Cores { online: 16, allowed: 16, physical: 8, granted: 16 };
        assert_eq!(all.threads(), 8);
        assert_eq!(Cores { granted: 3, ..all }.threads(), 3);
        assert_eq!(Cores { allowed: 2, physical: 1, granted: 2, ..all }.threads(), 1);
        let here = Cores::available();
        assert!(here.online >= here.allowed && here.allowed >= here.physical, "{here:?}");
    }

    #[test]
    fn the_strictest_memory_limit_counts() {
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
