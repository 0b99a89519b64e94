//! A database for each test, copied from one that was migrated once, on one server for all tests that run at the time.

use std::{
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use qvd::{
    db::Connector,
    demo::postgres::{Access, Cluster, ClusterOptions, Durability},
};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::patience::until;

const TEMPLATE: &str = "migrated";
/// The database of a server that has but one.
const ALONE: &str = "qvd";

/// The server. It ends, and its files go, with the last test that uses it.
pub struct Server {
    cluster: Cluster,
    // After the server, which works in it.
    _directory: TempDir,
}

impl Server {
    async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    async fn start() -> Self {
        let directory = open_directory();
        let cluster = Cluster::open(options(directory.path(), Durability::Volatile, &[])).await.unwrap();
        cluster.create_database(TEMPLATE).await.unwrap();
        let template = cluster.connection_string(TEMPLATE, "postgres");
        Connector::from_url(&template, "test").unwrap().migrate().await.unwrap();
        Self { cluster, _directory: directory }
    }
}

/// Of a server below a directory.
fn options(directory: &Path, durability: Durability, settings: &[&str]) -> ClusterOptions {
    ClusterOptions {
        data_dir: directory.join("data"),
        socket_dir: directory.join("socket"),
        durability,
        access: Access::Trust,
        settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
    }
}

/// A directory that the accounts of server and router may enter, with a short path because of sockets.
pub fn open_directory() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new().prefix("qvd").tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// One test's database.
pub struct Db {
    owner: Session,
    name: String,
    server: Arc<Server>,
}

impl Db {
    /// With the schema of this version.
    pub async fn new() -> Self {
        let db = Self::make(async |server, name| server.cluster.copy_database(name, TEMPLATE).await).await;
        // A copy does not have what is set for a database from outside.
        let search_path = format!("alter database {} set search_path = qvd, public", db.name);
        db.sql(&format!("{search_path}; set search_path = qvd, public")).await;
        db
    }

    /// With nothing in it.
    pub async fn empty() -> Self {
        Self::make(async |server, name| server.cluster.create_database(name).await).await
    }

    /// With the schema, a tenant's user `alice` with the desktops `alice/d1` to `alice/d<vms>`, an image, and the node
    /// `n1`, which does not run.
    pub async fn with_vms(vms: u32) -> Self {
        let db = Self::new().await;
        db.fill(vms).await;
        db
    }

    /// With so many VMs of alice that making them one by one would take long: they are written without triggers. Their ids follow
    /// 20000, their names are `d1` and so on.
    pub async fn with_many_vms(vms: u32) -> Self {
        let db = Self::with_vms(0).await;
        db.sql(&format!(
            "set session_replication_role = replica;
             insert into vms (id, tenant_id, name, user_id, osf_id, ip)
             select 20000 + n, 1, 'd' || n, (select id from users), (select id from osfs), inet '10.64.0.0' + n
             from generate_series(1, {vms}) n;
             insert into vm_runtimes (vm_id, tenant_id) select id, 1 from vms;
             insert into vm_counters (vm_id) select id from vms;
             insert into vm_specs
             select d.vm_id, d.name, d.tenant_id, d.tenant, d.user_id, d.login, d.osf_id, d.memory, d.user_storage_size,
                 d.di_tag, d.ip, d.di_id, d.di_path, fresh_secret(), d.cpus, d.agent
             from vm_specs_due d;
             set session_replication_role = origin; analyze"
        ))
        .await;
        db
    }

    /// Makes alice, her desktops and the node.
    pub async fn fill(&self, vms: u32) {
        let db = self;
        db.sql("select osf_create('desk'), di_create('desk', 'desk.tar'), user_create('alice')").await;
        db.sql("select host_create('n1', '10.9.0.1')").await;
        db.sql(&format!("select vm_create('alice', 'd' || n, 'desk') from generate_series(1, {vms}) n")).await;
    }

    async fn make<E: std::fmt::Debug>(create: impl AsyncFnOnce(&Server, &str) -> Result<(), E>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = Server::shared().await;
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        create(&server, &name).await.unwrap();
        let owner = Session::open(&server.cluster.connection_string(&name, "postgres")).await;
        Self { owner, name, server }
    }

    /// With nothing in it, on a server of its own that forgets nothing.
    pub async fn alone(settings: &[&str]) -> Self {
        let directory = open_directory();
        let cluster = Cluster::open(options(directory.path(), Durability::Durable, settings)).await.unwrap();
        cluster.create_database(ALONE).await.unwrap();
        Self::on(cluster, directory).await
    }

    /// Not there yet, on a server of its own.
    pub async fn fresh() -> Self {
        let directory = open_directory();
        let cluster = Cluster::open(options(directory.path(), Durability::Durable, &[])).await.unwrap();
        let owner = Session::open(&cluster.connection_string("postgres", "postgres")).await;
        Self { owner, name: ALONE.to_owned(), server: Arc::new(Server { cluster, _directory: directory }) }
    }

    /// The same on a server that follows this one.
    pub async fn standby(&self) -> Self {
        let directory = open_directory();
        let options = options(directory.path(), Durability::Durable, &[]);
        Self::on(self.server.cluster.standby(options).await.unwrap(), directory).await
    }

    async fn on(cluster: Cluster, directory: TempDir) -> Self {
        let owner = Session::open(&cluster.connection_string(ALONE, "postgres")).await;
        Self { owner, name: ALONE.to_owned(), server: Arc::new(Server { cluster, _directory: directory }) }
    }

    /// The same with a new connection, after the server was restarted or the database made.
    pub async fn again(&self) -> Self {
        let owner = Session::open(&self.url("postgres")).await;
        Self { owner, name: self.name.clone(), server: self.server.clone() }
    }

    /// Its server.
    pub fn cluster(&self) -> &Cluster {
        &self.server.cluster
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the server's socket.
    pub fn socket(&self) -> String {
        self.server.cluster.socket_dir().display().to_string()
    }

    /// What a client needs to connect.
    pub fn url(&self, role: &str) -> String {
        self.server.cluster.connection_string(&self.name, role)
    }

    pub fn connector(&self) -> Connector {
        Connector::from_url(&self.url("postgres"), "test").unwrap()
    }

    /// A connection of its own with the rights of a role.
    pub async fn session(&self, role: &str) -> Session {
        Session::open(&self.url(role)).await
    }

    /// Runs statements as the owner of the schema; the first value that came out.
    pub async fn sql(&self, statements: &str) -> Option<String> {
        self.owner.sql(statements).await
    }

    pub async fn rows(&self, query: &str) -> Vec<Vec<String>> {
        self.owner.rows(query).await
    }

    pub async fn refused(&self, statements: &str) -> Refusal {
        self.owner.refused(statements).await
    }

    /// Waits until a query gives this value; how long that took.
    pub async fn wait_for(&self, query: &str, wanted: &str) -> Duration {
        let mut seen = None;
        let what = format!("{query} gives {wanted}");
        let probe = async || {
            seen = self.sql(query).await;
            (seen.as_deref() == Some(wanted)).then_some(())
        };
        until(&what, probe).await.1
    }

    /// Waits until a VM of alice is in this state; how long that took.
    pub async fn wait_vm(&self, vm: &str, state: &str) -> Duration {
        self.wait_for(&format!("select vm_state from vm_runtimes where vm_id = vm_id('alice/{vm}')"), state).await
    }

    /// Makes `n1` a node that runs, as its hkd would; its id and epoch as arguments of the node's functions.
    pub async fn node_runs(&self) -> String {
        let node =
            self.sql("select node || ', ' || node_epoch from node_start('n1', gen_random_uuid(), 1)").await.unwrap();
        self.sql(&format!("select node_state({node}, 'running')")).await;
        node
    }
}

/// A connection.
pub struct Session {
    client: Client,
}

/// What the server said instead of doing it.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub hint: String,
}

impl Session {
    pub async fn open(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        Self { client }
    }

    pub async fn sql(&self, statements: &str) -> Option<String> {
        self.rows(statements).await.into_iter().next()?.into_iter().next().filter(|value| !value.is_empty())
    }

    /// Every row of every statement; null is empty.
    pub async fn rows(&self, query: &str) -> Vec<Vec<String>> {
        let messages = self.client.simple_query(query).await;
        let messages = messages.unwrap_or_else(|error| panic!("{query}: {:?}", error.as_db_error()));
        messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
                }
                _ => None,
            })
            .collect()
    }

    /// Runs statements that the server must refuse. An open transaction is rolled back.
    pub async fn refused(&self, statements: &str) -> Refusal {
        self.attempt(statements).await.expect_err(statements)
    }

    /// Runs statements and says whether the server did them. An open transaction is rolled back when it did not.
    pub async fn attempt(&self, statements: &str) -> Result<(), Refusal> {
        let Err(error) = self.client.batch_execute(statements).await else { return Ok(()) };
        let server = error.as_db_error().unwrap_or_else(|| panic!("{statements}: {error}"));
        self.client.batch_execute("rollback").await.unwrap();
        Err(Refusal {
            code: server.code().code().to_owned(),
            message: server.message().to_owned(),
            hint: server.hint().unwrap_or_default().to_owned(),
        })
    }
}
