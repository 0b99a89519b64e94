//! Reads on from the outer side while the inner one takes nothing. The end of a connection stands behind what was sent
//! before it, and a kernel whose space is full lets neither in: only who makes room sees that the client has left.
//! What is read is kept for the inner side. A tunnel may keep a little, all together not much more; beyond that, the
//! kernel's limit for the inner side has to do.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{net::TcpStream, time::Sleep};

use super::buffers::Buffer;

/// How long the inner side may take nothing before it is read on.
const PATIENCE: Duration = Duration::from_secs(5);
/// Read at a time.
const STEP: usize = 128 * 1024;
/// Bytes that a tunnel may keep: what fits into the kernels of both ends where they are set up as usual.
const EACH: usize = 8 << 20;
/// Bytes that all tunnels of the process may keep.
const ALTOGETHER: usize = 16 << 20;

/// What the tunnels of the process keep now.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Permission of a tunnel to read on. Nothing is held by one whose inner side takes what it is given.
#[derive(Debug)]
pub struct Permit {
    all: &'static AtomicUsize,
    /// What the inner side had taken when it was last seen to, and until when it may take its time.
    blocked: Option<(u64, Pin<Box<Sleep>>)>,
    claimed: usize,
}

impl Default for Permit {
    fn default() -> Self {
        Self { all: &KEPT, blocked: None, claimed: 0 }
    }
}

impl Permit {
    /// Is ready when the inner side, which has taken so many bytes in all, takes nothing for a while, and there is room
    /// for another `STEP` behind the bytes that are kept already.
    pub fn poll(&mut self, cx: &mut Context<'_>, taken: u64, kept: usize) -> Poll<()> {
        if self.blocked.as_ref().is_none_or(|(before, _)| *before != taken) {
            self.blocked = Some((taken, Box::pin(tokio::time::sleep(PATIENCE))));
        }
        if let Some((_, patience)) = self.blocked.as_mut().filter(|(_, patience)| !patience.is_elapsed()) {
            ready!(patience.as_mut().poll(cx));
        }
        if self.claim(kept + STEP) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn claim(&mut self, wanted: usize) -> bool {
        if wanted <= self.claimed {
            return true;
        }
        let more = wanted - self.claimed;
        let granted = |kept| Some(kept + more).filter(|kept| *kept <= ALTOGETHER);
        if wanted > EACH || self.all.fetch_update(Relaxed, Relaxed, granted).is_err() {
            return false;
        }
        self.claimed = wanted;
        true
    }

    /// Nothing is kept any more.
    pub fn give_back(&mut self) {
        self.blocked = None;
        self.all.fetch_sub(std::mem::take(&mut self.claimed), Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What was read on from a socket.
#[derive(Debug, Default)]
pub struct ReadAhead {
    permit: Permit,
    bytes: Buffer,
    /// There is nothing more to be read, or only by somebody else.
    over: bool,
    /// Why. A socket reports some failures only once.
    pub failure: Option<io::Error>,
}

impl ReadAhead {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is kept.
    pub fn filled(&self) -> &[u8] {
        self.bytes.filled()
    }

    /// The inner side has taken so much of it.
    pub fn consume(&mut self, taken: usize) {
        self.bytes.consume(taken);
    }

    /// Everything before has been delivered.
    pub fn rest(&mut self) {
        if self.is_empty() {
            self.bytes.rest();
            self.permit.give_back();
            self.over = false;
        }
    }

    /// Reads as much as may be read while the inner side stands at `taken`.
    pub fn poll(&mut self, cx: &mut Context<'_>, source: &TcpStream, taken: u64) {
        while !self.over && self.permit.poll(cx, taken, self.bytes.filled().len()).is_ready() {
            let Poll::Ready(ready) = source.poll_read_ready(cx) else { return };
            match ready.and_then(|()| source.try_read(&mut self.bytes.spare(STEP)[..STEP])) {
                Ok(0) => self.over = true,
                Ok(read) => self.bytes.advance(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.failure = Some(error);
                    self.over = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tunnel_keeps_more_than_its_share_and_all_together_no_more_than_theirs() {
        let all = Box::leak(Box::new(AtomicUsize::new(0)));
        let mut permits: Vec<Permit> = (0..3).map(|_| Permit { all, blocked: None, claimed: 0 }).collect();
        let fill = |permit: &mut Permit| (1..).take_while(|steps| permit.claim(steps * STEP)).count() * STEP;
        assert_eq!(fill(&mut permits[0]), EACH);
        assert!(permits[1].claim(STEP));
        assert_eq!(fill(&mut permits[2]), ALTOGETHER - EACH - STEP);
        permits.remove(0);
        assert_eq!(fill(&mut permits[0]), EACH);
        permits[0].give_back();
        assert_eq!(all.load(Relaxed), ALTOGETHER - EACH - STEP);
        drop(permits);
        assert_eq!(all.load(Relaxed), 0);
    }
}
