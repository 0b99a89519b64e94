//! One of many streams of a QUIC connection between two nodes, used like a connection of its own. Its end is the goodbye; who
//! wants to say that something else has happened cuts it, with the reason. A stream that waits holds back no other: each
//! has a window of its own, and all of them together have none.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{Counters, Ended, Reason, absence::Closed, relay::carry};

/// Why a stream was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Cut {
    /// What the stream leads to has failed.
    #[error("its connection on its node failed")]
    Failed,
    /// What the stream leads to is no longer there.
    #[error("it is no longer on that node")]
    Gone,
    /// Nobody needs the stream any more, or it was dropped.
    #[error("the other node gave the connection up")]
    Dropped,
}

impl Cut {
    fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Dropped => 0,
            Self::Failed => 1,
            Self::Gone => 2,
        })
    }

    fn of(code: VarInt) -> Self {
        [Self::Failed, Self::Gone].into_iter().find(|cut| cut.code() == code).unwrap_or(Self::Dropped)
    }
}

/// A stream in both directions.
pub struct SharedStream {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    finished: bool,
}

impl SharedStream {
    /// Both halves of a stream of `connection`.
    pub fn new(connection: Connection, (send, recv): (SendStream, RecvStream)) -> Self {
        Self { connection, send, recv, finished: false }
    }

    /// Ends the stream at once. What is under way is lost.
    pub fn cut(&mut self, cut: Cut) {
        // One that has ended already needs no reason.
        let _ = self.send.reset(cut.code());
        let _ = self.recv.stop(cut.code());
        self.finished = true;
    }

    /// Resolves when the peer wants nothing more, or the connection has ended.
    pub fn abandoned(&self) -> Closed {
        let stopped = self.send.stopped();
        Box::pin(async move {
            // Everything was said and has arrived: that is no reason to give up what is still to come.
            if let Ok(None) = stopped.await {
                std::future::pending::<()>().await;
            }
        })
    }

    /// Carries bytes between the peer and `inner` until both have said everything, one fails, or `cancel` says so. The
    /// stream stays, so that it can be told how.
    pub async fn forward(&mut self, mut inner: TcpStream, counters: &Counters, cancel: &CancellationToken) -> Ended {
        let carrying = Box::pin(carry(self, &mut inner, Vec::new(), counters, Self::abandoned, std::future::pending()));
        let reason = tokio::select! {
            biased;
            () = cancel.cancelled() => Reason::Cancelled,
            reason = carrying => reason,
        };
        Ended { up: counters.up(), down: counters.down(), reason }
    }
}

impl fmt::Debug for SharedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStream").field("peer", &self.connection.remote_address()).finish_non_exhaustive()
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(self.get_mut().recv.poll_read_buf(cx, buf));
        Poll::Ready(read.map_err(|error| match error {
            ReadError::Reset(code) => io::Error::new(io::ErrorKind::ConnectionReset, Cut::of(code)),
            ReadError::ConnectionLost(lost) => lost_with(&lost),
            other => other.into(),
        }))
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().send).poll_write(cx, bytes).map_err(|error| match error {
            WriteError::Stopped(code) => io::Error::new(io::ErrorKind::BrokenPipe, Cut::of(code)),
            WriteError::ConnectionLost(lost) => lost_with(&lost),
            other => other.into(),
        })
    }

    /// What was written is on its way at once.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends this direction. The connection lives on, so what is under way arrives.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Only a stream that has ended already refuses this.
        let _ = this.send.finish();
        this.finished = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for SharedStream {
    /// The library would end it as if all had been said.
    fn drop(&mut self) {
        if !self.finished {
            self.cut(Cut::Dropped);
        }
    }
}

/// The connection between the nodes is gone, and with it all its streams.
fn lost_with(lost: &ConnectionError) -> io::Error {
    let (kind, text) = match lost {
        ConnectionError::ApplicationClosed(close) => {
            let said = String::from_utf8_lossy(&close.reason).into_owned();
            (io::ErrorKind::ConnectionAborted, format!("its node ended the connection: {said}"))
        }
        ConnectionError::Reset => {
            (io::ErrorKind::ConnectionReset, "the router of its node has died and was started again".to_owned())
        }
        ConnectionError::TimedOut => (io::ErrorKind::TimedOut, "its node does not answer".to_owned()),
        ConnectionError::LocallyClosed => {
            (io::ErrorKind::ConnectionAborted, "the connection to its node was ended from here".to_owned())
        }
        other => (io::ErrorKind::ConnectionAborted, format!("the connection to its node failed: {other}")),
    };
    io::Error::new(kind, text)
}

/// Says goodbye, or why there is none.
pub(super) fn part(stream: &mut SharedStream, reason: &Reason) {
    match reason {
        // Then both directions have been shut down.
        Reason::OuterClosed | Reason::InnerClosed => {}
        Reason::OuterCut | Reason::OuterFailed(_) | Reason::InnerFailed(_) | Reason::Cancelled => {
            stream.cut(Cut::Dropped)
        }
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
