//! What QUIC stands on: UDP sockets with room for bursts, and the parameters of a connection that lives for a working
//! day and changes networks meanwhile.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use quinn::{
    AsyncUdpSocket, IdleTimeout, Runtime, TokioRuntime, TransportConfig, VarInt,
    congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Bytes asked for in each direction. One socket of a router serves all its clients.
const BUFFER: usize = 8 * 1024 * 1024;
/// What may be under way in one stream: 160 Mbit/s over a round trip of 100 ms. A side that does not read holds back
/// the other when this much waits for it.
const WINDOW: u32 = 2 * 1024 * 1024;

/// Connections to VMs of one node that another may have.
const STREAMS: u32 = 1 << 16;

/// Who decides how much may be under way in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Slows down when packets are lost.
    Cubic,
    /// Measures bandwidth and round trip; loss alone does not slow it down.
    Bbr,
    /// The classic of TCP.
    NewReno,
}

impl Congestion {
    fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
            Self::NewReno => Arc::new(NewRenoConfig::default()),
        }
    }
}

/// The parameters of a QUIC connection: one stream, opened by the client. Whoever hears nothing for `idle` gives the
/// connection up; with `keep_alive` a sign of life is sent that often, which also keeps the way open through routers
/// that translate addresses.
pub fn transport(congestion: Congestion, idle: Duration, keep_alive: Option<Duration>) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(WINDOW.into())
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        .keep_alive_interval(keep_alive)
        .congestion_controller_factory(congestion.factory());
    transport
}

/// The parameters of a QUIC connection between two nodes, which has a stream for each TCP connection to a VM. Streams have
/// their windows, the connection has none: one that nobody reads from must not hold back the others.
pub fn shared_transport(congestion: Congestion, idle: Duration, keep_alive: Duration) -> TransportConfig {
    let mut transport = transport(congestion, idle, Some(keep_alive));
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .receive_window(VarInt::MAX)
        .send_window(u64::from(WINDOW) * 32);
    transport
}

/// Binds a UDP socket with large buffers. The unspecified IPv6 address serves IPv4, too.
///
/// # Errors
/// When the address cannot be had.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    let socket = socket.into();
    prepare(&socket)?;
    Ok(socket)
}

/// A socket for both protocols, where the system has IPv6, with large buffers and without an address.
///
/// # Errors
/// When the system gives none.
pub fn unbound() -> io::Result<UdpSocket> {
    let six = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).and_then(|socket| {
        socket.set_only_v6(false)?;
        Ok(socket)
    });
    let socket = match six {
        Ok(socket) => socket,
        Err(_) => Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?,
    }
    .into();
    prepare(&socket)?;
    Ok(socket)
}

/// Binds such a socket: to `address` or, when it is `None`, to every one.
///
/// # Errors
/// When they cannot be had.
pub fn bind_to(socket: &UdpSocket, address: Option<IpAddr>, port: u16) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let six = socket.domain()? == Domain::IPV6;
    let address = match (address, six) {
        (None, true) => Ipv6Addr::UNSPECIFIED.into(),
        (None, false) => Ipv4Addr::UNSPECIFIED.into(),
        (Some(IpAddr::V4(four)), true) => four.to_ipv6_mapped().into(),
        (Some(address), _) => address,
    };
    socket.bind(&SocketAddr::new(address, port).into())
}

/// Gives a socket large buffers: beyond the system's limit where we have the right to it, up to the limit where not.
///
/// # Errors
/// When it cannot be made not to block.
pub fn prepare(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let buffers = SockRef::from(socket);
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        let _ = buffers.set_recv_buffer_size(BUFFER);
    }
    if setsockopt(socket, sockopt::SndBufForce, &BUFFER).is_err() {
        let _ = buffers.set_send_buffer_size(BUFFER);
    }
    Ok(())
}

/// A UDP socket as the system gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facilities {
    /// Usable bytes of the receive buffer.
    pub receive_buffer: usize,
    /// Usable bytes of the send buffer.
    pub send_buffer: usize,
    /// Packets handed to the system at once; 1 is no offload.
    pub send_batch: usize,
    /// Packets taken from the system at once; 1 is no offload.
    pub receive_batch: usize,
}

impl Facilities {
    /// Whether packets will be lost on this machine when they come in bursts.
    pub fn poor(&self) -> bool {
        self.receive_buffer < BUFFER / 8
    }
}

impl fmt::Display for Facilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { receive_buffer, send_buffer, send_batch, receive_batch } = self;
        let (receive_kib, send_kib) = (receive_buffer / 1024, send_buffer / 1024);
        write!(f, "buffers {receive_kib}/{send_kib} KiB, offload {receive_batch}/{send_batch} packets (in/out)")
    }
}

/// Gives a socket to the runtime and says what it has.
///
/// # Errors
/// When the runtime cannot watch it.
pub fn adopt(socket: UdpSocket) -> io::Result<(Arc<dyn AsyncUdpSocket>, Facilities)> {
    // The kernel reports twice what may be used.
    let receive_buffer = getsockopt(&socket, sockopt::RcvBuf).unwrap_or_default() / 2;
    let send_buffer = getsockopt(&socket, sockopt::SndBuf).unwrap_or_default() / 2;
    let socket = TokioRuntime.wrap_udp_socket(socket)?;
    let (send_batch, receive_batch) = (socket.max_transmit_segments(), socket.max_receive_segments());
    Ok((socket, Facilities { receive_buffer, send_buffer, send_batch, receive_batch }))
}
