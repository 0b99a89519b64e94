//! Notices that the outer side has gone while the inner side takes nothing: then nobody reads from the outer side, and
//! what it sent last stands between us and its end. It is given a while, for what it said last may still be wanted;
//! after that the tunnel is over. An end that the kernel holds back, because there is no room for what comes before it,
//! is seen once `ahead` has made room.

use std::{
    os::fd::AsFd,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{io::Interest, net::TcpStream};

use super::Conn;

/// How long the inner side may take nothing from an outer side that has closed.
const GRACE: Duration = Duration::from_secs(5);

/// Is ready when the other side has closed, whatever is left to be read.
pub type Closed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Returns when the outer side has closed and the inner one takes nothing of what is left.
pub async fn left_behind(closed: impl Future<Output = ()>, taken: &AtomicU64) {
    closed.await;
    let mut before = None;
    loop {
        let now = taken.load(Ordering::Relaxed);
        if before.replace(now) == Some(now) {
            return;
        }
        tokio::time::sleep(GRACE).await;
    }
}

/// Returns when the peer of a connection has closed it, though there may be more to read.
pub async fn hung_up(tcp: &TcpStream) {
    // Among what belongs to this interest is the end of the incoming direction, and not that there is something to
    // read. Nobody sends urgent data.
    let _ = tcp.ready(Interest::PRIORITY).await;
}

/// Looks out for the end of the outer side while the inner side is blocked, and costs nothing otherwise.
pub struct Absence<'a> {
    taken: &'a AtomicU64,
    watch: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
}

impl<'a> Absence<'a> {
    /// For a tunnel whose inner side has taken so many bytes.
    pub fn new(taken: &'a AtomicU64) -> Self {
        Self { taken, watch: None }
    }

    /// Is ready when the outer side is gone and the inner one, which is `blocked` now, has taken nothing for a while.
    pub fn poll(&mut self, cx: &mut Context<'_>, blocked: bool, closed: impl FnOnce() -> Closed) -> Poll<()> {
        if !blocked {
            self.watch = None;
            return Poll::Pending;
        }
        let taken = self.taken;
        self.watch.get_or_insert_with(|| Box::pin(left_behind(closed(), taken))).as_mut().poll(cx)
    }
}

/// The end of a connection that is in use meanwhile.
pub fn closed(conn: &Conn) -> Closed {
    match conn {
        Conn::Quic(quic) => quic.closed(),
        Conn::Plain(_) | Conn::Tls(_) | Conn::TlsClient(_) => conn.tcp().map_or_else(never, closed_tcp),
    }
}

/// The same of TCP.
pub fn closed_tcp(tcp: &TcpStream) -> Closed {
    let same = tcp.as_fd().try_clone_to_owned().map(std::net::TcpStream::from).and_then(TcpStream::from_std);
    match same {
        Ok(same) => Box::pin(async move { hung_up(&same).await }),
        // Without a descriptor to spare the kernel's limit has to do.
        Err(_) => never(),
    }
}

fn never() -> Closed {
    Box::pin(std::future::pending())
}
