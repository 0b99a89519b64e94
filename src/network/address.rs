//! Addresses of the VM network: one flat network in which nodes have the lower addresses and VMs the upper ones.

use std::{fmt, net::Ipv4Addr, ops::RangeInclusive};

use super::NetworkError;

/// The VM network and how it is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    prefix: u8,
    first_vm: u32,
}

impl Subnet {
    /// The network of `host`, with a netmask that is dotted (`255.255.0.0`) or a prefix length (`16`), and VMs from
    /// `first_vm` upwards. The host itself must be below.
    pub fn new(host: Ipv4Addr, netmask: &str, first_vm: Ipv4Addr) -> Result<Self, NetworkError> {
        let prefix = parse_netmask(netmask).ok_or_else(|| NetworkError::Netmask { netmask: netmask.to_owned() })?;
        let network = host.to_bits() & mask(prefix);
        let subnet = Self { network, prefix, first_vm: first_vm.to_bits() };
        let contains = |address: Ipv4Addr| address.to_bits() & mask(prefix) == network;
        if !contains(first_vm) || !subnet.hosts().contains(&host) || subnet.vms().is_empty() {
            return Err(NetworkError::Host { host, subnet, first_vm });
        }
        Ok(subnet)
    }

    /// Length of the network prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Addresses of nodes.
    pub fn hosts(&self) -> RangeInclusive<Ipv4Addr> {
        Ipv4Addr::from_bits(self.network + 1)..=Ipv4Addr::from_bits(self.first_vm.saturating_sub(1))
    }

    /// Addresses of VMs.
    pub fn vms(&self) -> RangeInclusive<Ipv4Addr> {
        let broadcast = self.network | !mask(self.prefix);
        Ipv4Addr::from_bits(self.first_vm)..=Ipv4Addr::from_bits(broadcast.saturating_sub(1))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of a VM's interface: three configured octets, then the last three of its IP address.
    pub fn of_vm(prefix: &str, address: Ipv4Addr) -> Result<Self, NetworkError> {
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
        octets[3..].copy_from_slice(&address.octets()[1..]);
        Ok(Self(octets))
    }

    /// The address of a node's bridge. A bridge left to itself takes the address of some port, and so would change
    /// it under its VMs whenever one of them comes or goes.
    pub fn of_bridge(host: Ipv4Addr) -> Self {
        let [a, b, c, d] = host.octets();
        Self([0x02, 0x51, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn parse_netmask(netmask: &str) -> Option<u8> {
    let netmask = netmask.trim().trim_start_matches('/');
    if let Ok(prefix) = netmask.parse::<u8>() {
        return (1..=30).contains(&prefix).then_some(prefix);
    }
    let bits = netmask.parse::<Ipv4Addr>().ok()?.to_bits();
    let prefix = bits.leading_ones() as u8;
    ((1..=30).contains(&prefix) && mask(prefix) == bits).then_some(prefix)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - u32::from(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
    const FIRST_VM: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);

    #[test]
    fn a_netmask_may_be_dotted_or_a_length() {
        for netmask in ["255.255.0.0", "16", "/16"] {
            let subnet = Subnet::new(HOST, netmask, FIRST_VM).unwrap();
            assert_eq!(subnet.to_string(), "10.0.0.0/16");
            assert_eq!(*subnet.hosts().end(), Ipv4Addr::new(10, 0, 0, 99));
            assert_eq!(*subnet.vms().end(), Ipv4Addr::new(10, 0, 255, 254));
        }
        for netmask in ["", "0", "33", "255.0.255.0", "many"] {
            assert!(matches!(Subnet::new(HOST, netmask, FIRST_VM), Err(NetworkError::Netmask { .. })), "{netmask}");
        }
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
        let mac = Mac::of_vm("54:52:00", Ipv4Addr::new(10, 0, 1, 255)).unwrap();
        assert_eq!(mac.to_string(), "54:52:00:00:01:ff");
        for prefix in ["", "54:52", "54:52:00:11", "55:52:00", "5452:00", "xx:52:00"] {
            assert!(Mac::of_vm(prefix, HOST).is_err(), "{prefix}");
        }
    }
}
