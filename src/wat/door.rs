//! How browsers come in: over TLS, or in the clear behind something that has TLS. Handshakes are made beside each other,
//! so that nobody who is slow keeps the others waiting.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

/// A handshake that takes longer is none.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same time.
const TOGETHER: usize = 256;
/// Before the next attempt to accept, when there are no descriptors for it.
const BREATH: Duration = Duration::from_millis(100);

type Stream = Either<TlsStream<TcpStream>, TcpStream>;

/// Where browsers come in.
pub struct Door {
    address: SocketAddr,
    guests: mpsc::Receiver<(Stream, SocketAddr)>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Door {
    /// Opens it; without TLS what comes in is in the clear.
    ///
    /// # Errors
    /// Nobody can be listened to there.
    pub async fn open(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (arrived, guests) = mpsc::channel(TOGETHER);
        tokio::spawn(async move {
            let acceptor = tls.map(TlsAcceptor::from);
            let room = Arc::new(Semaphore::new(TOGETHER));
            loop {
                let Ok(place) = room.clone().acquire_owned().await else { return };
                let (tcp, peer) = tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            tracing::warn!(%error, "nobody can come in");
                            tokio::time::sleep(BREATH).await;
                            continue;
                        }
                    },
                    () = arrived.closed() => return,
                };
                let (acceptor, arrived) = (acceptor.clone(), arrived.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let stream = match acceptor {
                        None => Either::Right(tcp),
                        Some(acceptor) => match timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                            Ok(Ok(stream)) => Either::Left(stream),
                            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS"),
                            Err(_) => return tracing::debug!(%peer, "no TLS in time"),
                        },
                    };
                    let _ = arrived.send((stream, peer)).await;
                });
            }
        });
        Ok(Self { address, guests })
    }
}

impl Listener for Door {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.guests.recv().await {
            Some(guest) => guest,
            // The task that sends them ends only after this.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
