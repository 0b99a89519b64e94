//! Locks on the storage, respected by every node that uses it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::StorageError;
use crate::model::Owner;

/// For how long whoever looks through a storage may have a lock, and how often one is tried meanwhile.
const MOMENT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// A lock file, held until dropped. The file stays.
#[derive(Debug)]
pub struct StorageLock {
    file: File,
    path: PathBuf,
}

impl StorageLock {
    /// Waits for the lock; to be called where blocking is allowed.
    pub fn wait(path: &Path) -> Result<Self, StorageError> {
        let lock = || {
            let file = open(path)?;
            file.lock()?;
            Self::held(file, path)
        };
        lock().map_err(StorageError::file("lock", path))
    }

    /// Takes the lock or finds it taken.
    pub fn take(path: &Path) -> Result<Self, StorageError> {
        let file = open(path).map_err(StorageError::file("lock", path))?;
        match file.try_lock() {
            Ok(()) => Self::held(file, path).map_err(StorageError::file("lock", path)),
            Err(TryLockError::WouldBlock) => Err(StorageError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(StorageError::file("lock", path)(error)),
        }
    }

    /// The same, but somebody may have it for a moment to look at what it guards.
    pub fn take_soon(path: &Path) -> Result<Self, StorageError> {
        let begin = Instant::now();
        loop {
            match Self::take(path) {
                Err(StorageError::InUse { .. }) if begin.elapsed() < MOMENT => thread::sleep(PAUSE),
                taken => return taken,
            }
        }
    }

    /// What others made beside the file before they freed the lock is seen from now on: NFS asks the server again what is in a
    /// directory when one opens it, and else believes for half a minute that a name is not there.
    fn held(file: File, path: &Path) -> io::Result<Self> {
        path.parent().map(File::open).transpose()?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Takes the lock, or finds it taken, where somebody has made the file already; `None`: nobody did.
    pub fn take_existing(path: &Path) -> Result<Option<Self>, StorageError> {
        match path.try_exists() {
            Ok(false) => Ok(None),
            Ok(true) => Self::take(path).map(Some),
            Err(error) => Err(StorageError::file("lock", path)(error)),
        }
    }

    /// Who used last what the lock guards, if he never said that he is done.
    pub fn owner(&self) -> Result<Option<Owner>, StorageError> {
        let read = || {
            let (mut file, mut record) = (&self.file, String::new());
            file.rewind()?;
            file.read_to_string(&mut record)?;
            owner(&record)
        };
        read().map_err(StorageError::file("read the owner in", &self.path))
    }

    /// The same where somebody else has the lock.
    pub fn recorded(path: &Path) -> Result<Option<Owner>, StorageError> {
        let record = std::fs::read_to_string(path).and_then(|record| owner(&record));
        record.map_err(StorageError::file("read the owner in", path))
    }

    /// The locked file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets the owner, unless it is another by now: the storage may have freed the lock of a node that it lost sight of.
    pub fn disown(&self, owner: &Owner) -> Result<(), StorageError> {
        if self.owner()?.as_ref() != Some(owner) {
            return Ok(());
        }
        self.file
            .set_len(0)
            .and_then(|()| self.file.sync_data())
            .map_err(StorageError::file("forget the owner in", &self.path))
    }
}

impl Drop for StorageLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a program that another thread is just starting holds a copy of it between
        // its fork and its exec, and with the copy the lock. There is nobody to tell of a failure, which closing mends.
        let _ = self.file.unlock();
    }
}

fn owner(record: &str) -> io::Result<Option<Owner>> {
    Owner::read(record).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_once_dropped_though_a_child_still_has_a_copy_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.1");
        let lock = StorageLock::take(&path).unwrap();
        let _copy = lock.file.try_clone().unwrap();
        assert!(matches!(StorageLock::take(&path), Err(StorageError::InUse { .. })));
        drop(lock);
        assert!(StorageLock::take(&path).is_ok());
    }
}
