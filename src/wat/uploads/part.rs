//! The files of uploads. Each has two with hidden names in the staging directory: `.upload-ID.json` says what it will be,
//! `.upload-ID.part` is what came so far. Whoever writes holds a lock on the latter, so processes may share the directory.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::storage::ImageName;

const PREFIX: &str = ".upload-";
/// As `di_import` has it.
const LONGEST_NAME: usize = 200;
/// What is read at a time to take up a checksum.
const CHUNK: usize = 1 << 20;

/// The staging directory, as far as this machine has it.
pub struct Staging {
    directory: PathBuf,
    /// Checksums of what came so far, by upload.
    sums: Mutex<HashMap<String, Sum>>,
}

/// Of so many bytes.
#[derive(Clone)]
struct Sum {
    context: Context,
    bytes: u64,
}

/// What an upload will be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::wat) struct Ticket {
    pub name: String,
    pub length: u64,
    pub sha256: Option<String>,
    /// A file that has the name may be replaced.
    pub overwrite: bool,
    /// Whose it is.
    pub administrator: i32,
    /// It has its name. Kept for those who did not hear of it.
    pub complete: bool,
    /// Where it is taken from; none: it is brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// Where a file is taken from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::wat) struct Source {
    pub url: String,
    /// The strong ETag or the Last-Modified of what is there in part.
    pub validator: Option<String>,
    /// Why it ended before it was whole.
    pub problem: Option<String>,
}

/// An upload and how much of it is there.
#[derive(Debug)]
pub(in crate::wat) struct Progress {
    pub ticket: Ticket,
    pub offset: u64,
}

/// Somebody who writes; nobody else does meanwhile.
pub(in crate::wat) struct Append {
    id: String,
    ticket: Ticket,
    file: File,
    sum: Sum,
}

/// One that has its name.
pub(in crate::wat) struct Finished {
    pub name: String,
    pub size: u64,
    pub sha256: String,
}

/// Why something is not taken or kept.
#[derive(Debug, Error)]
pub(in crate::wat) enum PartError {
    #[error("there is no such upload")]
    Missing,
    #[error("{0:?} cannot be the file name of a disk image; letters, digits and ._+-~@ are allowed")]
    Name(String),
    #[error("there is a file {0} already")]
    Taken(String),
    #[error("the next byte is that at offset {0}")]
    Offset(u64),
    #[error("another request is still bringing it")]
    Busy,
    #[error("that is more than was announced")]
    TooLong,
    #[error("there is no room for it on the storage; what is there is kept")]
    Full,
    #[error("its SHA-256 is {found} and not {wanted}; it was removed")]
    Checksum { wanted: String, found: String },
    #[error("this machine has no staging directory: {}", .0.display())]
    NoStorage(PathBuf),
    #[error("the staging directory: {0}")]
    Io(io::Error),
}

impl From<io::Error> for PartError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error),
        }
    }
}

