//! Which certificate the router shows and whose it asks for: what the database holds, else the node's own. Follows
//! every change; what cannot be used leaves the old in place, and the reason goes to the log and to where
//! administrators look (`host_list.router_problem`).

use std::path::Path;

use crate::{
    certificate::{Identity, TlsError},
    db::{Certificates, Database},
    model::{
        InstanceId,
        config::{Config, Key, keys},
    },
};

use super::{
    offer::Offer,
    tls::{Clients, Settings, Tls},
};

/// What the node has by itself; read while the process may still read it.
#[derive(Debug)]
pub struct Own {
    identity: Identity,
    authorities: Option<Vec<u8>>,
    revoked: Option<Vec<u8>>,
}

impl Own {
    /// Reads the files of `path.l7r.ssl.*`. A certificate is made unless one is configured or there.
    ///
    /// # Errors
    /// When a file that must be there cannot be used.
    pub fn read(config: &Config) -> Result<Self, TlsError> {
        let set = |key: &Key<_>| config.origin(key.name).is_some();
        let identity = Identity::of_node(config)?;
        let optional = |what, key: &Key<_>| {
            let path = config.get(key);
            if !set(key) && !Path::new(&path).exists() {
                return Ok(None);
            }
            std::fs::read(&path).map(Some).map_err(|source| TlsError::Read { what, path, source })
        };
        Ok(Self {
            identity,
            authorities: optional("the authorities of clients", &keys::PATH_L7R_SSL_CA)?,
            revoked: optional("the list of revoked certificates", &keys::PATH_L7R_SSL_CRL)?,
        })
    }

    /// SHA-256 of the certificate, as clients show it.
    pub fn fingerprint(&self) -> String {
        self.identity.fingerprint()
    }
}

/// What settings are made from; compared, so that only a change of it replaces them.
#[derive(Clone, PartialEq, Eq)]
struct Sources {
    stored: Certificates,
    versions: String,
    ciphers: String,
    required: bool,
}

impl Sources {
    fn new(config: &Config, stored: Certificates) -> Self {
        Self {
            stored,
            versions: config.get(&keys::L7R_SSL_VERSION),
            ciphers: config.get(&keys::L7R_SSL_CIPHERS),
            required: config.get(&keys::L7R_CLIENT_CERT),
        }
    }

    fn identity(&self, own: &Own) -> Result<Identity, TlsError> {
        let missing = |key: &str, other: &str| TlsError::Unusable {
            place: key.to_owned(),
            problem: format!("it is missing, while {other} is there"),
        };
        match (&self.stored.certificate, &self.stored.key) {
            (Some(certificate), Some(key)) => {
                Identity::from_pem((certificate.as_bytes(), "l7r.ssl.cert"), (key.as_bytes(), "l7r.ssl.key"))
            }
            (None, None) => Ok(own.identity.clone()),
            (None, Some(_)) => Err(missing("l7r.ssl.cert", "l7r.ssl.key")),
            (Some(_), None) => Err(missing("l7r.ssl.key", "l7r.ssl.cert")),
        }
    }

    fn clients(&self, own: &Own) -> Result<Option<Clients>, TlsError> {
        let stored = |text: &'_ Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
        let authorities = stored(&self.stored.authorities).or_else(|| own.authorities.clone());
        let revoked = stored(&self.stored.revoked).or_else(|| own.revoked.clone());
        match authorities {
            Some(authorities) => {
                let revoked = revoked.as_deref().map(|pem| (pem, "l7r.ssl.crl"));
                Clients::from_pem((&authorities, "l7r.ssl.ca"), revoked, self.required).map(Some)
            }
            None if self.required => Err(TlsError::Unusable {
                place: "l7r.ssl.ca".to_owned(),
                problem: "it is missing, while l7r.client.cert.require is set".to_owned(),
            }),
            None => Ok(None),
        }
    }
}

/// Keeps a listener's TLS as the database wants it.
pub struct Follower {
    own: Own,
    sources: Sources,
    settings: Settings,
    tls: Tls,
    /// What the administrator has been told.
    problem: Option<String>,
    /// Whether that has arrived.
    told: bool,
}

impl Follower {
    /// The first settings. A stored certificate that cannot be used leaves the node's own.
    ///
    /// # Errors
    /// When clients must show certificates and nothing usable says whose: then nobody may come in.
    pub fn new(own: Own, config: &Config, stored: Certificates) -> Result<Self, TlsError> {
        let sources = Sources::new(config, stored);
        let mut problems = Vec::new();
        let identity = sources.identity(&own).unwrap_or_else(|error| {
            problems.push(error);
            own.identity.clone()
        });
        let clients = match sources.clients(&own) {
            Err(error) if !sources.required => {
                problems.push(error);
                None
            }
            other => other?,
        };
        let settings = Settings { identity, clients, offer: Offer::new(&sources.versions, &sources.ciphers) };
        warn(&settings.offer);
        let tls = Tls::new(&settings)?;
        let tls = if config.get(&keys::L7R_KTLS) { tls.with_kernel() } else { tls };
        let mut follower = Self { own, sources, settings, tls, problem: None, told: true };
        follower.complain(&problems, "the node's own is used");
        Ok(follower)
    }

    /// The listener's side.
    pub fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Takes over what is new. What cannot be used leaves the old in place.
    pub fn follow(&mut self, config: &Config, stored: Certificates) {
        let sources = Sources::new(config, stored);
        if sources == self.sources {
            return;
        }
        let mut problems = Vec::new();
        let mut settings = self.settings.clone();
        match sources.identity(&self.own) {
            Ok(identity) => settings.identity = identity,
            Err(error) => problems.push(error),
        }
        match sources.clients(&self.own) {
            Ok(clients) => settings.clients = clients,
            Err(error) => problems.push(error),
        }
        settings.offer = Offer::new(&sources.versions, &sources.ciphers);
        if settings.offer != self.settings.offer {
            warn(&settings.offer);
        }
        if let Err(error) = self.tls.replace(&settings) {
            problems.push(error);
        } else {
            if settings.identity.fingerprint() != self.settings.identity.fingerprint() {
                tracing::info!(fingerprint = settings.identity.fingerprint(), "another certificate");
            }
            self.settings = settings;
        }
        self.sources = sources;
        self.complain(&problems, "the old one stays");
    }

    fn complain(&mut self, problems: &[TlsError], instead: &str) {
        for problem in problems {
            tracing::error!(error = problem as &dyn std::error::Error, "what TLS needs cannot be used; {instead}");
        }
        let texts: Vec<String> = problems.iter().map(|problem| format!("{problem}; {instead}")).collect();
        let problem = (!texts.is_empty()).then(|| texts.join("\n"));
        if problem != self.problem {
            self.problem = problem;
            self.told = false;
        }
    }

    /// Tells the administrator, unless that is done.
    pub async fn tell(&mut self, database: &Database, instance: InstanceId) {
        if self.told {
            return;
        }
        match database.l7r_problem(instance, self.problem.as_deref()).await {
            Ok(()) => self.told = true,
            Err(error) => tracing::warn!(%error, "cannot tell the administrator"),
        }
    }
}

fn warn(offer: &Offer) {
    for warning in &offer.warnings {
        tracing::warn!("TLS as configured: {warning}");
    }
}
