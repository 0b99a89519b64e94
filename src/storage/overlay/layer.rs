//! What a VM writes to instead of its image: a directory over it, or a copy of it.
//! The VM's root user may have planted anything there, so files are only put there without following links.

use std::{
    fs,
    fs::File,
    io::{self, Write},
    os::unix::fs::{MetadataExt, fchown, lchown},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::{Mode, fchmod, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::super::StorageError;
use crate::storage::Unpacked;

/// Where one VM writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    form: Form,
    /// Whose its files are on the disk.
    owner: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// A directory with what takes the writes and, beside that, what belongs to the kernel.
    Over(PathBuf),
    /// A root file system.
    Copy(PathBuf),
}

impl Layer {
    /// The one over an image that lies at `dir`, given to the VM whose user 0 is `owner` here.
    pub(super) fn over(dir: &Path, owner: u32) -> Result<Self, StorageError> {
        let layer = Self { form: Form::Over(dir.to_owned()), owner };
        layer.give().map_err(StorageError::file("give to the VM", &layer.root()))?;
        Ok(layer)
    }

    /// The copy of an image that lies at `dir`. Its files have the owners that those of the image have.
    pub(super) fn copy(image: &Unpacked, dir: &Path) -> Self {
        Self { form: Form::Copy(image.root_in(dir)), owner: 0 }
    }

    /// What lies over the image; `None`: it is a copy, which is complete.
    pub fn over_image(&self) -> Option<&Path> {
        match &self.form {
            Form::Over(dir) => Some(dir),
            Form::Copy(_) => None,
        }
    }

    /// Both parts of a layer that lies there: what takes what the VM writes, and its sibling, which belongs to the kernel.
    pub fn parts(dir: &Path) -> [PathBuf; 2] {
        ["upper", "work"].map(|part| dir.join(part))
    }

    /// The directory that takes what the VM writes.
    pub fn root(&self) -> PathBuf {
        match &self.form {
            Form::Over(dir) => dir.join("upper"),
            Form::Copy(root) => root.clone(),
        }
    }

    /// Gives it to its VM when it was made for one with other ids.
    fn give(&self) -> io::Result<()> {
        let was = self.root().symlink_metadata()?.uid();
        if was == self.owner {
            return Ok(());
        }
        // What was given before this was interrupted is not given twice.
        let inside = |id: u32| id.checked_sub(was).filter(|inside| *inside <= u32::from(u16::MAX));
        let moved = |id: u32| inside(id).map_or(id, |inside| self.owner + inside);
        // Its root last, so that what was given half way is given again.
        let mut left = vec![self.root()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                let found = path.symlink_metadata()?;
                if found.is_dir() {
                    left.push(path.clone());
                }
                lchown(&path, Some(moved(found.uid())), Some(moved(found.gid())))?;
                // The kernel takes these from a file that is given away.
                if found.is_file() && found.mode() & 0o6000 != 0 {
                    fs::set_permissions(&path, found.permissions())?;
                }
            }
        }
        lchown(self.root(), Some(self.owner), Some(self.owner))
    }

    /// Puts a file at `dir/name` of the VM's root, in place of whatever is there. The directory is one below the root
    /// and keeps the mode `0755`.
    pub fn put(&self, dir: &str, name: &str, content: &str) -> Result<(), StorageError> {
        let put = || -> io::Result<()> {
            let dir = self.own_directory(dir)?;
            match unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = File::from(openat(&dir, name, flags, Mode::from_bits_truncate(0o644))?);
            fchmod(&file, Mode::from_bits_truncate(0o644))?;
            fchown(&file, Some(self.owner), Some(self.owner))?;
            file.write_all(content.as_bytes())
        };
        put().map_err(StorageError::file("write", &self.root().join(dir).join(name)))
    }

    /// Makes an empty directory in the VM's root for something to be mounted on.
    pub fn make_mount_point(&self, name: &str) -> Result<(), StorageError> {
        self.own_directory(name).map(drop).map_err(StorageError::file("make the directory", &self.root().join(name)))
    }

    /// A real directory of the layer, made when missing; what else has its name is removed.
    fn own_directory(&self, name: &str) -> io::Result<File> {
        let directory = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open(&self.root(), directory, Mode::empty())?;
        match openat(&root, name, directory, Mode::empty()) {
            Ok(dir) => return Ok(File::from(dir)),
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTDIR | Errno::ELOOP) => unlinkat(&root, name, UnlinkatFlags::NoRemoveDir)?,
            Err(error) => return Err(error.into()),
        }
        mkdirat(&root, name, Mode::from_bits_truncate(0o755))?;
        let dir = openat(&root, name, directory, Mode::empty())?;
        fchmod(&dir, Mode::from_bits_truncate(0o755))?;
        fchown(&dir, Some(self.owner), Some(self.owner))?;
        Ok(File::from(dir))
    }
}
