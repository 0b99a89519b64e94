//! A QUIC connection that is used like one of TCP: the first stream that the client opens carries everything. The
//! connection may move from address to address while bytes flow; nobody here needs to know.
//!
//! ```text
//!        shutdown              the peer has everything
//!  Open ─────────► Finishing ─────────────────────────► Finished
//! ```
//!
//! QUIC forgets what is under way when a connection is closed, where the kernel would still deliver it for a closed
//! TCP socket. So shutting down waits until the peer has acknowledged every byte, and a stream that is dropped earlier
//! lingers a while for that. The end of the stream is the goodbye: a peer that closes the connection without it has
//! cut it. Of two that have said goodbye, the one that did so first closes the connection, and can say with a code what
//! the other should do next.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// The protocol's name in the TLS handshake of QUIC.
pub const ALPN: &[u8] = b"qvd";

/// The code with which a server closes a connection that is to be made again, at once.
pub const RECONNECT: VarInt = VarInt::from_u32(1);

/// The text that goes with it.
pub const RECONNECT_TEXT: &[u8] = b"this server is being replaced; connect again";

/// How long a stream that was dropped waits for its last bytes to be acknowledged, and for the peer's last word.
const LINGER: Duration = Duration::from_secs(5);

type Delivery = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

enum State {
    Open,
    Finishing(Delivery),
    Finished,
}

/// One stream with the connection that it alone uses.
pub struct QuicStream {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    state: State,
    /// The peer said goodbye before we did.
    peer_ended: bool,
    /// Somebody else closes all connections together.
    moving: CancellationToken,
}

impl QuicStream {
    /// The stream that a client opens.
    ///
    /// # Errors
    /// When the connection is lost before.
    pub async fn accept(connection: Connection) -> Result<Self, ConnectionError> {
        let streams = connection.accept_bi().await?;
        Ok(Self::new(connection, streams))
    }

    /// Opens the stream. The server learns of it with the first bytes.
    ///
    /// # Errors
    /// When the connection is lost before.
    pub async fn open(connection: Connection) -> Result<Self, ConnectionError> {
        let streams = connection.open_bi().await?;
        Ok(Self::new(connection, streams))
    }

    fn new(connection: Connection, (send, recv): (SendStream, RecvStream)) -> Self {
        Self { connection, send, recv, state: State::Open, peer_ended: false, moving: CancellationToken::new() }
    }

    /// Once `moving` is cancelled, this stream ends without closing its connection: all are closed together, with one
    /// last word.
    pub fn stay_open_when(mut self, moving: CancellationToken) -> Self {
        self.moving = moving;
        self
    }

    /// A way to learn how the connection ends, whoever has the stream by then.
    pub fn parting(&self) -> Parting {
        Parting(self.connection.clone())
    }

    /// The end of the connection, whoever ends it.
    pub fn closed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let connection = self.connection.clone();
        Box::pin(async move { drop(connection.closed().await) })
    }

    /// Where the peer is now.
    pub fn peer(&self) -> SocketAddr {
        self.connection.remote_address()
    }
}

impl fmt::Debug for QuicStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicStream").field("peer", &self.peer()).finish_non_exhaustive()
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(this.recv.poll_read_buf(cx, buf)).map_err(|error| match error {
            ReadError::ConnectionLost(lost) => read_lost(lost),
            other => other.into(),
        })?;
        if buf.filled().len() == before && buf.remaining() > 0 && matches!(this.state, State::Open) {
            this.peer_ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().send).poll_write(cx, bytes).map_err(|error| match error {
            WriteError::ConnectionLost(lost) => io::Error::new(kind(&lost), lost),
            WriteError::Stopped(_) => io::Error::new(io::ErrorKind::BrokenPipe, error),
            other => other.into(),
        })
    }

    /// What was written is on its way at once.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends this direction, and is ready when the peer has all of it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Open => {
                    // Only a stream that has ended already refuses this.
                    let _ = this.send.finish();
                    this.state = State::Finishing(Box::pin(this.send.stopped()));
                }
                State::Finishing(delivery) => {
                    let delivered = ready!(delivery.as_mut().poll(cx));
                    this.state = State::Finished;
                    // A peer that does not want to read on has been told enough.
                    return Poll::Ready(match delivered {
                        Err(StoppedError::ConnectionLost(lost)) => Err(io::Error::new(kind(&lost), lost)),
                        Ok(_) | Err(StoppedError::ZeroRttRejected) => Ok(()),
                    });
                }
                State::Finished => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        let _ = self.send.finish();
        let (connection, delivered) = (self.connection.clone(), self.send.stopped());
        let others_close = self.peer_ended || self.moving.is_cancelled();
        // Without a runtime there is nobody who could still send anything.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(LINGER, async {
                    let _ = delivered.await;
                    if others_close {
                        connection.closed().await;
                    }
                })
                .await;
                // The library would forget what the peer said.
                if connection.close_reason().is_none() {
                    connection.close(VarInt::from_u32(0), b"");
                }
            });
        }
    }
}

/// Learns how a connection ends.
#[derive(Clone, Debug)]
pub struct Parting(Connection);

impl Parting {
    /// Waits for the end, and says whether the server wants the connection to be made again. A server that does not
    /// know the connection any more, because it was started anew, wants so, too.
    pub async fn wants_reconnect(&self) -> bool {
        let why = self.0.closed().await;
        tracing::debug!(%why, "the connection ended");
        match why {
            ConnectionError::ApplicationClosed(close) => close.error_code == RECONNECT,
            ConnectionError::Reset => true,
            _ => false,
        }
    }
}

/// The peer's process may have been killed, or does not say goodbye: for a reader that is an end, not a failure.
fn read_lost(lost: ConnectionError) -> io::Error {
    let kind = match kind(&lost) {
        io::ErrorKind::NotConnected => io::ErrorKind::UnexpectedEof,
        other => other,
    };
    io::Error::new(kind, lost)
}

fn kind(lost: &ConnectionError) -> io::ErrorKind {
    match lost {
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed => io::ErrorKind::NotConnected,
        ConnectionError::TimedOut => io::ErrorKind::TimedOut,
        ConnectionError::Reset => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::ConnectionAborted,
    }
}

#[cfg(test)]
#[path = "quic_tests.rs"]
mod tests;
