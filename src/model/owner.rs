//! Whose a home is while its VM runs: written into the file that is locked, because a lock says only that somebody has it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Epoch, HostId};

/// A node in one of its lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The node.
    pub host: HostId,
    /// Its life as the database counts it.
    pub epoch: Epoch,
    /// The boot of its machine.
    pub boot_id: String,
}

/// A record that nobody of us wrote, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no owner")]
pub struct NotAnOwner(String);

impl Owner {
    /// The owner that a record names; `None` for an empty one.
    pub fn read(record: &str) -> Result<Option<Self>, NotAnOwner> {
        match record.trim() {
            "" => Ok(None),
            text => serde_json::from_str(text).map(Some).map_err(|_| NotAnOwner(text.to_owned())),
        }
    }

    /// The record that names this owner.
    pub fn record(&self) -> String {
        let Self { host, epoch, boot_id } = self;
        format!("{{\"host\":{host},\"epoch\":{epoch},\"boot_id\":\"{boot_id}\"}}\n")
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} in epoch {}", self.host, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_the_owner_who_wrote_it_and_an_empty_one_nobody() {
        let owner = Owner { host: HostId(7), epoch: 3, boot_id: "b00t".to_owned() };
        assert_eq!(Owner::read(&owner.record()), Ok(Some(owner)));
        assert_eq!(Owner::read("\n"), Ok(None));
        assert!(Owner::read("{\"host\":7,\"ep").is_err());
    }
}
