//! The root file system of a container: an image under a writable layer, or one of its own, mounted where only the shim and
//! what it starts see it. It is gone when the last of them is, so nobody has to unmount anything. The container's users may have other ids
//! than the node's; the disk keeps the owners that it has.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};

use super::idmap::{self, Ids};

/// Where a shim mounts it, in mounts of its own.
const AT: &str = "/run/qvd-root";

/// What to mount. Paths have no colons, commas and backslashes: mount options have no way to quote them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSpec {
    /// What it shows below the binds.
    pub tree: Tree,
    /// What is mounted below it, in this order. The places are there.
    pub binds: Vec<Bind>,
    /// The container's; `None`: those of the node.
    pub ids: Option<Ids>,
}

/// What a root file system is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// An image that stays as it is, under a layer.
    Layers {
        /// The unpacked image.
        image: PathBuf,
        /// Takes what the container writes; belongs to the container's ids.
        upper: PathBuf,
        /// The kernel's own directory beside it.
        work: PathBuf,
    },
    /// A copy of an image with the owners of the image, which takes what the container writes.
    Copy(PathBuf),
}

impl Tree {
    /// The directory that takes what the container writes.
    pub fn written(&self) -> &Path {
        match self {
            Self::Layers { upper, .. } => upper,
            Self::Copy(root) => root,
        }
    }
}

/// A directory or file of the node that a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the node.
    pub from: PathBuf,
    /// Below the container's root.
    pub to: PathBuf,
    /// The container cannot write to it.
    pub read_only: bool,
    /// Where the container has ids of its own, files have these in place of the node's. Not every file system can do that; tmpfs
    /// since Linux 6.3.
    #[serde(default)]
    pub mapped: bool,
}

impl RootSpec {
    /// A directory that the shim and what it starts see, and to which everybody may go, which LXC insists on.
    pub fn directory() -> &'static Path {
        Path::new(AT)
    }

    /// Where it is, for the shim and what it starts.
    pub fn path() -> PathBuf {
        Path::new(AT).join("root")
    }

    /// Mounts it. From here on the process sees mounts of its own; those that the node makes later still appear.
    pub(super) fn mount(&self) -> io::Result<()> {
        let mapping = self.ids.map(Ids::mapping).transpose()?;
        see_own_mounts()?;
        let (at, image, root) = (Path::new(AT), Path::new(AT).join("image"), Self::path());
        let everybody = fs::Permissions::from_mode(0o755);
        if !at.is_dir() {
            fs::create_dir_all(at)?;
            fs::set_permissions(at, everybody.clone())?;
        }
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755,size=64k"))?;
        for dir in [&image, &root] {
            fs::create_dir(dir)?;
            fs::set_permissions(dir, everybody.clone())?;
        }
        match &self.tree {
            Tree::Layers { image: lower, upper, work } => {
                idmap::mount(lower, &image, mapping.as_ref(), libc::MOUNT_ATTR_RDONLY)?;
                let [lower, upper, work] = [&image, upper, work].map(|path| path.display());
                mount_layers(&format!("lowerdir={lower},upperdir={upper},workdir={work}"), &root)?;
            }
            Tree::Copy(copy) => idmap::mount(copy, &root, mapping.as_ref(), libc::MOUNT_ATTR_NODEV)?,
        }
        for Bind { from, to, read_only, mapped } in &self.binds {
            let attributes = libc::MOUNT_ATTR_NODEV | if *read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
            idmap::mount(from, &root.join(to), mapping.as_ref().filter(|_| *mapped), attributes)?;
        }
        Ok(())
    }
}

/// Lets go of it, so that what it is made of can be unmounted. Nobody may use it any more.
pub(super) fn let_go() {
    // There may be none.
    let _ = umount2(AT, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
}

/// Whether the kernel and the file systems of these directories can do so. The process must end after it.
pub fn may_map(dirs: &[PathBuf]) -> io::Result<()> {
    let mapping = Ids { first: 1 << 16, count: 1 << 16 }.mapping()?;
    see_own_mounts()?;
    let on = |dir: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    for dir in dirs {
        idmap::mount(dir, dir, Some(&mapping), 0).map_err(|error| on(dir, error))?;
    }
    match dirs {
        [lower, .., upper] => {
            let layers = format!("lowerdir={}:{}", lower.display(), upper.display());
            mount_layers(&layers, lower).map_err(|error| on(lower, error))
        }
        _ => Ok(()),
    }
}

pub(super) fn see_own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    Ok(mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)?)
}

fn mount_layers(layers: &str, at: &Path) -> io::Result<()> {
    Ok(mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(layers))?)
}
