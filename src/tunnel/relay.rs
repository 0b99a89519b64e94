//! Runs a tunnel in the way that its outer connection allows. What is here besides is the way in user space over any
//! stream: one task, two directions, each a small state machine.
//!
//! ```text
//!              end of stream            writer shut down
//!  Moving ─────────────────────► Closing ─────────────────► Closed
//! ```
//!
//! The tunnel is over when both directions are `Closed`, when either fails, or when it is cancelled. Closing one
//! direction tells the peer (FIN, before it close_notify in TLS) and leaves the other direction alone. Only an outer
//! side that ends without the goodbye of TLS is gone for both: whoever wants to go on listening says goodbye.

use std::{
    cell::RefCell,
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{
    Conn, Counters, Ended, Reason, Way,
    absence::{Absence, Closed, closed},
    ktls::{self, KernelTls},
    shared::{SharedStream, part},
    splice, tls,
};

/// Bytes read at a time: four full TLS records.
const CHUNK: usize = 64 * 1024;

thread_local! {
    /// Where every tunnel of a thread reads to. Nothing stays here between two polls.
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Carries bytes both ways until both sides have closed, one fails, or `cancel` says so.
///
/// `leftover` was read from the outer side before the tunnel began and is delivered first. `counters` may be read
/// by others meanwhile. Both connections are closed when this returns or is dropped.
pub async fn relay(
    outer: Conn,
    inner: TcpStream,
    leftover: Vec<u8>,
    counters: &Counters,
    cancel: &CancellationToken,
) -> Ended {
    Settled::new(outer, inner.into()).relay(leftover, counters, cancel, pending()).await
}

/// The inner connection of a tunnel.
#[derive(Debug)]
pub enum Inner {
    /// TCP, from here.
    Tcp(TcpStream),
    /// Through another node, which has the TCP connection.
    Shared(SharedStream),
}

impl Inner {
    /// How a tunnel moves bytes that would go this way from here: to another node they pass through this process.
    pub fn way(&self, from_here: Way) -> Way {
        match (self, from_here) {
            (Self::Shared(_), Way::Splice | Way::Ktls) => Way::User,
            _ => from_here,
        }
    }
}

impl From<TcpStream> for Inner {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

impl From<SharedStream> for Inner {
    fn from(stream: SharedStream) -> Self {
        Self::Shared(stream)
    }
}

/// Both connections of a tunnel, when it is certain who moves the bytes; or why the outer one was lost at that.
pub struct Settled(io::Result<Ends>);

enum Ends {
    Tcp(Conn, TcpStream),
    Kernel(Box<KernelTls>, TcpStream),
    Shared(Conn, SharedStream),
}

impl Settled {
    /// Gives the keys of TLS to the kernel, if it is to have them and takes them.
    pub fn new(outer: Conn, inner: Inner) -> Self {
        tracing::debug!(way = %inner.way(outer.way()), protection = outer.protection(), "tunnel");
        Self(match (outer, inner) {
            (Conn::Tls(stream), Inner::Tcp(inner)) => KernelTls::new(stream).map(|taken| match taken {
                Ok(kernel) => Ends::Kernel(Box::new(kernel), inner),
                Err(stream) => Ends::Tcp(stream.into(), inner),
            }),
            (outer, Inner::Tcp(inner)) => Ok(Ends::Tcp(outer, inner)),
            (outer, Inner::Shared(inner)) => Ok(Ends::Shared(outer, inner)),
        })
    }

    /// How the bytes are moved.
    pub fn way(&self) -> Way {
        match &self.0 {
            Ok(Ends::Tcp(Conn::Quic(_), _) | Ends::Shared(Conn::Quic(_), _)) => Way::Quic,
            Ok(Ends::Tcp(Conn::Plain(_), _)) => Way::Splice,
            Ok(Ends::Tcp(Conn::Tls(_) | Conn::TlsClient(_), _) | Ends::Shared(..)) => Way::User,
            // It is lost when the kernel has taken the keys in part.
            Ok(Ends::Kernel(..)) | Err(_) => Way::Ktls,
        }
    }

    /// What the function `relay` does, until `last_call`: then nothing more is taken from the inner side, the outer one
    /// hears a goodbye behind everything that was taken before, and what it still sends is delivered until it says
    /// goodbye, too. Only QUIC and clients of TLS can be ended in this way; others do not listen for it.
    pub async fn relay(
        self,
        leftover: Vec<u8>,
        counters: &Counters,
        cancel: &CancellationToken,
        last_call: impl Future<Output = ()>,
    ) -> Ended {
        let mut ends = match self.0 {
            Ok(ends) => ends,
            Err(error) => return Ended { up: 0, down: 0, reason: Reason::OuterFailed(error) },
        };
        // Apart, for it is large, and whoever is not there yet should not hold room for it.
        let carrying = Box::pin(async {
            match &mut ends {
                Ends::Kernel(kernel, inner) => ktls::carry(kernel, inner, &leftover, counters).await,
                Ends::Tcp(Conn::Plain(tcp), inner) => splice::carry(tcp, inner, leftover, counters).await,
                Ends::Tcp(Conn::Tls(stream), inner) => tls::carry(stream, inner, &leftover, counters).await,
                Ends::Tcp(outer @ (Conn::TlsClient(_) | Conn::Quic(_)), inner) => {
                    carry(outer, inner, leftover, counters, closed, last_call).await
                }
                Ends::Shared(outer, inner) => carry(outer, inner, leftover, counters, closed, last_call).await,
            }
        });
        let reason = tokio::select! {
            biased;
            () = cancel.cancelled() => Reason::Cancelled,
            reason = carrying => reason,
        };
        // What can be said to the peer without waiting is said: after a failure of the inner side the outer one should
        // not take the end for a network failure.
        match &mut ends {
            Ends::Kernel(kernel, _) => kernel.try_goodbye(),
            Ends::Tcp(outer, _) => drop(outer.shutdown().now_or_never()),
            Ends::Shared(outer, inner) => {
                part(inner, &reason);
                drop(outer.shutdown().now_or_never());
            }
        }
        Ended { up: counters.up(), down: counters.down(), reason }
    }
}

/// The way in user space. `closed` says when the outer side has gone, whatever is left to be read.
pub(super) async fn carry<O, I>(
    outer: &mut O,
    inner: &mut I,
    leftover: Vec<u8>,
    counters: &Counters,
    closed: impl Fn(&O) -> Closed,
    last_call: impl Future<Output = ()>,
) -> Reason
where
    O: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction { pending: Pending::from(leftover), ..Direction::default() };
    let mut down = Direction::default();
    let mut verdict = Verdict::default();
    let mut absence = Absence::new(&counters.up);
    let mut last_call = pin!(last_call.fuse());
    poll_fn(|cx| {
        if last_call.as_mut().poll(cx).is_ready() {
            down.end_reading();
        }
        let up_poll = up.poll(cx, outer, inner, &counters.up);
        let down_poll = down.poll(cx, inner, outer, &counters.down);
        if absence.poll(cx, !up.pending.rest().is_empty(), || closed(outer)).is_ready() {
            return Poll::Ready(Reason::OuterCut);
        }
        verdict.poll((up.end, up_poll), (down.end, down_poll))
    })
    .await
}

/// Who ended a tunnel, from what is known of its directions.
#[derive(Default)]
pub(super) struct Verdict {
    first: Option<Reason>,
}

impl Verdict {
    /// Looks at both directions, up and down, after each was polled.
    pub(super) fn poll(
        &mut self,
        (up_end, up): (Option<End>, Poll<Result<(), Failure>>),
        (down_end, down): (Option<End>, Poll<Result<(), Failure>>),
    ) -> Poll<Reason> {
        if self.first.is_none() {
            self.first = match (up_end, down_end) {
                (Some(End::Said), _) => Some(Reason::OuterClosed),
                (Some(End::Cut), _) => Some(Reason::OuterCut),
                (None, Some(_)) => Some(Reason::InnerClosed),
                (None, None) => None,
            };
        }
        if matches!(up_end, Some(End::Cut)) && up.is_ready() {
            // All that it sent before has been written, and nobody is there to read.
            return Poll::Ready(self.first.take().unwrap_or(Reason::OuterCut));
        }
        let failed = match (up, down) {
            (Poll::Ready(Err(Failure::Read(error))), _) | (_, Poll::Ready(Err(Failure::Write(error)))) => {
                Reason::OuterFailed(error)
            }
            (Poll::Ready(Err(Failure::Write(error))), _) | (_, Poll::Ready(Err(Failure::Read(error)))) => {
                Reason::InnerFailed(error)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Reason::InnerClosed,
            _ => return Poll::Pending,
        };
        // A side that closed and then resets what still comes has closed, not failed.
        Poll::Ready(self.first.take().unwrap_or(failed))
    }
}

/// How a stream ended.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// In good order.
    Said,
    /// Without the goodbye of TLS. Classic peers always do so.
    Cut,
}

/// Which end of a direction failed.
pub(super) enum Failure {
    Read(io::Error),
    Write(io::Error),
}

/// How far a direction has come.
#[derive(Default)]
pub(super) enum State {
    #[default]
    Moving,
    Closing,
    Closed,
}

/// Bytes that were read and that the writer would not take yet.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    written: usize,
}

impl From<Vec<u8>> for Pending {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, written: 0 }
    }
}

