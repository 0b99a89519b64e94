//! The certificate of a server and its private key: read from PEM, checked, made where there is none. Whom it is shown to is
//! not known here.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::model::config::{Config, Key, keys};

/// A certificate that cannot be made or used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {what} from {}", path.display())]
    Read {
        /// Certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory could not be written.
    #[error("cannot write {what} to {}", path.display())]
    Write {
        /// Certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was read is not what it should be.
    #[error("{place} cannot be used: {problem}")]
    Unusable {
        /// File or configuration key.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate for {names}")]
    Generate {
        /// Names and addresses it was to be for.
        names: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The library offers none of the versions we ask for.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// Where the configuration says that a certificate lies.
struct Places {
    directory: Key<PathBuf>,
    certificate: Key<PathBuf>,
    key: Key<PathBuf>,
}

const ROUTER: Places =
    Places { directory: keys::PATH_L7R_SSL, certificate: keys::PATH_L7R_SSL_CERT, key: keys::PATH_L7R_SSL_KEY };
const WAT: Places =
    Places { directory: keys::PATH_API_SSL, certificate: keys::PATH_API_SSL_CERT, key: keys::PATH_API_SSL_KEY };

impl Places {
    fn kept_or_made(&self, config: &Config) -> Result<Identity, TlsError> {
        match self.kept(config)? {
            Some(identity) => Ok(identity),
            None => Identity::load_or_generate(&config.get(&self.directory), &[config.get(&keys::NODENAME)]),
        }
    }

    fn kept(&self, config: &Config) -> Result<Option<Identity>, TlsError> {
        let set = |key: &Key<PathBuf>| config.origin(key.name).is_some();
        let (certificate, key) = (config.get(&self.certificate), config.get(&self.key));
        if set(&self.certificate) || set(&self.key) || certificate.exists() || key.exists() {
            return Identity::load(&certificate, &key).map(Some);
        }
        Ok(None)
    }
}

/// A certificate chain with its private key.
#[derive(Clone, Debug)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// Reads certificate chain and key from PEM. The places are named in errors: files or configuration keys.
    ///
    /// # Errors
    /// When either holds nothing usable, or they do not belong together.
    pub fn from_pem(certificates: (&[u8], &str), key: (&[u8], &str)) -> Result<Self, TlsError> {
        let unusable = |place: &str, problem: String| TlsError::Unusable { place: place.to_owned(), problem };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates.0)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(certificates.1, format!("it is not valid PEM ({error})")))?;
        if chain.is_empty() {
            return Err(unusable(certificates.1, "it holds no certificate in PEM form".to_owned()));
        }
        let private = PrivateKeyDer::from_pem_slice(key.0)
            .map_err(|error| unusable(key.1, format!("it holds no private key in PEM form ({error})")))?;
        let signing = provider()
            .key_provider
            .load_private_key(private)
            .map_err(|_| unusable(key.1, "the private key is neither ECDSA, RSA nor Ed25519".to_owned()))?;
        let identity = CertifiedKey::new(chain, signing);
        match identity.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Self(identity.into()))
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(unusable(
                key.1,
                format!("the private key does not belong to the certificate in {}", certificates.1),
            )),
            Err(error) => Err(unusable(certificates.1, format!("the certificate cannot be understood ({error})"))),
        }
    }

    /// Reads certificate chain and key from two PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or used; the error names it.
    pub fn load(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let read =
            |what, path: &Path| fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source });
        Self::from_pem(
            (&read("the certificate", certificates)?, &certificates.display().to_string()),
            (&read("the private key", key)?, &key.display().to_string()),
        )
    }

    /// What a node's router shows when nothing is stored for all: the files that its configuration names, else a certificate
    /// that is made once.
    ///
    /// # Errors
    /// When a file cannot be read, used or written.
    pub fn of_node(config: &Config) -> Result<Self, TlsError> {
        ROUTER.kept_or_made(config)
    }

    /// The same where nothing is to be made; `None` when it would be.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn kept(config: &Config) -> Result<Option<Self>, TlsError> {
        ROUTER.kept(config)
    }

    /// What the web tool shows: the files that its configuration names, else a certificate that is made once.
    ///
    /// # Errors
    /// When a file cannot be read, used or written.
    pub fn of_wat(config: &Config) -> Result<Self, TlsError> {
        WAT.kept_or_made(config)
    }

    /// For a configuration of TLS.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.0.clone()
    }

    /// The chain, the router's own certificate first, in DER.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.0.cert.iter().map(AsRef::as_ref)
    }

    /// The identity kept in `directory` (`cert.pem`, `key.pem`). When there is none, one is made for `names` and for
    /// `localhost` (ECDSA P-256, signed by itself); the directory is then readable by its owner alone.
    ///
    /// # Errors
    /// When what is there cannot be used (it is never overwritten), or nothing can be written.
    pub fn load_or_generate(directory: &Path, names: &[String]) -> Result<Self, TlsError> {
        let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        if !certificate.exists() && !key.exists() {
            let (certificate_pem, key_pem) = generate(names)?;
            let fail = |what, path: &Path| {
                let path = path.to_owned();
                move |source| TlsError::Write { what, path, source }
            };
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(fail("certificates", directory))?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
                .map_err(fail("certificates", directory))?;
            // The key first: a certificate without one would stop the next start.
            write_private(&key, &key_pem).map_err(fail("the private key", &key))?;
            write_private(&certificate, &certificate_pem).map_err(fail("the certificate", &certificate))?;
            tracing::info!(path = %certificate.display(), "certificate made");
        }
        Self::load(&certificate, &key)
    }

    /// SHA-256 of the certificate in hexadecimal digits, as clients show it.
    pub fn fingerprint(&self) -> String {
        let leaf = self.0.cert.first().map(AsRef::as_ref).unwrap_or_default();
        Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Writes a new file for its owner only, complete or not at all.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

fn generate(names: &[String]) -> Result<(String, String), TlsError> {
    let mut all: Vec<String> = names.to_vec();
    all.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    let mut seen = std::collections::HashSet::new();
    all.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    let fail = |source| TlsError::Generate { names: all.join(", "), source };
    let mut params = CertificateParams::new(all.clone()).map_err(fail)?;
    params.distinguished_name = DistinguishedName::new();
    // The field holds 64 characters; longer host names are in the list of names all the same.
    let common = all.iter().find(|name| name.parse::<IpAddr>().is_err() && name.len() <= 64);
    params.distinguished_name.push(DnType::CommonName, common.map_or("QVD", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(fail)?;
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// The only one there is.
pub fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(error: &dyn std::error::Error) -> String {
        std::iter::successors(Some(error), |error| error.source()).map(|e| e.to_string()).collect::<Vec<_>>().join(": ")
    }

    #[test]
    fn a_certificate_is_made_once_and_kept_private() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("ssl");
        let names = ["node1".to_owned(), "10.0.0.1".to_owned(), "localhost".to_owned()];
        let first = Identity::load_or_generate(&directory, &names).unwrap();
        let again = Identity::load_or_generate(&directory, &names).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("key.pem")), 0o600);
        assert_eq!(mode(&directory.join("cert.pem")), 0o600);
    }

    #[test]
    fn an_unusable_certificate_names_file_and_problem() {
        let scratch = tempfile::tempdir().unwrap();
        let (certificate, key) = (scratch.path().join("cert.pem"), scratch.path().join("key.pem"));
        let (certificate_pem, key_pem) = generate(&[]).unwrap();
        let (_, other_key) = generate(&[]).unwrap();
        for (certificate_text, key_text, file, problem) in [
            (None, Some(key_pem.as_str()), &certificate, "No such file"),
            (Some("hello"), Some(key_pem.as_str()), &certificate, "no certificate"),
            (Some(certificate_pem.as_str()), Some("hello"), &key, "no private key"),
            (Some(certificate_pem.as_str()), Some(other_key.as_str()), &key, "does not belong"),
            (Some(certificate_pem.as_str()), None, &key, "No such file"),
        ] {
            for (path, text) in [(&certificate, certificate_text), (&key, key_text)] {
                let _ = fs::remove_file(path);
                if let Some(text) = text {
                    fs::write(path, text).unwrap();
                }
            }
            // What is there is reported, never replaced.
            let text = chain(&Identity::load_or_generate(scratch.path(), &[]).unwrap_err());
            assert!(text.contains(problem) && text.contains(&file.display().to_string()), "{text}");
        }
    }

    #[test]
    fn rsa_and_ecdsa_keys_are_accepted_from_the_configuration() {
        for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let pem = CertificateParams::new(["a".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
            let (cert, key) = (pem.as_bytes(), key.serialize_pem());
            Identity::from_pem((cert, "l7r.ssl.cert"), (key.as_bytes(), "l7r.ssl.key")).unwrap();
        }
    }
}
