//! `qvd node`, `qvd hkd`, `qvd l7r`: the processes of a node.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    events, hkd, l7r,
    model::config::{Config, keys},
    node::{self, Process, Replacement},
};

use super::settings::ConfigFile;

#[derive(Args)]
pub struct Daemon {
    #[command(flatten)]
    file: ConfigFile,
}

#[derive(Args)]
pub struct Status {
    #[command(flatten)]
    file: ConfigFile,
    /// Print them in the text format of Prometheus
    #[arg(long)]
    prometheus: bool,
}

/// Runs every process of the node until it is told to end. SIGHUP replaces them by the program that is installed now.
pub async fn node(arguments: Daemon) -> anyhow::Result<()> {
    let config = arguments.file.read_node()?;
    let stop = until_told_to_end()?;
    tokio::spawn(node::lifeline(stop.clone()));
    let mut hang_up = signal(SignalKind::hangup())?;
    let (replace, replaced) = watch::channel(());
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            replace.send_replace(());
        }
    });
    node::run(processes(&config, &arguments.file.config)?, replaced, stop).await?;
    Ok(())
}

/// Runs hkd. Its exit status tells `qvd node`, or a service manager, when the node is not to run any more.
pub async fn hkd(arguments: Daemon) -> anyhow::Result<ExitCode> {
    let config = arguments.file.read_node()?;
    let stop = until_told_to_end()?;
    tokio::spawn(node::lifeline(stop.clone()));
    // On a worker, where what it waits for is heard: this thread would have to be woken each time.
    let hkd = tokio::spawn(hkd::run(config, hkd::hypervisor_for, stop));
    let ended = hkd.await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
    match ended.context("hkd ends")? {
        hkd::End::Told => Ok(ExitCode::SUCCESS),
        hkd::End::Ordered => Ok(node::NODE_STOPPED.into()),
    }
}

/// Runs l7r.
pub async fn l7r(arguments: Daemon) -> anyhow::Result<()> {
    let config = arguments.file.read_node()?;
    let stop = until_told_to_end()?;
    tokio::spawn(node::lifeline(stop.clone()));
    l7r::run(config, stop).await.context("l7r ends")
}

/// Whether a daemon ended because the schema of the database is newer than it may use.
pub fn is_outdated(error: &anyhow::Error) -> bool {
    let (found, known) = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(hkd::HkdError::Schema { found, known }), _) | (_, Some(l7r::L7rError::Schema { found, known })) => {
            (found, known)
        }
        _ => return false,
    };
    found.parse::<i32>().is_ok_and(|found| found > *known)
}

/// Prints the counters of the node's event plane.
pub async fn status(arguments: Status) -> anyhow::Result<()> {
    let relay = arguments.file.read()?.get(&keys::PATH_RUN).join("relay.sock");
    let status = events::status(&relay)
        .await
        .with_context(|| format!("hkd does not answer on {}; is this node running?", relay.display()))?;
    match arguments.prometheus {
        true => print!("{}", events::exposition(&serde_json::from_str(&status)?)),
        false => println!("{status}"),
    }
    Ok(())
}

/// The processes of a node with this configuration.
pub fn processes(config: &Config, file: &Path) -> anyhow::Result<Vec<Process>> {
    let own = std::env::current_exe().context("this program cannot find itself")?;
    let file = file.canonicalize().with_context(|| format!("{} cannot be found", file.display()))?;
    let daemon = |name: &'static str, replacement| Process {
        name,
        program: own.clone(),
        arguments: vec![name.to_owned(), "--config".to_owned(), file.display().to_string()],
        replacement,
    };
    let keeper = Process {
        name: "keeper",
        program: bin_directory(config, &own).join("qvd-keeper"),
        arguments: vec![
            "keeper".to_owned(),
            "--hosts-dir".to_owned(),
            config.get(&keys::PATH_STORAGE_HOSTS).display().to_string(),
            "--run".to_owned(),
            config.get(&keys::PATH_RUN).display().to_string(),
            "--name".to_owned(),
            config.get(&keys::NODENAME),
            "--interval".to_owned(),
            config.get(&keys::HKD_LEASE_RENEW).as_secs_f64().to_string(),
        ],
        replacement: Replacement::Killed,
    };
    // On storage of its own nobody looks for a sign of life.
    let keeper = (!config.get(&keys::STORAGE_LOCAL)).then_some(keeper);
    let daemons = [daemon("hkd", Replacement::Killed), daemon("l7r", Replacement::HandsOver)];
    Ok(keeper.into_iter().chain(daemons).collect())
}

fn bin_directory(config: &Config, own: &Path) -> PathBuf {
    let configured = config.get(&keys::PATH_QVD_BIN);
    if configured.is_empty() { own.parent().unwrap_or(Path::new("/")).to_owned() } else { configured.into() }
}

/// Cancelled by SIGTERM or SIGINT.
pub fn until_told_to_end() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}
