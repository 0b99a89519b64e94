//! From a file in the staging directory to a disk image. What lies under an image's name is whole, checked and on the disk:
//! until then it has a name of its own, and the next who makes the same image removes what a dead one left of it.
//! Whose turn it is, is the database's to know; a lock only keeps two from writing at once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::SystemTime,
};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::{ImageName, Kind, Storage, StorageError, StorageLock, examine, remove_file};
use crate::model::DiId;

/// How much is read at a time, which is also how soon the work is given up.
const CHUNK: usize = 1 << 20;
/// Begins the names of what is not an image yet.
pub(super) const UNFINISHED: &str = ".import-";

/// A file that could become an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was written last.
    pub modified: SystemTime,
    /// What its first bytes say.
    pub kind: Option<Kind>,
}

/// What is to be made of which file.
#[derive(Clone, Debug)]
pub struct Import {
    /// The image version.
    pub di: DiId,
    /// The file in the staging directory.
    pub source: ImageName,
    /// The file name of the image.
    pub target: ImageName,
    /// The file shall not stay in the staging directory.
    pub moves: bool,
}

/// How far the work is, and whether it shall go on. Shared with the thread that does it.
#[derive(Debug, Default)]
pub struct Course {
    done: AtomicU64,
    total: AtomicU64,
    given_up: AtomicBool,
}

impl Course {
    /// In percent of the bytes.
    pub fn percent(&self) -> f32 {
        let total = self.total.load(Ordering::Relaxed).max(1);
        // A file may grow under our eyes, which is an error in the end.
        (self.done.load(Ordering::Relaxed) as f32 / total as f32 * 100.0).min(100.0)
    }

    /// Ends the work soon.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Whether it shall end.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    fn advance(&self, bytes: usize) -> Result<(), StorageError> {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.is_given_up() { Err(StorageError::GivenUp) } else { Ok(()) }
    }
}

/// An image on its way. Dropping it removes what is not in its place.
#[derive(Debug)]
pub struct Brought {
    /// Where its content is now, to be examined there.
    pub path: PathBuf,
    /// Of the content, in hexadecimal digits.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    target: PathBuf,
    /// The file that does not stay when it is known that the image is ready.
    source: Option<PathBuf>,
    lock_path: PathBuf,
    _lock: StorageLock,
}

impl Storage {
    /// The files in the staging directory, by name. Hidden ones are still being copied by somebody.
    pub fn staged(&self) -> Result<Vec<Staged>, StorageError> {
        let failed = |source| StorageError::File { doing: "read", path: self.staging.clone(), source };
        let entries = match fs::read_dir(&self.staging) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // One that vanished meanwhile is not there.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && !name.starts_with('.') {
                let kind = examine::head(&entry.path()).ok().and_then(|(head, _)| Kind::of(&head));
                let modified = metadata.modified().map_err(failed)?;
                files.push(Staged { name, size: metadata.len(), modified, kind });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// Makes the directory of images, where nobody did yet.
    pub fn prepare_images(&self) -> Result<(), StorageError> {
        fs::create_dir_all(&self.images).map_err(StorageError::file("make the directory", &self.images))
    }

    /// Brings a file near its place: copied, or linked when it shall move and lies on the same file system. Takes up what
    /// had been finished before. Another who makes the same image is `InUse`. To be called where blocking is allowed.
    pub fn bring(&self, import: &Import, course: &Course) -> Result<Brought, StorageError> {
        let stem = format!("{UNFINISHED}{}", import.di);
        let lock_path = self.import_lock(import.di);
        let lock = StorageLock::take(&lock_path)?;
        let (source, target) = (self.staging.join(&import.source.0), self.images.join(&import.target.0));
        let mut brought = Brought {
            path: self.images.join(format!("{stem}.part-{:016x}", rand::random::<u64>())),
            sha256: String::new(),
            size: 0,
            target: target.clone(),
            source: import.moves.then(|| source.clone()),
            lock_path,
            _lock: lock,
        };
        // A name that nobody had: one who lost the lock without knowing writes into a file that is gone.
        self.remove_parts(&format!("{stem}."))?;
        if target.is_file() {
            // The file may be another by now.
            brought.source = brought.source.take().filter(|source| is_same(source, &target));
            brought.path = target;
            return brought.read(course);
        }
        if import.moves && fs::hard_link(&source, &brought.path).is_ok() {
            return brought.read(course);
        }
        let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&brought.path);
        let mut out = out.map_err(StorageError::file("make", &brought.path))?;
        (brought.sha256, brought.size) =
            digest(&source, course, |bytes| out.write_all(bytes).map_err(StorageError::file("write", &brought.path)))?;
        Ok(brought)
    }

