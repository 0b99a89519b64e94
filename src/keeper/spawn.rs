//! Starts the command of a shim so that it cannot outlive the shim.
#![allow(unsafe_code, reason = "what a child does between fork and exec has no safe form")]

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, Signal},
    },
    unistd::{Pid, getpid, getppid},
};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts `argv` with its output going to `output`, to be killed by the kernel when this process dies.
/// The caller reaps it, like everything else that becomes its child.
pub fn spawn(argv: &[String], output: OwnedFd) -> io::Result<Pid> {
    let (program, arguments) =
        argv.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command line is empty"))?;
    let parent = getpid();
    let mut command = Command::new(program);
    // The daemons' environment may hold secrets, and a container's first process would inherit it.
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    // SAFETY: the shim has one thread, so the child finds no lock held by another.
    unsafe {
        command.pre_exec(move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // A parent that died before the line above would never send the signal.
            if getppid() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // The shim waits for its signals; the command would inherit that, and hear none.
            SigSet::empty().thread_set_mask()?;
            // The VM's own processes are fair game for the out-of-memory killer.
            let _ = std::fs::write("/proc/self/oom_score_adj", "0");
            Ok(())
        });
    }
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id() as i32))
}
