//! The node's packet filter around the VM network: two `nftables` tables of ours for each bridge, replaced as one.
//!
//! Table `bridge` sees from which port a frame came, so nothing a VM writes into its packets deceives it, and it sees
//! traffic between the nodes' bridges. Table `inet` knows connections and sees what is routed or meant for the node.
//! That VMs of one bridge cannot reach each other is the work of isolated ports, not of rules.
//! Which addresses are whose is in a set (`sources`); what it does not hold is nobody's.

use std::{io, net::IpAddr, ops::RangeInclusive};

use super::{
    Family, NetworkError, Plug, Subnet,
    sources::{self, Set},
};
use crate::process::Program;

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// The bridge of the VMs.
    pub bridge: String,
    /// How the names of VM ports begin. Two nodes on one machine need beginnings of which neither begins the other,
    /// because not every kernel can ask for the bridge of a port.
    pub port_prefix: String,
    /// The VM network, and its second one if there is one. A protocol that none is of is not let through.
    pub subnets: Vec<Subnet>,
    /// Ports of VMs that only nodes may reach.
    pub guarded_ports: [u16; 2],
    /// Name servers that VMs may ask though they are nodes.
    pub dns: Vec<IpAddr>,
    /// Port of the nodes' routers that VMs may reach, by TCP and UDP.
    pub router: Option<u16>,
    /// VMs may ask the node for their address, and, where they have one of IPv6, for their gateway.
    pub dhcp: bool,
    /// The node is the gateway of its VMs, as far as they are of IPv6.
    pub is_gateway: bool,
    /// Interface behind which VMs hide, when they may reach other networks.
    pub nat_interface: Option<String>,
    /// Ports on which other nodes reach this one by UDP, where it has the network for itself.
    pub routed: Option<RangeInclusive<u16>>,
}

