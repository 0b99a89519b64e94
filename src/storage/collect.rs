//! Removes unpacked images that belong to no disk image any more. Whether one does is asked again after it has been moved
//! away, since an image may be made of the same file meanwhile; then it is moved back. A VM that is up keeps its image.
//! What was moved away is kept for a while: VMs may run from it that a database has forgotten, and do not mind the name.

use std::{
    collections::HashSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{ImageName, Storage, StorageError, StorageLock, overlay};

/// Begins the name of what is being removed; no image has such a name.
pub(super) const GOING: &str = ".going-";

impl Storage {
    /// Moves away what `known`, the paths of all images there are, does not account for, and removes it when it has been away
    /// for as long as `keep`. Returns the names of what went. What somebody is just unpacking is left alone. To be called
    /// where blocking is allowed.
    pub fn collect<E>(
        &self,
        keep: Duration,
        mut known: impl FnMut() -> Result<Vec<String>, E>,
    ) -> Result<Vec<String>, E>
    where
        E: From<StorageError>,
    {
        let paths = known()?;
        self.remove_unfinished(|di| {
            paths.iter().any(|path| path.strip_prefix(di).is_some_and(|rest| rest.starts_with('-')))
        })?;
        let stems = stems(&paths);
        let mut gone = Vec::new();
        for name in self.unpacked_names()? {
            // One that a collector was moving when it died is looked at like the others.
            let stem = name.strip_prefix(GOING).unwrap_or(&name);
            if stems.contains(stem) && stem == name {
                continue;
            }
            let Ok(lock) = StorageLock::take(&self.tree_lock(stem)) else { continue };
            if self.retire(stem, &lock, keep, || Ok::<_, E>(self::stems(&known()?).contains(stem)))? {
                gone.push(stem.to_owned());
            }
        }
        Ok(gone)
    }

    /// The file whose lock says that somebody unpacks an image, or moves away what was unpacked.
    pub(super) fn tree_lock(&self, stem: &str) -> PathBuf {
        self.basefs.join(format!("lock.{stem}"))
    }

    /// Moves an unpacked image away and, when it has been away for as long as `keep`, removes it; whether it did. One that
    /// turns out to be `wanted` is put back.
    pub(super) fn retire<E: From<StorageError>>(
        &self,
        stem: &str,
        _lock: &StorageLock,
        keep: Duration,
        mut wanted: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let (place, going) = (self.basefs.join(stem), self.basefs.join(format!("{GOING}{stem}")));
        if wanted()? {
            put_back(&going, &place)?;
            return Ok(false);
        }
        if place.is_dir() {
            discard(&going)?;
            fs::rename(&place, &going).map_err(StorageError::file("rename", &place))?;
            let away = fs::File::open(&going).and_then(|dir| dir.set_modified(SystemTime::now()));
            away.map_err(StorageError::file("note the time of", &going))?;
            if wanted()? {
                put_back(&going, &place)?;
                return Ok(false);
            }
        }
        let is_due = going.is_dir() && away_for(&going)? >= keep;
        if is_due {
            discard(&going)?;
        }
        Ok(is_due)
    }

    fn unpacked_names(&self) -> Result<Vec<String>, StorageError> {
        let failed = |source| StorageError::File { doing: "read", path: self.basefs.clone(), source };
        let entries = match fs::read_dir(&self.basefs) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_ours = ImageName::parse(name.strip_prefix(GOING).unwrap_or(&name)).is_ok();
            if is_ours && entry.file_type().map_err(failed)?.is_dir() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Since when it was moved away. Clocks of nodes may differ a little.
pub(super) fn away_for(going: &Path) -> Result<Duration, StorageError> {
    let modified = fs::metadata(going).and_then(|found| found.modified());
    Ok(modified.map_err(StorageError::file("read", going))?.elapsed().unwrap_or_default())
}

fn stems(paths: &[String]) -> HashSet<String> {
    paths.iter().filter_map(|path| Some(ImageName::parse(path).ok()?.stem().to_owned())).collect()
}

/// Whoever needed it meanwhile may have unpacked it again; then there are two.
fn put_back(going: &Path, place: &Path) -> Result<(), StorageError> {
    if place.is_dir() {
        return discard(going);
    }
    match fs::rename(going, place) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StorageError::file("rename", going)(error)),
        _ => Ok(()),
    }
}

fn discard(dir: &Path) -> Result<(), StorageError> {
    match overlay::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StorageError::file("remove", dir)(error)),
        _ => Ok(()),
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
        for name in ["desk", "old"] {
            fs::create_dir_all(storage.basefs.join(name).join("usr")).unwrap();
        }
        storage
    }

    #[test]
    fn an_image_that_is_made_of_the_same_file_meanwhile_keeps_what_was_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path());
        let old = storage.basefs.join("old");
        // It appears when this has been asked so often.
        for appears in [1, 2] {
            let mut asked = 0;
            let gone = storage.collect::<StorageError>(Duration::ZERO, || {
                asked += 1;
                assert_eq!(old.exists(), asked < 3, "it is moved away before it is asked for the last time");
                Ok(["desk.tar", "old.tar.zst"][..if asked > appears { 2 } else { 1 }]
                    .iter()
                    .map(ToString::to_string)
                    .collect())
            });
            assert_eq!(gone.unwrap(), Vec::<String>::new());
            assert!(old.join("usr").is_dir());
        }
        let gone = |keep| storage.collect::<StorageError>(keep, || Ok(vec!["desk.tar".to_owned()])).unwrap();
        for _ in 0..2 {
            assert_eq!(gone(Duration::from_secs(3600)), Vec::<String>::new());
            assert!(!old.exists() && storage.basefs.join(".going-old/usr").is_dir(), "it is kept aside");
        }
        assert_eq!(gone(Duration::ZERO), ["old"]);
        assert!(!storage.basefs.join(".going-old").exists() && storage.basefs.join("desk/usr").is_dir());
    }

    #[test]
    fn what_somebody_is_unpacking_is_left_alone_and_what_a_dead_collector_moved_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path());
        fs::create_dir_all(storage.basefs.join(".going-desk/usr")).unwrap();
        let lock = StorageLock::take(&storage.basefs.join("lock.old")).unwrap();
        let known = || Ok::<_, StorageError>(vec!["desk.tar".to_owned()]);
        assert_eq!(storage.collect(Duration::ZERO, known).unwrap(), Vec::<String>::new());
        assert!(storage.basefs.join("old").exists() && !storage.basefs.join(".going-desk").exists());
        drop(lock);
        fs::rename(storage.basefs.join("desk"), storage.basefs.join(".going-desk")).unwrap();
        assert_eq!(storage.collect(Duration::ZERO, known).unwrap(), ["old"]);
        assert!(storage.basefs.join("desk/usr").is_dir(), "its image exists, so it is back");
    }
}
