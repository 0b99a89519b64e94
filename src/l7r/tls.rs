//! The router's certificate, whose certificates clients may show, and how both become a configuration of TLS. All of it
//! can be replaced while connections come in. No ALPN; names that clients ask for are ignored, there is one
//! certificate. Which of several certificates is used is not decided here; see `certificates`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};

use super::offer::Offer;
use crate::{
    certificate::{Identity, TlsError, provider},
    tunnel::Kernel,
};

/// Who may show a client certificate, and whether everybody must.
#[derive(Clone, Debug)]
pub struct Clients(Arc<dyn ClientCertVerifier>);

impl Clients {
    /// Reads authorities and, if there is one, a list of revoked certificates from PEM; the places are named in errors.
    /// With a list, a certificate whose authority has none in it is refused. How old a list is does not matter.
    ///
    /// # Errors
    /// When one of them holds nothing usable.
    pub fn from_pem(
        authorities: (&[u8], &str),
        revoked: Option<(&[u8], &str)>,
        required: bool,
    ) -> Result<Self, TlsError> {
        let unusable = |place: &str, problem: String| TlsError::Unusable { place: place.to_owned(), problem };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities.0) {
            let certificate =
                certificate.map_err(|error| unusable(authorities.1, format!("it is not valid PEM ({error})")))?;
            roots.add(certificate).map_err(|error| {
                unusable(authorities.1, format!("it holds no certificate of an authority ({error})"))
            })?;
        }
        if roots.is_empty() {
            return Err(unusable(authorities.1, "it holds no certificate in PEM form".to_owned()));
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()));
        if let Some((pem, place)) = revoked {
            let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem)
                .collect::<Result<_, _>>()
                .map_err(|error| unusable(place, format!("it is not valid PEM ({error})")))?;
            if lists.is_empty() {
                return Err(unusable(place, "it holds no list of revoked certificates in PEM form".to_owned()));
            }
            builder = builder.with_crls(lists).only_check_end_entity_revocation();
        }
        if !required {
            builder = builder.allow_unauthenticated();
        }
        let place = revoked.map_or(authorities.1, |(_, place)| place);
        builder.build().map(Self).map_err(|error| unusable(place, error.to_string()))
    }
}

/// All that a listener needs to speak TLS.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it shows.
    pub identity: Identity,
    /// What it asks for.
    pub clients: Option<Clients>,
    /// What it speaks.
    pub offer: Offer,
}

impl From<Identity> for Settings {
    fn from(identity: Identity) -> Self {
        Self { identity, clients: None, offer: Offer::new("", "ALL") }
    }
}

impl Settings {
    fn config(&self) -> Result<ServerConfig, TlsError> {
        let provider = CryptoProvider { cipher_suites: self.offer.suites.clone(), ..provider() };
        let builder = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&self.offer.versions)
            .map_err(TlsError::Setup)?;
        let builder = match &self.clients {
            Some(Clients(verifier)) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Shown(self.identity.certified())));
        // Sessions are resumed from tickets, so that nothing is kept for clients that have left. The key is a new one
        // for every configuration: a ticket does not outlive the list of revoked certificates it was given under.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(config)
    }
}

/// The TLS side of a listener. Clones share one configuration.
#[derive(Clone, Debug)]
pub struct Tls {
    current: Arc<ArcSwap<ServerConfig>>,
    kernel: Option<Arc<Kernel>>,
}

impl Tls {
    /// TLS with these settings.
    ///
    /// # Errors
    /// When the library cannot be set up.
    pub fn new(settings: &Settings) -> Result<Self, TlsError> {
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(settings.config()?)), kernel: None })
    }

    /// Lets the kernel encrypt tunnels, if it can.
    pub fn with_kernel(mut self) -> Self {
        match Kernel::probe() {
            Ok(kernel) => {
                self.kernel = Some(kernel);
                self.use_config(ServerConfig::clone(&self.config()));
                tracing::info!("the kernel encrypts tunnels");
            }
            Err(error) => tracing::info!(%error, "the kernel does not encrypt tunnels"),
        }
        self
    }

    fn use_config(&self, mut config: ServerConfig) {
        if self.kernel.is_some() {
            // A ticket that is sent after the switch would be a record that is not data.
            config.send_tls13_tickets = 0;
            config.enable_secret_extraction = true;
        }
        self.current.store(Arc::new(config));
    }

    /// Uses other settings from the next handshake on. Existing connections stay.
    ///
    /// # Errors
    /// When the library cannot be set up; the old settings stay.
    pub fn replace(&self, settings: &Settings) -> Result<(), TlsError> {
        self.use_config(settings.config()?);
        Ok(())
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    pub(super) fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.clone()
    }
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
