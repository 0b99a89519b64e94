//! `qvd admin`: a word for each kind of objects, and events as they happen.

use std::process::ExitCode;

use clap::Subcommand;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use crate::{
    admin::objects,
    db::{self, Listener, Role},
};

use super::{
    di, host,
    settings::DatabaseArg,
    storage, tenant, top, user,
    verbs::{self, Common, Only},
    vm,
};

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
    /// Show nodes, VMs and sessions, and what becomes of them; q ends
    Top(top::Arguments),
    /// Virtual machines
    #[command(subcommand)]
    Vm(vm::Command),
    /// Users
    #[command(subcommand)]
    User(user::Command),
    /// Nodes
    #[command(subcommand)]
    Host(host::Command),
    /// Kinds of desktops: what their VMs have in common
    #[command(subcommand)]
    Osf(Common),
    /// Disk images: staging, versions, tags
    #[command(subcommand)]
    Di(di::Command),
    /// Organisations that do not know of each other
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Those who administer
    #[command(subcommand)]
    Admin(Common),
    /// Sets of rights for administrators
    #[command(subcommand)]
    Role(Common),
    /// Rights
    #[command(subcommand)]
    Acl(Only),
    /// Custom properties that objects may have
    #[command(subcommand)]
    Property(Common),
    /// Settings
    #[command(subcommand)]
    Config(Only),
    /// What was done, by whom and from where
    #[command(subcommand)]
    Log(Only),
    /// Users that are or were connected
    #[command(subcommand)]
    Session(Only),
    /// How tunnels move their bytes
    #[command(subcommand)]
    Tunnel(Only),
    /// Why sessions ended
    #[command(subcommand)]
    End(Only),
    /// The storage that this machine has mounted
    #[command(subcommand)]
    Storage(storage::Command),
}

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Watch { database, json } => watch(&database, json).await.map(|()| ExitCode::SUCCESS),
        Command::Top(arguments) => top::run(arguments).await.map(|()| ExitCode::SUCCESS),
        Command::Vm(command) => vm::run(command).await,
        Command::User(command) => user::run(command).await,
        Command::Host(command) => host::run(command).await,
        Command::Osf(command) => verbs::common(&objects::OSF, command).await,
        Command::Di(command) => di::run(command).await,
        Command::Tenant(command) => tenant::run(command).await,
        Command::Admin(command) => verbs::common(&objects::ADMINISTRATOR, command).await,
        Command::Role(command) => verbs::common(&objects::ROLE, command).await,
        Command::Acl(command) => verbs::only(&objects::ACL, command).await,
        Command::Property(command) => verbs::common(&objects::PROPERTY, command).await,
        Command::Config(command) => verbs::only(&objects::CONFIG, command).await,
        Command::Log(command) => verbs::only(&objects::LOG, command).await,
        Command::Session(command) => verbs::only(&objects::SESSION, command).await,
        Command::Tunnel(command) => verbs::only(&objects::TUNNEL, command).await,
        Command::End(command) => verbs::only(&objects::END, command).await,
        Command::Storage(command) => Ok(storage::run(command).await),
    }
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
