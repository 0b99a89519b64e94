//! Locks on the storage, respected by every node that uses it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::Path,
};

use super::StorageError;

/// A lock file, held until dropped. The file stays.
#[derive(Debug)]
pub struct StorageLock {
    _file: File,
}

impl StorageLock {
    /// Waits for the lock; to be called where blocking is allowed.
    pub fn wait(path: &Path) -> Result<Self, StorageError> {
        let lock = || {
            let file = open(path)?;
            file.lock()?;
            Ok(Self { _file: file })
        };
        lock().map_err(StorageError::file("lock", path))
    }

    /// Takes the lock or finds it taken.
    pub fn take(path: &Path) -> Result<Self, StorageError> {
        let file = open(path).map_err(StorageError::file("lock", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StorageError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(StorageError::file("lock", path)(error)),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}
