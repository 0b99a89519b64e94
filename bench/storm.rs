//! A Monday morning: many starts at the same moment over a few simulated nodes, beside the time that the nodes' slots for
//! starting VMs need at least.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::{
    claims::{Did, Seen},
    fleet::{Fleet, Ground, POOL, Shape},
    report::{Report, Samples},
    swarm::{BARE, Commander, FIRST_VM, OURS},
};

/// How long nothing may happen before the rest counts as lost.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args, Clone, Copy)]
pub struct Arguments {
    /// Starts at once
    #[arg(long, default_value_t = 1000)]
    starts: usize,
    /// Simulated nodes
    #[arg(long, default_value_t = 10)]
    nodes: usize,
    /// VMs of a node that may start at the same time
    #[arg(long, default_value_t = 10)]
    cap: usize,
    /// Seconds that a VM takes to start
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

pub async fn run(repetitions: usize, arguments: Arguments, mut seen: Seen) -> anyhow::Result<Report> {
    let Arguments { starts, nodes, cap, seconds } = arguments;
    let ground = Ground::open(nodes * 2 + 3 * POOL + 30).await?;
    ground.peopled(OURS, nodes, starts * (repetitions + 1), 0).await?;
    let shape = Shape { nodes, start: Duration::from_secs_f64(seconds), heavy: cap, deaf: false };
    let fleet = Fleet::start(&ground, OURS, BARE, shape).await?;
    let commander = Commander::new(&ground).await?;
    let owner = ground.client(OURS).await?;
    let (mut all, mut asked) = (Samples::default(), Samples::default());
    let (mut lost, mut fullest, mut first) = (0, 0, FIRST_VM);
    // A few beforehand, so that statements have plans.
    commander.start_all(first, POOL).await?;
    running(&mut seen, POOL).await;
    first += i32::try_from(POOL)?;
    for _ in 0..repetitions {
        let before = "select coalesce(max(id), 0) from log";
        let mark: i64 = owner.query_one(before, &[]).await?.get(0);
        let began = Instant::now();
        let (called, (ran, last)) = tokio::join!(
            async {
                commander.start_all(first, starts).await?;
                anyhow::Ok(began.elapsed())
            },
            running(&mut seen, starts)
        );
        asked.add(called?);
        all.add(last.saturating_duration_since(began));
        lost += starts - ran;
        first += i32::try_from(starts)?;
        let most = "select coalesce(max(n), 0) from (
                        select count(*) as n from log where id > $1 and action = 'claim' group by arguments->>'host') per_host";
        fullest = fullest.max(owner.query_one(most, &[&mark]).await?.get::<_, i64>(0));
    }
    let ideal = starts.div_ceil(nodes).div_ceil(cap) as f64 * seconds;
    let mut report = Report { scenario: "storm", repetitions, ..Report::default() };
    report.figure("lost", lost as f64);
    report.figure("all_running_p50_s", all.ms(0.5) / 1000.0);
    report.figure("all_asked_p50_s", asked.ms(0.5) / 1000.0);
    report.figure("over_ideal", all.ms(0.5) / 1000.0 / ideal);
    report.figure("most_on_a_node", fullest as f64);
    report.figure("cap", cap as f64);
    report.figure("most_heavy", fleet.hypervisors.iter().map(|node| node.most_at_once()).max().unwrap_or(0) as f64);
    report.peer("ideal", "all_running_p50_s", ideal);
    report.spread.insert("all_running_ms".to_owned(), all.spread());
    fleet.end().await?;
    ground.close().await?;
    Ok(report)
}

/// Waits until so many VMs run; how many did, and when the last.
async fn running(seen: &mut Seen, wanted: usize) -> (usize, Instant) {
    let (mut vms, mut last) = (HashSet::new(), Instant::now());
    while vms.len() < wanted {
        let Ok(Some(sight)) = timeout(SILENCE, seen.recv()).await else { break };
        if sight.did == Did::Running && vms.insert(sight.vm) {
            last = sight.at;
        }
    }
    (vms.len(), last)
}
