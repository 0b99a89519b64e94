//! The UDP port that clients of QUIC connect to: same number, same certificate, same dialogue as over TCP. A client
//! that changes its address is followed by the library; the rest of the router does not notice.
//! The port is bound before rights are dropped, like that of TCP; when it cannot be had, TCP serves alone.

use std::{
    fs, io,
    io::Write,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn::{
    ConnectionError, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicServerConfig},
};
use rand::Rng;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{handover::Release, listener::HandshakeError, tls::Tls};
use crate::{
    model::config::{Config, CongestionControl, keys},
    tunnel::{
        Conn,
        gate::Gate,
        quic::{ALPN, QuicStream, RECONNECT, RECONNECT_TEXT},
        udp::{self, Congestion},
    },
};

/// Handshakes under way at once before a client must prove that it is where it says, which costs it a round trip.
const TRUSTED_HANDSHAKES: usize = 64;
/// Name of the file that holds the `Secret`.
const SECRET_FILE: &str = "quic.key";
/// Its length in bytes.
const SECRET_LENGTH: usize = 32;
/// Pause before a UDP port that another process has is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(1);
/// How long clients may take to finish when another process takes over.
const WIND_DOWN: Duration = Duration::from_secs(1);
/// As many may come meanwhile.
const NEWCOMERS: usize = 1024;
/// How long it may take until everybody was sent the last word.
const LAST_WORD: Duration = Duration::from_millis(50);
/// Bytes of a connection id.
const ID_LENGTH: usize = 8;

