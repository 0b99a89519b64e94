//! How a connection is made: servers, role, TLS, time limits, keep-alive. Finding the writable server is the business of
//! `servers`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio_postgres::{
    Client,
    config::{Host, SslMode},
};

use crate::model::config::{Config, keys};

use super::{
    DbError,
    servers::{Server, Servers},
    tls::{self, Verify},
};

/// Who the connection speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// hkd: `qvd_node`.
    Node,
    /// l7r: `qvd_l7r`.
    L7r,
    /// The web tool: `qvd_wat`.
    Wat,
    /// Administrators at the node's command line: `qvd_admin`.
    Admin,
    /// Who makes the schema: `postgres`.
    Owner,
}

/// Everything needed to connect, as often as wanted. What one clone learns of the servers all know.
#[derive(Clone)]
pub struct Connector {
    servers: Arc<Servers>,
    statement_limit: Duration,
}

/// For tools, whose statements may take their time.
const TOOL: Limits = Limits {
    connect: Duration::from_secs(20),
    statement: Duration::from_secs(600),
    lock: Duration::from_secs(60),
    idle_in_transaction: Duration::from_secs(600),
    silence: Duration::from_secs(30),
};

/// How long things may take.
struct Limits {
    connect: Duration,
    statement: Duration,
    lock: Duration,
    idle_in_transaction: Duration,
    /// A server that confirms nothing for so long is gone.
    silence: Duration,
}

impl Connector {
    /// From a node's configuration.
    pub fn from_config(config: &Config, role: Role) -> Result<Self, DbError> {
        let mut postgres = tokio_postgres::Config::new();
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
            Role::Wat => (
                config.get(&keys::DATABASE_WAT_USER),
                config.get(&keys::DATABASE_WAT_PASSWORD),
                "qvd_wat",
                "qvd wat".to_owned(),
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
        let (mode, verify) = tls::mode(&config.get(&keys::DATABASE_SSLMODE))?;
        postgres.ssl_mode(mode);
        let roots = Some(config.get(&keys::DATABASE_SSLROOTCERT)).filter(|file| !file.is_empty()).map(PathBuf::from);
        let tls = tls::connect(verify, roots.as_deref())?;
        let limits = match role {
            Role::Owner => TOOL,
            _ => Limits {
                connect: config.get(&keys::DATABASE_CONNECT_TIMEOUT),
                statement: config.get(&keys::DATABASE_STATEMENT_TIMEOUT),
                lock: config.get(&keys::DATABASE_LOCK_TIMEOUT),
                idle_in_transaction: config.get(&keys::DATABASE_IDLE_TIMEOUT),
                silence: config.get(&keys::DATABASE_SILENCE),
            },
        };
        let port = config.get(&keys::DATABASE_PORT);
        let servers = config.get(&keys::DATABASE_HOST).into_iter().map(|name| {
            let (host, port) = address(&name, port)?;
            let mut config = postgres.clone();
            config.host(&host).port(port);
            Ok::<_, DbError>(limits.of(host, config, ""))
        });
        let wary = matches!(role, Role::Node | Role::L7r);
        let servers = Servers::new(servers.collect::<Result<_, _>>()?, tls, limits.connect, wary);
        Ok(Self { servers: Arc::new(servers), statement_limit: limits.statement })
    }

    /// From a connection string or URL, for tools. It may name several servers; the writable one is used.
    pub fn from_url(url: &str, name: &str) -> Result<Self, DbError> {
        let url: tokio_postgres::Config = url.parse().map_err(|error: tokio_postgres::Error| {
            DbError::Setup(format!("{error}; write host=… dbname=… user=… or postgresql://…"))
        })?;
        let servers = url.get_hosts().iter().enumerate().map(|(n, host)| {
            let mut config = tokio_postgres::Config::new();
            config.application_name(name).ssl_mode(url.get_ssl_mode());
            if let Some(user) = url.get_user() {
                config.user(user);
            }
            if let Some(password) = url.get_password() {
                config.password(password);
            }
            if let Some(name) = url.get_dbname() {
                config.dbname(name);
            }
            let port = url.get_ports().get(n).or(url.get_ports().first()).copied().unwrap_or(5432);
            let host = match host {
                Host::Tcp(host) => host.clone(),
                Host::Unix(path) => path.display().to_string(),
            };
            config.host(&host).port(port);
            TOOL.of(host, config, url.get_options().unwrap_or_default())
        });
        let verify = if url.get_ssl_mode() == SslMode::Require { Verify::Name } else { Verify::Nothing };
        let servers = Servers::new(servers.collect(), tls::connect(verify, None)?, TOOL.connect, false);
        Ok(Self { servers: Arc::new(servers), statement_limit: TOOL.statement })
    }

    pub(super) fn servers(&self) -> &Arc<Servers> {
        &self.servers
    }

    /// The server cancels what takes longer; when it does not even that, it is not waited for.
    pub(super) fn statement_limit(&self) -> Duration {
        self.statement_limit
    }

    pub(super) async fn client(&self) -> Result<Client, DbError> {
        Ok(self.servers.open(None).await?.into_client())
    }
}

impl Limits {
    /// A server with these limits. It notices a machine that vanished as we notice the server: it would keep its connections
    /// for two hours, and run out of them when machines do so again and again. `options` come last, so they win.
    fn of(&self, host: String, mut plain: tokio_postgres::Config, options: &str) -> Server {
        let third = self.silence / 3;
        plain
            .connect_timeout(self.connect)
            .keepalives_idle(third)
            .keepalives_interval(third)
            .keepalives_retries(2)
            .tcp_user_timeout(self.silence);
        let mut config = plain.clone();
        config.options(format!(
            "-c timezone=UTC -c default_transaction_isolation=read\\ committed -c statement_timeout={} -c lock_timeout={} \
             -c idle_in_transaction_session_timeout={} -c tcp_keepalives_idle={third} -c tcp_keepalives_interval={third} \
             -c tcp_keepalives_count=2 -c tcp_user_timeout={} {options}",
            self.statement.as_millis(),
            self.lock.as_millis(),
            self.idle_in_transaction.as_millis(),
            self.silence.as_millis(),
            third = third.as_secs().max(1),
        ));
        Server { host, config, plain }
    }
}

/// `host`, `host:port`, `[address]:port`, a bare address of either kind, or the directory of a socket.
fn address(text: &str, default: u16) -> Result<(String, u16), DbError> {
    let bad = || DbError::Setup(format!("database.host: {text} is neither host, host:port nor [address]:port"));
    if text.starts_with('/') {
        return Ok((text.to_owned(), default));
    }
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']').ok_or_else(bad)).transpose()? {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(bad)?)),
        None => match text.split_once(':') {
            Some((_, more)) if more.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(bad());
    }
    let port = port.map_or(Ok(default), |port| port.parse().map_err(|_| bad()))?;
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_name_its_port() {
        for (text, host, port) in [
            ("db1", "db1", 5432),
            ("db1:6000", "db1", 6000),
            ("10.0.0.1:6000", "10.0.0.1", 6000),
            ("fd00::1", "fd00::1", 5432),
            ("[fd00::1]", "fd00::1", 5432),
            ("[fd00::1]:6000", "fd00::1", 6000),
            ("/run/postgresql", "/run/postgresql", 5432),
        ] {
            assert_eq!(address(text, 5432).unwrap(), (host.to_owned(), port), "{text}");
        }
        for text in ["db1:", "db1:x", ":5432", "[fd00::1", "[fd00::1]5432", "db1:70000"] {
            assert!(address(text, 5432).unwrap_err().to_string().contains(text), "{text}");
        }
    }
}
