//! What hkd tells keeper, in a file below `path.run`: keeper has no database to ask.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::model::StorageId;

const FILE: &str = "keeper.json";

/// On which storage to give signs of life, and what one is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Root of the storage.
    pub root: PathBuf,
    /// The identity that it must have.
    pub storage: StorageId,
    /// For how long VMs may live after a sign of life, in milliseconds.
    pub limit_ms: u64,
}

impl Orders {
    /// For how long VMs may live after a sign of life.
    pub fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms)
    }

    /// The orders below `path.run`; `None` as long as hkd has not given any.
    pub fn read(run: &Path) -> io::Result<Option<Self>> {
        match fs::read(run.join(FILE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives them.
    pub fn write(&self, run: &Path) -> io::Result<()> {
        let unfinished = run.join(format!("{FILE}.new"));
        fs::write(&unfinished, serde_json::to_vec_pretty(self)?)?;
        fs::rename(unfinished, run.join(FILE))
    }

    /// An error unless the storage has the identity that it must have.
    pub fn check(&self) -> io::Result<()> {
        let found = fs::read_to_string(self.root.join(StorageId::FILE))?;
        if found.trim() == self.storage.as_str() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}
