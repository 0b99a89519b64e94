//! The VM network: whether it fits this machine, whether a node can make it here, and what else filters packets.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use nix::ifaddrs::getifaddrs;

use crate::{
    model::{
        config::{Config, keys},
        in_one_line, node_ports,
    },
    network::{Bridge, Network, NetworkError, Subnet},
    process::Program,
};

use super::{
    finding::{Finding, Subject},
    ports,
};

const LIMIT: Duration = Duration::from_secs(8);

const VM_NETWORK: Subject =
    Subject { name: "VM network", why: "Nodes and VMs have their addresses in it, so it must be nobody else's here." };
const BRIDGE: Subject = Subject { name: "bridge", why: "Every VM is a port of it." };
const REHEARSAL: Subject = Subject {
    name: "isolation",
    why: "Isolated ports and the packet filter keep VMs from each other and from the node.",
};
const FILTERS: Subject = Subject {
    name: "other filters",
    why: "Filters of others see the packets of users and VMs, too, and may drop them.",
};
const NAT: Subject = Subject { name: "way out", why: "VMs reach other networks through this interface." };
const LISTENING: Subject = Subject { name: "address", why: "The router cannot start on an address that is not there." };

/// An address of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub address: IpAddr,
    pub mask: IpAddr,
}

/// A chain of the packet filter that drops what it does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropping {
    pub family: String,
    pub table: String,
    pub chain: String,
    pub hook: String,
}

/// A network that could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub why: String,
    /// Whether it was the packet filter that could not.
    pub filter: bool,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The network as configured, if it is one, with its second one, and what its name of tables is.
    pub network: Result<(Vec<Subnet>, Option<String>), String>,
    pub bridge: Result<Bridge, String>,
    /// Whether a node can make its network here.
    pub rehearsal: Result<(), Failed>,
    pub interfaces: Vec<Interface>,
    /// Names of all interfaces.
    pub links: Vec<String>,
    pub filters: Result<Vec<Dropping>, String>,
}

/// An address that no node has, for documents (RFC 5737).
const NOBODYS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Looks at the network. Where the address of the node is not known, one that it could have stands for it.
pub async fn look(config: &Config, address: Option<IpAddr>) -> Facts {
    let address = address.unwrap_or_else(|| match config.get(&keys::VM_IP_START) {
        _ if node_ports(config).is_some() => NOBODYS,
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits().saturating_sub(1)).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().saturating_sub(1)).into(),
    });
    let hinted = |error: NetworkError| match error.hint() {
        Some(hint) => format!("{}; {hint}", in_one_line(&error)),
        None => in_one_line(&error),
    };
    let network = Network::new(config, address).map_err(hinted);
    let tried = async {
        match &network {
            Ok(network) => {
                let (bridge, rehearsal) = tokio::join!(network.bridge(), network.rehearse(LIMIT));
                let failed =
                    |error| Failed { filter: matches!(error, NetworkError::Firewall { .. }), why: hinted(error) };
                (bridge.map_err(hinted), rehearsal.map_err(failed))
            }
            Err(why) => (Err(why.clone()), Err(Failed { why: why.clone(), filter: false })),
        }
    };
    let ((bridge, rehearsal), filters) = tokio::join!(tried, filters());
    let mut links: Vec<String> = Vec::new();
    let mut interfaces = Vec::new();
    for one in getifaddrs().into_iter().flatten() {
        let ip = |address: Option<nix::sys::socket::SockaddrStorage>| {
            let address = address?;
            let of_ipv4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
            of_ipv4.or_else(|| Some(address.as_sockaddr_in6()?.ip().into()))
        };
        if let (Some(address), Some(mask)) = (ip(one.address), ip(one.netmask)) {
            interfaces.push(Interface { name: one.interface_name.clone(), address, mask });
        }
        links.push(one.interface_name);
    }
    let network = network.map(|network| (network.subnets(), network.table()));
    Facts { network, bridge, rehearsal, interfaces, links, filters }
}

async fn filters() -> Result<Vec<Dropping>, String> {
    let list = Program::new("nft").args(["--json", "list", "chains"]).limit(LIMIT).run().await;
    let list = list.map_err(|error| error.to_string())?;
    let list: serde_json::Value = serde_json::from_str(&list.stdout).map_err(|error| error.to_string())?;
    Ok(dropping(&list))
}

fn dropping(list: &serde_json::Value) -> Vec<Dropping> {
    let chains = list["nftables"].as_array().into_iter().flatten().map(|object| &object["chain"]);
    let word = |chain: &serde_json::Value, key: &str| chain[key].as_str().unwrap_or_default().to_owned();
    chains
        .filter(|chain| chain["policy"] == "drop" && (chain["hook"] == "input" || chain["hook"] == "forward"))
        .map(|chain| Dropping {
            family: word(chain, "family"),
            table: word(chain, "table"),
            chain: word(chain, "name"),
            hook: word(chain, "hook"),
        })
        .collect()
}

