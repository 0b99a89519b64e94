//! The node's packet filter around the VM network: two `nftables` tables of ours for each bridge, replaced as one.
//!
//! Table `bridge` sees from which port a frame came, so nothing a VM writes into its packets deceives it, and it sees
//! traffic between the nodes' bridges. Table `inet` knows connections and sees what is routed or meant for the node.
//! That VMs of one bridge cannot reach each other is the work of isolated ports, not of rules.
//! Which addresses are whose is in a set (`sources`); what it does not hold is nobody's.

use std::{io, net::Ipv4Addr, ops::RangeInclusive};

use super::{NetworkError, Plug, Subnet, sources};
use crate::process::Program;

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// The bridge of the VMs.
    pub bridge: String,
    /// How the names of VM ports begin. Two nodes on one machine need beginnings of which neither begins the other,
    /// because not every kernel can ask for the bridge of a port.
    pub port_prefix: String,
    /// The VM network.
    pub subnet: Subnet,
    /// Ports of VMs that only nodes may reach.
    pub guarded_ports: [u16; 2],
    /// Name servers that VMs may ask though they are nodes.
    pub dns: Vec<Ipv4Addr>,
    /// Interface behind which VMs hide, when they may reach other networks.
    pub nat_interface: Option<String>,
}

impl Firewall {
    /// Puts the rules in force, in place of those of before, without a moment between. VMs with these plugs are heard. Returns
    /// the `listing`.
    pub async fn apply<'a>(&self, plugs: impl Iterator<Item = &'a Plug>) -> Result<String, NetworkError> {
        self.nft(&[], self.forgotten() + &self.ruleset(plugs)).await?;
        self.listing().await
    }

    /// The rules as they are, without the elements of sets. It differs after every change, also after one that was undone.
    pub async fn listing(&self) -> Result<String, NetworkError> {
        let name = self.table();
        // Asked for two tables at once, it forgets one of them (1.0.6).
        let list = |family| self.nft(&["--terse", "--handle"], format!("list table {family} {name}\n"));
        let (inet, bridge) = tokio::try_join!(list("inet"), list("bridge"))?;
        Ok(inet + &bridge)
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
        self.nft(&[], self.forgotten()).await.map(drop)
    }

    async fn nft(&self, options: &[&str], commands: String) -> Result<String, NetworkError> {
        let nft = Program::new("nft").args(options).args(["-f", "-"]).input(commands).run().await;
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
    fn ruleset<'a>(&self, plugs: impl Iterator<Item = &'a Plug>) -> String {
        let (table, bridge, port) = (self.table(), &self.bridge, &self.port_prefix);
        let (nodes, vms) = (range(self.subnet.hosts()), range(self.subnet.vms()));
        let guarded = self.guarded_ports.map(|port| port.to_string()).join(", ");
        let dns = match self.dns.as_slice() {
            [] => String::new(),
            servers => {
                let servers = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("ip daddr {{ {servers} }} meta l4proto {{ tcp, udp }} th dport 53 accept")
            }
        };
        let nat = self.nat_interface.as_ref().map_or(String::new(), |interface| {
            format!(
                "chain postrouting {{
                    type nat hook postrouting priority srcnat
                    ip saddr {vms} oifname \"{interface}\" masquerade
                }}"
            )
        });
        let set = sources::SET;
        let elements = match plugs.map(sources::element).collect::<Vec<_>>().as_slice() {
            [] => String::new(),
            elements => format!("elements = {{ {} }}", elements.join(", ")),
        };
        format!(
            "table inet {table} {{
                chain input {{
                    type filter hook input priority filter
                    iifname \"{port}*\" meta iifkind {{ \"veth\", \"tun\" }} drop
                    iifname != \"{bridge}\" accept
                    ct state established,related accept
                    meta nfproto ipv6 drop
                    ip saddr {nodes} accept
                    icmp type echo-request accept
                    {dns}
                    drop
                }}
                chain forward {{
                    type filter hook forward priority filter
                    iifname \"{port}*\" meta iifkind {{ \"veth\", \"tun\" }} drop
                    ct state established,related accept
                    oifname \"{bridge}\" meta nfproto ipv6 drop
                    oifname \"{bridge}\" tcp dport {{ {guarded} }} ip saddr != {nodes} drop
                    iifname != \"{bridge}\" accept
                    meta nfproto ipv6 drop
                    {dns}
                    ip saddr {vms} ip daddr {{ {nodes}, {vms} }} drop
                }}
                {nat}
            }}
            table bridge {table} {{
                set {set} {{
                    type ifname . ether_addr . ipv4_addr
                    {elements}
                }}
                chain from_vm {{
                    iifname . ether saddr . arp saddr ip @{set} iifname . arp saddr ether . arp saddr ip @{set} accept
                    arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @{set} accept
                    ether type != ip drop
                    meta l4proto udp th sport 67 drop
                    iifname . ether saddr . ip saddr @{set} return
                    drop
                }}
                chain input {{
                    type filter hook input priority filter
                    iifname \"{port}*\" jump from_vm
                }}
                chain forward {{
                    type filter hook forward priority filter
                    iifname \"{port}*\" jump from_vm
                    oifname \"{port}*\" ether type ip6 drop
                    oifname \"{port}*\" ip saddr {vms} drop
                    oifname \"{port}*\" ip saddr != {nodes} tcp dport {{ {guarded} }} drop
                    iifname != \"{port}*\" accept
                    ip daddr != {nodes} accept
                    tcp flags & (syn | ack) == syn drop
                    ip protocol tcp accept
                    icmp type {{ echo-request, echo-reply }} accept
                    {dns}
                    ip saddr {vms} drop
                }}
            }}\n"
        )
    }
}

fn range(addresses: RangeInclusive<Ipv4Addr>) -> String {
    // A range of one is not a range to `nft`.
    match (addresses.start(), addresses.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}
