//! How many lists of VMs a router answers: over connections that clients keep, and with a new TLS connection and a full
//! check of the password each time. The second is held against what the processors could do if they did nothing but
//! hash. Clients, router and database share the machine.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use qvd::auth;
use tokio::task::JoinSet;

use crate::{
    clients::{Door, LOGIN, PASSWORD, RAMP},
    report::Report,
    shares::{Processes, Shares},
    site::BenchSite,
};

const KEPT: usize = 8;
/// Of each side in each repetition.
const WINDOW: Duration = Duration::from_secs(4);

/// A router and the user whom it serves.
pub struct Desk {
    pub bench: BenchSite,
    pub door: Door,
}

impl Desk {
    /// With so many VMs, at addresses that this machine has.
    pub async fn open(name: &str, network: u8, vms: usize) -> anyhow::Result<Self> {
        let bench =
            BenchSite::open(name, network, "nothing", &[("internal.hkd.nothing.timeout.on_state.starting", "0.05")])
                .await?;
        bench.site.sql("select osf_create('desk'), di_create('desk', 'desk.tar')").await?;
        bench.site.sql(&format!("select user_create('{LOGIN}', '{PASSWORD}')")).await?;
        for vm in 1..=vms {
            let create = format!("select vm_create('{LOGIN}', 'd{vm}', 'desk', ip => '{}')", address(network, vm));
            bench.site.sql(&create).await?;
        }
        bench.site.start_node().await?;
        let door = Door::new(bench.site.port(), &bench.site.certificate())?;
        let desk = Self { bench, door };
        // The first login makes an argon2id hash of what SQL made.
        desk.door.session().await?.list().await?;
        let upgraded = "select password like '$argon2id$%' from users";
        desk.bench.site.wait_for("the password was not hashed anew", upgraded, "t").await?;
        Ok(desk)
    }
}

/// Where VM number `vm` is.
pub fn address(network: u8, vm: usize) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(127, 99, network, vm as u8)
}

pub async fn run(repetitions: usize) -> anyhow::Result<Report> {
    let desk = Desk::open("bls", 7, 3).await?;
    let outcome = measure(&desk, repetitions).await;
    desk.bench.close().await?;
    outcome
}

async fn measure(desk: &Desk, repetitions: usize) -> anyhow::Result<Report> {
    let mut sessions = Vec::new();
    for _ in 0..KEPT {
        let mut session = desk.door.session().await?;
        ensure!(session.list().await?.len() == 3);
        sessions.push(session);
    }
    let cores = std::thread::available_parallelism()?.get();
    let stored = desk.bench.site.sql("select password from users").await?.context("no password")?;
    let (mut kept, mut new, mut alone, mut hashes, mut ratios) = (vec![], vec![], vec![], vec![], vec![]);
    let processes = Processes::find(&desk.bench).await?;
    let (mut shares, mut logins) = (Shares::default(), 0.0);
    for _ in 0..repetitions {
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for mut session in sessions.drain(..) {
            clients.spawn(async move {
                let mut served = 0_u64;
                while began.elapsed() < WINDOW {
                    session.list().await?;
                    served += 1;
                }
                anyhow::Ok((served, session))
            });
        }
        let mut served = 0;
        while let Some(client) = clients.join_next().await {
            let (own, session) = client??;
            served += own;
            sessions.push(session);
        }
        kept.push(served as f64 / began.elapsed().as_secs_f64());

        alone.push(time_of_a_hash(&stored, 1)?.as_secs_f64() * 1000.0);
        let hash = time_of_a_hash(&stored, cores)?;
        let before = processes.used()?;
        let served = desk.door.storm(4 * cores, WINDOW).await?;
        shares.add(before, processes.used()?);
        logins += served * (RAMP + WINDOW).as_secs_f64();
        hashes.push(hash.as_secs_f64() * 1000.0);
        new.push(served);
        ratios.push(served * hash.as_secs_f64() / cores as f64);
    }
    let mut report = Report { scenario: "list", repetitions, ..Report::default() };
    shares.report("new", logins as usize, &mut report);
    for (key, mut values) in [
        ("kept_per_s", kept),
        ("new_per_s", new),
        ("hash_alone_p50_ms", alone),
        ("hash_p50_ms", hashes),
        ("new_ratio", ratios),
    ] {
        values.sort_by(f64::total_cmp);
        report.figure(key, values[values.len() / 2]);
        report.spread.insert(key.to_owned(), serde_json::json!([values[0], values[values.len() - 1]]));
    }
    Ok(report)
}

/// Of one check while so many processors do nothing else: they share caches and memory.
fn time_of_a_hash(stored: &str, processors: usize) -> anyhow::Result<Duration> {
    let checks = || -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..9 {
            let began = Instant::now();
            ensure!(auth::check(stored, PASSWORD, "") == auth::Check::Right(auth::PasswordKind::Argon2id));
            times.push(began.elapsed());
        }
        Ok(times)
    };
    let mut times = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(checks)).collect();
        let mut times = Vec::new();
        for thread in threads {
            times.append(&mut thread.join().map_err(|_| anyhow!("a check panicked"))??);
        }
        anyhow::Ok(times)
    })?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
