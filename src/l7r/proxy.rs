//! PROXY protocol, versions 1 and 2: the header in which a load balancer says who its client is. Only what is needed
//! is understood: addresses over TCP. Whose word is taken is not decided here.
//!
//! The parser asks for the bytes it needs and never for one behind the header, so that what follows stays in the
//! socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// A line of version 1, as its specification says.
const LONGEST_LINE: usize = 107;
/// Addresses of version 2 and what a balancer may add to them, certificates for instance.
const LONGEST_BODY: usize = 4096;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// At least so many more bytes belong to the header.
    Needs(usize),
    /// The header is complete. `None`: the balancer speaks for itself, to see whether we live.
    Complete(Option<SocketAddr>),
}

/// Not a header.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProxyError {
    /// Neither version.
    #[error("it does not begin with a PROXY header")]
    Missing,
    /// A version 1 line that cannot be understood.
    #[error("its PROXY line cannot be understood")]
    Line,
    /// A version 2 header that cannot be understood.
    #[error("its PROXY header cannot be understood")]
    Header,
    /// Longer than we read.
    #[error("its PROXY header is too long")]
    TooLong,
}

/// Reads a header from all the bytes that came so far.
///
/// # Errors
/// When they can never become one.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    // The shorter of the two beginnings tells them apart; the shortest header is longer than both.
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] == SIGNATURE[..known] {
        return match bytes.len() {
            have @ 0..12 => Ok(Parsed::Needs(12 - have)),
            have @ 12..16 => Ok(Parsed::Needs(16 - have)),
            _ => second(bytes),
        };
    }
    let known = bytes.len().min(6);
    if bytes[..known] == b"PROXY "[..known] { first(bytes) } else { Err(ProxyError::Missing) }
}

fn first(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if !bytes.ends_with(b"\n") {
        let left = match bytes {
            _ if bytes.contains(&b'\n') => return Err(ProxyError::Line),
            _ if bytes.len() >= LONGEST_LINE => return Err(ProxyError::TooLong),
            [.., b'\r'] => 1,
            // `PROXY UNKNOWN` and its end is the shortest.
            _ => 15_usize.saturating_sub(bytes.len()).max(2),
        };
        return Ok(Parsed::Needs(left));
    }
    let line = bytes.strip_suffix(b"\r\n").and_then(|line| str::from_utf8(line).ok()).ok_or(ProxyError::Line)?;
    let words: Vec<&str> = line.split(' ').collect();
    let address: IpAddr = match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => return Ok(Parsed::Complete(None)),
        ["PROXY", "TCP4", source, _, _, _] => source.parse::<Ipv4Addr>().map_err(|_| ProxyError::Line)?.into(),
        ["PROXY", "TCP6", source, _, _, _] => source.parse::<Ipv6Addr>().map_err(|_| ProxyError::Line)?.into(),
        _ => return Err(ProxyError::Line),
    };
    let port = words[4].parse().map_err(|_| ProxyError::Line)?;
    Ok(Parsed::Complete(Some(SocketAddr::new(address.to_canonical(), port))))
}

fn second(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let (head, body) = bytes.split_at(16);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > LONGEST_BODY {
        return Err(ProxyError::TooLong);
    }
    match body.len() {
        have if have < length => return Ok(Parsed::Needs(length - have)),
        have if have > length => return Err(ProxyError::Header),
        _ => {}
    }
    match (head[12], head[13]) {
        // LOCAL: whatever the rest says.
        (0x20, _) => Ok(Parsed::Complete(None)),
        (0x21, 0x11) => {
            let [source, ports] = [body.get(..4), body.get(8..12)].map(|part| part.ok_or(ProxyError::Header));
            let source = <[u8; 4]>::try_from(source?).map_err(|_| ProxyError::Header)?;
            Ok(Parsed::Complete(Some((Ipv4Addr::from(source), port(ports?)).into())))
        }
        (0x21, 0x21) => {
            let [source, ports] = [body.get(..16), body.get(32..36)].map(|part| part.ok_or(ProxyError::Header));
            let source = <[u8; 16]>::try_from(source?).map_err(|_| ProxyError::Header)?;
            Ok(Parsed::Complete(Some((Ipv6Addr::from(source).to_canonical(), port(ports?)).into())))
        }
        // Unix sockets, UDP, unspecified: a client, but no address that would mean anything here.
        (0x21, family) if family >> 4 <= 3 && family & 0xf <= 2 => Ok(Parsed::Complete(None)),
        _ => Err(ProxyError::Header),
    }
}

/// That of the source, which comes first.
fn port(ports: &[u8]) -> u16 {
    u16::from_be_bytes([ports[0], ports[1]])
}

/// Reads any bytes as they would come from a socket: never more than are asked for, and never for ever.
pub(crate) fn read_any(bytes: &[u8]) {
    let mut taken = 0;
    while let Some(known) = bytes.get(..taken) {
        match parse(known) {
            Ok(Parsed::Needs(more)) => {
                assert!(more > 0);
                taken += more;
            }
            Ok(Parsed::Complete(_)) | Err(_) => break,
        }
    }
    assert!(taken <= 16 + LONGEST_BODY);
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
