//! Mounts a directory so that its files have other owners: what user 0 owns on the disk is owned by the first of a range of
//! ids here. The disk stays as it is. In the kernel since 5.12, over overlayfs since 5.19, for most local file systems;
//! mount_setattr(2).
#![allow(unsafe_code, reason = "fork and these calls have no safe form")]

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, fork, pause, pipe, read, write},
};
use serde::{Deserialize, Serialize};

/// The ids that a container has outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// That of the root user inside.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// A user namespace whose ids are these; it lives as long as the file.
pub struct Mapping(File);

/// Mounts `from` at `to`; `from` alone, without what is mounted below it. Without a mapping its files keep their owners.
/// `attributes` are those of mount_setattr(2).
pub fn mount(from: &Path, to: &Path, mapping: Option<&Mapping>, attributes: u64) -> io::Result<()> {
    let (from, to, here) = (path(from)?, path(to)?, c"".as_ptr());
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is a string that ends with a zero and lives longer than the call.
    let tree = checked(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, from.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    let tree = unsafe { OwnedFd::from_raw_fd(tree as i32) };
    let attributes = libc::mount_attr {
        attr_set: attributes | mapping.map_or(0, |_| libc::MOUNT_ATTR_IDMAP),
        attr_clr: 0,
        propagation: 0,
        userns_fd: mapping.map_or(0, |mapping| mapping.0.as_raw_fd() as u64),
    };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: both descriptors are open, and the structure is as long as is said and only read.
    checked(unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), here, libc::AT_EMPTY_PATH, &raw const attributes, size)
    })?;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: the descriptor is open, and both strings end with a zero and live longer than the call.
    checked(unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), here, libc::AT_FDCWD, to.as_ptr(), flags)
    })?;
    Ok(())
}

impl Ids {
    /// For mounts. A child makes it, which ends at once; the process has one thread.
    pub fn mapping(self) -> io::Result<Mapping> {
        user_namespace(self).map(Mapping)
    }
}

fn user_namespace(ids: Ids) -> io::Result<File> {
    let (ready, tell) = pipe()?;
    // SAFETY: this process has one thread, so the child finds no lock held by another.
    let child = match unsafe { fork() }? {
        ForkResult::Child => {
            if unshare(CloneFlags::CLONE_NEWUSER).is_ok() && write(&tell, b"!").is_ok() {
                loop {
                    pause();
                }
            }
            // SAFETY: ends without running what the parent will run.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => child,
    };
    drop(tell);
    let made = || {
        if read(&ready, &mut [0])? != 1 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the kernel makes no user namespace"));
        }
        let map = format!("0 {} {}", ids.first, ids.count);
        fs::write(format!("/proc/{child}/uid_map"), &map)?;
        fs::write(format!("/proc/{child}/gid_map"), &map)?;
        File::open(format!("/proc/{child}/ns/user"))
    };
    let made = made();
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    made
}

fn path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn checked(returned: libc::c_long) -> io::Result<libc::c_long> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