/// What the judgement depends on beside the facts.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub bridge: String,
    /// Through which VMs reach other networks.
    pub way_out: Option<String>,
    /// Which the router listens on; `None` for every one.
    pub listening: Option<IpAddr>,
    pub port: u16,
    /// The configuration file.
    pub file: String,
}

impl Wanted {
    pub fn new(config: &Config, ports: &ports::Wanted) -> Self {
        Self {
            bridge: config.get(&keys::VM_BRIDGE),
            way_out: Some(config.get(&keys::VM_NAT_IFACE)).filter(|name| !name.is_empty()),
            listening: ports.address,
            port: ports.port,
            file: ports.file.clone(),
        }
    }
}

/// Judges it.
pub fn judge(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let Wanted { bridge, file, .. } = wanted;
    let mut findings = vec![match &facts.network {
        Err(why) => VM_NETWORK.bad(why, format!("echo 'vm.network.ip.start = …' >> {file}")),
        Ok((subnets, _)) => {
            let text: Vec<String> = subnets.iter().map(ToString::to_string).collect();
            let text = text.join(" and ");
            let overlaps = |one: &&Interface| subnets.iter().any(|subnet| subnet.overlaps(one.address, one.mask));
            match facts.interfaces.iter().filter(|one| one.name != *bridge).find(overlaps) {
                Some(Interface { name, address, .. }) => VM_NETWORK.bad(
                    format!("{text}, in which {name} has {address}, too"),
                    format!("echo 'vm.network.ip.start = …' >> {file}  # and the addresses of nodes and VMs"),
                ),
                None => {
                    let first: Vec<String> = subnets.iter().map(|subnet| subnet.vms().start().to_string()).collect();
                    VM_NETWORK.good(format!("{text}, VMs from {}", first.join(" and ")))
                }
            }
        }
    }];
    if facts.network.is_ok() {
        findings.push(match &facts.bridge {
            Ok(Bridge::There) => BRIDGE.good(bridge),
            Ok(Bridge::Absent) => BRIDGE.good(format!("{bridge}, made when the node starts")),
            Ok(Bridge::Other) => BRIDGE.bad(
                format!("{bridge} is another kind of interface"),
                format!("echo 'vm.network.bridge = …' >> {file}"),
            ),
            Err(why) => BRIDGE.bad(why, "sudo qvd doctor"),
        });
        findings.push(match &facts.rehearsal {
            Ok(()) => REHEARSAL.good("bridge, isolated port and filter were made in a trial network"),
            Err(Failed { why, filter: true }) => REHEARSAL.bad(why, "apt-get install --reinstall nftables"),
            Err(Failed { why, filter: false }) => REHEARSAL.bad(why, "apt-get install linux-image-amd64 && reboot"),
        });
    }
    findings.push(filtered(facts, wanted));
    findings.push(match &wanted.way_out {
        None => NAT.good("none: VMs stay in their network"),
        Some(name) if facts.links.contains(name) => NAT.good(name),
        Some(name) => NAT.tolerable(
            format!("there is no interface {name}"),
            format!("ip -br link; echo 'vm.network.firewall.nat.iface = …' >> {file}"),
        ),
    });
    if let Some(address) = wanted.listening
        && !address.is_unspecified()
        && !facts.interfaces.iter().any(|one| one.address == address)
    {
        findings
            .push(LISTENING.bad(format!("no interface has {address}"), format!("echo 'l7r.address = *' >> {file}")));
    }
    findings
}

