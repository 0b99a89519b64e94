//! What one more idle container costs in memory: everything that we add, by proportional set size. Text that is shared with
//! the containers that are there already is not paid for again, which is what one more container costs a node.

use std::{collections::BTreeMap, fs::read_to_string};

use crate::{
    report::Report,
    site::BenchSite,
    small::{self, Part},
};

/// What is weighed: nothing that a container runs but its agent, which is its first and only process.
const OURS: [Part; 5] = [Part::Shim, Part::Monitor, Part::Inside, Part::Hkd, Part::Keeper];

#[derive(clap::Args, Clone, Copy)]
pub struct Arguments {
    /// Containers at the second look
    #[arg(long, default_value_t = 100)]
    vms: usize,
    /// Containers at the first look
    #[arg(long, default_value_t = 20)]
    before: usize,
}

pub async fn run(Arguments { vms, before }: Arguments) -> anyhow::Result<Report> {
    anyhow::ensure!(0 < before && before < vms, "the second look needs more containers than the first");
    let bench = small::open("bwe", 14, vms, &[]).await?;
    let mut report = Report { scenario: "weight", repetitions: 1, ..Report::default() };
    let outcome = weigh(&bench, [before, vms], &mut report).await;
    bench.close().await?;
    outcome.map(|()| report)
}

async fn weigh(bench: &BenchSite, [few, many]: [usize; 2], report: &mut Report) -> anyhow::Result<()> {
    small::start(bench, few).await?;
    let before = weights(bench)?;
    small::start(bench, many).await?;
    let after = weights(bench)?;
    let (mut all, mut bare) = (0.0, 0.0);
    for part in OURS {
        let of = |weights: &BTreeMap<Part, u64>| weights.get(&part).copied().unwrap_or_default() as f64;
        let mib = (of(&after) - of(&before)) / 1024.0 / (many - few) as f64;
        report.figure(format!("{}_mib", part.name()), mib);
        all += mib;
        if matches!(part, Part::Monitor | Part::Inside) {
            bare += mib;
        }
    }
    // A container that plain LXC runs has these, too.
    report.peer("lxc-start", "mib_per_vm", bare);
    report.figure("mib_per_vm", all);
    Ok(())
}

/// In KiB.
fn weights(bench: &BenchSite) -> anyhow::Result<BTreeMap<Part, u64>> {
    let mut weights = BTreeMap::new();
    for (part, pid) in small::parts(bench)? {
        // One that has just ended weighs nothing.
        let maps = read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = maps.lines().find_map(|line| line.strip_prefix("Pss:"));
        let pss = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        *weights.entry(part).or_default() += pss.unwrap_or_default();
    }
    Ok(weights)
}