impl Firewall {
    /// Puts the rules in force, in place of those of before, without a moment between. VMs with these plugs are heard, and, where
    /// this node has the network for itself, other `nodes` with these addresses.
    pub async fn apply<'a>(
        &self,
        plugs: impl Iterator<Item = &'a Plug> + Clone,
        nodes: &[IpAddr],
    ) -> Result<Handles, NetworkError> {
        let rules = self.forgotten() + &self.ruleset(plugs, nodes);
        // It repeats what it has made, not what somebody else has made of it by now.
        Ok(Handles::of(&made(&self.nft(&["--echo", "--handle", "-f", "-"], rules).await?)))
    }

    /// The rules that are in force.
    pub async fn standing(&self) -> Result<Handles, NetworkError> {
        let name = self.table();
        let list =
            async |family| self.nft(&["--terse", "--handle", "list", "table", family, &name], String::new()).await;
        let (inet, bridge) = tokio::try_join!(list("inet"), list("bridge"))?;
        Ok(Handles::of(&(inet + &bridge)))
    }

    /// Lets a VM be heard by the addresses of its plug; `false`: there are no rules that could.
    pub fn believe(&self, plug: &Plug) -> Result<bool, NetworkError> {
        match sources::believe(&self.table(), plug) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.refused(plug, error)),
        }
    }

    /// Takes that back.
    pub fn forget(&self, plug: &Plug) -> Result<(), NetworkError> {
        sources::forget(&self.table(), plug).map_err(|error| self.refused(plug, error))
    }

    fn refused(&self, plug: &Plug, source: io::Error) -> NetworkError {
        NetworkError::Sources { bridge: self.bridge.clone(), port: plug.host_end.clone(), source }
    }

    /// Takes the rules away.
    pub async fn remove(&self) -> Result<(), NetworkError> {
        self.nft(&["-f", "-"], self.forgotten()).await.map(drop)
    }

    async fn nft(&self, arguments: &[&str], commands: String) -> Result<String, NetworkError> {
        let nft = Program::new("nft").args(arguments).input(commands).run().await;
        let printed = nft.map_err(|source| NetworkError::Firewall { bridge: self.bridge.clone(), source })?;
        Ok(printed.stdout)
    }

    fn forgotten(&self) -> String {
        let name = self.table();
        // Declared first, because deleting what is not there is an error.
        ["inet", "bridge"].map(|family| format!("table {family} {name}\ndelete table {family} {name}\n")).concat()
    }

    /// Name of its tables.
    pub fn table(&self) -> String {
        format!("qvd_{}", self.bridge)
    }

    /// In table `inet` a port is seen only while it is not plugged in yet; then nothing of it is believed.
    fn ruleset<'a>(&self, plugs: impl Iterator<Item = &'a Plug> + Clone, nodes: &[IpAddr]) -> String {
        let (table, bridge, port) = (self.table(), &self.bridge, &self.port_prefix);
        let guarded = self.guarded_ports.map(|port| port.to_string()).join(", ");
        let (dns, from_vm) = (self.dns(), self.no_spoofing());
        // One line for each network of VMs, with its protocol, its nodes and its VMs.
        let each = |line: &dyn Fn(&str, &str, &str) -> String| {
            let lines = self.subnets.iter().map(|subnet| {
                let (ip, _) = words(subnet.family());
                line(ip, &range(subnet.hosts()), &range(subnet.vms()))
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        let from_nodes = match self.routed {
            // Nobody but VMs is on the bridge.
            Some(_) => String::new(),
            None => each(&|ip, nodes, _| format!("{ip} saddr {nodes} accept")),
        };
        let guarded_from_others = match self.routed {
            // From elsewhere nobody comes to a network that is the node's own.
            Some(_) => format!("oifname \"{bridge}\" iifname != \"{bridge}\" drop"),
            None => each(&|ip, nodes, _| {
                format!("oifname \"{bridge}\" {ip} saddr != {nodes} tcp dport {{ {guarded} }} drop")
            }),
        };
        let (known, no_strangers) = match &self.routed {
            Some(ports) => (known(nodes), no_strangers(ports)),
            None => Default::default(),
        };
        // Nor to what clouds tell their machines, secrets among it, at an address of that kind.
        let to_nodes_or_vms = each(&|ip, nodes, vms| {
            format!("{ip} saddr {vms} {ip} daddr {{ {nodes}, {vms}, {} }} drop", link_local(ip))
        });
        let from_other_vms = each(&|ip, _, vms| format!("oifname \"{port}*\" {ip} saddr {vms} drop"));
        let guarded_from_bridge =
            each(&|ip, nodes, _| format!("oifname \"{port}*\" {ip} saddr != {nodes} tcp dport {{ {guarded} }} drop"));
        let to_elsewhere = each(&|ip, nodes, _| format!("{ip} daddr != {{ {nodes}, {} }} accept", link_local(ip)));
        let to_router =
            self.router.map_or(String::new(), |port| format!("meta l4proto {{ tcp, udp }} th dport {port} accept"));
        let to_routers = match self.router {
            Some(_) => each(&|ip, nodes, _| format!("{ip} daddr {nodes} {to_router}")),
            None => String::new(),
        };
        // Nodes have their addresses elsewhere, and could take a VM that hides behind its node for that.
        let to_known = match (&self.routed, self.router) {
            (Some(_), Some(_)) => lines(&Family::BOTH, |family| {
                let (ip, set) = known_name(*family);
                format!("{ip} daddr @{set} {to_router}\n{ip} daddr @{set} iifname \"{bridge}\" drop")
            }),
            (Some(_), None) => lines(&Family::BOTH, |family| {
                let (ip, set) = known_name(*family);
                format!("{ip} daddr @{set} iifname \"{bridge}\" drop")
            }),
            (None, _) => String::new(),
        };
        let of_dhcp: &[Subnet] = if self.dhcp { &self.subnets } else { &[] };
        // Only this node hears it. From nobody yet, or from whom it has; the hardware address is held by the port.
        let asking = lines(of_dhcp, |subnet| match subnet.family() {
            Family::V4 => format!("iifname \"{port}*\" ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept"),
            Family::V6 => {
                format!("iifname . ether saddr . ip6 saddr @{} udp sport 546 udp dport 547 accept", Set::V6.name())
            }
        });
        let asked = lines(of_dhcp, |subnet| match subnet.family() {
            Family::V4 => "meta nfproto ipv4 udp sport 68 udp dport 67 accept".to_owned(),
            Family::V6 => "meta nfproto ipv6 udp sport 546 udp dport 547 accept
                icmpv6 type nd-router-solicit accept"
                .to_owned(),
        });
        // Other nodes say the same of themselves, to their VMs.
        let from_other_gateways = match self.dhcp && self.is_gateway {
            true => format!("oifname \"{port}*\" icmpv6 type nd-router-advert drop"),
            false => String::new(),
        };
        let from_vms = each(&|ip, _, vms| format!("{ip} saddr {vms} drop"));
        let foreign: Vec<(&str, &str)> = self.foreign().map(words).collect();
        let no_foreign = lines(&foreign, |(_, nfproto)| format!("meta nfproto {nfproto} drop"));
        let no_foreign_to_vms =
            lines(&foreign, |(_, nfproto)| format!("oifname \"{bridge}\" meta nfproto {nfproto} drop"));
        let no_foreign_to_ports = lines(&foreign, |(ip, _)| format!("oifname \"{port}*\" ether type {ip} drop"));
        let nat = self.nat_interface.as_ref().map_or(String::new(), |interface| {
            let hide = each(&|ip, _, vms| format!("{ip} saddr {vms} oifname \"{interface}\" masquerade"));
            format!(
                "chain postrouting {{
                    type nat hook postrouting priority srcnat
                    {hide}
                }}"
            )
        });
        let sets = Set::ALL.map(|set| {
            let elements: Vec<String> = plugs.clone().flat_map(|plug| set.elements(plug)).collect();
            let elements =
                if elements.is_empty() { elements } else { vec![format!("elements = {{ {} }}", elements.join(", "))] };
            format!("set {} {{\n{}\n{}\n}}\n", set.name(), set.definition(), elements.concat())
        });
        let sets = sets.concat();
        // Where the kernel hands bridged packets to this table, too (br_netfilter), these come by, of no connection it knows.
        let neighbours = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";
        format!(
            "table inet {table} {{
                {known}
                chain input {{
                    type filter hook input priority filter
                    {no_strangers}
                    iifname \"{port}*\" meta iifkind {{ \"veth\", \"tun\" }} drop
                    iifname != \"{bridge}\" accept
                    ct state established,related accept
                    {no_foreign}
                    {from_nodes}
                    icmp type echo-request accept
                    icmpv6 type {{ echo-request, nd-neighbor-solicit, nd-neighbor-advert }} accept
                    {dns}
                    {to_router}
                    {asked}
                    drop
                }}
                chain forward {{
                    type filter hook forward priority filter
                    iifname \"{port}*\" meta iifkind {{ \"veth\", \"tun\" }} drop
                    ct state established,related accept
                    {neighbours}
                    {no_foreign_to_vms}
                    {guarded_from_others}
                    iifname != \"{bridge}\" accept
                    {no_foreign}
                    {dns}
                    {to_routers}
                    {to_known}
                    {to_nodes_or_vms}
                }}
                {nat}
            }}
            table bridge {table} {{
                {sets}
                chain from_vm {{
                    {from_vm}
                }}
                chain input {{
                    type filter hook input priority filter
                    {asking}
                    iifname \"{port}*\" jump from_vm
                }}
                chain forward {{
                    type filter hook forward priority filter
                    iifname \"{port}*\" jump from_vm
                    {no_foreign_to_ports}
                    {from_other_gateways}
                    {from_other_vms}
                    {guarded_from_bridge}
                    iifname != \"{port}*\" accept
                    {to_elsewhere}
                    {to_routers}
                    tcp flags & (syn | ack) == syn drop
                    meta l4proto tcp accept
                    icmp type {{ echo-request, echo-reply }} accept
                    icmpv6 type {{ echo-request, echo-reply, packet-too-big }} accept
                    {neighbours}
                    {dns}
                    {from_vms}
                    ip6 daddr {} drop
                }}
            }}\n",
            link_local("ip6")
        )
    }

    /// What a VM may say: who it is, and packets from there. It is no router and no DHCP server.
    fn no_spoofing(&self) -> String {
        let [v4, v6, targets] = Set::ALL.map(Set::name);
        let of = |subnet: &Subnet| match subnet.family() {
            Family::V4 => format!(
                "iifname . ether saddr . arp saddr ip @{v4} iifname . arp saddr ether . arp saddr ip @{v4} accept
                arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @{v4} accept
                meta l4proto udp th sport 67 drop
                iifname . ether saddr . ip saddr @{v4} return"
            ),
            Family::V6 => format!(
                "icmpv6 type {{ nd-router-advert, nd-redirect }} drop
                icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @{targets} drop
                ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . ether saddr . @th,64,128 @{targets} accept
                ip6 saddr {link} meta l4proto != ipv6-icmp drop
                ip6 saddr {link} icmpv6 type echo-request drop
                meta l4proto udp th sport 547 drop
                iifname . ether saddr . ip6 saddr @{v6} return",
                // VMs have these only to find others.
                link = link_local("ip6")
            ),
        };
        lines(&self.subnets, of) + "\ndrop"
    }

    fn dns(&self) -> String {
        lines(&Family::BOTH, |family| {
            let servers = self.dns.iter().filter(|server| Family::of(**server) == *family);
            let servers: Vec<String> = servers.map(ToString::to_string).collect();
            match words(*family) {
                _ if servers.is_empty() => String::new(),
                (ip, _) => {
                    format!("{ip} daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 accept", servers.join(", "))
                }
            }
        })
    }

    /// The protocols that no network of VMs is of.
    fn foreign(&self) -> impl Iterator<Item = Family> {
        let used = |family: &Family| self.subnets.iter().any(|subnet| subnet.family() == *family);
        Family::BOTH.into_iter().filter(move |family| !used(family))
    }
}

