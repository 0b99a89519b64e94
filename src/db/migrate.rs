//! Brings a database to the schema of this version: numbered migrations once each, then the re-appliable files
//! (functions, views, triggers, grants) whose content has changed. All in one transaction under an advisory lock, so
//! two runners cannot meet half-way and a failure leaves nothing behind. A newer schema is left alone.

use std::collections::HashMap;

use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio_postgres::{Client, Transaction};

use crate::model::config::KEYS;

use super::{Connector, DbError};

#[derive(RustEmbed)]
#[folder = "sql/"]
struct Sql;

#[derive(RustEmbed)]
#[folder = "triggers/"]
struct Triggers;

const LOCK: i64 = 0x0071_7664; // "qvd"

/// A numbered step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Position, from 1.
    pub number: i32,
    /// Name of its file without number and ending.
    pub name: String,
}

/// How a database stands against this version.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Number of the newest migration applied; 0 for an empty database.
    pub applied: i32,
    /// Migrations still to be applied.
    pub pending: Vec<Migration>,
    /// Re-appliable files that differ from what was applied last.
    pub changed: Vec<String>,
}

impl Status {
    /// Nothing is left to do.
    pub fn is_current(&self) -> bool {
        self.pending.is_empty() && self.changed.is_empty()
    }
}

/// Why a migration failed.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// The database could not be used.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The schema was made by a newer version.
    #[error("the schema has version {found}, this program knows {known}; install the newer program")]
    Newer {
        /// What the database has.
        found: i32,
        /// What this program has.
        known: i32,
    },
    /// A file could not be applied.
    #[error("{file} could not be applied{}: {message}", .line.map(|line| format!(" (line {line})")).unwrap_or_default())]
    File {
        /// Which file.
        file: String,
        /// Where in it.
        line: Option<usize>,
        /// The server's words.
        message: String,
    },
}

impl From<tokio_postgres::Error> for MigrateError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Db(error.into())
    }
}

impl Connector {
    /// How the schema stands.
    pub async fn migration_status(&self) -> Result<Status, MigrateError> {
        let client = self.client().await?;
        status(&client).await
    }

    /// Applies what is missing and returns what that was. The role must own the database or be superuser.
    pub async fn migrate(&self) -> Result<Status, MigrateError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        let status = status(transaction.client()).await?;
        if status.is_current() {
            return Ok(status);
        }
        transaction
            .batch_execute(
                "create schema if not exists qvd; set local search_path = qvd, public;
                 set local client_min_messages = warning;
                 create table if not exists migrations (number integer primary key, name text not null,
                     applied_at timestamptz not null default now());
                 create table if not exists reapplied (file text primary key, hash text not null,
                     applied_at timestamptz not null default now());",
            )
            .await?;
        for migration in &status.pending {
            let file = format!("migrations/{:04}_{}.sql", migration.number, migration.name);
            apply(&transaction, &file, &sql(&file)).await?;
            transaction
                .execute("insert into migrations (number, name) values ($1, $2)", &[&migration.number, &migration.name])
                .await?;
        }
        // A changed function may be used by an unchanged view and the reverse, so all are applied when one differs.
        for (file, content) in reappliable() {
            apply(&transaction, &file, &content).await?;
            transaction
                .execute(
                    "insert into reapplied (file, hash) values ($1, $2) on conflict (file) do update
                     set hash = excluded.hash, applied_at = now()",
                    &[&file, &hash(&content)],
                )
                .await?;
        }
        write_keys(&transaction).await?;
        let known = newest();
        transaction
            .execute(
                "insert into versions values ('schema', $1) on conflict (component) do update set version = $1",
                &[&known.to_string()],
            )
            .await?;
        transaction.commit().await?;
        Ok(status)
    }
}

