//! SimpleRPC, the protocol between nodes and agents: a method is a path, its parameters the query, its answer JSON.
//!
//! An answer is one JSON value, or `"","<message>"` when the method failed; the status is 200 in both cases.
//! Classic callers and agents speak exactly this. `x_wait` and the secret's header are ours: a classic agent answers
//! the first with 404 and ignores the second. `vnc_connect` is no method: its answer is HTTP's own. Sockets are not touched here.

use std::{fmt, str::FromStr};

use serde_json::Value;
use thiserror::Error;

/// Header that carries the secret a node shares with one VM, in hexadecimal.
pub const SECRET_HEADER: &str = "X-QVD-VM-Secret";

/// Media type of every answer of a method.
pub const CONTENT_TYPE: &str = "application/json-simplerpc";

/// Parameter of `x_wait`: the state the caller has already seen.
pub const WAIT_SEEN: &str = "seen";

/// Parameter of `x_wait`: seconds, with fractions, after which the answer comes even when nothing changed.
pub const WAIT_LIMIT: &str = "limit";

/// What is no method but makes its connection one of RFB to the desktop.
pub const VNC_CONNECT: &str = "vnc_connect";

/// Parameter of `vnc_connect`: `1` when nothing shall be done there. Ours: a classic agent ignores it.
pub const VIEW_ONLY: &str = "view_only";

/// The protocol that the `Upgrade` of `vnc_connect` names.
pub const VNC: &str = "VNC";

const PREFIX: &str = "/vma/";

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)+) => {
        /// What can be asked of an agent.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method { $($(#[$doc])* $variant,)+ }

        impl Method {
            /// Every method.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The last part of its path.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

methods! {
    /// Shows that the agent lives.
    Ping = "ping",
    /// The state of the X session.
    XState = "x_state",
    /// The same, answered when it is another than the caller knows.
    XWait = "x_wait",
    /// Starts or resumes the X session.
    XStart = "x_start",
    /// Makes nxagent let go of its proxy.
    XSuspend = "x_suspend",
    /// Ends the X session.
    XStop = "x_stop",
    /// Shuts the VM down.
    Poweroff = "poweroff",
    /// Tells the user that the VM will be stopped.
    Expire = "expire",
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No method has this name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the agent has no method {0:?}")]
pub struct UnknownMethod(String);

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        let known = Self::ALL.iter().copied().find(|method| method.as_str() == name);
        known.ok_or_else(|| UnknownMethod(name.to_owned()))
    }
}

/// Key and value pairs in the order in which they are sent. A later one overrides an earlier one of the same key.
pub type Pairs = Vec<(String, String)>;

/// The request target of a call.
pub fn target(method: Method, parameters: &[(String, String)]) -> String {
    target_of(method.as_str(), parameters)
}

/// The request target of `vnc_connect`.
pub fn vnc_target(view_only: bool) -> String {
    let view_only = if view_only { "1" } else { "0" };
    target_of(VNC_CONNECT, &[(VIEW_ONLY.to_owned(), view_only.to_owned())])
}

fn target_of(name: &str, parameters: &[(String, String)]) -> String {
    let mut target = format!("{PREFIX}{name}");
    for (index, (key, value)) in parameters.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        escape(key, &mut target);
        target.push('=');
        escape(value, &mut target);
    }
    target
}

/// Splits a request target into the name of the method and its parameters; `None` when it is no call of the agent.
pub fn parse_target(target: &str) -> Option<(&str, Pairs)> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = path.strip_prefix(PREFIX)?;
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescape(key), unescape(value))
    });
    Some((method, pairs.collect()))
}

fn escape(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// What is no escape stays as it is, like in classic; bytes that are no UTF-8 become U+FFFD.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = tail;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn digit(hexadecimal: u8) -> u8 {
    match hexadecimal {
        b'0'..=b'9' => hexadecimal - b'0',
        _ => (hexadecimal | 0x20) - b'a' + 10,
    }
}

/// The body of an answer.
pub fn encode(answer: &Result<Value, String>) -> Vec<u8> {
    let text = match answer {
        Ok(value) => format!("{value:#}"),
        Err(message) => format!("\"\",{}", Value::from(message.as_str())),
    };
    let mut body = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        if c.is_ascii() {
            body.push(c);
        } else {
            // Outside strings JSON is ASCII, so an escape is always legal here.
            body.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    body.push_str("\r\n");
    body.into_bytes()
}

/// Why a body holds no result.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AnswerError {
    /// The method failed; the text is the agent's.
    #[error("{0}")]
    Refused(String),
    /// The body is not what the protocol allows.
    #[error("the answer is no SimpleRPC: {0}")]
    Malformed(String),
}

