//! Looks at a certificate chain and names everything that is wrong with it, not only the first thing, so that the
//! user decides once. Pure: the time is an argument.

use std::time::Duration;

use rustls::{
    CertificateError, Error, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha256};
use x509_cert::{Certificate, der::Decode};

use super::ErrorNumbers;

const UNSPECIFIED: u32 = 1;
const BAD_SIGNATURE: u32 = 7;
const NOT_YET_VALID: u32 = 9;
const EXPIRED: u32 = 10;
const SELF_SIGNED: u32 = 18;
const UNKNOWN_ISSUER: u32 = 20;
const REVOKED: u32 = 23;
const WRONG_PURPOSE: u32 = 26;
const WRONG_NAME: u32 = 1001;
const WEAK_DIGEST: u32 = 1002;

/// What was found out about the certificate of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// SHA-256 in hexadecimal digits.
    pub fingerprint: String,
    /// Whom it is for.
    pub subject: String,
    /// Everything that is wrong with it; nothing if it is to be trusted.
    pub errors: ErrorNumbers,
}

impl Finding {
    /// The errors in words.
    pub fn problems(&self) -> Vec<&'static str> {
        self.errors.iter().map(|error| describe(*error)).collect()
    }

    /// The fingerprint in the form in which people compare it.
    pub fn grouped_fingerprint(&self) -> String {
        grouped(&self.fingerprint)
    }
}

fn describe(error: u32) -> &'static str {
    match error {
        BAD_SIGNATURE => "a signature in it is wrong",
        NOT_YET_VALID => "it is not valid yet",
        EXPIRED => "it has expired",
        SELF_SIGNED => "it was issued by the server itself",
        UNKNOWN_ISSUER => "its issuer is not known",
        REVOKED => "it was revoked",
        WRONG_PURPOSE => "it is not meant for servers",
        WRONG_NAME => "it is for another host name",
        WEAK_DIGEST => "its signature is weak",
        _ => "it cannot be understood",
    }
}

pub(super) fn grouped(fingerprint: &str) -> String {
    let pairs: Vec<String> =
        fingerprint.as_bytes().chunks(2).map(|p| String::from_utf8_lossy(p).to_uppercase()).collect();
    pairs.join(":")
}

pub(super) fn fingerprint(certificate: &[u8]) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a server that was asked for as `name` shows at time `now`. A `pinned` certificate needs no issuer.
pub(super) fn examine(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    now: UnixTime,
    (roots, pinned): (&RootCertStore, bool),
    algorithms: &WebPkiSupportedAlgorithms,
) -> Finding {
    let mut errors = ErrorNumbers::new();
    let fingerprint = fingerprint(leaf);
    let (Ok(certificate), Ok(parsed)) = (Certificate::from_der(leaf), ParsedCertificate::try_from(leaf)) else {
        return Finding { fingerprint, subject: "?".to_owned(), errors: [UNSPECIFIED].into() };
    };
    let body = &certificate.tbs_certificate;
    let begins = body.validity.not_before.to_unix_duration();
    let ends = body.validity.not_after.to_unix_duration();
    let time = Duration::from_secs(now.as_secs());
    if time < begins {
        errors.insert(NOT_YET_VALID);
    } else if time > ends {
        errors.insert(EXPIRED);
    }
    if !pinned {
        // The library stops at the first error; as if it were valid, an outdated one shows its others, too.
        let time = UnixTime::since_unix_epoch(time.clamp(begins, ends.max(begins)));
        let own = body.issuer == body.subject;
        match verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, time, algorithms.all) {
            Ok(()) => {}
            Err(Error::InvalidCertificate(error)) => {
                errors.insert(number(&error, own));
            }
            Err(_) => {
                errors.insert(UNSPECIFIED);
            }
        }
    }
    if verify_server_name(&parsed, name).is_err() {
        errors.insert(WRONG_NAME);
    }
    Finding { fingerprint, subject: body.subject.to_string(), errors }
}

fn number(error: &CertificateError, own: bool) -> u32 {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => EXPIRED,
        E::NotValidYet | E::NotValidYetContext { .. } => NOT_YET_VALID,
        E::Revoked => REVOKED,
        E::BadSignature => BAD_SIGNATURE,
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => WRONG_PURPOSE,
        E::UnsupportedSignatureAlgorithmContext { .. } => WEAK_DIGEST,
        // A self-signed certificate that may also sign others is refused as a server's own by the library.
        E::UnknownIssuer | E::Other(_) if own => SELF_SIGNED,
        E::UnknownIssuer => UNKNOWN_ISSUER,
        _ => UNSPECIFIED,
    }
}