impl Staging {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, sums: Mutex::default() }
    }

    /// Where it is, or would be.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether this machine has it.
    pub fn is_there(&self) -> bool {
        self.directory.is_dir()
    }

    fn sums(&self) -> MutexGuard<'_, HashMap<String, Sum>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of an upload. Ids are ours alone, so none leads anywhere else.
    fn path(&self, id: &str, ending: &str) -> Result<PathBuf, PartError> {
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PartError::Missing);
        }
        Ok(self.directory.join(format!("{PREFIX}{id}.{ending}")))
    }

    /// Begins an upload. Returns its id.
    pub(in crate::wat) fn create(&self, ticket: &Ticket) -> Result<String, PartError> {
        if ticket.name.len() > LONGEST_NAME || ImageName::parse(&ticket.name).is_err() {
            return Err(PartError::Name(ticket.name.clone()));
        }
        if !self.is_there() {
            return Err(PartError::NoStorage(self.directory.clone()));
        }
        if !ticket.overwrite && fs::symlink_metadata(self.directory.join(&ticket.name)).is_ok() {
            return Err(PartError::Taken(ticket.name.clone()));
        }
        self.has_room(ticket.length)?;
        let id = format!("{:032x}", rand::random::<u128>());
        OpenOptions::new().write(true).create_new(true).mode(0o640).open(self.path(&id, "part")?)?;
        self.note(&id, ticket)?;
        Ok(id)
    }

    fn note(&self, id: &str, ticket: &Ticket) -> Result<(), PartError> {
        let (path, new) = (self.path(id, "json")?, self.path(id, "new")?);
        fs::write(&new, serde_json::to_vec(ticket).map_err(io::Error::from)?)?;
        Ok(fs::rename(new, path)?)
    }

    pub(in crate::wat) fn progress(&self, id: &str) -> Result<Progress, PartError> {
        let missing = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => PartError::Missing,
            _ => error.into(),
        };
        let text = fs::read(self.path(id, "json")?).map_err(missing)?;
        let ticket: Ticket = serde_json::from_slice(&text).map_err(io::Error::from)?;
        let offset =
            if ticket.complete { ticket.length } else { fs::metadata(self.path(id, "part")?).map_err(missing)?.len() };
        Ok(Progress { ticket, offset })
    }

    /// Goes on at an offset, which is where it ended.
    pub(in crate::wat) fn append(&self, id: &str, offset: u64) -> Result<Append, PartError> {
        let Progress { ticket, .. } = self.progress(id)?;
        if ticket.complete {
            return Err(PartError::Offset(ticket.length));
        }
        let mut file = OpenOptions::new().read(true).append(true).open(self.path(id, "part")?)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(PartError::Busy),
            Err(fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        let length = file.metadata()?.len();
        if length != offset {
            return Err(PartError::Offset(length));
        }
        let known = self.sums().remove(id).filter(|sum| sum.bytes == offset);
        let sum = match known {
            Some(sum) => sum,
            // Another process took it, or this one before it died.
            None => read_sum(&mut file)?,
        };
        Ok(Append { id: id.to_owned(), ticket, file, sum })
    }

    /// Keeps what came, and how far its checksum is.
    pub(in crate::wat) fn pause(&self, append: Append) -> Result<(), PartError> {
        append.file.sync_data()?;
        self.sums().insert(append.id, append.sum);
        Ok(())
    }

    /// Gives it its name, if it is what was announced.
    pub(in crate::wat) fn finish(&self, append: &mut Append) -> Result<Finished, PartError> {
        let sum = append.sum.context.clone().finish();
        let found: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if let Some(wanted) = append.ticket.sha256.clone().filter(|wanted| *wanted != found) {
            if append.ticket.source.is_some() {
                // It can be tried again, from the beginning.
                append.truncate()?;
            } else {
                self.discard(&append.id)?;
            }
            return Err(PartError::Checksum { wanted, found });
        }
        append.file.sync_all()?;
        let (id, mut ticket) = (&append.id, append.ticket.clone());
        let (part, target) = (self.path(id, "part")?, self.directory.join(&ticket.name));
        if ticket.overwrite {
            fs::rename(&part, &target)?;
        } else {
            // Unlike a rename it replaces nothing.
            match fs::hard_link(&part, &target) {
                // By one who died before he noted it.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && is_same(&part, &target) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(PartError::Taken(ticket.name)),
                linked => linked?,
            }
        }
        File::open(&self.directory)?.sync_all()?;
        ticket.complete = true;
        self.note(id, &ticket)?;
        if !ticket.overwrite {
            fs::remove_file(&part)?;
        }
        Ok(Finished { name: ticket.name, size: ticket.length, sha256: found })
    }

    /// Removes one with what came of it.
    pub(in crate::wat) fn discard(&self, id: &str) -> Result<(), PartError> {
        self.sums().remove(id);
        for ending in ["part", "new", "json"] {
            match fs::remove_file(self.path(id, ending)?) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes those that nobody touched for so long.
    pub(in crate::wat) fn collect(&self, patience: Duration) -> Result<(), PartError> {
        if !self.is_there() {
            return Ok(());
        }
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some((id, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')) else { continue };
            let untouched = |ending| {
                let touched = fs::metadata(self.path(id, ending)?).and_then(|file| file.modified());
                Ok::<_, PartError>(
                    touched.is_ok_and(|touched| now.duration_since(touched).is_ok_and(|age| age > patience)),
                )
            };
            let part_is_there = self.path(id, "part").is_ok_and(|part| part.exists());
            if (untouched("part")? || !part_is_there && untouched("json")?) && !self.is_written(id) {
                tracing::info!(upload = id, "an upload that was not finished is removed");
                self.discard(id)?;
            }
        }
        Ok(())
    }

    /// Those that are taken from somewhere, and whether somebody does so now.
    pub(in crate::wat) fn downloads(&self) -> Result<Vec<(String, Progress, bool)>, PartError> {
        let mut found = Vec::new();
        if !self.is_there() {
            return Ok(found);
        }
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(".json")) else { continue };
            match self.progress(id) {
                Ok(progress) if progress.ticket.source.is_some() => {
                    let running = !progress.ticket.complete && self.is_written(id);
                    found.push((id.to_owned(), progress, running));
                }
                // Gone meanwhile, or no ticket of ours.
                _ => {}
            }
        }
        found.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        Ok(found)
    }

    /// Notes why it ended, unless it was given up.
    pub(in crate::wat) fn fail(&self, append: &mut Append, problem: &str) -> Result<(), PartError> {
        if append.is_discarded() {
            return Err(PartError::Missing);
        }
        if let Some(source) = &mut append.ticket.source {
            source.problem = Some(problem.to_owned());
        }
        self.note(&append.id, &append.ticket)
    }

    /// Whoever writes begins at this length; what came of another version is no part of it.
    pub(in crate::wat) fn begin(
        &self,
        append: &mut Append,
        length: u64,
        offset: u64,
        validator: Option<String>,
    ) -> Result<(), PartError> {
        if offset == 0 {
            self.has_room(length)?;
            append.truncate()?;
        }
        append.ticket.length = length;
        if let Some(source) = &mut append.ticket.source {
            source.validator = validator;
            source.problem = None;
        }
        self.note(&append.id, &append.ticket)
    }

    fn has_room(&self, length: u64) -> Result<(), PartError> {
        let room = nix::sys::statvfs::statvfs(&self.directory).map_err(io::Error::from)?;
        if length > room.blocks_available().saturating_mul(room.fragment_size()) {
            Err(PartError::Full)
        } else {
            Ok(())
        }
    }

    fn is_written(&self, id: &str) -> bool {
        let part = self.path(id, "part").ok().and_then(|part| File::open(part).ok());
        // Shared: others may look at the same time.
        part.is_some_and(|part| part.try_lock_shared().is_err())
    }
}

impl Append {
    /// Whether it was given up meanwhile.
    pub(in crate::wat) fn is_discarded(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }

    pub(in crate::wat) fn offset(&self) -> u64 {
        self.sum.bytes
    }

    pub(in crate::wat) fn name(&self) -> &str {
        &self.ticket.name
    }

    fn truncate(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.sum = Sum::new();
        Ok(())
    }

    pub(in crate::wat) fn write(&mut self, piece: &[u8]) -> Result<(), PartError> {
        if self.sum.bytes + piece.len() as u64 > self.ticket.length {
            return Err(PartError::TooLong);
        }
        if let Err(error) = self.file.write_all(piece) {
            // What has no checksum yet comes again.
            self.file.set_len(self.sum.bytes)?;
            return Err(error.into());
        }
        self.sum.context.update(piece);
        self.sum.bytes += piece.len() as u64;
        Ok(())
    }
}

impl Sum {
    fn new() -> Self {
        Self { context: Context::new(&SHA256), bytes: 0 }
    }
}

fn read_sum(file: &mut File) -> Result<Sum, PartError> {
    let mut sum = Sum::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(sum),
            Ok(length) => {
                sum.context.update(&chunk[..length]);
                sum.bytes += length as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::symlink_metadata(path).map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some_and(|found| identity(other) == Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staging() -> (tempfile::TempDir, Staging) {
        let directory = tempfile::tempdir().unwrap();
        let staging = Staging::new(directory.path().to_owned());
        (directory, staging)
    }

    fn ticket(name: &str) -> Ticket {
        let name = name.to_owned();
        Ticket { name, length: 4, sha256: None, overwrite: false, administrator: 1, complete: false, source: None }
    }

    #[test]
    fn what_nobody_touched_for_long_is_removed_and_what_is_written_stays() {
        let (_directory, staging) = staging();
        let (old, busy) = (staging.create(&ticket("a.tar")).unwrap(), staging.create(&ticket("b.tar")).unwrap());
        let writer = staging.append(&busy, 0).unwrap();
        staging.collect(Duration::from_secs(3600)).unwrap();
        assert_eq!(staging.progress(&old).unwrap().offset, 0);
        staging.collect(Duration::ZERO).unwrap();
        assert!(matches!(staging.progress(&old), Err(PartError::Missing)));
        assert!(staging.progress(&busy).is_ok());
        drop(writer);
    }

    #[test]
    fn one_writes_at_a_time_and_a_name_that_was_taken_meanwhile_is_not_taken_away() {
        let (directory, staging) = staging();
        let id = staging.create(&ticket("a.tar")).unwrap();
        let mut writer = staging.append(&id, 0).unwrap();
        assert!(matches!(staging.append(&id, 0), Err(PartError::Busy)));
        writer.write(b"four").unwrap();
        assert!(matches!(writer.write(b"!"), Err(PartError::TooLong)));
        fs::write(directory.path().join("a.tar"), "another's").unwrap();
        assert!(matches!(staging.finish(&mut writer), Err(PartError::Taken(_))));
        drop(writer);
        assert_eq!(fs::read(directory.path().join("a.tar")).unwrap(), b"another's");
        fs::remove_file(directory.path().join("a.tar")).unwrap();
        staging.finish(&mut staging.append(&id, 4).unwrap()).unwrap();
        assert_eq!(fs::read(directory.path().join("a.tar")).unwrap(), b"four");
        assert_eq!(staging.progress(&id).unwrap().offset, 4, "who did not hear of it is told");
    }
}
