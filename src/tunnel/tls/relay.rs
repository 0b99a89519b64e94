//! TLS ↔ plain in user space. A record is decrypted where it was received and written from where rustls leaves it; what
//! the inner side does not take is queued, and until it has taken that nothing more is read, but see `ahead`. A direction
//! begins with little space and asks for eight records at a time once its reads come full.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    session::{RECORD, Session},
    stream::{TlsStream, broken},
};
use crate::tunnel::{
    Counters, Reason,
    absence::{Absence, closed_tcp},
    ahead::Permit,
    buffers::{Buffer, LARGE},
    relay::{End, Failure, State, Verdict},
};

/// Read from the inner side at a time, at first and when there is much.
const CHUNKS: [usize; 2] = [RECORD, 8 * RECORD];

/// Records up to this size that came together are written together: copying them costs less than a system call for each.
const GATHERED: usize = 2 * 1024;

/// Carries bytes until both sides have closed or one fails.
pub async fn carry(outer: &mut TlsStream, inner: &mut TcpStream, leftover: &[u8], counters: &Counters) -> Reason {
    let TlsStream { tcp, session, plain, .. } = outer;
    // From here on nobody else reads the connection.
    session.by_record = false;
    let mut queue = Buffer::default();
    queue.extend(leftover);
    queue.extend(plain.filled());
    plain.clear();
    let mut up = Up { state: State::Moving, queue, ahead: Permit::default(), busy: false, end: None };
    let mut down = Down { state: State::Moving, unsent: 0, busy: false, ended: false };
    let mut verdict = Verdict::default();
    let mut absence = Absence::new(&counters.up);
    poll_fn(|cx| {
        let up_poll = up.poll(cx, session, tcp, inner, &counters.up);
        // Answers of the session to what has come are sent by this direction, so it comes second.
        let down_poll = down.poll(cx, session, tcp, inner, &counters.down);
        if absence.poll(cx, !up.queue.is_empty(), || closed_tcp(tcp)).is_ready() {
            return Poll::Ready(Reason::OuterCut);
        }
        verdict.poll((up.end, up_poll), (down.ended.then_some(End::Said), down_poll))
    })
    .await
}

struct Up {
    state: State,
    /// Decrypted and not taken by the inner side.
    queue: Buffer,
    ahead: Permit,
    busy: bool,
    end: Option<End>,
}

impl Up {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut Session,
        tcp: &mut TcpStream,
        inner: &mut TcpStream,
        delivered: &AtomicU64,
    ) -> Poll<Result<(), Failure>> {
        loop {
            match self.state {
                State::Moving => {
                    match self.poll_queue(cx, inner, delivered) {
                        Poll::Ready(result) => result.map_err(Failure::Write)?,
                        Poll::Pending => {
                            let taken = delivered.load(Ordering::Relaxed);
                            ready!(self.ahead.poll(cx, taken, self.queue.filled().len()));
                        }
                    }
                    if session.heard_goodbye() {
                        self.end = Some(End::Said);
                        self.state = State::Closing;
                        continue;
                    }
                    let wanted = if self.busy { LARGE / 2 } else { 0 };
                    let read = match ready!(session.poll_receive(cx, tcp, wanted)) {
                        // What was read on may still be wanted.
                        Err(_) if !self.queue.is_empty() => 0,
                        read => read.map_err(Failure::Read)?,
                    };
                    if read == 0 {
                        self.end = Some(End::Cut);
                        self.state = State::Closing;
                        continue;
                    }
                    self.busy = read >= RECORD;
                    self.deliver(cx, session, inner, delivered)?;
                }
                State::Closing => {
                    ready!(self.poll_queue(cx, inner, delivered)).map_err(Failure::Write)?;
                    ready!(poll_close(cx, inner)).map_err(Failure::Write)?;
                    session.incoming.clear();
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    fn deliver(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut Session,
        inner: &mut TcpStream,
        delivered: &AtomicU64,
    ) -> Result<(), Failure> {
        let mut failed = None;
        let processed = session.process(|mut payload| {
            if payload.len() > GATHERED {
                if let Poll::Ready(Err(error)) = self.poll_queue(cx, inner, delivered) {
                    failed = Some(error);
                }
                while self.queue.is_empty() && failed.is_none() && !payload.is_empty() {
                    match Pin::new(&mut *inner).poll_write(cx, payload) {
                        Poll::Ready(Ok(taken)) => {
                            delivered.fetch_add(taken as u64, Ordering::Relaxed);
                            payload = &payload[taken..];
                        }
                        Poll::Ready(Err(error)) => failed = Some(error),
                        Poll::Pending => break,
                    }
                }
            }
            self.queue.extend(payload);
        });
        processed.map_err(|error| Failure::Read(broken(error)))?;
        failed.map_or(Ok(()), |error| Err(Failure::Write(error)))
    }

    fn poll_queue(
        &mut self,
        cx: &mut Context<'_>,
        inner: &mut TcpStream,
        delivered: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let taken = ready!(Pin::new(&mut *inner).poll_write(cx, self.queue.filled()))?;
            delivered.fetch_add(taken as u64, Ordering::Relaxed);
            self.queue.consume(taken);
        }
        self.queue.rest();
        self.ahead.give_back();
        Poll::Ready(Ok(()))
    }
}

struct Down {
    state: State,
    /// Bytes of the inner side that are encrypted in what is not sent yet.
    unsent: u64,
    busy: bool,
    ended: bool,
}

impl Down {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut Session,
        tcp: &mut TcpStream,
        inner: &mut TcpStream,
        delivered: &AtomicU64,
    ) -> Poll<Result<(), Failure>> {
        let mut plain = Buffer::default();
        loop {
            match self.state {
                State::Moving => {
                    ready!(session.poll_send(cx, tcp)).map_err(Failure::Write)?;
                    delivered.fetch_add(std::mem::take(&mut self.unsent), Ordering::Relaxed);
                    let chunk = CHUNKS[usize::from(self.busy)];
                    let mut space = ReadBuf::new(&mut plain.spare(chunk)[..chunk]);
                    match Pin::new(&mut *inner).poll_read(cx, &mut space) {
                        Poll::Ready(result) => result.map_err(Failure::Read)?,
                        Poll::Pending => {
                            session.outgoing.rest();
                            return Poll::Pending;
                        }
                    }
                    let read = space.filled().len();
                    if read == 0 {
                        self.ended = true;
                        session.say_goodbye().map_err(|error| Failure::Write(broken(error)))?;
                        self.state = State::Closing;
                        continue;
                    }
                    session.encrypt(space.filled()).map_err(|error| Failure::Write(broken(error)))?;
                    self.unsent = read as u64;
                    self.busy = read >= RECORD;
                }
                State::Closing => {
                    ready!(session.poll_send(cx, tcp)).map_err(Failure::Write)?;
                    session.outgoing.rest();
                    ready!(poll_close(cx, tcp)).map_err(Failure::Write)?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Closes one direction of a connection. That its peer is gone completely is no failure: that it closed was the news.
fn poll_close(cx: &mut Context<'_>, tcp: &mut TcpStream) -> Poll<io::Result<()>> {
    match ready!(Pin::new(tcp).poll_shutdown(cx)) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
        result => Poll::Ready(result),
    }
}
