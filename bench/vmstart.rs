//! From the return of `vm_start`, image unpacked, to the answer of the VM's agent; beside a bare `lxc-start` of the
//! same container until the same agent answers. hkd runs in this process.

use std::{path::Path, time::Instant};

use qvd::hkd;
use tokio_util::sync::CancellationToken;

use crate::{
    bare::Bare,
    claims::{Did, Seen, next},
    desktop::{self, VM},
    report::{Report, Samples},
    site::{BenchSite, program},
};

pub async fn run(repetitions: usize, mut seen: Seen) -> anyhow::Result<Report> {
    let bench = desktop::open("bvs", 2).await?;
    let mut config = bench.site.config()?;
    let beside = program()?;
    config.set("path.qvd.bin", beside.parent().unwrap_or(Path::new("/")).display().to_string())?;
    let stop = CancellationToken::new();
    let daemon = tokio::spawn(hkd::run(config, hkd::hypervisor_for, stop.clone()));
    bench.site.wait_for("hkd did not start", "select state from host_runtimes", "running").await?;
    let outcome = measure(&bench, &mut seen, repetitions).await;
    bench.site.stop_vms().await?;
    stop.cancel();
    daemon.await??;
    bench.close().await?;
    outcome
}

async fn measure(bench: &BenchSite, seen: &mut Seen, repetitions: usize) -> anyhow::Result<Report> {
    let (mut ours, mut bare) = (Samples::default(), Samples::default());
    let warm_up = 2;
    for round in 0..repetitions + warm_up {
        while seen.try_recv().is_ok() {}
        bench.site.sql(&format!("select vm_start('{VM}')")).await?;
        let began = Instant::now();
        let running = next(seen, Did::Running).await?;
        let id = bench.site.sql("select id from vms").await?.unwrap_or_default();
        let run = bench.site.run_directory().join("vm").join(id);
        let copy = Bare::copy(&run, bench.directory.path())?;
        bench.site.wait_vm(VM, "running").await?;
        bench.site.sql(&format!("select vm_stop('{VM}')")).await?;
        bench.site.wait_vm(VM, "stopped").await?;
        let alone = copy.start().await?;
        if round >= warm_up {
            ours.add(running.saturating_duration_since(began));
            bare.add(alone);
        }
    }
    let mut report = Report { scenario: "vmstart", repetitions, ..Report::default() };
    report.figure("start_p50_ms", ours.ms(0.5));
    report.figure("bare_p50_ms", bare.ms(0.5));
    report.figure("over_bare_p50_ms", ours.ms(0.5) - bare.ms(0.5));
    report.peer("lxc-start", "start_p50_ms", bare.ms(0.5));
    report.spread.insert("start_ms".to_owned(), ours.spread());
    report.spread.insert("bare_ms".to_owned(), bare.spread());
    Ok(report)
}
