//! Real frames from the inside of a VM, of which only those that say the truth about their sender may come out of its port:
//! to the node (what the bridge hands up) and to other nodes (a cable on the bridge).

use std::{
    collections::BTreeSet,
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    thread,
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
            socket, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};

use super::{
    Mac,
    tests::{Lab, Protocol, printed, run},
};
use crate::model::VmId;

const EVERYBODY: [u8; 6] = [0xff; 6];
/// Marks what we send; frames may be longer than what they hold.
const MARK: &[u8] = b"|frame of a test:";

/// A frame with its name behind it.
fn frame(from: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    [&EVERYBODY[..], &from.0, &kind.to_be_bytes(), body].concat()
}

fn arp(from: Mac, operation: u8, (hardware, address): (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    frame(from, 0x0806, &[&head[..], &hardware.0, &address.octets(), &[0; 6], &target.octets()].concat())
}

fn udp4(from: Mac, source: Ipv4Addr, ports: [u16; 2]) -> Vec<u8> {
    frame(from, 0x0800, &datagram(source, ports))
}

fn datagram(source: Ipv4Addr, ports: [u16; 2]) -> Vec<u8> {
    let target = Ipv4Addr::new(192, 0, 2, 1).octets();
    let mut header = [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0][..], &source.octets(), &target].concat();
    // What is behind it: UDP and the mark with a name of one letter.
    header[3] = (20 + 8 + MARK.len() + 1) as u8;
    let sum = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    header[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let [from, to] = ports.map(u16::to_be_bytes);
    [&header[..], &from, &to, &[0, (8 + MARK.len() + 1) as u8, 0, 0]].concat()
}

fn packet6(from: Mac, source: Ipv6Addr, target: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    let [high, low] = ((body.len() + MARK.len() + 1) as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, high, low, next, 255];
    frame(from, 0x86dd, &[&header[..], &source.octets(), &target.octets(), body].concat())
}

fn udp6(from: Mac, source: Ipv6Addr, ports: [u16; 2]) -> Vec<u8> {
    let [from_port, to_port] = ports.map(u16::to_be_bytes);
    let body = [&from_port[..], &to_port, &[0, (8 + MARK.len() + 1) as u8, 0, 0]].concat();
    packet6(from, source, "2001:db8::1".parse().unwrap(), 17, &body)
}

/// Of neighbour discovery: kind, and the address it is about. Nothing on its way here looks at the checksum.
fn discovery(from: Mac, source: Ipv6Addr, kind: u8, about: Ipv6Addr) -> Vec<u8> {
    let body = [&[kind, 0, 0, 0, 0x20, 0, 0, 0][..], &about.octets()].concat();
    packet6(from, source, "ff02::1".parse().unwrap(), 58, &body)
}

/// A cable on the bridge, to where other nodes could be. The lab takes it away.
fn cable(bridge: &str) -> String {
    let far = format!("{bridge}f");
    for command in [
        format!("ip link add {bridge}w type veth peer name {far}"),
        format!("ip link set {bridge}w up master {bridge}"),
        format!("ip link set {far} up"),
    ] {
        assert!(run(&command), "{command}");
    }
    far
}

fn v4(address: IpAddr) -> Ipv4Addr {
    address.to_string().parse().unwrap()
}

/// Sends frames out of the VM's interface as they are.
fn send(namespace: &str, frames: Vec<(char, Vec<u8>)>) {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    let sender = thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
        send_from("eth0", frames);
    });
    sender.join().unwrap();
}

/// The same out of an interface that is here.
fn send_from(interface: &str, frames: Vec<(char, Vec<u8>)>) {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let interface = link(interface);
    for (name, frame) in frames {
        let marked = [&frame[..], MARK, name.to_string().as_bytes()].concat();
        sendto(socket.as_raw_fd(), &marked, &interface, MsgFlags::empty()).unwrap();
    }
}

/// The interface as sockets name it.
fn link(name: &str) -> LinkAddr {
    let found = getifaddrs().unwrap().filter(|one| one.interface_name == name);
    found.filter_map(|one| one.address?.as_link_addr().copied()).next().unwrap()
}

