//! Many users who connect at the same moment, each to a desktop of his own that runs: the router, its database and nothing
//! else, since the VMs are played here. Passwords are checked before, one after another.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use qvd::model::VmId;
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    clients::{LOGIN, PASSWORD},
    fake,
    list::{Desk, address},
    report::{Report, Samples},
    shares::{Processes, Shares},
};

const NETWORK: u8 = 9;
/// How many come at once; one alone, to compare.
const CROWDS: [usize; 2] = [1, 50];

/// Adds what it finds to the report of `connect`.
pub async fn measure(repetitions: usize, report: &mut Report) -> anyhow::Result<()> {
    let [_, users] = CROWDS;
    let mut vms = JoinSet::new();
    for vm in 1..=users {
        fake::play(address(NETWORK, vm), &mut vms).await?;
    }
    let desk = Arc::new(Desk::open("bcc", NETWORK, 0).await?);
    let outcome = rounds(&desk, repetitions, report).await;
    // Those that are still on their way belong to a round that failed.
    if let Some(desk) = Arc::into_inner(desk) {
        desk.bench.close().await?;
    }
    outcome
}

async fn rounds(desk: &Arc<Desk>, repetitions: usize, report: &mut Report) -> anyhow::Result<()> {
    let [_, users] = CROWDS;
    let site = &desk.bench.site;
    let mut desktops = Vec::with_capacity(users);
    for n in 1..=users {
        let (login, ip) = (format!("user{n}"), address(NETWORK, n));
        site.sql(&format!("select user_create('{login}', '{PASSWORD}')")).await?;
        let created = site.sql(&format!("select vm_create('{login}', '{login}', 'desk', ip => '{ip}')")).await?;
        let vm = created.context("no VM")?;
        desktops.push((login, VmId(vm.parse()?)));
    }
    // What makes the hash of a password anew is not measured.
    site.sql(&format!("update users set password = (select password from users where login = '{LOGIN}')")).await?;
    site.sql("select vm_start(id) from vms").await?;
    let running = "select count(*) = 50 from vm_runtimes where vm_state = 'running'";
    site.wait_for("not all VMs run", running, "t").await?;
    let processes = Processes::find(&desk.bench).await?;
    for at_once in CROWDS {
        let (mut connects, mut shares) = (Samples::default(), Shares::default());
        let mut connected = 0;
        // A single user comes more often, so that the medians mean as much.
        for round in 0..=repetitions * if at_once == 1 { 4 } else { 1 } {
            let (took, used) = together(desk, &desktops[..at_once], &processes).await?;
            if round > 0 {
                took.into_iter().for_each(|took| connects.add(took));
                used.into_iter().for_each(|(before, after)| shares.add(before, after));
                connected += at_once;
            }
            let left = "select count(*) = 0 from vm_runtimes where user_state <> 'disconnected'";
            site.wait_for("sessions did not end", left, "t").await?;
        }
        report.figure(format!("played_{at_once}_p50_ms"), connects.ms(0.5));
        report.figure(format!("played_{at_once}_p99_ms"), connects.ms(0.99));
        report.spread.insert(format!("played_{at_once}_ms"), connects.spread());
        shares.report(&format!("played_{at_once}"), connected, report);
    }
    Ok(())
}

/// From TCP connect to 101, without the password, of users who wait for each other before each step; and what was used
/// before and after each of the two steps that count.
async fn together(
    desk: &Arc<Desk>,
    desktops: &[(String, VmId)],
    processes: &Processes,
) -> anyhow::Result<(Vec<Duration>, [(Shares, Shares); 2])> {
    // Everybody waits twice between two steps: until all are there, and until somebody has looked.
    let step = Arc::new(Barrier::new(desktops.len() + 1));
    let mut users = JoinSet::new();
    for (login, vm) in desktops.iter().cloned() {
        let (desk, step) = (desk.clone(), step.clone());
        users.spawn(async move {
            let turn = async || {
                step.wait().await;
                step.wait().await;
            };
            turn().await;
            let began = Instant::now();
            let session = desk.door.session_of(&login).await;
            let opened = began.elapsed();
            turn().await;
            let listed = async {
                let mut session = session?;
                session.list().await?;
                anyhow::Ok(session)
            };
            let listed = listed.await;
            turn().await;
            let session = listed?;
            let asked = Instant::now();
            let link = session.connect(vm, &[], &mut |_| {}).await?;
            anyhow::Ok((opened + asked.elapsed(), link))
        });
    }
    let mut looks = Vec::with_capacity(4);
    for _ in 0..3 {
        step.wait().await;
        looks.push(processes.used()?);
        step.wait().await;
    }
    // Nobody leaves before all have come: what a session costs at its end is not what is measured.
    let mut all = Vec::with_capacity(desktops.len());
    while let Some(user) = users.join_next().await {
        all.push(user??);
    }
    let used = [(looks[0], looks[1]), (looks[2], processes.used()?)];
    Ok((all.into_iter().map(|(took, _link)| took).collect(), used))
}
