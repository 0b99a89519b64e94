//! How many lists of VMs a router answers: over connections that clients keep, and with a new TLS connection and a full
//! check of the password each time. The second is held against what the processors could do if they did nothing but
//! hash. Clients, router and database share the machine.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use qvd::{
    auth,
    client::{
        session::{Credentials, Server, Session},
        trust::Trust,
    },
};
use tokio::task::JoinSet;

use crate::{report::Report, site::BenchSite};

const KEPT: usize = 8;
/// Of each side in each repetition.
const WINDOW: Duration = Duration::from_secs(2);
const LOGIN: &str = "bench";
const PASSWORD: &str = "measured";

/// A router and the user whom it serves.
pub struct Desk {
    pub bench: BenchSite,
    pub server: Server,
    trust: Arc<Trust>,
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
        let trust = Arc::new(Trust::load(None, &[bench.site.certificate()])?);
        let server = Server { host: "localhost".to_owned(), port: bench.site.port() };
        let desk = Self { bench, server, trust };
        // The first login makes an argon2id hash of what SQL made.
        desk.session().await?.list().await?;
        let upgraded = "select password like '$argon2id$%' from users";
        desk.bench.site.wait_for("the password was not hashed anew", upgraded, "t").await?;
        Ok(desk)
    }

    /// A new connection; whoever is at its other end has not been asked anything yet.
    pub async fn session(&self) -> anyhow::Result<Session> {
        let credentials = Credentials::Password { login: LOGIN.to_owned(), password: PASSWORD.to_owned() };
        Ok(Session::open(&self.server, credentials, Some(&self.trust)).await?)
    }

    /// One client after another, `at_once` at a time, each with a connection of its own, until the moment has come.
    pub async fn storm(self: &Arc<Self>, at_once: usize, until: Instant) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..at_once {
            let desk = self.clone();
            clients.spawn(async move {
                let mut served = 0_u64;
                while Instant::now() < until {
                    desk.session().await?.list().await?;
                    served += 1;
                }
                anyhow::Ok(served)
            });
        }
        Ok(sum(clients).await? as f64 / began.elapsed().as_secs_f64())
    }
}

/// Where VM number `vm` is.
pub fn address(network: u8, vm: usize) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(127, 99, network, vm as u8)
}

pub async fn run(repetitions: usize) -> anyhow::Result<Report> {
    let desk = Arc::new(Desk::open("bls", 7, 3).await?);
    let outcome = measure(&desk, repetitions).await;
    Arc::into_inner(desk).context("a client is left")?.bench.close().await?;
    outcome
}

async fn measure(desk: &Arc<Desk>, repetitions: usize) -> anyhow::Result<Report> {
    let mut sessions = Vec::new();
    for _ in 0..KEPT {
        let mut session = desk.session().await?;
        ensure!(session.list().await?.len() == 3);
        sessions.push(session);
    }
    let cores = std::thread::available_parallelism()?.get();
    let stored = desk.bench.site.sql("select password from users").await?.context("no password")?;
    let (mut kept, mut new, mut hashes, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
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

        let hash = time_of_a_hash(&stored)?;
        let served = desk.storm(4 * cores, Instant::now() + WINDOW).await?;
        hashes.push(hash.as_secs_f64() * 1000.0);
        new.push(served);
        ratios.push(served * hash.as_secs_f64() / cores as f64);
    }
    let mut report = Report { scenario: "list", repetitions, ..Report::default() };
    for (key, mut values) in [("kept_per_s", kept), ("new_per_s", new), ("hash_p50_ms", hashes), ("new_ratio", ratios)]
    {
        values.sort_by(f64::total_cmp);
        report.figure(key, values[values.len() / 2]);
        report.spread.insert(key.to_owned(), serde_json::json!([values[0], values[values.len() - 1]]));
    }
    Ok(report)
}

/// Of one check with nothing else going on.
fn time_of_a_hash(stored: &str) -> anyhow::Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        ensure!(auth::check(stored, PASSWORD, "") == auth::Check::Right(auth::PasswordKind::Argon2id));
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

async fn sum(mut clients: JoinSet<anyhow::Result<u64>>) -> anyhow::Result<u64> {
    let mut all = 0;
    while let Some(client) = clients.join_next().await {
        all += client??;
    }
    Ok(all)
}
