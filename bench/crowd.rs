//! Many small containers on one node: how long until all of them answer, and what is left when they have stopped.

use std::{
    fs::{read_dir, read_to_string},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use qvd::{
    model::{
        VmSecret,
        config::{Config, keys},
    },
    vma::client::AgentClient,
};
use tokio::task::JoinSet;

use crate::{
    report::Report,
    site::BenchSite,
    small::{self, Part},
};

const NODE: &str = "bcd";

#[derive(clap::Args, Clone, Copy)]
pub struct Arguments {
    /// Containers
    #[arg(long, default_value_t = 200)]
    vms: usize,
}

pub async fn run(Arguments { vms }: Arguments) -> anyhow::Result<Report> {
    let bench = small::open(NODE, 15, vms, &[]).await?;
    let mut report = Report { scenario: "crowd", repetitions: 1, ..Report::default() };
    let outcome = measure(&bench, vms, &mut report).await;
    bench.close().await?;
    outcome.map(|()| report)
}

async fn measure(bench: &BenchSite, vms: usize, report: &mut Report) -> anyhow::Result<()> {
    let config = bench.site.config()?;
    let began = Instant::now();
    small::start(bench, vms).await?;
    report.figure("started_s", began.elapsed().as_secs_f64());
    report.figure("answering", answering(bench, &config).await? as f64);
    let began = Instant::now();
    bench.site.stop_vms().await?;
    report.figure("stopped_s", began.elapsed().as_secs_f64());
    let left = leftovers(bench, &config)?;
    for trace in &left {
        eprintln!("left: {trace}");
    }
    report.figure("leftovers", left.len() as f64);
    Ok(())
}

/// How many agents answer when they are asked, each with the secret of its run.
async fn answering(bench: &BenchSite, config: &Config) -> anyhow::Result<usize> {
    let agents = "select string_agg(host(vm_address) || ' ' || encode(secret, 'hex'), ',') from vm_runtimes join vm_specs using (vm_id)";
    let agents = bench.site.sql(agents).await?.context("there are no VMs")?;
    let port = config.get(&keys::VM_PORT_VMA);
    let mut asked = JoinSet::new();
    for agent in agents.split(',') {
        let (address, secret) = agent.split_once(' ').context("a VM has no address")?;
        let address = SocketAddr::new(address.parse()?, port);
        let agent = AgentClient::new(address, Some(VmSecret::parse(secret)?), Duration::from_secs(10));
        asked.spawn(async move { agent.ping().await.is_ok() });
    }
    Ok(asked.join_all().await.into_iter().filter(|answers| *answers).count())
}

/// What is still there because a VM ran: processes, mounts, interfaces, control groups, directories of runs.
fn leftovers(bench: &BenchSite, config: &Config) -> anyhow::Result<Vec<String>> {
    let mut left: Vec<String> = small::parts(bench)?
        .into_iter()
        .filter(|(part, _)| matches!(part, Part::Shim | Part::Monitor | Part::Inside))
        .map(|(part, pid)| format!("{} {pid}", part.name()))
        .collect();
    let mounts = read_to_string("/proc/self/mountinfo")?;
    left.extend(mounts.lines().filter(|line| bench.owns(line)).map(str::to_owned));
    let port = config.get(&keys::VM_DEVICE_PREFIX);
    left.extend(names("/sys/class/net").into_iter().filter(|name| name.starts_with(&port)));
    let container = format!("qvd-{NODE}-");
    let hierarchies = names("/sys/fs/cgroup").into_iter().map(|name| format!("/sys/fs/cgroup/{name}"));
    for hierarchy in std::iter::once("/sys/fs/cgroup".to_owned()).chain(hierarchies) {
        left.extend(names(&hierarchy).into_iter().filter(|name| name.contains(&container)));
    }
    let runs = config.get(&keys::PATH_RUN).join("vm");
    left.extend(names(&runs.display().to_string()).into_iter().map(|name| format!("{}/{name}", runs.display())));
    Ok(left)
}

fn names(directory: &str) -> Vec<String> {
    let entries = read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
