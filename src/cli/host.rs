//! `qvd admin host`: what is done with a whole node. The node is not asked; the database is told.

use std::{io::IsTerminal, process::ExitCode};

use clap::Subcommand;
use serde_json::json;

use crate::{
    admin::{access::Administration, objects},
    db::HostUse,
    model::HostState,
};

use super::{
    settings::{DatabaseArg, WebTool},
    verbs::{self, Common, Lock},
};

#[derive(Subcommand)]
pub enum Command {
    #[command(flatten)]
    Common(Common),
    #[command(flatten)]
    Lock(Lock),
    /// Stop a node with all its VMs; `qvd node` ends there
    Stop {
        /// Name of the node
        host: String,
        #[command(flatten)]
        database: DatabaseArg,
        /// Wait until it has stopped
        #[arg(long)]
        wait: bool,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Let a node run empty: it gets no new VMs and its router takes no new users; sessions go on
    Drain {
        /// Name of the node
        host: String,
        #[command(flatten)]
        database: DatabaseArg,
        /// Wait until nobody is connected through the node any more
        #[arg(long)]
        wait: bool,
        /// Take the node into use again
        #[arg(long, conflicts_with = "wait")]
        undo: bool,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Free the VMs of a node that is switched off, so that they may start elsewhere
    Release {
        /// Name of the node
        host: String,
        #[command(flatten)]
        database: DatabaseArg,
        /// Do not ask whether it is really off
        #[arg(long)]
        force: bool,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(command: Command, web: &WebTool) -> anyhow::Result<ExitCode> {
    match command {
        Command::Common(command) => return verbs::common(&objects::HOST, command, web).await,
        Command::Lock(command) => return verbs::lock(&objects::HOST, command, web).await,
        Command::Stop { host, database, wait, json } => {
            stop(&host, &web.administration(&database).await?, wait, json).await?;
        }
        Command::Drain { host, database, wait, undo, json } => {
            drain(&host, &web.administration(&database).await?, wait, undo, json).await?;
        }
        Command::Release { host, database, force, json } => {
            make_sure(&host, force)?;
            release(&host, &web.administration(&database).await?, json).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn drain(host: &str, administration: &Administration, wait: bool, undo: bool, json: bool) -> anyhow::Result<()> {
    administration.host_block(host, !undo).await?;
    let left = if wait { emptied(administration, host).await? } else { administration.host_use(host).await? };
    if json {
        println!("{}", json!({ "host": host, "draining": !undo, "sessions": left.sessions, "vms": left.vms }));
    } else {
        println!("{}", sentence(host, undo, left));
    }
    Ok(())
}

/// The database refuses while the node renews its lease, but a node without a database may still run desktops.
fn make_sure(host: &str, force: bool) -> anyhow::Result<()> {
    if !force {
        anyhow::ensure!(std::io::stdin().is_terminal(), "say --force if {host} is off and none of its VMs lives");
        eprint!("Is {host} switched off, so that none of its VMs lives? Otherwise they may run twice. [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        anyhow::ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "{host} is left as it is");
    }
    Ok(())
}

async fn release(host: &str, administration: &Administration, json: bool) -> anyhow::Result<()> {
    let vms = administration.host_release(host).await?;
    match json {
        true => println!("{}", json!({ "host": host, "released": vms })),
        false => println!("{} VMs of {host} are free.", vms.len()),
    }
    Ok(())
}

async fn stop(host: &str, administration: &Administration, wait: bool, json: bool) -> anyhow::Result<()> {
    let mut changes = administration.changes().await?;
    administration.host_stop(host).await?;
    let mut state = administration.host_state(host).await?;
    while wait && !matches!(state, HostState::Stopped | HostState::Lost) {
        if changes.next().await.is_none() {
            anyhow::bail!("the connection was lost; {host} goes on stopping");
        }
        state = administration.host_state(host).await?;
    }
    if json {
        println!("{}", json!({ "host": host, "state": state.as_str() }));
    } else if wait {
        println!("{host} is {state}.");
    } else {
        println!("{host} was told to stop.");
    }
    Ok(())
}

/// Says how many sessions are left whenever that changes, until there are none.
async fn emptied(administration: &Administration, host: &str) -> anyhow::Result<HostUse> {
    let mut changes = administration.changes().await?;
    let mut told = None;
    loop {
        let left = administration.host_use(host).await?;
        if left.sessions == 0 {
            return Ok(left);
        }
        if told.replace(left.sessions) != Some(left.sessions) {
            eprintln!("{} sessions left", left.sessions);
        }
        if changes.next().await.is_none() {
            anyhow::bail!("the connection was lost; {host} goes on draining");
        }
    }
}

fn sentence(host: &str, undo: bool, HostUse { sessions, vms }: HostUse) -> String {
    if undo {
        return format!("{host} takes users and VMs again.");
    }
    format!("{host} takes no new users and no new VMs; {sessions} sessions and {vms} VMs are left there.")
}
