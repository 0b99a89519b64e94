//! Homes: what a VM keeps from one run to the next.

use std::{fs, path::PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{Storage, StorageError};
use crate::model::VmId;

impl Storage {
    /// The file whose lock says that somebody uses the home of a VM.
    pub fn home_lock(&self, vm: VmId) -> PathBuf {
        self.homefs.join(format!("lock.{vm}"))
    }

    /// The home of a VM, made when missing.
    pub fn home(&self, vm: VmId) -> Result<PathBuf, StorageError> {
        let path = self.homefs.join(format!("{vm}-fs"));
        fs::create_dir_all(&path)
            // Says what permissions cannot: that the storage is mounted read-only.
            .and_then(|()| Ok(access(&path, AccessFlags::W_OK | AccessFlags::X_OK)?))
            .map_err(|source| StorageError::Home { path: path.clone(), source })?;
        Ok(path)
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
        let home = storage.home(VmId(1)).unwrap();
        fs::write(home.join("letter"), "x").unwrap();
        assert!(storage.home(VmId(1)).unwrap().join("letter").exists());

        fs::write(storage.homefs.join("2-fs"), "a file").unwrap();
        let error = storage.home(VmId(2)).unwrap_err();
        assert!(matches!(error, StorageError::Home { .. }), "{error}");
    }
}
