//! Several nodes on one machine: each has a network of its own with the processes of a real node and real containers. A
//! bridge joins them, a database listens on it, and one directory is the storage that they share. For tests and benchmarks
//! of what happens when a node dies, freezes or is cut off.
//!
//! What it starts ends when this value is dropped, desktops as well. What a directory cannot model of a network file
//! system (caches, stale handles, lost locks) is not modelled.

mod echo;
mod failover;
mod namespace;
mod node;
mod witness;

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
};

use crate::{
    db::{Connector, DbError},
    hypervisor::{Container, Hypervisor},
    model::{VmId, config::NetworkMode},
    network::Family,
};

use self::{echo::pack, namespace::Bridge};
pub use self::{
    echo::{ECHO_IMAGE, Tunnel},
    failover::Outage,
    node::Node,
    witness::{Life, Sighting, Witness},
};
use super::{
    postgres::{Access, Cluster, ClusterOptions, Durability},
    site::{SiteError, wait_until},
};

const DATABASE: &str = "qvd";
/// The last number of the database's address; nodes have the first ones, VMs those from 100 on.
const DATABASE_HOST: u8 = 99;
const FIRST_VM: u8 = 100;
/// Where users connect, on each node's address.
pub const PORT: u16 = 8443;

/// What the nodes are made of.
#[derive(Clone, Debug)]
pub struct HostsOptions {
    /// Holds everything.
    pub directory: PathBuf,
    /// The `qvd` program that runs the nodes; `qvd-vma` and `qvd-keeper` lie beside it.
    pub program: PathBuf,
    /// Names of nodes, bridge and namespaces begin so. Up to four letters and digits, differing between those that exist at
    /// the same time.
    pub name: String,
    /// The network of nodes and VMs is 10.x.y.0/24, or fd00:x:y::/64 in hexadecimal numbers.
    pub network: (u8, u8),
    /// Of which protocol that is. There is none of the other.
    pub family: Family,
    /// Whether they share the VM network. Where they do not, VMs have theirs with x-100 in place of x.
    pub mode: NetworkMode,
    /// How many nodes.
    pub count: u8,
    /// Whether commits survive a power cut.
    pub durability: Durability,
    /// Further lines for the nodes' configuration.
    pub settings: Vec<(String, String)>,
}

impl HostsOptions {
    /// An address in the network of nodes.
    fn address(&self, last: u8) -> IpAddr {
        self.within(self.network, last)
    }

    fn database(&self) -> IpAddr {
        self.address(DATABASE_HOST)
    }

    fn first_vm(&self) -> IpAddr {
        let (x, y) = self.network;
        match self.mode {
            NetworkMode::Flat => self.within((x, y), FIRST_VM),
            NetworkMode::Routed => self.within((x - 100, y), FIRST_VM),
        }
    }

    fn within(&self, (x, y): (u8, u8), last: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, x, y, last).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, x.into(), y.into(), 0, 0, 0, 0, last.into()).into(),
        }
    }

    /// Length of both networks' prefixes.
    fn prefix(&self) -> u8 {
        match self.family {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }
}

/// Nodes, their database and their storage.
pub struct Hosts {
    options: HostsOptions,
    nodes: Vec<Node>,
    cluster: Cluster,
    // Last: what is plugged in goes first.
    _bridge: Bridge,
}

