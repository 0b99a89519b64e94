//! What a node asks again and again, in a cluster of a thousand VMs and in one of a million, in turns on the same server.
//! Commits do not wait for the disk here, which would hide what is asked.

use std::time::{Duration, Instant};

use qvd::{
    db::{Connector, Database, Life, Load, Peer},
    model::{VmPorts, VmState},
};
use tokio_postgres::{Client, Statement};

use crate::{
    fleet::Ground,
    report::{Report, Samples},
    swarm::FIRST_VM,
};

const NODES: usize = 20;
const FEW: usize = 1_000;
/// Of every hundred VMs so many run, all over the nodes.
const RUNNING: usize = 60;
const PORTS: VmPorts = VmPorts { vma: 3030, x: 4100 };

pub async fn run(repetitions: usize, vms: usize) -> anyhow::Result<Report> {
    let ground = Ground::open(60).await?;
    let mut report = Report { scenario: "rows", repetitions, ..Report::default() };
    let few = Side::open(&ground, "few", FEW).await?;
    let began = Instant::now();
    let many = Side::open(&ground, "many", vms).await?;
    report.figure("seed_s", began.elapsed().as_secs_f64());
    let mut sides = [(few, Times::default()), (many, Times::default())];
    let warm_up = repetitions / 10 + 20;
    for round in 0..repetitions + warm_up {
        for (side, times) in &mut sides {
            let took = side.once(round).await?;
            if round >= warm_up {
                times.add(took);
            }
        }
    }
    let [(_, few), (_, many)] = &sides;
    for (name, few, many) in [
        ("reconcile", &few.reconcile, &many.reconcile),
        ("poll", &few.poll, &many.poll),
        ("start", &few.start, &many.start),
    ] {
        report.figure(format!("{name}_p50_us"), many.us(0.5));
        report.figure(format!("{name}_ratio"), many.us(0.5) / few.us(0.5));
        report.peer("1000 VMs", format!("{name}_p50_us"), few.us(0.5));
        report.spread.insert(format!("{name}_ms"), many.spread());
    }
    ground.close().await?;
    Ok(report)
}

#[derive(Default)]
struct Times {
    start: Samples,
    reconcile: Samples,
    poll: Samples,
}

impl Times {
    fn add(&mut self, [start, reconcile, poll]: [Duration; 3]) {
        self.start.add(start);
        self.reconcile.add(reconcile);
        self.poll.add(poll);
    }
}

/// A cluster, and one of its nodes, which this program plays.
struct Side {
    database: Database,
    life: Life,
    owner: Client,
    start: Statement,
    vms: usize,
}

impl Side {
    async fn open(ground: &Ground, name: &str, vms: usize) -> anyhow::Result<Self> {
        ground.peopled(name, NODES, vms, RUNNING).await?;
        let owner = ground.client(name).await?;
        // All live and share a storage; only the first takes VMs.
        owner
            .batch_execute(&format!(
                "alter database {name} set synchronous_commit = off;
                 update hosts set storage_id = '00000000-0000-4000-8000-000000000001', backend = name = 'n1';
                 update host_runtimes set state = 'starting', patience = 10;
                 update host_runtimes set state = 'running';
                 select config_set('internal.hkd.lease.lapse', '3600')"
            ))
            .await?;
        let owner = ground.client(name).await?;
        let start = owner.prepare("select vm_start($1::integer)").await?;
        let database = Database::new(&Connector::from_url(&ground.url(name, "qvd_node"), "qvd rows")?, 1)?;
        let life = database.node_start("n1", ("00000000-0000-4000-8000-000000000002", None), 1, None, None).await?;
        owner
            .batch_execute("update host_runtimes set patience = 10, state = 'running' where state <> 'running'")
            .await?;
        Ok(Self { database, life, owner, start, vms })
    }

    /// A start, its claim, and what a node that has nothing to do asks.
    async fn once(&self, round: usize) -> anyhow::Result<[Duration; 3]> {
        let (host, epoch) = (self.life.host, self.life.epoch);
        // All over the table, but stopped ones.
        let spot = round * 7919 % (self.vms / 100) * 100 + 80;
        let vm = i32::try_from(usize::try_from(FIRST_VM)? - 1 + spot)?;
        let load = Load { ram: 24_000.0, cpu: 8_000.0, free_ram: 20_000.0, cpu_pressure: 0.0 };
        self.database.node_lease((host, epoch), &load, None, None).await?;

        let began = Instant::now();
        self.owner.query(&self.start, &[&vm]).await?;
        let start = began.elapsed();

        let began = Instant::now();
        let claims = self.database.node_claim(host, epoch, PORTS).await?;
        let reconcile = began.elapsed();
        let [claim] = claims.as_slice() else { anyhow::bail!("{} claims in place of one", claims.len()) };

        let began = Instant::now();
        self.database.node_claim(host, epoch, PORTS).await?;
        self.database.node_lease((host, epoch), &load, None, None).await?;
        let peers: Vec<Peer> = self.database.node_peers(host, epoch).await?.peers;
        let poll = began.elapsed();
        anyhow::ensure!(peers.len() == 16, "{} peers", peers.len());

        let vm = claim.vm.vm;
        self.database.node_vm_state((host, epoch), vm, &[VmState::Starting], VmState::Stopped, None).await?;
        Ok([start, reconcile, poll])
    }
}