/// Hears everything on an interface, and nothing of what others send elsewhere, which would leave no room.
fn ear(interface: &str) -> OwnedFd {
    let ear = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
    bind(ear.as_raw_fd(), &link(interface)).unwrap();
    // What came before is from anywhere.
    while recv(ear.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_ok() {}
    setsockopt(&ear, ReceiveTimeout, &TimeVal::seconds(20)).unwrap();
    ear
}

/// The names of the frames that came until the one named `last` did.
fn heard(ear: &OwnedFd, interface: &str, last: char) -> BTreeSet<char> {
    let mut heard = BTreeSet::new();
    let mut buffer = [0; 2048];
    while !heard.contains(&last) {
        let length = match recv(ear.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            received => {
                received.unwrap_or_else(|error| panic!("{error}: {last} did not come to {interface}, only {heard:?}"))
            }
        };
        if let Some(at) = buffer[..length].windows(MARK.len()).position(|window| window == MARK) {
            heard.insert(char::from(buffer[at + MARK.len()]));
        }
    }
    heard
}

#[tokio::test]
async fn what_a_vm_sends_comes_out_of_its_port_only_under_its_own_addresses() {
    let mut lab = Lab::new(18).await;
    let (vm, neighbour) = (VmId(1), VmId(2));
    lab.boot(vm).await;
    lab.boot(neighbour).await;
    let far = cable("hplbr18");
    let mac = |vm| lab.network.plan(vm, lab.address(vm)).unwrap().mac;
    let own = (mac(vm), v4(lab.address(vm)));
    let (theirs, their_ip) = (mac(neighbour), v4(lab.address(neighbour)));
    let node = Ipv4Addr::new(10, 202, 18, 1);
    let nobody = Ipv4Addr::UNSPECIFIED;
    let tagged = [&[0, 5, 8, 0][..], &datagram(their_ip, [9, 9])].concat();

    let ears = ["hplbr18", &far].map(ear);
    send(
        &lab.namespace(vm),
        vec![
            ('a', arp(own.0, 2, own, node)),
            ('b', arp(own.0, 1, own, own.1)),
            ('c', arp(own.0, 1, (own.0, nobody), own.1)),
            ('d', udp4(own.0, own.1, [9, 9])),
            // The neighbour's IP address, in ARP and in packets.
            ('A', arp(own.0, 2, (own.0, their_ip), node)),
            ('B', arp(own.0, 1, (own.0, their_ip), their_ip)),
            ('C', arp(own.0, 1, (own.0, nobody), their_ip)),
            ('D', udp4(own.0, their_ip, [9, 9])),
            ('E', frame(own.0, 0x8100, &tagged)),
            // Its hardware address, in frames and in ARP.
            ('F', udp4(theirs, own.1, [9, 9])),
            ('G', udp4(theirs, their_ip, [9, 9])),
            ('H', arp(theirs, 2, (theirs, their_ip), node)),
            ('I', arp(own.0, 2, (theirs, own.1), node)),
            ('J', arp(own.0, 2, (theirs, their_ip), node)),
            // The node's, a free one of VMs, one of elsewhere, none.
            ('K', arp(own.0, 2, (own.0, node), own.1)),
            ('L', udp4(own.0, node, [9, 9])),
            ('M', udp4(own.0, Ipv4Addr::new(10, 202, 18, 150), [9, 9])),
            ('N', udp4(own.0, Ipv4Addr::new(198, 51, 100, 1), [9, 9])),
            ('O', udp4(own.0, nobody, [68, 67])),
            // Answers of a DHCP server; something that is neither IP nor ARP.
            ('P', udp4(own.0, own.1, [67, 68])),
            ('Q', frame(own.0, 0x88b5, &[0; 46])),
            ('z', udp4(own.0, own.1, [9, 9])),
        ],
    );
    for (ear, interface) in ears.iter().zip(["hplbr18", &far]) {
        assert_eq!(heard(ear, interface, 'z'), BTreeSet::from(['a', 'b', 'c', 'd', 'z']), "{interface}");
    }

    // The set and nothing else keeps the lies back: one that it holds passes.
    let lie = format!("add element bridge qvd_hplbr18 sources {{ \"hpl18v1\" . {} . {their_ip} }}", own.0);
    std::fs::write("/tmp/hpl18.nft", lie).unwrap();
    assert!(run("nft -f /tmp/hpl18.nft"));
    std::fs::remove_file("/tmp/hpl18.nft").unwrap();
    send(&lab.namespace(vm), vec![('D', udp4(own.0, their_ip, [9, 9])), ('y', udp4(own.0, own.1, [9, 9]))]);
    assert!(heard(&ears[0], "hplbr18", 'y').contains(&'D'));
}

#[tokio::test]
async fn so_it_is_with_ipv6() {
    let mut lab = Lab::of(25, Protocol::Both).await;
    let (vm, neighbour) = (VmId(1), VmId(2));
    lab.boot(vm).await;
    lab.boot(neighbour).await;
    let far = cable("hplbr25");
    let mac = |vm| lab.network.plan(vm, lab.address(vm)).unwrap().mac;
    let v6 = |vm| lab.addresses(vm)[1].to_string().parse::<Ipv6Addr>().unwrap();
    let (own, own_ip, local) = (mac(vm), v6(vm), mac(vm).link_local());
    let (theirs, their_ip) = (mac(neighbour), v6(neighbour));
    let nobody = Ipv6Addr::UNSPECIFIED;
    let (router_advertisement, solicitation, advertisement, redirect) = (134, 135, 136, 137);

    let ears = ["hplbr25", &far].map(ear);
    send(
        &lab.namespace(vm),
        vec![
            ('a', discovery(own, own_ip, solicitation, their_ip)),
            ('b', discovery(own, local, solicitation, their_ip)),
            ('c', discovery(own, nobody, solicitation, own_ip)),
            ('d', discovery(own, own_ip, advertisement, own_ip)),
            ('e', udp6(own, own_ip, [9, 9])),
            // The neighbour's address.
            ('A', udp6(own, their_ip, [9, 9])),
            ('B', discovery(own, their_ip, advertisement, their_ip)),
            ('C', discovery(own, own_ip, advertisement, their_ip)),
            ('D', discovery(own, local, advertisement, theirs.link_local())),
            ('E', discovery(own, nobody, solicitation, their_ip)),
            ('F', discovery(own, theirs.link_local(), solicitation, their_ip)),
            // Its hardware address.
            ('G', udp6(theirs, own_ip, [9, 9])),
            ('H', udp6(theirs, their_ip, [9, 9])),
            // The node's, one of elsewhere, none.
            ('I', udp6(own, "fd00:203:25::aca:1901".parse().unwrap(), [9, 9])),
            ('J', udp6(own, "2001:db8::7".parse().unwrap(), [9, 9])),
            ('K', udp6(own, nobody, [9, 9])),
            // A router, a server of DHCP.
            ('L', discovery(own, local, router_advertisement, nobody)),
            ('M', discovery(own, own_ip, router_advertisement, nobody)),
            ('N', discovery(own, local, redirect, own_ip)),
            ('O', udp6(own, own_ip, [547, 546])),
            // Over the link alone, where addresses do not say who is a VM.
            ('P', udp6(own, local, [9, 9])),
            ('Q', discovery(own, local, 128, own_ip)),
            ('z', udp6(own, own_ip, [9, 9])),
        ],
    );
    for (ear, interface) in ears.iter().zip(["hplbr25", &far]) {
        assert_eq!(heard(ear, interface, 'z'), BTreeSet::from(['a', 'b', 'c', 'd', 'e', 'z']), "{interface}");
    }
}

#[tokio::test]
async fn a_vm_is_heard_and_reached_though_another_node_sends_under_its_address() {
    let mut lab = Lab::new(26).await;
    let vm = VmId(1);
    lab.boot(vm).await;
    let _listener = lab.listen(vm, 3030);
    let far = cable("hplbr26");
    let (mac, address) = (lab.network.plan(vm, lab.address(vm)).unwrap().mac, v4(lab.address(vm)));

    let ear = ear("hplbr26");
    send_from(&far, vec![('a', udp4(mac, address, [9, 9]))]);
    assert!(heard(&ear, "hplbr26", 'a').contains(&'a'));
    send(&lab.namespace(vm), vec![('z', udp4(mac, address, [9, 9]))]);
    assert!(heard(&ear, "hplbr26", 'z').contains(&'z'));
    lab.reaches(None, &format!("{address}:3030")).await;
}

#[tokio::test]
async fn what_a_port_may_send_goes_with_it_and_survives_that_the_rules_are_made_anew() {
    let mut lab = Lab::new(19).await;
    let (vm, other) = (VmId(1), VmId(2));
    lab.boot(vm).await;
    lab.boot(other).await;
    let sources = || printed("nft list set bridge qvd_hplbr19 sources");
    let of = |vm: VmId| {
        format!("\"hpl19v{vm}\" . {} . 10.202.19.10{vm}", lab.network.plan(vm, lab.address(vm)).unwrap().mac)
    };
    assert!(sources().contains(&of(vm)) && sources().contains(&of(other)), "{}", sources());
    lab.network.prepare(&[]).await.unwrap();
    assert!(sources().contains(&of(vm)) && sources().contains(&of(other)), "made anew: {}", sources());
    for _ in 0..2 {
        lab.network.unplug(vm, Some(lab.address(vm))).await.unwrap();
        assert!(!sources().contains("hpl19v1") && sources().contains(&of(other)), "{}", sources());
    }
    // A daemon that has just started knows nothing but what it finds.
    let afresh = lab.afresh();
    afresh.prepare(&[(other, lab.address(other))]).await.unwrap();
    assert!(sources().contains(&of(other)), "{}", sources());
    afresh.unplug(other, None).await.unwrap();
    assert!(!sources().contains("hpl19v"), "{}", sources());
}
