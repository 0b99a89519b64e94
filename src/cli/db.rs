//! `qvd db`: the schema.

use clap::Subcommand;

use crate::db::Role;

use super::settings::DatabaseArg;

#[derive(Subcommand)]
pub enum Command {
    /// Bring the schema to this version (needs the owner of the database)
    Migrate {
        #[command(flatten)]
        database: DatabaseArg,
        /// Also when nodes run programs that must stop then
        #[arg(long)]
        yes: bool,
    },
    /// Say that this database was restored from a backup: nothing that lives from before is valid any more
    Restored {
        #[command(flatten)]
        database: DatabaseArg,
        /// Nothing that was committed is missing, so everything goes on
        #[arg(long)]
        complete: bool,
    },
    /// Show how the schema stands; exits with 1 when something is to be done
    Status {
        #[command(flatten)]
        database: DatabaseArg,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Migrate { database, yes } => {
            let stops = database.connector(Role::Owner)?.migration_status().await?.stops;
            if !stops.is_empty() {
                eprintln!(
                    "these nodes run programs that stop at this; desktops go on, without anybody to manage them:"
                );
                stops.iter().for_each(|node| eprintln!("  {node}"));
                if !yes {
                    anyhow::bail!("nothing was done; have the newer program ready there, and repeat this with --yes");
                }
            }
            let done = database.connector(Role::Owner)?.migrate().await?;
            for migration in &done.pending {
                println!("applied migration {} ({})", migration.number, migration.name);
            }
            for file in &done.changed {
                println!("applied {file}");
            }
            if done.is_current() {
                println!("the schema is up to date");
            }
        }
        Command::Restored { database, complete } => {
            let up = database.connector(Role::Owner)?.database_restored(complete).await?;
            match complete {
                true => println!("the server is on record; everything goes on"),
                false => println!("nodes begin another life; {up} desktops are not up any more"),
            }
        }
        Command::Status { database, json } => {
            let status = database.connector(Role::Owner)?.migration_status().await?;
            let pending: Vec<&str> = status.pending.iter().map(|migration| migration.name.as_str()).collect();
            if json {
                println!(
                    "{}",
                    serde_json::json!({ "version": status.applied, "pending": pending, "changed": status.changed })
                );
            } else {
                println!("version {}", status.applied);
                pending.iter().for_each(|name| println!("pending: {name}"));
                status.changed.iter().for_each(|file| println!("changed: {file}"));
            }
            if !status.is_current() {
                anyhow::bail!("the schema is not that of this version; run `qvd db migrate`");
            }
        }
    }
    Ok(())
}
