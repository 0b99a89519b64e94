//! What is to be thought of something on the storage.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    super::{ImageName, Storage, StorageError, StorageLock, collect::away_for, home},
    CheckOptions, Finding, FindingKind as Kind, Guard, Remedy,
    survey::{Found, Thing},
};
use crate::model::{Census, DiId, HomeOf, Owner};

/// What takes a moment is not found fault with before so long.
const MOMENT: Duration = Duration::from_secs(3600);
/// The same of what people copy.
const DAY: Duration = Duration::from_secs(24 * 3600);

const RUNS: Remedy = Remedy::Nobody("end it where it runs");
const LIVES: Remedy =
    Remedy::Nobody("if the VM does not run there, stop that node, or `qvd admin host release` it when it is off");
const ILLEGIBLE: Remedy = Remedy::Nobody("empty the file when you know that the VM does not run");

/// Who has a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nobody, and it names nobody, or one who is over.
    Free,
    /// Somebody who lives.
    Held,
    /// Nobody, but it names one who lives.
    Owned(Owner),
    /// Nobody, and what it says means nothing.
    Illegible(String),
}

impl Hold {
    /// Tries the lock for a moment.
    pub fn of(lock: &Path, known: &Census) -> Result<Self, StorageError> {
        match StorageLock::take_existing(lock) {
            Ok(Some(_taken)) => Ok(Self::written(lock, known)?),
            Ok(None) => Ok(Self::Free),
            Err(StorageError::InUse { .. }) => Ok(Self::Held),
            Err(error) => Err(error),
        }
    }

    /// What is written in the file; who has the lock is not asked, which might keep a VM from starting.
    pub fn written(lock: &Path, known: &Census) -> Result<Self, StorageError> {
        Ok(match owner(lock)? {
            Ok(Some(owner)) if !known.is_over(&owner) => Self::Owned(owner),
            Ok(_) => Self::Free,
            Err(why) => Self::Illegible(why),
        })
    }

    pub fn is_free(&self) -> bool {
        *self == Self::Free
    }

    /// Why what it guards is not dead, and what could be done.
    pub fn objection(&self) -> Option<(String, Remedy)> {
        Some(match self {
            Self::Free => return None,
            Self::Held => ("its lock is held, so it runs".to_owned(), RUNS),
            Self::Owned(owner) => (format!("its lock names {owner}, which lives"), LIVES),
            Self::Illegible(why) => (format!("its lock says {why}"), ILLEGIBLE),
        })
    }
}

