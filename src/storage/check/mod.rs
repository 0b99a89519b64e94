//! What lies on the storage without use, and what should be there and is not. What the database knows (`Census`), locks and
//! the owners written into them decide; a repair acts on what is dead by all of them. Nothing of a user's is removed: it is set
//! aside. The storage is read before the database is asked, so what is made meanwhile is never taken for forgotten.

mod images;
mod judge;
mod repair;
mod size;
mod survey;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

use super::{Storage, StorageError};
use crate::model::{Census, Owner, VmId};

/// How a storage is looked through.
#[derive(Clone, Copy, Debug)]
pub struct CheckOptions {
    /// Acts on what is dead.
    pub repair: bool,
    /// Reads images from end to end.
    pub checksums: bool,
    /// VMs keep what they write outside their homes, so it is theirs.
    pub keeps_layers: bool,
    /// For how long unpacked images are kept after they were moved away.
    pub keeps_trees: Duration,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Where it is, or should be.
    pub path: PathBuf,
    /// What it takes of the disk.
    pub bytes: u64,
    /// Why it is thought so.
    pub why: String,
    /// What a repair does about it.
    pub remedy: Remedy,
    /// What a repair did; `None`: it was not asked to, or there is nothing that it could do.
    pub outcome: Option<Outcome>,
    #[serde(skip)]
    guard: Guard,
}

/// Kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// The home of a VM that is not on record.
    OrphanHome,
    /// What a VM wrote outside its home, which is not on record.
    OrphanLayer,
    /// The same of a VM that is, on an image that is not.
    OldLayer,
    /// A layer that was marked for removal long ago.
    DiscardedLayer,
    /// A disk or a volume that somebody began to make.
    UnfinishedDisk,
    /// A lock whose file names an owner who does not use it.
    StaleLock,
    /// An unpacked image that no VM uses.
    UnusedTree,
    /// An image that somebody began to unpack.
    UnfinishedTree,
    /// An image that somebody began to copy.
    UnfinishedImage,
    /// A file among the images that belongs to none.
    UnknownImage,
    /// A file in the staging directory that somebody began to copy.
    UnfinishedStaging,
    /// An image without its file.
    MissingImage,
    /// An image whose file has another length than it had.
    WrongSize,
    /// An image whose file has another content than it had.
    WrongChecksum,
}

/// What a repair does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// It is moved into the directory `lost-and-found` beside it.
    SetAside,
    /// It is removed.
    Remove,
    /// The owner is taken out of the file.
    Disown,
    /// Nothing; this is left to people.
    Nobody(&'static str),
}

/// What became of a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is where it was moved to.
    SetAside(PathBuf),
    /// It is gone.
    Removed,
    /// It names nobody any more.
    Disowned,
    /// It is as it was, and why.
    Left(String),
}

/// What must be had before something is touched.
#[derive(Clone, Debug, Default)]
enum Guard {
    /// Whoever comes first does it.
    #[default]
    None,
    /// The lock of this file, which names no owner that lives.
    Lock(PathBuf),
    /// The same, and the owner to be taken out of it.
    Owner(PathBuf, Owner),
    /// The lock of an unpacked image, no VM that the database has forgotten, and its word that nobody wants the image.
    Tree(String),
}

impl Finding {
    /// Whether it is no more.
    pub fn is_mended(&self) -> bool {
        matches!(self.outcome, Some(Outcome::SetAside(_) | Outcome::Removed | Outcome::Disowned))
    }
}

/// Says what is being looked at and how much of it has been seen, in bytes.
pub type Progress<'a> = &'a mut dyn FnMut(&std::path::Path, u64);

impl Storage {
    /// Looks through the storage and repairs it if that is wanted. `census` asks the database; also again before what it said
    /// is acted upon. To be called where blocking is allowed.
    pub fn check<E: From<StorageError>>(
        &self,
        options: CheckOptions,
        mut census: impl FnMut() -> Result<Census, E>,
        progress: Progress<'_>,
    ) -> Result<Vec<Finding>, E> {
        let found = self.survey()?;
        let known = census()?;
        let mut findings = Vec::new();
        for found in found {
            findings.extend(self.judge(found, &known, options)?);
        }
        // What was under way when it was seen may have come to its end before it was judged.
        findings.retain(|finding: &Finding| finding.path.symlink_metadata().is_ok());
        for finding in &mut findings {
            finding.bytes = size::on_disk(&finding.path, progress);
        }
        findings.extend(self.check_images(&known, options.checksums, progress)?);
        if options.repair {
            for finding in &mut findings {
                self.repair(finding, &mut census)?;
            }
        }
        Ok(findings)
    }

    /// A VM that may run though the database says that it does not, or does not know it.
    fn forgotten_run(&self, known: &Census) -> Result<Option<VmId>, StorageError> {
        for (lock, vm) in self.layer_locks()? {
            if !known.is_up(vm) && !judge::Hold::of(&lock, known)?.is_free() {
                return Ok(Some(vm));
            }
        }
        Ok(None)
    }
}
