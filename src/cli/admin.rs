//! `qvd admin`: lists, and events as they happen. Everything else is SQL for now.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use crate::db::{self, Listener, Role};

use super::{di, host, settings::DatabaseArg, storage, user, vm};

#[derive(Subcommand)]
pub enum Command {
    /// Print every visible change of the database as it happens
    Watch {
        #[command(flatten)]
        database: DatabaseArg,
        /// Print the messages as they are, one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// What is done with a whole node
    #[command(subcommand)]
    Host(host::Command),
    /// What is done with one VM
    #[command(subcommand)]
    Vm(vm::Command),
    /// Disk images: staging, versions, tags
    #[command(subcommand)]
    Di(di::Command),
    /// The storage that this machine has mounted
    #[command(subcommand)]
    Storage(storage::Command),
    /// What is done with one user
    #[command(subcommand)]
    User(user::Command),
    /// Print a list
    List {
        /// Of what
        what: What,
        #[command(flatten)]
        database: DatabaseArg,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum What {
    Vm,
    Host,
    Session,
    User,
    Di,
    Tunnel,
    End,
}

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Watch { database, json } => watch(&database, json).await?,
        Command::Di(command) => di::run(command).await?,
        Command::Host(command) => host::run(command).await?,
        Command::Vm(command) => vm::run(command).await?,
        Command::Storage(command) => return Ok(storage::run(command).await),
        Command::User(command) => user::run(command).await?,
        Command::List { what, database, json } => list(&database, what, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn watch(database: &DatabaseArg, json: bool) -> anyhow::Result<()> {
    let connector = database.connector(Role::Admin)?;
    let mut listen = Listener::connect(&connector).await?;
    listen.listener.watch().await?;
    eprintln!("watching; Ctrl-C ends");
    while let Some(notification) = listen.notifications.recv().await {
        if json {
            println!("{}", notification.payload);
        } else {
            let message: serde_json::Value = serde_json::from_str(&notification.payload).unwrap_or_default();
            let word = |key: &str| message.get(key).map(|value| value.to_string().replace('"', "")).unwrap_or_default();
            let now = jiff::Zoned::now().strftime("%H:%M:%S%.3f").to_string();
            println!("{now}  {:<8} {:<8} tenant {}", word("kind"), word("id"), word("tenant"));
        }
    }
    anyhow::bail!("the connection to the database was lost")
}

async fn list(database: &DatabaseArg, what: What, json: bool) -> anyhow::Result<()> {
    let name = match what {
        What::Vm => "vm",
        What::Host => "host",
        What::Session => "session",
        What::User => "user",
        What::Di => "di",
        What::Tunnel => "tunnel",
        What::End => "end",
    };
    print(database.connector(Role::Admin)?.list(name).await?, json)
}

/// Prints a list for people, or as a JSON array.
pub fn print(list: db::Table, json: bool) -> anyhow::Result<()> {
    if json {
        let rows: Vec<serde_json::Map<_, _>> = list
            .rows
            .into_iter()
            .map(|row| list.columns.iter().cloned().zip(row.into_iter().map(Into::into)).collect())
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(list.columns.iter().map(|column| column.to_uppercase()));
    for row in list.rows {
        table.add_row(row.into_iter().map(Option::unwrap_or_default));
    }
    println!("{table}");
    Ok(())
}
