//! Acts on findings. Everything that was decided before is asked again here, behind the lock.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    super::{
        Storage, StorageError, StorageLock,
        overlay::{discarded, remove_dir_all},
    },
    Finding, FindingKind, Guard, Outcome, Remedy,
    judge::{Hold, Use, use_of},
};
use crate::model::{Census, in_one_line};

/// The directory beside homes and layers that takes those of nobody.
const LOST: &str = "lost-and-found";

impl Storage {
    /// Does what the remedy says, if it still may. What the storage refuses is an outcome; that the database does not
    /// answer is an error.
    pub(super) fn repair<E: From<StorageError>>(
        &self,
        finding: &mut Finding,
        census: &mut impl FnMut() -> Result<Census, E>,
    ) -> Result<(), E> {
        if matches!(finding.remedy, Remedy::Nobody(_)) {
            return Ok(());
        }
        let outcome = match &finding.guard {
            Guard::Tree(stem) => self.remove_tree(stem, census)?,
            Guard::None => act(finding, None),
            Guard::Lock(path) | Guard::Owner(path, _) => match StorageLock::take(path) {
                Ok(lock) => match objection(&lock, path, census)? {
                    Ok(None) => match &finding.guard {
                        Guard::Owner(_, former) => lock.disown(former).map(|()| Outcome::Disowned),
                        _ => act(finding, Some(lock)),
                    },
                    Ok(Some(why)) => Ok(Outcome::Left(why)),
                    Err(error) => Err(error),
                },
                Err(StorageError::InUse { .. }) => Ok(Outcome::Left("somebody has its lock by now".to_owned())),
                Err(error) => Err(error),
            },
        };
        finding.outcome = Some(outcome.unwrap_or_else(|error| Outcome::Left(in_one_line(&error))));
        Ok(())
    }

    /// Removes what was unpacked from an image, unless a VM may run from it: one on record, or one that the database has
    /// forgotten.
    fn remove_tree<E: From<StorageError>>(
        &self,
        stem: &str,
        census: &mut impl FnMut() -> Result<Census, E>,
    ) -> Result<Result<Outcome, StorageError>, E> {
        let lock = match StorageLock::take(&self.tree_lock(stem)) {
            Ok(lock) => lock,
            Err(StorageError::InUse { .. }) => {
                return Ok(Ok(Outcome::Left("somebody is just unpacking it".to_owned())));
            }
            Err(error) => return Ok(Err(error)),
        };
        let known = census()?;
        match self.forgotten_run(&known) {
            Ok(None) => {}
            Ok(Some(vm)) => {
                let why = format!("VM {vm}, which is not up on record, may run from it");
                return Ok(Ok(Outcome::Left(why)));
            }
            Err(error) => return Ok(Err(error)),
        }
        let gone = self.retire(stem, &lock, Duration::ZERO, || Ok::<_, E>(use_of(stem, &census()?) == Use::Wanted))?;
        let wanted = || Outcome::Left("a VM wants it by now".to_owned());
        Ok(Ok(if gone { Outcome::Removed } else { wanted() }))
    }
}

/// Why what this lock guards, which we hold, is not dead after all. The database need not be asked about an empty record.
fn objection<E>(
    lock: &StorageLock,
    path: &Path,
    census: &mut impl FnMut() -> Result<Census, E>,
) -> Result<Result<Option<String>, StorageError>, E> {
    if matches!(lock.owner(), Ok(None)) {
        return Ok(Ok(None));
    }
    let known = census()?;
    Ok(Hold::written(path, &known).map(|hold| hold.objection().map(|(why, _)| why)))
}

fn act(finding: &Finding, lock: Option<StorageLock>) -> Result<Outcome, StorageError> {
    let path = &finding.path;
    match finding.remedy {
        Remedy::SetAside => return set_aside(path).map(Outcome::SetAside),
        // Its VM may start meanwhile.
        _ if matches!(finding.kind, FindingKind::OrphanLayer | FindingKind::OldLayer) => {
            let going = discarded(path, SystemTime::now());
            fs::rename(path, &going).map_err(StorageError::file("rename", path))?;
            drop(lock);
            remove(&going)
        }
        _ => remove(path),
    }
    .map(|()| Outcome::Removed)
}

/// Moves it into a directory with today's date, beside it, because only there a rename is sure to be enough.
fn set_aside(path: &Path) -> Result<PathBuf, StorageError> {
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let dir = path.with_file_name(LOST).join(today);
    fs::create_dir_all(&dir).map_err(StorageError::file("make the directory", &dir))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = std::iter::once(name.to_string()).chain((2..).map(|number| format!("{name}.{number}")));
    for place in names.map(|name| dir.join(name)) {
        if place.symlink_metadata().is_err() {
            return match fs::rename(path, &place) {
                Ok(()) => Ok(place),
                Err(error) => Err(StorageError::file("move away", path)(error)),
            };
        }
    }
    Ok(dir)
}

fn remove(path: &Path) -> Result<(), StorageError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::file("remove", path)(error)),
        _ => Ok(()),
    }
}
