//! Reads the directories of a storage. What a name means is decided here; what has a name that we never give is not ours.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::super::{
    ImageName, Storage, StorageError, collect::GOING, home, image::UNPACKING, names, overlay::DISCARDED,
    staging::UNFINISHED,
};
use crate::model::{DiId, HomeOf, VmId};

/// Something on the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    pub thing: Thing,
}

/// What it is, by its place and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    Home(HomeOf),
    Layer(DiId, VmId),
    /// A layer on its way out, and since when.
    Discarded(SystemTime),
    /// A disk, a volume or a copy of an image that is being made.
    NewDisk(HomeOf),
    /// The lock of homes or layers.
    Lock(HomeOf),
    Tree(String),
    /// One that was moved away.
    Going(String),
    Unpacking(String),
    Importing(DiId),
    Image(String),
    /// A file in the staging directory that is still being copied.
    Staging,
}

/// What names mean in a directory.
type Meaning = fn(&str) -> Option<Thing>;

impl Storage {
    /// Everything of ours but signs of life.
    pub(super) fn survey(&self) -> Result<Vec<Found>, StorageError> {
        let places: [(&Path, Meaning); 7] = [
            (&self.homefs, container_home),
            (&self.homes, guest_home),
            (&self.overlayfs, container_layer),
            (&self.overlays, guest_layer),
            (&self.basefs, tree),
            (&self.images, image),
            (&self.staging, staging),
        ];
        let mut found = Vec::new();
        for (dir, parse) in places {
            let ours = names(dir)?.into_iter().filter_map(|name| Some((parse(&name)?, dir.join(name))));
            found.extend(ours.map(|(thing, path)| Found { path, thing }));
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// The locks of the layers of all VMs that ever ran.
    pub(super) fn layer_locks(&self) -> Result<Vec<(PathBuf, VmId)>, StorageError> {
        let mut locks = Vec::new();
        for dir in [&self.overlayfs, &self.overlays] {
            locks.extend(names(dir)?.into_iter().filter_map(|name| match lock(&name)? {
                Thing::Lock(HomeOf::Vm(vm)) => Some((dir.join(name), vm)),
                _ => None,
            }));
        }
        Ok(locks)
    }
}

fn number<T: From<i32>>(digits: &str) -> Option<T> {
    let plain = digits.bytes().all(|c| c.is_ascii_digit());
    digits.parse().ok().filter(|_| plain).map(T::from)
}

fn pair(name: &str) -> Option<(DiId, VmId)> {
    let (di, vm) = name.split_once('-')?;
    Some((number(di)?, number(vm)?))
}

fn lock(name: &str) -> Option<Thing> {
    name.strip_prefix("lock.").and_then(home::parse).map(Thing::Lock)
}

fn container_home(name: &str) -> Option<Thing> {
    let of = |suffix| name.strip_suffix(suffix).and_then(home::parse);
    let home = of("-fs").or_else(|| of("-fs.ext4")).map(Thing::Home);
    home.or_else(|| of("-fs.ext4.new").map(Thing::NewDisk)).or_else(|| lock(name))
}

fn guest_home(name: &str) -> Option<Thing> {
    let of = |suffix| name.strip_suffix(suffix).and_then(home::parse);
    of("-data.qcow2").map(Thing::Home).or_else(|| of("-data.qcow2.new").map(Thing::NewDisk)).or_else(|| lock(name))
}

fn container_layer(name: &str) -> Option<Thing> {
    if let Some(rest) = name.strip_prefix(DISCARDED) {
        let since = rest.rsplit('-').next().and_then(|since| since.parse().ok()).unwrap_or(0);
        return Some(Thing::Discarded(UNIX_EPOCH + Duration::from_nanos(since)));
    }
    let of = |suffix| name.strip_suffix(suffix).and_then(pair);
    let layer =
        ["-overlayfs", "-overlayfs.ext4", "-rootfs"].into_iter().find_map(of).map(|(di, vm)| Thing::Layer(di, vm));
    let new = || {
        ["-overlayfs.ext4.new", "-rootfs.new"].into_iter().find_map(of).map(|(_, vm)| Thing::NewDisk(HomeOf::Vm(vm)))
    };
    layer.or_else(new).or_else(|| lock(name))
}

fn guest_layer(name: &str) -> Option<Thing> {
    let of = |suffix| name.strip_suffix(suffix).and_then(pair);
    let layer = of("-overlay.qcow2").map(|(di, vm)| Thing::Layer(di, vm));
    layer.or_else(|| of("-overlay.qcow2.new").map(|(_, vm)| Thing::NewDisk(HomeOf::Vm(vm)))).or_else(|| lock(name))
}

fn tree(name: &str) -> Option<Thing> {
    let of = |prefix| name.strip_prefix(prefix).map(str::to_owned);
    if let Some(stem) = of(GOING) {
        return Some(Thing::Going(stem));
    }
    if let Some(stem) = of(UNPACKING) {
        return Some(Thing::Unpacking(stem));
    }
    let stem = ImageName::parse(name).ok()?;
    Some(Thing::Tree(stem.to_string()))
}

fn image(name: &str) -> Option<Thing> {
    if let Some(rest) = name.strip_prefix(UNFINISHED) {
        let (di, rest) = rest.split_once('.')?;
        return number(di).filter(|_| rest.starts_with("part-")).map(Thing::Importing);
    }
    (!name.starts_with('.')).then(|| Thing::Image(name.to_owned()))
}

fn staging(name: &str) -> Option<Thing> {
    name.starts_with('.').then_some(Thing::Staging)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UserId;

    #[test]
    fn names_mean_what_those_who_gave_them_meant_and_others_nothing() {
        assert_eq!(container_home("7-fs"), Some(Thing::Home(HomeOf::Vm(VmId(7)))));
        assert_eq!(container_home("7-fs.ext4"), Some(Thing::Home(HomeOf::Vm(VmId(7)))));
        assert_eq!(container_home("7-fs.ext4.new"), Some(Thing::NewDisk(HomeOf::Vm(VmId(7)))));
        assert_eq!(container_layer("2-7-overlayfs.ext4"), Some(Thing::Layer(DiId(2), VmId(7))));
        assert_eq!(container_layer("2-7-overlayfs.ext4.new"), Some(Thing::NewDisk(HomeOf::Vm(VmId(7)))));
        assert_eq!(container_layer("2-7-rootfs"), Some(Thing::Layer(DiId(2), VmId(7))));
        assert_eq!(container_layer("2-7-rootfs.new"), Some(Thing::NewDisk(HomeOf::Vm(VmId(7)))));
        assert_eq!(container_home("lock.7"), Some(Thing::Lock(HomeOf::Vm(VmId(7)))));
        let user = HomeOf::User(UserId(7));
        assert_eq!(container_home("user-7-fs"), Some(Thing::Home(user)));
        assert_eq!(container_home("user-7-fs.ext4.new"), Some(Thing::NewDisk(user)));
        assert_eq!(guest_home("user-7-data.qcow2"), Some(Thing::Home(user)));
        assert_eq!(container_home("lock.user-7"), Some(Thing::Lock(user)));
        for theirs in [
            "user-fs",
            "user-x-fs",
            "user--7-fs",
            "alice",
            "-fs",
            "+7-fs",
            "7-fs.old",
            "lost-and-found",
            "lock.x",
            "99999999999-fs",
        ] {
            assert_eq!(container_home(theirs), None, "{theirs}");
        }
        assert_eq!(guest_home("7-data.qcow2"), Some(Thing::Home(HomeOf::Vm(VmId(7)))));
        assert_eq!(guest_home("7-data.qcow2.new"), Some(Thing::NewDisk(HomeOf::Vm(VmId(7)))));
        assert_eq!(container_layer("2-7-overlayfs"), Some(Thing::Layer(DiId(2), VmId(7))));
        let second = UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(container_layer("deleteme-2-7-overlayfs-1000000000"), Some(Thing::Discarded(second)));
        assert_eq!(guest_layer("2-7-overlay.qcow2"), Some(Thing::Layer(DiId(2), VmId(7))));
        assert_eq!(guest_layer("2-7-overlay.qcow2.new"), Some(Thing::NewDisk(HomeOf::Vm(VmId(7)))));
        assert_eq!(tree("5-desk"), Some(Thing::Tree("5-desk".to_owned())));
        assert_eq!(tree("lock.5-desk"), None);
        assert_eq!(tree(".untar-5-desk"), Some(Thing::Unpacking("5-desk".to_owned())));
        assert_eq!(tree(".going-5-desk"), Some(Thing::Going("5-desk".to_owned())));
        assert_eq!(image("5-desk.tar"), Some(Thing::Image("5-desk.tar".to_owned())));
        assert_eq!(image(".import-5.part-00ff"), Some(Thing::Importing(DiId(5))));
        assert_eq!((image(".import-5.lock"), image(".hidden")), (None, None));
        assert_eq!((staging(".desk.tar.part"), staging("desk.tar")), (Some(Thing::Staging), None));
    }
}
