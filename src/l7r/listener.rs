//! The port that clients connect to. Binding needs no runtime, so that it can be done before rights are dropped.
//! Accepting is one step and the TLS handshake another, for the second may take as long as a stranger likes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    hello::{self, Opening},
    http::{Answer, Status},
    proxy::{self, ProxyError},
    tls::Tls,
};
use crate::{
    model::networks::Networks,
    tunnel::{
        Conn,
        tls::{self, AcceptError},
        tune,
    },
};

/// Connections that may wait for `accept`. A Monday morning fits.
const BACKLOG: i32 = 1024;
/// Pause before accepting again when the system has no descriptor or memory for another connection.
const BREATH: Duration = Duration::from_millis(100);
/// What is looked at of a client's first bytes, to say later why its handshake failed.
const FIRST: usize = 2048;
/// How long a client that speaks HTTP in the clear may take to read that it should not.
const LINGER: Duration = Duration::from_secs(2);
/// What it may still send meanwhile.
const LINGER_BYTES: usize = 64 * 1024;

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

/// Whether a bound address is what `address` and `port` mean.
pub fn is_at(bound: SocketAddr, address: &str, port: u16) -> bool {
    let same_address = match address {
        "*" | "" => bound.ip().is_unspecified(),
        "localhost" => bound.ip() == Ipv4Addr::LOCALHOST,
        _ => address.parse() == Ok(bound.ip()),
    };
    same_address && bound.port() == port
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
    /// It does not speak TLS as we do, does not like our certificate, or left.
    #[error("the TLS handshake failed: {cause}")]
    Tls {
        /// What the client would have needed.
        cause: String,
        /// What the library says.
        source: io::Error,
    },
    /// It spoke HTTP in the clear, and was told.
    #[error("the client speaks HTTP without TLS")]
    PlainHttp,
    /// What it said is nothing that is spoken here.
    #[error("the client speaks neither TLS nor HTTP")]
    Garbage,
    /// It comes from where every connection begins with a PROXY header, and has none.
    #[error("a load balancer of l7r.proxy.from did not say who its client is")]
    Proxy(#[source] ProxyError),
    /// It was gone before its socket could be set up.
    #[error("the client left at once")]
    Gone(#[source] io::Error),
}

impl Incoming {
    /// Where the client connects from. IPv4 addresses look like IPv4 also on a socket that serves both.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.peer.ip().to_canonical(), self.peer.port())
    }

    /// Lets a load balancer out of `trusted` say who its client is; takes nobody else's word.
    ///
    /// # Errors
    /// When it does not, or not in the time that a handshake has.
    pub async fn introduce(&mut self, trusted: &Networks) -> Result<(), HandshakeError> {
        if !trusted.contain(self.peer.ip()) {
            return Ok(());
        }
        let introduced = tokio::time::timeout(self.handshake, introduction(&mut self.tcp));
        if let Some(client) = introduced.await.map_err(|_| HandshakeError::TimedOut { limit: self.handshake })?? {
            self.peer = client;
        }
        Ok(())
    }

    /// Sets up the socket and does the TLS handshake, if there is to be one.
    ///
    /// # Errors
    /// When the client is gone, too slow, or not a TLS client that accepts our certificate.
    pub async fn handshake(self) -> Result<Conn, HandshakeError> {
        tune(&self.tcp).map_err(HandshakeError::Gone)?;
        let Some(tls) = self.tls else { return Ok(self.tcp.into()) };
        tokio::time::timeout(self.handshake, shake_hands(self.tcp, &tls, self.handshake))
            .await
            .unwrap_or(Err(HandshakeError::TimedOut { limit: self.handshake }))
    }
}

async fn introduction(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, HandshakeError> {
    let mut header = Vec::new();
    loop {
        match proxy::parse(&header).map_err(HandshakeError::Proxy)? {
            proxy::Parsed::Complete(client) => return Ok(client),
            proxy::Parsed::Needs(more) => {
                let known = header.len();
                header.resize(known + more, 0);
                tcp.read_exact(&mut header[known..]).await.map_err(HandshakeError::Gone)?;
            }
        }
    }
}

async fn shake_hands(mut tcp: TcpStream, tls: &Tls, limit: Duration) -> Result<Conn, HandshakeError> {
    let mut first = vec![0; FIRST];
    let seen = tcp.peek(&mut first).await.map_err(HandshakeError::Gone)?;
    first.truncate(seen);
    match first.first().map(|byte| Opening::of(*byte)) {
        Some(Opening::Tls) => {}
        Some(Opening::Http) => {
            tell_plain(&mut tcp).await;
            return Err(HandshakeError::PlainHttp);
        }
        Some(Opening::Garbage) => return Err(HandshakeError::Garbage),
        None => return Err(HandshakeError::Gone(io::ErrorKind::UnexpectedEof.into())),
    }
    tls::accept_with(tcp, tls.config(), limit, tls.kernel()).await.map(Conn::from).map_err(|error| match error {
        AcceptError::Failed(source) => HandshakeError::Tls { cause: hello::cause(&source, &first), source },
        AcceptError::TimedOut => HandshakeError::TimedOut { limit },
    })
}

/// Says in the clear that this is the wrong port for it, and lets the client read that.
async fn tell_plain(tcp: &mut TcpStream) {
    let answer =
        Answer::text(Status::BadRequest, "This port speaks TLS: switch it on in the client, or use https://\r\n");
    let told = async {
        for part in answer.records() {
            tcp.write_all(&part).await?;
        }
        tcp.shutdown().await?;
        let mut space = [0; 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match tcp.read(&mut space).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    // A client that does not listen has nothing to learn.
    let _ = tokio::time::timeout(LINGER, told).await;
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
