//! `qvd admin`: a word for each kind of objects, and events as they happen.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use crate::{admin::objects, db};

use super::{
    di, host,
    settings::{DatabaseArg, WebTool},
    storage, tenant, top, user,
    verbs::{self, Common, Only},
    vm,
};

#[derive(Args)]
pub struct Admin {
    #[command(flatten)]
    web: WebTool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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

pub async fn run(Admin { web, command }: Admin) -> anyhow::Result<ExitCode> {
    let web = &web;
    match command {
        Command::Watch { database, json } => watch(&database, json, web).await.map(|()| ExitCode::SUCCESS),
        Command::Top(arguments) => top::run(arguments, web).await.map(|()| ExitCode::SUCCESS),
        Command::Vm(command) => vm::run(command, web).await,
        Command::User(command) => user::run(command, web).await,
        Command::Host(command) => host::run(command, web).await,
        Command::Osf(command) => verbs::common(&objects::OSF, command, web).await,
        Command::Di(command) => di::run(command, web).await,
        Command::Tenant(command) => tenant::run(command, web).await,
        Command::Admin(command) => verbs::common(&objects::ADMINISTRATOR, command, web).await,
        Command::Role(command) => verbs::common(&objects::ROLE, command, web).await,
        Command::Acl(command) => verbs::only(&objects::ACL, command, web).await,
        Command::Property(command) => verbs::common(&objects::PROPERTY, command, web).await,
        Command::Config(command) => verbs::only(&objects::CONFIG, command, web).await,
        Command::Log(command) => verbs::only(&objects::LOG, command, web).await,
        Command::Session(command) => verbs::only(&objects::SESSION, command, web).await,
        Command::Tunnel(command) => verbs::only(&objects::TUNNEL, command, web).await,
        Command::End(command) => verbs::only(&objects::END, command, web).await,
        Command::Storage(command) => {
            web.only_with_a_database("qvd admin storage")?;
            Ok(storage::run(command).await)
        }
    }
}

async fn watch(database: &DatabaseArg, json: bool, web: &WebTool) -> anyhow::Result<()> {
    let mut changes = web.administration(database).await?.changes().await?;
    eprintln!("watching; Ctrl-C ends");
    while let Some(change) = changes.next().await {
        if json {
            println!("{change}");
        } else {
            let message: serde_json::Value = serde_json::from_str(&change).unwrap_or_default();
            let word = |key: &str| message.get(key).map(|value| value.to_string().replace('"', "")).unwrap_or_default();
            let now = jiff::Zoned::now().strftime("%H:%M:%S%.3f").to_string();
            // A web tool tells only of tenants that are the administrator's business, and does not say of which.
            let tenant =
                if message["tenant"].is_null() { String::new() } else { format!(" tenant {}", word("tenant")) };
            println!("{now}  {:<8} {:<8}{tenant}", word("kind"), word("id"));
        }
    }
    anyhow::bail!("the connection was lost")
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
