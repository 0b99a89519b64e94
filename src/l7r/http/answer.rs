//! Answers as bytes. Clients depend on the exact spelling of header names, on one blank behind the colon, on a reason
//! phrase, on a body that is never empty, and on `Content-Length` instead of chunks.

use std::time::Duration;

use serde::Serialize;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal $reason:literal, $canned:literal;)+) => {
        /// The status of a final answer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Status { $($(#[$doc])* $name,)+ }

        impl Status {
            /// Every status.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Three digits.
            pub fn code(self) -> u16 {
                match self { $(Self::$name => $code,)+ }
            }

            /// The phrase behind the digits.
            pub fn reason(self) -> &'static str {
                match self { $(Self::$name => $reason,)+ }
            }

            /// What a user is told when there is nothing more specific.
            pub fn description(self) -> &'static str {
                match self { $(Self::$name => $canned,)+ }
            }
        }
    };
}

statuses! {
    /// Done.
    Ok = 200 "OK", "The request was carried out.";
    /// The request cannot be understood.
    BadRequest = 400 "Bad Request", "The server could not understand the request.";
    /// Who are you?
    Unauthorized = 401 "Unauthorized", "The user name, password or token was not accepted.";
    /// You may not.
    Forbidden = 403 "Forbidden", "The request is not allowed.";
    /// No such thing.
    NotFound = 404 "Not Found", "The requested resource does not exist.";
    /// It took too long.
    RequestTimeout = 408 "Request Timeout", "The request took too long.";
    /// A parameter is missing or makes no sense.
    Unprocessable = 422 "Unprocessable Entity", "A parameter of the request is missing or invalid.";
    /// Only over a connection that can become a tunnel.
    UpgradeRequired = 426 "Upgrade Required", "The request needs an upgrade of the connection to QVD/1.0.";
    /// Not so often.
    TooManyRequests = 429 "Too Many Requests", "Too many failed logins, retry later.";
    /// Longer than we read.
    HeadersTooLarge = 431 "Request Header Fields Too Large", "The request is too large.";
    /// Our fault.
    Internal = 500 "Internal Server Error", "The server failed to carry out the request.";
    /// Not now.
    Unavailable = 503 "Service Unavailable", "The service is not available at the moment, retry later.";
    /// Not HTTP/1.1.
    VersionNotSupported = 505 "HTTP Version Not Supported", "The server speaks HTTP/1.1 only.";
}

impl Status {
    /// Whether it is 400 or above.
    pub fn is_error(self) -> bool {
        self.code() >= 400
    }
}

/// A final answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: Status,
    content_type: &'static str,
    body: Vec<u8>,
    retry_after: Option<Duration>,
}

impl Answer {
    /// An answer with a text for people. An empty text becomes the description of the status.
    pub fn text(status: Status, text: impl Into<String>) -> Self {
        let text = text.into();
        let text = if text.is_empty() { status.description().to_owned() } else { text };
        Self { status, content_type: "text/plain", body: text.into_bytes(), retry_after: None }
    }

    /// A successful answer with JSON that was serialised before.
    pub fn json_text(json: String) -> Self {
        Self { status: Status::Ok, content_type: "application/json", body: json.into_bytes(), retry_after: None }
    }

    /// Says when the client may try again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// A successful answer with a value as JSON.
    ///
    /// # Errors
    /// When the value has no form in JSON, such as a map with keys that are no strings.
    pub fn json(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::json_text(serde_json::to_string(value)?))
    }

    /// The status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Everything up to and including the empty line.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status.code(), self.status.reason());
        if self.status == Status::Unauthorized {
            head.push_str("WWW-Authenticate: Basic realm=\"QVD\"\r\n");
        }
        if let Some(wait) = self.retry_after {
            head.push_str(&format!("Retry-After: {}\r\n", wait.as_millis().div_ceil(1000)));
        }
        head.push_str(&format!("Content-Type: {}\r\nContent-Length: {}\r\n\r\n", self.content_type, self.body.len()));
        head.into_bytes()
    }

    /// The bytes behind the head.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The writes that make up the answer, one TLS record each: one client blocks for ever when the head of an error
    /// and its body arrive as one.
    pub fn records(&self) -> Vec<Vec<u8>> {
        let head = self.head();
        if self.status.is_error() { vec![head, self.body.clone()] } else { vec![[head, self.body.clone()].concat()] }
    }
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self::text(status, "")
    }
}

/// An interim answer (102) that tells the user what is being done. To be sent as one write.
pub fn interim(text: &str) -> Vec<u8> {
    format!("HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: {}\r\n\r\n", one_line(text)).into_bytes()
}

/// The answer (101) behind which the tunnel begins. Nothing may follow in the same TLS record.
pub fn switching(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
    for (name, value) in headers {
        head.push_str(&format!("{name}: {}\r\n", one_line(value)));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A header value cannot hold line ends.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_two_writes_with_exact_spelling() {
        let records = Answer::from(Status::Unauthorized).records();
        assert_eq!(
            String::from_utf8_lossy(&records[0]),
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"QVD\"\r\n\
             Content-Type: text/plain\r\nContent-Length: 50\r\n\r\n"
        );
        assert_eq!(records[1], b"The user name, password or token was not accepted.");
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_not_too_short() {
        let answer = Answer::from(Status::TooManyRequests).retry_after(Duration::from_millis(5001));
        assert!(String::from_utf8(answer.head()).unwrap().contains("\r\nRetry-After: 6\r\n"));
    }

    #[test]
    fn a_success_is_one_write() {
        let records = Answer::json(&serde_json::json!([{"id": 1}])).unwrap().records();
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n[{\"id\":1}]";
        assert_eq!(records, [expected.as_bytes().to_vec()]);
    }

    #[test]
    fn interim_answers_cannot_smuggle_headers() {
        assert_eq!(interim("a\r\nB: c"), b"HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: a  B: c\r\n\r\n");
        assert_eq!(
            switching(&[("X-QVD-Slave-Key", "K")]),
            b"HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: K\r\n\r\n"
        );
    }

    #[test]
    fn no_answer_has_an_empty_body_or_reason() {
        for status in Status::ALL {
            let answer = Answer::from(*status);
            assert!(!answer.body().is_empty() && !status.reason().is_empty(), "{status:?}");
            let length = format!("Content-Length: {}\r\n", answer.body().len());
            assert!(String::from_utf8(answer.head()).unwrap().contains(&length));
        }
    }
}
