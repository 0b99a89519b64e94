//! The life of real containers, one at a time and several at once, image unpacked: from the return of `vm_start` to the
//! answer of the VM's agent, and from the agent's word that it powers off until everything is freed. Beside it the same
//! containers under bare LXC, until the same agents listen, and killed. hkd runs in this process.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::future::try_join_all;
use qvd::hkd;
use tokio_util::sync::CancellationToken;

use crate::{
    bare::{Bare, Running},
    claims::{Did, Seen, Sight},
    desktop,
    report::{Report, Samples},
    site::{BenchSite, program},
};

const WARM_UP: usize = 2;
/// For all VMs to come to where they are to go.
const LIMIT: Duration = Duration::from_secs(120);

/// What the rounds took.
#[derive(Default)]
struct Lives {
    starts: Samples,
    bare_starts: Samples,
    frees: Samples,
    bare_kills: Samples,
}

/// From the start to the agent's answer.
pub async fn starts(repetitions: usize, at_once: usize, seen: Seen) -> anyhow::Result<Report> {
    let lives = run(repetitions, at_once, seen).await?;
    let (ours, bare) = (lives.starts, lives.bare_starts);
    let mut report = Report { scenario: "vmstart", repetitions, ..Report::default() };
    report.figure("start_p50_ms", ours.ms(0.5));
    report.figure("over_bare_p50_ms", ours.ms(0.5) - bare.ms(0.5));
    report.peer("lxc-start", "start_p50_ms", bare.ms(0.5));
    report.spread.insert("start_ms".to_owned(), ours.spread());
    report.spread.insert("bare_ms".to_owned(), bare.spread());
    Ok(report)
}

/// From the agent's word to the end of everything.
pub async fn stops(repetitions: usize, at_once: usize, seen: Seen) -> anyhow::Result<Report> {
    let lives = run(repetitions, at_once, seen).await?;
    let (ours, bare) = (lives.frees, lives.bare_kills);
    let mut report = Report { scenario: "vmstop", repetitions, ..Report::default() };
    report.figure("freed_p50_ms", ours.ms(0.5));
    report.peer("lxc-stop --kill", "freed_p50_ms", bare.ms(0.5));
    report.spread.insert("freed_ms".to_owned(), ours.spread());
    report.spread.insert("bare_ms".to_owned(), bare.spread());
    Ok(report)
}

async fn run(repetitions: usize, at_once: usize, mut seen: Seen) -> anyhow::Result<Lives> {
    anyhow::ensure!((1..=100).contains(&at_once), "1 to 100 VMs can be started at once");
    let bench = desktop::open("bvs", 2).await?;
    bench
        .site
        .sql(&format!(
            "select vm_create('{}', 'd' || n, 'desktop') from generate_series(2, {at_once}) n",
            desktop::LOGIN
        ))
        .await?;
    let mut config = bench.site.config()?;
    let beside = program()?;
    config.set("path.qvd.bin", beside.parent().unwrap_or(Path::new("/")).display().to_string())?;
    let stop = CancellationToken::new();
    let daemon = tokio::spawn(hkd::run(config, hkd::hypervisor_for, stop.clone()));
    bench.site.wait_for("hkd did not start", "select state from host_runtimes", "running").await?;
    let outcome = rounds(&bench, &mut seen, repetitions, at_once).await;
    bench.site.stop_vms().await?;
    stop.cancel();
    daemon.await??;
    bench.close().await?;
    outcome
}

async fn rounds(bench: &BenchSite, seen: &mut Seen, repetitions: usize, at_once: usize) -> anyhow::Result<Lives> {
    let all = format!("{at_once}");
    let mut lives = Lives::default();
    for round in 0..repetitions + WARM_UP {
        while seen.try_recv().is_ok() {}
        bench.site.sql("select vm_start(id) from vms").await?;
        let began = Instant::now();
        let running = moments(seen, Did::Running, at_once).await?;
        let copies: Vec<Bare> = running.keys().map(|vm| Bare::copy(bench, *vm)).collect::<anyhow::Result<_>>()?;
        bench.site.wait_for("not all run", "select count(*) from vm_runtimes where vm_state = 'running'", &all).await?;
        bench.site.sql("select vm_stop(id) from vms").await?;
        let mut powering_off = HashMap::new();
        let mut freed = HashMap::new();
        while freed.len() < at_once {
            let Sight { did, vm, at } = sight(seen).await?;
            match did {
                Did::PoweringOff => drop(powering_off.insert(vm, at)),
                Did::Stopped => drop(freed.insert(vm, at)),
                _ => {}
            }
        }
        bench
            .site
            .wait_for("not all stopped", "select count(*) from vm_runtimes where vm_state = 'stopped'", &all)
            .await?;
        let bare = try_join_all(copies.iter().map(Bare::start)).await?;
        let (bare_starts, bare): (Vec<Duration>, Vec<Running>) = bare.into_iter().unzip();
        let bare_kills = try_join_all(bare.into_iter().map(Running::kill)).await?;
        if round < WARM_UP {
            continue;
        }
        running.values().for_each(|at| lives.starts.add(at.saturating_duration_since(began)));
        for (vm, at) in freed {
            let off = powering_off.get(&vm).context("a VM ended before its agent said so")?;
            lives.frees.add(at.saturating_duration_since(*off));
        }
        bare_starts.into_iter().for_each(|took| lives.bare_starts.add(took));
        bare_kills.into_iter().for_each(|took| lives.bare_kills.add(took));
    }
    Ok(lives)
}

/// When so many VMs did something.
async fn moments(seen: &mut Seen, wanted: Did, count: usize) -> anyhow::Result<HashMap<i32, Instant>> {
    let mut moments = HashMap::new();
    while moments.len() < count {
        let Sight { did, vm, at } = sight(seen).await?;
        if did == wanted {
            moments.insert(vm, at);
        }
    }
    Ok(moments)
}

async fn sight(seen: &mut Seen) -> anyhow::Result<Sight> {
    let sight = tokio::time::timeout(LIMIT, seen.recv()).await.context("hkd does nothing any more")?;
    sight.context("hkd has ended")
}
