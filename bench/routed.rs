//! What it costs to reach a desktop through the router of another node where nodes share no network: a session's beginning, one
//! exchange, and bulk there and back. The peer is the same on nodes that share one, where that way is straight. Clients speak
//! plain TCP, so that the peer's bytes never leave the kernel: all that the detour takes is in the difference.

use std::time::{Duration, Instant};

use anyhow::Context;
use qvd::{
    demo::{
        hosts::{Hosts, HostsOptions, Node, Tunnel},
        postgres::Durability,
    },
    model::{VmId, config::NetworkMode},
    network::Family,
};

use crate::{
    report::{Report, Samples},
    site::program,
};

/// Exchanges in each round.
const EXCHANGES: usize = 300;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Measured {
    connects: Samples,
    exchanges: Samples,
    /// In MiB per second, there and back.
    rates: Vec<f64>,
}

struct Side {
    hosts: Hosts,
    vm: VmId,
    measured: Measured,
    // Last: files go when nobody writes any.
    _directory: tempfile::TempDir,
}

impl Side {
    async fn open(mode: NetworkMode, name: &str, network: (u8, u8)) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("qvdb").tempdir_in("/var/tmp")?;
        let hosts = Hosts::open(HostsOptions {
            directory: directory.path().to_owned(),
            program: program()?,
            name: name.to_owned(),
            network,
            family: Family::V4,
            mode,
            count: 2,
            durability: Durability::Durable,
            settings: Vec::new(),
        })
        .await?;
        let vm = *hosts.desktops(1).await?.first().context("no desktop")?;
        let side = Self { hosts, vm, measured: Measured::default(), _directory: directory };
        // So that it runs, and each router knows the way.
        let through = side.hosts.nodes().first().context("no node")?;
        side.tunnel(through).await?;
        Ok(side)
    }

    async fn tunnel(&self, through: &Node) -> anyhow::Result<Tunnel> {
        let mut tunnel = Tunnel::open(through, self.hosts.token(1), self.vm).await?;
        tunnel.ping(PATIENCE).await?;
        Ok(tunnel)
    }

    async fn measure(&mut self, bytes: usize) -> anyhow::Result<()> {
        let at = format!("select h.name from hosts h join vm_runtimes on host_id = h.id where vm_id = {}", self.vm);
        let at = self.hosts.sql(&at).await?;
        let other =
            self.hosts.nodes().iter().find(|node| at.as_deref() != Some(node.name())).context("no other node")?;
        let begin = Instant::now();
        let mut tunnel = self.tunnel(other).await?;
        self.measured.connects.add(begin.elapsed());
        for _ in 0..EXCHANGES {
            let begin = Instant::now();
            tunnel.ping(PATIENCE).await?;
            self.measured.exchanges.add(begin.elapsed());
        }
        let took = tunnel.carry(bytes).await?;
        self.measured.rates.push(bytes as f64 / f64::from(1 << 20) / took.as_secs_f64());
        drop(tunnel);
        let query = "select count(*) from user_sessions where ended_at is null";
        self.hosts.wait_for("the session does not end", query, "0").await?;
        Ok(())
    }
}

pub async fn run(repetitions: usize, bytes: usize) -> anyhow::Result<Report> {
    let mut flat = Side::open(NetworkMode::Flat, "brf", (250, 11)).await?;
    let mut routed = Side::open(NetworkMode::Routed, "brr", (240, 11)).await?;
    for _ in 0..repetitions {
        flat.measure(bytes).await?;
        routed.measure(bytes).await?;
    }
    let (flat, routed) = (&mut flat.measured, &mut routed.measured);
    let rates = [rate(&mut routed.rates), rate(&mut flat.rates)];
    let mut report = Report { scenario: "routed", repetitions, ..Report::default() };
    report.figure("connect_p50_ms", routed.connects.ms(0.5));
    report.figure("exchange_p50_us", routed.exchanges.us(0.5));
    report.figure("echo_mib_per_s", rates[0]);
    report.figure("added_connect_p50_ms", routed.connects.ms(0.5) - flat.connects.ms(0.5));
    report.figure("added_exchange_p50_us", routed.exchanges.us(0.5) - flat.exchanges.us(0.5));
    report.figure("ratio_connect_p50", routed.connects.ms(0.5) / flat.connects.ms(0.5));
    report.figure("ratio_exchange_p50", routed.exchanges.us(0.5) / flat.exchanges.us(0.5));
    report.figure("ratio_rate", rates[0] / rates[1]);
    report.peer("flat", "connect_p50_ms", flat.connects.ms(0.5));
    report.peer("flat", "exchange_p50_us", flat.exchanges.us(0.5));
    report.peer("flat", "echo_mib_per_s", rates[1]);
    for (name, samples) in [("connect", &routed.connects), ("exchange", &routed.exchanges)] {
        report.spread.insert(format!("{name}_ms"), samples.spread());
    }
    Ok(report)
}

/// The median.
fn rate(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}