/// Reads the body of an answer with status 200.
pub fn decode(body: &[u8]) -> Result<Value, AnswerError> {
    let list = [b"[", body, b"]"].concat();
    let mut values = serde_json::from_slice::<Vec<Value>>(&list)
        .map_err(|error| AnswerError::Malformed(error.to_string()))?
        .into_iter();
    let result = values.next().ok_or_else(|| AnswerError::Malformed("it is empty".to_owned()))?;
    match values.next() {
        Some(Value::String(message)) if !message.is_empty() && message != "0" => Err(AnswerError::Refused(message)),
        Some(Value::Null | Value::Bool(false) | Value::String(_)) | None => Ok(result),
        Some(Value::Number(number)) if number.as_f64() == Some(0.0) => Ok(result),
        Some(other) => Err(AnswerError::Refused(other.to_string())),
    }
}

/// Shows parameters in a log without what must stay secret.
pub struct Masked<'a>(pub &'a [(String, String)]);

impl fmt::Display for Masked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            let value = if is_secret(key) { "****" } else { value };
            write!(f, "{space}{key}={value:?}")?;
        }
        Ok(())
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["passwd", "password", "token", "secret"].iter().any(|word| key.contains(word)) || key.ends_with(".key")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_target_is_escaped_as_classic_callers_do() {
        let parameters = pairs(&[("qvd.client.keyboard", "pc105/es"), ("a b", "ñ+(1)~")]);
        let expected = "/vma/x_start?qvd.client.keyboard=pc105%2Fes&a%20b=%C3%B1%2B(1)~";
        assert_eq!(target(Method::XStart, &parameters), expected);
        assert_eq!(target(Method::Ping, &[]), "/vma/ping");
    }

    #[test]
    fn plus_is_a_blank_and_what_is_no_escape_stays() {
        let (method, parameters) = parse_target("/vma/expire?a=1+2&b=50%&c&a=%4a").unwrap();
        assert_eq!(method, "expire");
        assert_eq!(parameters, pairs(&[("a", "1 2"), ("b", "50%"), ("c", ""), ("a", "J")]));
        assert_eq!(parse_target("/qvd/ping"), None);
    }

    #[test]
    fn answers_are_ascii_and_end_with_a_line() {
        assert_eq!(encode(&Ok(json!("starting"))), b"\"starting\"\r\n");
        assert_eq!(encode(&Err("disco \u{1f4be} lleño".into())), b"\"\",\"disco \\ud83d\\udcbe lle\\u00f1o\"\r\n");
    }

    #[test]
    fn a_true_second_value_is_an_error_and_a_false_one_is_not() {
        assert_eq!(decode(b"1\r\n"), Ok(json!(1)));
        assert_eq!(decode(b"\"\",\"no\"\r\n"), Err(AnswerError::Refused("no".into())));
        for body in ["\"x\",\"\"", "\"x\",0", "\"x\",null", "\"x\",\"0\"", "\"x\",false,\"y\""] {
            assert_eq!(decode(body.as_bytes()), Ok(json!("x")), "{body}");
        }
        for body in ["", "\r\n", "<html>", "{"] {
            assert!(matches!(decode(body.as_bytes()), Err(AnswerError::Malformed(_))), "{body}");
        }
    }

    #[test]
    fn logs_show_no_secret() {
        let parameters =
            pairs(&[("user.password", "x1"), ("auth_token", "x2"), ("qvd.slave.key", "x3"), ("os", "linux")]);
        let text = Masked(&parameters).to_string();
        assert_eq!(text, "user.password=\"****\" auth_token=\"****\" qvd.slave.key=\"****\" os=\"linux\"");
    }

    #[test]
    fn every_method_is_known_by_its_name() {
        for method in Method::ALL {
            assert_eq!(method.as_str().parse(), Ok(*method));
        }
        assert!("vnc_connect".parse::<Method>().is_err());
    }

    proptest! {
        #[test]
        fn any_parameters_survive_the_way(parameters in prop::collection::vec((".+", ".*"), 0..5)) {
            let sent = target(Method::XStart, &parameters);
            prop_assert!(sent.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(parse_target(&sent), Some(("x_start", parameters)));
        }

        #[test]
        fn any_error_text_survives_the_way(text in ".+") {
            prop_assume!(text != "0");
            prop_assert_eq!(decode(&encode(&Err(text.clone()))), Err(AnswerError::Refused(text)));
        }

        #[test]
        fn any_result_survives_the_way(text in ".*") {
            prop_assert_eq!(decode(&encode(&Ok(json!({ "k": text })))), Ok(json!({ "k": text })));
        }
    }
}
