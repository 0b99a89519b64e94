//! Gives a container its IPv6 addresses, from outside. LXC does so, too, but then the kernel first makes sure for a second or two
//! that nobody else has them, and the VM is not reached meanwhile; here they are its own by rule (`sources`).

use std::{fs::File, io, net::IpAddr, time::Duration};

use nix::sched::{CloneFlags, setns};

use super::{Address, Network, NetworkError, Plug, links::Links};
use crate::process::aside;

/// What the interface is called inside.
const INTERFACE: &str = "eth0";
const LIMIT: Duration = Duration::from_secs(10);

impl Network {
    /// The addresses of `plug` that are of IPv6, in the network of one of the VM's processes. Repeatable.
    pub async fn settle_inside(&self, plug: &Plug, process: i32) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Link { doing: "enter the network of", link: plug.host_end.clone(), source };
        let namespace = File::open(format!("/proc/{process}/ns/net")).map_err(failed)?;
        let mut addresses = plug.addresses.clone();
        addresses.retain(|address| address.ip.is_ipv6());
        let settle = move || {
            // Of this thread, and so is all that it makes.
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(settle(&addresses)))
        };
        aside(settle, LIMIT).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?
    }
}

async fn settle(addresses: &[Address]) -> Result<(), NetworkError> {
    let links = Links::open()?;
    for Address { ip, prefix, gateway } in addresses {
        links.add_address(INTERFACE, *ip, *prefix).await?;
        if let IpAddr::V6(gateway) = gateway {
            links.add_gateway(INTERFACE, *gateway).await?;
        }
    }
    Ok(())
}
