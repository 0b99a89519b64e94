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

/// A line of a migration that leaves alone whatever programs of before use.
const GO_ON: &str = "-- Older programs go on.";

/// A numbered step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Position, from 1.
    pub number: i32,
    /// Name of its file without number and ending.
    pub name: String,
    /// Programs that do not know it must stop.
    pub stops_older: bool,
    text: String,
}

impl Migration {
    /// From the content of its file.
    pub fn new(number: i32, name: &str, text: String) -> Self {
        let stops_older = !text.lines().any(|line| line.trim() == GO_ON);
        Self { number, name: name.to_owned(), stops_older, text }
    }

    /// Those of this version, in order.
    pub fn all() -> Vec<Self> {
        let mut found: Vec<Self> = Sql::iter()
            .filter_map(|path| {
                let (number, name) = path.strip_prefix("migrations/")?.strip_suffix(".sql")?.split_once('_')?;
                Some(Self::new(number.parse().ok()?, name, sql(&path)))
            })
            .collect();
        found.sort_by_key(|migration| migration.number);
        found
    }
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
    /// Nodes that run programs which the pending migrations stop.
    pub stops: Vec<String>,
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
        self.migration_status_for(&Migration::all()).await
    }

    /// How it stands for a program with these migrations.
    pub async fn migration_status_for(&self, known: &[Migration]) -> Result<Status, MigrateError> {
        let client = self.client().await?;
        status(&client, known).await
    }

    /// Applies what is missing and returns what that was. The role must own the database or be superuser.
    pub async fn migrate(&self) -> Result<Status, MigrateError> {
        self.migrate_to(&Migration::all()).await
    }

    /// The same with these migrations.
    pub async fn migrate_to(&self, known: &[Migration]) -> Result<Status, MigrateError> {
        loop {
            match self.migrate_once(known).await {
                // It met a statement of a daemon. Nothing of it was done.
                Err(MigrateError::Db(DbError::Undone { message })) => tracing::info!(message, "migrating again"),
                done => return done,
            }
        }
    }

    async fn migrate_once(&self, known: &[Migration]) -> Result<Status, MigrateError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        let status = status(transaction.client(), known).await?;
        if status.is_current() {
            return Ok(status);
        }
        transaction
            .batch_execute(
                "create schema if not exists qvd; set local search_path = qvd, public;
                 set local client_min_messages = warning;
                 create table if not exists migrations (number integer primary key, name text not null,
                     applied_at timestamptz not null default now());
                 alter table migrations add column if not exists stops_older boolean not null default true;
                 create table if not exists reapplied (file text primary key, hash text not null,
                     applied_at timestamptz not null default now());",
            )
            .await?;
        for migration in &status.pending {
            let file = format!("migrations/{:04}_{}.sql", migration.number, migration.name);
            apply(&transaction, &file, &migration.text).await?;
            transaction
                .execute(
                    "insert into migrations (number, name, stops_older) values ($1, $2, $3)",
                    &[&migration.number, &migration.name, &migration.stops_older],
                )
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
        // The newest migration, the newest that stops older programs, and the server that all this is on. They are woken.
        transaction
            .batch_execute(
                "insert into versions select 'schema', max(number)::text from migrations
                     union all select 'schema_oldest', (max(number) filter (where stops_older))::text from migrations
                 on conflict (component) do update set version = excluded.version;
                 insert into versions select 'server', system_identifier::text from pg_control_system()
                 on conflict (component) do nothing;
                 select wake('qvd_config', 'schema', null)",
            )
            .await?;
        transaction.commit().await?;
        Ok(status)
    }
}

async fn status(client: &Client, known: &[Migration]) -> Result<Status, MigrateError> {
    let exists: bool = client.query_one("select to_regclass('qvd.migrations') is not null", &[]).await?.get(0);
    let (mut applied, mut hashes) = (0, HashMap::new());
    if exists {
        applied = client.query_one("select coalesce(max(number), 0) from qvd.migrations", &[]).await?.get(0);
        for row in client.query("select file, hash from qvd.reapplied", &[]).await? {
            hashes.insert(row.get::<_, String>(0), row.get::<_, String>(1));
        }
    }
    let newest = known.last().map_or(0, |migration| migration.number);
    if applied > newest {
        return Err(MigrateError::Newer { found: applied, known: newest });
    }
    let changed = reappliable()
        .into_iter()
        .filter(|(file, content)| hashes.get(file) != Some(&hash(content)))
        .map(|(file, _)| file)
        .collect();
    let pending: Vec<Migration> = known.iter().filter(|migration| migration.number > applied).cloned().collect();
    let stops = match pending.iter().rfind(|migration| migration.stops_older) {
        Some(migration) if applied > 0 => nodes_before(client, migration.number).await?,
        _ => Vec::new(),
    };
    Ok(Status { applied, pending, changed, stops })
}

/// The nodes whose programs do not know this migration, as far as they run.
async fn nodes_before(client: &Client, number: i32) -> Result<Vec<String>, MigrateError> {
    let rows = client
        .query(
            "select h.name || coalesce(' (' || (to_jsonb(r)->>'program') || ')', '') from qvd.host_runtimes r
                 join qvd.hosts h on h.id = r.host_id
             where r.state in ('starting', 'running', 'stopping')
                 and coalesce((to_jsonb(r)->>'program_schema')::integer, 0) < $1
             order by h.name",
            &[&number],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
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
    let insert = transaction.prepare("insert into config_keys values ($1, $2, $3, $4, $5)").await?;
    for key in KEYS {
        transaction
            .execute(
                &insert,
                &[&key.name, &key.default, &key.unit.to_string(), &key.meaning.trim(), &key.needs_restart()],
            )
            .await?;
    }
    Ok(())
}

/// Number of the newest migration of this version.
pub(super) fn newest() -> i32 {
    Migration::all().last().map_or(0, |migration| migration.number)
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
    let keys: String = KEYS
        .iter()
        .map(|key| format!("-- {} {:?} {:?} {}\n", key.name, key.default, key.meaning, key.needs_restart()))
        .collect();
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
        let numbers: Vec<i32> = Migration::all().iter().map(|migration| migration.number).collect();
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
