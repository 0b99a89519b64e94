//! The routers of other nodes, where every node has a VM network of its own: what leads to a VM of theirs (`road`), and what of
//! theirs comes to a VM here (`serve`). Between two routers there is one QUIC connection in each direction in which somebody
//! wants to go, with a stream for each TCP connection to a VM.
//! Who is known, the database says (`known`); nothing here is told to clients.

mod header;
mod identity;
mod known;
mod road;
mod serve;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, UdpSocket},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn::{Connection, Endpoint, ServerConfig, TokioRuntime, TransportConfig};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    db::{Database, DbError, Reach, Started},
    model::{HostId, InstanceId, config::Config, node_ports},
    tunnel::{SharedStream, udp},
};

use super::quic::{Secret, congestion};
use header::CONNECTED;
pub use header::{Header, Refusal};
pub use identity::{Identity, IdentityError};
use known::Known;

pub(super) use road::{Road, ToAgent, direct};
pub(super) use serve::serve;

/// Whoever is not heard for so long is gone.
const IDLE: Duration = Duration::from_secs(10);
/// How often a sign of life is sent where nothing else is.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Why a router cannot talk to those of other nodes.
#[derive(Debug, Error)]
pub enum NodesError {
    /// No socket is to be had.
    #[error("the UDP port for other nodes cannot be used")]
    Socket(#[from] io::Error),
    /// All ports are taken.
    #[error("none of the UDP ports {first} to {last} for other nodes is free; set l7r.node.port")]
    Ports {
        /// The first that was tried.
        first: u16,
        /// The last.
        last: u16,
    },
    /// There is no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database does not let it.
    #[error("the database does not let this router be known to other nodes")]
    Db(#[from] DbError),
}

/// What is made while there are rights to do so. Whether it is needed, the database may know better.
pub struct Sockets {
    listening: UdpSocket,
    calling: UdpSocket,
    secret: Secret,
}

impl Sockets {
    /// Two sockets with large buffers, and what lets this router tell the peers of the one before that it is gone.
    pub fn prepare(directory: &Path) -> io::Result<Self> {
        let kept = fs::create_dir_all(directory).and_then(|()| Secret::load_or_generate(directory));
        // Without it others notice a restart only by silence.
        let secret = kept.unwrap_or_else(|_| Secret::random());
        Ok(Self { listening: udp::unbound()?, calling: udp::unbound()?, secret })
    }
}

/// This router among those of other nodes.
pub struct Nodes {
    database: Database,
    host: HostId,
    identity: Identity,
    known: Arc<Known>,
    port: u16,
    listening: Endpoint,
    calling: Endpoint,
    transport: Arc<TransportConfig>,
    /// The connections that were made from here. While one is made, others who want it wait.
    links: Mutex<HashMap<InstanceId, Link>>,
}

type Link = Arc<tokio::sync::Mutex<Option<Connection>>>;

/// Why a stream to another node did not come about.
#[derive(Debug)]
enum Failure {
    /// The other node does not want it, or cannot.
    Refused(Refusal),
    /// The other node was not reached.
    Lost(io::Error),
}

impl Nodes {
    /// Listens, makes a key, and tells the database of both; `None` where all nodes share the VM network.
    pub async fn open(
        sockets: Sockets,
        config: &Config,
        database: &Database,
        started: &Started,
    ) -> Result<Option<Arc<Self>>, NodesError> {
        let Some(ports) = node_ports(config) else { return Ok(None) };
        let Sockets { listening, calling, secret } = sockets;
        let (first, last) = (*ports.start(), *ports.end());
        let taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        let mut port = first;
        while let Err(error) = udp::bind_to(&listening, None, port) {
            match port {
                _ if !taken(&error) => return Err(error.into()),
                port if port == last => return Err(NodesError::Ports { first, last }),
                _ => port += 1,
            }
        }
        // Others let this node in by its address.
        if let Err(error) = udp::bind_to(&calling, Some(started.address), 0) {
            tracing::warn!(address = %started.address, %error, "the node does not have its address; others may not let it in");
            udp::bind_to(&calling, None, 0)?;
        }
        let identity = Identity::generate()?;
        let known = Arc::<Known>::default();
        let transport = Arc::new(udp::shared_transport(congestion(config), IDLE, KEEP_ALIVE));
        let server = identity.server(known.clone(), transport.clone())?;
        let endpoint = |socket: UdpSocket, server: Option<ServerConfig>| {
            let (socket, facilities) = udp::adopt(socket)?;
            if facilities.poor() {
                tracing::warn!(%facilities, "UDP buffers are small, other nodes will be slow; raise net.core.rmem_max and wmem_max");
            }
            let runtime = Arc::new(TokioRuntime);
            Endpoint::new_with_abstract_socket(secret.endpoint_config(), server, socket, runtime)
        };
        let nodes = Self {
            database: database.clone(),
            host: started.host,
            known,
            port,
            listening: endpoint(listening, Some(server))?,
            calling: endpoint(calling, None)?,
            identity,
            transport,
            links: Mutex::default(),
        };
        nodes.publish(started.instance).await?;
        nodes.learn().await?;
        tracing::info!(host = %nodes.host, port, "other nodes reach VMs of this one");
        Ok(Some(Arc::new(nodes)))
    }

    /// Tells the database how this router is found and known.
    pub async fn publish(&self, instance: InstanceId) -> Result<(), DbError> {
        self.database.l7r_listens(instance, self.port, &self.identity.public()).await
    }

    /// Asks the database who the others are.
    async fn learn(&self) -> Result<(), DbError> {
        let nodes = self.database.l7r_nodes().await?;
        self.known.learn(&nodes);
        let there = |instance: &InstanceId| {
            nodes.iter().filter_map(|node| node.reach.as_ref()).any(|reach| reach.instance == *instance)
        };
        // Whoever uses one that is not needed any more has it besides.
        self.links().retain(|instance, _| there(instance));
        Ok(())
    }

    /// A stream to a VM of another node, by the router that is found so.
    async fn open_stream(&self, reach: &Reach, header: Header) -> Result<SharedStream, Failure> {
        let connection = self.link(reach).await.map_err(Failure::Lost)?;
        let streams = connection.open_bi().await.map_err(|lost| Failure::Lost(lost.into()))?;
        let mut stream = SharedStream::new(connection, streams);
        let exchange = async {
            stream.write_all(&header.to_bytes()).await?;
            stream.read_u8().await
        };
        match exchange.await {
            Ok(CONNECTED) => Ok(stream),
            Ok(code) => Err(Failure::Refused(Refusal::of(code))),
            Err(error) => Err(Failure::Lost(error)),
        }
    }

    /// The connection to a router, made when there is none.
    async fn link(&self, reach: &Reach) -> io::Result<Connection> {
        let link = self.links().entry(reach.instance).or_default().clone();
        let mut link = link.lock().await;
        if let Some(connection) = link.as_ref().filter(|connection| connection.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        let config = self.identity.client(reach.key.clone(), self.transport.clone()).map_err(io::Error::other)?;
        let connecting = self.calling.connect_with(config, reach.at, "node").map_err(io::Error::other)?;
        let connection = connecting.await?;
        tracing::info!(router = %reach.instance, at = %reach.at, "connected to the router of another node");
        *link = Some(connection.clone());
        Ok(connection)
    }

    fn links(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether packets from there are looked at at all.
    fn expects(&self, address: IpAddr) -> bool {
        self.known.has_address(address)
    }

    /// Ends all connections and waits until the others know.
    pub async fn close(&self) {
        for endpoint in [&self.listening, &self.calling] {
            endpoint.close(0u32.into(), b"the router was stopped");
        }
        tokio::join!(self.listening.wait_idle(), self.calling.wait_idle());
    }
}
