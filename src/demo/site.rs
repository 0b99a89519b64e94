//! A whole installation on one machine: a private database, the configuration of one node, and the node itself.
//! The demo, the tests and the benchmarks stand on it. What it starts ends when this process ends; the desktops do
//! not, as on any node, so whoever is done says `close`, which stops them on purpose and takes the node's bridge and
//! packet filter away again.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use thiserror::Error;

use crate::{
    db::{Connector, DbError, MigrateError},
    hypervisor::{Container, Hypervisor, HypervisorError, Kvm},
    model::{
        HostState,
        config::{Config, ConfigError, keys},
    },
};

use super::{
    attached::{Account, Attached, attached_command},
    postgres::{Access, Cluster, ClusterError, ClusterOptions, Durability},
};

/// Name of the database inside the private cluster.
const DATABASE: &str = "qvd";
/// For conditions that come about by themselves when nothing is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an installation is made of.
#[derive(Clone, Debug)]
pub struct SiteOptions {
    /// Holds everything: database, configuration, storage, run files. Reused when it exists.
    pub directory: PathBuf,
    /// The `qvd` program that runs the node; `qvd-vma` and `qvd-keeper` lie beside it.
    pub program: PathBuf,
    /// Name of the node. Bridge and interfaces are named after it, so it is short and differs between sites.
    pub node: String,
    /// The VM network is 10.x.y.0/24, unless settings name another; the node is its 1, VMs have addresses from 100 on.
    pub network: (u8, u8),
    /// `lxc`, `kvm` or `nothing`.
    pub hypervisor: &'static str,
    /// Whether commits survive a power cut.
    pub durability: Durability,
    /// The port for users; `None` for any free one.
    pub port: Option<u16>,
    /// Further lines for the node's configuration.
    pub settings: Vec<(String, String)>,
}

