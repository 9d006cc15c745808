//! Seccomp: the system calls that a process may make.
//!
//! A list of what is denied, rather than of what is allowed: C libraries use new calls from time to time, and a
//! healthy server must not fail because of one. Denied calls return an error; only a call by the convention of
//! another architecture kills the process.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
    sock_filter,
};

/// Denied whatever the arguments are.
const DENIED: &[c_long] = &[
    // Programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_personality,
    // Connections, and rings, whose operations are not filtered.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    // The attributes of files, which Landlock does not cover.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_open_by_handle_at,
    // File systems and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_quotactl,
    libc::SYS_fanotify_init,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Privileges.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine, and what exploits of the kernel begin with.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // Only this architecture has these.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Applies the filters to all threads.
pub(super) fn restrict() -> Result<(), Error> {
    // Its flags are in memory, which a filter cannot read. C libraries then use `clone`.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let (unknown, denied) = (filter(clone3, libc::ENOSYS)?, filter(denied()?, libc::EPERM)?);
    apply_filter_all_threads(&unknown)?;
    apply_filter_all_threads(&denied)
}

/// A program that fails the calls that match with this error.
fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, BackendError> {
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()?;
    Ok(without_x32().into_iter().chain(program).collect())
}

/// The beginning of a program that fails calls of the x32 convention as unknown: it has the architecture of others
/// but adds a bit to their numbers, and would pass all rules.
fn without_x32() -> Vec<sock_filter> {
    const X32: u32 = 1 << 30;
    let [load, at_least, ret] = [0x20, 0x35, 0x06];
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    match std::env::consts::ARCH {
        "x86_64" => vec![step(load, 0, 0), step(at_least, 1, X32), step(ret, 0, unknown)],
        _ => Vec::new(),
    }
}

/// The calls that are denied, some of them only with certain arguments.
fn denied() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq, Ne};

    let rule = |argument, length, operation, value| {
        SeccompRule::new(vec![SeccompCondition::new(argument, length, operation, value)?])
    };
    let (thread, code) = (libc::CLONE_THREAD as u64, libc::PROT_EXEC as u64);
    let own = u64::from(std::process::id());
    // Of 32 bits, but of a type that depends on the C library.
    let [sti, linux] = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| u64::from(request as u32));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|&call| (call, Vec::new())).collect();
    for (call, of_call) in [
        // New processes; threads are allowed.
        (libc::SYS_clone, vec![rule(0, Qword, MaskedEq(thread), 0)?]),
        // New machine code.
        (libc::SYS_mmap, vec![rule(2, Dword, MaskedEq(code), code)?]),
        (libc::SYS_mprotect, vec![rule(2, Dword, MaskedEq(code), code)?]),
        (libc::SYS_pkey_mprotect, vec![rule(2, Dword, MaskedEq(code), code)?]),
        // Signals to others.
        (libc::SYS_tgkill, vec![rule(0, Dword, Ne, own)?]),
        // Times of files that are not open.
        (libc::SYS_utimensat, vec![rule(1, Qword, Ne, 0)?]),
        // Typing into the terminal from which the server was started.
        (libc::SYS_ioctl, vec![rule(1, Dword, Eq, sti)?, rule(1, Dword, Eq, linux)?]),
    ] {
        rules.insert(call, of_call);
    }
    Ok(rules)
}
