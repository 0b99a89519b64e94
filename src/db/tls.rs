//! TLS to the database: what of the server's certificate is verified, and against which authorities.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::DbError;

/// How much of a server's certificate must be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verify {
    /// Nothing: TLS keeps out those who only listen.
    Nothing,
    /// That it comes from an authority.
    Authority,
    /// That, and the name of the server.
    Name,
}

/// The value of `database.sslmode`: whether there is TLS, and what is verified.
pub(super) fn mode(word: &str) -> Result<(SslMode, Verify), DbError> {
    Ok(match word {
        "disable" => (SslMode::Disable, Verify::Nothing),
        "prefer" => (SslMode::Prefer, Verify::Nothing),
        "verify-ca" => (SslMode::Require, Verify::Authority),
        "require" | "verify-full" => (SslMode::Require, Verify::Name),
        other => {
            return Err(DbError::Setup(format!(
                "database.sslmode = {other}: disable, prefer, verify-ca, verify-full or require"
            )));
        }
    })
}

/// Ready to connect. `roots` is a file of authorities instead of those of the system.
pub(super) fn connect(verify: Verify, roots: Option<&Path>) -> Result<MakeRustlsConnect, DbError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let failed = |error: Error| DbError::Setup(error.to_string());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(failed)?;
    let config = match verify {
        Verify::Name => builder.with_root_certificates(authorities(roots)?),
        lenient => {
            let chain = match lenient {
                Verify::Authority => {
                    let roots = Arc::new(authorities(roots)?);
                    let chain = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
                    Some(chain.map_err(|error| DbError::Setup(format!("database.sslrootcert: {error}")))?)
                }
                _ => None,
            };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Lenient { chain, provider }))
        }
    };
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, DbError> {
    let mut store = RootCertStore::empty();
    let Some(file) = file else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let refuse = |why: String| DbError::Setup(format!("database.sslrootcert = {}: {why}", file.display()));
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let (added, _) = store.add_parsable_certificates(certificates.map_err(|error| refuse(error.to_string()))?);
    match added {
        0 => Err(refuse("no certificate of an authority is in it".to_owned())),
        _ => Ok(store),
    }
}

/// Why a server was not trusted, and what to do about it; `None` when the error is about something else.
pub(super) fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    let found = loop {
        let error = cause?;
        // An I/O error shows what it holds only to those who ask for it.
        let held = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()?.downcast_ref::<Error>());
        match held.or_else(|| error.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(found)) => break found,
            _ => cause = error.source(),
        }
    };
    Some(match found {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate of the server is of an authority that is not trusted here; name the file of the right one in \
             database.sslrootcert"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "{}; write the name of the certificate in database.host, or database.sslmode = verify-ca",
            Error::InvalidCertificate(found.clone())
        ),
        other => format!("the certificate of the server will not do: {}", Error::InvalidCertificate(other.clone())),
    })
}

/// Does not ask for the name of the server, and without `chain` for nothing at all.
#[derive(Debug)]
struct Lenient {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
