//! Makes bridge, port and packet filter once in a network of its own, which is gone afterwards: whether this kernel and this
//! `nft` can do all that a node asks of them is tried and not read from their versions.

use std::{io, sync::Arc, time::Duration};

use nix::sched::{CloneFlags, unshare};
use tokio::time::timeout;

use super::{Network, NetworkError, links::Links};
use crate::{model::VmId, process::aside};

impl Network {
    /// The rehearsal. The network of the machine is not touched.
    ///
    /// # Errors
    /// What a node could not do here.
    pub async fn rehearse(&self, limit: Duration) -> Result<(), NetworkError> {
        // What the node's own remembers, and what its DHCP server reads, stays.
        let this = Self { state: Arc::default(), dhcp: None, ..self.clone() };
        // The namespace is that of the thread, and ends with it. What is late is dropped there, with the programs it runs.
        aside(move || this.perform(limit), limit * 2).await.ok_or_else(late)?
    }

    fn perform(&self, limit: Duration) -> Result<(), NetworkError> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let performed = async {
            self.prepare(&[]).await?;
            let vm = VmId(0);
            let plug = self.plan(vm, *self.subnet().vms().start())?;
            let links = Links::open()?;
            links.make_pair(&plug.host_end, "vm").await?;
            self.believe(&plug).await?;
            links.attach(&self.bridge, &plug).await
        };
        runtime.block_on(async { timeout(limit, performed).await.map_err(|_| late())? })
    }
}

fn late() -> NetworkError {
    failed(io::ErrorKind::TimedOut.into())
}

fn failed(source: io::Error) -> NetworkError {
    NetworkError::Link { doing: "make a VM network of its own, for", link: "trial".to_owned(), source }
}
