//! Writable layers: what a VM changes of its image, one per VM and image version.
//! Inside a layer the VM's root user may have planted anything, so files are only put there without following links.

use std::{
    fs,
    fs::File,
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, fchown, lchown},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::{Mode, fchmod, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};
use tracing::{debug, warn};

use super::{Storage, StorageError, names, volume};
use crate::model::{DiId, VmId};

/// Begins the names of layers that are marked for removal.
pub(super) const DISCARDED: &str = "deleteme-";

/// The writable layer of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    dir: PathBuf,
    owner: u32,
}

impl Storage {
    /// The file whose lock says that somebody uses the layers of a VM.
    pub fn overlay_lock(&self, vm: VmId) -> PathBuf {
        self.overlayfs.join(format!("lock.{vm}"))
    }

    /// The layer for a run of `vm` on image version `di`: an empty one, unless `keep` and there is one already. Older
    /// ones are removed in the background. It is for a VM whose user 0 is `owner` here. To be called with the VM's lock held.
    pub fn overlay(&self, vm: VmId, di: DiId, keep: bool, owner: u32) -> Result<Overlay, StorageError> {
        let dir = self.overlayfs.join(format!("{di}-{vm}-overlayfs"));
        if !keep {
            self.discard_overlays(vm)?;
        }
        for part in ["upper", "work"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).map_err(StorageError::file("make the directory", &part))?;
        }
        let overlay = Overlay { dir, owner };
        overlay.give().map_err(StorageError::file("give to the VM", &overlay.upper()))?;
        Ok(overlay)
    }

    fn discard_overlays(&self, vm: VmId) -> Result<(), StorageError> {
        let suffix = format!("-{vm}-overlayfs");
        let mut any = false;
        for name in names(&self.overlayfs)? {
            if !name
                .strip_suffix(volume::SUFFIX)
                .unwrap_or(&name)
                .strip_suffix(&suffix)
                .is_some_and(|di| di.bytes().all(|c| c.is_ascii_digit()))
            {
                continue;
            }
            let from = self.overlayfs.join(&name);
            fs::rename(&from, discarded(&from, SystemTime::now())).map_err(StorageError::file("rename", &from))?;
            any = true;
        }
        if any {
            self.remove_discarded();
        }
        Ok(())
    }

    /// Removes layers marked for removal, on a thread of its own. Other nodes may do the same at the same time.
    pub(super) fn remove_discarded(&self) {
        let dir = self.overlayfs.clone();
        std::thread::spawn(move || {
            for name in names(&dir).unwrap_or_default().into_iter().filter(|name| name.starts_with(DISCARDED)) {
                let path = dir.join(&name);
                let is_volume = path.is_file();
                match if is_volume { fs::remove_file(path) } else { fs::remove_dir_all(path) } {
                    Ok(()) => debug!(layer = name, "removed a discarded layer"),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => warn!(layer = name, %error, "a discarded layer cannot be removed yet"),
                }
            }
        });
    }
}

/// The name by which a layer is removed, since that may take long. It ends with the time, which makes it new.
pub(super) fn discarded(layer: &Path, now: SystemTime) -> PathBuf {
    let since = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let name = layer.file_name().unwrap_or_default().to_string_lossy();
    layer.with_file_name(format!("{DISCARDED}{name}-{since}"))
}

impl Overlay {
    /// The directory of both parts.
    pub fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// Both parts of a layer that lies there: what takes what the VM writes, and its sibling, which belongs to the kernel.
    pub fn parts(dir: &Path) -> [PathBuf; 2] {
        ["upper", "work"].map(|part| dir.join(part))
    }

    /// The directory that takes what the VM writes.
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// Gives it to its VM when it was made for one with other ids.
    fn give(&self) -> io::Result<()> {
        let was = self.upper().symlink_metadata()?.uid();
        if was == self.owner {
            return Ok(());
        }
        // What was given before this was interrupted is not given twice.
        let inside = |id: u32| id.checked_sub(was).filter(|inside| *inside <= u32::from(u16::MAX));
        let moved = |id: u32| inside(id).map_or(id, |inside| self.owner + inside);
        // Its root last, so that what was given half way is given again.
        let mut left = vec![self.upper()];
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
        lchown(self.upper(), Some(self.owner), Some(self.owner))
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
        put().map_err(StorageError::file("write", &self.upper().join(dir).join(name)))
    }

    /// Makes an empty directory in the VM's root for something to be mounted on.
    pub fn make_mount_point(&self, name: &str) -> Result<(), StorageError> {
        self.own_directory(name).map(drop).map_err(StorageError::file("make the directory", &self.upper().join(name)))
    }

    /// A real directory of the layer, made when missing; what else has its name is removed.
    fn own_directory(&self, name: &str) -> io::Result<File> {
        let directory = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open(&self.upper(), directory, Mode::empty())?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::model::config::Config;

    fn storage(dir: &Path) -> Storage {
        let mut config = Config::default();
        config.set("path.storage.root", dir.to_str().unwrap()).unwrap();
        let storage = Storage::new(&config);
        storage.prepare().unwrap();
        storage
    }

    #[test]
    fn a_layer_is_empty_at_each_start_unless_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path());
        let (vm, di) = (VmId(3), DiId(1));
        let overlay = storage.overlay(vm, di, false, 0).unwrap();
        fs::write(overlay.upper().join("note"), "x").unwrap();
        assert!(storage.overlay(vm, di, true, 0).unwrap().upper().join("note").exists());
        storage.overlay(VmId(13), di, false, 0).unwrap();
        fs::write(storage.overlay(vm, DiId(2), true, 0).unwrap().upper().join("note"), "x").unwrap();
        assert!(!storage.overlay(vm, di, false, 0).unwrap().upper().join("note").exists());
        assert!(!storage.overlayfs.join("2-3-overlayfs").exists(), "layers of other versions go too");
        assert!(storage.overlayfs.join("1-13-overlayfs").exists(), "layers of other VMs stay");
    }

    #[test]
    fn links_planted_in_a_kept_layer_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("hosts"), "mine").unwrap();
        let overlay = storage(dir.path()).overlay(VmId(1), DiId(1), true, 0).unwrap();
        symlink(&outside, overlay.upper().join("etc")).unwrap();
        overlay.put("etc", "hosts", "theirs").unwrap();
        assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "mine");

        fs::remove_file(overlay.upper().join("etc/hosts")).unwrap();
        symlink(outside.join("hosts"), overlay.upper().join("etc/hosts")).unwrap();
        overlay.put("etc", "hosts", "theirs").unwrap();
        assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(overlay.upper().join("etc/hosts")).unwrap(), "theirs");
    }
}
