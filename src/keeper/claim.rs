//! What a shim uses of the storage: the lock says that somebody uses it now, the record in the locked file says who. A storage
//! that loses sight of a node frees its locks and tells nobody, so the record is what counts, and whoever forgets one
//! looks first whether it is still his.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::shim::ShimError;
use crate::model::Owner;

/// For how long whoever looks through a storage may have a lock, and how often it is tried meanwhile.
const MOMENT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// A home or a layer in the hands of a VM. Dropped, it is given up.
#[derive(Debug)]
pub struct Claim {
    file: File,
    path: PathBuf,
    /// What was written there in our name; `None`: nothing, or it is to stay.
    record: Option<String>,
}

impl Claim {
    /// Takes the lock and writes whose the VM is, unless somebody else is named there.
    pub fn take(path: &Path, owner: Option<&Owner>) -> Result<Self, ShimError> {
        let mut claim = Self { file: lock_soon(path)?, path: path.to_owned(), record: None };
        let Some(owner) = owner else { return Ok(claim) };
        let make = |source| ShimError::Make { path: path.to_owned(), source };
        let former = fs::read_to_string(path).map_err(make)?;
        let record = owner.record();
        if !former.is_empty() && former != record {
            return Err(ShimError::Owned { path: path.to_owned(), owner: former.trim().to_owned() });
        }
        claim.file.write_all_at(record.as_bytes(), 0).and_then(|()| claim.file.sync_data()).map_err(make)?;
        claim.record = Some(record);
        Ok(claim)
    }

    /// Lets others have it, if it is still ours.
    pub fn give_up(&mut self) -> io::Result<()> {
        match self.record.take() {
            Some(record) if fs::read_to_string(&self.path)? == record => self.file.set_len(0),
            Some(_) | None => Ok(()),
        }
    }

    /// Leaves the record, for whoever has the time to give it up.
    pub fn keep(&mut self) {
        self.record = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A shim that does not get its VM started; there is nobody to tell of a failure, which hkd mends.
        let _ = self.give_up();
    }
}

/// The lock of this file, which somebody may have for a moment to look through the storage.
fn lock_soon(path: &Path) -> Result<File, ShimError> {
    let begin = Instant::now();
    loop {
        match lock(path.to_owned()) {
            Err(ShimError::Locked { .. }) if begin.elapsed() < MOMENT => thread::sleep(PAUSE),
            taken => return taken,
        }
    }
}

/// The lock of this file, held while it is open.
pub fn lock(path: PathBuf) -> Result<File, ShimError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    match file.map(|file| (file.try_lock(), file)) {
        Ok((Ok(()), file)) => Ok(file),
        Ok((Err(TryLockError::WouldBlock), _)) => Err(ShimError::Locked { path }),
        Ok((Err(TryLockError::Error(source)), _)) | Err(source) => Err(ShimError::Make { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostId;

    fn owner(host: i32) -> Owner {
        Owner { host: HostId(host), epoch: 4, boot_id: "boot".to_owned() }
    }

    #[test]
    fn what_is_given_up_is_nobodys_and_what_was_taken_meanwhile_stays_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.1");
        let read = || fs::read_to_string(&path).unwrap();
        Claim::take(&path, Some(&owner(1))).unwrap().give_up().unwrap();
        assert_eq!(read(), "");
        let mut ours = Claim::take(&path, Some(&owner(1))).unwrap();
        // The storage freed the lock, and another node came.
        fs::write(&path, owner(2).record()).unwrap();
        ours.give_up().unwrap();
        assert_eq!(read(), owner(2).record());
    }

    #[test]
    fn a_vm_that_does_not_get_started_is_given_up_and_one_whose_storage_hangs_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.1");
        drop(Claim::take(&path, Some(&owner(1))).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        let mut kept = Claim::take(&path, Some(&owner(1))).unwrap();
        kept.keep();
        drop(kept);
        assert_eq!(fs::read_to_string(&path).unwrap(), owner(1).record());
        assert!(matches!(Claim::take(&path, Some(&owner(2))), Err(ShimError::Owned { .. })));
    }
}
