//! The outer connection: TLS, QUIC or plain TCP behind one type, which the relay can take apart when it knows a better way
//! to move the bytes of one kind.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client;

use super::tls::TlsStream;

use super::Way;

use super::quic::{Parting, QuicStream};

/// A connection that may be encrypted.
#[derive(Debug)]
pub enum Conn {
    /// TCP as it is.
    Plain(TcpStream),
    /// TLS, handshake completed, we being the server.
    Tls(TlsStream),
    /// TLS, handshake completed, we being the client.
    TlsClient(Box<client::TlsStream<TcpStream>>),
    /// A stream of QUIC.
    Quic(Box<QuicStream>),
}

impl Conn {
    /// The TCP connection underneath, if there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.tcp()),
            Self::TlsClient(tls) => Some(tls.get_ref().0),
            Self::Quic(_) => None,
        }
    }

    /// How a tunnel is likely to move the bytes of this connection; `Settled` is sure.
    pub fn way(&self) -> Way {
        match self {
            Self::Plain(_) => Way::Splice,
            Self::Tls(tls) if tls.is_for_the_kernel() => Way::Ktls,
            Self::Tls(_) | Self::TlsClient(_) => Way::User,
            Self::Quic(_) => Way::Quic,
        }
    }

    /// A way to learn how the connection ends, where its end has something to say.
    pub fn parting(&self) -> Option<Parting> {
        match self {
            Self::Quic(quic) => Some(quic.parting()),
            Self::Plain(_) | Self::Tls(_) | Self::TlsClient(_) => None,
        }
    }

    /// What protects the bytes, for logs: `TLSv1_3 TLS13_AES_256_GCM_SHA384` or `plain`.
    pub fn protection(&self) -> String {
        let agreed = match self {
            Self::Plain(_) => return "plain".to_owned(),
            Self::Quic(_) => return "QUIC TLSv1_3".to_owned(),
            Self::Tls(tls) => tls.agreed(),
            Self::TlsClient(tls) => {
                let session = tls.get_ref().1;
                session.protocol_version().zip(session.negotiated_cipher_suite())
            }
        };
        agreed.map_or_else(|| "TLS".to_owned(), |(version, suite)| format!("{version:?} {:?}", suite.suite()))
    }
}

impl From<TcpStream> for Conn {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }
}

impl From<TlsStream> for Conn {
    fn from(tls: TlsStream) -> Self {
        Self::Tls(tls)
    }
}

impl From<client::TlsStream<TcpStream>> for Conn {
    fn from(tls: client::TlsStream<TcpStream>) -> Self {
        Self::TlsClient(Box::new(tls))
    }
}

impl From<QuicStream> for Conn {
    fn from(quic: QuicStream) -> Self {
        Self::Quic(Box::new(quic))
    }
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::TlsClient(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
            Self::Quic(quic) => Pin::new(quic.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Self::TlsClient(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
            Self::Quic(quic) => Pin::new(quic.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::TlsClient(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
            Self::Quic(quic) => Pin::new(quic.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::TlsClient(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
            Self::Quic(quic) => Pin::new(quic.as_mut()).poll_shutdown(cx),
        }
    }
}
