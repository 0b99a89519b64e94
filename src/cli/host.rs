//! `qvd admin host`: what is done with a whole node. The node is not asked; the database is told.

use std::{io::IsTerminal, process::ExitCode};

use clap::Subcommand;
use serde_json::json;

use crate::{
    admin::objects,
    db::{Connector, HostUse, Listener, Role},
    model::HostState,
};

use super::{
    settings::DatabaseArg,
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

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Common(command) => return verbs::common(&objects::HOST, command).await,
        Command::Lock(command) => return verbs::lock(&objects::HOST, command).await,
        Command::Stop { host, database, wait, json } => stop(&host, &database, wait, json).await?,
        Command::Drain { host, database, wait, undo, json } => drain(&host, &database, wait, undo, json).await?,
        Command::Release { host, database, force, json } => release(&host, &database, force, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn drain(host: &str, database: &DatabaseArg, wait: bool, undo: bool, json: bool) -> anyhow::Result<()> {
    let connector = database.connector(Role::Admin)?;
    connector.host_block(host, !undo).await?;
    let left = if wait { emptied(&connector, host).await? } else { connector.host_use(host).await? };
    if json {
        println!("{}", json!({ "host": host, "draining": !undo, "sessions": left.sessions, "vms": left.vms }));
    } else {
        println!("{}", sentence(host, undo, left));
    }
    Ok(())
}

/// The database refuses while the node renews its lease, but a node without a database may still run desktops.
async fn release(host: &str, database: &DatabaseArg, force: bool, json: bool) -> anyhow::Result<()> {
    if !force {
        anyhow::ensure!(std::io::stdin().is_terminal(), "say --force if {host} is off and none of its VMs lives");
        eprint!("Is {host} switched off, so that none of its VMs lives? Otherwise they may run twice. [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        anyhow::ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "{host} is left as it is");
    }
    let vms = database.connector(Role::Admin)?.host_release(host).await?;
    match json {
        true => println!("{}", json!({ "host": host, "released": vms })),
        false => println!("{} VMs of {host} are free.", vms.len()),
    }
    Ok(())
}

async fn stop(host: &str, database: &DatabaseArg, wait: bool, json: bool) -> anyhow::Result<()> {
    let connector = database.connector(Role::Admin)?;
    let mut listen = Listener::connect(&connector).await?;
    listen.listener.watch().await?;
    connector.host_stop(host).await?;
    let mut state = connector.host_state(host).await?;
    while wait && !matches!(state, HostState::Stopped | HostState::Lost) {
        if listen.notifications.recv().await.is_none() {
            anyhow::bail!("the connection to the database was lost; {host} goes on stopping");
        }
        state = connector.host_state(host).await?;
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
async fn emptied(connector: &Connector, host: &str) -> anyhow::Result<HostUse> {
    let mut listen = Listener::connect(connector).await?;
    listen.listener.watch().await?;
    let mut told = None;
    loop {
        let left = connector.host_use(host).await?;
        if left.sessions == 0 {
            return Ok(left);
        }
        if told.replace(left.sessions) != Some(left.sessions) {
            eprintln!("{} sessions left", left.sessions);
        }
        if listen.notifications.recv().await.is_none() {
            anyhow::bail!("the connection to the database was lost; {host} goes on draining");
        }
    }
}

fn sentence(host: &str, undo: bool, HostUse { sessions, vms }: HostUse) -> String {
    if undo {
        return format!("{host} takes users and VMs again.");
    }
    format!("{host} takes no new users and no new VMs; {sessions} sessions and {vms} VMs are left there.")
}
