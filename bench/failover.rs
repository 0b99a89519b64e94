//! From the last sign of life of a node to its user's desktop elsewhere: three nodes with real containers, one of which loses
//! power in each round. Others may not take over before the lapse is over, which is the floor of it all.

use std::time::Duration;

use anyhow::Context;
use qvd::{
    demo::{
        hosts::{Hosts, HostsOptions},
        postgres::Durability,
    },
    model::config::{Config, NetworkMode, keys},
    network::Family,
};

use crate::{
    report::{Report, Samples},
    site::program,
};

/// The user and the desktop.
const USER: usize = 1;

pub async fn run(rounds: usize) -> anyhow::Result<Report> {
    let directory = tempfile::Builder::new().prefix("qvdb").tempdir_in("/var/tmp")?;
    let hosts = Hosts::open(HostsOptions {
        directory: directory.path().to_owned(),
        program: program()?,
        name: "bfo".to_owned(),
        network: (250, 9),
        family: Family::V4,
        mode: NetworkMode::Flat,
        count: 3,
        durability: Durability::Durable,
        settings: Vec::new(),
    })
    .await?;
    let vm = *hosts.desktops(USER).await?.first().context("no desktop")?;
    let witness = hosts.witness().await?;
    let (mut signs, mut offs) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        // Anywhere between two signs of life. The others know a node only when they saw its heart beat twice.
        let renew: Duration = Config::default().get(&keys::HKD_LEASE_RENEW);
        tokio::time::sleep(renew * 3 + renew.mul_f64(rand::random())).await;
        let (outage, victim) = hosts.fail_over(&witness, USER, vm).await?;
        signs.add(outage.since_sign);
        offs.add(outage.since_off);
        victim.start()?;
        hosts.wait_node(victim).await?;
    }
    let mut report = Report { scenario: "failover", repetitions: rounds, ..Report::default() };
    report.figure("unavailable_p50_s", signs.ms(0.5) / 1000.0);
    report.figure("unavailable_p95_s", signs.ms(0.95) / 1000.0);
    report.figure("unavailable_max_s", signs.ms(1.0) / 1000.0);
    report.figure("since_power_loss_p50_s", offs.ms(0.5) / 1000.0);
    report.figure("double_runs", witness.double_runs().len() as f64);
    let lapse: Duration = Config::default().get(&keys::HKD_LEASE_LAPSE);
    report.peer("lapse", "unavailable_p50_s", lapse.as_secs_f64());
    report.spread.insert("unavailable_ms".to_owned(), signs.spread());
    Ok(report)
}
