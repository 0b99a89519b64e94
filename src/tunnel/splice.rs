//! The way between two TCP sockets that no byte leaves the kernel on: `splice` from one socket into a pipe and from
//! there into the other. `pump` is one direction of it, also for sockets whose TLS is in the kernel; `carry` is the
//! tunnel between two plain sockets. What a TLS record means that is not data, is for the caller of `pump` to know.

use std::{
    io,
    net::Shutdown,
    ops::ControlFlow,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::errno::Errno;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{
    Counters, Reason,
    absence::{hung_up, left_behind},
    pipe::Load,
};

/// Bytes after which others get their turn.
const TURN: usize = 1 << 20;
/// Pause before asking again for a pipe when the system has no descriptor for one.
const BREATH: Duration = Duration::from_millis(100);

/// Why a direction stopped, everything before having been delivered.
#[derive(Debug)]
pub enum Stop {
    /// The source has ended. The other side was not told so yet.
    End,
    /// The next thing in a source whose TLS is in the kernel is not data, or is none that can be decrypted: the
    /// kernel's error. After it was taken off by `recvmsg`, pumping may go on.
    NotData(io::Error),
    /// The meter says so.
    Enough,
}

/// Which side of a direction failed.
#[derive(Debug)]
pub enum Broken {
    /// The source.
    Source(io::Error),
    /// The side that bytes are delivered to.
    Sink(io::Error),
}

/// Moves bytes one way until there are no more, counting those delivered.
///
/// # Errors
/// Says which side failed. Also when this is dropped, bytes may be lost that were taken and not delivered.
pub async fn pump(source: &TcpStream, sink: &TcpStream, delivered: &AtomicU64) -> Result<Stop, Broken> {
    pump_metered(source, sink, delivered, |_| ControlFlow::Continue(())).await
}

/// The same, until `meter` has seen enough: it is told of the bytes that each call delivers. What was taken by then is
/// delivered first.
///
/// # Errors
/// As above.
pub async fn pump_metered(
    source: &TcpStream,
    sink: &TcpStream,
    delivered: &AtomicU64,
    mut meter: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Stop, Broken> {
    let mut turn = 0;
    let mut failure = None;
    loop {
        let taken = match failure.take() {
            Some(error) => Err(error),
            None => source.async_io(Interest::READABLE, || Load::take(source)).await,
        };
        let mut load = match taken {
            Ok(load) if load.is_empty() => return Ok(Stop::End),
            Ok(load) => load,
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EMFILE | Errno::ENFILE) => {
                    tracing::warn!(%error, "no pipe for a tunnel, which waits");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
                Some(Errno::EINVAL | Errno::EIO) => return Ok(Stop::NotData(error)),
                _ => return Err(Broken::Source(error)),
            },
        };
        failure = load.failure.take();
        let mut enough = false;
        while !load.is_empty() {
            let given = sink.async_io(Interest::WRITABLE, || load.give(sink)).await.map_err(Broken::Sink)?;
            delivered.fetch_add(given as u64, Ordering::Relaxed);
            turn += given;
            enough |= meter(given).is_break();
        }
        if enough && failure.is_none() {
            return Ok(Stop::Enough);
        }
        if turn >= TURN {
            turn = 0;
            drop(load);
            tokio::task::yield_now().await;
        }
    }
}

/// Delivers bytes that were read before the tunnel began.
///
/// # Errors
/// When the sink fails.
pub async fn deliver(mut bytes: &[u8], sink: &TcpStream, delivered: &AtomicU64) -> Result<(), Broken> {
    while !bytes.is_empty() {
        match sink.async_io(Interest::WRITABLE, || sink.try_write(bytes)).await.map_err(Broken::Sink)? {
            0 => return Err(Broken::Sink(io::ErrorKind::WriteZero.into())),
            taken => {
                delivered.fetch_add(taken as u64, Ordering::Relaxed);
                bytes = &bytes[taken..];
            }
        }
    }
    Ok(())
}

/// Carries bytes both ways between two plain sockets until both sides have closed or one fails.
pub async fn carry(outer: &TcpStream, inner: &TcpStream, leftover: Vec<u8>, counters: &Counters) -> Reason {
    let first = OnceLock::new();
    let up = async {
        deliver(&leftover, inner, &counters.up).await?;
        drop(leftover);
        let stop = pump(outer, inner, &counters.up).await?;
        finish(stop, inner, &first, Reason::OuterClosed)
    };
    let up = unless_left_behind(up, outer, &counters.up, &first);
    let down = async {
        let stop = pump(inner, outer, &counters.down).await?;
        finish(stop, outer, &first, Reason::InnerClosed)
    };
    let up = async { up.await.map_err(|broken| broken.reason(Reason::OuterFailed, Reason::InnerFailed)) };
    let down = async { down.await.map_err(|broken| broken.reason(Reason::InnerFailed, Reason::OuterFailed)) };
    let failed = tokio::try_join!(up, down).err();
    // A side that closed and then resets what still comes has closed, not failed.
    first.into_inner().or(failed).unwrap_or(Reason::InnerClosed)
}

/// Does what is to be done for the outer side, as long as that side is there or the inner one takes what it has left.
pub async fn unless_left_behind(
    up: impl Future<Output = Result<(), Broken>>,
    outer: &TcpStream,
    taken: &AtomicU64,
    first: &OnceLock<Reason>,
) -> Result<(), Broken> {
    tokio::select! {
        biased;
        done = up => done,
        () = left_behind(hung_up(outer), taken) => {
            let _ = first.set(Reason::OuterCut);
            Err(Broken::Source(io::ErrorKind::UnexpectedEof.into()))
        }
    }
}

/// Passes the end of a source on to the sink, and notes it when it is the tunnel's first.
fn finish(stop: Stop, sink: &TcpStream, first: &OnceLock<Reason>, closed: Reason) -> Result<(), Broken> {
    if let Stop::NotData(error) = stop {
        return Err(Broken::Source(error));
    }
    let _ = first.set(closed);
    match SockRef::from(sink).shutdown(Shutdown::Write) {
        // The peer is gone completely; that the source closed was the news, not that it cannot be told so.
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(Broken::Sink(error)),
        _ => Ok(()),
    }
}

impl Broken {
    /// The reason that this is for a tunnel to end.
    pub fn reason(self, source: fn(io::Error) -> Reason, sink: fn(io::Error) -> Reason) -> Reason {
        match self {
            Self::Source(error) => source(error),
            Self::Sink(error) => sink(error),
        }
    }
}

#[cfg(test)]
#[path = "splice_tests.rs"]
mod tests;