fn owner(lock: &Path) -> Result<Result<Option<Owner>, String>, StorageError> {
    match fs::read_to_string(lock) {
        Ok(record) => Ok(Owner::read(&record).map_err(|error| error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ok(None)),
        Err(error) => Err(StorageError::file("read the owner in", lock)(error)),
    }
}

impl Storage {
    /// The finding that something is; `None`: it is as it should be.
    pub(super) fn judge(
        &self,
        Found { path, thing }: Found,
        known: &Census,
        options: CheckOptions,
    ) -> Result<Option<Finding>, StorageError> {
        let finding = |kind, why: String, remedy, guard| {
            Some(Finding { kind, path: path.clone(), bytes: 0, why, remedy, outcome: None, guard })
        };
        let old =
            |limit| fs::symlink_metadata(&path).and_then(|found| found.modified()).is_ok_and(|at| since(at) >= limit);
        let kept = if options.keeps_layers { Remedy::SetAside } else { Remedy::Remove };
        Ok(match thing {
            Thing::Home(of) => self.belonging(Kind::OrphanHome, &path, of, known, Remedy::SetAside)?,
            Thing::Layer(_, vm) if !known.vms.contains_key(&vm) => {
                self.belonging(Kind::OrphanLayer, &path, HomeOf::Vm(vm), known, kept)?
            }
            Thing::Layer(di, vm) if !known.has_image(di) && !known.is_up(vm) => {
                let why = format!("VM {vm} does not run, and image {di}, which it is a layer of, is not on record");
                finding(Kind::OldLayer, why, kept, Guard::Lock(lock_beside(&path, HomeOf::Vm(vm))))
            }
            Thing::Layer(..) => None,
            Thing::Discarded(at) if since(at) >= MOMENT => {
                let why = "it was to be removed, which nobody has done".to_owned();
                finding(Kind::DiscardedLayer, why, Remedy::Remove, Guard::None)
            }
            Thing::NewDisk(of) if known.home(of) != Some(true) && old(MOMENT) => {
                let why = format!("it was being made for {of}, {}", idle(of));
                finding(Kind::UnfinishedDisk, why, Remedy::Remove, Guard::Lock(lock_beside(&path, of)))
            }
            Thing::Lock(of) if known.home(of) != Some(true) => match owner(&path)? {
                Ok(None) => None,
                Ok(Some(former)) if known.is_over(&former) => {
                    let why = format!("of {of}, {}, it names {former}, which is over", idle(of));
                    finding(Kind::StaleLock, why, Remedy::Disown, Guard::Owner(path.clone(), former))
                }
                Ok(Some(living)) => {
                    let why = format!("of {of}, {}, it names {living}, which lives", idle(of));
                    finding(Kind::StaleLock, why, LIVES, Guard::None)
                }
                Err(why) => finding(Kind::StaleLock, why, ILLEGIBLE, Guard::None),
            },
            Thing::Tree(stem) => match use_of(&stem, known) {
                Use::Wanted => None,
                Use::NoVm(di) => {
                    let why = format!("no VM is up with image {di} or would start from it");
                    finding(Kind::UnusedTree, why, Remedy::Remove, Guard::Tree(stem))
                }
                Use::NoImage => {
                    let why = "no image on record has this name".to_owned();
                    finding(Kind::UnusedTree, why, Remedy::Remove, Guard::Tree(stem))
                }
            },
            Thing::Going(stem)
                if use_of(&stem, known) != Use::Wanted
                    && away_for(&path).is_ok_and(|away| away >= options.keeps_trees) =>
            {
                let why = "it was moved away to be removed, which nobody has done".to_owned();
                finding(Kind::UnusedTree, why, Remedy::Remove, Guard::Tree(stem))
            }
            Thing::Unpacking(stem) => {
                let lock = self.tree_lock(&stem);
                let why = "nobody has the lock of those who unpack".to_owned();
                match Hold::of(&lock, known)? {
                    Hold::Held => None,
                    _ => finding(Kind::UnfinishedTree, why, Remedy::Remove, Guard::Lock(lock)),
                }
            }
            Thing::Importing(di) if !known.images.iter().any(|image| image.di == di && image.is_coming) => {
                let lock = self.import_lock(di);
                let why = format!("nobody makes image {di} any more");
                match Hold::of(&lock, known)? {
                    Hold::Held => None,
                    _ => finding(Kind::UnfinishedImage, why, Remedy::Remove, Guard::Lock(lock)),
                }
            }
            Thing::Image(name) if !known.images.iter().any(|image| image.path == name) => finding(
                Kind::UnknownImage,
                "no image on record has this file".to_owned(),
                Remedy::Nobody("remove it, or make it an image with di_create"),
                Guard::None,
            ),
            Thing::Staging if old(DAY) => finding(
                Kind::UnfinishedStaging,
                "its name begins with a dot, and nobody has written to it for a day".to_owned(),
                Remedy::Nobody("rename it when it is complete, else remove it"),
                Guard::None,
            ),
            Thing::Discarded(_)
            | Thing::NewDisk(_)
            | Thing::Lock(_)
            | Thing::Going(_)
            | Thing::Importing(_)
            | Thing::Image(_)
            | Thing::Staging => None,
        })
    }

    /// What belongs to a VM or a user; nothing when that is on record.
    fn belonging(
        &self,
        kind: Kind,
        path: &Path,
        of: HomeOf,
        known: &Census,
        remedy: Remedy,
    ) -> Result<Option<Finding>, StorageError> {
        if known.home(of).is_some() {
            return Ok(None);
        }
        let lock = lock_beside(path, of);
        // A VM that is not on record is started by nobody, so nobody is kept from it.
        let (why, remedy) = match Hold::of(&lock, known)?.objection() {
            None => (format!("{of} is not on record, and nobody has its lock"), remedy),
            Some((but, remedy)) => (format!("{of} is not on record, but {but}"), remedy),
        };
        let guard = Guard::Lock(lock);
        Ok(Some(Finding { kind, path: path.to_owned(), bytes: 0, why, remedy, outcome: None, guard }))
    }
}

/// Homes and layers have their locks beside them.
fn lock_beside(path: &Path, of: HomeOf) -> PathBuf {
    path.with_file_name(format!("lock.{}", home::name(of)))
}

/// What is said of those whose home is not in use.
fn idle(of: HomeOf) -> &'static str {
    match of {
        HomeOf::Vm(_) => "which does not run",
        HomeOf::User(_) => "of whom no VM runs",
    }
}

/// Clocks of nodes may differ a little.
fn since(at: SystemTime) -> Duration {
    at.elapsed().unwrap_or_default()
}

/// What an unpacked image is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Wanted,
    NoVm(DiId),
    NoImage,
}

/// The use of what was unpacked from the images of this stem.
pub fn use_of(stem: &str, known: &Census) -> Use {
    let mut of = Use::NoImage;
    for image in &known.images {
        if ImageName::parse(&image.path).is_ok_and(|name| name.stem() == stem) {
            if image.is_used {
                return Use::Wanted;
            }
            of = Use::NoVm(image.di);
        }
    }
    of
}
