//! Who may use a home. A lock says that somebody uses it now; the record in the locked file says who did last, and a lock
//! that was lost with its node's connection to the storage does not free what that node may still run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Epochs, HypervisorError, failed};
use crate::{
    model::{Owner, VmId},
    process::blocking,
    storage::{StorageError, StorageLock, is_lock_of_user},
};

/// In whose name homes and layers are used.
#[derive(Clone)]
pub struct Claims {
    /// This node in its present life.
    pub owner: Owner,
    /// Who knows whether a life is over.
    pub epochs: Arc<dyn Epochs>,
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.owner.fmt(f)
    }
}

impl Claims {
    /// Makes sure that nobody else can still be using what this lock, which we hold, guards: forgets the record of an owner
    /// whose epoch is over, and refuses for one that lives.
    pub async fn settle(&self, vm: VmId, lock: &StorageLock) -> Result<(), HypervisorError> {
        let Some(former) = lock.owner()? else { return Ok(()) };
        // What ran here is dead, or its shim would have the lock.
        if former.host != self.owner.host && !self.epochs.is_over(former.host, former.epoch).await? {
            return Err(refused(vm, lock.path(), &former));
        }
        Ok(lock.disown(&former)?)
    }

    /// The same of what other VMs of this node may be using, so that this one can, too. Nothing is held afterwards.
    pub async fn join(&self, vm: VmId, path: PathBuf) -> Result<(), HypervisorError> {
        let of = path.clone();
        match blocking(move || StorageLock::take_soon(&of)).await {
            Ok(lock) => self.settle(vm, &lock).await,
            Err(StorageError::InUse { .. }) => {
                let of = path.clone();
                match blocking(move || StorageLock::recorded(&of)).await? {
                    Some(owner) if owner == self.owner => Ok(()),
                    Some(owner) => Err(refused(vm, &path, &owner)),
                    None => Err(StorageError::InUse { path }.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets that the VM was ours, after the last of its processes died without its shim doing so.
    pub fn forget(&self, locks: &[PathBuf]) -> Result<(), StorageError> {
        for path in locks.iter().filter(|path| path.exists()) {
            match StorageLock::take(path) {
                Ok(lock) => match lock.owner()? {
                    Some(owner) if owner.host == self.owner.host => lock.disown(&owner)?,
                    // Somebody else's by now.
                    Some(_) | None => {}
                },
                Err(StorageError::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn refused(vm: VmId, lock: &Path, owner: &Owner) -> HypervisorError {
    let (what, hint) = if is_lock_of_user(lock) {
        (format!("the home of the user of VM {vm}"), "stop the user's VMs there first, or start this one there")
    } else {
        (format!("VM {vm}"), "it may still run there; stop it there first, or release that host")
    };
    failed(format!("{what} belongs to {owner}, which lives"), Some(hint), None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::model::{Epoch, HostId};

    /// Host 2 lives in epoch 5.
    struct Two;

    impl Epochs for Two {
        fn is_over(&self, host: HostId, epoch: Epoch) -> BoxFuture<'_, Result<bool, HypervisorError>> {
            Box::pin(async move { Ok((host, epoch) != (HostId(2), 5)) })
        }
    }

    fn owner(host: i32, epoch: Epoch) -> Owner {
        Owner { host: HostId(host), epoch, boot_id: "boot".to_owned() }
    }

    async fn settled(path: &Path, record: &str) -> Result<String, HypervisorError> {
        fs::write(path, record).unwrap();
        let lock = StorageLock::take(path).unwrap();
        Claims { owner: owner(1, 9), epochs: Arc::new(Two) }.settle(VmId(3), &lock).await?;
        Ok(fs::read_to_string(path).unwrap())
    }

    #[tokio::test]
    async fn a_home_is_refused_while_the_epoch_of_its_owner_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.3");
        let refused = settled(&path, &owner(2, 5).record()).await.unwrap_err();
        assert!(refused.to_string().contains("VM 3 belongs to host 2 in epoch 5, which lives"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), owner(2, 5).record(), "the record stays");
        assert_eq!(settled(&path, &owner(2, 4).record()).await.unwrap(), "", "that one is over");
        assert_eq!(settled(&path, &owner(1, 9).record()).await.unwrap(), "", "ours, and its shim is dead");
        assert_eq!(settled(&path, "").await.unwrap(), "");
        assert!(settled(&path, "{\"host\":2").await.is_err(), "who knows whose it is");
    }

    #[test]
    fn only_a_record_of_ours_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let locks = [dir.path().join("lock.1"), dir.path().join("lock.2"), dir.path().join("missing")];
        fs::write(&locks[0], owner(1, 9).record()).unwrap();
        fs::write(&locks[1], owner(2, 5).record()).unwrap();
        Claims { owner: owner(1, 9), epochs: Arc::new(Two) }.forget(&locks).unwrap();
        assert_eq!(fs::read_to_string(&locks[0]).unwrap(), "");
        assert_eq!(fs::read_to_string(&locks[1]).unwrap(), owner(2, 5).record());
        assert!(!locks[2].exists());
    }
}
