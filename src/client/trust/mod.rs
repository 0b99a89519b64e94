//! Whether a server is who it says: its certificate comes from an authority that is trusted, or the user has accepted
//! exactly this certificate with exactly these errors before. What happens to one that is neither, is not decided
//! here; but a server whose accepted certificate has changed is refused. Revocation is not looked up.

mod examine;
mod exceptions;
mod verifier;

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CipherSuite, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject},
};
use thiserror::Error;

pub use examine::Finding;
use examine::fingerprint;
pub use exceptions::Exceptions;
pub use verifier::Verdict;

/// Where accepted certificates are kept, below the user's directory.
const EXCEPTIONS_FILE: &str = "accepted_certs.json";

/// How long a certificate is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// By this process.
    Once,
    /// From now on.
    Always,
}

/// Why a certificate is not accepted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be verified; the user, or a policy, may accept it.
    #[error("the identity of the server cannot be verified: {}", .0.problems().join(", "))]
    Questionable(Finding),
    /// The user, or the policy, decided against it.
    #[error(
        "the certificate of the server was refused ({}; SHA-256 {}); --ca FILE trusts an authority",
        .0.problems().join(", "), .0.grouped_fingerprint()
    )]
    Declined(Finding),
    /// The server had another one when the user accepted it.
    #[error(
        "THE CERTIFICATE OF {server} HAS CHANGED. Somebody may be posing as the server and listening in, or it was \
         renewed: ask your administrator. Accepted was SHA-256 {}, shown is {}. If that is right, remove the entry \
         of {server} from ~/.qvd/{EXCEPTIONS_FILE}",
        known, finding.grouped_fingerprint()
    )]
    Changed {
        /// `host:port`.
        server: String,
        /// Fingerprint of the accepted certificate.
        known: String,
        /// What is shown now.
        finding: Finding,
    },
}

/// Certificates of our own that cannot be used.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read certificates from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificate that can be trusted.
    #[error("{} holds no certificate in PEM form", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file of accepted certificates is damaged.
    #[error("{} cannot be understood; repair it or remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file of accepted certificates cannot be written.
    #[error("cannot remember the certificate in {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The TLS library cannot be set up.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// Everything that decides whether a server is trusted.
#[derive(Debug)]
pub struct Trust {
    roots: RootCertStore,
    /// Fingerprints of certificates that are trusted by themselves, whoever issued them.
    pinned: HashSet<String>,
    exceptions: Mutex<Exceptions>,
    /// Accepted by this process only.
    once: Mutex<Vec<Finding>>,
    file: Option<PathBuf>,
}

impl Trust {
    /// Loads the system's authorities, those in `directory/certs` and in `authorities`, and what the user accepted.
    ///
    /// # Errors
    /// When a file of `authorities`, or that of the accepted certificates, cannot be used. Authorities of the system
    /// and of `directory/certs` that cannot be used are left out.
    pub fn load(directory: Option<&Path>, authorities: &[PathBuf]) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let mut own = Vec::new();
        for path in authorities {
            own.append(&mut read_pem(path)?);
        }
        for entry in directory.and_then(|directory| fs::read_dir(directory.join("certs")).ok()).into_iter().flatten() {
            match entry.map_err(|_| ()).and_then(|entry| read_pem(&entry.path()).map_err(|_| ())) {
                Ok(mut certificates) => own.append(&mut certificates),
                Err(()) => tracing::debug!("a file of ~/.qvd/certs holds no certificate"),
            }
        }
        let pinned = own.iter().map(|certificate| fingerprint(certificate)).collect();
        roots.add_parsable_certificates(own);
        let file = directory.map(|directory| directory.join(EXCEPTIONS_FILE));
        let exceptions = match &file {
            Some(path) => Exceptions::load(path)?,
            None => Exceptions::default(),
        };
        Ok(Self { roots, pinned, exceptions: Mutex::new(exceptions), once: Mutex::default(), file })
    }

    /// What to do about a server that shows a certificate with this finding.
    ///
    /// # Errors
    /// When it is not to be trusted, or not without asking.
    pub fn judge(&self, server: &str, finding: &Finding) -> Result<(), Refusal> {
        if finding.errors.is_empty() || self.accepted_once(finding) {
            return Ok(());
        }
        let exceptions = self.exceptions.lock().unwrap_or_else(PoisonError::into_inner);
        if exceptions.cover(&finding.fingerprint, &finding.errors) {
            return Ok(());
        }
        if let Some(known) = exceptions.accepted_for(server, &finding.fingerprint) {
            let known = examine::grouped(known);
            return Err(Refusal::Changed { server: server.to_owned(), known, finding: finding.clone() });
        }
        Err(Refusal::Questionable(finding.clone()))
    }

    /// Accepts a certificate with the errors it has now, and no others.
    ///
    /// # Errors
    /// When it cannot be remembered.
    pub fn accept(&self, server: &str, finding: &Finding, scope: Scope) -> Result<(), TrustError> {
        self.once.lock().unwrap_or_else(PoisonError::into_inner).push(finding.clone());
        let (Scope::Always, Some(path)) = (scope, &self.file) else { return Ok(()) };
        let mut exceptions = self.exceptions.lock().unwrap_or_else(PoisonError::into_inner);
        exceptions.add(server, finding);
        exceptions.save(path).map_err(|source| TrustError::Write { path: path.clone(), source })
    }

    fn accepted_once(&self, finding: &Finding) -> bool {
        let once = self.once.lock().unwrap_or_else(PoisonError::into_inner);
        once.iter().any(|known| known.fingerprint == finding.fingerprint && known.errors.is_superset(&finding.errors))
    }

    /// A TLS configuration for one connection to `server` (`host:port`), and where the verdict on its certificate
    /// will be found should the handshake fail.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn client_config(self: &Arc<Self>, server: &str) -> Result<(Arc<rustls::ClientConfig>, Verdict), TrustError> {
        let provider = Arc::new(provider());
        let verdict = Verdict::default();
        let verifier = verifier::Verifier::new(self.clone(), server, provider.clone(), verdict.clone());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TrustError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok((Arc::new(config), verdict))
    }
}

/// The library's own, but for the order of suites: the first that a server takes is used, and SHA-256 costs a fraction of
/// SHA-384, which few processors have instructions for.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let bytes = fs::read(path).map_err(|source| TrustError::Read { path: path.to_owned(), source })?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok).collect();
    if certificates.is_empty() { Err(TrustError::NoCertificate { path: path.to_owned() }) } else { Ok(certificates) }
}

/// Numbers of errors that a certificate may have: those of OpenSSL, and from 1001 those of classic clients.
pub type ErrorNumbers = BTreeSet<u32>;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
