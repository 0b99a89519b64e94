//! Who the QEMU of a guest is on the node: an account for each guest, so that one that breaks out of its QEMU is nobody here and
//! to the others.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use nix::unistd::{Gid, Uid, chown};

use super::acceleration::Acceleration;
use crate::{keeper::Account, model::VmId};

/// As many ids are between those of two guests as a container has, so that no guest has one of a container.
const APART: u32 = 1 << 16;
/// Higher ones are negative to some programs.
const END: u32 = 1 << 31;

/// Through which a processor executes guests.
const KVM: &str = "/dev/kvm";

/// The account of a guest, where those begin with `first`; `None`: root. Two guests have the same only when there are more than
/// accounts.
pub fn of(first: u32, vm: VmId, acceleration: Acceleration) -> Option<Account> {
    let id = id(first, vm)?;
    let group = match acceleration {
        Acceleration::Kvm => fs::metadata(KVM).ok().map(|device| device.gid()),
        Acceleration::Tcg => None,
    };
    // Root's is not for those who are not root.
    Some(Account { id, groups: group.into_iter().filter(|group| *group != 0).collect() })
}

fn id(first: u32, vm: VmId) -> Option<u32> {
    let accounts = END.checked_sub(first)? / APART;
    let number = u32::try_from(vm.0).ok()?.checked_rem(accounts)?;
    (first > 0).then(|| first + number * APART)
}

/// Gives a file to an account.
pub fn give(path: &Path, account: &Account) -> io::Result<()> {
    Ok(chown(path, Some(Uid::from_raw(account.id)), Some(Gid::from_raw(account.id)))?)
}

/// Lets an account through a directory of root's.
pub fn let_through(dir: &Path, account: &Account) -> io::Result<()> {
    Ok(chown(dir, None, Some(Gid::from_raw(account.id)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_has_an_account_of_its_own_unless_all_are_root() {
        assert_eq!(id(1_000_000_000, VmId(1)), Some(1_000_065_536));
        assert_ne!(id(1_000_000_000, VmId(1)), id(1_000_000_000, VmId(2)));
        assert!(id(1_000_000_000, VmId(i32::MAX)).unwrap() < END);
        assert_eq!(id(0, VmId(1)), None);
    }
}
