//! Shuts the VM down: by a signal where PID 1 is our own `init`, by the image's own command elsewhere.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    thread,
};

use nix::{sys::signal::Signal, unistd::Pid};

use super::{command::find, rundir::send};

/// Begins to shut the VM down; returns at once.
pub fn off() {
    tracing::info!("the VM shuts down");
    if is_our_init() {
        return send(Pid::from_raw(1), Signal::SIGTERM);
    }
    for (name, argument) in [("init", Some("0")), ("poweroff", None)] {
        let Some(program) = find(name) else { continue };
        match Command::new(&program).args(argument).stdin(Stdio::null()).spawn() {
            Ok(mut child) => return drop(thread::spawn(move || child.wait())),
            Err(error) => tracing::warn!(program = %program.display(), %error, "cannot shut down"),
        }
    }
    tracing::error!("cannot shut down: the image has neither init nor poweroff");
}

/// Whether PID 1 runs this program.
fn is_our_init() -> bool {
    let file = |process: &str| fs::metadata(format!("/proc/{process}/exe")).map(|exe| (exe.dev(), exe.ino()));
    matches!((file("1"), file("self")), (Ok(init), Ok(ours)) if init == ours)
}
