//! Commands at a steady rate to many nodes: from the COMMIT of `vm_start` to the node's committed claim and, in turns with it,
//! from the call (`call`); beside as many bare listeners that are woken at the same rate, in turns with ours and in a
//! database of their own on the same server. And what the server has to do while nobody commands anything.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::future::try_join_all;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_postgres::{Client, Statement};

use crate::{
    claims::{Did, Seen},
    fleet::{Fleet, Ground, POOL, Shape, until},
    floor::Floor,
    report::{Report, Samples, Unit},
    since::Since,
};

pub const OURS: &str = "qvd";
pub const BARE: &str = "floor";
/// The first VM, see `Ground::peopled`.
pub const FIRST_VM: i32 = 20_001;
/// After the last command of a round, for all to be claimed.
const LATE: Duration = Duration::from_secs(40);

#[derive(clap::Args, Clone, Copy)]
pub struct Arguments {
    /// Simulated nodes
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// VMs of the cluster, all stopped at first
    #[arg(long, default_value_t = 100_000)]
    vms: usize,
    /// Starts per second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Seconds of each round
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// The listening connections of all nodes hear nothing
    #[arg(long)]
    no_listen: bool,
}

pub async fn run(repetitions: usize, arguments: Arguments, mut seen: Seen) -> anyhow::Result<Report> {
    let Arguments { nodes, vms, no_listen, .. } = arguments;
    let ground = Ground::open(nodes * 2 + 6 * POOL + 30).await?;
    ground.bare(BARE).await?;
    let began = Instant::now();
    ground.peopled(OURS, nodes, vms, 0).await?;
    let mut report = Report { scenario: "swarm", repetitions, ..Report::default() };
    report.figure("seed_s", began.elapsed().as_secs_f64());
    let mut floor = Floor::open(&ground, BARE, nodes).await?;
    let shape = Shape { nodes, start: Duration::from_millis(500), heavy: 100, deaf: no_listen };
    let fleet = Fleet::start(&ground, OURS, BARE, shape).await?;
    // What starting left behind is done.
    sleep(Duration::from_secs(5)).await;
    report.figure("idle_db_cpu_percent", load(&ground, Duration::from_secs(15)).await?);
    let outcome = rounds(&ground, &mut floor, &mut seen, repetitions, arguments, &mut report).await;
    fleet.end().await?;
    ground.close().await?;
    outcome.map(|()| report)
}

async fn rounds(
    ground: &Ground,
    floor: &mut Floor,
    seen: &mut Seen,
    repetitions: usize,
    arguments: Arguments,
    report: &mut Report,
) -> anyhow::Result<()> {
    let commander = Commander::new(ground).await?;
    let count = (arguments.rate * arguments.seconds) as usize;
    let (mut next, mut lost, mut busy) = (FIRST_VM, 0, Duration::ZERO);
    let mut samples = Since::BOTH.map(|since| (since, Samples::default(), Samples::default()));
    // The first plans its statements.
    for round in 0..=repetitions {
        for (since, claims, floors) in &mut samples {
            let bare = wake_at_rate(floor, count, arguments.rate, *since).await?;
            while seen.try_recv().is_ok() {}
            let (before, began) = (ground.cpu()?, Instant::now());
            let took = commander.start_at_rate(seen, next, count, arguments.rate, *since).await?;
            let (used, lasted) = (ground.cpu()?.saturating_sub(before), began.elapsed());
            next += i32::try_from(count)?;
            if round > 0 {
                lost += count - took.len();
                busy += used.div_f64(lasted.as_secs_f64());
                took.into_iter().for_each(|took| claims.add(took));
                bare.into_iter().for_each(|took| floors.add(took));
            }
        }
    }
    let owner = ground.client(OURS).await?;
    let all = format!(
        "select count(*) = {} from vm_runtimes where vm_state = 'running' and vm_cmd is null",
        count * (repetitions + 1) * samples.len()
    );
    if until(&owner, "not all VMs run", &all).await.is_err() {
        let missing = "select count(*) from vm_runtimes where vm_cmd is not null or vm_state = 'starting'";
        lost = lost.max(usize::try_from(owner.query_one(missing, &[]).await?.get::<_, i64>(0))?);
    }
    report.figure("lost", lost as f64);
    report.figure("busy_db_cpu_percent", busy.as_secs_f64() / (repetitions * samples.len()) as f64 * 100.0);
    for (since, claims, floors) in samples {
        let prefix = since.prefix();
        let max = if arguments.no_listen { "pickup_max_ms" } else { "claim_max_ms" };
        report.figure(format!("{prefix}{max}"), claims.ms(1.0));
        report.figure(format!("{prefix}over_floor_p50"), claims.ms(0.5) / floors.ms(0.5));
        report.beside_floor(prefix, Unit::Milliseconds, &claims, &floors);
    }
    Ok(())
}

