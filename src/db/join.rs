//! Making a machine a node, as the owner of the schema: its row, its roles, and what it must know to log in.

use std::net::{IpAddr, Ipv4Addr};

use postgres_protocol::password::scram_sha_256;
use tokio_postgres::config::{Host, SslMode};

use crate::model::{HostId, StorageId};

use super::{Connector, DbError};

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
        (name, address): (&str, Ipv4Addr),
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
                &[&name, &IpAddr::V4(address), &storage.map(StorageId::as_str), &node_verifier, &l7r_verifier],
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
        let postgres = self.postgres();
        let ports = postgres.get_ports();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        let one_port = (1..ports.len()).all(|at| ports[at] == ports[0]);
        let hosts: Vec<String> = postgres
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(at, host)| match host {
                Host::Tcp(name) if one_port => name.clone(),
                Host::Tcp(name) => format!("{name}:{}", port(at)),
                Host::Unix(directory) => directory.display().to_string(),
            })
            .collect();
        let tls = match postgres.get_ssl_mode() {
            SslMode::Disable => "disable",
            SslMode::Require => "require",
            _ => "prefer",
        };
        vec![
            ("database.host", hosts.join(", ")),
            ("database.port", port(0).to_string()),
            ("database.name", postgres.get_dbname().unwrap_or("qvd").to_owned()),
            ("database.sslmode", tls.to_owned()),
        ]
    }
}
