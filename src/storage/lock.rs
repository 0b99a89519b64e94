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
    file: File,
}

impl StorageLock {
    /// Waits for the lock; to be called where blocking is allowed.
    pub fn wait(path: &Path) -> Result<Self, StorageError> {
        let lock = || {
            let file = open(path)?;
            file.lock()?;
            Ok(Self { file })
        };
        lock().map_err(StorageError::file("lock", path))
    }

    /// Takes the lock or finds it taken.
    pub fn take(path: &Path) -> Result<Self, StorageError> {
        let file = open(path).map_err(StorageError::file("lock", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(StorageError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(StorageError::file("lock", path)(error)),
        }
    }
}

impl Drop for StorageLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread has just forked holds the file until it becomes another
        // program, and with it the lock, which the shim would find taken. It fails only if there is no lock.
        let _ = self.file.unlock();
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_once_dropped_though_a_child_just_forked_has_the_file_still() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.1");
        let lock = StorageLock::take(&path).unwrap();
        // What a child has until it becomes another program.
        let _copy = lock.file.try_clone().unwrap();
        assert!(matches!(StorageLock::take(&path), Err(StorageError::InUse { .. })));
        drop(lock);
        StorageLock::take(&path).unwrap();
    }
}
