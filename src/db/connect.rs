//! How a connection is made: servers, role, TLS, time limits, keep-alive.

use std::{sync::Arc, time::Duration};

use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::model::config::{Config, keys};

use super::DbError;

/// Who the connection speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// hkd: `qvd_node`.
    Node,
    /// l7r: `qvd_l7r`.
    L7r,
    /// Administrators at the node's command line: `qvd_admin`.
    Admin,
    /// Who makes the schema: `postgres`.
    Owner,
}

/// Everything needed to connect, as often as wanted.
#[derive(Clone)]
pub struct Connector {
    postgres: tokio_postgres::Config,
    connect_timeout: Duration,
}

impl Connector {
    /// From a node's configuration.
    pub fn from_config(config: &Config, role: Role) -> Result<Self, DbError> {
        let mut postgres = tokio_postgres::Config::new();
        for host in config.get(&keys::DATABASE_HOST) {
            postgres.host(host);
            postgres.port(config.get(&keys::DATABASE_PORT));
        }
        let (user, password, default, name) = match role {
            Role::Node => (
                config.get(&keys::DATABASE_USER),
                config.get(&keys::DATABASE_PASSWORD),
                "qvd_node",
                format!("qvd hkd {}", config.get(&keys::NODENAME)),
            ),
            Role::L7r => (
                config.get(&keys::DATABASE_L7R_USER),
                config.get(&keys::DATABASE_L7R_PASSWORD),
                "qvd_l7r",
                format!("qvd l7r {}", config.get(&keys::NODENAME)),
            ),
            // Not daemons, so the file holds no password of theirs: the server must trust the socket's peer.
            Role::Admin => (String::new(), String::new(), "qvd_admin", "qvd admin".to_owned()),
            Role::Owner => (String::new(), String::new(), "postgres", "qvd db".to_owned()),
        };
        postgres.user(if user.is_empty() { default } else { &user });
        if !password.is_empty() {
            postgres.password(password);
        }
        postgres.dbname(config.get(&keys::DATABASE_NAME)).application_name(name);
        postgres.ssl_mode(match config.get(&keys::DATABASE_SSLMODE).as_str() {
            "disable" => SslMode::Disable,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            other => return Err(DbError::Setup(format!("database.sslmode = {other}: disable, prefer or require"))),
        });
        let statement = config.get(&keys::DATABASE_STATEMENT_TIMEOUT);
        Ok(Self::new(postgres, config.get(&keys::DATABASE_CONNECT_TIMEOUT), statement))
    }

    /// From a connection string or URL, for tools. It may name several servers; the writable one is used.
    pub fn from_url(url: &str, name: &str) -> Result<Self, DbError> {
        let mut postgres: tokio_postgres::Config = url.parse().map_err(|error: tokio_postgres::Error| {
            DbError::Setup(format!("{error}; write host=… dbname=… user=… or postgresql://…"))
        })?;
        postgres.application_name(name);
        Ok(Self::new(postgres, Duration::from_secs(20), Duration::from_secs(600)))
    }

    fn new(mut postgres: tokio_postgres::Config, connect_timeout: Duration, statement: Duration) -> Self {
        postgres
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(connect_timeout)
            .options(format!("-c timezone=UTC -c statement_timeout={}", statement.as_millis()))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(30));
        Self { postgres, connect_timeout }
    }

    pub(super) fn postgres(&self) -> tokio_postgres::Config {
        self.postgres.clone()
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// TLS as the server's certificate deserves: verified against the system's authorities.
    pub(super) fn tls(&self) -> Result<MakeRustlsConnect, DbError> {
        let mut roots = rustls::RootCertStore::empty();
        if self.postgres.get_ssl_mode() != SslMode::Disable {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| DbError::Setup(error.to_string()))?
                .with_root_certificates(roots)
                .with_no_client_auth();
        Ok(MakeRustlsConnect::new(config))
    }
}