async fn status(client: &Client) -> Result<Status, MigrateError> {
    let known = migrations();
    let exists: bool = client.query_one("select to_regclass('qvd.migrations') is not null", &[]).await?.get(0);
    let (mut applied, mut hashes) = (0, HashMap::new());
    if exists {
        applied = client.query_one("select coalesce(max(number), 0) from qvd.migrations", &[]).await?.get(0);
        for row in client.query("select file, hash from qvd.reapplied", &[]).await? {
            hashes.insert(row.get::<_, String>(0), row.get::<_, String>(1));
        }
    }
    let newest = newest();
    if applied > newest {
        return Err(MigrateError::Newer { found: applied, known: newest });
    }
    let changed = reappliable()
        .into_iter()
        .filter(|(file, content)| hashes.get(file) != Some(&hash(content)))
        .map(|(file, _)| file)
        .collect();
    Ok(Status { applied, pending: known.into_iter().filter(|m| m.number > applied).collect(), changed })
}

async fn apply(transaction: &Transaction<'_>, file: &str, content: &str) -> Result<(), MigrateError> {
    transaction.batch_execute(content).await.map_err(|error| {
        let server = error.as_db_error();
        let line = server.and_then(|server| match server.position()? {
            tokio_postgres::error::ErrorPosition::Original(at) => {
                Some(content.chars().take(*at as usize).filter(|c| *c == '\n').count() + 1)
            }
            tokio_postgres::error::ErrorPosition::Internal { .. } => None,
        });
        let message = server.map_or_else(|| error.to_string(), |server| server.message().to_owned());
        MigrateError::File { file: file.to_owned(), line, message }
    })
}

/// The database knows every key of the programs, so that it can refuse a bad value and use a default.
async fn write_keys(transaction: &Transaction<'_>) -> Result<(), MigrateError> {
    transaction.execute("delete from config_keys", &[]).await?;
    let insert = transaction.prepare("insert into config_keys values ($1, $2, $3, $4)").await?;
    for key in KEYS {
        transaction.execute(&insert, &[&key.name, &key.default, &key.unit.to_string(), &key.meaning.trim()]).await?;
    }
    Ok(())
}

/// Number of the newest migration of this version.
pub(super) fn newest() -> i32 {
    migrations().last().map_or(0, |migration| migration.number)
}

fn migrations() -> Vec<Migration> {
    let mut found: Vec<Migration> = Sql::iter()
        .filter_map(|path| {
            let (number, name) = path.strip_prefix("migrations/")?.strip_suffix(".sql")?.split_once('_')?;
            Some(Migration { number: number.parse().ok()?, name: name.to_owned() })
        })
        .collect();
    found.sort_by_key(|migration| migration.number);
    found
}

/// Functions, then views, then triggers, then grants; by name within each.
fn reappliable() -> Vec<(String, String)> {
    let own = Sql::iter().filter(|path| !path.starts_with("migrations/") && path != "schema.sql").map(|path| {
        let rank = match path.split('/').next() {
            Some("functions") => 0,
            Some("views") => 1,
            _ => 3,
        };
        (rank, path.to_string(), sql(&path))
    });
    let triggers = Triggers::iter().map(|path| {
        let content = Triggers::get(&path).map(|file| text(&file.data)).unwrap_or_default();
        (2, format!("triggers/{path}"), content)
    });
    let mut files: Vec<(u8, String, String)> =
        own.chain(triggers).filter(|(_, path, _)| path.ends_with(".sql")).collect();
    files.sort();
    let keys: String =
        KEYS.iter().map(|key| format!("-- {} {:?} {:?}\n", key.name, key.default, key.meaning)).collect();
    files
        .into_iter()
        .map(|(_, file, content)| (file, content))
        .chain([("configuration keys".to_owned(), keys)])
        .collect()
}

fn sql(path: &str) -> String {
    Sql::get(path).map(|file| text(&file.data)).unwrap_or_default()
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

fn hash(content: &str) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_gaps() {
        let numbers: Vec<i32> = migrations().iter().map(|migration| migration.number).collect();
        assert_eq!(numbers, (1..=numbers.len() as i32).collect::<Vec<_>>());
        assert!(!numbers.is_empty());
    }

    #[test]
    fn grants_are_applied_after_everything_they_speak_of() {
        let files: Vec<String> = reappliable().into_iter().map(|(file, _)| file).collect();
        let position = |wanted: &str| files.iter().position(|file| file.starts_with(wanted)).unwrap();
        assert!(position("functions/") < position("views/"));
        assert!(position("views/") < position("triggers/"));
        assert!(position("triggers/") < position("grants.sql"));
    }
}
