//! What a node costs that only watches its containers: processor time of its processes over a window in which nobody does
//! anything. Beside it, what the containers themselves use.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    cpu,
    report::Report,
    site::BenchSite,
    small::{self, Part},
};

#[derive(clap::Args, Clone, Copy)]
pub struct Arguments {
    /// Running containers
    #[arg(long, default_value_t = 100)]
    vms: usize,
    /// Seconds to watch. Agents are asked every two minutes
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<Report> {
    let Arguments { vms, seconds } = arguments;
    let bench = small::open("bre", 12, vms, &[("storage.local", "0")]).await?;
    let mut report = Report { scenario: "rest", repetitions: 1, ..Report::default() };
    let outcome = async {
        small::start(&bench, vms).await?;
        sleep(Duration::from_secs(10)).await;
        watch(&bench, Duration::from_secs(seconds), &mut report).await
    }
    .await;
    bench.close().await?;
    outcome.map(|()| report)
}

async fn watch(bench: &BenchSite, window: Duration, report: &mut Report) -> anyhow::Result<()> {
    let (before, began) = (used(bench)?, Instant::now());
    sleep(window).await;
    let (after, lasted) = (used(bench)?, began.elapsed());
    let mut all = 0.0;
    for (part, used) in after {
        let share = used.saturating_sub(before.get(&part).copied().unwrap_or_default()).as_secs_f64()
            / lasted.as_secs_f64()
            * 100.0;
        match part {
            Part::Inside | Part::Database => report.peer(part.name(), "cpu_percent", share),
            _ => {
                all += share;
                report.figure(format!("{}_cpu_percent", part.name()), share);
            }
        }
    }
    report.figure("cpu_percent", all);
    Ok(())
}

/// Processor time by what it was used for.
fn used(bench: &BenchSite) -> anyhow::Result<BTreeMap<Part, Duration>> {
    let mut used = BTreeMap::new();
    for (part, pid) in small::parts(bench)? {
        *used.entry(part).or_default() += match part {
            Part::Database => cpu::of_tree(pid)?,
            _ => cpu::of_process(pid),
        };
    }
    Ok(used)
}
