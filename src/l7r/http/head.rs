//! Reads request heads from bytes as they arrive, line by line, so that it does not matter how they were cut.
//!
//! ```text
//!         blank lines         request line              empty line
//!  Start ────────────► Start ──────────────► Headers ──────────────► the request
//!                                             │   ▲
//!                                             └───┘ header or its continuation
//! ```
//!
//! Lines end in CRLF or bare LF. There are no bodies: what follows a head belongs to the next request or the tunnel.

use thiserror::Error;

use super::{Query, Request, Status};

/// Why a head is refused. The connection cannot be used afterwards.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Reject {
    /// Not `METHOD target HTTP/version`.
    #[error("the request line cannot be understood")]
    RequestLine,
    /// Not `Name: value`, nor the continuation of one.
    #[error("a header line cannot be understood")]
    HeaderLine,
    /// Any version but 1.1, or none.
    #[error("only HTTP/1.1 is spoken here")]
    Version,
    /// Longer than the limit given.
    #[error("the head of the request is larger than {limit} bytes")]
    TooLarge {
        /// Largest size in bytes.
        limit: usize,
    },
}

impl Reject {
    /// The status to answer with.
    pub fn status(self) -> Status {
        match self {
            Self::RequestLine | Self::HeaderLine => Status::BadRequest,
            Self::Version => Status::VersionNotSupported,
            Self::TooLarge { .. } => Status::HeadersTooLarge,
        }
    }
}

/// What a buffer begins with.
#[derive(Debug)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// A whole head of `length` bytes, skipped blank lines included.
    Complete {
        /// The request.
        request: Request,
        /// How many bytes of the buffer it took.
        length: usize,
    },
}

/// Reads one head from the beginning of `buffer`, of at most `limit` bytes.
pub fn parse(buffer: &[u8], limit: usize) -> Result<Parsed, Reject> {
    HeadParser::new(limit).advance(buffer)
}

/// Reads one head from a buffer that grows; every byte is looked at once, however it arrives.
#[derive(Debug)]
pub struct HeadParser {
    limit: usize,
    /// Where the first line that is not complete yet begins.
    line: usize,
    /// No line end before here.
    searched: usize,
    request: Option<Request>,
}

impl HeadParser {
    /// A parser for a head of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, line: 0, searched: 0, request: None }
    }

    /// Looks at what is new in `buffer`, which must begin with all that was given before. After a complete head or a
    /// refusal a new parser is needed.
    pub fn advance(&mut self, buffer: &[u8]) -> Result<Parsed, Reject> {
        while let Some(offset) = buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
            let end = self.searched + offset;
            if end >= self.limit {
                return Err(Reject::TooLarge { limit: self.limit });
            }
            let line = &buffer[self.line..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.line = end + 1;
            self.searched = end + 1;
            match &mut self.request {
                None if line.is_empty() => {}
                None => self.request = Some(request_line(line)?),
                Some(_) if line.is_empty() => {
                    // The arm has just seen that it is there.
                    if let Some(request) = self.request.take() {
                        return Ok(Parsed::Complete { request, length: self.line });
                    }
                }
                Some(request) => header_line(request, line)?,
            }
        }
        self.searched = buffer.len();
        if buffer.len() >= self.limit {
            return Err(Reject::TooLarge { limit: self.limit });
        }
        Ok(Parsed::Incomplete)
    }
}

/// The target is everything between the method and the last `HTTP/`: one client sends raw blanks in its query.
fn request_line(line: &[u8]) -> Result<Request, Reject> {
    if line.iter().any(|&byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(Reject::RequestLine);
    }
    let line = String::from_utf8_lossy(line);
    let (method, rest) = line.split_once(is_blank).ok_or(Reject::RequestLine)?;
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(Reject::RequestLine);
    }
    let (target, version) = match rest.rfind("HTTP/") {
        Some(at) if rest[..at].is_empty() || rest[..at].ends_with(is_blank) => (&rest[..at], &rest[at + 5..]),
        _ => return Err(Reject::Version),
    };
    let target = target.trim_matches(is_blank);
    if target.is_empty() {
        return Err(Reject::RequestLine);
    }
    if version.trim_end_matches(is_blank) != "1.1" {
        return Err(Reject::Version);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Request { method: method.to_owned(), path: path.to_owned(), query: Query::parse(query), headers: Vec::new() })
}

fn header_line(request: &mut Request, line: &[u8]) -> Result<(), Reject> {
    if line.iter().any(|&byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(Reject::HeaderLine);
    }
    let line = String::from_utf8_lossy(line);
    if line.starts_with(is_blank) {
        let (_, value) = request.headers.last_mut().ok_or(Reject::HeaderLine)?;
        let more = line.trim_matches(is_blank);
        if !value.is_empty() && !more.is_empty() {
            value.push(' ');
        }
        value.push_str(more);
        return Ok(());
    }
    let (name, value) = line.split_once(':').ok_or(Reject::HeaderLine)?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(Reject::HeaderLine);
    }
    request.headers.push((name.to_owned(), value.trim_matches(is_blank).to_owned()));
    Ok(())
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
