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
        Command::Migrate { database } => {
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
