//! Lists of networks, as configuration values have them.

use std::{fmt, net::IpAddr};

/// A list of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u8)>);

impl Networks {
    /// Reads `10.0.0.1`, `10.0.0.0/24` or `2001:db8::/32`.
    ///
    /// # Errors
    /// The first item that is neither an address nor a network.
    pub fn parse<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let network = |item: &str| {
            let (address, prefix) = item.split_once('/').map_or((item, None), |(a, b)| (a, Some(b)));
            let address: IpAddr = address.parse().ok()?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map_or(Some(longest), |prefix| prefix.parse().ok())?;
            (prefix <= longest).then_some((address, prefix))
        };
        let read = |item: &'a str| network(item).ok_or_else(|| item.to_owned());
        items.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether an address lies in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|(network, prefix)| match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (network.to_bits() ^ address.to_bits()).checked_shr(32 - u32::from(*prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (network.to_bits() ^ address.to_bits()).checked_shr(128 - u32::from(*prefix)).unwrap_or(0) == 0
            }
            _ => false,
        })
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<String> = self.0.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect();
        f.write_str(&items.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_lies_in_them() {
        let networks = Networks::parse(["10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "::1"]).unwrap();
        for (address, inside) in [
            ("10.1.255.3", true),
            ("10.2.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.1.2.3", true),
            ("2001:db8:5::1", true),
            ("2001:db9::1", false),
            ("::1", true),
        ] {
            assert_eq!(networks.contain(address.parse().unwrap()), inside, "{address}");
        }
        assert!(Networks::parse(["0.0.0.0/0"]).unwrap().contain("8.8.8.8".parse().unwrap()));
        for bad in ["10.0.0.0/33", "office", "10.0.0.0/x", "::/129", ""] {
            assert_eq!(Networks::parse([bad]), Err(bad.to_owned()));
        }
    }
}
