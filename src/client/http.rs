//! The client's side of the HTTP dialogue: requests out, interim and final answers in. Bytes behind the last answer
//! are kept for the tunnel.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest head of an answer.
const HEAD_LIMIT: usize = 64 * 1024;
/// Largest body.
const BODY_LIMIT: usize = 16 * 1024 * 1024;
/// Headers of one answer.
const HEADERS: usize = 64;

/// An answer that cannot be read.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The connection failed or ended.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// It is not HTTP.
    #[error("it is not HTTP")]
    Syntax(#[source] httparse::Error),
    /// A final answer does not say how long it is.
    #[error("it does not say how long it is")]
    Length,
    /// More than anybody sends.
    #[error("it is larger than {limit} bytes")]
    TooLarge {
        /// Largest size in bytes.
        limit: usize,
    },
    /// The body is not what it should be.
    #[error("its content makes no sense")]
    Content(#[from] serde_json::Error),
    /// The status is none that fits the request.
    #[error("status {status} does not fit the request")]
    Status {
        /// The status.
        status: u16,
    },
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Three digits.
    pub status: u16,
    reason: String,
    headers: Vec<(String, String)>,
    /// Empty for interim answers and 101.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, case of the name ignored.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// What the answer tells a person.
    pub fn text(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let text = body.trim();
        if text.is_empty() { format!("{} {}", self.status, self.reason) } else { text.to_owned() }
    }
}

/// A connection on which answers are read.
#[derive(Debug)]
pub struct Exchange<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<S> {
    /// Begins on a connection on which nothing was said yet.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Sends a request without a body.
    pub async fn send(&mut self, target: &str, headers: &[(&str, &str)]) -> Result<(), HttpError> {
        let mut head = format!("GET {target} HTTP/1.1\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next answer, interim or final.
    pub async fn receive(&mut self) -> Result<Answer, HttpError> {
        let mut answer = loop {
            if let Some((answer, length)) = parse_head(&self.buffer)? {
                self.buffer.drain(..length);
                break answer;
            }
            if self.buffer.len() >= HEAD_LIMIT {
                return Err(HttpError::TooLarge { limit: HEAD_LIMIT });
            }
            self.read().await?;
        };
        let length = body_length(&answer)?;
        while self.buffer.len() < length {
            self.read().await?;
        }
        answer.body = self.buffer.drain(..length).collect();
        Ok(answer)
    }

    /// The connection.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The connection and what was read behind the last answer.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer)
    }

    async fn read(&mut self) -> Result<(), HttpError> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }
}

/// The head that `buffer` begins with and its length; `None` when more bytes are needed.
fn parse_head(buffer: &[u8]) -> Result<Option<(Answer, usize)>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(buffer).map_err(HttpError::Syntax)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let answer = Answer {
        status: response.code.unwrap_or_default(),
        reason: response.reason.unwrap_or_default().to_owned(),
        headers: response.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect(),
        body: Vec::new(),
    };
    Ok(Some((answer, length)))
}

fn body_length(answer: &Answer) -> Result<usize, HttpError> {
    if answer.status < 200 {
        return Ok(0);
    }
    let length = answer.header("Content-Length").and_then(|text| text.trim().parse().ok()).ok_or(HttpError::Length)?;
    if length > BODY_LIMIT { Err(HttpError::TooLarge { limit: BODY_LIMIT }) } else { Ok(length) }
}

/// Escapes what has a meaning of its own in a query.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(stream: &[u8]) -> (Vec<Result<Answer, HttpError>>, Vec<u8>) {
        let (mut near, far) = tokio::io::duplex(7);
        let sent = stream.to_vec();
        tokio::spawn(async move { near.write_all(&sent).await });
        let mut exchange = Exchange::new(far);
        let mut answers = Vec::new();
        loop {
            answers.push(exchange.receive().await);
            match answers.last() {
                Some(Ok(answer)) if answer.status != 101 => {}
                _ => return (answers, exchange.into_parts().1),
            }
        }
    }

    #[tokio::test]
    async fn interim_answers_then_101_then_the_tunnel() {
        let stream = b"HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Starting\r\n\r\n\
            HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: k\r\n\r\n";
        let (answers, leftover) = read_all(stream).await;
        assert_eq!(answers[0].as_ref().unwrap().header("x-qvd-vm-info"), Some("Starting"));
        assert_eq!(answers[1].as_ref().unwrap().header("X-QVD-Slave-Key"), Some("k"));
        assert_eq!(leftover, b"");
    }

    #[tokio::test]
    async fn bodies_are_read_by_their_length() {
        let (answers, _) = read_all(b"HTTP/1.1 404 Not Found\nContent-Length: 5\n\nno VMHTTP/1.1 200 \r\n\r\n").await;
        assert_eq!(answers[0].as_ref().unwrap().text(), "no VM");
        assert!(matches!(answers[1], Err(HttpError::Length)), "{:?}", answers[1]);
    }

    #[tokio::test]
    async fn an_end_in_the_middle_is_an_error() {
        for cut in ["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "HTTP/1.1 10", ""] {
            let (answers, _) = read_all(cut.as_bytes()).await;
            assert!(matches!(answers.last(), Some(Err(HttpError::Io(_)))), "{cut}");
        }
        let (answers, _) = read_all(b"SSH-2.0-OpenSSH\r\n").await;
        assert!(matches!(answers[0], Err(HttpError::Syntax(_))));
    }

    #[test]
    fn everything_but_plain_characters_is_escaped() {
        assert_eq!(escape("pc105/es a+b&c=é"), "pc105%2Fes%20a%2Bb%26c%3D%C3%A9");
    }
}
