//! Certificates the user has accepted, in the file that classic clients use: an object keyed `sha256$<fingerprint>`.
//! Besides the classic members an entry says for which servers it was accepted; members of others are kept.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ErrorNumbers, Finding, TrustError};

/// The accepted certificates.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Exceptions(Map<String, Value>);

#[derive(Serialize, Deserialize)]
struct Entry {
    algo: String,
    fingerprint: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    errors: ErrorNumbers,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    servers: BTreeSet<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Exceptions {
    /// Reads the file; none is an empty one.
    ///
    /// # Errors
    /// When it is there and cannot be read: a damaged file must not make changed certificates look like new ones.
    pub fn load(path: &Path) -> Result<Self, TrustError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(TrustError::Read { path: path.to_owned(), source }),
        };
        serde_json::from_slice(&text).map_err(|source| TrustError::Damaged { path: path.to_owned(), source })
    }

    /// Writes the file, complete or not at all, for its owner only.
    ///
    /// # Errors
    /// When file or directory cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Whether this certificate was accepted with at least these errors.
    pub fn cover(&self, fingerprint: &str, errors: &ErrorNumbers) -> bool {
        self.entry(fingerprint).is_some_and(|entry| entry.errors.is_superset(errors))
    }

    /// The fingerprint of another certificate that was accepted for this server.
    pub fn accepted_for(&self, server: &str, fingerprint: &str) -> Option<&str> {
        self.0.iter().find_map(|(key, value)| {
            let known = key.strip_prefix("sha256$").filter(|known| *known != fingerprint)?;
            let servers = value.get("servers")?.as_array()?;
            servers.iter().any(|name| name.as_str() == Some(server)).then_some(known)
        })
    }

    /// Accepts a certificate for a server, with the errors it has besides those it was accepted with before.
    pub fn add(&mut self, server: &str, finding: &Finding) {
        let mut entry = self.entry(&finding.fingerprint).unwrap_or(Entry {
            algo: "sha256".to_owned(),
            fingerprint: finding.fingerprint.clone(),
            description: finding.subject.clone(),
            errors: ErrorNumbers::new(),
            servers: BTreeSet::new(),
            others: Map::new(),
        });
        entry.errors.extend(&finding.errors);
        entry.servers.insert(server.to_owned());
        if let Ok(value) = serde_json::to_value(entry) {
            self.0.insert(key(&finding.fingerprint), value);
        }
    }

    fn entry(&self, fingerprint: &str) -> Option<Entry> {
        serde_json::from_value(self.0.get(&key(fingerprint))?.clone()).ok()
    }
}

fn key(fingerprint: &str) -> String {
    format!("sha256${fingerprint}")
}
