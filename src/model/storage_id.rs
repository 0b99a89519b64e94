//! Identity of a shared storage: written into its root once, recorded in the database, compared ever after.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Tells one storage from another, and from the empty directory that it is mounted on. A UUID in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorageId(String);

/// Not a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a UUID")]
pub struct NotAStorageId;

impl StorageId {
    /// File in the root of the storage that holds the identity.
    pub const FILE: &str = "storage.id";

    /// As the database writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StorageId {
    type Err = NotAStorageId;

    fn from_str(text: &str) -> Result<Self, NotAStorageId> {
        let shape = |(at, c): (usize, char)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        };
        let is_uuid = text.len() == 36 && text.char_indices().all(shape);
        if is_uuid { Ok(Self(text.to_ascii_lowercase())) } else { Err(NotAStorageId) }
    }
}

impl TryFrom<String> for StorageId {
    type Error = NotAStorageId;

    fn try_from(text: String) -> Result<Self, NotAStorageId> {
        text.parse()
    }
}

impl From<StorageId> for String {
    fn from(id: StorageId) -> Self {
        id.0
    }
}

impl fmt::Display for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_is_an_identity() {
        assert!("b5f1a3c2-0000-4000-8000-0123456789AB".parse::<StorageId>().is_ok());
        for nonsense in ["", "b5f1a3c2", "b5f1a3c2-0000-4000-8000-0123456789ag", "b5f1a3c200000-4000-8000-0123456789a"]
        {
            assert!(nonsense.parse::<StorageId>().is_err(), "{nonsense}");
        }
    }
}
