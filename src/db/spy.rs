//! Whose desktop an administrator may see in the web tool, and how its agent is asked for it.

use std::net::{IpAddr, SocketAddr};

use crate::model::VmSecret;

use super::{Acting, DbError};

/// The agent of a VM whose desktop is to be seen.
#[derive(Debug)]
pub struct SpiedAgent {
    /// Where it listens.
    pub address: SocketAddr,
    /// By what it knows who asks.
    pub secret: Option<VmSecret>,
}

impl Acting {
    /// Begins a look at a desktop, or more than a look, which the log says from then on.
    ///
    /// # Errors
    /// There is no such VM, it does not run, the administrator may not, or the database cannot be reached.
    pub async fn vm_spy(&self, vm: i32, interactive: bool) -> Result<SpiedAgent, DbError> {
        let query = "select address, port, secret from qvd.vm_spy($1, $2)";
        let row = self.client().query_one(query, &[&vm, &interactive]).await?;
        let (address, port): (Option<IpAddr>, Option<i32>) = (row.get(0), row.get(1));
        let port = port.and_then(|port| u16::try_from(port).ok());
        let (Some(address), Some(port)) = (address, port) else {
            return Err(DbError::Shape(format!("VM {vm} runs without an address")));
        };
        let secret: Option<Vec<u8>> = row.get(2);
        let secret = secret.and_then(|bytes| Some(VmSecret::new(bytes.try_into().ok()?)));
        Ok(SpiedAgent { address: SocketAddr::new(address, port), secret })
    }

    /// Whether it may go on, or begin.
    ///
    /// # Errors
    /// Why not, or the database cannot be reached.
    pub async fn vm_spy_check(&self, vm: i32, interactive: bool) -> Result<(), DbError> {
        self.client().query_one("select qvd.vm_spy_check($1, $2)", &[&vm, &interactive]).await?;
        Ok(())
    }
}
