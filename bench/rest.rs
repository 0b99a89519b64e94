//! What a node costs that only watches its containers: processor time of its processes over a window in which nobody does
//! anything. Beside it, what the containers themselves use.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{cpu, report::Report, site::BenchSite, small::pack};

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
    anyhow::ensure!(vms <= 150, "the network of a benchmark has room for 150 VMs");
    let bench = BenchSite::open("bre", 12, "lxc", &[("storage.local", "0")]).await?;
    let image = bench.directory.path().join("small.tar");
    pack(&image)?;
    bench.site.add_image(&image, "small.tar")?;
    bench.site.sql("select osf_create('small', 64), user_create('u'); select di_create('small', 'small.tar')").await?;
    bench.site.sql(&format!("select vm_create('u', 'v' || n, 'small') from generate_series(1, {vms}) n")).await?;
    bench.site.start_node().await?;
    bench.site.sql("select vm_start(id) from vms").await?;
    let mut report = Report { scenario: "rest", repetitions: 1, ..Report::default() };
    let outcome = async {
        let running = format!("select count(*) >= {vms} from vm_runtimes where vm_state = 'running'");
        for _ in 0..5 {
            if bench.site.wait_for("not all VMs run", &running, "t").await.is_ok() {
                break;
            }
        }
        bench.site.wait_for("not all VMs run", &running, "t").await?;
        sleep(Duration::from_secs(10)).await;
        watch(&bench, Duration::from_secs(seconds), &mut report).await
    }
    .await;
    bench.close().await?;
    outcome.map(|()| report)
}

async fn watch(bench: &BenchSite, window: Duration, report: &mut Report) -> anyhow::Result<()> {
    let directory = bench.directory.path();
    let (before, began) = (used(directory)?, Instant::now());
    sleep(window).await;
    let (after, lasted) = (used(directory)?, began.elapsed());
    let mut all = 0.0;
    for (kind, used) in after {
        let share = used.saturating_sub(before.get(kind).copied().unwrap_or_default()).as_secs_f64()
            / lasted.as_secs_f64()
            * 100.0;
        match kind {
            "inside" | "postgres" => report.peer(kind, "cpu_percent", share),
            _ => {
                all += share;
                report.figure(format!("{kind}_cpu_percent"), share);
            }
        }
    }
    report.figure("cpu_percent", all);
    Ok(())
}

/// Processor time by kind of process.
fn used(directory: &Path) -> anyhow::Result<BTreeMap<&'static str, Duration>> {
    let directory = directory.display().to_string();
    let mut used = BTreeMap::new();
    for pid in cpu::processes()? {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into()).collect();
        if !words.iter().any(|word| word.contains(&directory)) {
            continue;
        }
        let has = |wanted: &str| words.iter().any(|word| word == wanted);
        let kind = match words[0].rsplit('/').next().unwrap_or_default() {
            "postgres" => {
                used.insert("postgres", cpu::of_tree(pid)?);
                continue;
            }
            // The monitor, which has renamed itself, and what it started: the first process of the VM and its kin.
            name if name.contains("lxc") => {
                let own = cpu::of_process(pid);
                *used.entry("inside").or_default() += cpu::of_tree(pid)?.saturating_sub(own);
                *used.entry("lxc").or_default() += own;
                continue;
            }
            _ if has("shim") => "shim",
            _ if has("hkd") => "hkd",
            _ if has("l7r") => "l7r",
            _ if has("keeper") => "keeper",
            _ if has("node") => "node",
            _ => "other",
        };
        *used.entry(kind).or_default() += cpu::of_process(pid);
    }
    Ok(used)
}
