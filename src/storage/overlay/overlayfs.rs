//! Layers of overlayfs: what takes the writes begins empty, and the kernel shows the image through it.

use std::{fs, path::Path};

use nix::{
    libc,
    sys::statfs::{FUSE_SUPER_MAGIC, FsType, NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, SMB_SUPER_MAGIC, statfs},
};

use super::{super::StorageError, Way, layer::Layer};
use crate::{process::blocking, storage::Unpacked};

/// The other file systems whose files are not this machine's: CIFS, SMB 2, 9P, Ceph (linux/magic.h).
const OTHERS: [libc::__fsword_t; 4] = [0xFF53_4D42, 0xFE53_4D42, 0x0102_1997, 0x00C3_6400];

/// An empty directory over the image.
pub struct Layers;

impl Way for Layers {
    const SUFFIX: &'static str = "overlayfs";

    async fn make(&self, _image: &Unpacked, place: &Path, owner: u32) -> Result<Layer, StorageError> {
        let place = place.to_owned();
        blocking(move || {
            for part in Layer::parts(&place) {
                fs::create_dir_all(&part).map_err(StorageError::file("make the directory", &part))?;
            }
            Layer::over(&place, owner)
        })
        .await
    }
}

/// Whether a directory can lie over an image in it: the kernel takes none for that from file systems that forget, or do
/// not take, what it notes of files.
pub fn carries_layers(dir: &Path) -> bool {
    let refused = [NFS_SUPER_MAGIC, FUSE_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, SMB_SUPER_MAGIC];
    // Where it cannot be told, the mount will tell.
    let Ok(found) = statfs(dir) else { return true };
    let kind = found.filesystem_type();
    !refused.contains(&kind) && !OTHERS.map(FsType).contains(&kind)
}
