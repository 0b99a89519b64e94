//! Who has the ports that users connect to, as the kernel's tables tell it. Nothing is bound: a router that starts at that
//! moment would not get its port.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use crate::model::config::{Config, keys};

use super::finding::{Finding, Subject};

const TCP: Subject = Subject { name: "TCP port", why: "Users connect to it." };
const UDP: Subject = Subject {
    name: "UDP port",
    why: "Sessions over QUIC survive a change of network; clients use TLS where there is none.",
};

/// Somebody who has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub address: IpAddr,
    /// Number and command line, where they are known.
    pub process: Option<(i32, Vec<String>)>,
}

/// Those who have the port.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub tcp: Vec<Holder>,
    pub udp: Vec<Holder>,
}

/// Looks who has the port.
pub fn look(port: u16) -> Facts {
    Facts { tcp: holders("tcp", LISTENING, port), udp: udp_holders(port) }
}

/// Who has a UDP port.
pub fn udp_holders(port: u16) -> Vec<Holder> {
    holders("udp", UNCONNECTED, port)
}

// TCP_LISTEN, and TCP_CLOSE, which is what UDP sockets that are not connected show (include/net/tcp_states.h).
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

fn holders(kind: &str, state: &str, port: u16) -> Vec<Holder> {
    let tables = [kind.to_owned(), format!("{kind}6")].map(|table| fs::read_to_string(format!("/proc/net/{table}")));
    let sockets: Vec<_> = tables.into_iter().flatten().flat_map(|table| bound(&table, port, state)).collect();
    if sockets.is_empty() {
        return Vec::new();
    }
    let owners = owners();
    let holder = |(address, inode)| Holder { address, process: owners.get(&inode).cloned() };
    sockets.into_iter().map(holder).collect()
}

/// Address and inode of the sockets in a table of the kernel that have the port and that state (proc(5)).
fn bound(table: &str, port: u16, state: &str) -> Vec<(IpAddr, u64)> {
    let socket = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (address, number) = fields.next()?.split_once(':')?;
        if u16::from_str_radix(number, 16) != Ok(port) || fields.nth(1)? != state {
            return None;
        }
        Some((parse(address)?, fields.nth(5)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// Words of 32 bits in the order of the machine.
fn parse(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (n, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(n * 8)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Which process has which socket, as far as we may see it.
fn owners() -> HashMap<u64, (i32, Vec<String>)> {
    let mut owners = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let command = || {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>()
        };
        for file in fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten() {
            let link = fs::read_link(file.path()).unwrap_or_default();
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                owners.entry(inode).or_insert_with(|| (pid, command()));
            }
        }
    }
    owners
}

/// What the judgement depends on beside the facts.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `None` for every address.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub quic: bool,
    /// The configuration file.
    pub file: String,
}

impl Wanted {
    pub fn new(config: &Config, file: &Path) -> Self {
        let address = config.get(&keys::L7R_ADDRESS);
        Self {
            address: if address == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { address.parse().ok() },
            port: config.get(&keys::L7R_PORT),
            quic: config.get(&keys::L7R_QUIC) && config.get(&keys::L7R_USE_SSL),
            file: file.display().to_string(),
        }
    }
}

/// Judges it.
pub fn judge(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let port = wanted.port;
    let in_the_way = |holders: &[Holder]| {
        let overlaps = |holder: &&Holder| match wanted.address {
            Some(address) => holder.address == address || holder.address.is_unspecified(),
            None => true,
        };
        holders.iter().find(overlaps).cloned()
    };
    let other = format!("echo 'l7r.port = …' >> {}  # or stop it", wanted.file);
    let mut findings = vec![match in_the_way(&facts.tcp) {
        None => TCP.good(format!("{port} is free")),
        Some(holder) if holder.is_ours() => TCP.good(format!("{port} is served by {}", holder.name())),
        Some(holder) => TCP.bad(format!("{port} is taken by {}", holder.name()), &other),
    }];
    if wanted.quic {
        findings.push(match in_the_way(&facts.udp) {
            None => UDP.good(format!("{port} is free")),
            Some(holder) if holder.is_ours() => UDP.good(format!("{port} is served by {}", holder.name())),
            Some(holder) => UDP.tolerable(format!("{port} is taken by {}", holder.name()), &other),
        });
    }
    findings
}

impl Holder {
    /// A router, or a service manager that hands the port to one.
    pub fn is_ours(&self) -> bool {
        let Some((_, command)) = &self.process else { return false };
        let program = command.first().and_then(|program| program.rsplit('/').next()).unwrap_or_default();
        program == "systemd" || (program == "qvd" && command.get(1).is_some_and(|word| word == "l7r"))
    }

    /// For people.
    pub fn name(&self) -> String {
        match &self.process {
            Some((pid, command)) => {
                let program = command.first().and_then(|program| program.rsplit('/').next()).unwrap_or_default();
                let word = command.get(1).filter(|word| !word.is_empty() && !word.starts_with('-'));
                let word = word.map(|word| format!(" {word}")).unwrap_or_default();
                format!("{program}{word} (process {pid})")
            }
            None => "a process that cannot be seen".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Grade, *};

    fn wanted() -> Wanted {
        Wanted { address: None, port: 8443, quic: true, file: "/etc/qvd/node.conf".to_owned() }
    }

    fn holder(address: &str, command: &str) -> Holder {
        let command = command.split(' ').map(str::to_owned).collect();
        Holder { address: address.parse().unwrap(), process: Some((7, command)) }
    }

    #[test]
    fn a_port_is_good_while_it_is_free_or_our_own() {
        let grades = |tcp: &[Holder], udp: &[Holder], wanted: &Wanted| {
            let findings = judge(&Facts { tcp: tcp.to_vec(), udp: udp.to_vec() }, wanted);
            findings.iter().map(|finding| finding.grade).collect::<Vec<_>>()
        };
        use Grade::{Bad, Good, Tolerable};
        let (ours, nginx) = ([holder("::", "/usr/bin/qvd l7r --config x")], [holder("0.0.0.0", "nginx: master")]);
        assert_eq!(grades(&[], &[], &wanted()), [Good, Good]);
        assert_eq!(grades(&ours, &ours, &wanted()), [Good, Good]);
        assert_eq!(grades(&nginx, &nginx, &wanted()), [Bad, Tolerable]);
        let elsewhere = [holder("192.0.2.7", "sshd")];
        let here = Wanted { address: Some([192, 0, 2, 8].into()), ..wanted() };
        assert_eq!(grades(&elsewhere, &[], &here), [Good, Good]);
        assert_eq!(grades(&elsewhere, &[], &wanted()), [Bad, Good]);
        let unseen = Holder { address: Ipv4Addr::UNSPECIFIED.into(), process: None };
        assert_eq!(grades(&[unseen], &[], &Wanted { quic: false, ..wanted() }), [Bad]);
    }

    #[test]
    fn sockets_are_found_with_those_who_have_them() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let holder = || {
            let facts = look(port);
            let holder = facts.tcp.into_iter().find(|holder| holder.address == Ipv4Addr::LOCALHOST).unwrap();
            holder.process.unwrap().0
        };
        // What another test starts has the socket, too, until it runs its program.
        let began = std::time::Instant::now();
        while holder() != std::process::id() as i32 {
            assert!(began.elapsed().as_secs() < 30, "{} has it", holder());
        }
        let six = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let facts = look(six.local_addr().unwrap().port());
        assert!(facts.udp.iter().any(|holder| holder.address == Ipv6Addr::LOCALHOST), "{facts:?}");
    }
}
