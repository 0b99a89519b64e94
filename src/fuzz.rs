//! What strangers can send, as functions of bytes that must hold for every input: nothing panics, nothing is read past
//! what was given, and it does not matter how the bytes were cut. The programs of `fuzz/` call them with what they
//! make up; the tests here with the corpus kept there and with changes of it.

use crate::{
    l7r::{
        self,
        http::{Credentials, HeadParser, Parsed, Query, Request, parse},
    },
    vma::client::parse_answer,
    wat,
};

const LIMIT: usize = 4096;

/// Takes any bytes, and panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every function by the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("head", head),
    ("query", query),
    ("authorization", authorization),
    ("answer", answer),
    ("proxy", proxy),
    ("hello", hello),
    ("viewer", viewer),
];

/// The head of a request: whole and byte by byte are the same.
pub fn head(bytes: &[u8]) {
    let whole = parse(bytes, LIMIT);
    let mut parser = HeadParser::new(LIMIT);
    let mut piecewise = Ok(Parsed::Incomplete);
    for end in 1..=bytes.len() {
        piecewise = parser.advance(&bytes[..end]);
        if !matches!(piecewise, Ok(Parsed::Incomplete)) {
            break;
        }
    }
    match (whole, piecewise) {
        (Ok(Parsed::Complete { request, length }), Ok(Parsed::Complete { request: same, length: as_long })) => {
            assert!(request == same && length == as_long && length <= bytes.len().min(LIMIT));
        }
        (Ok(Parsed::Incomplete), Ok(Parsed::Incomplete)) => assert!(bytes.len() < LIMIT),
        (Err(one), Err(other)) => assert_eq!(one, other),
        (one, other) => panic!("whole {one:?}, in pieces {other:?}"),
    }
}

/// The parameters of a request: the last of a name counts, and nothing grows by being decoded but what is replaced.
pub fn query(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let query = Query::parse(&text);
    for (name, _) in query.iter() {
        let last = query.iter().filter(|(other, _)| *other == name).last();
        assert_eq!(query.get(name), last.and_then(|(_, value)| value));
    }
    // A byte that is no UTF-8 becomes three.
    let size: usize = query.iter().map(|(name, value)| name.len() + value.map_or(0, str::len)).sum();
    assert!(size <= text.len() * 3);
}

/// Credentials and variables for authenticators, in whatever the headers hold. Secrets are not shown.
pub fn authorization(bytes: &[u8]) {
    let head = [b"GET / HTTP/1.1\r\nAuthorization: ", bytes, b"\r\n\r\n"].concat();
    let Ok(Parsed::Complete { request, .. }) = parse(&head, usize::MAX) else { return };
    let _ = request.auth_variables();
    if let Ok(credentials) = request.credentials() {
        let shown = format!("{credentials:?}");
        match credentials {
            Credentials::Password { login, .. } => assert_eq!(shown, format!("Password({login:?}, …)")),
            Credentials::Token(_) => assert_eq!(shown, "Token(…)"),
        }
    }
    let _: &Request = &request;
}

/// The answer of an agent: complete or not, and no longer than what came.
pub fn answer(bytes: &[u8]) {
    if let Ok(Some((_, body))) = parse_answer(bytes) {
        assert!(body.len() < bytes.len() && bytes.windows(body.len().max(1)).any(|part| part.starts_with(&body)));
    }
}

/// The header in which a load balancer says who its client is.
pub fn proxy(bytes: &[u8]) {
    l7r::fuzz_proxy(bytes);
}

/// The first bytes of a handshake that failed, looked at to say why.
pub fn hello(bytes: &[u8]) {
    l7r::fuzz_hello(bytes);
}

/// What a browser says to a desktop.
pub fn viewer(bytes: &[u8]) {
    wat::fuzz_viewer(bytes);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Changes of a corpus. The same in every run.
    const CHANGES: usize = 9000;

    /// Xorshift: chance that can be repeated.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit.max(1) as u64) as usize
        }

        fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
            const INTERESTING: &[&[u8]] =
                &[b"\r\n", b"\n", b"\0", b"%", b"%zz", b"=", b"&", b":", b" ", b"\t", b"\xff\xff", b"Auth-41: Qg=="];
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                3 if at < bytes.len() => drop(bytes.drain(at..(at + 1 + self.below(8)).min(bytes.len()))),
                4 => {
                    let from = self.below(other.len());
                    bytes.splice(at..at, other[from..].iter().copied().take(300));
                }
                _ => drop(bytes.splice(at..at, INTERESTING[self.below(INTERESTING.len())].iter().copied())),
            }
        }
    }

    #[test]
    fn whatever_is_sent_no_parser_breaks() {
        for (name, target) in TARGETS {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let mut corpus: Vec<_> = fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path()).collect();
            corpus.sort();
            let corpus: Vec<Vec<u8>> = corpus.iter().map(|file| fs::read(file).unwrap()).collect();
            assert!(!corpus.is_empty(), "{name} has no corpus");
            let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
            for seed in &corpus {
                target(seed);
                for _ in 0..CHANGES / corpus.len() {
                    let mut bytes = seed.clone();
                    for _ in 0..=chance.below(4) {
                        let other = chance.below(corpus.len());
                        chance.change(&mut bytes, &corpus[other]);
                    }
                    target(&bytes);
                }
            }
        }
    }
}
