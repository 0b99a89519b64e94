//! Homes: what VMs keep from one run to the next. A home is that of one VM, or that of a user, whose VMs share it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

use super::{Room, Storage, StorageError, volume::beside};
use crate::model::{HomeOf, UserId, VmId};

/// Begins the names of what is a user's, where else the number of a VM is.
const USER: &str = "user-";

/// What the names of a home and of its lock are made of.
pub(super) fn name(of: HomeOf) -> String {
    match of {
        HomeOf::Vm(vm) => vm.to_string(),
        HomeOf::User(user) => format!("{USER}{user}"),
    }
}

/// The reverse; `None`: we never give this name.
pub(super) fn parse(name: &str) -> Option<HomeOf> {
    let number = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|c| c.is_ascii_digit()));
    match name.strip_prefix(USER) {
        Some(user) => number(user).map(UserId).map(HomeOf::User),
        None => number(name).map(VmId).map(HomeOf::Vm),
    }
}

/// Whether a lock is that of the home of a user.
pub fn is_lock_of_user(lock: &Path) -> bool {
    let name = lock.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("lock."));
    matches!(name.and_then(parse), Some(HomeOf::User(_)))
}

impl Storage {
    /// The file whose lock says that somebody uses a home of containers.
    pub fn home_lock(&self, of: HomeOf) -> PathBuf {
        self.homefs.join(format!("lock.{}", name(of)))
    }

    fn home_directory(&self, of: HomeOf) -> PathBuf {
        self.homefs.join(format!("{}-fs", name(of)))
    }

    /// The home of containers, made when missing; a directory then.
    pub fn home(&self, of: HomeOf) -> Result<Room, StorageError> {
        let path = self.home_directory(of);
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

    /// Whether several containers of one node may use a home at once: that of a user may be, unless it is a volume or, where
    /// homes are `limited`, becomes one.
    pub fn can_be_shared(&self, of: HomeOf, limited: bool) -> Result<bool, StorageError> {
        let path = self.home_directory(of);
        if matches!(of, HomeOf::Vm(_)) || beside(&path).is_file() {
            return Ok(false);
        }
        if !limited {
            return Ok(true);
        }
        match fs::read_dir(&path) {
            Ok(mut entries) => Ok(entries.next().is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StorageError::file("read", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;

    fn storage(dir: &Path) -> Storage {
        let mut config = Config::default();
        config.set("path.storage.root", dir.to_str().unwrap()).unwrap();
        let storage = Storage::new(&config);
        storage.prepare().unwrap();
        storage
    }

    #[test]
    fn a_home_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path());
        let (home, of) = (storage.homefs.join("1-fs"), HomeOf::Vm(VmId(1)));
        assert_eq!(storage.home(of).unwrap(), Room::Directory(home.clone()));
        fs::write(home.join("letter"), "x").unwrap();
        assert_eq!(storage.home(of).unwrap(), Room::Directory(home.clone()));
        assert!(home.join("letter").exists());

        fs::write(storage.homefs.join("2-fs"), "a file").unwrap();
        let error = storage.home(HomeOf::Vm(VmId(2))).unwrap_err();
        assert!(matches!(error, StorageError::Home { .. }), "{error}");
    }

    #[test]
    fn the_home_of_a_user_is_shared_as_long_as_it_is_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path());
        let of = HomeOf::User(UserId(1));
        let shared = |of| [false, true].map(|limited| storage.can_be_shared(of, limited).unwrap());
        assert_eq!(shared(HomeOf::Vm(VmId(1))), [false, false]);
        assert_eq!(shared(of), [true, false], "an empty one becomes a volume where there are limits");
        let home = storage.homefs.join("user-1-fs");
        assert_eq!(storage.home(of).unwrap(), Room::Directory(home.clone()));
        assert_eq!(shared(of), [true, false]);
        fs::write(home.join("letter"), "dear").unwrap();
        assert_eq!(shared(of), [true, true]);
        fs::write(storage.homefs.join("user-1-fs.ext4"), "").unwrap();
        assert_eq!(shared(of), [false, false]);
        assert!(is_lock_of_user(&storage.home_lock(of)) && !is_lock_of_user(&storage.home_lock(HomeOf::Vm(VmId(1)))));
    }
}
