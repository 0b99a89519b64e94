//! From an accepted TCP connection to a TLS session, within a time that the caller sets.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use futures_util::FutureExt;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::TcpStream;

use super::{
    session::Session,
    stream::{TlsStream, broken},
};
use crate::tunnel::{Kernel, buffers::Buffer};

/// A client with whom no TLS session came about.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// It was too slow.
    #[error("the client did not finish the TLS handshake in time")]
    TimedOut,
    /// It does not speak TLS, agrees to none of our terms, or left.
    #[error("the TLS handshake failed")]
    Failed(#[source] io::Error),
}

/// Does the handshake, which may take as long as `limit` says.
///
/// # Errors
/// When the client is too slow, leaves, or no agreement is reached. It has been told why, if it listens.
pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>, limit: Duration) -> Result<TlsStream, AcceptError> {
    accept_with(tcp, config, limit, None).await
}

/// The same, prepared for giving the session to `kernel` when it becomes a tunnel. The configuration has to allow that
/// secrets are taken out, and to send no tickets.
///
/// # Errors
/// As above.
pub async fn accept_with(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    limit: Duration,
    kernel: Option<Arc<Kernel>>,
) -> Result<TlsStream, AcceptError> {
    let kernel = kernel.filter(|kernel| kernel.is_on() && config.enable_secret_extraction);
    match tokio::time::timeout(limit, shake_hands(tcp, config, kernel)).await {
        Ok(result) => result.map_err(AcceptError::Failed),
        Err(_) => Err(AcceptError::TimedOut),
    }
}

async fn shake_hands(
    mut tcp: TcpStream,
    config: Arc<ServerConfig>,
    kernel: Option<Arc<Kernel>>,
) -> io::Result<TlsStream> {
    let mut session = Box::new(Session::new(config).map_err(broken)?);
    session.by_record = kernel.is_some();
    // What a client sends right behind its part of the handshake.
    let mut plain = Buffer::default();
    loop {
        let processed = session.process(|payload| plain.extend(payload));
        if let Err(error) = processed {
            let _ = poll_fn(|cx| session.poll_send(cx, &mut tcp)).now_or_never();
            return Err(broken(error));
        }
        poll_fn(|cx| session.poll_send(cx, &mut tcp)).await?;
        if !session.is_handshaking() {
            break;
        }
        if poll_fn(|cx| session.poll_receive(cx, &mut tcp, 0)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    session.incoming.rest();
    session.outgoing.rest();
    Ok(TlsStream { tcp, session, plain, kernel })
}
