//! How this node and others come together: in one VM network, or each with its own, over UDP ports of its own.

use std::{net::IpAddr, ops::RangeInclusive};

use nix::ifaddrs::getifaddrs;

use crate::model::{config::Config, node_ports};

use super::{
    finding::{Finding, Subject},
    ports::{Holder, udp_holders},
};

const MODE: Subject = Subject {
    name: "other nodes",
    why: "Users come to a VM through any node: over a network that nodes and VMs share, or through the VM's node.",
};

/// What was found where every node has a VM network of its own.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Of the router, for those of other nodes.
    pub ports: RangeInclusive<u16>,
    /// Who has them; one for each that is taken.
    pub holders: Vec<Holder>,
    /// The address by which other nodes find this one, if it is on record, and whether this machine has it.
    pub address: Option<(IpAddr, bool)>,
}

/// Looks at it; `None` where all share a network.
pub fn look(config: &Config, address: Option<IpAddr>) -> Option<Facts> {
    let ports = node_ports(config)?;
    let here = |wanted: IpAddr| {
        getifaddrs().into_iter().flatten().filter_map(|one| one.address).any(|own| {
            let own = own
                .as_sockaddr_in()
                .map(|own| IpAddr::from(own.ip()))
                .or_else(|| Some(own.as_sockaddr_in6()?.ip().into()));
            own == Some(wanted)
        })
    };
    let holders = ports.clone().filter_map(|port| udp_holders(port).into_iter().next()).collect();
    Some(Facts { ports, holders, address: address.map(|address| (address, here(address))) })
}

/// Judges it.
pub fn judge(facts: Option<&Facts>, file: &str) -> Finding {
    let Some(Facts { ports, holders, address }) = facts else {
        return MODE.good("flat: nodes and VMs share the VM network");
    };
    let (first, last) = (ports.start(), ports.end());
    if let Some((address, false)) = address {
        let mend = format!("sudo qvd node leave; sudo qvd node join --address …  # or ip addr add {address} dev …");
        return MODE.bad(format!("routed, but no interface has {address}, by which they know this one"), mend);
    }
    match holders.iter().find(|holder| !holder.is_ours()) {
        Some(other) if holders.len() > usize::from(last - first) => MODE.bad(
            format!("routed, but UDP {first} to {last} is taken, by {}", other.name()),
            format!("echo 'l7r.node.port = …' >> {file}"),
        ),
        Some(other) => MODE.tolerable(
            format!("routed, UDP {first} to {last}, of which {} has one", other.name()),
            format!("echo 'l7r.node.port = …' >> {file}  # or stop it"),
        ),
        None if holders.is_empty() => MODE.good(format!("routed, UDP {first} to {last} is free")),
        None => MODE.good(format!("routed, UDP {first} to {last} is served")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Grade, *};

    fn holder(command: &str) -> Holder {
        let command = command.split(' ').map(str::to_owned).collect();
        Holder { address: [0, 0, 0, 0].into(), process: Some((7, command)) }
    }

    #[test]
    fn it_is_good_while_a_port_is_to_be_had_and_the_address_is_there() {
        let facts = |holders: Vec<Holder>, here| Facts {
            ports: 8444..=8445,
            holders,
            address: Some(([192, 0, 2, 7].into(), here)),
        };
        let (ours, other) = (|| holder("/usr/bin/qvd l7r --config x"), || holder("dnsmasq"));
        let grade = |holders, here| judge(Some(&facts(holders, here)), "node.conf").grade;
        use Grade::{Bad, Good, Tolerable};
        assert_eq!(judge(None, "node.conf").grade, Good);
        assert_eq!([grade(vec![], true), grade(vec![ours(), ours()], true)], [Good, Good]);
        assert_eq!([grade(vec![other()], true), grade(vec![ours(), other()], true)], [Tolerable, Bad]);
        assert_eq!(grade(vec![], false), Bad);
    }

    #[test]
    fn a_port_that_is_taken_is_found() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        config.set("l7r.node.port", taken.local_addr().unwrap().port().to_string()).unwrap();
        assert!(look(&config, None).is_none());
        config.set("vm.network.mode", "routed").unwrap();
        let facts = look(&config, Some([127, 0, 0, 1].into())).unwrap();
        assert_eq!((facts.holders.is_empty(), facts.address), (false, Some(([127, 0, 0, 1].into(), true))));
    }
}
