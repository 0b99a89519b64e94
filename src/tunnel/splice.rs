//! The way between two TCP sockets that no byte leaves the kernel on: `splice` from one socket into a pipe and from
//! there into the other. `pump` is one direction of it, also for sockets whose TLS is in the kernel; `carry` is the
//! tunnel between two plain sockets. What a TLS record means that is not data, is for the caller of `pump` to know.

use std::{
    future::poll_fn,
    io,
    net::Shutdown,
    ops::ControlFlow,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::errno::Errno;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{
    Counters, Reason,
    absence::{hung_up, left_behind},
    ahead::ReadAhead,
    pipe::Load,
    quiet::Quiet,
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
    meter: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Stop, Broken> {
    move_on(source, sink, delivered, meter, None).await
}

/// Moves bytes from the outer to the inner side; while that one takes nothing, the outer one is read on from, so that
/// its end can be seen.
///
/// # Errors
/// As above.
pub async fn pump_inwards(source: &TcpStream, sink: &TcpStream, delivered: &AtomicU64) -> Result<Stop, Broken> {
    move_on(source, sink, delivered, |_| ControlFlow::Continue(()), Some(ReadAhead::default())).await
}

async fn move_on(
    source: &TcpStream,
    sink: &TcpStream,
    delivered: &AtomicU64,
    mut meter: impl FnMut(usize) -> ControlFlow<()>,
    mut ahead: Option<ReadAhead>,
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
            let mut quiet = None;
            let blocked = |cx: &mut Context<'_>| {
                quiet.get_or_insert_with(|| Quiet::new(source));
                // What comes next may be something else than bytes.
                if let Some(ahead) = ahead.as_mut().filter(|_| failure.is_none()) {
                    ahead.poll(cx, source, delivered.load(Ordering::Relaxed));
                }
            };
            let given = give(sink, || load.give(sink), blocked).await.map_err(Broken::Sink)?;
            delivered.fetch_add(given as u64, Ordering::Relaxed);
            turn += given;
            enough |= meter(given).is_break();
        }
        if let Some(ahead) = &mut ahead {
            deliver_ahead(ahead, source, sink, delivered).await?;
            failure = failure.or(ahead.failure.take());
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

/// Delivers what was read on, and goes on with that whenever the sink takes nothing for a while.
async fn deliver_ahead(
    ahead: &mut ReadAhead,
    source: &TcpStream,
    sink: &TcpStream,
    delivered: &AtomicU64,
) -> Result<(), Broken> {
    while !ahead.is_empty() {
        let taken = poll_fn(|cx| {
            let taken = poll_give(cx, sink, || sink.try_write(ahead.filled()));
            if taken.is_pending() {
                ahead.poll(cx, source, delivered.load(Ordering::Relaxed));
            }
            taken
        });
        let taken = taken.await.map_err(Broken::Sink)?;
        delivered.fetch_add(taken as u64, Ordering::Relaxed);
        ahead.consume(taken);
    }
    ahead.rest();
    Ok(())
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

/// Gives a sink something; whenever it takes nothing, `blocked` is called.
async fn give(
    sink: &TcpStream,
    mut something: impl FnMut() -> io::Result<usize>,
    mut blocked: impl FnMut(&mut Context<'_>),
) -> io::Result<usize> {
    poll_fn(|cx| {
        let given = poll_give(cx, sink, &mut something);
        if given.is_pending() {
            blocked(cx);
        }
        given
    })
    .await
}

fn poll_give(
    cx: &mut Context<'_>,
    sink: &TcpStream,
    mut something: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(sink.poll_write_ready(cx))?;
        match sink.try_io(Interest::WRITABLE, &mut something) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            given => return Poll::Ready(given),
        }
    }
}

/// Carries bytes both ways between two plain sockets until both sides have closed or one fails.
pub async fn carry(outer: &TcpStream, inner: &TcpStream, leftover: Vec<u8>, counters: &Counters) -> Reason {
    let first = OnceLock::new();
    let up = async {
        deliver(&leftover, inner, &counters.up).await?;
        drop(leftover);
        let stop = pump_inwards(outer, inner, &counters.up).await?;
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