    /// The file whose lock says that somebody makes an image; gone when nobody does.
    pub(super) fn import_lock(&self, di: DiId) -> PathBuf {
        self.images.join(format!("{UNFINISHED}{di}.lock"))
    }

    fn remove_parts(&self, prefix: &str) -> Result<(), StorageError> {
        let failed = |source| StorageError::File { doing: "read", path: self.images.clone(), source };
        for entry in fs::read_dir(&self.images).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) && name.contains(".part-") {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes the file of an image, if it is there.
    pub fn remove_image(&self, image: &ImageName) -> Result<(), StorageError> {
        remove_file(&self.images.join(&image.0))
    }

    /// Removes what was left by those who died over images that are no more.
    pub(super) fn remove_unfinished(&self, exists: impl Fn(&str) -> bool) -> Result<(), StorageError> {
        let failed = |source| StorageError::File { doing: "read", path: self.images.clone(), source };
        let entries = match fs::read_dir(&self.images) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            let Some(di) = name.strip_prefix(UNFINISHED).and_then(|rest| rest.split('.').next()) else { continue };
            let lock_path = self.images.join(format!("{UNFINISHED}{di}.lock"));
            if !exists(di)
                && let Ok(_lock) = StorageLock::take(&lock_path)
            {
                self.remove_parts(&format!("{UNFINISHED}{di}."))?;
                remove_file(&lock_path)?;
            }
        }
        Ok(())
    }
}

impl Brought {
    fn read(mut self, course: &Course) -> Result<Self, StorageError> {
        (self.sha256, self.size) = digest(&self.path, course, |_| Ok(()))?;
        Ok(self)
    }

    /// Gives it its name, for good. A file that is to move stays in the staging directory as well.
    pub fn place(&mut self) -> Result<(), StorageError> {
        let flush = |path: &Path| File::open(path).and_then(|file| file.sync_all());
        if self.path != self.target {
            flush(&self.path).map_err(StorageError::file("write out", &self.path))?;
            fs::rename(&self.path, &self.target).map_err(StorageError::file("rename", &self.path))?;
            self.path.clone_from(&self.target);
        }
        let dir = self.target.parent().unwrap_or(Path::new("/"));
        flush(dir).map_err(StorageError::file("write out", dir))
    }

    /// Ends a move, when it is known to everybody where the image is now.
    pub fn remove_source(self) -> Result<(), StorageError> {
        self.source.as_deref().map_or(Ok(()), remove_file)
    }

