//! The types a configuration value may have, how each is written, and in what unit.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use crate::model::networks::Networks;

/// The unit of a value, as shown to administrators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Free text.
    Text,
    /// Seconds, fractions allowed.
    Seconds,
    /// A number of things.
    Count,
    /// A TCP port.
    Port,
    /// 0 or 1.
    Switch,
    /// A file or directory.
    Path,
    /// An IP address.
    Address,
    /// A comma-separated list.
    List,
    /// A comma-separated list of addresses and networks.
    Networks,
    /// One of a few words, which are separated by `|` here.
    OneOf(&'static str),
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Seconds => "seconds",
            Self::Count => "count",
            Self::Port => "port",
            Self::Switch => "0|1",
            Self::Path => "path",
            Self::Address => "address",
            Self::List => "list",
            Self::Networks => "networks",
            Self::OneOf(words) => words,
        })
    }
}

/// A type that configuration values can have.
pub trait ConfigValue: Sized {
    /// Unit shown to administrators.
    const UNIT: Unit;

    /// Reads the text of a value; the error says what was expected.
    fn parse(text: &str) -> Result<Self, String>;
}

impl ConfigValue for String {
    const UNIT: Unit = Unit::Text;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl ConfigValue for bool {
    const UNIT: Unit = Unit::Switch;
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "1" | "yes" | "true" | "on" => Ok(true),
            "0" | "no" | "false" | "off" | "" => Ok(false),
            _ => Err("expected 0 or 1".to_owned()),
        }
    }
}

impl ConfigValue for u16 {
    const UNIT: Unit = Unit::Port;
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err("expected a port number from 1 to 65535".to_owned()),
        }
    }
}

impl ConfigValue for u32 {
    const UNIT: Unit = Unit::Count;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "expected a whole number".to_owned())
    }
}

impl ConfigValue for Duration {
    const UNIT: Unit = Unit::Seconds;
    fn parse(text: &str) -> Result<Self, String> {
        let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
        Self::try_from_secs_f64(seconds).map_err(|_| "expected a number of seconds, not negative".to_owned())
    }
}

impl ConfigValue for PathBuf {
    const UNIT: Unit = Unit::Path;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("expected a path".to_owned()) } else { Ok(Self::from(text)) }
    }
}

impl ConfigValue for IpAddr {
    const UNIT: Unit = Unit::Address;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "expected an IP address".to_owned())
    }
}

impl ConfigValue for Vec<String> {
    const UNIT: Unit = Unit::List;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }
}

impl ConfigValue for Networks {
    const UNIT: Unit = Unit::Networks;
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text.split(',').map(str::trim).filter(|item| !item.is_empty()))
            .map_err(|item| format!("{item:?} is neither an address nor a network such as 10.0.0.0/24"))
    }
}

/// How VMs write into what looks like their image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnionKind {
    /// As the file systems suggest.
    Auto,
    /// A layer over the image.
    Overlayfs,
    /// A snapshot of the image.
    Btrfs,
    /// A copy that shares its blocks with the image.
    Reflink,
}

impl ConfigValue for UnionKind {
    const UNIT: Unit = Unit::OneOf("auto|overlayfs|btrfs|reflink");
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "overlayfs" => Ok(Self::Overlayfs),
            "btrfs" => Ok(Self::Btrfs),
            // Classic QVD knows them from there.
            "reflink" | "xfs" => Ok(Self::Reflink),
            _ => Err("expected auto, overlayfs, btrfs or reflink".to_owned()),
        }
    }
}

/// Who shares the VM network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// All nodes and their VMs.
    Flat,
    /// A node and its VMs; nobody else reaches them but through the node.
    Routed,
}

impl ConfigValue for NetworkMode {
    const UNIT: Unit = Unit::OneOf("flat|routed");
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "flat" => Ok(Self::Flat),
            "routed" => Ok(Self::Routed),
            _ => Err("expected flat or routed".to_owned()),
        }
    }
}

/// Who decides how fast QUIC sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CongestionControl {
    /// Slows down when packets are lost.
    Cubic,
    /// Measures bandwidth and round trip.
    Bbr,
    /// The classic of TCP.
    NewReno,
}

impl ConfigValue for CongestionControl {
    const UNIT: Unit = Unit::OneOf("cubic|bbr|newreno");
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "cubic" => Ok(Self::Cubic),
            "bbr" => Ok(Self::Bbr),
            "newreno" => Ok(Self::NewReno),
            _ => Err("expected cubic, bbr or newreno".to_owned()),
        }
    }
}