impl Hosts {
    /// Makes the network and the database, and starts the nodes.
    pub async fn open(options: HostsOptions) -> Result<Self, SiteError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SiteError::File { path, source }
        };
        let directory = &options.directory;
        fs::create_dir_all(directory)
            .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o755)))
            .map_err(failed(directory))?;
        let bridge = Bridge::make(&options.name, options.database(), options.prefix()).map_err(SiteError::Node)?;
        let cluster = Cluster::open(ClusterOptions {
            data_dir: directory.join("database"),
            socket_dir: directory.join("socket"),
            durability: options.durability,
            access: Access::Network,
            settings: vec![format!("listen_addresses={}", options.database())],
        })
        .await?;
        cluster.create_database(DATABASE).await?;
        let mut hosts = Self { nodes: Vec::new(), cluster, _bridge: bridge, options };
        let admin = hosts.connector("postgres")?;
        admin.migrate().await?;
        let image = hosts.storage("images").join(ECHO_IMAGE);
        pack(&image).map_err(failed(&image))?;
        for number in 1..=hosts.options.count {
            let node = Node::make(&hosts.options, number, hosts._bridge.name());
            hosts.nodes.push(node.map_err(SiteError::Node)?);
        }
        for node in &hosts.nodes {
            admin.settle_node(node.name(), node.address(), hosts.options.first_vm()).await?;
            node.start().map_err(SiteError::Node)?;
        }
        for node in &hosts.nodes {
            hosts.wait_node(node).await?;
        }
        Ok(hosts)
    }

    /// Makes desktops of users `u1`, `u2` and so on, which answer with what they are sent. Returns their ids.
    pub async fn desktops(&self, count: usize) -> Result<Vec<VmId>, SiteError> {
        let admin = self.connector("postgres")?;
        admin.value(&format!("select osf_create('echo', 64, 1), di_create('echo', '{ECHO_IMAGE}')")).await?;
        let mut vms = Vec::with_capacity(count);
        for number in 1..=count {
            admin.value(&format!("select user_create('u{number}')")).await?;
            let id = admin.value(&format!("select vm_create('u{number}', 'd', 'echo')")).await?;
            let token = self.token(number);
            let give = format!("select l7r_token_create(user_id('u{number}'), '{token}', '{{}}', null)");
            admin.value(&give).await?;
            vms.push(VmId(id.and_then(|id| id.parse().ok()).unwrap_or_default()));
        }
        Ok(vms)
    }

    /// What user number `number` shows in place of a password.
    pub fn token(&self, number: usize) -> String {
        format!("{number:0>60}")
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The database.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A directory of the storage.
    pub fn storage(&self, name: &str) -> PathBuf {
        self.options.directory.join("storage").join(name)
    }

    /// How to connect to the database with a role.
    pub fn connector(&self, role: &str) -> Result<Connector, DbError> {
        Connector::from_url(&self.cluster.connection_string(DATABASE, role), "qvd hosts")
    }

    /// Runs statements as the owner of the schema; the first value of the first row, if there is one.
    pub async fn sql(&self, statements: &str) -> Result<Option<String>, DbError> {
        self.connector("postgres")?.value(statements).await
    }

    /// Waits until a query gives this value.
    pub async fn wait_for(&self, otherwise: &str, query: &str, wanted: &str) -> Result<(), SiteError> {
        wait_until(otherwise, wanted, async || Ok(self.sql(query).await?.unwrap_or_default())).await
    }

    /// Waits until a node takes VMs and users.
    pub async fn wait_node(&self, node: &Node) -> Result<(), SiteError> {
        let query = format!(
            "select r.state || case when exists (select from l7r_instances i where i.host_id = h.id and i.ended_at is null)
                then ', with a router' else '' end
             from hosts h join host_runtimes r on r.host_id = h.id where h.name = '{}'",
            node.name()
        );
        self.wait_for(&format!("node {} did not start", node.name()), &query, "running, with a router").await?;
        wait_until(&format!("the router of {} did not listen", node.name()), "it does", async || {
            let reached = tokio::net::TcpStream::connect((node.address(), PORT)).await;
            Ok(reached.map_or_else(|error| error.to_string(), |_| "it does".to_owned()))
        })
        .await
    }

    /// Begins to watch what really lives where.
    pub async fn witness(&self) -> Result<Witness, SiteError> {
        let mut ids = Vec::new();
        for node in &self.nodes {
            let id = self.sql(&format!("select id from hosts where name = '{}'", node.name())).await?;
            ids.push((node.name().to_owned(), id.and_then(|id| id.parse().ok()).unwrap_or_default()));
        }
        Witness::begin(ids, self.storage("homefs")).map_err(SiteError::Node)
    }

    async fn take_away(&self) -> io::Result<()> {
        for node in &self.nodes {
            node.freeze(false);
            node.kill_all();
            let config = node.config().map_err(io::Error::other)?;
            let containers = Container::new(&config, node.name(), node.address()).map_err(io::Error::other)?;
            // The machine is asked, not the database, because a test may have failed with anything in it.
            for found in containers.found().await.map_err(io::Error::other)? {
                containers.clean(found.vm).await.map_err(io::Error::other)?;
            }
        }
        self.cluster.stop().await;
        Ok(())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let taken_away = thread::scope(|scope| {
            let work = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.take_away())
            };
            scope.spawn(work).join()
        });
        match taken_away {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "nodes could not be taken away"),
            Err(_) => tracing::error!("nodes could not be taken away"),
        }
    }
}