/// Share of one processor that the server uses, in percent.
async fn load(ground: &Ground, window: Duration) -> anyhow::Result<f64> {
    let (before, began) = (ground.cpu()?, Instant::now());
    sleep(window).await;
    let used = ground.cpu()?.saturating_sub(before);
    Ok(used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0)
}

async fn wake_at_rate(floor: &mut Floor, count: usize, rate: f64, since: Since) -> anyhow::Result<Vec<Duration>> {
    let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        ticks.tick().await;
        // One at a time is all that the rate asks for; who is slower than that is late for the next.
        let (woken, began) = floor.wake(since).await?;
        let (listener, at) = timeout(LATE, floor.heard()).await?.context("the bare listeners have ended")?;
        anyhow::ensure!(listener == woken, "another listener was woken");
        took.push(at - began);
    }
    Ok(took)
}

/// Those who command.
pub struct Commander {
    lines: Vec<Arc<Line>>,
}

struct Line {
    client: Client,
    start: Statement,
    /// Statements can be under way one behind the other, transactions of several not.
    transactions: Mutex<()>,
}

impl Commander {
    /// With connections that have done it before.
    pub async fn new(ground: &Ground) -> anyhow::Result<Self> {
        let lines = (0..POOL).map(async |_| {
            let client = ground.client(OURS).await?;
            let start = client.prepare("select vm_start($1::integer)").await?;
            anyhow::Ok(Arc::new(Line { client, start, transactions: Mutex::default() }))
        });
        Ok(Self { lines: try_join_all(lines).await? })
    }

    /// Starts VMs, `rate` of them in a second; for those that were claimed, how long it took.
    pub async fn start_at_rate(
        &self,
        seen: &mut Seen,
        first: i32,
        count: usize,
        rate: f64,
        since: Since,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut calls = JoinSet::new();
        for (number, vm) in (first..).take(count).enumerate() {
            ticks.tick().await;
            let line = self.lines[number % self.lines.len()].clone();
            calls.spawn(async move {
                let _turn = match since {
                    Since::Commit => Some(line.transactions.lock().await),
                    Since::Call => None,
                };
                anyhow::Ok((vm, since.run(&line.client, &line.start, &[&vm]).await?))
            });
        }
        let mut began = HashMap::new();
        while let Some(call) = calls.join_next().await {
            let (vm, at) = call??;
            began.insert(vm, at);
        }
        let mut took = Vec::with_capacity(count);
        while !began.is_empty() {
            let Ok(Some(sight)) = timeout(LATE, seen.recv()).await else { break };
            if sight.did == Did::ClaimedStart
                && let Some(asked) = began.remove(&sight.vm)
            {
                took.push(sight.at.saturating_duration_since(asked));
            }
        }
        Ok(took)
    }

    /// Starts VMs all at once, over all connections; returns when every call has returned.
    pub async fn start_all(&self, first: i32, count: usize) -> anyhow::Result<()> {
        let calls = (first..).take(count).enumerate().map(async |(number, vm)| {
            let line = &self.lines[number % self.lines.len()];
            line.client.query(&line.start, &[&vm]).await
        });
        try_join_all(calls).await?;
        Ok(())
    }
}
