//! Becomes the user and then the X session: the last thing our program does in a process before it is replaced.
//! It is a program of its own, and not a part of the monitor's fork, so that nothing unsafe is needed for it.

use std::{ffi::OsString, fs, io, os::unix::process::CommandExt, path::Path, process::Command};

use nix::{
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, umask},
    },
    unistd::{Gid, Pid, Uid, setgid, setgroups, setuid},
};
use thiserror::Error;

use super::{ourselves, users::Account};

/// Whose rights a program gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl From<&Account> for Rights {
    fn from(account: &Account) -> Self {
        Self { uid: account.uid, gid: account.gid, groups: account.groups.clone() }
    }
}

impl Rights {
    /// Those of a process; `None`: it is gone.
    pub fn of(process: Pid) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let numbers = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
        };
        // Of each the effective one, which comes second.
        let effective = |name| numbers(name)?.get(1).copied();
        Some(Self { uid: effective("Uid:")?, gid: effective("Gid:")?, groups: numbers("Groups:")? })
    }
}

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

/// A command that runs `program` with these rights and the file mode mask `umask`. The process is killed when the thread
/// that spawned it ends.
pub fn command(rights: &Rights, umask: u32, program: &Path) -> Command {
    let groups = if rights.groups.is_empty() { vec![rights.gid] } else { rights.groups.clone() };
    let groups = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new(ourselves());
    command.arg(NAME).arg(rights.uid.to_string()).arg(rights.gid.to_string()).arg(groups);
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
    fn the_rights_of_a_process_are_its_effective_ones() {
        let status = "Name:\tnxagent\nUid:\t0\t1000\t0\t0\nGid:\t0\t1001\t0\t0\nFDSize:\t64\nGroups:\t27 1001 \n";
        assert_eq!(Rights::parse(status), Some(Rights { uid: 1000, gid: 1001, groups: vec![27, 1001] }));
        assert_eq!(Rights::parse("Uid:\t0\n"), None);
        assert!(Rights::of(Pid::this()).is_some() && Rights::of(Pid::from_raw(i32::MAX)).is_none());
    }

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
