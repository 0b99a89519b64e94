//! Starts the command of a shim so that it cannot outlive the shim.
#![allow(unsafe_code, reason = "what a child does between fork and exec has no safe form")]

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        prctl::{set_no_new_privs, set_pdeathsig},
        signal::{SigSet, Signal},
    },
    unistd::{Gid, Pid, Uid, getpid, getppid, setgroups, setresgid, setresuid},
};

use super::spec::{Account, FIRST_FILE};

/// Starts `argv` with its output going to `output` and these files open, as `account`, to be killed by the kernel when this
/// process dies. The caller reaps it, like everything else that becomes its child.
pub fn spawn(argv: &[String], output: OwnedFd, account: Option<Account>, files: &[File]) -> io::Result<Pid> {
    let (program, arguments) =
        argv.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command line is empty"))?;
    let parent = getpid();
    let mut command = Command::new(program);
    // The daemons' environment may hold secrets, and a container's first process would inherit it. Not even a search path is
    // left: where LXC finds `newuidmap`, it wants the ids of every container written into a file of that program's.
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let files: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: the shim has one thread, so the child finds no lock held by another.
    unsafe {
        command.pre_exec(move || {
            // The VM's own processes are fair game for the out-of-memory killer. Who is not root has no say in that.
            let _ = std::fs::write("/proc/self/oom_score_adj", "0");
            for (number, file) in (FIRST_FILE..).zip(&files) {
                // Unlike the file itself it stays open.
                Errno::result(libc::dup2(*file, number))?;
            }
            if let Some(account) = &account {
                become_account(account)?;
            }
            // After that, which takes it back.
            set_pdeathsig(Signal::SIGKILL)?;
            // A parent that died before the line above would never send the signal.
            if getppid() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // The shim waits for its signals; the command would inherit that, and hear none.
            SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id() as i32))
}

/// For good, and without the rights that root had.
fn become_account(account: &Account) -> nix::Result<()> {
    let (user, group) = (Uid::from_raw(account.id), Gid::from_raw(account.id));
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    set_no_new_privs()
}
