//! What a client says first, seen before the handshake takes it: TLS, HTTP in the clear, or nothing that is served
//! here; and, when a handshake fails, what the client would have needed. Nothing is decided from it but how to say no.

use std::io;

use rustls::{
    CipherSuite, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved, ProtocolVersion,
    crypto::aws_lc_rs::ALL_CIPHER_SUITES,
};

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A TLS handshake record, or what SSLv2 had in its place.
    Tls,
    /// Letters, as every HTTP method begins with.
    Http,
    /// Anything else.
    Garbage,
}

impl Opening {
    /// From the first byte.
    pub fn of(first: u8) -> Self {
        match first {
            0x16 | 0x80.. => Self::Tls,
            b'A'..=b'Z' | b'a'..=b'z' => Self::Http,
            _ => Self::Garbage,
        }
    }
}

/// Why a handshake failed, in words for the administrator who is asked why a client cannot connect. `first` are the
/// first bytes that the client sent, as far as they are known.
pub fn cause(error: &io::Error, first: &[u8]) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "the client left in the middle of the handshake".to_owned()
            }
            _ => format!("the connection failed: {error}"),
        };
    };
    if first.first().is_some_and(|byte| *byte >= 0x80) {
        return "the client speaks SSL 2".to_owned();
    }
    let hello = Hello::parse(first).unwrap_or_default();
    let newest = hello.newest();
    match error {
        // Such a client lacks more than the version; which of it is found first says nothing.
        Error::PeerIncompatible(_) if newest.is_some_and(|newest| u16::from(newest) < 0x0303) => too_old(newest),
        Error::PeerIncompatible(_) if !hello.suites.is_empty() && !hello.suites.iter().any(is_spoken) => {
            no_suite(&hello)
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => too_old(newest),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => no_suite(&hello),
        Error::PeerIncompatible(
            PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired,
        ) => "the client offers no elliptic curve that is spoken here".to_owned(),
        Error::PeerIncompatible(
            PeerIncompatible::NoSignatureSchemesInCommon | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        ) => "the client accepts no signature that our certificate's key can make".to_owned(),
        Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName)
        | Error::InvalidMessage(InvalidMessage::InvalidServerName) => bad_name(&hello),
        Error::AlertReceived(alert) => {
            use rustls::AlertDescription::{BadCertificate, CertificateExpired, CertificateUnknown, UnknownCA};
            match alert {
                UnknownCA | BadCertificate | CertificateUnknown | CertificateExpired => {
                    format!("the client does not accept our certificate ({alert:?})")
                }
                _ => format!("the client refused ({alert:?})"),
            }
        }
        Error::NoCertificatesPresented => "the client shows no certificate, and one is required".to_owned(),
        Error::InvalidCertificate(problem) => format!("the certificate of the client is refused ({problem})"),
        other => other.to_string(),
    }
}

/// Our library ends the handshake before it asks anybody here, and to change what the client has sent would spoil the proof
/// that nobody did. So such a client is refused, though nothing here depends on the name.
fn bad_name(hello: &Hello) -> String {
    const SHOWN: usize = 80;
    match &hello.server_name {
        Some(name) => {
            let name: String = String::from_utf8_lossy(name).chars().take(SHOWN).collect();
            format!("the client asks for a server by a name that no host can have: {name:?}")
        }
        None => "the client asks for a server by no name or by several".to_owned(),
    }
}

fn too_old(newest: Option<ProtocolVersion>) -> String {
    match newest {
        Some(newest) => format!("the client speaks {} at most, which is not offered", version_name(newest)),
        None => "the client speaks no version of TLS that is offered".to_owned(),
    }
}

/// Suites in common but none that fits our key, or none at all.
fn no_suite(hello: &Hello) -> String {
    let names: Vec<String> =
        hello.suites.iter().filter(|suite| !is_signal(**suite)).map(|suite| name(*suite)).collect();
    let all = |test: &dyn Fn(&str) -> bool| names.iter().all(|name| test(name));
    let why = if names.is_empty() {
        "the client offers no cipher suite that is offered here"
    } else if all(&|name| name.starts_with("TLS_RSA_")) {
        "the client knows only RSA key exchange, which has no forward secrecy and is not spoken here"
    } else if all(&|name| name.contains("_CBC_")) {
        "the client knows only CBC cipher suites, which are not spoken here"
    } else if all(&|name| name.contains("_CBC_") || name.starts_with("TLS_RSA_") || name.starts_with("TLS_DHE_")) {
        "the client knows only RSA or DHE key exchange and CBC cipher suites, which are not spoken here"
    } else {
        "the client offers no cipher suite that is offered here and fits the key of our certificate"
    };
    if names.is_empty() { why.to_owned() } else { format!("{why}: {}", shortened(&names)) }
}

