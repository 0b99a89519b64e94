//! Moves bytes between an *outer* connection (TLS, QUIC or plain TCP, from the open network) and an *inner* one (plain TCP,
//! on this machine or the node's own network, or a stream to another node) until both have said everything.
//! An idle tunnel holds neither buffer nor pipe: they are borrowed while bytes move and kept only under back-pressure.
//! Who is at the ends, and whether they may talk, is not known here.

mod absence;
mod ahead;
mod buffers;
mod conn;
pub mod gate;
mod ktls;
mod limits;
mod pipe;
pub mod quic;
mod quiet;
mod relay;
mod shared;
mod socket;
mod splice;
#[cfg(test)]
pub mod testing;
pub mod tls;
pub mod udp;
mod way;

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use thiserror::Error;

pub use conn::Conn;
pub use ktls::Kernel;
pub use limits::{Clock, Limit, Limits};
pub use relay::{Inner, Settled, relay};
pub use shared::{Cut, SharedStream};
pub use socket::tune;
pub use way::Way;

/// How a tunnel ended and what it carried.
#[derive(Debug)]
pub struct Ended {
    /// Bytes delivered from the outer to the inner side.
    pub up: u64,
    /// Bytes delivered from the inner to the outer side.
    pub down: u64,
    /// Who ended it.
    pub reason: Reason,
}

/// Who ended a tunnel. Where both sides close, the first counts.
#[derive(Debug, Error)]
pub enum Reason {
    /// The outer side closed in good order.
    #[error("the outer side closed the connection")]
    OuterClosed,
    /// The outer side's TCP connection ended without the goodbye that TLS demands: its process may have been killed.
    #[error("the outer side ended the connection without saying so")]
    OuterCut,
    /// The inner side closed.
    #[error("the inner side closed the connection")]
    InnerClosed,
    /// The outer side could not be read from or written to.
    #[error("the outer connection failed")]
    OuterFailed(#[source] io::Error),
    /// The inner side could not be read from or written to.
    #[error("the inner connection failed")]
    InnerFailed(#[source] io::Error),
    /// Whoever runs the tunnel ended it.
    #[error("the connection was ended from here")]
    Cancelled,
}

/// Bytes delivered so far; may be read while the tunnel runs.
#[derive(Debug, Default)]
pub struct Counters {
    up: AtomicU64,
    down: AtomicU64,
}

impl Counters {
    /// Bytes delivered from the outer to the inner side.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes delivered from the inner to the outer side.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Both together.
    pub fn both(&self) -> u64 {
        self.up() + self.down()
    }
}
