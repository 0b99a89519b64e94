//! The command line beside the bare SQL that does the same: the list of many VMs beside `psql`, a start that is waited for
//! beside the start itself.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::ensure;
use qvd::model::config::keys;
use tokio::process::Command as Background;

use crate::{
    fleet::Ground,
    report::{Report, Samples},
    site::{BenchSite, program},
};

pub const NODES: usize = 20;
/// Of every hundred VMs so many run.
pub const RUNNING: usize = 60;
pub const COLUMNS: &str = r#"id, name, blocked, "user", host, di, ip, ip_in_use, di_in_use, state, user_state"#;

/// The list of all VMs on the command line, beside `psql`.
pub async fn cli(repetitions: usize, vms: usize) -> anyhow::Result<Report> {
    let ground = Ground::open(20).await?;
    ground.peopled("faces", NODES, vms, RUNNING).await?;
    let url = ground.url("faces", "qvd_admin");
    let copy = format!("\\copy (select {COLUMNS} from vm_list) to stdout csv");
    let mut qvd = Command::new(program()?);
    qvd.args(["admin", "vm", "list", "--database", &url]);
    let mut csv = Command::new(program()?);
    csv.args(["admin", "vm", "list", "--csv", "--database", &url]);
    let mut psql = Command::new("psql");
    psql.args(["-X", "-d", &url, "-c", &copy]);
    let (mut ours, mut as_csv, mut peer) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..=repetitions {
        for (command, samples) in [(&mut qvd, &mut ours), (&mut csv, &mut as_csv), (&mut psql, &mut peer)] {
            let began = Instant::now();
            let status = command.stdout(Stdio::null()).status()?;
            ensure!(status.success(), "{command:?} fails");
            if round > 0 {
                samples.add(began.elapsed());
            }
        }
    }
    let mut report = Report { scenario: "cli", repetitions, ..Report::default() };
    report.figure("list_p50_ms", ours.ms(0.5));
    report.figure("csv_p50_ms", as_csv.ms(0.5));
    report.figure("ratio", ours.us(0.5) / peer.us(0.5));
    report.figure("ratio_csv", as_csv.us(0.5) / peer.us(0.5));
    report.peer("psql", "list_p50_ms", peer.ms(0.5));
    report.spread.insert("list_ms".to_owned(), ours.spread());
    ground.close().await?;
    Ok(report)
}

/// A start that the command line waits for, beside the time until the VM runs that is started by SQL.
pub async fn wait(repetitions: usize) -> anyhow::Result<Report> {
    // What is waited for would hide what waiting adds.
    let at_once = [keys::NOTHING_STARTING.name, keys::NOTHING_STOPPING.name].map(|key| (key, "0"));
    let bench = BenchSite::open("bwa", 9, "nothing", &at_once).await?;
    bench.site.start_node().await?;
    bench.site.wait_node().await?;
    bench
        .site
        .sql("select osf_create('o'), user_create('u'); select di_create('o', 'x.tar'), vm_create('u', 'v', 'o')")
        .await?;
    let url = bench.site.connection_string("qvd_admin");
    let (mut ours, mut bare) = (Samples::default(), Samples::default());
    for round in 0..=repetitions {
        let began = Instant::now();
        bench.site.sql("select vm_start('u/v')").await?;
        bench.site.wait_vm("u/v", "running").await?;
        let started = began.elapsed();
        stop(&bench).await?;
        let began = Instant::now();
        let status = Background::new(program()?)
            .args(["admin", "vm", "start", "v", "--wait", "--database", &url])
            .stdout(Stdio::null())
            .status()
            .await?;
        let waited = began.elapsed();
        ensure!(status.success(), "the VM does not start");
        stop(&bench).await?;
        if round > 0 {
            bare.add(started);
            ours.add(waited);
        }
    }
    let mut report = Report { scenario: "wait", repetitions, ..Report::default() };
    report.figure("wait_p50_ms", ours.ms(0.5));
    report.figure("over_start_p50_ms", ours.ms(0.5) - bare.ms(0.5));
    report.peer("start by SQL", "wait_p50_ms", bare.ms(0.5));
    report.spread.insert("wait_ms".to_owned(), ours.spread());
    bench.close().await?;
    Ok(report)
}

async fn stop(bench: &BenchSite) -> anyhow::Result<()> {
    bench.site.sql("select vm_stop('u/v')").await?;
    Ok(bench.site.wait_vm("u/v", "stopped").await?)
}
