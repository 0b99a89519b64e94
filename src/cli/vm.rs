//! `qvd admin vm`: what is done with one VM. The database is told, and the VM's node with it.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use crate::{admin::objects, db::Expiration};

use super::{
    console,
    power::{self, Power},
    settings::{DatabaseArg, WebTool},
    verbs::{self, Common, Lock},
};

#[derive(Subcommand)]
pub enum Command {
    #[command(flatten)]
    Common(Common),
    #[command(flatten)]
    Lock(Lock),
    #[command(flatten)]
    Power(Power),
    /// Say in one paragraph what a VM does or waits for, since when, what was tried, and what comes next
    Why {
        /// The VM: login/vm or login@tenant/vm
        vm: String,
        #[command(flatten)]
        database: DatabaseArg,
        /// Print a JSON object with the facts
        #[arg(long)]
        json: bool,
    },
    /// Print what a VM said last on its console
    Console(console::Arguments),
    /// Let the present run of a VM expire: its user is told, later it is stopped
    Expire(Expire),
}

#[derive(Args)]
#[command(group = ArgGroup::new("when").required(true).multiple(true).args(["soft", "hard", "never"]))]
pub struct Expire {
    /// The VM: login/vm or login@tenant/vm
    vm: String,
    /// From when on its user is asked to log out: a time (2030-01-31 18:00) or a while from now (+2 hours)
    #[arg(long, value_name = "TIME")]
    soft: Option<String>,
    /// When it is stopped, likewise
    #[arg(long, value_name = "TIME")]
    hard: Option<String>,
    /// Let it live
    #[arg(long, conflicts_with_all = ["soft", "hard"])]
    never: bool,
    #[command(flatten)]
    database: DatabaseArg,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(command: Command, web: &WebTool) -> anyhow::Result<ExitCode> {
    match command {
        Command::Common(command) => return verbs::common(&objects::VM, command, web).await,
        Command::Lock(command) => return verbs::lock(&objects::VM, command, web).await,
        Command::Power(command) => return power::run(command, web).await,
        Command::Console(arguments) => return console::run(arguments, web).await,
        Command::Why { vm, database, json } => why(&vm, &database, json, web).await?,
        Command::Expire(arguments) => expire(arguments, web).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn why(vm: &str, database: &DatabaseArg, json: bool, web: &WebTool) -> anyhow::Result<()> {
    let (why, mut facts) = web.administration(database).await?.vm_why(vm).await?;
    if json {
        facts["why"] = why.into();
        println!("{}", serde_json::to_string_pretty(&facts)?);
    } else {
        println!("{why}");
    }
    Ok(())
}

async fn expire(Expire { vm, soft, hard, database, json, .. }: Expire, web: &WebTool) -> anyhow::Result<()> {
    let administration = web.administration(&database).await?;
    let Expiration { soft, hard } = administration.vm_expire(&vm, soft.as_deref(), hard.as_deref()).await?;
    if json {
        println!("{}", json!({ "vm": vm, "soft": soft, "hard": hard }));
        return Ok(());
    }
    let what =
        [soft.map(|at| format!("its user is told from {at} on")), hard.map(|at| format!("it is stopped at {at}"))];
    match what.into_iter().flatten().collect::<Vec<_>>().as_slice() {
        [] => println!("{vm} does not expire."),
        what => println!("{vm}: {}.", what.join("; ")),
    }
    Ok(())
}
