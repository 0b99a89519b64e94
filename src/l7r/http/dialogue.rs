//! The conversation with one client: requests in, answers out, until the client leaves or the connection becomes a
//! tunnel. Every write is passed on to the network at once, so that what must be a TLS record of its own is one.
//! A client may vanish at any moment; that is an ordinary error here.

use std::{io, time::Duration};

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{Answer, HeadParser, Parsed, Reject, Request, Status, interim, switching};

/// Bytes asked for at a time; nearly every head fits.
const CHUNK: usize = 2048;
/// How long a client that was refused may take to read why.
const LINGER: Duration = Duration::from_secs(2);
/// What it may still send meanwhile.
const LINGER_BYTES: usize = 256 * 1024;

/// A conversation that cannot go on.
#[derive(Debug, Error)]
pub enum DialogueError {
    /// The client sent what is not a request. It has been told so and the connection is closed.
    #[error("a request was refused")]
    Rejected(#[source] Reject),
    /// The client did not send a request in time. It has been told so and the connection is closed.
    #[error("the client took too long to send a request")]
    TooSlow,
    /// The client left in the middle of a request.
    #[error("the client left in the middle of a request")]
    Vanished,
    /// The connection failed.
    #[error("the connection to the client failed while {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// One client's connection while it speaks HTTP.
#[derive(Debug)]
pub struct Dialogue<S> {
    stream: S,
    /// What was read and not used yet: the next request, or the first bytes of the tunnel.
    buffer: Vec<u8>,
    limit: usize,
    /// How long a client may take to send a request.
    patience: Option<Patience>,
    /// Whether the client has closed its direction.
    ended: bool,
}

/// How long a client may take to send a request.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From its first byte to the end of its head.
    pub head: Duration,
    /// Whether the time before the first byte counts, too.
    pub before: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Dialogue<S> {
    /// Begins a conversation in which heads have at most `limit` bytes.
    pub fn new(stream: S, limit: usize) -> Self {
        Self { stream, buffer: Vec::new(), limit, patience: None, ended: false }
    }

    /// Limits the time for every request to come; without, a client may take as long as it likes.
    pub fn limit_time(&mut self, patience: Patience) {
        self.patience = Some(patience);
    }

    /// The next request; `None` when the client has left between two. What is no request, or comes too slowly, is
    /// answered, and the connection closed, before this returns.
    ///
    /// # Errors
    /// When the client sends nonsense, is too slow, leaves in the middle, or the connection fails.
    pub async fn next_request(&mut self) -> Result<Option<Request>, DialogueError> {
        let mut parser = HeadParser::new(self.limit);
        let mut deadline = None;
        loop {
            match parser.advance(&self.buffer) {
                Ok(Parsed::Complete { request, length }) => {
                    self.buffer.drain(..length);
                    if self.buffer.is_empty() {
                        // A client may sit here for hours while its user chooses.
                        self.buffer = Vec::new();
                    }
                    return Ok(Some(request));
                }
                Ok(Parsed::Incomplete) => {}
                Err(reject) => {
                    // A client that does not wait for the answer loses it; the refusal is what counts.
                    let _ = self.answer(&Answer::text(reject.status(), sentence(reject))).await;
                    self.linger().await;
                    return Err(DialogueError::Rejected(reject));
                }
            }
            let only_blank = self.buffer.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
            if let Some(patience) = self.patience
                && (patience.before || !only_blank)
            {
                deadline.get_or_insert_with(|| Instant::now() + patience.head);
            }
            if self.ended {
                return if only_blank { Ok(None) } else { Err(DialogueError::Vanished) };
            }
            let read = self.read("waiting for a request");
            match deadline {
                None => read.await?,
                Some(deadline) => match timeout_at(deadline, read).await {
                    Ok(read) => read?,
                    Err(_) => {
                        let _ = self.answer(&Status::RequestTimeout.into()).await;
                        self.linger().await;
                        return Err(DialogueError::TooSlow);
                    }
                },
            };
        }
    }

    /// Tells the client what is being done for it (102).
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn interim(&mut self, text: &str) -> Result<(), DialogueError> {
        self.write(&interim(text), "sending an interim answer").await
    }

    /// Sends a final answer. The conversation may go on with the next request.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn answer(&mut self, answer: &Answer) -> Result<(), DialogueError> {
        for record in answer.records() {
            self.write(&record, "sending an answer").await?;
        }
        Ok(())
    }

    /// Resolves when the client closes the connection or it fails. Meant to be raced against the work for a request:
    /// what the client sends meanwhile is kept for later. When that becomes more than one head may be, reading stops
    /// and so does noticing. May be dropped at any time without losing bytes.
    pub async fn closed(&mut self) {
        loop {
            if self.ended {
                return;
            }
            if self.buffer.len() >= self.limit {
                std::future::pending::<()>().await;
            }
            if !matches!(self.read("waiting").await, Ok(read) if read > 0) {
                self.ended = true;
            }
        }
    }

    /// Sends 101 with these headers, alone in its record, and gives back the connection with what the client has sent behind its
    /// request, which belongs to the tunnel.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn switch(mut self, headers: &[(&str, &str)]) -> Result<(S, Vec<u8>), DialogueError> {
        self.write(&switching(headers), "opening the tunnel").await?;
        Ok((self.stream, self.buffer))
    }

    /// Ends the conversation in good order, so that the last answer is not lost with what the client sent and nobody
    /// read.
    pub async fn close(mut self) {
        self.linger().await;
    }

    /// The connection underneath, for what logs want to know of it.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    async fn read(&mut self, doing: &'static str) -> Result<usize, DialogueError> {
        self.buffer.reserve(CHUNK);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(read) => {
                self.ended = read == 0;
                Ok(read)
            }
            // TLS without a goodbye: all classic clients leave like this.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.ended = true;
                Ok(0)
            }
            Err(source) => Err(DialogueError::Io { doing, source }),
        }
    }

    async fn write(&mut self, bytes: &[u8], doing: &'static str) -> Result<(), DialogueError> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|source| DialogueError::Io { doing, source })
    }

    /// Closing a socket with unread bytes resets the connection, and the client would never see the last answer.
    async fn linger(&mut self) {
        let drained = async {
            self.stream.shutdown().await?;
            let mut space = [0; CHUNK];
            let mut total = 0;
            while total < LINGER_BYTES && !self.ended {
                match self.stream.read(&mut space).await? {
                    0 => break,
                    read => total += read,
                }
            }
            io::Result::Ok(())
        };
        // Nobody is left to be told when this fails.
        let _ = tokio::time::timeout(LINGER, drained).await;
        self.ended = true;
        self.buffer = Vec::new();
    }
}

fn sentence(reject: Reject) -> String {
    let mut text = reject.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.push('.');
    text
}

#[cfg(test)]
#[path = "dialogue_tests.rs"]
mod tests;
