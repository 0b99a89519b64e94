//! What routers ask about those of other nodes (`sql/functions/62_routed.sql`).

use std::net::{IpAddr, SocketAddr};

use tokio_postgres::Row;

use crate::model::{HostId, InstanceId, SessionId, VmId, VmPorts};

use super::{Database, DbError};

/// A node, and a router of it that takes connections of others, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRouter {
    /// The node.
    pub host: HostId,
    /// Its address.
    pub address: IpAddr,
    /// Its router.
    pub reach: Option<Reach>,
}

/// How a router is reached from other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Which run of it.
    pub instance: InstanceId,
    /// Where it listens, by UDP.
    pub at: SocketAddr,
    /// What it proves to be itself with (SubjectPublicKeyInfo).
    pub key: Vec<u8>,
}

/// What the router of another node may do here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Its node is on record and not blocked, and it has not ended.
    pub admitted: bool,
    /// Where the VM listens, if it runs here.
    pub vm: Option<(IpAddr, VmPorts)>,
}

impl Database {
    /// Says where other nodes find this router, and what it proves to be itself with.
    pub async fn l7r_listens(&self, instance: InstanceId, port: u16, key: &[u8]) -> Result<(), DbError> {
        let connection = self.connection().await?;
        connection.execute("select l7r_listens($1, $2, $3)", &[&instance.0, &i32::from(port), &key]).await?;
        Ok(())
    }

    /// All nodes on record.
    pub async fn l7r_nodes(&self) -> Result<Vec<NodeRouter>, DbError> {
        let connection = self.connection().await?;
        let query = "select node, address, instance, port, public_key from l7r_nodes()";
        Ok(connection.query(query, &[]).await?.iter().filter_map(node_router).collect())
    }

    /// The node of a session's VM; `None` when it has none, or the session has ended.
    pub async fn l7r_road(&self, session: SessionId) -> Result<Option<NodeRouter>, DbError> {
        let connection = self.connection().await?;
        let query = "select node, address, instance, port, public_key from l7r_road($1)";
        let statement = connection.prepare_cached(query).await?;
        Ok(node_router(&connection.query_one(&statement, &[&session.0]).await?))
    }

    /// Whether the router of another node may come to a VM of this one.
    pub async fn l7r_passage(&self, peer: InstanceId, host: HostId, vm: VmId) -> Result<Passage, DbError> {
        let connection = self.connection().await?;
        let query = "select admitted, address, vma_port, x_port from l7r_passage($1, $2, $3)";
        let row = connection.query_one(&connection.prepare_cached(query).await?, &[&peer.0, &host.0, &vm.0]).await?;
        let port = |column| u16::try_from(row.get::<_, Option<i32>>(column)?).ok();
        let vm = || Some((row.get::<_, Option<IpAddr>>(1)?, VmPorts { vma: port(2)?, x: port(3)? }));
        Ok(Passage { admitted: row.get(0), vm: vm() })
    }

    /// The addresses of all nodes.
    pub async fn node_addresses(&self) -> Result<Vec<IpAddr>, DbError> {
        let connection = self.connection().await?;
        Ok(connection.query("select node_addresses()", &[]).await?.iter().map(|row| row.get(0)).collect())
    }
}

fn node_router(row: &Row) -> Option<NodeRouter> {
    let (host, address) = (HostId(row.get::<_, Option<i32>>(0)?), row.get(1));
    let reach = || {
        let port = u16::try_from(row.get::<_, Option<i32>>(3)?).ok()?;
        let instance = InstanceId(row.get::<_, Option<i64>>(2)?);
        Some(Reach { instance, at: SocketAddr::new(address, port), key: row.get::<_, Option<Vec<u8>>>(4)? })
    };
    Some(NodeRouter { host, address, reach: reach() })
}
