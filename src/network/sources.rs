//! From where a VM's packets may claim to come: elements of the packet filter's sets, one for each port of a VM. They are put
//! in and taken out in the kernel's own words (`nfnetlink`), because to run `nft` for every VM that starts or stops would cost
//! more than the rest of plugging it in. The sets themselves and the rules that ask them belong to `firewall`.

use std::{io, net::IpAddr, os::fd::AsRawFd};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};

use super::Plug;

/// The sets: what each holds beside port and hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
    /// The same once more as plain numbers, for neighbour discovery: `nft` has no name for the address that is asked for there.
    Targets,
}

impl Set {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Targets];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "sources",
            Self::V6 => "sources6",
            Self::Targets => "targets6",
        }
    }

    /// What `nft` takes as the type of its elements.
    pub fn definition(self) -> &'static str {
        match self {
            Self::V4 => "type ifname . ether_addr . ipv4_addr",
            Self::V6 => "type ifname . ether_addr . ipv6_addr",
            Self::Targets => "typeof iifname . ether saddr . @th,64,128",
        }
    }

    /// The addresses of a VM that belong in it.
    fn addresses(self, plug: &Plug) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = plug.addresses.iter().map(|address| address.ip).collect();
        addresses.retain(|address| address.is_ipv4() == (self == Self::V4));
        if !addresses.is_empty() && self != Self::V4 {
            addresses.push(plug.mac.link_local().into());
        }
        addresses
    }

    /// What `nft` takes for the elements of a VM.
    pub fn elements(self, plug: &Plug) -> Vec<String> {
        let Plug { host_end, mac, .. } = plug;
        let address = |address: IpAddr| match address {
            IpAddr::V6(number) if self == Self::Targets => format!("{:#034x}", number.to_bits()),
            address => address.to_string(),
        };
        let of = |ip| format!("\"{host_end}\" . {mac} . {}", address(ip));
        self.addresses(plug).into_iter().map(of).collect()
    }
}

/// The kernel answers before `send` returns.
const ANSWER_LIMIT_SECONDS: i64 = 5;

// From linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLA_F_NESTED: u16 = 0x8000;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_BRIDGE: u8 = 7;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const IFNAMSIZ: usize = 16;

/// Believes the VM behind a port what `plug` says. Repeatable.
///
/// # Errors
/// `NotFound`: there is no such table, so nothing of the VM passes.
pub fn believe(table: &str, plug: &Plug) -> io::Result<()> {
    change(NFT_MSG_NEWSETELEM, NLM_F_CREATE, table, plug)
}

/// Takes that back. Repeatable.
pub fn forget(table: &str, plug: &Plug) -> io::Result<()> {
    match change(NFT_MSG_DELSETELEM, 0, table, plug) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn change(kind: u16, flags: u16, table: &str, plug: &Plug) -> io::Result<()> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_LIMIT_SECONDS))?;
    let changes = Set::ALL.into_iter().flat_map(|set| set.addresses(plug).into_iter().map(move |ip| (set, ip)));
    for (set, ip) in changes {
        let batch = batch(kind, flags, table, (set, &key(plug, ip)));
        sendto(socket.as_raw_fd(), &batch, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0; 1024];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        outcome(&answer[..length])?;
    }
    Ok(())
}

/// The first answer decides: one message asks for one, and a batch that is refused as a whole gets one, too.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|kind| Some(u16::from_ne_bytes(kind.try_into().ok()?)));
    let code = answer.get(16..20).and_then(|code| Some(i32::from_ne_bytes(code.try_into().ok()?)));
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(Errno::from_raw(code.saturating_neg()).into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A transaction of one change.
fn batch(kind: u16, flags: u16, table: &str, (set, key): (Set, &[u8])) -> Vec<u8> {
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    let element = nested(NFTA_LIST_ELEM, &nested(NFTA_SET_ELEM_KEY, &attribute(NFTA_DATA_VALUE, key)));
    let change = [
        attribute(NFTA_SET_ELEM_LIST_TABLE, &text(table)),
        attribute(NFTA_SET_ELEM_LIST_SET, &text(set.name())),
        nested(NFTA_SET_ELEM_LIST_ELEMENTS, &element),
    ];
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
    [
        message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES, &[]),
        message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, NFPROTO_BRIDGE, 0, &change.concat()),
        message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES, &[]),
    ]
    .concat()
}

/// The parts of a concatenation begin at multiples of four bytes.
fn key(plug: &Plug, ip: IpAddr) -> Vec<u8> {
    let mut key = plug.host_end.clone().into_bytes();
    key.resize(IFNAMSIZ, 0);
    key.extend(plug.mac.0);
    key.extend([0; 2]);
    match ip {
        IpAddr::V4(ip) => key.extend(ip.octets()),
        IpAddr::V6(ip) => key.extend(ip.octets()),
    }
    key
}

fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 20;
    let length = (HEADERS + attributes.len()) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender, which nobody asks for.
    message.extend([0; 8]);
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(attributes);
    message
}

fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, attributes)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    const HEADER: usize = 4;
    let length = (HEADER + value.len()) as u16;
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}