/// Why an installation does not come about, or does not do what it was asked.
#[derive(Debug, Error)]
pub enum SiteError {
    /// The database does not run.
    #[error("the private database does not run")]
    Cluster(#[from] ClusterError),
    /// The schema cannot be made.
    #[error("the schema of the private database cannot be made")]
    Migrate(#[from] MigrateError),
    /// The database refused.
    #[error("the private database refused")]
    Db(#[from] DbError),
    /// A file of ours cannot be written.
    #[error("cannot write {path}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node cannot be started.
    #[error("the node cannot be started")]
    Node(#[source] io::Error),
    /// The configuration we wrote is not one.
    #[error("the configuration of the node cannot be used")]
    Config(#[from] ConfigError),
    /// What the node made cannot be taken away.
    #[error("the node's network cannot be taken away")]
    Hypervisor(#[from] HypervisorError),
    /// Something did not come about.
    #[error("{what} within {seconds} s{}", .last.as_deref().map(|last| format!("; it is: {last}")).unwrap_or_default())]
    Patience {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// What was seen last.
        last: Option<String>,
    },
}

/// An installation.
pub struct Site {
    options: SiteOptions,
    cluster: Cluster,
    port: u16,
    node: Mutex<Option<Attached>>,
}

impl Site {
    /// Makes the database and the configuration, or takes those that are there.
    pub async fn open(options: SiteOptions) -> Result<Self, SiteError> {
        // The router, which has no rights, must reach the sockets.
        make_directory(&options.directory)?;
        let cluster = Cluster::open(ClusterOptions {
            data_dir: options.directory.join("database"),
            socket_dir: options.directory.join("socket"),
            durability: options.durability,
            access: Access::Peer,
            settings: Vec::new(),
        })
        .await?;
        cluster.create_database(DATABASE).await?;
        let port = match options.port {
            Some(port) => port,
            None => free_port().map_err(SiteError::Node)?,
        };
        let site = Self { options, cluster, port, node: Mutex::new(None) };
        site.connector("postgres")?.migrate().await?;
        site.write_configuration()?;
        let first_vm = site.config()?.get(&keys::VM_IP_START);
        let admin = site.connector("postgres")?;
        admin.settle_node(&site.options.node, site.host_address()?, first_vm).await?;
        Ok(site)
    }

    /// The private cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Where users connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the node in the VM network.
    pub fn host_address(&self) -> Result<IpAddr, SiteError> {
        Ok(match self.config()?.get(&keys::VM_IP_START) {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() & !0xff | 1).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() & !0xffff | 1).into(),
        })
    }

    /// Where files of disk images belong.
    pub fn images(&self) -> PathBuf {
        self.options.directory.join("storage/images")
    }

    /// Sockets and state of the node; in its directory unless the settings name another.
    pub fn run_directory(&self) -> PathBuf {
        let named = self.options.settings.iter().find(|(key, _)| key == "path.run");
        named.map_or_else(|| self.options.directory.join("run"), |(_, path)| path.into())
    }

    /// The node's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.options.directory.join("node.conf")
    }

    /// What the processes of the node said.
    pub fn log(&self) -> PathBuf {
        self.options.directory.join("node.log")
    }

    /// The node's bridge.
    pub fn bridge(&self) -> String {
        format!("qvd{}", self.options.node)
    }

    /// The node's configuration.
    pub fn config(&self) -> Result<Config, SiteError> {
        let file = self.config_file();
        let text = fs::read_to_string(&file).map_err(|source| SiteError::File { path: file.clone(), source })?;
        let mut config = Config::default();
        config.add_file(&file.display().to_string(), &text)?;
        Ok(config)
    }

    /// What the node runs VMs with, for whoever asks the machine and not the database; `None`: they are simulated.
    pub fn hypervisor(&self) -> Result<Option<Box<dyn Hypervisor>>, SiteError> {
        let config = self.config()?;
        Ok(match self.options.hypervisor {
            "lxc" => Some(Box::new(Container::new(&config, &self.options.node, self.host_address()?)?)),
            "kvm" => Some(Box::new(Kvm::new(&config, self.host_address()?)?)),
            _ => None,
        })
    }

    /// The certificate that the router made for itself.
    pub fn certificate(&self) -> PathBuf {
        self.options.directory.join("l7r/cert.pem")
    }

    /// How to connect to the database with a role.
    pub fn connection_string(&self, role: &str) -> String {
        self.cluster.connection_string(DATABASE, role)
    }

    /// The same, ready to use.
    pub fn connector(&self, role: &str) -> Result<Connector, DbError> {
        Connector::from_url(&self.connection_string(role), "qvd site")
    }

    /// Runs statements as the owner of the schema; the first value of the first row, if there is one.
    pub async fn sql(&self, statements: &str) -> Result<Option<String>, DbError> {
        self.connector("postgres")?.value(statements).await
    }

    /// Puts a file among the disk images, without copying where that is possible.
    pub fn add_image(&self, file: &Path, name: &str) -> Result<(), SiteError> {
        let target = self.images().join(name);
        let fail = |source| SiteError::File { path: target.clone(), source };
        fs::create_dir_all(self.images()).map_err(fail)?;
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        fs::hard_link(file, &target).or_else(|_| fs::copy(file, &target).map(drop)).map_err(fail)
    }

    /// Starts the processes of the node and waits until it takes VMs and users.
    pub async fn start_node(&self) -> Result<(), SiteError> {
        let account = Account::own().map_err(SiteError::Node)?;
        let log = fs::File::options().create(true).append(true).open(self.log()).map_err(SiteError::Node)?;
        let mut command = attached_command(&self.options.program, &account, Signal::SIGTERM);
        command.arg("node").arg("--config").arg(self.config_file());
        command.env("QVD_LOG", std::env::var("QVD_NODE_LOG").unwrap_or_else(|_| "info".to_owned()));
        command.stdin(std::process::Stdio::null());
        command.stdout(log.try_clone().map_err(SiteError::Node)?).stderr(log);
        let node = Attached::start(command, Signal::SIGTERM).map_err(SiteError::Node)?;
        *self.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(node);
        self.wait_node().await
    }

    /// Waits until the node takes VMs and users.
    pub async fn wait_node(&self) -> Result<(), SiteError> {
        let (admin, node) = (self.connector("postgres")?, &self.options.node);
        wait_until("the node did not start", "running, with a router", async || {
            Ok(match admin.node_readiness(node).await? {
                Some((HostState::Running, true)) => "running, with a router".to_owned(),
                Some((state, _)) => state.to_string(),
                None => "not on record".to_owned(),
            })
        })
        .await?;
        let began = Instant::now();
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            if began.elapsed() > PATIENCE {
                return Err(SiteError::Patience {
                    what: "the router did not listen".to_owned(),
                    seconds: PATIENCE.as_secs(),
                    last: None,
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Ends the processes of the node; its desktops go on.
    pub async fn stop_node(&self) {
        let node = self.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(node) = node {
            node.signal(Signal::SIGTERM);
            node.exited().await;
        }
    }

    /// Waits until the processes of the node have ended by themselves.
    pub async fn node_ended(&self) {
        let node = self.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(node) = node {
            node.exited().await;
        }
    }

    /// Waits until a query gives this value.
    pub async fn wait_for(&self, otherwise: &str, query: &str, wanted: &str) -> Result<(), SiteError> {
        wait_until(otherwise, wanted, async || Ok(self.sql(query).await?.unwrap_or_default())).await
    }

    /// Waits until the VM `login/name` is in a state.
    pub async fn wait_vm(&self, vm: &str, state: &str) -> Result<(), SiteError> {
        let admin = self.connector("postgres")?;
        let otherwise = format!("{vm} did not become {state}");
        wait_until(&otherwise, state, async || Ok(admin.vm_state(vm).await?.to_string())).await
    }

    /// Stops every VM and waits for it.
    pub async fn stop_vms(&self) -> Result<(), SiteError> {
        let admin = self.connector("postgres")?;
        admin.stop_vms().await?;
        wait_until("VMs did not stop", "0", async || Ok(admin.vms_up().await?.to_string())).await
    }

    /// Stops VMs, node and database, and takes the node's bridge and packet filter away. Files stay.
    pub async fn close(self) -> Result<(), SiteError> {
        let stopped = self.stop_vms().await;
        self.stop_node().await;
        if let Some(hypervisor) = self.hypervisor()? {
            hypervisor.release_node().await?;
        }
        self.cluster.stop().await;
        stopped
    }

    fn write_configuration(&self) -> Result<(), SiteError> {
        let (x, y) = self.options.network;
        let directory = self.options.directory.display();
        let mut text = format!(
            "# Written anew at every start.\n\
             nodename = {node}\n\
             database.host = {socket}\n\
             path.run = {directory}/run\n\
             path.storage.root = {directory}/storage\n\
             storage.local = 1\n\
             fence.reboot = 0\n\
             fence.remount = true\n\
             path.l7r.ssl = {directory}/l7r\n\
             l7r.port = {port}\n\
             vm.hypervisor = {hypervisor}\n\
             vm.network.bridge = {bridge}\n\
             internal.vm.network.device.prefix = q{node}v\n\
             vm.network.ip.start = 10.{x}.{y}.100\n\
             vm.network.netmask = 24\n",
            node = self.options.node,
            socket = self.cluster.socket_dir().display(),
            port = self.port,
            hypervisor = self.options.hypervisor,
            bridge = self.bridge(),
        );
        for (key, value) in &self.options.settings {
            text.push_str(&format!("{key} = {value}\n"));
        }
        let path = self.config_file();
        fs::write(&path, text).map_err(|source| SiteError::File { path, source })
    }
}

/// Asks until the answer is `wanted`.
pub(super) async fn wait_until(
    otherwise: &str,
    wanted: &str,
    ask: impl AsyncFn() -> Result<String, DbError>,
) -> Result<(), SiteError> {
    let began = Instant::now();
    loop {
        let seen = ask().await.unwrap_or_else(|error| error.to_string());
        if seen == wanted {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            let what = otherwise.to_owned();
            return Err(SiteError::Patience { what, seconds: PATIENCE.as_secs(), last: Some(seen) });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn make_directory(path: &Path) -> Result<(), SiteError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|source| SiteError::File { path: path.to_owned(), source })
}

/// A TCP port that nobody has at this moment. It lies below those that the kernel gives to clients: one of these could
/// have it before the server does, even one that tries to reach that server, which TCP then connects to itself.
pub fn free_port() -> io::Result<u16> {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..1000)
        .map(|_| rand::random_range(10_000..32_000))
        .find(free)
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no port is free"))
}
