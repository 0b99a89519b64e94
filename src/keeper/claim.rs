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
    /// Other shims of this node may have it, too.
    is_shared: bool,
}

impl Claim {
    /// Takes the lock and writes whose the VM is, unless somebody else is named there.
    pub fn take(path: &Path, owner: Option<&Owner>) -> Result<Self, ShimError> {
        let mut claim = Self { file: lock_soon(path)?, path: path.to_owned(), record: None, is_shared: false };
        if let Some(owner) = owner {
            claim.sign(owner)?;
            claim.file.sync_data().map_err(|source| ShimError::Make { path: path.to_owned(), source })?;
        }
        Ok(claim)
    }

    /// The same beside other shims of this node. The first of them writes whose it is, when nobody else has the lock; what says
    /// so is there before others can have it.
    pub fn share(path: &Path, owner: Option<&Owner>) -> Result<Self, ShimError> {
        let make = |source| ShimError::Make { path: path.to_owned(), source };
        let open = || OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
        let mut claim = Self { file: open().map_err(make)?, path: path.to_owned(), record: None, is_shared: true };
        let begin = Instant::now();
        loop {
            if taken(claim.file.try_lock()).map_err(make)? {
                if let Some(owner) = owner {
                    claim.sign(owner)?;
                }
                // Linux turns the one lock into the other without a gap, in which somebody who gives it up would take our name
                // for his own and wipe it out.
                claim.file.lock_shared().map_err(make)?;
                // Only now, for a storage may take long over it, and others are not to wait for the lock meanwhile.
                claim.file.sync_data().map_err(make)?;
                return Ok(claim);
            }
            if taken(claim.file.try_lock_shared()).map_err(make)? {
                let Some(owner) = owner else { return Ok(claim) };
                // While nothing is written, somebody is about to.
                if !claim.written()?.is_empty() {
                    claim.record = Some(claim.refuse_others(owner)?);
                    // Who wrote it may still be waiting for this.
                    claim.file.sync_data().map_err(make)?;
                    return Ok(claim);
                }
                claim.file.unlock().map_err(make)?;
            }
            if begin.elapsed() > MOMENT {
                return Err(ShimError::Locked { path: path.to_owned() });
            }
            thread::sleep(PAUSE);
        }
    }

    /// Writes whose it is, which lasts when it is synced.
    fn sign(&mut self, owner: &Owner) -> Result<(), ShimError> {
        let record = self.refuse_others(owner)?;
        self.file
            .write_all_at(record.as_bytes(), 0)
            .map_err(|source| ShimError::Make { path: self.path.clone(), source })?;
        self.record = Some(record);
        Ok(())
    }

    /// What stands there, or will, unless that is somebody else.
    fn refuse_others(&self, owner: &Owner) -> Result<String, ShimError> {
        let (former, record) = (self.written()?, owner.record());
        if !former.is_empty() && former != record {
            return Err(ShimError::Owned { path: self.path.clone(), owner: former.trim().to_owned() });
        }
        Ok(record)
    }

    fn written(&self) -> Result<String, ShimError> {
        fs::read_to_string(&self.path).map_err(|source| ShimError::Make { path: self.path.clone(), source })
    }

    /// Lets others have it, if it is still ours, and no other shim's of this node.
    pub fn give_up(&mut self) -> io::Result<()> {
        if self.is_shared {
            // Before it is tried, so that of two that do this at once the later has it.
            self.file.unlock()?;
            if !taken(self.file.try_lock())? {
                self.record = None;
                return Ok(());
            }
        }
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

fn taken(tried: Result<(), TryLockError>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
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
    fn what_shims_of_a_node_share_is_theirs_until_the_last_has_given_it_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.user-1");
        let read = || fs::read_to_string(&path).unwrap();
        let [mut first, mut second] = [(); 2].map(|()| Claim::share(&path, Some(&owner(1))).unwrap());
        let refused = Claim::share(&path, Some(&owner(2))).unwrap_err();
        assert!(matches!(refused, ShimError::Owned { .. }), "another node: {refused}");
        assert!(matches!(Claim::take(&path, Some(&owner(1))), Err(ShimError::Locked { .. })), "for itself alone");
        first.give_up().unwrap();
        drop(first);
        assert_eq!(read(), owner(1).record());
        let third = Claim::share(&path, Some(&owner(1))).unwrap();
        second.give_up().unwrap();
        drop(second);
        assert_eq!(read(), owner(1).record());
        drop(third);
        assert_eq!(read(), "");
        let alone = Claim::take(&path, Some(&owner(2))).unwrap();
        assert!(matches!(
            Claim::share(&path, Some(&owner(2))),
            Err(ShimError::Locked { .. } | ShimError::Owned { .. })
        ));
        drop(alone);
    }

    #[test]
    fn of_shims_that_begin_and_end_together_none_is_refused_and_the_last_leaves_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.user-1");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let claim = Claim::share(&path, Some(&owner(1))).unwrap();
                        assert_eq!(fs::read_to_string(&path).unwrap(), owner(1).record());
                        drop(claim);
                    }
                });
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
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