/// Why QUIC is not served.
#[derive(Debug, Error)]
pub enum QuicError {
    /// The socket cannot be used.
    #[error("the UDP port cannot be used")]
    Socket(#[from] io::Error),
    /// The TLS library lacks what QUIC needs.
    #[error("TLS cannot be set up for QUIC")]
    Tls(#[from] NoInitialCipherSuite),
}

/// What a router must still know after a restart to tell the clients of its former life that their connections are
/// gone. Without it they would wait for their idle limit.
#[derive(Clone)]
pub struct Secret([u8; SECRET_LENGTH]);

impl Secret {
    /// The secret kept in `directory`, made when there is none.
    ///
    /// # Errors
    /// When it can be neither read nor written.
    pub fn load_or_generate(directory: &Path) -> io::Result<Self> {
        let path = directory.join(SECRET_FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                if let Ok(secret) = bytes.try_into() {
                    return Ok(Self(secret));
                }
                fs::remove_file(&path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let secret = Self::random();
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&secret.0)?;
        Ok(secret)
    }

    /// One that is good for this process only.
    pub fn random() -> Self {
        let mut bytes = [0; SECRET_LENGTH];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// What endpoints with this secret have in common.
    pub fn endpoint_config(&self) -> EndpointConfig {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &self.0);
        let mut config = EndpointConfig::new(Arc::new(key));
        config.cid_generator(|| Box::new(Ids));
        config
    }
}

/// Connection ids of which every router, also the next one, believes that they may be its own. The library's would
/// make it keep silent to the clients of another.
struct Ids;

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; ID_LENGTH];
        rand::rng().fill_bytes(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The UDP port beside a TCP port, bound or to be bound, and the secret that goes with it.
pub struct QuicPort {
    address: SocketAddr,
    bound: Option<UdpSocket>,
    secret: Secret,
}

impl QuicPort {
    /// The port with the number of a TCP port, `taken` over or bound here; `None` when it is not wanted. Whatever is in
    /// the way, TCP serves.
    pub fn get(config: &Config, tcp: SocketAddr, taken: Option<UdpSocket>) -> Option<Self> {
        if !config.get(&keys::L7R_QUIC) {
            return None;
        }
        let taken = taken.filter(|taken| taken.local_addr().is_ok_and(|address| address == tcp));
        let bound = taken.map_or_else(|| udp::bind(tcp), Ok).inspect_err(|error| {
            tracing::warn!(address = %tcp, %error, "the UDP port cannot be had yet; users are served over TCP alone");
        });
        let secret = Secret::load_or_generate(&config.get(&keys::PATH_L7R_SSL)).unwrap_or_else(|error| {
            tracing::warn!(%error, "the key of QUIC cannot be kept; clients will notice a restart only late");
            Secret::random()
        });
        Some(Self { address: tcp, bound: bound.ok(), secret })
    }

    /// The socket once more, for another process.
    pub fn share(&self) -> Option<UdpSocket> {
        self.bound.as_ref()?.try_clone().ok()
    }

    /// Waits until the port is to be had and its owner before has let go of it, and listens, until `replaced`.
    ///
    /// # Errors
    /// When runtime or TLS library cannot serve it.
    pub async fn listen(
        self,
        tls: Tls,
        config: &Config,
        before: Option<Release>,
        replaced: CancellationToken,
    ) -> Result<QuicListener, QuicError> {
        if let Some(before) = before {
            before.wait().await;
        }
        let mut bound = self.bound;
        let bound = loop {
            match bound.take() {
                Some(bound) => break bound,
                None => {
                    tokio::time::sleep(BIND_AGAIN).await;
                    bound = udp::bind(self.address).ok();
                }
            }
        };
        QuicListener::new(bound, tls, &self.secret, config, replaced)
    }
}

/// A bound UDP port that clients connect to.
pub struct QuicListener {
    endpoint: Endpoint,
    gate: Arc<Gate>,
    tls: Tls,
    transport: Arc<TransportConfig>,
    /// What clients are offered, and the settings that it was made from.
    offered: Mutex<(Arc<rustls::ServerConfig>, Arc<ServerConfig>)>,
    handshake: Duration,
    /// One reference more for each handshake under way.
    under_way: Arc<()>,
    /// Another process accepts now.
    replaced: CancellationToken,
}

impl QuicListener {
    /// Takes over a port that was bound before, and says in the log what the system grants it.
    ///
    /// # Errors
    /// When runtime or TLS library cannot serve it.
    pub fn new(
        bound: UdpSocket,
        tls: Tls,
        secret: &Secret,
        config: &Config,
        replaced: CancellationToken,
    ) -> Result<Self, QuicError> {
        let congestion = congestion(config);
        // Clients keep the way through their networks open, and only they know when that is worth it.
        let transport = Arc::new(udp::transport(congestion, config.get(&keys::L7R_QUIC_IDLE), None));
        let current = tls.config();
        let offered = offer(&current, transport.clone())?;
        let (socket, facilities) = udp::adopt(bound)?;
        if facilities.poor() {
            tracing::warn!(%facilities, "UDP buffers are small, QUIC will be slow; raise net.core.rmem_max and wmem_max");
        } else {
            tracing::info!(%facilities, ?congestion, "QUIC is served");
        }
        let gate = Gate::new(socket);
        let runtime = Arc::new(TokioRuntime);
        let first = Some(ServerConfig::clone(&offered));
        let endpoint = Endpoint::new_with_abstract_socket(secret.endpoint_config(), first, gate.clone(), runtime)?;
        let handshake = config.get(&keys::L7R_TIMEOUT_HANDSHAKE);
        let offered = Mutex::new((current, offered));
        Ok(Self { endpoint, gate, tls, transport, offered, handshake, under_way: Arc::new(()), replaced })
    }

    /// The next client; `None` when the port was closed.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = self.endpoint.accept().await?;
            if Arc::strong_count(&self.under_way) > TRUSTED_HANDSHAKES && incoming.may_retry() {
                // It cannot fail: that is what was just asked.
                let _ = incoming.retry();
                continue;
            }
            let offered = self.offered();
            return Some(Incoming {
                incoming,
                offered,
                handshake: self.handshake,
                under_way: self.under_way.clone(),
                replaced: self.replaced.clone(),
            });
        }
    }

    /// What a client is offered now: the certificate may have been replaced.
    fn offered(&self) -> Arc<ServerConfig> {
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.tls.config();
        if !Arc::ptr_eq(&offered.0, &current) {
            match offer(&current, self.transport.clone()) {
                Ok(new) => *offered = (current, new),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "QUIC goes on with the TLS settings it has");
                    offered.0 = current;
                }
            }
        }
        offered.1.clone()
    }

    /// Lets the clients that are served finish what they are saying, for a moment, and then tells all of them to connect
    /// again. What arrives after that is left to the process that has the port now. Newcomers are answered meanwhile and
    /// told the same: silence would cost them a second, and send those who may to TCP.
    pub async fn move_on(&self, clients: &TaskTracker) {
        clients.close();
        let mut newcomers = JoinSet::new();
        let receive = async {
            while let Some(incoming) = self.accept().await {
                if newcomers.len() < NEWCOMERS {
                    // Held as long as the set is; what they ask is for the next process to answer.
                    newcomers.spawn(incoming.handshake());
                } else {
                    incoming.incoming.ignore();
                }
            }
        };
        tokio::select! {
            () = clients.wait() => {}
            () = receive => {}
            () = tokio::time::sleep(WIND_DOWN) => {}
        }
        self.gate.close();
        self.endpoint.close(RECONNECT, RECONNECT_TEXT);
        // Whom it does not reach hears from the next process that the connection is not known there.
        let _ = tokio::time::timeout(LAST_WORD, self.endpoint.wait_idle()).await;
    }

    /// Takes no more clients and waits until all connections have ended, so that their last words arrive.
    pub async fn close(&self) {
        self.endpoint.set_server_config(None);
        self.endpoint.wait_idle().await;
    }
}

