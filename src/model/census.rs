//! What the database knows of all that can lie on a storage. Whoever looks through a storage measures by it; what is not in it
//! has no use any more, or did not get one yet.

use std::collections::HashMap;

use super::{DiId, Epoch, HomeOf, HostId, Owner, UserId, VmId};

/// VMs, images and nodes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// All VMs, and whether each is up or about to be.
    pub vms: HashMap<VmId, bool>,
    /// All users, and whether a VM of theirs is.
    pub users: HashMap<UserId, bool>,
    /// All images.
    pub images: Vec<CensusImage>,
    /// The life that each node is in.
    pub epochs: HashMap<HostId, Epoch>,
    /// All nodes use the same storage, so what is not on it is nowhere.
    pub one_storage: bool,
}

/// An image version.
#[derive(Clone, Debug)]
pub struct CensusImage {
    /// Its id.
    pub di: DiId,
    /// Name of its file.
    pub path: String,
    /// It can be used, so its file must be there.
    pub is_ready: bool,
    /// A node copies it, or will.
    pub is_coming: bool,
    /// A VM is up with it, or would start from it.
    pub is_used: bool,
    /// Bytes of its file, as it was when it was checked.
    pub size: Option<u64>,
    /// The same of its digest, in hexadecimal digits.
    pub sha256: Option<String>,
}

impl Census {
    /// Whether a VM is up, as far as the database knows.
    pub fn is_up(&self, vm: VmId) -> bool {
        self.vms.get(&vm).copied().unwrap_or(false)
    }

    /// Whether a home may be in use, as far as the database knows; `None`: whose it is is not on record.
    pub fn home(&self, of: HomeOf) -> Option<bool> {
        match of {
            HomeOf::Vm(vm) => self.vms.get(&vm).copied(),
            HomeOf::User(user) => self.users.get(&user).copied(),
        }
    }

    /// Whether an image version exists.
    pub fn has_image(&self, di: DiId) -> bool {
        self.images.iter().any(|image| image.di == di)
    }

    /// Whether what this owner had is nobody's: its node has begun another life, or is no more.
    pub fn is_over(&self, owner: &Owner) -> bool {
        self.epochs.get(&owner.host) != Some(&owner.epoch)
    }
}
