//! What the operating system says about the machine.

use std::fs;

use serde::Serialize;

use crate::bench::last_level_cache;

/// The computer, or what a virtual machine shows of it.
#[derive(Serialize)]
pub(super) struct Machine {
    /// As the CPU calls itself.
    pub(super) cpu: Option<String>,
    pub(super) architecture: &'static str,
    pub(super) system: &'static str,
    /// Bytes of the largest cache.
    pub(super) last_level_cache: Option<usize>,
    /// Processes that wanted a CPU, on average over the last minute.
    pub(super) load: Option<f64>,
}

impl Machine {
    pub(super) fn this() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").ok();
        Self {
            cpu: info.and_then(|info| field(&info, "model name").map(str::to_owned)),
            architecture: std::env::consts::ARCH,
            system: std::env::consts::OS,
            last_level_cache: last_level_cache(),
            load: fs::read_to_string("/proc/loadavg").ok().and_then(|text| load(&text)),
        }
    }
}

/// The first of the averages in `/proc/loadavg`.
fn load(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Bytes of memory, where the system says.
pub(super) fn total_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    field(&info, "MemTotal")?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The value of the first line `name: value`, blanks around both left out.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = pairs.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
    values.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_as_the_kernel_writes_them() {
        let text = "processor\t: 0\nmodel name\t: A: B\nmodel name\t: C\nMemTotal:  5 kB\n";
        assert_eq!(field(text, "model name"), Some("A: B"));
        assert_eq!(field(text, "MemTotal"), Some("5 kB"));
        assert_eq!(field(text, "model"), None);
        assert_eq!(load("0.52 1.31 1.40 2/196 8133\n"), Some(0.52));
    }
}