    /// Removes it from its place again, since it was deleted.
    pub fn withdraw(self) -> Result<(), StorageError> {
        remove_file(&self.target)
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        // What cannot be removed now is by the next, or with the image.
        if self.path != self.target {
            let _ = fs::remove_file(&self.path);
        }
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Reads a file that must not change meanwhile; hands on what it reads.
fn digest(
    path: &Path,
    course: &Course,
    mut each: impl FnMut(&[u8]) -> Result<(), StorageError>,
) -> Result<(String, u64), StorageError> {
    let failed = |source| StorageError::File { doing: "read", path: path.to_owned(), source };
    // What a link leads to is not the administrator's.
    let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path).map_err(failed)?;
    let before = file.metadata().map_err(failed)?;
    if !before.is_file() {
        return Err(failed(io::Error::new(ErrorKind::InvalidInput, "it is no file")));
    }
    course.done.store(0, Ordering::Relaxed);
    course.total.store(before.len(), Ordering::Relaxed);
    let (mut hash, mut size, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let length = match file.read(&mut chunk) {
            Ok(0) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            length => length.map_err(failed)?,
        };
        hash.update(&chunk[..length]);
        each(&chunk[..length])?;
        size += length as u64;
        course.advance(length)?;
    }
    let after = file.metadata().map_err(failed)?;
    if after.len() != size || after.modified().ok() != before.modified().ok() {
        return Err(StorageError::Changed { path: path.to_owned() });
    }
    Ok((hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), size))
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::symlink_metadata(path).map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some_and(|found| identity(other) == Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;

    fn storage(dir: &Path) -> (Storage, Import) {
        let mut config = Config::default();
        config.set("path.storage.root", dir.to_str().unwrap()).unwrap();
        let storage = Storage::new(&config);
        storage.prepare().unwrap();
        fs::write(storage.staging.join("desk.tar"), vec![7; 3 << 20]).unwrap();
        let name = |name| ImageName::parse(name).unwrap();
        (storage, Import { di: DiId(5), source: name("desk.tar"), target: name("5-desk.tar"), moves: false })
    }

    fn images(storage: &Storage) -> Vec<String> {
        let entries = fs::read_dir(&storage.images).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn of_two_at_once_one_is_told_that_the_other_is_at_it() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, import) = storage(dir.path());
        let mut first = storage.bring(&import, &Course::default()).unwrap();
        assert!(matches!(storage.bring(&import, &Course::default()), Err(StorageError::InUse { .. })));
        assert!(first.path.exists(), "the second took nothing from the first");
        first.place().unwrap();
        drop(first);
        assert_eq!(images(&storage), ["5-desk.tar"]);
    }

    #[test]
    fn one_that_lost_its_lock_without_knowing_spoils_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, import) = storage(dir.path());
        let mut slow = storage.bring(&import, &Course::default()).unwrap();
        // A storage that lost sight of a node frees its locks.
        fs::remove_file(&slow.lock_path).unwrap();
        let mut quick = storage.bring(&import, &Course::default()).unwrap();
        assert!(slow.place().is_err(), "what it wrote is gone");
        quick.place().unwrap();
        drop((slow, quick));
        assert_eq!(images(&storage), ["5-desk.tar"]);
        assert_eq!(fs::read(storage.images.join("5-desk.tar")).unwrap(), vec![7; 3 << 20]);
    }

    #[test]
    fn a_file_that_moves_stays_until_all_know_where_it_is_and_another_of_its_name_stays_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, mut import) = storage(dir.path());
        import.moves = true;
        let staged = storage.staging.join("desk.tar");
        let mut died = storage.bring(&import, &Course::default()).unwrap();
        died.place().unwrap();
        drop(died);
        assert!(staged.exists());
        storage.bring(&import, &Course::default()).unwrap().remove_source().unwrap();
        assert!(!staged.exists());
        fs::write(&staged, "the next version").unwrap();
        storage.bring(&import, &Course::default()).unwrap().remove_source().unwrap();
        assert!(staged.exists());
    }

    #[test]
    fn one_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for moves in [false, true] {
            let (storage, mut import) = storage(dir.path());
            import.moves = moves;
            let course = Course::default();
            course.give_up();
            assert!(matches!(storage.bring(&import, &course), Err(StorageError::GivenUp)));
            drop(storage.bring(&import, &Course::default()).unwrap());
            assert_eq!(images(&storage), Vec::<String>::new());
            assert!(storage.staging.join("desk.tar").exists());
        }
    }

    #[test]
    fn a_file_that_somebody_still_writes_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desk.tar");
        fs::write(&path, "first").unwrap();
        let result = digest(&path, &Course::default(), |_| {
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            if file.metadata().unwrap().len() < 20 {
                file.write_all(b"more").unwrap();
            } else {
                file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            }
            Ok(())
        });
        assert!(matches!(result, Err(StorageError::Changed { .. })), "{result:?}");
    }
}
