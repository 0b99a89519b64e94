//! Tells the network where a VM is now. Switches remember behind which port they saw a hardware address last, for minutes,
//! and a VM that moved because its node died speaks only when it is spoken to.

use std::{io, net::Ipv4Addr, os::fd::AsRawFd};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket},
};

use super::Mac;

/// Sends an announcement (RFC 5227, section 3) in the name of the VM through a bridge of this node.
pub fn announce(bridge: &str, mac: Mac, address: Ipv4Addr) -> io::Result<()> {
    let of_bridge = getifaddrs()?
        .filter(|interface| interface.interface_name == bridge)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .ok_or(io::ErrorKind::NotFound)?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    sendto(socket.as_raw_fd(), &frame(mac, address), &of_bridge, MsgFlags::empty())?;
    Ok(())
}

/// An ARP request of the VM for its own address, to everybody.
fn frame(Mac(mac): Mac, address: Ipv4Addr) -> Vec<u8> {
    const ARP: [u8; 2] = [0x08, 0x06];
    // Ethernet, IPv4, the lengths of their addresses, request.
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let address = address.octets();
    [&[0xff; 6][..], &mac, &ARP, &REQUEST, &mac, &address, &[0; 6], &address].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_asks_everybody_for_the_address_that_it_names_as_its_own() {
        let frame = frame(Mac([0x54, 0x52, 0, 9, 8, 7]), Ipv4Addr::new(10, 9, 8, 7));
        assert_eq!(frame.len(), 14 + 28);
        assert_eq!(frame[..14], *b"\xff\xff\xff\xff\xff\xff\x54\x52\x00\x09\x08\x07\x08\x06");
        assert_eq!(frame[22..32], *b"\x54\x52\x00\x09\x08\x07\x0a\x09\x08\x07");
        assert_eq!(frame[38..], [10, 9, 8, 7]);
    }
}
