//! Volumes: files with a file system in them, which hold what a container may write and no more. They do so on every storage
//! that holds files, also over a network, where quotas cannot be set. Nobody mounts them here: the shims do.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::warn;

use super::{Storage, StorageError, StorageLock, remove_file};
use crate::{
    model::{DiId, VmId},
    process::{ProcessError, Program, blocking},
};

/// Ends the names of volumes.
pub(super) const SUFFIX: &str = ".ext4";
/// The file system is made in moments, but the storage may be slow.
const LIMIT: Duration = Duration::from_secs(60);
/// The same of a look at every file in it.
const CHECK_LIMIT: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;

/// Where a container writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// As much as there is.
    Directory(PathBuf),
    /// As much as the volume in this file holds.
    Volume(PathBuf),
}

impl Storage {
    /// The volume that was kept of the last run of `vm` on image version `di`.
    pub fn kept_layer(&self, vm: VmId, di: DiId) -> Option<PathBuf> {
        Some(self.overlayfs.join(format!("{di}-{vm}-overlayfs{SUFFIX}"))).filter(|volume| volume.is_file())
    }

    /// A room that holds no more than `size_mb`. A volume that is smaller grows. A directory becomes a volume with what
    /// is in it; one that is not `kept` for the next run is made in less time. To be called with the lock of what it is
    /// for held, to the end.
    pub async fn limited(&self, room: Room, size_mb: u32, kept: bool) -> Result<Room, StorageError> {
        let size = u64::from(size_mb) * MIB;
        match room {
            Room::Volume(file) => grow(&file, size).await.map(|()| Room::Volume(file)),
            Room::Directory(content) => make(content, size, kept).await.map(Room::Volume),
        }
    }
}

/// The volume beside a directory.
pub(super) fn beside(directory: &Path) -> PathBuf {
    let mut name = OsString::from(directory);
    name.push(SUFFIX);
    name.into()
}

/// Makes a volume larger that nobody has mounted.
async fn grow(path: &Path, size: u64) -> Result<(), StorageError> {
    let file = path.to_owned();
    let locked = move || match file.metadata() {
        Ok(found) if found.len() > size => {
            warn!(volume = %file.display(), has_mb = found.len() / MIB, wanted_mb = size / MIB, "volumes never shrink");
            Ok(None)
        }
        Ok(found) if found.len() == size => Ok(None),
        Ok(_) => StorageLock::take_soon(&file).map(Some),
        Err(error) => Err(StorageError::file("read", &file)(error)),
    };
    let Some(_lock) = blocking(locked).await? else { return Ok(()) };
    // What this finds and cannot mend is said by the next.
    let _ = Program::new("e2fsck").args(["-f", "-p"]).args([path]).limit(CHECK_LIMIT).run().await;
    let resize = Program::new("resize2fs").args([path]).args([format!("{}M", size / MIB)]).limit(CHECK_LIMIT);
    let grown = resize.run().await.map(drop);
    grown.map_err(|error| StorageError::Volume { path: path.to_owned(), problem: problem(&error) })
}

/// Makes a volume with the content of a directory, which goes. It appears whole or not at all.
async fn make(content: PathBuf, size: u64, kept: bool) -> Result<PathBuf, StorageError> {
    let volume = beside(&content);
    let mut unfinished = volume.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let empty = unfinished.clone();
    blocking(move || {
        remove_file(&empty)?;
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&empty);
        file.and_then(|file| file.set_len(size)).map_err(StorageError::file("make", &empty))
    })
    .await?;
    // What users may fill has nothing set apart for root, and what is needed late is written late.
    let program =
        Program::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"]);
    // A journal is for the time after a crash.
    let program = program.args(["-O", if kept { "has_journal" } else { "^has_journal" }]);
    let made = program.args(["-d".as_ref(), content.as_os_str(), unfinished.as_os_str()]).limit(LIMIT).run().await;
    if let Err(error) = made {
        let _ = fs::remove_file(&unfinished);
        return Err(StorageError::Volume { path: volume, problem: problem(&error) });
    }
    blocking(move || {
        let flushed = File::open(&unfinished).and_then(|file| if kept { file.sync_all() } else { Ok(()) });
        flushed
            .and_then(|()| fs::rename(&unfinished, &volume))
            .map_err(StorageError::file("make the volume", &volume))?;
        fs::remove_dir_all(&content).map_err(StorageError::file("remove", &content))?;
        Ok(volume)
    })
    .await
}

/// What `mkfs` says is wrong: its last line, which tells more than the others.
fn problem(error: &ProcessError) -> String {
    match error.stderr().lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => line.trim().to_owned(),
        None if error.is_missing() => "a program of e2fsprogs is not installed".to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn a_directory_becomes_a_volume_that_takes_little_and_grows() {
        let dir = tempfile::tempdir().unwrap();
        let content = dir.path().join("7-fs");
        fs::create_dir(&content).unwrap();
        let mut config = crate::model::config::Config::default();
        config.set("path.storage.root", dir.path().to_str().unwrap()).unwrap();
        let storage = Storage::new(&config);
        fs::write(dir.path().join("7-fs.ext4.new"), "left by one who died").unwrap();
        let made = storage.limited(Room::Directory(content.clone()), 64, true).await.unwrap();
        let file = dir.path().join("7-fs.ext4");
        assert_eq!(made, Room::Volume(file.clone()));
        let metadata = file.metadata().unwrap();
        assert!(metadata.len() == 64 * MIB && metadata.blocks() * 512 < 8 * MIB, "{metadata:?}");
        assert!(!content.exists() && !dir.path().join("7-fs.ext4.new").exists());
        for (size, length) in [(128, 128 * MIB), (16, 128 * MIB)] {
            assert_eq!(storage.limited(made.clone(), size, true).await.unwrap(), made);
            assert_eq!(file.metadata().unwrap().len(), length, "it never shrinks");
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_made_says_why_and_leaves_all_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let content = dir.path().join("7-fs");
        fs::create_dir(&content).unwrap();
        fs::write(content.join("large"), vec![7; 4 << 20]).unwrap();
        let error = make(content.clone(), MIB, false).await.unwrap_err();
        assert!(matches!(&error, StorageError::Volume { .. }), "{error}");
        assert!(error.hint().is_some() && !error.to_string().contains('\n'), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{error}");
    }
}
