//! From TCP connect to 101 for a running VM whose X session is suspended, split into stages at the interim answers.
//! Time inside nxagent (from the order to resume until it listens) and the password hash, which is a stage of its
//! own, are not in the figures. After each round a real nxproxy resumes the session and is cut off, which suspends it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use qvd::{
    client::{
        session::{Credentials, Link, Server, Session},
        trust::Trust,
    },
    demo::display::Display,
    model::VmId,
};

use crate::{
    desktop::{self, LOGIN, PASSWORD, VM},
    report::{Report, Samples},
    site::BenchSite,
    together,
};

pub async fn run(repetitions: usize) -> anyhow::Result<Report> {
    let bench = desktop::open("bco", 3).await?;
    bench.site.start_node().await?;
    let outcome = measure(&bench, repetitions).await;
    bench.close().await?;
    let mut report = outcome?;
    together::measure(repetitions.div_ceil(4), &mut report).await?;
    Ok(report)
}

#[derive(Default)]
struct Stages {
    /// TCP and TLS.
    open: Samples,
    /// The password check, through the list that a client asks for anyway.
    login: Samples,
    /// From the request to the session being ours.
    acquire: Samples,
    /// The agent takes the order to resume.
    order: Samples,
    /// nxagent resumes until it listens.
    nxagent: Samples,
    /// TCP to nxagent, the last commit, and 101.
    switch: Samples,
    total: Samples,
    without_nxagent: Samples,
}

async fn measure(bench: &BenchSite, repetitions: usize) -> anyhow::Result<Report> {
    let display = Display::start(1280, 800).await?;
    let vm = VmId(bench.site.sql("select id from vms").await?.context("no VM")?.parse()?);
    let trust = Arc::new(Trust::load(None, &[bench.site.certificate()])?);
    let server = Server { host: "localhost".to_owned(), port: bench.site.port() };
    let mut stages = Stages::default();
    let mut commits = Vec::new();
    // The first round starts the VM and its session.
    for round in 0..=repetitions {
        let before = xids(bench).await?;
        let began = Instant::now();
        let credentials = Credentials::Password { login: LOGIN.to_owned(), password: PASSWORD.to_owned() };
        let mut session = Session::open(&server, credentials, Some(&trust)).await?;
        let opened = Instant::now();
        session.list().await?;
        let logged_in = Instant::now();
        let mut told: Vec<(String, Instant)> = Vec::new();
        let link = session
            .connect(vm, &desktop::parameters(), &mut |text| told.push((text.to_owned(), Instant::now())))
            .await?;
        let switched = Instant::now();
        let after = xids(bench).await?;
        if round > 0 {
            let at = |text: &str| {
                let found = told.iter().find(|(told, _)| told.starts_with(text)).map(|(_, at)| *at);
                found.with_context(|| format!("the router did not say {text:?}"))
            };
            let (ours, ordering) = (at("Session acquired")?, at("Starting X session")?);
            let (waiting, listening) = (at("Waiting for X")?, at("Connecting X")?);
            let nxagent = listening - waiting;
            let total = (switched - began) - (logged_in - opened);
            stages.open.add(opened - began);
            stages.login.add(logged_in - opened);
            stages.acquire.add(ours - logged_in);
            stages.order.add(waiting - ordering);
            stages.nxagent.add(nxagent);
            stages.switch.add(switched - listening);
            stages.total.add(total);
            stages.without_nxagent.add(total.saturating_sub(nxagent));
            commits.push(after.saturating_sub(before));
        }
        use_and_suspend(link, &display).await?;
        bench.site.wait_for("the session did not end", "select user_state from vm_runtimes", "disconnected").await?;
        ensure!(
            bench.site.sql(&format!("select vm_state from vm_runtimes where vm_id = vm_id('{VM}')")).await?.as_deref()
                == Some("running")
        );
    }
    let mut report = Report { scenario: "connect", repetitions, ..Report::default() };
    report.figure("connect_p50_ms", stages.total.ms(0.5));
    report.figure("connect_p95_ms", stages.total.ms(0.95));
    report.figure("without_nxagent_p50_ms", stages.without_nxagent.ms(0.5));
    commits.sort_unstable();
    report.figure("durable_commits", commits.get(commits.len() / 2).copied().unwrap_or_default() as f64);
    report.figure("stage_open_p50_ms", stages.open.ms(0.5));
    report.figure("stage_password_p50_ms", stages.login.ms(0.5));
    report.figure("stage_acquire_p50_ms", stages.acquire.ms(0.5));
    report.figure("stage_order_p50_ms", stages.order.ms(0.5));
    report.figure("stage_nxagent_p50_ms", stages.nxagent.ms(0.5));
    report.figure("stage_switch_p50_ms", stages.switch.ms(0.5));
    report.spread.insert("connect_ms".to_owned(), stages.total.spread());
    report.spread.insert("without_nxagent_ms".to_owned(), stages.without_nxagent.spread());
    Ok(report)
}

/// Transactions that wrote something so far; asking does not count. Renewals of the lease and counters are counted
/// when they fall into a round, which is why the median of the rounds is reported.
async fn xids(bench: &BenchSite) -> anyhow::Result<u64> {
    let next = bench.site.sql("select pg_snapshot_xmax(pg_current_snapshot())").await?;
    Ok(next.context("no snapshot")?.parse()?)
}

/// Lets a real nxproxy draw the session, then cuts the link and waits until the agent has noticed.
async fn use_and_suspend(link: Link, display: &Display) -> anyhow::Result<()> {
    desktop::draw(link, display, async |counters| {
        // Until the picture has come over and nothing more comes.
        let (mut last, mut calm) = (0, 0);
        while calm < 4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = counters.down();
            calm = if now == last && now > 2000 { calm + 1 } else { 0 };
            last = now;
        }
        Ok(())
    })
    .await?;
    // The agent needs a moment to see that its link is gone.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    Ok(())
}
