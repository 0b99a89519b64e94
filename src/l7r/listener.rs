//! The port that clients connect to. Binding needs no runtime, so that it can be done before rights are dropped.
//! Accepting is one step and the TLS handshake another, for the second may take as long as a stranger likes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::tls::Tls;
use crate::tunnel::{Conn, tune};

/// Connections that may wait for `accept`. A Monday morning fits.
const BACKLOG: i32 = 1024;
/// Pause before accepting again when the system has no descriptor or memory for another connection.
const BREATH: Duration = Duration::from_millis(100);

/// A port that cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Neither `*` nor an address.
    #[error("{address:?} is not an address to listen on; use * or an IP address")]
    Address {
        /// As configured.
        address: String,
    },
    /// Another process has the port.
    #[error("port {} of {} is taken by another process", address.port(), address.ip())]
    Taken {
        /// What was to be bound.
        address: SocketAddr,
    },
    /// The address belongs to another machine.
    #[error("{} is not an address of this machine", address.ip())]
    NotOurs {
        /// What was to be bound.
        address: SocketAddr,
    },
    /// A port below 1024 without the right to it.
    #[error("no permission to listen on port {}", address.port())]
    Denied {
        /// What was to be bound.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}")]
    Other {
        /// What was to be bound.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Binds the port. `*` means every address, IPv6 included where the machine has it; port 0 any free one.
///
/// # Errors
/// One sentence for the administrator.
pub fn bind(address: &str, port: u16) -> Result<StdListener, BindError> {
    if address == "*" || address.is_empty() {
        let every = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        return match listen(every) {
            Err(error) if no_such_family(&error) => bind_one((Ipv4Addr::UNSPECIFIED, port).into()),
            result => result.map_err(|source| explain(every, source)),
        };
    }
    let ip: IpAddr = match address {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        _ => address.parse().map_err(|_| BindError::Address { address: address.to_owned() })?,
    };
    bind_one((ip, port).into())
}

fn bind_one(address: SocketAddr) -> Result<StdListener, BindError> {
    listen(address).map_err(|source| explain(address, source))
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of an earlier process that linger in TIME_WAIT do not keep the port from us; a living one does.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn no_such_family(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT))
}

fn explain(address: SocketAddr, source: io::Error) -> BindError {
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { address },
        io::ErrorKind::AddrNotAvailable => BindError::NotOurs { address },
        io::ErrorKind::PermissionDenied => BindError::Denied { address },
        _ => BindError::Other { address, source },
    }
}

/// A bound port that clients connect to.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Tls>,
    handshake: Duration,
}

impl Listener {
    /// Takes over a port that was bound before. Without `tls` clients speak in the clear. A handshake may take as
    /// long as `handshake` says.
    ///
    /// # Errors
    /// When the runtime cannot watch the port.
    pub fn new(bound: StdListener, tls: Option<Tls>, handshake: Duration) -> io::Result<Self> {
        bound.set_nonblocking(true)?;
        Ok(Self { tcp: TcpListener::from_std(bound)?, tls, handshake })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// Never on a socket that was bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next client. Neither a client that is gone again nor a shortage of descriptors ends this.
    pub async fn accept(&self) -> Incoming {
        loop {
            match self.tcp.accept().await {
                Ok((tcp, peer)) => return Incoming { tcp, peer, tls: self.tls.clone(), handshake: self.handshake },
                Err(error) if is_about_one_client(&error) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept connections");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }
}

fn is_about_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A client that did not prove to be worth anything yet.
#[derive(Debug)]
pub struct Incoming {
    tcp: TcpStream,
    peer: SocketAddr,
    tls: Option<Tls>,
    handshake: Duration,
}

/// A client with whom no connection came about.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// It was too slow.
    #[error("the client did not finish the handshake within {} s", limit.as_secs())]
    TimedOut {
        /// How long it had.
        limit: Duration,
    },
    /// It does not speak TLS, does not like our certificate, or left.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// It was gone before its socket could be set up.
    #[error("the client left at once")]
    Gone(#[source] io::Error),
}

impl Incoming {
    /// Where the client connects from. IPv4 addresses look like IPv4 also on a socket that serves both.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.peer.ip().to_canonical(), self.peer.port())
    }

    /// Sets up the socket and does the TLS handshake, if there is to be one.
    ///
    /// # Errors
    /// When the client is gone, too slow, or not a TLS client that accepts our certificate.
    pub async fn handshake(self) -> Result<Conn, HandshakeError> {
        tune(&self.tcp).map_err(HandshakeError::Gone)?;
        let Some(tls) = self.tls else { return Ok(self.tcp.into()) };
        let accept = TlsAcceptor::from(tls.config()).accept(self.tcp);
        match tokio::time::timeout(self.handshake, accept).await {
            Ok(Ok(stream)) => Ok(stream.into()),
            Ok(Err(error)) => Err(HandshakeError::Tls(error)),
            Err(_) => Err(HandshakeError::TimedOut { limit: self.handshake }),
        }
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
