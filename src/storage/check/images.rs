//! Images whose file is not there, or is not what it was.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    super::{ImageName, Storage, StorageError},
    Finding, FindingKind as Kind, Guard, Progress, Remedy,
};
use crate::model::{Census, CensusImage};

/// How much is read at a time.
const CHUNK: usize = 1 << 20;

const RESTORE: Remedy = Remedy::Nobody("copy it there again, or delete the image with di_delete");

impl Storage {
    /// Looks at the files of all images that can be used.
    pub(super) fn check_images(
        &self,
        known: &Census,
        checksums: bool,
        progress: Progress<'_>,
    ) -> Result<Vec<Finding>, StorageError> {
        let mut findings = Vec::new();
        for image in known.images.iter().filter(|image| image.is_ready) {
            if let Some((kind, why)) = self.fault(image, known.one_storage, checksums, progress)? {
                let path = self.images.join(&image.path);
                let bytes = fs::metadata(&path).map_or(0, |file| file.len());
                findings.push(Finding { kind, path, bytes, why, remedy: RESTORE, outcome: None, guard: Guard::None });
            }
        }
        Ok(findings)
    }

    fn fault(
        &self,
        image: &CensusImage,
        one_storage: bool,
        checksums: bool,
        progress: Progress<'_>,
    ) -> Result<Option<(Kind, String)>, StorageError> {
        let CensusImage { di, path: name, .. } = image;
        let Ok(parsed) = ImageName::parse(name) else {
            return Ok(Some((Kind::MissingImage, format!("no file can have the name that image {di} has"))));
        };
        let path = self.images.join(parsed.0);
        let size = match fs::metadata(&path) {
            Ok(file) if file.is_file() => file.len(),
            // Or the image of another storage.
            Err(error) if error.kind() == ErrorKind::NotFound && !one_storage => return Ok(None),
            Ok(_) => return Ok(Some((Kind::MissingImage, format!("image {di} is no file")))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Some((Kind::MissingImage, format!("image {di} has no file"))));
            }
            Err(error) => return Err(StorageError::file("read", &path)(error)),
        };
        if let Some(recorded) = image.size.filter(|recorded| *recorded != size) {
            return Ok(Some((Kind::WrongSize, format!("image {di} had {recorded} bytes and has {size}"))));
        }
        match image.sha256.as_ref().filter(|_| checksums) {
            Some(recorded) => {
                let found = sha256(&path, progress)?;
                let why = || format!("image {di} had the checksum {recorded} and has {found}");
                Ok((found != *recorded).then(|| (Kind::WrongChecksum, why())))
            }
            None => Ok(None),
        }
    }
}

fn sha256(path: &Path, progress: Progress<'_>) -> Result<String, StorageError> {
    let failed = |source| StorageError::File { doing: "read", path: path.to_owned(), source };
    let (mut file, mut hash) = (File::open(path).map_err(failed)?, Sha256::new());
    let (mut chunk, mut done) = (vec![0; CHUNK], 0);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => {
                hash.update(&chunk[..length]);
                done += length as u64;
                progress(path, done);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
