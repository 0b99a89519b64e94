//! Becomes the user and then the X session: the last thing our program does in a process before it is replaced.
//! It is a program of its own, and not a part of the monitor's fork, so that nothing unsafe is needed for it.

use std::{ffi::OsString, io, os::unix::process::CommandExt, path::Path, process::Command};

use nix::{
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, setgid, setgroups, setuid},
};
use thiserror::Error;

use super::{ourselves, users::Account};

/// The subcommand.
pub const NAME: &str = "launch";

/// A session that could not be started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The command line is not the one that `command` makes.
    #[error("launch is called by the monitor only: uid gid groups umask program arguments…")]
    Usage,
    /// The rights of the user could not be taken.
    #[error("cannot become user {uid}")]
    Become {
        /// The user.
        uid: u32,
        /// Why.
        #[source]
        source: nix::Error,
    },
    /// The program could not be run.
    #[error("cannot run {}", .program.to_string_lossy())]
    Run {
        /// The program.
        program: OsString,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A command that runs `program` with the rights of `account` and the file mode mask `umask`, in its home. The
/// process is killed when the thread that spawned it ends.
pub fn command(account: &Account, umask: u32, program: &Path) -> Command {
    let groups = account.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new(ourselves());
    command.arg(NAME).arg(account.uid.to_string()).arg(account.gid.to_string()).arg(groups);
    command.arg(format!("{umask:o}")).arg(program);
    command
}

/// Runs the subcommand; returns only when it failed.
pub fn run(arguments: &[OsString]) -> LaunchError {
    let [uid, gid, groups, mask, program, rest @ ..] = arguments else { return LaunchError::Usage };
    let number = |text: &OsString, radix| u32::from_str_radix(text.to_str()?, radix).ok();
    let groups = groups.to_str().map(|list| list.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>());
    let (Some(uid), Some(gid), Some(Ok(groups)), Some(mask)) =
        (number(uid, 10), number(gid, 10), groups, number(mask, 8))
    else {
        return LaunchError::Usage;
    };
    umask(Mode::from_bits_truncate(mask));
    let groups: Vec<_> = groups.into_iter().map(Gid::from_raw).collect();
    // The order matters: each step needs rights that a later one gives up, and changing rights forgets the signal.
    let become_user = setgroups(&groups)
        .and_then(|()| setgid(Gid::from_raw(gid)))
        .and_then(|()| setuid(Uid::from_raw(uid)))
        .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL));
    if let Err(source) = become_user {
        return LaunchError::Become { uid, source };
    }
    let source = Command::new(program).args(rest).exec();
    LaunchError::Run { program: program.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_changed_by_a_command_line_that_is_not_ours() {
        for arguments in
            [vec![], vec!["0"; 4], vec!["x", "0", "0", "22", "/bin/true"], vec!["0", "0", "", "22", "/bin/true"]]
        {
            let arguments: Vec<_> = arguments.into_iter().map(OsString::from).collect();
            assert!(matches!(run(&arguments), LaunchError::Usage));
        }
    }
}