/// What is there of what `nft` says to have made: tables that were not there before were made twice, first to be deleted.
fn made(echoed: &str) -> String {
    let table = |line: &str| Some(line.strip_prefix("add table ")?.split(" #").next()?.to_owned());
    let lines: Vec<&str> = echoed.lines().collect();
    let again = |at: usize, name: String| lines[at + 1..].iter().any(|line| table(line).as_ref() == Some(&name));
    let there = |(at, line): &(usize, &&str)| table(line).is_none_or(|name| !again(*at, name));
    lines.iter().enumerate().filter(there).map(|(_, line)| format!("{line}\n")).collect()
}

/// The numbers that the kernel gave to tables, chains, sets and rules. Whatever is made anew has another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handles(Vec<u64>);

impl Handles {
    fn of(printed: &str) -> Self {
        let handle = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        let mut handles: Vec<u64> = printed.split("# handle ").skip(1).filter_map(handle).collect();
        handles.sort_unstable();
        Self(handles)
    }
}

/// The protocol of nodes' addresses as `nft` calls it, and the set that holds those that are known.
fn known_name(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("ip", "nodes4"),
        Family::V6 => ("ip6", "nodes6"),
    }
}

/// The sets with the addresses of nodes.
fn known(nodes: &[IpAddr]) -> String {
    lines(&Family::BOTH, |family| {
        let (set, kind) = (known_name(*family).1, words(*family).1);
        let of: Vec<String> =
            nodes.iter().filter(|node| Family::of(**node) == *family).map(ToString::to_string).collect();
        let elements = if of.is_empty() { String::new() } else { format!("elements = {{ {} }}", of.join(", ")) };
        format!("set {set} {{\ntype {kind}_addr\n{elements}\n}}")
    })
}

/// Only nodes reach the ports that are for nodes.
fn no_strangers(ports: &RangeInclusive<u16>) -> String {
    let (first, last) = (ports.start(), ports.end());
    lines(&Family::BOTH, |family| {
        let (ip, set) = known_name(*family);
        format!("udp dport {first}-{last} {ip} saddr != @{set} drop")
    })
}

/// What `nft` calls a protocol: in its headers, and in general.
fn words(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("ip", "ipv4"),
        Family::V6 => ("ip6", "ipv6"),
    }
}

/// Addresses that mean something only on one link.
fn link_local(ip: &str) -> &'static str {
    if ip == "ip" { "169.254.0.0/16" } else { "fe80::/10" }
}

fn lines<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    items.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn range(addresses: RangeInclusive<IpAddr>) -> String {
    // A range of one is not a range to `nft`.
    match (addresses.start(), addresses.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}
