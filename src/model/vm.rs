//! What a node needs to know to run one VM once.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

use super::{
    Agent, DiId, OsfId, TenantId, UserId, VmId, VmSecret,
    config::{Config, NetworkMode, keys},
};

/// Counts the lives of a node. Every write of a node's daemons names its epoch; bumping it takes their power away.
pub type Epoch = i64;

/// One VM as its start command found it. The claim of the command returns it whole, so that starting needs no
/// further question to the database.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// The VM.
    pub vm: VmId,
    /// Its name, which becomes the host name inside.
    pub name: String,
    /// The tenant of its owner.
    pub tenant: TenantId,
    /// Its owner.
    pub user: UserId,
    /// Login of the owner.
    pub login: String,
    /// What it is made from.
    pub osf: OsfId,
    /// Memory limit in MB.
    pub memory_mb: u32,
    /// Size of the home in MB; 0 means that the VM keeps nothing of its own.
    pub user_storage_mb: u32,
    /// Processors that it is given; `None`: as many as the configuration says.
    pub cpus: Option<u32>,
    /// The image version chosen for this run.
    pub di: DiId,
    /// File of the image below the images directory.
    pub di_path: String,
    /// Which agent it has, where the image leaves a choice.
    pub agent: Agent,
    /// Address inside the node's VM network.
    pub address: IpAddr,
    /// Shared with the agent of this run; `None` when the agent was started by a node that gives none.
    pub secret: Option<VmSecret>,
}

impl VmSpec {
    /// Whose home it uses, that outlives its runs: its own, or, if homes are `per_user`, its user's; `None`: it keeps nothing.
    pub fn home(&self, per_user: bool) -> Option<HomeOf> {
        let of = if per_user { HomeOf::User(self.user) } else { HomeOf::Vm(self.vm) };
        (self.user_storage_mb > 0).then_some(of)
    }
}

/// Whose a home is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HomeOf {
    /// That of one VM.
    Vm(VmId),
    /// That of all VMs of a user.
    User(UserId),
}

impl fmt::Display for HomeOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(vm) => write!(f, "VM {vm}"),
            Self::User(user) => write!(f, "user {user}"),
        }
    }
}

/// When a VM expires, as its agent is told: UTC, empty for never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// From when on its user is asked to log out.
    pub soft: String,
    /// When it is stopped.
    pub hard: String,
}

/// Where the parts of a running VM listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmPorts {
    /// The agent.
    pub vma: u16,
    /// nxagent, for the user's proxy.
    pub x: u16,
}

impl VmPorts {
    /// As configured: `internal.vm.port.vma`, and 4000 above the number of nxagent's display.
    pub fn of(config: &Config) -> Self {
        let x = u16::try_from(config.get(&keys::NXAGENT_DISPLAY).saturating_add(4000)).unwrap_or(u16::MAX);
        Self { vma: config.get(&keys::VM_PORT_VMA), x }
    }
}

/// Routers of one node that may listen for other nodes at the same time: one, and those that it replaced and that serve their
/// last users.
const NODE_PORTS: u16 = 8;

/// The UDP ports on which they do; `None` where all nodes share the VM network.
pub fn node_ports(config: &Config) -> Option<RangeInclusive<u16>> {
    (config.get(&keys::VM_NETWORK_MODE) == NetworkMode::Routed).then(|| {
        let first = config.get(&keys::L7R_NODE_PORT);
        first..=first.saturating_add(NODE_PORTS - 1)
    })
}
