//! Addresses of the VM network: one network in which nodes have the lower addresses and VMs the upper ones. It is of
//! IPv4 or of IPv6; one of IPv4 can have a second network of IPv6 above it, in which addresses end with those of the first.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use super::NetworkError;

/// Hardware addresses are made of the last three octets of VMs' addresses, so no more than this are told apart.
const MOST_VMS: u128 = 1 << 24;
/// Longest prefix of a second network: behind it an address of the first one has room.
const LONGEST_SECOND: u8 = 96;

/// The VM network, or its second one, and how it is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    family: Family,
    network: u128,
    prefix: u8,
    /// First and last address of nodes.
    hosts: (u128, u128),
    /// First and last address of VMs.
    vms: (u128, u128),
}

/// Which protocol a network is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits of an address.
    fn width(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The bits behind a prefix.
    fn host_mask(self, prefix: u8) -> u128 {
        let behind = u32::from(self.width().saturating_sub(prefix));
        u128::MAX.checked_shr(128 - behind).unwrap_or(0)
    }

    fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(bits as u32).into(),
            Self::V6 => Ipv6Addr::from_bits(bits).into(),
        }
    }
}

impl Subnet {
    /// The network of `host`, with a netmask that is dotted (`255.255.0.0`, only of IPv4) or a prefix length (`16`), and VMs
    /// from `first_vm` upwards. The host itself must be below.
    pub fn new(host: IpAddr, netmask: &str, first_vm: IpAddr) -> Result<Self, NetworkError> {
        let family = Family::of(first_vm);
        let refused = || NetworkError::Netmask { netmask: netmask.to_owned() };
        let prefix = parse_netmask(family, netmask).ok_or_else(refused)?;
        let behind = family.host_mask(prefix);
        let network = bits(first_vm) & !behind;
        let last = ((network | behind) - 1).min(bits(first_vm).saturating_add(MOST_VMS - 2));
        let hosts = (network + 1, bits(first_vm).saturating_sub(1));
        let subnet = Self { family, network, prefix, hosts, vms: (bits(first_vm), last) };
        if !subnet.hosts().contains(&host) || subnet.vms().is_empty() {
            return Err(NetworkError::Host { host, subnet: Box::new(subnet), first_vm });
        }
        Ok(subnet)
    }

    /// The first address of a network with VMs from `first_vm` upwards, which is that of each node where every node has such a
    /// network of its own.
    pub fn gateway(netmask: &str, first_vm: IpAddr) -> Result<IpAddr, NetworkError> {
        let family = Family::of(first_vm);
        let prefix =
            parse_netmask(family, netmask).ok_or_else(|| NetworkError::Netmask { netmask: netmask.to_owned() })?;
        Ok(family.address((bits(first_vm) & !family.host_mask(prefix)) + 1))
    }

