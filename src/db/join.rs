//! Making a machine a node, as the owner of the schema: its row, its roles, and what it must know to log in.

use std::net::IpAddr;

use postgres_protocol::password::scram_sha_256;
use tokio_postgres::config::{Host, SslMode};

use crate::model::{HostId, StorageId};

use super::{Connector, DbError, servers::Server};

/// A login of a daemon. Never shown.
pub struct Login {
    /// The role.
    pub role: String,
    /// Its password.
    pub password: String,
}

/// What a node was given.
pub struct Joined {
    /// Its number.
    pub host: HostId,
    /// For hkd.
    pub node: Login,
    /// For l7r.
    pub l7r: Login,
}

impl Connector {
    /// The storages that nodes are known to use.
    pub async fn storages(&self) -> Result<Vec<StorageId>, DbError> {
        let rows = self
            .client()
            .await?
            .query("select distinct storage_id::text from qvd.hosts where storage_id is not null", &[])
            .await?;
        let parsed = rows.iter().map(|row| row.get::<_, &str>(0).parse::<StorageId>());
        parsed.collect::<Result<_, _>>().map_err(|error| DbError::Shape(error.to_string()))
    }

    /// Puts a machine on record under that name, with these passwords. `storage` is the one that it shares.
    ///
    /// # Errors
    /// When the name or the address is another's, or a node of that name runs.
    pub async fn node_join(
        &self,
        (name, address): (&str, IpAddr),
        storage: Option<&StorageId>,
        [node, l7r]: [String; 2],
    ) -> Result<Joined, DbError> {
        // The server gets and keeps nothing from which the passwords could be had.
        let [node_verifier, l7r_verifier] = [&node, &l7r].map(|password| scram_sha_256(password.as_bytes()));
        let row = self
            .client()
            .await?
            .query_one(
                "select host, node_role, l7r_role from qvd.node_join($1, $2, $3::text::uuid, $4, $5)",
                &[&name, &address, &storage.map(StorageId::as_str), &node_verifier, &l7r_verifier],
            )
            .await?;
        Ok(Joined {
            host: HostId(row.get(0)),
            node: Login { role: row.get(1), password: node },
            l7r: Login { role: row.get(2), password: l7r },
        })
    }

    /// Takes a stopped node off the record, with its roles.
    pub async fn node_leave(&self, name: &str) -> Result<(), DbError> {
        self.client().await?.execute("select qvd.node_leave($1)", &[&name]).await?;
        Ok(())
    }

    /// Where the database is, as a node's configuration file says it.
    pub fn place(&self) -> Vec<(&'static str, String)> {
        let servers = self.servers().list();
        let port = |server: &Server| server.config.get_ports().first().copied().unwrap_or(5432);
        let first = servers.first().map_or(5432, port);
        let hosts: Vec<String> = servers
            .iter()
            .map(|server| match server.config.get_hosts().first() {
                Some(Host::Tcp(name)) if port(server) != first => format!("{name}:{}", port(server)),
                _ => server.host.clone(),
            })
            .collect();
        let mode = servers.first().map(|server| server.config.get_ssl_mode());
        let tls = match mode {
            Some(SslMode::Disable) => "disable",
            Some(SslMode::Require) => "require",
            _ => "prefer",
        };
        vec![
            ("database.host", hosts.join(", ")),
            ("database.port", first.to_string()),
            (
                "database.name",
                servers.first().and_then(|server| server.config.get_dbname()).unwrap_or("qvd").to_owned(),
            ),
            ("database.sslmode", tls.to_owned()),
        ]
    }
}
