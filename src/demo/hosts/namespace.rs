//! The network between nodes, made with `ip`: a bridge, and a namespace for each node with a cable to it. Inside, the
//! cable is a port of the node's own bridge, as where nodes and VMs share a network. Where they do not, each cable is a link of
//! its own, and this machine routes between them: nodes see nothing of each other but packets with their addresses.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::network::Family;

/// The bridge of VMs and cable inside each namespace.
pub const INNER_BRIDGE: &str = "qvdnet";

/// The bridge that joins the nodes. It goes with this value.
pub struct Bridge {
    name: String,
}

impl Bridge {
    /// With an address for what listens beside the nodes.
    pub fn make(name: &str, address: IpAddr, prefix: u8) -> io::Result<Self> {
        let name = format!("{name}br");
        ip(&format!("link add {name} type bridge"))?;
        let bridge = Self { name };
        ip(&add(address, prefix, &bridge.name))?;
        ip(&format!("link set {} up", bridge.name))?;
        Ok(bridge)
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.name));
    }
}

/// The network of one node. It goes with this value; what lives in it does not.
pub struct Namespace {
    name: String,
    cable: String,
    inode: u64,
    /// What this machine routes there, where it is no port of a bridge.
    behind: Option<IpAddr>,
}

impl Namespace {
    /// A port of `bridge`.
    pub fn joined(name: &str, bridge: &str, address: IpAddr, prefix: u8) -> io::Result<Self> {
        let namespace = Self::make(name)?;
        ip(&format!("link set {} master {bridge} up", namespace.cable))?;
        for inside in [
            "link set lo up".to_owned(),
            format!("link add {INNER_BRIDGE} type bridge"),
            format!("link set eth0 master {INNER_BRIDGE} up"),
            format!("link set {INNER_BRIDGE} up"),
            add(address, prefix, INNER_BRIDGE),
        ] {
            ip(&format!("-n {name} {inside}"))?;
        }
        Ok(namespace)
    }

    /// With a link of its own to this machine, which is its `router`.
    pub fn routed(name: &str, router: IpAddr, address: IpAddr) -> io::Result<Self> {
        let mut namespace = Self::make(name)?;
        namespace.behind = Some(address);
        namespace.plug(true)?;
        forward(&namespace.cable, Family::of(address))?;
        if router.is_ipv6() {
            // Who is asked for an address of another interface does not answer.
            ip(&add(router, 128, &namespace.cable))?;
        }
        for inside in [
            "link set lo up".to_owned(),
            "link set eth0 up".to_owned(),
            add(address, alone(address), "eth0"),
            format!("route add {router} dev eth0 src {address}"),
            format!("route add default via {router} dev eth0 src {address}"),
        ] {
            ip(&format!("-n {name} {inside}"))?;
        }
        Ok(namespace)
    }

    fn make(name: &str) -> io::Result<Self> {
        ip(&format!("netns add {name}"))?;
        let mut namespace = Self { name: name.to_owned(), cable: format!("{name}c"), inode: 0, behind: None };
        namespace.inode = fs::metadata(namespace.path())?.ino();
        ip(&format!("link add {} type veth peer name eth0 netns {name}", namespace.cable))?;
        Ok(namespace)
    }

    /// What `nsenter --net=` wants.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Pulls the cable, or puts it back.
    pub fn plug(&self, plugged: bool) -> io::Result<()> {
        ip(&format!("link set {} {}", self.cable, if plugged { "up" } else { "down" }))?;
        // The route goes with the link.
        match self.behind.filter(|_| plugged) {
            Some(address) => ip(&format!("route replace {address}/{} dev {}", alone(address), self.cable)),
            None => Ok(()),
        }
    }

    /// Lets packets to this address and port vanish, or no more.
    pub fn block(&self, address: IpAddr, port: u16, blocked: bool) -> io::Result<()> {
        let (table, protocol) = ("table inet blocked", if address.is_ipv4() { "ip" } else { "ip6" });
        let mut rules = format!("{table}\ndelete {table}\n");
        if blocked {
            rules.push_str(&format!(
                "{table} {{
                    chain out {{ type filter hook output priority filter; {protocol} daddr {address} tcp dport {port} drop; }}
                    chain in {{ type filter hook input priority filter; {protocol} saddr {address} tcp sport {port} drop; }}
                }}\n"
            ));
        }
        let path = self.path();
        let mut nft = Command::new("nsenter");
        nft.arg(format!("--net={}", path.display())).args(["nft", "-f", "-"]);
        let mut child = nft.stdin(Stdio::piped()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            io::Write::write_all(&mut input, rules.as_bytes())?;
        }
        match child.wait()? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(format!("nft: {status}"))),
        }
    }

    /// The processes that live in it. Those inside containers have networks of their own.
    pub fn processes(&self) -> Vec<i32> {
        let inside = |pid: &i32| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net.ino() == self.inode);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(inside).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.cable));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// Lets packets through that come from this cable.
fn forward(cable: &str, family: Family) -> io::Result<()> {
    let of = |protocol: &str, cable: &str, setting: &str| format!("/proc/sys/net/{protocol}/conf/{cable}/{setting}");
    match family {
        Family::V4 => fs::write(of("ipv4", cable, "forwarding"), "1"),
        // Before Linux 6.17 there is only one setting for all interfaces.
        Family::V6 => fs::write(of("ipv6", cable, "force_forwarding"), "1")
            .or_else(|_| fs::write(of("ipv6", "all", "forwarding"), "1")),
    }
}

/// Gives an interface an address. That nobody else has one of IPv6 need not be found out first, which would take a second.
fn add(address: IpAddr, prefix: u8, interface: &str) -> String {
    let at_once = if address.is_ipv6() { " nodad" } else { "" };
    format!("addr add {address}/{prefix} dev {interface}{at_once}")
}

/// Length of the prefix of an address that stands alone.
fn alone(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {arguments}: {}", said.trim())))
}
