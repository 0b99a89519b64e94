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
//! cut it.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The protocol's name in the TLS handshake of QUIC.
pub const ALPN: &[u8] = b"qvd";

/// How long a stream that was dropped waits for its last bytes to be acknowledged.
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
        Self { connection, send, recv, state: State::Open }
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
        self.get_mut().recv.poll_read_buf(cx, buf).map_err(|error| match error {
            ReadError::ConnectionLost(lost) => read_lost(lost),
            other => other.into(),
        })
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
        // Without a runtime there is nobody who could still send anything.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(LINGER, delivered).await;
                connection.close(VarInt::from_u32(0), b"");
            });
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
