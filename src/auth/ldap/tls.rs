//! Whose certificates of directory servers are trusted. Authorities are read again after a minute, so that new ones
//! need no restart.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::auth::Refusal;

const FRESH: Duration = Duration::from_secs(60);

/// A configuration and when it was made.
type Made = (Instant, Arc<ClientConfig>);

/// By the file of the authorities.
#[derive(Default)]
pub struct Configurations {
    read: Mutex<HashMap<Option<String>, Made>>,
}

impl Configurations {
    /// Trusts the authorities in a file, or those of the system.
    pub async fn get(&self, ca: Option<&str>) -> Result<Arc<ClientConfig>, Refusal> {
        let ca = ca.map(str::to_owned);
        {
            let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, config)) = read.get(&ca)
                && at.elapsed() < FRESH
            {
                return Ok(config.clone());
            }
        }
        let file = ca.clone();
        let made = tokio::task::spawn_blocking(move || configuration(file.as_deref())).await;
        let made = made.unwrap_or_else(|error| Err(error.to_string()));
        let config = made.map_err(|problem| Refusal::Directory(format!("auth.ldap.ca: {problem}")))?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.retain(|_, (at, _)| at.elapsed() < FRESH);
        read.insert(ca, (Instant::now(), config.clone()));
        Ok(config)
    }
}

fn configuration(ca: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            let certificates = CertificateDer::pem_file_iter(file).map_err(|error| format!("{file}: {error}"))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| format!("{file}: {error}"))?;
                roots.add(certificate).map_err(|error| format!("{file}: {error}"))?;
            }
            if roots.is_empty() {
                return Err(format!("{file} holds no certificate"));
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
