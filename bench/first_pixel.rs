//! From a client's request for a stopped desktop to the first pixel on its screen, in stages. What is not ours is taken off
//! our share: the password hash, LXC (as long as the same container takes without anything of ours), nxagent until it
//! listens, and all that draws from then on.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};
use qvd::{
    client::{
        session::{Credentials, Server, Session},
        trust::Trust,
    },
    demo::display::Display,
    model::VmId,
    process::began_at,
};

use crate::{
    bare::Bare,
    desktop::{self, LOGIN, PASSWORD},
    report::{Report, Samples},
    site::BenchSite,
};

/// For a picture to come.
const LIMIT: Duration = Duration::from_secs(60);

pub async fn run(repetitions: usize) -> anyhow::Result<Report> {
    let bench = desktop::open("bfp", 6).await?;
    bench.site.start_node().await?;
    let outcome = measure(&bench, repetitions).await;
    bench.site.stop_vms().await?;
    bench.close().await?;
    outcome
}

#[derive(Default)]
struct Stages {
    /// The password check, through the list that a client asks for anyway.
    password: Samples,
    /// TCP, TLS, the session is ours, the VM is told to start.
    order: Samples,
    /// Until its agent answers.
    start: Samples,
    /// The same container as plain LXC starts it.
    bare: Samples,
    /// The agent prepares the user's session.
    prepare: Samples,
    /// nxagent runs until it listens.
    nxagent: Samples,
    /// TCP to nxagent, the last commit, and 101.
    switch: Samples,
    /// nxproxy, nxagent and the window manager, until something is drawn.
    picture: Samples,
    ours: Samples,
    total: Samples,
}

async fn measure(bench: &BenchSite, repetitions: usize) -> anyhow::Result<Report> {
    let display = Display::start(1280, 800).await?;
    let vm = VmId(bench.site.sql("select id from vms").await?.context("no VM")?.parse()?);
    let trust = Arc::new(Trust::load(None, &[bench.site.certificate()])?);
    let server = Server { host: "localhost".to_owned(), port: bench.site.port() };
    let mut stages = Stages::default();
    // The first round unpacks the image and makes the home.
    for round in 0..=repetitions {
        let blank = display.screenshot()?;
        let (began, up) = (Instant::now(), Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?));
        let credentials = Credentials::Password { login: LOGIN.to_owned(), password: PASSWORD.to_owned() };
        let mut session = Session::open(&server, credentials, Some(&trust)).await?;
        let opened = Instant::now();
        session.list().await?;
        let logged_in = Instant::now();
        let mut told: Vec<(String, Instant)> = Vec::new();
        let tell = &mut |text: &str| told.push((text.to_owned(), Instant::now()));
        let link = session.connect(vm, &desktop::parameters(), tell).await?;
        let switched = Instant::now();
        let nxagent = began + nxagent_began()?.saturating_sub(up);
        let drawn = desktop::draw(link, &display, async |_| {
            display.wait_for(LIMIT, |picture| *picture != blank).await?;
            Ok(Instant::now())
        })
        .await?;
        let bare = Bare::copy(bench, vm.0)?;
        bench.site.sql("select vm_stop(id) from vms").await?;
        bench.site.wait_for("it did not stop", "select vm_state from vm_runtimes", "stopped").await?;
        let (bare, running) = bare.start().await?;
        running.kill().await?;
        if round == 0 {
            continue;
        }
        let at = |text: &str| {
            let found = told.iter().find(|(told, _)| told.starts_with(text)).map(|(_, at)| *at);
            found.with_context(|| format!("the router did not say {text:?}"))
        };
        let (starting, answers, listens) =
            (at("Starting virtual machine")?, at("Starting X session")?, at("Connecting X session")?);
        ensure!((answers..=listens).contains(&nxagent), "this is the nxagent of another session");
        let password = logged_in - opened;
        let order = (starting - began) - password;
        let (start, prepare, switch) = (answers - starting, nxagent - answers, switched - listens);
        stages.password.add(password);
        stages.order.add(order);
        stages.start.add(start);
        stages.bare.add(bare);
        stages.prepare.add(prepare);
        stages.nxagent.add(listens - nxagent);
        stages.switch.add(switch);
        stages.picture.add(drawn - switched);
        stages.ours.add(order + start.saturating_sub(bare) + prepare + switch);
        stages.total.add(drawn - began);
    }
    let mut report = Report { scenario: "desktop", repetitions, ..Report::default() };
    for (key, samples) in [
        ("ours_p50_ms", &stages.ours),
        ("total_p50_ms", &stages.total),
        ("stage_password_p50_ms", &stages.password),
        ("stage_order_p50_ms", &stages.order),
        ("stage_start_p50_ms", &stages.start),
        ("stage_prepare_p50_ms", &stages.prepare),
        ("stage_nxagent_p50_ms", &stages.nxagent),
        ("stage_switch_p50_ms", &stages.switch),
        ("stage_picture_p50_ms", &stages.picture),
    ] {
        report.figure(key, samples.ms(0.5));
    }
    report.peer("lxc-start", "start_p50_ms", stages.bare.ms(0.5));
    report.spread.insert("ours_ms".to_owned(), stages.ours.spread());
    report.spread.insert("total_ms".to_owned(), stages.total.spread());
    Ok(report)
}

/// When the last nxagent began, since the machine was booted; to a hundredth of a second, as the kernel tells it.
fn nxagent_began() -> anyhow::Result<Duration> {
    let mut last = None;
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let is_nxagent = || fs::read(entry.path().join("comm")).is_ok_and(|name| name == b"nxagent\n");
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && is_nxagent()
        {
            last = last.max(began_at(pid));
        }
    }
    let second = sysconf(SysconfVar::CLK_TCK)?.context("the clock has no ticks")?;
    Ok(Duration::from_secs_f64(last.context("there is no nxagent")? as f64 / second as f64))
}
