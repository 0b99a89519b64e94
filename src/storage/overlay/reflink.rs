//! Copies of images that share their blocks with them, on file systems that have such files: XFS, btrfs, some over a network.
//! Every file is made anew, so a start takes the longer the more there are; some 6000 each third of a second.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{super::StorageError, Way, btrfs, layer::Layer};
use crate::{
    process::{ProcessError, Program, blocking},
    storage::Unpacked,
};

/// For a large image on slow storage; a start gives up before.
const LIMIT: Duration = Duration::from_secs(600);

/// A copy with blocks in common.
pub struct Copies {
    /// It must outlive a crash of the machine.
    pub kept: bool,
}

impl Way for Copies {
    const SUFFIX: &'static str = super::COPY;

    async fn make(&self, image: &Unpacked, place: &Path, _owner: u32) -> Result<Layer, StorageError> {
        if !place.is_dir() {
            copy(image.top(), place, self.kept).await?;
        }
        Ok(Layer::copy(image, place))
    }
}

async fn copy(from: &Path, place: &Path, kept: bool) -> Result<(), StorageError> {
    let unfinished = unfinished(place);
    let leftover = unfinished.clone();
    blocking(move || match btrfs::remove_dir_all(&leftover) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::file("remove", &leftover)(error)),
        _ => Ok(()),
    })
    .await?;
    let program = Program::new("cp").args(["--archive", "--reflink=always", "--no-target-directory"]);
    if let Err(error) = program.args([from, &unfinished]).limit(LIMIT).run().await {
        let going = unfinished.clone();
        // What cannot be removed now is by the next.
        blocking(move || drop(fs::remove_dir_all(going))).await;
        return Err(StorageError::Copy { path: place.to_owned(), problem: problem(&error) });
    }
    let place = place.to_owned();
    blocking(move || {
        // Then the rename must not reach the disk before the files do.
        let flushed =
            File::open(&unfinished).and_then(|dir| if kept { Ok(nix::unistd::syncfs(&dir)?) } else { Ok(()) });
        flushed.map_err(StorageError::file("write out", &unfinished))?;
        fs::rename(&unfinished, &place).map_err(StorageError::file("rename", &unfinished))
    })
    .await
}

fn unfinished(place: &Path) -> PathBuf {
    let mut name = OsString::from(place);
    name.push(".new");
    name.into()
}

/// Of each file that cannot be copied there is a line; the first tells why.
fn problem(error: &ProcessError) -> String {
    error.stderr().lines().find(|line| !line.trim().is_empty()).map_or_else(|| error.to_string(), str::to_owned)
}

/// Whether files of one directory can have blocks in common with those of another. Nothing stays of the trial.
pub fn can_share(from: &Path, to: &Path) -> bool {
    let try_it = || -> io::Result<()> {
        let (from, to): (File, File) = (tempfile::tempfile_in(from)?, tempfile::tempfile_in(to)?);
        Ok(rustix::fs::ioctl_ficlone(&to, &from)?)
    };
    try_it().is_ok()
}
