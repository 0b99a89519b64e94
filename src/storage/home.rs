//! Homes: what a VM keeps from one run to the next.

use std::{fs, path::PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{Room, Storage, StorageError, volume::beside};
use crate::model::VmId;

impl Storage {
    /// The file whose lock says that somebody uses the home of a VM.
    pub fn home_lock(&self, vm: VmId) -> PathBuf {
        self.homefs.join(format!("lock.{vm}"))
    }

    /// The home of a VM, made when missing; a directory then.
    pub fn home(&self, vm: VmId) -> Result<Room, StorageError> {
        let path = self.homefs.join(format!("{vm}-fs"));
        let volume = beside(&path);
        if volume.is_file() {
            return Ok(Room::Volume(volume));
        }
        fs::create_dir_all(&path)
            // Says what permissions cannot: that the storage is mounted read-only.
            .and_then(|()| Ok(access(&path, AccessFlags::W_OK | AccessFlags::X_OK)?))
            .map_err(|source| StorageError::Home { path: path.clone(), source })?;
        Ok(Room::Directory(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;

    #[test]
    fn a_home_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.set("path.storage.root", dir.path().to_str().unwrap()).unwrap();
        let storage = Storage::new(&config);
        storage.prepare().unwrap();
        let home = storage.homefs.join("1-fs");
        assert_eq!(storage.home(VmId(1)).unwrap(), Room::Directory(home.clone()));
        fs::write(home.join("letter"), "x").unwrap();
        assert_eq!(storage.home(VmId(1)).unwrap(), Room::Directory(home.clone()));
        assert!(home.join("letter").exists());

        fs::write(storage.homefs.join("2-fs"), "a file").unwrap();
        let error = storage.home(VmId(2)).unwrap_err();
        assert!(matches!(error, StorageError::Home { .. }), "{error}");
    }
}
