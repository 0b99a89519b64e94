//! What those who work feel of those who log in: round trips of 64 bytes through 100 tunnels, calm and during a storm of
//! clients that connect, have their password checked and ask for the list.

use std::time::{Duration, Instant};

use qvd::{model::VmId, tunnel::Conn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::JoinSet,
    time::MissedTickBehavior,
};

use crate::{
    fake,
    list::{Desk, address},
    report::{Report, Samples},
};

const TUNNELS: usize = 100;
const NETWORK: u8 = 8;
/// Of each side in each repetition.
const WINDOW: Duration = Duration::from_secs(2);
/// From one round trip of a tunnel to its next: somebody types fast.
const PACE: Duration = Duration::from_millis(50);
/// Clients that log in at the same time.
const STORM: usize = 16;

pub async fn run(repetitions: usize) -> anyhow::Result<Report> {
    let mut vms = JoinSet::new();
    for vm in 1..=TUNNELS {
        fake::play(address(NETWORK, vm), &mut vms).await?;
    }
    let desk = Desk::open("blo", NETWORK, TUNNELS).await?;
    let outcome = measure(&desk, repetitions).await;
    desk.bench.close().await?;
    outcome
}

async fn measure(desk: &Desk, repetitions: usize) -> anyhow::Result<Report> {
    desk.bench.site.sql("select vm_start(id) from vms").await?;
    let running = "select count(*) from vm_runtimes where vm_state = 'running'";
    desk.bench.site.wait_for("not all VMs run", running, &TUNNELS.to_string()).await?;
    let mut tunnels = Vec::new();
    for vm in desk.door.session().await?.list().await? {
        let link = desk.door.session().await?.connect(VmId(vm.id.0), &[], &mut |_| {}).await?;
        tunnels.push(link.conn);
    }
    let (mut calm, mut stormy) = (Samples::default(), Samples::default());
    let (mut slowdowns, mut logins) = (Vec::new(), Vec::new());
    for _ in 0..repetitions {
        let quiet = window(&mut tunnels, &mut calm).await?;
        let storm = desk.door.storm(STORM, WINDOW);
        let (served, loud) = tokio::try_join!(storm, window(&mut tunnels, &mut stormy))?;
        logins.push(served);
        slowdowns.push(loud / quiet);
    }
    let mut report = Report { scenario: "logins", repetitions, ..Report::default() };
    report.figure("calm_p50_ms", calm.ms(0.5));
    report.figure("calm_p99_ms", calm.ms(0.99));
    report.figure("storm_p50_ms", stormy.ms(0.5));
    report.figure("storm_p99_ms", stormy.ms(0.99));
    slowdowns.sort_by(f64::total_cmp);
    logins.sort_by(f64::total_cmp);
    report.figure("tunnel_p99_slowdown", slowdowns[slowdowns.len() / 2]);
    report.figure("logins_per_s", logins[logins.len() / 2]);
    report
        .spread
        .insert("tunnel_p99_slowdown".to_owned(), serde_json::json!([slowdowns[0], slowdowns[slowdowns.len() - 1]]));
    Ok(report)
}

/// Round trips through all tunnels for a while; the time below which 99 of 100 lie, in milliseconds.
async fn window(tunnels: &mut Vec<Conn>, all: &mut Samples) -> anyhow::Result<f64> {
    let until = Instant::now() + WINDOW;
    let (start, started) = watch::channel(());
    let mut users = JoinSet::new();
    for (number, mut tunnel) in tunnels.drain(..).enumerate() {
        let mut started = started.clone();
        users.spawn(async move {
            let _ = started.changed().await;
            let first = tokio::time::Instant::now() + PACE * number as u32 / TUNNELS as u32;
            let mut pace = tokio::time::interval_at(first, PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut trips = Vec::new();
            while Instant::now() < until {
                pace.tick().await;
                let began = Instant::now();
                tunnel.write_all(&[7; 64]).await?;
                tunnel.flush().await?;
                tunnel.read_exact(&mut [0; 64]).await?;
                trips.push(began.elapsed());
            }
            anyhow::Ok((tunnel, trips))
        });
    }
    start.send_replace(());
    let mut own = Samples::default();
    while let Some(user) = users.join_next().await {
        let (tunnel, trips) = user??;
        tunnels.push(tunnel);
        for trip in trips {
            own.add(trip);
            all.add(trip);
        }
    }
    Ok(own.ms(0.99))
}
