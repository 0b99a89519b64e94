//! A request as the rest of the router sees it. Bodies do not exist.

use std::{borrow::Cow, fmt};

/// One request head.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// As sent, usually `GET`.
    pub method: String,
    /// Everything before the first `?`, as sent.
    pub path: String,
    /// Everything behind it, decoded.
    pub query: Query,
    pub(super) headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header, trimmed; the first one when it was sent several times. Case of the name is ignored.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers in the order in which they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether the client wants the connection to become a tunnel (`Connection: Upgrade`, `Upgrade: QVD/1.0`).
    pub fn wants_tunnel(&self) -> bool {
        self.header("Connection") == Some("Upgrade") && self.header("Upgrade") == Some("QVD/1.0")
    }
}

/// Headers may hold passwords and queries what users call their things: neither is shown.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

/// The parameters of a request, in the order in which they were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, Option<String>)>,
}

impl Query {
    /// Reads `a=1&b=2`. `+` is a blank, `%XX` a byte; a `%` without two hexadecimal digits stands for itself. Values
    /// may be unescaped. Bytes that are not UTF-8 become replacement characters.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|part| !part.is_empty()).map(|part| match part.split_once('=') {
            Some((key, value)) => (decode(key), Some(decode(value))),
            None => (decode(part), None),
        });
        Self { pairs: pairs.collect() }
    }

    /// The value of a parameter; the last one when it was sent several times. `None` also for a key without `=`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().filter(|(known, _)| *known == key).last().and_then(|(_, value)| value)
    }

    /// Every parameter; the value is `None` for a key without `=`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_deref()))
    }
}

fn decode(text: &str) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            (byte, _) => bytes.push(*byte),
        }
    }
    match String::from_utf8_lossy(&bytes) {
        Cow::Borrowed(valid) => valid.to_owned(),
        Cow::Owned(repaired) => repaired,
    }
}

pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_keep_their_order_and_are_decoded() {
        let query = Query::parse("id=5&&a=b+c&raw=pc105/en&x=%C3%A9%2b&flag&e=&bad=100%&z=%zz&k=a=b");
        let pairs: Vec<_> = query.iter().collect();
        let expected = [
            ("id", Some("5")),
            ("a", Some("b c")),
            ("raw", Some("pc105/en")),
            ("x", Some("é+")),
            ("flag", None),
            ("e", Some("")),
            ("bad", Some("100%")),
            ("z", Some("%zz")),
            ("k", Some("a=b")),
        ];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn the_last_of_several_values_counts_and_a_key_without_equals_has_none() {
        let query = Query::parse("id=1&id=2&key");
        assert_eq!(query.get("id"), Some("2"));
        assert_eq!(query.get("key"), None);
        assert_eq!(query.get("other"), None);
    }
}
