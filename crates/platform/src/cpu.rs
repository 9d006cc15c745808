//! The CPU: the number of cores this process may use, and their properties.
//!
//! Fully implemented on Linux. On other systems, core counts come from the standard library, and all
//! other values are `None`.

use std::collections::HashSet;
use std::fs;

use crate::proc;

/// The cores a process may use, and the limits that apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Hardware threads of the machine.
    pub online: usize,
    /// Hardware threads in this process's affinity mask.
    pub allowed: usize,
    /// Physical cores of the allowed hardware threads.
    pub physical: usize,
    /// CPU time granted, in CPUs: the allowed hardware threads, or fewer if the cgroup has a quota.
    pub granted: usize,
}

impl Cores {
    /// The cores of this process, as reported by the system, or else by the standard library.
    pub fn available() -> Self {
        let granted = std::thread::available_parallelism().map_or(1, usize::from);
        let allowed = allowed_cpus();
        let physical = allowed.as_deref().and_then(physical_cores).unwrap_or(granted);
        let allowed = allowed.map_or(granted, |cpus| cpus.len());
        let online = proc::read("/sys/devices/system/cpu/online");
        let online = online.and_then(|list| parse_cpu_list(list.trim()));
        Self { online: online.map_or(allowed, |cpus| cpus.len()), allowed, physical, granted }
    }

    /// Default number of engine threads. Decoding is memory-bound, and hyper-threads share the integer
    /// units of their core, so a second thread per core only adds synchronization.
    pub fn threads(&self) -> usize {
        self.physical.min(self.granted).max(1)
    }

    /// Whether it is a quota that determines [`Self::threads`].
    pub fn is_limited_by_quota(&self) -> bool {
        self.granted < self.allowed && self.granted <= self.physical
    }
}

/// Physical cores this process may use, given its CPU affinity and cgroup quota.
pub fn default_threads() -> usize {
    Cores::available().threads()
}

/// The CPU's model name.
pub fn name() -> Option<String> {
    let info = proc::read("/proc/cpuinfo")?;
    proc::field(&info, "model name").map(str::to_owned)
}

/// Size of the first CPU's largest cache, in bytes.
pub fn last_level_cache() -> Option<usize> {
    let folder = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let size = |entry: fs::DirEntry| parse_size(proc::read(entry.path().join("size"))?.trim());
    folder.flatten().filter_map(size).max()
}

/// Load average over the last minute.
pub fn load() -> Option<f64> {
    parse_load(&proc::read("/proc/loadavg")?)
}

/// CPUs in this process's affinity mask.
fn allowed_cpus() -> Option<Vec<usize>> {
    let status = proc::read("/proc/self/status")?;
    parse_cpu_list(proc::field(&status, "Cpus_allowed_list")?)
}

/// Number of distinct cores among `cpus`.
fn physical_cores(cpus: &[usize]) -> Option<usize> {
    let mut cores = HashSet::new();
    for cpu in cpus {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        cores.insert(proc::read(topology)?);
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

/// `480K` or `32M`.
fn parse_size(text: &str) -> Option<usize> {
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

/// The first average in `/proc/loadavg`.
fn parse_load(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_lists_sizes_and_loads_from_the_kernel() {
        assert_eq!(parse_cpu_list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_cpu_list("5"), Some(vec![5]));
        assert_eq!(parse_cpu_list("x"), None);
        assert_eq!(parse_size("480K"), Some(480 << 10));
        assert_eq!(parse_size("32M"), Some(32 << 20));
        assert_eq!(parse_size("x"), None);
        assert_eq!(parse_load("0.52 1.31 1.40 2/196 8133\n"), Some(0.52));
    }

    #[test]
    fn threads_fit_the_machine() {
        let n = default_threads();
        assert!(n >= 1 && n <= std::thread::available_parallelism().unwrap().get());
    }

    #[test]
    fn every_limit_reduces_the_threads() {
        let all = Cores { online: 16, allowed: 16, physical: 8, granted: 16 };
        assert_eq!(all.threads(), 8);
        let quota = Cores { granted: 3, ..all };
        assert!(quota.threads() == 3 && quota.is_limited_by_quota());
        assert!(!all.is_limited_by_quota() && !Cores { granted: 9, ..all }.is_limited_by_quota());
        assert_eq!(Cores { allowed: 2, physical: 1, granted: 2, ..all }.threads(), 1);
        let here = Cores::available();
        assert!(here.online >= here.allowed && here.allowed >= here.physical, "{here:?}");
    }
}
