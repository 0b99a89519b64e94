//! Pipes that bytes pass through on their way from socket to socket. A pipe is borrowed from its thread's pool while it
//! holds bytes and goes back empty, so an idle tunnel has none; one that still holds bytes is closed instead.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
};

/// Most bytes taken from a socket at a time.
const CHUNK: usize = 1 << 20;
/// Wanted room of a pipe: whoever is fed in large pieces is woken less often, and a quarter of this costs twice the time
/// where many send. The system lets each account have 64 MiB in all; beyond that pipes keep the room they come with.
const ROOM: i32 = 1024 * 1024;
/// A socket whose TLS is in the kernel gives one record at a time; behind a full one there is likely to be another.
const RECORD: usize = 16 * 1024;
/// As much of them as surely fits, whatever their pieces are like, and is worth a call to pass on.
const GATHERED: usize = 128 * 1024;
/// Pipes that a thread keeps. More are in use only while more tunnels are blocked by slow receivers.
const KEPT: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (out, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let _ = fcntl(&into, FcntlArg::F_SETPIPE_SZ(ROOM));
        Ok(Self { out, into })
    }
}

/// A borrowed pipe and how many bytes it holds.
#[derive(Debug)]
pub struct Load {
    pipe: Option<Pipe>,
    bytes: usize,
    /// What came after these bytes. A socket reports some failures only once.
    pub failure: Option<io::Error>,
}

impl Load {
    /// Takes what a socket has to give. An empty load means that it has ended.
    ///
    /// # Errors
    /// `WouldBlock` when it has nothing now; `EMFILE` or `ENFILE` when there is no pipe to be had.
    pub fn take(socket: impl AsFd) -> io::Result<Self> {
        let pipe = match POOL.with_borrow_mut(Vec::pop) {
            Some(pipe) => pipe,
            None => Pipe::new()?,
        };
        let mut load = Self { pipe: Some(pipe), bytes: 0, failure: None };
        if let Some(pipe) = &load.pipe {
            let mut taken = splice(&socket, None, &pipe.into, None, CHUNK, FLAGS)?;
            load.bytes = taken;
            while taken == RECORD && load.bytes < GATHERED {
                match splice(&socket, None, &pipe.into, None, CHUNK, FLAGS) {
                    Ok(more) => taken = more,
                    Err(Errno::EAGAIN) => break,
                    Err(error) => {
                        load.failure = Some(error.into());
                        break;
                    }
                }
                load.bytes += taken;
            }
        }
        Ok(load)
    }

    /// Gives a socket as much as it takes, and says how much that was.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing now.
    pub fn give(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        match splice(&pipe.out, None, socket, None, self.bytes, FLAGS)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            given => {
                self.bytes -= given;
                Ok(given)
            }
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take().filter(|_| self.bytes == 0) {
            // A thread that is ending has no pool any more, and the pipe is closed.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < KEPT {
                    pool.push(pipe);
                }
            });
        }
    }
}

const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

/// Pipes that lie in the pool of this thread.
#[cfg(test)]
pub fn kept() -> usize {
    POOL.with_borrow(Vec::len)
}
