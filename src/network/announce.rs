//! Tells the network where a VM is now. Switches remember behind which port they saw a hardware address last, for minutes,
//! and a VM that moved because its node died speaks only when it is spoken to.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

use super::Mac;

/// Sends an announcement (RFC 5227, section 3; RFC 4861, section 7.2.6) in the name of the VM through a bridge of this node.
pub fn announce(bridge: &str, mac: Mac, address: IpAddr) -> io::Result<()> {
    let bridge = interface(bridge)?;
    let frame = match address {
        IpAddr::V4(address) => request(mac, address, address),
        IpAddr::V6(address) => advertisement(mac, address),
    };
    send(&bridge, &frame)
}

/// Asks in the name of this node, which is `asker` there, who has an address (RFC 826; RFC 4861, section 7.2.2). What a VM that
/// has it on another node answers shows the switches on its way where it is; nobody waits for it.
pub fn ask(bridge: &str, asker: IpAddr, address: IpAddr) -> io::Result<()> {
    let bridge = interface(bridge)?;
    let own = Mac(bridge.addr().ok_or(io::ErrorKind::NotFound)?);
    let frame = match (asker, address) {
        (IpAddr::V4(asker), IpAddr::V4(address)) => request(own, asker, address),
        (IpAddr::V6(asker), IpAddr::V6(address)) => solicitation(own, asker, address),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    send(&bridge, &frame)
}

fn interface(name: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|interface| interface.interface_name == name)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .ok_or(io::ErrorKind::NotFound.into())
}

fn send(interface: &LinkAddr, frame: &[u8]) -> io::Result<()> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    sendto(socket.as_raw_fd(), frame, interface, MsgFlags::empty())?;
    Ok(())
}

/// An ARP request for an address, to everybody. It announces the address of who sends it if that is the same.
fn request(Mac(mac): Mac, sender: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    const ARP: [u8; 2] = [0x08, 0x06];
    // Ethernet, IPv4, the lengths of their addresses, request.
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &mac, &ARP, &REQUEST, &mac, &sender.octets(), &[0; 6], &address.octets()].concat()
}

/// An unsolicited neighbour advertisement of the VM, to all nodes of the link.
fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Advertisement; checksum; to override what is known.
    const KIND: [u8; 8] = [136, 0, 0, 0, 0x20, 0, 0, 0];
    // Link-layer address of the target, in units of eight octets.
    const OPTION: [u8; 2] = [2, 1];
    discovery(mac, [address, ALL_NODES], KIND, address, OPTION)
}

/// A neighbour solicitation for an address, to the group of those whose addresses end like it.
fn solicitation(mac: Mac, sender: Ipv6Addr, address: Ipv6Addr) -> Vec<u8> {
    const KIND: [u8; 8] = [135, 0, 0, 0, 0, 0, 0, 0];
    // Link-layer address of the sender.
    const OPTION: [u8; 2] = [1, 1];
    let [.., a, b, c] = address.octets().map(u16::from);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a, b << 8 | c);
    discovery(mac, [sender, group], KIND, address, OPTION)
}

/// A message of neighbour discovery about `target`, from and to these, the second of which is a group.
fn discovery(Mac(mac): Mac, ends: [Ipv6Addr; 2], kind: [u8; 8], target: Ipv6Addr, option: [u8; 2]) -> Vec<u8> {
    const IPV6: [u8; 2] = [0x86, 0xdd];
    const ICMPV6: u8 = 58;
    let [.., a, b, c, d] = ends[1].octets();
    let ends = ends.map(|end| end.octets()).concat();
    let mut message = [&kind[..], &target.octets(), &option, &mac].concat();
    let length = message.len() as u8;
    let pseudo = [&ends[..], &[0, 0, 0, length, 0, 0, 0, ICMPV6], &message].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    [&[0x33, 0x33, a, b, c, d][..], &mac, &IPV6, &header, &ends, &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_asks_everybody_for_the_address_that_it_names_as_its_own() {
        let frame = request(Mac([0x54, 0x52, 0, 9, 8, 7]), Ipv4Addr::new(10, 9, 8, 7), Ipv4Addr::new(10, 9, 8, 7));
        assert_eq!(frame.len(), 14 + 28);
        assert_eq!(frame[..14], *b"\xff\xff\xff\xff\xff\xff\x54\x52\x00\x09\x08\x07\x08\x06");
        assert_eq!(frame[22..32], *b"\x54\x52\x00\x09\x08\x07\x0a\x09\x08\x07");
        assert_eq!(frame[38..], [10, 9, 8, 7]);
    }
}
