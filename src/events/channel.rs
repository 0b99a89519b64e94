//! The channels of NOTIFY and their names.

use std::{fmt, str::FromStr};

use crate::model::{HostId, VmId};

/// Where a wake-up was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// One node: a VM was assigned to it or taken from it, a command, a session of its L7R must end.
    Host(HostId),
    /// The node itself: an order for it, or one of its VMs expires at another time.
    Node(HostId),
    /// Whoever waits for this VM.
    Vm(VmId),
    /// Configuration and certificates.
    Config,
    /// The cluster's pulse.
    Beat,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "qvd_host_{host}"),
            Self::Node(host) => write!(f, "qvd_node_{host}"),
            Self::Vm(vm) => write!(f, "qvd_vm_{vm}"),
            Self::Config => f.write_str("qvd_config"),
            Self::Beat => f.write_str("qvd_beat"),
        }
    }
}

/// Not a channel of ours.
#[derive(Debug, PartialEq, Eq)]
pub struct NotOurs;

impl FromStr for Channel {
    type Err = NotOurs;

    fn from_str(name: &str) -> Result<Self, NotOurs> {
        match name {
            "qvd_config" => return Ok(Self::Config),
            "qvd_beat" => return Ok(Self::Beat),
            _ => {}
        }
        if let Some(id) = name.strip_prefix("qvd_host_") {
            return id.parse().map(|id| Self::Host(HostId(id))).map_err(|_| NotOurs);
        }
        if let Some(id) = name.strip_prefix("qvd_node_") {
            return id.parse().map(|id| Self::Node(HostId(id))).map_err(|_| NotOurs);
        }
        let id = name.strip_prefix("qvd_vm_").ok_or(NotOurs)?;
        id.parse().map(|id| Self::Vm(VmId(id))).map_err(|_| NotOurs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_others_are_not_ours() {
        let (host, vm) = (HostId(7), VmId(-1));
        for channel in [Channel::Host(host), Channel::Node(host), Channel::Vm(vm), Channel::Config, Channel::Beat] {
            assert_eq!(channel.to_string().parse(), Ok(channel));
        }
        assert_eq!("qvd_vm_x".parse::<Channel>(), Err(NotOurs));
    }
}
