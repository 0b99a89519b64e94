//! What VMs are made of on disk: images and their unpacked form, writable layers, homes, and the locks between nodes.
//! The storage may be shared, so whatever two nodes could do at once is done under a lock file on the storage itself.
//! Nothing is mounted here, and which VM may use what is not decided here.

mod check;
mod collect;
mod disk;
mod examine;
mod home;
mod identity;
mod image;
mod lock;
mod overlay;
mod staging;
mod volume;

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use thiserror::Error;
use tracing::warn;

pub use check::{CheckOptions, Finding, FindingKind, Outcome, Remedy};
pub use disk::Disk;
pub use examine::{Examination, Kind, examine};
pub use home::is_lock_of_user;
pub use image::{ImageName, Unpacked};
pub use lock::StorageLock;
pub use overlay::Layer;
pub use staging::{Brought, Course, Import, Staged};
pub use volume::Room;

use crate::model::{
    StorageId,
    config::{Config, UnionKind, keys},
};
use crate::process::ProcessError;

/// The directories of the storage.
#[derive(Clone, Debug)]
pub struct Storage {
    root: PathBuf,
    staging: PathBuf,
    images: PathBuf,
    basefs: PathBuf,
    overlayfs: PathBuf,
    homefs: PathBuf,
    hosts: PathBuf,
    overlays: PathBuf,
    homes: PathBuf,
    union: UnionKind,
    /// Discarded layers are soon looked for, to be removed.
    removal_due: Arc<AtomicBool>,
}

/// Something on the storage that cannot be used. The text names the object; `hint` says what to do.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Not a name that an image may have.
    #[error("{name:?} cannot be the file name of a disk image")]
    ImageName {
        /// The name.
        name: String,
    },
    /// The image's file is not there.
    #[error("disk image {} does not exist", .path.display())]
    ImageMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The image is no tar archive, or a damaged one, or the disk is full.
    #[error("disk image {image} cannot be unpacked: {problem}")]
    Unpack {
        /// Name of the image.
        image: ImageName,
        /// What `tar` said last.
        problem: String,
        /// How `tar` ended.
        source: ProcessError,
    },
    /// The image holds no system that could be a desktop.
    #[error("disk image {image} has no {missing}")]
    ImageLacks {
        /// Name of the image.
        image: ImageName,
        /// The file that is missing.
        missing: &'static str,
    },
    /// The VM, or another one of its user, still runs somewhere.
    #[error("{} is locked: {} on this node or another", .path.display(), if is_lock_of_user(.path) {
        "another VM has this home of their user,"
    } else {
        "the VM still runs"
    })]
    InUse {
        /// The lock's file.
        path: PathBuf,
    },
    /// Not the storage that the node had; most often a share that is not mounted.
    #[error("{} does not carry the identity {recorded} of the storage that this node had{}", .path.display(),
        .found.as_ref().map(|found| format!(", but {found}")).unwrap_or_default())]
    Identity {
        /// Root of the storage.
        path: PathBuf,
        /// What the database remembers.
        recorded: StorageId,
        /// What is there.
        found: Option<StorageId>,
    },
    /// A file of the staging directory is another by now.
    #[error("{} changed while it was being read", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The work was given up half way because it was told to be.
    #[error("given up")]
    GivenUp,
    /// A disk of a KVM guest that cannot be made, or that QEMU does not take.
    #[error("the disk {} cannot be used: {problem}", .path.display())]
    Disk {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A volume that cannot be made, or not larger.
    #[error("the volume {} cannot be made so large: {problem}", .path.display())]
    Volume {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// What the VMs shall write to cannot be made there.
    #[error("VMs cannot have copies of their images in {}: {problem}", .path.display())]
    Overlay {
        /// The directory of layers.
        path: PathBuf,
        /// Why not.
        problem: &'static str,
    },
    /// A copy of an image was not completed.
    #[error("the image cannot be copied to {}: {problem}", .path.display())]
    Copy {
        /// The copy.
        path: PathBuf,
        /// What `cp` said.
        problem: String,
    },
    /// It is a copy of its image, which takes as much as there is.
    #[error("{} cannot be held to a size: it is a copy of the image, not a layer over it", .path.display())]
    Unlimited {
        /// The copy.
        path: PathBuf,
    },
    /// The home is no directory, or its storage is read-only.
    #[error("the home {} cannot be written", .path.display())]
    Home {
        /// The home.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory of the storage.
    #[error("cannot {doing} {}", .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl StorageError {
    /// What an administrator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ImageName { .. } => Some("rename the file; letters, digits and ._+-~@ are allowed"),
            Self::ImageMissing { .. } => Some("copy the image there or correct the path of the disk image"),
            Self::Unpack { problem, .. } if problem.contains("No space left") => Some("make room on the storage"),
            Self::Unpack { .. } => Some("copy the image again; it must be a tar archive, plain or gz, bz2, xz, zst"),
            Self::ImageLacks { missing, .. } if image::INITS.contains(missing) => {
                Some("install one in the image, or let it have the agent of the node")
            }
            Self::ImageLacks { .. } => Some("install it in the image (Debian: packages nxagent and xinit)"),
            Self::InUse { path } if is_lock_of_user(path) => Some(
                "stop that one first; only containers of one node, and not volumes, can have a home at the same time",
            ),
            Self::InUse { .. } => Some("stop it there first"),
            Self::Identity { .. } => {
                Some("mount it; if it was replaced, set storage_id of this node in table hosts to null")
            }
            Self::Disk { problem, .. } if problem.contains("No space left") => Some("make room on the storage"),
            Self::Disk { problem, .. } if problem.contains("is not installed") => {
                Some("install the package qemu-utils")
            }
            Self::Disk { .. } => {
                Some("copy it again; a home is restored from a backup, or mended with qemu-img check -r all")
            }
            Self::Volume { problem, .. } if problem.contains("is not installed") => {
                Some("install the package e2fsprogs")
            }
            Self::Volume { .. } => Some("give it more room, or set no limit"),
            Self::Overlay { .. } => Some(
                "set vm.lxc.unionfs.type = auto, or keep path.storage.basefs and path.storage.overlayfs on one file system \
                 with reflinks; images that were unpacked before are made anew when they are removed from basefs",
            ),
            Self::Copy { problem, .. } if problem.contains("No space left") => Some("make room on the storage"),
            Self::Copy { .. } => {
                Some("look into the log of the storage's file system, or set vm.lxc.unionfs.type = overlayfs")
            }
            Self::Unlimited { .. } => {
                Some("set vm.lxc.unionfs.type = overlayfs and remove it, or set vm.lxc.overlay.size = 0")
            }
            Self::File { source, .. } | Self::Home { source, .. }
                if source.kind() == io::ErrorKind::StaleNetworkFileHandle =>
            {
                Some("mount the storage anew on this node, or export it again on its server")
            }
            Self::Home { .. } => Some("make it a directory on storage mounted read-write"),
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room on the storage")
            }
            Self::Changed { .. } => Some("begin again when it is complete"),
            Self::GivenUp | Self::File { .. } => None,
        }
    }

    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }
}

