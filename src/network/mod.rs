//! The VM network of a node: its bridge, one isolated port per VM, addresses, and the packet filter around it all.
//! Everything is addressed by VM id and can be made or removed again and again. What happens inside a VM's namespace
//! is not done here; see `hypervisor`.

mod address;
mod announce;
mod dhcp;
mod firewall;
mod guard;
mod inside;
mod links;
mod rehearsal;
#[cfg(test)]
mod routed_tests;
mod sources;
#[cfg(test)]
mod spoofing_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio::sync::Mutex;

pub use address::{Family, Mac, Subnet};
use announce::{announce, ask};
use dhcp::Dhcp;
pub use firewall::Firewall;
use firewall::Handles;

use crate::model::{
    VmId, VmPorts,
    config::{Config, NetworkMode, keys},
    node_ports,
};
use crate::process::ProcessError;
use links::Links;

/// Longest name of an interface that the kernel takes.
const NAME_LIMIT: usize = 15;

/// The VM network as this node sees it.
#[derive(Clone, Debug)]
pub struct Network {
    bridge: String,
    /// The VM network, and its second one if there is one.
    subnets: Vec<Local>,
    port_prefix: String,
    mac_prefix: String,
    firewall_wanted: bool,
    firewall: Firewall,
    dhcp: Option<Dhcp>,
    /// Rules are changed only by who holds it, so that none replaces what another has just put in.
    state: Arc<Mutex<State>>,
}

/// A network as this node sees it.
#[derive(Clone, Copy, Debug)]
struct Local {
    subnet: Subnet,
    /// The address of this node.
    host: IpAddr,
    /// The gateway of VMs.
    gateway: IpAddr,
}

/// How things on this node are to stand.
#[derive(Debug, Default)]
struct State {
    /// They were made and not yet taken away.
    prepared: bool,
    /// The packet filter as it was made.
    rules: Handles,
    /// Who may be heard, by the name of the port.
    plugs: BTreeMap<String, Plug>,
    /// Addresses of all nodes, where the network does not say so.
    nodes: Vec<IpAddr>,
}

/// The interface of a VM: its end on the node, and what is to be set inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// Name of the end on the node. Whoever starts the VM makes it. A container's pair has its other end directly inside: to
    /// move an interface from one namespace to another costs more than the rest of a container's start.
    pub host_end: String,
    /// Hardware address of the other end.
    pub mac: Mac,
    /// IP addresses of the other end, the one that the VM is reached by first.
    pub addresses: Vec<Address>,
}

/// An address of a VM in one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length of the network.
    pub prefix: u8,
    /// Default gateway of the VM.
    pub gateway: IpAddr,
}

/// What stands where the bridge is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridge {
    /// Nothing; it is made when the node starts.
    Absent,
    /// A bridge.
    There,
    /// Another kind of interface.
    Other,
}

