//! A TLS connection, handshake completed, as a stream of bytes. Written and flushed bytes are records of their own.
//! Space is held only between two polls that could not finish: a record that has come in part, bytes that the kernel
//! would not take.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{ProtocolVersion, SupportedCipherSuite};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::session::{RECORD, Session};
use crate::tunnel::{Kernel, buffers::Buffer};

/// What a record may occupy on the wire, and so what there must be room for.
const WIRE: usize = RECORD + 2048 + 5;
/// Asked for at a time, at least, when a message of the handshake spans records.
const LEAST: usize = 2048;
/// Encrypted at a time.
const CHUNK: usize = 4 * RECORD;

/// The server's end of a TLS connection.
pub struct TlsStream {
    pub(super) tcp: TcpStream,
    pub(super) session: Box<Session>,
    /// Decrypted and not read yet.
    pub(super) plain: Buffer,
    /// What may take over the session when it becomes a tunnel.
    pub(super) kernel: Option<Arc<Kernel>>,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl TlsStream {
    /// The TCP connection underneath.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// What was agreed on.
    pub fn agreed(&self) -> Option<(ProtocolVersion, SupportedCipherSuite)> {
        let tls = self.session.tls();
        tls.protocol_version().zip(tls.negotiated_cipher_suite())
    }

    /// The kernel that may take over the session, if it was prepared for that.
    pub fn kernel(&self) -> Option<&Arc<Kernel>> {
        self.kernel.as_ref()
    }

    /// Whether a kernel would take over what was agreed on.
    pub(in crate::tunnel) fn is_for_the_kernel(&self) -> bool {
        let agreed = self.agreed().map(|(_, suite)| suite);
        self.kernel().zip(agreed).is_some_and(|(kernel, suite)| kernel.would_take(suite))
    }

    /// Whether nothing encrypted is held here or by the library, neither received nor to be sent.
    pub(in crate::tunnel) fn is_at_rest(&self) -> bool {
        let session = &self.session;
        let held = !session.incoming.is_empty() || !session.outgoing.is_empty() || session.may_owe_an_answer();
        !held && !session.heard_goodbye()
    }

    /// The connection, its session, and what was decrypted and not read.
    pub(in crate::tunnel) fn into_parts(self) -> (TcpStream, Session, Buffer) {
        (self.tcp, *self.session, self.plain)
    }
}

impl Session {
    /// Reads once, `wanted` bytes or what the space has room for, and leaves decrypting to others.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &mut TcpStream,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        let mut space = if self.by_record {
            let missing = missing(self.incoming.filled());
            ReadBuf::new(&mut self.incoming.spare(missing)[..missing])
        } else {
            let rest = WIRE.saturating_sub(self.incoming.filled().len()).max(LEAST);
            ReadBuf::new(self.incoming.spare(wanted.max(rest)))
        };
        match Pin::new(tcp).poll_read(cx, &mut space) {
            Poll::Ready(Ok(())) => {
                let read = space.filled().len();
                self.incoming.advance(read);
                Poll::Ready(Ok(read))
            }
            other => {
                self.incoming.rest();
                other.map_ok(|()| 0)
            }
        }
    }

    /// Sends until nothing is left to be sent.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, tcp: &mut TcpStream) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut *tcp).poll_write(cx, self.outgoing.filled()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.outgoing.consume(sent),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// How many bytes there are to the end of the record that has come in part: of its header first, which has its length.
fn missing(mut incoming: &[u8]) -> usize {
    loop {
        let Some((header, rest)) = incoming.split_first_chunk::<5>() else { return 5 - incoming.len() };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]])).clamp(1, WIRE);
        match rest.get(length..) {
            Some(next) => incoming = next,
            None => return length - rest.len(),
        }
    }
}

/// An error of the protocol as one of the stream.
pub(super) fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, session, plain, .. } = self.get_mut();
        loop {
            if !plain.is_empty() {
                let taken = plain.filled().len().min(buf.remaining());
                buf.put_slice(&plain.filled()[..taken]);
                plain.consume(taken);
                plain.rest();
                return Poll::Ready(Ok(()));
            }
            if session.heard_goodbye() {
                return Poll::Ready(Ok(()));
            }
            if ready!(session.poll_receive(cx, tcp, 0))? == 0 {
                let text = "the client closed the connection without saying so";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            }
            let processed = session.process(|payload| plain.extend(payload));
            // Answers and alerts leave when they can; whoever writes next sends the rest.
            if let Poll::Ready(sent) = session.poll_send(cx, tcp) {
                session.outgoing.rest();
                processed.map_err(broken)?;
                sent?;
            } else {
                processed.map_err(broken)?;
            }
            session.incoming.rest();
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { tcp, session, .. } = self.get_mut();
        ready!(session.poll_send(cx, tcp))?;
        let bytes = &bytes[..bytes.len().min(CHUNK)];
        session.encrypt(bytes).map_err(broken)?;
        // What the kernel does not take now is sent before the next bytes, or by a flush.
        if session.poll_send(cx, tcp)?.is_ready() {
            session.outgoing.rest();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, session, .. } = self.get_mut();
        ready!(session.poll_send(cx, tcp))?;
        session.outgoing.rest();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, session, .. } = self.get_mut();
        // A session that is broken has an alert to send instead.
        let _ = session.say_goodbye();
        ready!(session.poll_send(cx, tcp))?;
        session.outgoing.rest();
        Pin::new(tcp).poll_shutdown(cx)
    }
}