impl Storage {
    /// The storage that the configuration names.
    pub fn new(config: &Config) -> Self {
        Self {
            root: config.get(&keys::PATH_STORAGE_ROOT),
            staging: config.get(&keys::PATH_STORAGE_STAGING),
            images: config.get(&keys::PATH_STORAGE_IMAGES),
            basefs: config.get(&keys::PATH_STORAGE_BASEFS),
            overlayfs: config.get(&keys::PATH_STORAGE_OVERLAYFS),
            homefs: config.get(&keys::PATH_STORAGE_HOMEFS),
            hosts: config.get(&keys::PATH_STORAGE_HOSTS),
            overlays: config.get(&keys::PATH_STORAGE_OVERLAYS),
            homes: config.get(&keys::PATH_STORAGE_HOMES),
            union: config.get(&keys::VM_LXC_UNIONFS),
            removal_due: Arc::default(),
        }
    }

    /// Makes the directories, and removes in the background what earlier runs marked for removal. What holds programs of
    /// images and VMs, some of them set-user-id, is closed to users of the node, to whom they would be just that.
    pub fn prepare(&self) -> Result<(), StorageError> {
        for dir in [&self.staging, &self.images, &self.basefs, &self.overlayfs, &self.homefs, &self.hosts] {
            std::fs::create_dir_all(dir).map_err(StorageError::file("make the directory", dir))?;
        }
        for dir in [&self.basefs, &self.overlayfs, &self.homefs] {
            if let Err(error) = close(dir) {
                warn!(dir = %dir.display(), %error, "users of this node may run what VMs have made set-user-id");
            }
        }
        self.remove_discarded();
        Ok(())
    }

    /// What containers see with other owners.
    pub fn mapped(&self) -> [PathBuf; 2] {
        [self.basefs.clone(), self.homefs.clone()]
    }

    /// Its root, which carries its identity.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the directory of the signs of life.
    pub fn make_hosts(&self) -> Result<(), StorageError> {
        std::fs::create_dir_all(&self.hosts).map_err(StorageError::file("make the directory", &self.hosts))
    }

    /// Where the nodes that share the storage give their signs of life.
    pub fn hosts(&self) -> &Path {
        &self.hosts
    }
}

/// Keeps others than owner and group out of a directory.
fn close(dir: &Path) -> io::Result<()> {
    const OTHERS: u32 = 0o007;
    let mode = std::fs::metadata(dir)?.permissions().mode();
    if mode & OTHERS == 0 { Ok(()) } else { std::fs::set_permissions(dir, Permissions::from_mode(mode & !OTHERS)) }
}

/// The names in a directory, those that are text; none where there is no such directory.
fn names(dir: &Path) -> Result<Vec<String>, StorageError> {
    let failed = |source| StorageError::File { doing: "read", path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

/// Removes a file, if it is there.
fn remove_file(path: &Path) -> Result<(), StorageError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::file("remove", path)(error)),
        _ => Ok(()),
    }
}
