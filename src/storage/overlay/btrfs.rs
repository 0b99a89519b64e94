//! Snapshots of btrfs subvolumes, as roots that VMs may write: made in moments however large the image is. Subvolumes are made,
//! copied and destroyed by calls of the kernel that need no program (linux/btrfs.h).
#![allow(unsafe_code, reason = "the control calls of btrfs have no safe form")]

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
};

use nix::{
    libc,
    sys::statfs::{BTRFS_SUPER_MAGIC, statfs},
};

use super::{super::StorageError, Way, layer::Layer};
use crate::storage::Unpacked;

/// The number of the root directory of every subvolume.
const SUBVOLUME: u64 = 256;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Arguments {
    fd: i64,
    name: [u8; 4088],
}

nix::ioctl_write_ptr!(snapshot_create, 0x94, 1, Arguments);
nix::ioctl_write_ptr!(subvolume_create, 0x94, 14, Arguments);
nix::ioctl_write_ptr!(snapshot_destroy, 0x94, 15, Arguments);

/// A snapshot of the subvolume that an image was unpacked into.
pub struct Snapshots;

impl Way for Snapshots {
    const SUFFIX: &'static str = super::COPY;

    async fn make(&self, image: &Unpacked, place: &Path, _owner: u32) -> Result<Layer, StorageError> {
        match snapshot(image.top(), place) {
            // It is kept.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.map_err(StorageError::file("make a snapshot at", place))?,
        }
        Ok(Layer::copy(image, place))
    }
}

/// Whether this directory lies on btrfs.
pub fn is_on_btrfs(dir: &Path) -> io::Result<bool> {
    Ok(statfs(dir)?.filesystem_type() == BTRFS_SUPER_MAGIC)
}

/// Whether it is the root of a subvolume.
pub fn is_subvolume(dir: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(dir)?;
    Ok(found.is_dir() && found.ino() == SUBVOLUME && is_on_btrfs(dir)?)
}

/// Makes a directory, as a subvolume where that can be.
pub fn create_dir(path: &Path) -> io::Result<()> {
    let (parent, name) = parts(path)?;
    if !is_on_btrfs(parent)? {
        return fs::create_dir(path);
    }
    let (parent, arguments) = (File::open(parent)?, Arguments::new(None, name)?);
    // SAFETY: the descriptor is open, and the kernel reads the structure of this call, which lives longer than it.
    unsafe { subvolume_create(parent.as_raw_fd(), &raw const arguments) }?;
    Ok(())
}

fn snapshot(of: &Path, path: &Path) -> io::Result<()> {
    let (parent, name) = parts(path)?;
    let (parent, of) = (File::open(parent)?, File::open(of)?);
    let arguments = Arguments::new(Some(&of), name)?;
    // SAFETY: both descriptors are open, and the kernel reads the structure of this call, which lives longer than it.
    unsafe { snapshot_create(parent.as_raw_fd(), &raw const arguments) }?;
    Ok(())
}

/// Removes a directory with all that is in it; a subvolume in one step.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    if is_subvolume(path)? {
        let (parent, name) = parts(path)?;
        let (parent, arguments) = (File::open(parent)?, Arguments::new(None, name)?);
        // SAFETY: the descriptor is open, and the kernel reads the structure of this call, which lives longer than it.
        if unsafe { snapshot_destroy(parent.as_raw_fd(), &raw const arguments) }.is_ok() {
            return Ok(());
        }
        // A VM may have made subvolumes in it, which are emptied and removed like directories.
    }
    fs::remove_dir_all(path)
}

fn parts(path: &Path) -> io::Result<(&Path, &[u8])> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.as_bytes())),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "it has no directory")),
    }
}

impl Arguments {
    fn new(of: Option<&File>, name: &[u8]) -> io::Result<Self> {
        let mut arguments = Self { fd: of.map_or(-1, |file| file.as_raw_fd().into()), name: [0; 4088] };
        // A zero must follow.
        match arguments.name.get_mut(..name.len()) {
            Some(place) if name.len() <= usize::from(u8::MAX) => place.copy_from_slice(name),
            _ => return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG)),
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_is_given_has_the_kernels_size() {
        assert_eq!(size_of::<Arguments>(), 4096);
    }
}