/// Something about the VM network that does not work.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// `vm.network.netmask`.
    #[error("{netmask:?} is no netmask")]
    Netmask {
        /// The value.
        netmask: String,
    },
    /// `vm.network.mac.prefix`.
    #[error("{prefix:?} cannot begin the hardware addresses of VMs")]
    MacPrefix {
        /// The value.
        prefix: String,
    },
    /// `vm.network.gateway`.
    #[error("{gateway:?} is no address of a gateway")]
    Gateway {
        /// The value.
        gateway: String,
    },
    /// `vm.network.ip6.prefix`.
    #[error("{prefix:?} cannot begin the IPv6 addresses of this VM network")]
    Second {
        /// The value.
        prefix: String,
    },
    /// What the DHCP server reads cannot be written.
    #[error("cannot write {} for the DHCP server", .path.display())]
    Dhcp {
        /// A file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `vm.network.gateway` where there is nobody else in the network.
    #[error("in a routed VM network the node itself is the gateway of its VMs")]
    RoutedGateway,
    /// The address of this node lies in the network that is its own.
    #[error("the address {host} of this node is in {subnet}, which every node has for itself")]
    InOwn {
        /// The node's address.
        host: IpAddr,
        /// The network.
        subnet: Box<Subnet>,
    },
    /// The address of this node does not fit the VM network.
    #[error("the address {host} of this node is not among those of nodes in {subnet}, where VMs begin at {first_vm}")]
    Host {
        /// The node's address.
        host: IpAddr,
        /// The network.
        subnet: Box<Subnet>,
        /// First address of VMs.
        first_vm: IpAddr,
    },
    /// The address of a VM is none of those that VMs may have.
    #[error("{address} is no address of a VM in {subnet}")]
    Vm {
        /// The address.
        address: IpAddr,
        /// The network.
        subnet: Box<Subnet>,
    },
    /// A name that no interface can have.
    #[error("{name:?} cannot be the name of a network interface")]
    Name {
        /// The name.
        name: String,
    },
    /// The configured bridge is another kind of interface.
    #[error("the interface {name} exists and is no bridge")]
    NoBridge {
        /// Its name.
        name: String,
    },
    /// An interface that should be there is not.
    #[error("the network interface {link} does not exist")]
    Absent {
        /// Its name.
        link: String,
    },
    /// The kernel refused something.
    #[error("cannot {doing} {link}")]
    Link {
        /// What was being done.
        doing: &'static str,
        /// To which interface.
        link: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The packet filter refused the rules.
    #[error("cannot load the packet filter of bridge {bridge}")]
    Firewall {
        /// The bridge.
        bridge: String,
        /// Why.
        source: ProcessError,
    },
    /// The packet filter did not take the addresses of a VM.
    #[error("the packet filter of bridge {bridge} does not take the addresses of the VM behind {port}")]
    Sources {
        /// The bridge.
        bridge: String,
        /// The port.
        port: String,
        /// Why.
        source: io::Error,
    },
    /// Packets cannot be forwarded.
    #[error("cannot set {setting}")]
    Setting {
        /// The kernel's setting.
        setting: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl NetworkError {
    /// What an administrator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Netmask { .. } => Some("set vm.network.netmask to something like 255.255.0.0 or 16, of IPv6 like 64"),
            Self::RoutedGateway => Some("leave vm.network.gateway and vm.network.ip6.gateway empty"),
            Self::InOwn { .. } => {
                Some("set vm.network.ip.start and vm.network.netmask to a network that is used for nothing else")
            }
            Self::Second { .. } => Some(
                "set vm.network.ip6.prefix to something like fd00:51::/64, at most 96 long, or leave it empty; \
                 where vm.network.ip.start is of IPv6 there is no second network",
            ),
            Self::MacPrefix { .. } => Some("set vm.network.mac.prefix to three octets like 54:52:00"),
            Self::Gateway { .. } => Some("correct vm.network.gateway or vm.network.ip6.gateway, or leave it empty"),
            Self::Host { .. } => Some("correct the host's address, vm.network.ip.start or vm.network.netmask"),
            Self::Vm { .. } => Some("give the VM another address: update vms set ip = vm_address_free() where id = …"),
            Self::Name { .. } => Some("correct vm.network.bridge or internal.vm.network.device.prefix"),
            Self::NoBridge { .. } => Some("set vm.network.bridge to another name"),
            Self::Firewall { source, .. } if source.is_missing() => Some("install nftables"),
            Self::Link { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some("run as root"),
            Self::Absent { .. }
            | Self::Dhcp { .. }
            | Self::Firewall { .. }
            | Self::Link { .. }
            | Self::Sources { .. }
            | Self::Setting { .. } => None,
        }
    }
}

impl Network {
    /// The network that the configuration describes, for the node with address `host`. Where it is routed, that is an address
    /// of another network, and every node has the same one in its own.
    pub fn new(config: &Config, host: IpAddr) -> Result<Self, NetworkError> {
        let routed = config.get(&keys::VM_NETWORK_MODE) == NetworkMode::Routed;
        let elsewhere = host;
        let host = match routed {
            true => Subnet::gateway(&config.get(&keys::VM_NETMASK), config.get(&keys::VM_IP_START))?,
            false => host,
        };
        let bridge = name(config.get(&keys::VM_BRIDGE))?;
        let port_prefix = name(config.get(&keys::VM_DEVICE_PREFIX))?;
        let first = Subnet::new(host, &config.get(&keys::VM_NETMASK), config.get(&keys::VM_IP_START))?;
        let mac_prefix = config.get(&keys::VM_MAC_PREFIX);
        Mac::of_vm(&mac_prefix, host)?;
        let local = |subnet: Subnet, host, gateway: String| {
            let gateway = match gateway.parse() {
                _ if gateway.is_empty() => host,
                _ if routed => return Err(NetworkError::RoutedGateway),
                Ok(address) if Family::of(address) == subnet.family() => address,
                _ => return Err(NetworkError::Gateway { gateway }),
            };
            Ok(Local { subnet, host, gateway })
        };
        let mut subnets = vec![local(first, host, config.get(&keys::VM_GATEWAY))?];
        let prefix = config.get(&keys::VM_IP6_PREFIX);
        if !prefix.is_empty() {
            let second = first.second(&prefix).ok_or(NetworkError::Second { prefix })?;
            subnets.push(local(second, second.above(host), config.get(&keys::VM_IP6_GATEWAY))?);
        }
        if let Some(own) = subnets.iter().find(|own| routed && own.subnet.contains(elsewhere)) {
            return Err(NetworkError::InOwn { host: elsewhere, subnet: Box::new(own.subnet) });
        }
        let nat_interface = match config.get(&keys::VM_NAT_IFACE) {
            none if none.is_empty() => None,
            interface => Some(name(interface)?),
        };
        let ports = VmPorts::of(config);
        let firewall = Firewall {
            bridge: bridge.clone(),
            port_prefix: port_prefix.clone(),
            subnets: subnets.iter().map(|local| local.subnet).collect(),
            guarded_ports: [ports.vma, ports.x],
            dns: config.get(&keys::VM_DNS).iter().filter_map(|server| server.parse().ok()).collect(),
            router: config.get(&keys::VM_LOGIN).then(|| config.get(&keys::L7R_PORT)),
            dhcp: config.get(&keys::VM_DHCP),
            is_gateway: subnets.iter().all(|local| local.host.is_ipv4() || local.host == local.gateway),
            nat_interface,
            routed: node_ports(config),
        };
        let dhcp = config.get(&keys::VM_DHCP).then(|| Dhcp::new(config, &bridge, &subnets));
        let firewall_wanted = config.get(&keys::VM_FIREWALL);
        let state = Arc::default();
        Ok(Self { bridge, subnets, port_prefix, mac_prefix, firewall_wanted, firewall, dhcp, state })
    }

    /// Makes or mends the bridge and the packet filter. VMs that live already go on being heard by these addresses.
    pub async fn prepare(&self, living: &[(VmId, IpAddr)]) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        // One that was started with an address of another network is plugged in no more.
        let planned = living.iter().filter_map(|(vm, address)| self.plan(*vm, *address).ok());
        state.plugs.extend(planned.map(|plug| (plug.host_end.clone(), plug)));
        self.make(&mut state).await
    }

    async fn make(&self, state: &mut State) -> Result<(), NetworkError> {
        self.make_bridge().await?;
        if let Some(dhcp) = &self.dhcp {
            dhcp.prepare(state.plugs.values())?;
        }
        match self.firewall_wanted {
            true => self.filter(state).await?,
            false => self.firewall.remove().await?,
        }
        state.prepared = true;
        Ok(())
    }

    async fn filter(&self, state: &mut State) -> Result<(), NetworkError> {
        state.rules = self.firewall.apply(state.plugs.values(), &state.nodes).await?;
        Ok(())
    }

    /// Lets the nodes with these addresses in, and no others, where the network is routed; elsewhere the network says who is
    /// a node.
    pub async fn know_nodes(&self, nodes: Vec<IpAddr>) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        if self.firewall.routed.is_none() || state.nodes == nodes {
            return Ok(());
        }
        state.nodes = nodes;
        if state.prepared && self.firewall_wanted { self.filter(&mut state).await } else { Ok(()) }
    }

    /// Whether something had to be done.
    async fn make_bridge(&self) -> Result<bool, NetworkError> {
        if let Some(way_out) = &self.firewall.nat_interface {
            for local in &self.subnets {
                forward(local.subnet.family(), way_out)?;
            }
        }
        let addresses: Vec<_> = self.subnets.iter().map(|local| (local.host, local.subnet.prefix())).collect();
        Links::open()?.ensure_bridge(&self.bridge, Mac::of_bridge(self.first().host), &addresses).await
    }

    /// Removes the packet filter, and the bridge if it was made here and no VM is left on it.
    pub async fn remove(&self) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        state.prepared = false;
        self.firewall.remove().await?;
        Links::open()?.remove_bridge(&self.bridge).await
    }

    /// Whether it was made and not yet taken away.
    pub async fn is_prepared(&self) -> bool {
        self.state.lock().await.prepared
    }

    /// The VM network, and its second one if there is one.
    pub fn subnets(&self) -> Vec<Subnet> {
        self.subnets.iter().map(|local| local.subnet).collect()
    }

    /// The VM network and how it is divided.
    pub fn subnet(&self) -> Subnet {
        self.first().subnet
    }

    fn first(&self) -> &Local {
        &self.subnets[0]
    }

    /// Whether the packet filter is wanted; its tables then have this name.
    pub fn table(&self) -> Option<String> {
        self.firewall_wanted.then(|| self.firewall.table())
    }

    /// The configuration file of the DHCP server, where there is to be one.
    pub fn dhcp(&self) -> Option<&Path> {
        self.dhcp.as_ref().map(Dhcp::file)
    }

    /// What stands where the bridge is to be.
    pub async fn bridge(&self) -> Result<Bridge, NetworkError> {
        Links::open()?.bridge(&self.bridge).await
    }

    /// What the interface of a VM is to be.
    pub fn plan(&self, vm: VmId, address: IpAddr) -> Result<Plug, NetworkError> {
        let first = self.first().subnet;
        if !first.vms().contains(&address) {
            return Err(NetworkError::Vm { address, subnet: Box::new(first) });
        }
        let of = |Local { subnet, gateway, .. }: &Local| {
            let ip = if *subnet == first { address } else { subnet.above(address) };
            Address { ip, prefix: subnet.prefix(), gateway: *gateway }
        };
        Ok(Plug {
            host_end: name(self.host_end(vm))?,
            mac: Mac::of_vm(&self.mac_prefix, address)?,
            addresses: self.subnets.iter().map(of).collect(),
        })
    }

    /// Makes the interface's end on the node a guarded port of the bridge. Until then a VM reaches nothing, and afterwards it
    /// is heard only by its own addresses. Repeatable. The bridge is made again when it vanished.
    pub async fn plug(&self, plug: &Plug) -> Result<(), NetworkError> {
        let links = Links::open()?;
        self.believe(plug).await?;
        match links.attach(&self.bridge, plug).await {
            Err(NetworkError::Absent { link }) if link == self.bridge => {
                self.make(&mut *self.state.lock().await).await?;
                links.attach(&self.bridge, plug).await?;
            }
            result => result?,
        }
        self.announce(plug);
        Ok(())
    }

    /// Tells the network where the VM is now.
    fn announce(&self, plug: &Plug) {
        for Address { ip, .. } in &plug.addresses {
            // This node reaches it in any case.
            if let Err(error) = announce(&self.bridge, plug.mac, *ip) {
                tracing::warn!(bridge = self.bridge, address = %ip, %error, "other nodes may look for a VM elsewhere");
            }
        }
    }

    /// Lets switches learn where the VM is that had this plug: until just now something of it may have spoken here, though it lives
    /// on another node, and where that was heard others look for it for up to a minute.
    fn ask(&self, plug: &Plug) {
        // Elsewhere nobody else is on the bridge.
        let shared = self.firewall.routed.is_none();
        for (local, address) in self.subnets.iter().zip(&plug.addresses).filter(|_| shared) {
            if let Err(error) = ask(&self.bridge, local.host, address.ip) {
                tracing::debug!(bridge = self.bridge, address = %address.ip, %error, "cannot ask who has the address of a VM");
            }
        }
    }

    /// Whether a VM has an interface, or bridge and packet filter know of it.
    pub async fn knows(&self, vm: VmId) -> bool {
        let host_end = self.host_end(vm);
        Path::new("/sys/class/net").join(&host_end).exists() || self.state.lock().await.plugs.contains_key(&host_end)
    }

    /// Removes the interface of a VM and what the bridge and the packet filter know of it, as far as they are there.
    pub async fn unplug(&self, vm: VmId, address: Option<IpAddr>) -> Result<(), NetworkError> {
        let links = Links::open()?;
        links.remove(&self.host_end(vm)).await?;
        let mut state = self.state.lock().await;
        let planned = address.and_then(|address| self.plan(vm, address).ok());
        let known = state.plugs.remove(&self.host_end(vm)).filter(|known| planned.as_ref() != Some(known));
        for plug in known.into_iter().chain(planned) {
            self.firewall.forget(&plug)?;
            if let Some(dhcp) = &self.dhcp {
                dhcp.forget(&plug);
            }
            for address in &plug.addresses {
                links.forget_neighbour(&self.bridge, address.ip).await?;
            }
            self.ask(&plug);
        }
        Ok(())
    }

    async fn believe(&self, plug: &Plug) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        if let Some(old) = state.plugs.insert(plug.host_end.clone(), plug.clone()).filter(|old| old != plug) {
            self.firewall.forget(&old)?;
        }
        if let Some(dhcp) = &self.dhcp {
            dhcp.know(plug)?;
        }
        match self.firewall_wanted {
            // Somebody took the rules away.
            true if !self.firewall.believe(plug)? => self.make(&mut state).await,
            _ => Ok(()),
        }
    }

    /// The VMs that have an interface on this node.
    pub async fn plugged(&self) -> Result<Vec<VmId>, NetworkError> {
        let names = Links::open()?.names(&self.port_prefix).await?;
        Ok(names.iter().filter_map(|name| name[self.port_prefix.len()..].parse().ok().map(VmId)).collect())
    }

    fn host_end(&self, vm: VmId) -> String {
        format!("{}{vm}", self.port_prefix)
    }
}

/// Lets packets of VMs through to other networks.
fn forward(family: Family, way_out: &str) -> Result<(), NetworkError> {
    let setting = match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward",
        Family::V6 => {
            // A router listens to no other router unless told to, and would lose the way out that it has from there.
            let listens = format!("/proc/sys/net/ipv6/conf/{way_out}/accept_ra");
            if fs::read_to_string(&listens).is_ok_and(|value| value.trim() == "1") {
                fs::write(&listens, "2")
                    .map_err(|source| NetworkError::Setting { setting: "accept_ra of the way out", source })?;
            }
            "/proc/sys/net/ipv6/conf/all/forwarding"
        }
    };
    fs::write(setting, "1").map_err(|source| NetworkError::Setting { setting, source })
}

/// A name that the kernel and the packet filter both take.
fn name(name: String) -> Result<String, NetworkError> {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if begins_well && name.len() <= NAME_LIMIT && name.chars().all(harmless) {
        Ok(name)
    } else {
        Err(NetworkError::Name { name })
    }
}