    /// Whether an address is of this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let behind = self.family.host_mask(self.prefix);
        self.family == Family::of(address) && bits(address) & !behind == self.network
    }

    /// The second network above this one: `prefix` is like `fd00:51::/64`. `None`: it is no prefix of IPv6 behind which there
    /// is room, or this is no network of IPv4.
    pub fn second(&self, prefix: &str) -> Option<Self> {
        let (network, length) = prefix.split_once('/')?;
        let (network, length) = (network.parse::<Ipv6Addr>().ok()?.to_bits(), length.parse::<u8>().ok()?);
        let fits = self.family == Family::V4
            && (1..=LONGEST_SECOND).contains(&length)
            && network & Family::V6.host_mask(length) == 0;
        let above = |(first, last): (u128, u128)| (network + first, network + last);
        fits.then(|| Self {
            family: Family::V6,
            network,
            prefix: length,
            hosts: above(self.hosts),
            vms: above(self.vms),
        })
    }

    /// What `first` of the first network has in this one, the second.
    pub fn above(&self, first: IpAddr) -> IpAddr {
        self.family.address(self.network + bits(first))
    }

    /// Whether it shares addresses with the network of an interface.
    pub fn overlaps(&self, address: IpAddr, mask: IpAddr) -> bool {
        let (first, last) = (bits(address) & bits(mask), bits(address) | !bits(mask) & self.family.host_mask(0));
        let (own_first, own_last) = (self.network, self.network | self.family.host_mask(self.prefix));
        self.family == Family::of(address) && first <= own_last && own_first <= last
    }

    /// Which protocol it is of.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Length of the network prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The mask that leaves the prefix.
    pub fn netmask(&self) -> IpAddr {
        self.family.address(self.family.host_mask(0) & !self.family.host_mask(self.prefix))
    }

    /// Addresses of nodes.
    pub fn hosts(&self) -> RangeInclusive<IpAddr> {
        self.family.address(self.hosts.0)..=self.family.address(self.hosts.1)
    }

    /// Addresses of VMs.
    pub fn vms(&self) -> RangeInclusive<IpAddr> {
        self.family.address(self.vms.0)..=self.family.address(self.vms.1)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.family.address(self.network), self.prefix)
    }
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of a VM's interface: three configured octets, then the last three of its IP address.
    pub fn of_vm(prefix: &str, address: IpAddr) -> Result<Self, NetworkError> {
        let refused = || NetworkError::MacPrefix { prefix: prefix.to_owned() };
        let mut octets = [0; 6];
        let mut parts = prefix.split(':');
        for octet in &mut octets[..3] {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refused)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        // The lowest bit of the first octet marks a group, which no interface can be.
        if parts.next().is_some() || octets[0] & 1 == 1 {
            return Err(refused());
        }
        let [.., d, e, f] = bits(address).to_be_bytes();
        octets[3..].copy_from_slice(&[d, e, f]);
        Ok(Self(octets))
    }

    /// The address of a node's bridge. A bridge left to itself takes the address of some port, and so would change
    /// it under its VMs whenever one of them comes or goes.
    pub fn of_bridge(host: IpAddr) -> Self {
        let [.., a, b, c, d] = bits(host).to_be_bytes();
        Self([0x02, 0x51, a, b, c, d])
    }

    /// The address that an interface gives itself on its link (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn parse_netmask(family: Family, netmask: &str) -> Option<u8> {
    let netmask = netmask.trim().trim_start_matches('/');
    // Behind it there is room for a node and a VM.
    let lengths = 1..=family.width() - 2;
    if let Ok(prefix) = netmask.parse::<u8>() {
        return lengths.contains(&prefix).then_some(prefix);
    }
    let bits = netmask.parse::<Ipv4Addr>().ok().filter(|_| family == Family::V4)?.to_bits();
    let prefix = bits.leading_ones() as u8;
    (lengths.contains(&prefix) && u128::from(!bits) == family.host_mask(prefix)).then_some(prefix)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));
    const FIRST_VM: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));

    #[test]
    fn a_netmask_may_be_dotted_or_a_length() {
        for netmask in ["255.255.0.0", "16", "/16"] {
            let subnet = Subnet::new(HOST, netmask, FIRST_VM).unwrap();
            assert_eq!(subnet.to_string(), "10.0.0.0/16");
            assert_eq!(subnet.netmask().to_string(), "255.255.0.0");
            assert_eq!(divided(subnet), ["10.0.0.1", "10.0.0.99", "10.0.0.100", "10.0.255.254"]);
        }
        for netmask in ["", "0", "33", "255.0.255.0", "many"] {
            assert!(matches!(Subnet::new(HOST, netmask, FIRST_VM), Err(NetworkError::Netmask { .. })), "{netmask}");
        }
    }

    fn divided(subnet: Subnet) -> [String; 4] {
        let (hosts, vms) = (subnet.hosts(), subnet.vms());
        [hosts.start(), hosts.end(), vms.start(), vms.end()].map(ToString::to_string)
    }

    #[test]
    fn a_network_may_be_of_ipv6() {
        let new = |host: &str, netmask, first_vm: &str| {
            Subnet::new(host.parse().unwrap(), netmask, first_vm.parse().unwrap())
        };
        let subnet = new("fd00::5", "64", "fd00::100").unwrap();
        assert_eq!(subnet.to_string(), "fd00::/64");
        assert_eq!(
            divided(subnet),
            ["fd00::1", "fd00::ff", "fd00::100", "fd00::100:fe"],
            "MACs can tell no more apart"
        );
        assert_eq!(divided(new("fd00::5", "120", "fd00::10").unwrap())[3], "fd00::fe");
        for (host, netmask, first_vm) in
            [("fd00::5", "255.255.0.0", "fd00::100"), ("fd00::5", "127", "fd00::100"), ("fd00::5", "129", "fd00::100")]
        {
            assert!(matches!(new(host, netmask, first_vm), Err(NetworkError::Netmask { .. })), "{netmask}");
        }
        for host in ["10.0.0.5", "fd00::100", "fd01::5"] {
            assert!(matches!(new(host, "64", "fd00::100"), Err(NetworkError::Host { .. })), "{host}");
        }
        assert!(matches!(new("fd00::5", "64", "10.0.0.100"), Err(NetworkError::Netmask { .. })));
    }

    #[test]
    fn addresses_of_a_second_network_end_with_those_of_the_first() {
        let first = Subnet::new(HOST, "16", FIRST_VM).unwrap();
        let second = first.second("fd00:51::/64").unwrap();
        assert_eq!(divided(second), ["fd00:51::a00:1", "fd00:51::a00:63", "fd00:51::a00:64", "fd00:51::a00:fffe"]);
        assert_eq!(second.above(HOST).to_string(), "fd00:51::a00:5");
        for bad in ["", "fd00::", "fd00::/97", "fd00::1/64", "fd00::/0", "10.0.0.0/8", "fd00::/x"] {
            assert_eq!(first.second(bad), None, "{bad}");
        }
        assert_eq!(second.second("fd00:51::/64"), None);
    }

    #[test]
    fn a_host_among_the_vms_or_in_another_network_is_refused() {
        for (host, first_vm) in [("10.0.0.100", "10.0.0.100"), ("10.0.1.0", "10.0.0.100"), ("10.1.0.5", "10.0.0.100")] {
            let subnet = Subnet::new(host.parse().unwrap(), "16", first_vm.parse().unwrap());
            assert!(matches!(subnet, Err(NetworkError::Host { .. })), "{host}");
        }
    }

    #[test]
    fn the_mac_of_a_vm_follows_from_its_address() {
        let mac = Mac::of_vm("54:52:00", Ipv4Addr::new(10, 0, 1, 255).into()).unwrap();
        assert_eq!(mac.to_string(), "54:52:00:00:01:ff");
        assert_eq!(mac.link_local().to_string(), "fe80::5652:ff:fe00:1ff");
        for prefix in ["", "54:52", "54:52:00:11", "55:52:00", "5452:00", "xx:52:00"] {
            assert!(Mac::of_vm(prefix, HOST).is_err(), "{prefix}");
        }
    }
}
