//! `qvd admin vm console`: what a VM says. Its node sends it to the database while somebody watches, which this does.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use tokio::time::{Instant, timeout_at};

use super::settings::{DatabaseArg, WebTool};

/// How long the node may take to answer, when nobody wants to see more than what is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whoever watches says so again before the minute is over for which it counts.
const AGAIN: Duration = Duration::from_secs(20);

#[derive(Args)]
pub struct Arguments {
    /// The VM: login/vm or login@tenant/vm
    vm: String,
    /// Go on with what it says from now on
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    database: DatabaseArg,
}

pub async fn run(Arguments { vm, follow, database }: Arguments, web: &WebTool) -> anyhow::Result<ExitCode> {
    let administration = web.administration(&database).await?;
    let id = administration.named("vm", &vm).await?;
    // Before it is asked for, or the answer would be missed.
    let mut changes = administration.changes().await?;
    let given_up = Instant::now() + PATIENCE;
    let mut last = 0;
    loop {
        let console = administration.vm_console(id, last).await?;
        last = console.last;
        if !print(&console.said)? || console.answered && !follow {
            return Ok(ExitCode::SUCCESS);
        }
        let again = Instant::now() + AGAIN;
        match timeout_at(if follow { again } else { given_up }, changes.next()).await {
            Ok(Some(_)) => changes.skip(),
            Ok(None) => bail!("the connection was lost"),
            Err(_) if follow => {}
            Err(_) => bail!("no node answers for {vm}; `qvd admin vm why {vm}` says more"),
        }
    }
}

/// Whether there is still somebody who reads.
fn print(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}