fn filtered(facts: &Facts, wanted: &Wanted) -> Finding {
    let ours = facts.network.as_ref().ok().and_then(|(_, table)| table.as_ref());
    let others = match &facts.filters {
        Ok(filters) => filters.iter().filter(|filter| Some(&filter.table) != ours),
        Err(why) => return FILTERS.tolerable(format!("not known: {why}"), "nft list ruleset"),
    };
    let others: Vec<&Dropping> = others.collect();
    let Some(first) = others.first() else { return FILTERS.good("none drops by default") };
    let names: Vec<String> =
        others.iter().map(|Dropping { family, table, chain, .. }| format!("{family} {table} {chain}")).collect();
    let Dropping { family, table, chain, hook } = first;
    let rule = match hook.as_str() {
        "input" => format!("tcp dport {} accept", wanted.port),
        _ => format!("iifname {} accept", wanted.bridge),
    };
    FILTERS.tolerable(
        format!("dropping by default: {}", names.join(", ")),
        format!("nft insert rule {family} {table} {chain} {rule}  # unless a rule of theirs does"),
    )
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Grade, *};

    fn subnets() -> Vec<Subnet> {
        let first = Subnet::new([10, 0, 0, 1].into(), "16", [10, 0, 0, 100].into()).unwrap();
        vec![first, first.second("fd00:51::/64").unwrap()]
    }

    fn interface(name: &str, address: [u8; 4], mask: [u8; 4]) -> Interface {
        Interface { name: name.to_owned(), address: address.into(), mask: mask.into() }
    }

    fn usual() -> Facts {
        Facts {
            network: Ok((subnets(), Some("qvd_qvdnet".to_owned()))),
            bridge: Ok(Bridge::There),
            rehearsal: Ok(()),
            interfaces: vec![
                interface("lo", [127, 0, 0, 1], [255, 0, 0, 0]),
                interface("eth0", [192, 168, 0, 7], [255, 255, 255, 0]),
                interface("qvdnet", [10, 0, 0, 1], [255, 255, 0, 0]),
            ],
            links: vec!["eth0".to_owned()],
            filters: Ok(vec![]),
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            bridge: "qvdnet".to_owned(),
            way_out: Some("eth0".to_owned()),
            listening: None,
            port: 8443,
            file: "/etc/qvd/node.conf".to_owned(),
        }
    }

    fn other_than_good(facts: &Facts, wanted: &Wanted) -> Vec<(&'static str, Grade)> {
        let findings = judge(facts, wanted).into_iter().filter(|finding| finding.grade != Grade::Good);
        findings.map(|finding| (finding.name, finding.grade)).collect()
    }

    #[test]
    fn a_network_that_is_another_interfaces_too_is_bad() {
        assert_eq!(other_than_good(&usual(), &wanted()), []);
        for (address, mask, overlap) in [
            ([10, 0, 77, 1], [255, 255, 255, 0], true),
            ([10, 200, 0, 1], [255, 0, 0, 0], true),
            ([10, 1, 0, 1], [255, 255, 0, 0], false),
        ] {
            let mut facts = usual();
            facts.interfaces.push(interface("eth1", address, mask));
            let expected: &[_] = if overlap { &[("VM network", Grade::Bad)] } else { &[] };
            assert_eq!(other_than_good(&facts, &wanted()), expected, "{address:?}");
        }
    }

    #[test]
    fn so_is_a_second_one() {
        for (address, overlap) in [("fd00:51::5:1", true), ("fd00:52::1", false)] {
            let mut facts = usual();
            let mask = "ffff:ffff:ffff:ffff::".parse().unwrap();
            facts.interfaces.push(Interface { name: "eth1".to_owned(), address: address.parse().unwrap(), mask });
            assert_eq!(!other_than_good(&facts, &wanted()).is_empty(), overlap, "{address}");
        }
    }

    #[test]
    fn a_network_that_cannot_be_made_is_bad() {
        let unlike = |change: fn(&mut Facts)| {
            let mut facts = usual();
            change(&mut facts);
            other_than_good(&facts, &wanted())
        };
        assert_eq!(unlike(|facts| facts.bridge = Ok(Bridge::Other)), [("bridge", Grade::Bad)]);
        assert_eq!(unlike(|facts| facts.bridge = Ok(Bridge::Absent)), []);
        assert_eq!(
            unlike(|facts| facts.rehearsal = Err(Failed { why: "no".to_owned(), filter: true })),
            [("isolation", Grade::Bad)]
        );
        assert_eq!(unlike(|facts| facts.network = Err("no".to_owned())), [("VM network", Grade::Bad)]);
        assert_eq!(unlike(|facts| facts.links.clear()), [("way out", Grade::Tolerable)]);
        let elsewhere = Wanted { listening: Some([192, 0, 2, 1].into()), ..wanted() };
        assert_eq!(other_than_good(&usual(), &elsewhere), [("address", Grade::Bad)]);
    }

    #[test]
    fn filters_of_others_that_drop_are_named_and_ours_are_not() {
        let list = serde_json::json!({ "nftables": [
            { "metainfo": {} },
            { "chain": { "family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop" } },
            { "chain": { "family": "inet", "table": "qvd_qvdnet", "name": "input", "hook": "input", "policy": "drop" } },
            { "chain": { "family": "ip", "table": "filter", "name": "OUTPUT", "hook": "output", "policy": "drop" } },
            { "chain": { "family": "ip", "table": "nat", "name": "helper" } },
        ] });
        let facts = Facts { filters: Ok(dropping(&list)), ..usual() };
        let finding = filtered(&facts, &wanted());
        assert_eq!(
            (finding.grade, finding.found.as_str()),
            (Grade::Tolerable, "dropping by default: ip filter FORWARD")
        );
        assert!(finding.mend.unwrap().starts_with("nft insert rule ip filter FORWARD iifname qvdnet accept"));
    }
}
