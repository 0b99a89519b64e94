//! Consoles of VMs on their way through the database: a node sends what administrators watch.

use std::time::Duration;

use crate::model::{Epoch, HostId, VmId};

use super::{Acting, Database, DbError};

/// A console that a node is to send.
#[derive(Clone, Debug)]
pub struct WantedConsole {
    /// Of which VM.
    pub vm: VmId,
    /// For how long, unless somebody goes on watching.
    pub left: Duration,
    /// The number of the file that was sent last, and how much of it the database has; `None`: nothing yet.
    pub sent: Option<(u64, u64)>,
}

/// What somebody who watches gets to see.
#[derive(Clone, Debug)]
pub struct Console {
    /// Whether the node has answered; there may be nothing to say.
    pub answered: bool,
    /// What was said, and not seen before.
    pub said: String,
    /// What to ask for next.
    pub last: i64,
}

impl Database {
    /// The consoles that a node is to send.
    pub async fn node_consoles(&self, host: HostId, epoch: Epoch) -> Result<Vec<WantedConsole>, DbError> {
        let connection = self.connection().await?;
        let statement =
            connection.prepare_cached("select vm, seconds_left, file, position from node_consoles($1, $2)").await?;
        let rows = connection.query(&statement, &[&host.0, &epoch]).await?;
        let wanted = rows.iter().map(|row| {
            let (file, position): (Option<i64>, i64) = (row.get(2), row.get(3));
            WantedConsole {
                vm: VmId(row.get(0)),
                left: Duration::try_from_secs_f64(row.get(1)).unwrap_or_default(),
                sent: file.map(|file| (file.cast_unsigned(), position.cast_unsigned())),
            }
        });
        Ok(wanted.collect())
    }

    /// Sends what a VM said; with that the database has so much of the file of this number. Says whether anybody watches.
    pub async fn node_console(
        &self,
        (host, epoch): (HostId, Epoch),
        vm: VmId,
        (file, position): (u64, u64),
        said: &str,
    ) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select node_console($1, $2, $3, $4, $5, $6)").await?;
        let (file, position) = (file.cast_signed(), position.cast_signed());
        Ok(connection.query_one(&statement, &[&host.0, &epoch, &vm.0, &file, &position, &said]).await?.get(0))
    }
}

impl Acting {
    /// Watches the console of a VM, which counts for a minute, and tells what was said after what was seen `last` (0: all that
    /// is kept).
    ///
    /// # Errors
    /// There is no such VM, it is not to be seen, or the database cannot be reached.
    pub async fn vm_console(&self, vm: i32, last: i64) -> Result<Console, DbError> {
        let answered = self.client().query_one("select qvd.vm_console_watch($1)", &[&vm]).await?.get(0);
        let pieces = self.client().query("select piece, said from qvd.vm_console($1, $2)", &[&vm, &last]).await?;
        Ok(Console {
            answered,
            said: pieces.iter().map(|piece| piece.get::<_, &str>(1)).collect(),
            last: pieces.last().map_or(last, |piece| piece.get(0)),
        })
    }

    /// What may be asked of a VM as it is now.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn vm_verbs(&self, vm: i32) -> Result<Vec<String>, DbError> {
        let verbs: Option<_> = self.client().query_one("select qvd.vm_verbs($1)", &[&vm]).await?.get(0);
        Ok(verbs.unwrap_or_default())
    }

    /// The VM that `login[@tenant]/vm` means.
    ///
    /// # Errors
    /// There is none, or more than one, or the database cannot be reached.
    pub async fn vm_id(&self, name: &str) -> Result<i32, DbError> {
        Ok(self.client().query_one("select qvd.vm_id($1)", &[&name]).await?.get(0))
    }
}