impl Pending {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }
}

#[derive(Default)]
struct Direction {
    state: State,
    pending: Pending,
    /// The writer holds bytes that it has not passed on to the kernel.
    unflushed: bool,
    end: Option<End>,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        delivered: &AtomicU64,
    ) -> Poll<Result<(), Failure>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Moving => {
                    ready!(self.poll_write_pending(cx, writer, delivered)).map_err(Failure::Write)?;
                    match SPACE.with_borrow_mut(|space| self.poll_move(cx, reader, writer, delivered, space)) {
                        Poll::Ready(result) => result?,
                        Poll::Pending => {
                            if self.unflushed {
                                ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Failure::Write)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
                State::Closing => {
                    ready!(self.poll_write_pending(cx, writer, delivered)).map_err(Failure::Write)?;
                    match ready!(Pin::new(&mut *writer).poll_shutdown(cx)) {
                        // The peer is gone completely; that it closed was the news, not that it cannot be told so.
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                        result => result.map_err(Failure::Write)?,
                    }
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Takes nothing more from the reader, as if it had ended.
    fn end_reading(&mut self) {
        if matches!(self.state, State::Moving) {
            self.end = Some(End::Said);
            self.state = State::Closing;
        }
    }

    fn poll_write_pending<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        delivered: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        while !self.pending.rest().is_empty() {
            let taken = ready!(Pin::new(&mut *writer).poll_write(cx, self.pending.rest()))?;
            self.account(taken, delivered)?;
            self.pending.written += taken;
        }
        self.pending = Pending::default();
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what the writer takes; the rest stays pending.
    fn poll_move<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        delivered: &AtomicU64,
        space: &mut [u8],
    ) -> Poll<Result<(), Failure>> {
        let mut buffer = ReadBuf::new(space);
        let end = match ready!(Pin::new(reader).poll_read(cx, &mut buffer)) {
            Ok(()) => buffer.filled().is_empty().then_some(End::Said),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(End::Cut),
            Err(error) => return Poll::Ready(Err(Failure::Read(error))),
        };
        if end.is_some() {
            self.end = end;
            self.state = State::Closing;
            return Poll::Ready(Ok(()));
        }
        let mut rest = buffer.filled();
        while !rest.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, rest) {
                Poll::Ready(Ok(taken)) => {
                    self.account(taken, delivered).map_err(Failure::Write)?;
                    rest = &rest[taken..];
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Write(error))),
                Poll::Pending => {
                    self.pending = Pending::from(rest.to_vec());
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn account(&mut self, taken: usize, delivered: &AtomicU64) -> io::Result<()> {
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        delivered.fetch_add(taken as u64, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
