//! From the return of `vm_start`, image unpacked, to the answer of the VM's agent; beside a bare `lxc-start` of the
//! same container until the same agent answers. hkd runs in this process.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use qvd::hkd;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::{
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

/// The container of ours as plain LXC runs it: same root, same agent, same limits. Its network is its own, so the
/// agent is asked from inside the container's namespace.
struct Bare {
    directory: PathBuf,
    config: PathBuf,
}

const NAME: &str = "qvd-bench-bare";

impl Bare {
    fn copy(run: &Path, to: &Path) -> anyhow::Result<Self> {
        let directory = to.join("bare");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join(NAME))?;
        let guest = directory.join("guest");
        copy_tree(&run.join("guest"), &guest)?;
        let text = std::fs::read_to_string(run.join("config"))?;
        let text = text.replace(&run.join("guest").display().to_string(), &guest.display().to_string());
        let config = directory.join("config");
        std::fs::write(&config, text)?;
        Ok(Self { directory, config })
    }

    async fn start(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let mut container = Command::new("lxc-start")
            .args(["-F", "-n", NAME, "-P"])
            .arg(&self.directory)
            .arg("-f")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("lxc-start cannot be run")?;
        let answered = self.wait_for_agent(&mut container).await;
        let took = began.elapsed();
        let _ = Command::new("lxc-stop").args(["-k", "-n", NAME, "-P"]).arg(&self.directory).status().await;
        let _ = container.wait().await;
        answered?;
        Ok(took)
    }

    /// The agent listens when the kernel says so in the namespace of the container's first process.
    async fn wait_for_agent(&self, container: &mut tokio::process::Child) -> anyhow::Result<()> {
        let began = Instant::now();
        let monitor = container.id().context("lxc-start has ended")?;
        loop {
            anyhow::ensure!(container.try_wait()?.is_none(), "the bare container ended at once");
            anyhow::ensure!(began.elapsed() < Duration::from_secs(30), "the bare container's agent does not listen");
            let children = std::fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children"));
            for child in children.unwrap_or_default().split_whitespace() {
                let sockets = std::fs::read_to_string(format!("/proc/{child}/net/tcp")).unwrap_or_default()
                    + &std::fs::read_to_string(format!("/proc/{child}/net/tcp6")).unwrap_or_default();
                // Port 3030, listening.
                if sockets.lines().any(|line| line.contains(":0BD6 ") && line.contains(" 0A ")) {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
