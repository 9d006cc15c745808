//! Landlock: the files that a process may open.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

/// The version whose file rules are used. They do not grow by themselves, as a rule that nobody has tested might
/// deny something needed.
const VERSION: ABI = ABI::V5;

/// What the standard library, the allocator and the engine read about the machine and the process. An engine that
/// is started again reads the memory that is available.
const MACHINE: [&str; 6] = [
    "/proc/self",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
];

/// What happens in a folder of files that are written to a temporary name and renamed.
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | MakeReg | RemoveFile
});

/// Restricts this thread, and returns how far that is possible.
pub(super) fn restrict(read: &[PathBuf], write: &[PathBuf]) -> Result<RulesetStatus, RulesetError> {
    // Also no TCP connections and listeners, and no signals or abstract sockets of processes outside.
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    let machine = MACHINE.iter().map(Path::new);
    let read = read.iter().map(PathBuf::as_path).chain(machine);
    let rules = rules
        .add_rules(path_beneath_rules(read, AccessFs::ReadFile | AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(write, WRITE))?;
    Ok(rules.restrict_self()?.ruleset)
}
