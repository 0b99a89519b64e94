//! The hook into the TLS library. It judges the certificate in the middle of the handshake; when the answer is no,
//! the handshake fails and the reason is left where the caller finds it. Nobody is asked while a server waits.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    Refusal, Trust,
    examine::{examine, fingerprint},
};

/// Where a refused certificate is found after the handshake failed.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<Mutex<Option<Refusal>>>);

impl Verdict {
    /// The refusal, if the certificate was the reason.
    pub fn take(&self) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[derive(Debug)]
pub(super) struct Verifier {
    trust: Arc<Trust>,
    server: String,
    provider: Arc<CryptoProvider>,
    verdict: Verdict,
}

impl Verifier {
    pub(super) fn new(trust: Arc<Trust>, server: &str, provider: Arc<CryptoProvider>, verdict: Verdict) -> Self {
        Self { trust, server: server.to_owned(), provider, verdict }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = self.trust.pinned.contains(&fingerprint(leaf));
        let algorithms = &self.provider.signature_verification_algorithms;
        let finding = examine(leaf, intermediates, name, now, (&self.trust.roots, pinned), algorithms);
        match self.trust.judge(&self.server, &finding) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(refusal) => {
                *self.verdict.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
