//! A cluster of simulated nodes in this process: a private durable PostgreSQL, each node with a listening connection and an
//! hkd of its own, VMs that do not exist. The nodes share two pools, since processes of hundreds of machines would have
//! many more connections than one machine can serve.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use qvd::{
    db::{Connector, Database, Load},
    demo::postgres::{Access, Cluster, ClusterOptions, Durability},
    hkd::{End, HkdError, Lines, Member},
    hypervisor::Nothing,
    model::config::Config,
};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

/// Connections that carry claims and states of all nodes.
pub const POOL: usize = 16;
const SIGNS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

/// The server and its files.
pub struct Ground {
    cluster: Cluster,
    directory: TempDir,
}

impl Ground {
    /// A durable server for so many connections.
    pub async fn open(connections: usize) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("qvdb").tempdir_in("/var/tmp")?;
        let cluster = Cluster::open(ClusterOptions {
            data_dir: directory.path().join("database"),
            socket_dir: directory.path().join("socket"),
            durability: Durability::Durable,
            access: Access::Peer,
            settings: vec![
                format!("max_connections={connections}"),
                "shared_buffers=512MB".to_owned(),
                "max_wal_size=4GB".to_owned(),
            ],
        })
        .await?;
        Ok(Self { cluster, directory })
    }

    /// An empty database.
    pub async fn bare(&self, name: &str) -> anyhow::Result<()> {
        Ok(self.cluster.create_database(name).await?)
    }

    /// A database with our schema, nodes `n1` to `n<nodes>`, which do not run, and VMs from id 20001 on, each with a user of
    /// its own: `running` of every hundred are on the nodes, the others stopped. They are written without triggers, which
    /// look at one VM at a time.
    pub async fn peopled(&self, name: &str, nodes: usize, vms: usize, running: usize) -> anyhow::Result<()> {
        self.cluster.create_database(name).await?;
        Connector::from_url(&self.url(name, "postgres"), "qvd bench")?.migrate().await?;
        let owner = self.client(name).await?;
        let seed = format!(
            "select osf_create('desk', 64), di_create('desk', 'desk.tar');
             select host_create('n' || n, ('10.1.' || n / 250 || '.' || n % 250 + 1)::inet) from generate_series(1, {nodes}) n;
             set session_replication_role = replica;
             insert into users (id, tenant_id, login) select n, 1, 'u' || n from generate_series(20001, 20000 + {vms}) n;
             insert into vms (id, tenant_id, name, user_id, osf_id, ip)
             select n, 1, 'desk', n, (select id from osfs), inet '10.64.0.0' + n from generate_series(20001, 20000 + {vms}) n;
             insert into vm_runtimes (vm_id, tenant_id) select id, 1 from vms where id % 100 >= {running};
             insert into vm_runtimes (vm_id, tenant_id, host_id, vm_state)
             select v.id, 1, h.id, 'running'
             from vms v join (select id, row_number() over (order by id) as number from hosts) h
                 on h.number = 1 + v.id / 100 % {nodes}
             where v.id % 100 < {running};
             select host_recount(id) from hosts;
             insert into vm_counters (vm_id) select id from vms;
             analyze;
             insert into vm_specs
             select d.vm_id, d.name, d.tenant_id, d.tenant, d.user_id, d.login, d.osf_id, d.memory, d.user_storage_size,
                 d.di_tag, d.ip, d.di_id, d.di_path, fresh_secret(), d.cpus, d.agent
             from vm_specs_due d;
             set session_replication_role = origin"
        );
        owner.batch_execute(&seed).await?;
        // By themselves, since they cannot be done in a transaction.
        owner.batch_execute("vacuum analyze").await?;
        owner.batch_execute("checkpoint").await?;
        Ok(())
    }

    /// What a client needs to connect.
    pub fn url(&self, database: &str, role: &str) -> String {
        self.cluster.connection_string(database, role)
    }

    /// A connection as the owner of everything.
    pub async fn client(&self, database: &str) -> anyhow::Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(database, "postgres"), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Processor time that all processes of the server have used.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let file: PathBuf = self.directory.path().join("database/postmaster.pid");
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        crate::cpu::of_tree(text.lines().next().and_then(|pid| pid.parse().ok()).context("the server has no process")?)
    }

    /// Ends it and removes its files.
    pub async fn close(self) -> anyhow::Result<()> {
        self.cluster.stop().await;
        self.directory.close()?;
        Ok(())
    }
}

/// How the nodes of a fleet are.
#[derive(Clone, Copy)]
pub struct Shape {
    pub nodes: usize,
    /// How long a VM takes to start.
    pub start: Duration,
    /// VMs of a node that may start at the same time.
    pub heavy: usize,
    /// The listening connections hear nothing.
    pub deaf: bool,
}

/// Nodes that run.
pub struct Fleet {
    /// Their VMs.
    pub hypervisors: Vec<Nothing>,
    stop: CancellationToken,
    members: JoinSet<Result<End, HkdError>>,
}

impl Fleet {
    /// Starts the nodes of `database` and waits until they run. Deaf ones listen in the database `elsewhere`, where nobody
    /// notifies: the connection is good, and nothing comes.
    pub async fn start(ground: &Ground, database: &str, elsewhere: &str, shape: Shape) -> anyhow::Result<Self> {
        let connector = Connector::from_url(&ground.url(database, "qvd_node"), "qvd swarm")?;
        let listening = if shape.deaf { elsewhere } else { database };
        let lines = Lines {
            database: Database::new(&connector, POOL)?,
            signs: Database::new(&connector, SIGNS)?,
            connector: Connector::from_url(&ground.url(listening, "qvd_node"), "qvd swarm")?,
        };
        let stop = CancellationToken::new();
        let (mut members, mut hypervisors) = (JoinSet::new(), Vec::new());
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        for number in 1..=shape.nodes {
            let name = format!("n{number}");
            let mut config = Config::default();
            config.set("nodename", name.as_str())?;
            config.set("internal.hkd.max_heavy", shape.heavy.to_string())?;
            let life = lines.database.node_start(&name, (boot.trim(), None), std::process::id(), None, None).await?;
            let hypervisor = Nothing::with_delays(shape.start, Duration::ZERO);
            hypervisors.push(hypervisor.clone());
            // Each would see the same machine, but at another moment.
            let machine = || Load { ram: 24_000.0, cpu: 8_000.0, free_ram: 20_000.0, cpu_pressure: 0.0 };
            let member = Member::new(life, config, lines.clone(), Arc::new(hypervisor)).on_machine(machine);
            members.spawn(member.live(stop.clone()));
            // Machines do not beat in time either.
            sleep(Duration::from_millis(2000 / shape.nodes as u64)).await;
        }
        let fleet = Self { hypervisors, stop, members };
        let owner = ground.client(database).await?;
        until(&owner, "not all nodes run", "select count(*) = 0 from host_runtimes where state <> 'running'").await?;
        if shape.deaf {
            let deaf = "select count(*) = 0 from host_runtimes where events_degraded_reason is null";
            until(&owner, "not all nodes have noticed that they hear nothing", deaf).await?;
        }
        Ok(fleet)
    }

    /// Ends the nodes.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.members.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Asks until a condition is true.
pub async fn until(client: &Client, otherwise: &str, condition: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    while !client.query_one(condition, &[]).await?.get::<_, bool>(0) {
        anyhow::ensure!(began.elapsed() < PATIENCE, "{otherwise} after {PATIENCE:?}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
