//! Waits for the end of a process that is not our child: one system call that no crate of ours wraps.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::Pid,
};

/// A process, whatever becomes of its number.
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Takes hold of a process. Fails when there is none, and on kernels before 5.3.
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: the call takes two integers and touches no memory of ours.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let fd = i32::try_from(Errno::result(result)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor, with close-on-exec set, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Returns when the process has ended; it may still be a zombie.
    pub fn wait(&self) {
        while poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) == Err(Errno::EINTR) {}
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_end_of_a_process_is_seen_before_it_is_reaped() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = PidFd::open(Pid::from_raw(child.id().cast_signed())).unwrap();
        drop(child.stdin.take());
        process.wait();
        assert!(child.wait().unwrap().success());
        assert!(PidFd::open(Pid::from_raw(i32::MAX)).is_err());
    }
}
