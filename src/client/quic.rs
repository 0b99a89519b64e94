//! The client's end of QUIC: one UDP socket for all connections, which is replaced when the machine moves to another
//! network, so that the session goes on there. Whether QUIC is used is not decided here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime, crypto::rustls::QuicClientConfig};
use tokio::task::AbortHandle;

use super::{
    ClientError,
    session::{CONNECT_LIMIT, Server},
    trust::Trust,
};
use crate::tunnel::{
    Conn,
    quic::{ALPN, QuicStream},
    udp::{self, Congestion},
};

/// Silence after which the server is given up. Walking from one network to the next takes less.
const IDLE: Duration = Duration::from_secs(60);
/// Pause between signs of life. Routers that translate addresses forget UDP after 30 s, some sooner.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How often is looked whether the machine has moved.
const LOOK: Duration = Duration::from_millis(500);
/// An address of the server that does not answer does not keep the next one waiting for longer.
const STAGGER: Duration = Duration::from_millis(250);

/// Connects over QUIC.
///
/// # Errors
/// When the server cannot be reached or its certificate is not accepted.
pub(super) async fn connect(server: &Server, trust: &Arc<Trust>, roamer: &Roamer) -> Result<Conn, ClientError> {
    let label = server.to_string();
    let unreachable = |source: io::Error| ClientError::Unreachable { server: label.clone(), source };
    let (config, verdict) = trust.client_config(&label)?;
    let mut config = rustls::ClientConfig::clone(&config);
    config.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(config).map_err(|error| unreachable(io::Error::other(error)))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(udp::transport(Congestion::Cubic, IDLE, Some(KEEP_ALIVE))));

    let endpoint = roamer.endpoint().map_err(unreachable)?;
    let addresses = tokio::net::lookup_host((server.host.as_str(), server.port)).await.map_err(unreachable)?;
    let handshake = async |address| {
        let connecting = endpoint.connect_with(config.clone(), address, &server.host);
        let connection = connecting.map_err(io::Error::other)?.await?;
        Ok((address, QuicStream::open(connection).await?))
    };
    let attempt = first_of(addresses.collect(), handshake);
    let opened = match tokio::time::timeout(CONNECT_LIMIT, attempt).await {
        Ok(opened) => opened,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match (opened, verdict.take()) {
        (Ok((address, stream)), _) => {
            roamer.follow(&endpoint, address);
            Ok(stream.into())
        }
        (Err(_), Some(refusal)) => Err(refusal.into()),
        (Err(source), None) => Err(unreachable(source)),
    }
}

/// The first address with which it works; each gets a head start over the next.
async fn first_of<T>(addresses: Vec<SocketAddr>, attempt: impl AsyncFn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut waiting = addresses.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            under_way.push(attempt(address));
        }
        let more = waiting.len() > 0;
        tokio::select! {
            result = under_way.next() => match result {
                Some(Ok(done)) => return Ok(done),
                Some(Err(error)) => last = error,
                None if more => {}
                None => return Err(last),
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
    }
}

/// Holds the UDP socket and follows the machine from address to address.
#[derive(Default)]
pub struct Roamer(Mutex<Option<(Endpoint, Option<AbortHandle>)>>);

impl Roamer {
    fn endpoint(&self) -> io::Result<Endpoint> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((endpoint, _)) = &*held {
            return Ok(endpoint.clone());
        }
        let (socket, facilities) = udp::adopt(any_address()?)?;
        tracing::debug!(%facilities, "UDP");
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, runtime)?;
        Ok(held.insert((endpoint, None)).0.clone())
    }

    /// Looks after the way to `server` from now on.
    fn follow(&self, endpoint: &Endpoint, server: SocketAddr) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, following)) = &mut *held {
            let task = tokio::spawn(follow(endpoint.clone(), server));
            if let Some(before) = following.replace(task.abort_handle()) {
                before.abort();
            }
        }
    }

    /// Goes on from another socket. Nothing is lost: what was under way is sent again.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn rebind(&self, socket: UdpSocket) -> io::Result<()> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((endpoint, _)) => endpoint.rebind(socket),
            None => Ok(()),
        }
    }

    /// Resolves when no connection is left. Where there never was one, attempts are just given up.
    pub(super) async fn idle(&self) {
        let endpoint = match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((endpoint, Some(_))) => endpoint.clone(),
            _ => return,
        };
        endpoint.wait_idle().await;
    }
}

impl Drop for Roamer {
    fn drop(&mut self) {
        if let Some((_, Some(following))) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            following.abort();
        }
    }
}

async fn follow(endpoint: Endpoint, server: SocketAddr) {
    let mut place = Place::new(own_address(server));
    loop {
        tokio::time::sleep(LOOK).await;
        let seen = own_address(server);
        if !place.moved(seen) {
            continue;
        }
        match any_address().and_then(|socket| endpoint.rebind(socket)) {
            Ok(()) => tracing::info!(address = ?seen, "the network has changed; going on from another address"),
            Err(error) => tracing::warn!(%error, "the network has changed, but there is no socket for the new one"),
        }
    }
}

/// Where the machine is, as far as the way to the server is concerned.
#[derive(Debug)]
struct Place {
    address: Option<IpAddr>,
    lost: bool,
}

impl Place {
    fn new(address: Option<IpAddr>) -> Self {
        Self { address, lost: false }
    }

    /// Whether to go on from another socket, given the address that is used now, if there is one. A network that
    /// went away and came back is another one, although it gave the same address.
    fn moved(&mut self, seen: Option<IpAddr>) -> bool {
        let Some(seen) = seen else {
            self.lost = true;
            return false;
        };
        let moved = self.lost || self.address != Some(seen);
        *self = Self::new(Some(seen));
        moved
    }
}

/// The address from which the system would send to the server. Nothing is sent.
fn own_address(server: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if server.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(server).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A socket that reaches every address, or those of IPv4 where there is nothing else.
fn any_address() -> io::Result<UdpSocket> {
    udp::bind((Ipv6Addr::UNSPECIFIED, 0).into()).or_else(|_| udp::bind((Ipv4Addr::UNSPECIFIED, 0).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_left_when_its_address_changes_or_comes_back() {
        let (home, office) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        let mut place = Place::new(home);
        let seen = [home, office, office, None, None, office, home];
        assert_eq!(seen.map(|address| place.moved(address)), [false, true, false, false, false, true, true]);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_does_not_stop_the_others() {
        let address = |host| SocketAddr::from(([127, 0, 0, host], 1));
        let answered = first_of(vec![address(1), address(2), address(3)], async |tried| match tried {
            tried if tried == address(1) => std::future::pending().await,
            tried if tried == address(2) => Err(io::ErrorKind::ConnectionRefused.into()),
            tried => Ok(tried),
        });
        assert_eq!(answered.await.unwrap(), address(3));
        let failed = first_of::<()>(vec![address(1)], async |_| Err(io::ErrorKind::ConnectionRefused.into())).await;
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
