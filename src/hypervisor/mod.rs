//! How VMs are run: one trait, one implementation for each kind of VM.
//! A VM that was started lives under its own `vm-shim`, not under the daemon, so an implementation keeps nothing in
//! memory that a new daemon could not find again. When to start or stop what is not decided here; see `hkd`.

mod claims;
mod container;
mod dhcp;
mod guest;
mod kvm;
mod nothing;
mod shims;

use std::{fmt, io, net::IpAddr, path::PathBuf};

use futures_util::future::BoxFuture;
use thiserror::Error;

pub use container::{CgroupStanding, Cgroups, Container, may_map};
pub use kvm::{Kvm, QEMU, processor_runs_guests};
pub use nothing::{Nothing, Step};
use shims::failed;

use crate::model::{Epoch, HostId, VmId, VmSpec};

/// A kind of VM.
pub trait Hypervisor: Send + Sync {
    /// Brings the node into the state that VMs of this kind need: directories, bridge, packet filter. Repeatable.
    fn prepare_node(&self) -> BoxFuture<'_, Result<(), HypervisorError>>;

    /// Keeps what `prepare_node` did to the node as it is though others change it, until it is dropped.
    fn guard_node(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Lets the nodes with these addresses in and no others, where the node has its VM network for itself.
    fn know_nodes(&self, _: Vec<IpAddr>) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async { Ok(()) })
    }

    /// Takes back what `prepare_node` did to the node, as far as no VM still uses it.
    fn release_node(&self) -> BoxFuture<'_, Result<(), HypervisorError>>;

    /// Makes everything ready that may take long and holds nothing: unpacks the image. Repeatable, and safe while
    /// other nodes that share the storage do the same.
    fn prepare<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<(), HypervisorError>>;

    /// Makes home, overlay, interface and configuration, and starts the VM under its shim. Returns when the shim
    /// holds the VM, not when the agent answers. What an earlier run of the VM left is freed first.
    fn start<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<(), HypervisorError>>;

    /// Resolves when no process of the VM lives any more; at once when there is none.
    fn exited(&self, vm: VmId) -> BoxFuture<'static, Exit>;

    /// Asks the VM's system to shut down as the power button of a machine does. An error where there is none.
    fn press_power_button(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async move { Err(failed(format!("VM {vm} has no power button"), None, None)) })
    }

    /// Kills every process of the VM. Returns when the order is given; `exited` says when it is carried out.
    fn kill(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>>;

    /// Frees what a VM that exited left: mounts, interface, control groups, its directory under `path.run`.
    /// The home stays. Repeatable.
    fn clean(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>>;

    /// The VMs of this node that live under a shim, whoever started them, and those that left something to clean.
    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, HypervisorError>>;

    /// What VMs have of the memory that they were promised, where that changes while they run. Returns soon: those that do
    /// not say so are left out.
    fn memory(&self) -> BoxFuture<'_, Vec<(VmId, Memory)>> {
        Box::pin(async { Vec::new() })
    }

    /// The file that grows by what the VM says on its console, while there is one; renamed when it is large, and begun anew.
    fn console(&self, _: VmId) -> Option<PathBuf> {
        None
    }

    /// Whether an agent can be talked to inside; a simulated VM has none and counts as up once it is started.
    fn has_agent(&self) -> bool;
}

/// Knows whether the life of a node is over. Only the database does, which is none of a hypervisor's business.
pub trait Epochs: Send + Sync {
    /// Whether what `host` claimed in `epoch` binds nobody any more.
    fn is_over(&self, host: HostId, epoch: Epoch) -> BoxFuture<'_, Result<bool, HypervisorError>>;
}

/// A VM that a new daemon found on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The VM.
    pub vm: VmId,
    /// Its shim answers and its processes live; otherwise only leftovers are there.
    pub alive: bool,
}

/// Memory of a VM, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What it was promised, without what its balloon has taken back.
    pub given: u64,
    /// What of that its programs could still have, as its kernel says now and then; `None`: it has not said so.
    pub available: Option<u64>,
}

/// How a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its first process ended with this status.
    Status(i32),
    /// Its kernel failed.
    Panicked,
    /// Its first process was killed by this signal.
    Signal(i32),
    /// Its shim killed it, because the node could give no sign of life for so long that others may start it.
    Fenced,
    /// Its shim died or was never there, so nobody saw the end.
    Unseen,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(0) => f.write_str("it shut down"),
            Self::Status(status) => write!(f, "it exited with status {status}"),
            Self::Panicked => f.write_str("its kernel panicked"),
            Self::Signal(signal) => write!(f, "it was killed by signal {signal}"),
            Self::Fenced => f.write_str("its node could give no sign of life"),
            Self::Unseen => f.write_str("its supervising process died"),
        }
    }
}

/// A step that failed. The text is one sentence for an administrator; the cause is in the chain.
#[derive(Debug, Error)]
#[error("{what}{}", .hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default())]
pub struct HypervisorError {
    /// What could not be done to which object.
    pub what: String,
    /// What to do about it, when we know.
    pub hint: Option<String>,
    /// The cause, when it is not in the sentence.
    #[source]
    pub source: Option<io::Error>,
}