fn is_spoken(suite: &CipherSuite) -> bool {
    ALL_CIPHER_SUITES.iter().any(|ours| ours.suite() == *suite)
}

/// Numbers that stand among cipher suites and are none: renegotiation, fallback, and those that some clients make up
/// so that servers learn to ignore what they do not know.
fn is_signal(suite: CipherSuite) -> bool {
    let number = u16::from(suite);
    matches!(number, 0x00ff | 0x5600) || number & 0x0f0f == 0x0a0a && number >> 8 == number & 0xff
}

fn name(suite: CipherSuite) -> String {
    let number = u16::from(suite);
    match OLD.iter().find(|(old, _)| *old == number) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("{suite:?}"),
    }
}

/// Suites of the clients that are still met, which our library does not know even by name.
const OLD: &[(u16, &str)] = &[
    (0x0004, "TLS_RSA_WITH_RC4_128_MD5"),
    (0x0005, "TLS_RSA_WITH_RC4_128_SHA"),
    (0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0x0016, "TLS_DHE_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA"),
    (0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA"),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA"),
    (0x0039, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256"),
    (0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256"),
    (0x0041, "TLS_RSA_WITH_CAMELLIA_128_CBC_SHA"),
    (0x0067, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0x006b, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256"),
    (0x0084, "TLS_RSA_WITH_CAMELLIA_256_CBC_SHA"),
    (0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384"),
    (0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
    (0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
    (0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    (0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
    (0xc023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"),
    (0xc024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384"),
    (0xc027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0xc028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384"),
];

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn version_name(version: ProtocolVersion) -> String {
    match version {
        ProtocolVersion::SSLv3 => "SSL 3".to_owned(),
        ProtocolVersion::TLSv1_0 => "TLS 1.0".to_owned(),
        ProtocolVersion::TLSv1_1 => "TLS 1.1".to_owned(),
        ProtocolVersion::TLSv1_2 => "TLS 1.2".to_owned(),
        ProtocolVersion::TLSv1_3 => "TLS 1.3".to_owned(),
        other => format!("{other:?}"),
    }
}

/// What a ClientHello offers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hello {
    legacy: Option<ProtocolVersion>,
    suites: Vec<CipherSuite>,
    versions: Vec<ProtocolVersion>,
    server_name: Option<Vec<u8>>,
}

impl Hello {
    fn newest(&self) -> Option<ProtocolVersion> {
        let known = |version: &ProtocolVersion| (0x0300..=0x0304).contains(&u16::from(*version));
        self.versions.iter().copied().filter(known).max_by_key(|version| u16::from(*version)).or(self.legacy)
    }

    /// Reads as much as there is: extensions may be missing, and the end when it did not come in one piece.
    fn parse(record: &[u8]) -> Option<Self> {
        let mut at = Reader(record);
        // Record header, handshake type 1, length.
        let (_, kind) = (at.take(5)?, at.take(4)?);
        if record[0] != 0x16 || kind[0] != 1 {
            return None;
        }
        let legacy = Some(at.number()?.into());
        at.take(32)?;
        let session = at.take(1)?[0];
        at.take(session.into())?;
        let length = at.number()?;
        let suites = at.take(usize::from(length).min(at.0.len()))?;
        let suites = suites.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]).into()).collect();
        let mut hello = Self { legacy, suites, ..Self::default() };
        // What was read before the end counts.
        let _ = hello.read_extensions(&mut at);
        Some(hello)
    }

    fn read_extensions(&mut self, at: &mut Reader<'_>) -> Option<()> {
        const SERVER_NAME: u16 = 0;
        const SUPPORTED_VERSIONS: u16 = 43;
        let compressions = at.take(1)?[0];
        at.take(compressions.into())?;
        at.number()?;
        loop {
            let (kind, length) = (at.number()?, at.number()?);
            let body = at.take(length.into())?;
            match kind {
                // One name is all that anybody sends: length of the list, kind of name, length.
                SERVER_NAME => self.server_name = body.get(5..).map(<[u8]>::to_vec),
                SUPPORTED_VERSIONS => {
                    let listed = body.get(1..)?.chunks_exact(2);
                    self.versions = listed.map(|pair| u16::from_be_bytes([pair[0], pair[1]]).into()).collect();
                }
                _ => {}
            }
        }
    }
}

/// Explains a failure from any bytes.
pub(crate) fn read_any(bytes: &[u8]) {
    for error in [
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
        Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered),
        Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName),
    ] {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        assert!(!cause(&error, bytes).is_empty());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(legacy: u16, suites: &[u16], versions: &[u16]) -> Vec<u8> {
        let mut extensions = Vec::new();
        if !versions.is_empty() {
            let listed = [&[(versions.len() * 2) as u8], pairs(versions).as_slice()].concat();
            let other = [0, 5, 0, 1, 9];
            extensions = [&other[..], &[0, 43], &(listed.len() as u16).to_be_bytes(), &listed].concat();
        }
        hello_of(legacy, suites, &extensions)
    }

    fn hello_with(extensions: &[u8]) -> Vec<u8> {
        hello_of(0x0303, &[0x1301], extensions)
    }

    fn pairs(numbers: &[u16]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    fn hello_of(legacy: u16, suites: &[u16], extensions: &[u8]) -> Vec<u8> {
        let mut body = legacy.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.extend(((suites.len() * 2) as u16).to_be_bytes());
        body.extend(pairs(suites));
        body.extend([1, 0]);
        if !extensions.is_empty() {
            body.extend((extensions.len() as u16).to_be_bytes());
            body.extend(extensions);
        }
        let length = body.len() as u32;
        let handshake = [&[1], &length.to_be_bytes()[1..], &body].concat();
        [&[0x16, 3, 1], &(handshake.len() as u16).to_be_bytes()[..], &handshake].concat()
    }

    fn why(error: PeerIncompatible, first: &[u8]) -> String {
        cause(&io::Error::new(io::ErrorKind::InvalidData, Error::PeerIncompatible(error)), first)
    }

    #[test]
    fn old_versions_are_named() {
        let text = why(PeerIncompatible::SignatureAlgorithmsExtensionRequired, &hello(0x0301, &[0x002f], &[]));
        assert_eq!(text, "the client speaks TLS 1.0 at most, which is not offered");
        // What a new library does that was told to speak only an old version; values made up by others do not count.
        let text = why(PeerIncompatible::Tls12NotOfferedOrEnabled, &hello(0x0303, &[0x002f], &[0x7a7a, 0x0302]));
        assert_eq!(text, "the client speaks TLS 1.1 at most, which is not offered");
    }

    #[test]
    fn suites_that_are_not_spoken_are_named() {
        let text = |suites: &[u16]| why(PeerIncompatible::NoCipherSuitesInCommon, &hello(0x0303, suites, &[]));
        // What such clients lack besides is not the cause.
        let rsa = why(PeerIncompatible::NamedGroupsExtensionRequired, &hello(0x0303, &[0x009c, 0x002f, 0x00ff], &[]));
        assert!(rsa.contains("only RSA key exchange") && rsa.contains("TLS_RSA_WITH_AES_128_GCM_SHA256"), "{rsa}");
        assert!(text(&[0x2a2a, 0xc013, 0xc014]).contains("only CBC"), "{}", text(&[0xc013, 0xc014]));
        assert!(text(&[0xc02b]).contains("fits the key"));
        assert!(text(&[]).ends_with("offered here"));
        assert!(text(&[0x002f; 9]).ends_with("and 5 more"));
    }

    #[test]
    fn a_server_name_that_is_none_is_shown_as_it_was_sent() {
        let refused = |first: &[u8]| {
            let error = Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName);
            cause(&io::Error::new(io::ErrorKind::InvalidData, error), first)
        };
        let text = refused(&hello_with(&[0, 0, 0, 8, 0, 6, 0, 0, 3, b'a', b'\n', b'b']));
        assert_eq!(text, r#"the client asks for a server by a name that no host can have: "a\nb""#);
        assert!(refused(&hello_with(&[])).ends_with("by no name or by several"));
    }

    #[test]
    fn openings_are_told_apart_by_their_first_byte() {
        for (first, opening) in [
            (0x16, Opening::Tls),
            (0x80, Opening::Tls),
            (b'G', Opening::Http),
            (b'\r', Opening::Garbage),
            (0, Opening::Garbage),
            (0x15, Opening::Garbage),
        ] {
            assert_eq!(Opening::of(first), opening, "{first}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..400), cut: u16) {
            let _ = Hello::parse(&bytes);
            let whole = hello(0x0303, &[1, 2, 3], &[0x0304]);
            let cut = usize::from(cut) % whole.len();
            let _ = Hello::parse(&whole[..cut]);
            let _ = Hello::parse(&[&whole[..cut], &bytes].concat());
        }
    }
}
