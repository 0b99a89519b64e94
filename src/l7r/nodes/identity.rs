//! By what routers of nodes know each other: a key that each makes when it starts. Its private half never leaves the process;
//! the public one is in the database, with the instance of the router, and is good as long as that is. There are no
//! certificates (RFC 7250): who has which key, only the database says.

use std::{fmt, sync::Arc};

use quinn::{
    ClientConfig, ServerConfig, TransportConfig,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs::default_provider, verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use thiserror::Error;

use super::known::Known;

/// The protocol's name in the TLS handshake of QUIC.
pub const ALPN: &[u8] = b"qvd-node";

/// The public half of a router's key (SubjectPublicKeyInfo, DER).
pub type PublicKey = Vec<u8>;

/// Why a router has no key.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// No key could be made.
    #[error("no key can be made for other nodes to know this router by")]
    Key,
    /// The TLS library does not take it.
    #[error("TLS between nodes cannot be set up")]
    Tls(#[from] Error),
    /// It lacks what QUIC needs.
    #[error("TLS cannot be set up for QUIC between nodes")]
    Quic(#[from] NoInitialCipherSuite),
}

/// A router's own key.
pub struct Identity {
    certified: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// A new one.
    pub fn generate() -> Result<Self, IdentityError> {
        let made = aws_lc_rs::signature::Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1());
        let private = made.map_err(|_| IdentityError::Key)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(private.as_ref().to_vec()));
        let provider = Arc::new(default_provider());
        let key = provider.key_provider.load_private_key(private)?;
        let public = key.public_key().ok_or(IdentityError::Key)?;
        let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public.as_ref().to_vec())], key));
        Ok(Self { certified, provider })
    }

    /// What others know it by.
    pub fn public(&self) -> PublicKey {
        self.certified.cert.first().map(|key| key.as_ref().to_vec()).unwrap_or_default()
    }

    /// Lets in those who are known. Nobody comes back by a ticket: who is known may have changed.
    pub fn server(&self, known: Arc<Known>, transport: Arc<TransportConfig>) -> Result<ServerConfig, IdentityError> {
        let verifier =
            Keys { algorithms: self.provider.signature_verification_algorithms, accepted: Accepted::Known(known) };
        let mut tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.certified.clone())));
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        server.transport_config(transport);
        Ok(server)
    }

    /// Connects to the owner of `key` and to nobody else.
    pub fn client(&self, key: PublicKey, transport: Arc<TransportConfig>) -> Result<ClientConfig, IdentityError> {
        let verifier =
            Keys { algorithms: self.provider.signature_verification_algorithms, accepted: Accepted::One(key) };
        let mut tls = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.certified.clone())));
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.resumption = Resumption::disabled();
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        client.transport_config(transport);
        Ok(client)
    }
}

/// Whose key is accepted.
enum Accepted {
    Known(Arc<Known>),
    One(PublicKey),
}

/// Looks at keys in place of certificates.
struct Keys {
    algorithms: WebPkiSupportedAlgorithms,
    accepted: Accepted,
}

impl Keys {
    fn accept(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        let accepted = match &self.accepted {
            Accepted::One(one) => one == key.as_ref(),
            Accepted::Known(known) => known.has_key(key),
        };
        if accepted { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

/// Never: only TLS 1.3 is spoken.
fn too_old() -> Error {
    Error::General("TLS 1.2 is not spoken between nodes".to_owned())
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Keys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.accept(key).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Keys {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.accept(key).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