/// Who decides how fast QUIC sends.
pub fn congestion(config: &Config) -> Congestion {
    match config.get(&keys::L7R_QUIC_CONGESTION) {
        CongestionControl::Cubic => Congestion::Cubic,
        CongestionControl::Bbr => Congestion::Bbr,
        CongestionControl::NewReno => Congestion::NewReno,
    }
}

fn offer(tls: &rustls::ServerConfig, transport: Arc<TransportConfig>) -> Result<Arc<ServerConfig>, QuicError> {
    let mut crypto = tls.clone();
    crypto.alpn_protocols = vec![ALPN.to_vec()];
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(crypto)?));
    server.transport_config(transport);
    Ok(Arc::new(server))
}

/// A client that did not prove to be worth anything yet.
pub struct Incoming {
    incoming: quinn::Incoming,
    offered: Arc<ServerConfig>,
    handshake: Duration,
    under_way: Arc<()>,
    replaced: CancellationToken,
}

impl Incoming {
    /// Where the client connects from. IPv4 addresses look like IPv4 also on a socket that serves both.
    pub fn peer(&self) -> SocketAddr {
        let peer = self.incoming.remote_address();
        SocketAddr::new(peer.ip().to_canonical(), peer.port())
    }

    /// Does the handshake, and waits for the stream that carries the dialogue; like over TCP, a client may take its
    /// time for the first request.
    ///
    /// # Errors
    /// When the client is gone, too slow, or does not accept our certificate.
    pub async fn handshake(self) -> Result<Conn, HandshakeError> {
        let connecting = self.incoming.accept_with(self.offered).map_err(failed)?;
        let connection = match tokio::time::timeout(self.handshake, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(failed(error)),
            Err(_) => return Err(HandshakeError::TimedOut { limit: self.handshake }),
        };
        drop(self.under_way);
        let stream = QuicStream::accept(connection.clone()).await;
        stream.map(|stream| stream.stay_open_when(self.replaced).into()).map_err(|error| {
            connection.close(VarInt::from_u32(0), b"");
            HandshakeError::Gone(error.into())
        })
    }
}

fn failed(error: ConnectionError) -> HandshakeError {
    HandshakeError::Tls { cause: error.to_string(), source: error.into() }
}

#[cfg(test)]
#[path = "quic_tests.rs"]
mod tests;
