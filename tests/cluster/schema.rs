//! The migration runner, and the dump of the schema that is kept under review.

use std::{fs, process::Command};

use qvd::db::MigrateError;

use super::database::Db;

/// Set to write the dump instead of comparing it.
const UPDATE: &str = "QVD_UPDATE_SCHEMA";
const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/schema.sql");

#[tokio::test]
async fn an_empty_database_is_brought_up_once() {
    let db = Db::empty().await;
    let before = db.connector().migration_status().await.unwrap();
    assert_eq!((before.applied, before.pending[0].name.as_str()), (0, "foundation"));
    assert!(!before.is_current());

    let done = db.connector().migrate().await.unwrap();
    assert_eq!((&done.pending, &done.changed), (&before.pending, &before.changed));
    let after = db.connector().migration_status().await.unwrap();
    assert!(after.is_current(), "{after:?}");
    assert_eq!(after.applied, before.pending.last().unwrap().number);

    let applied = "select max(applied_at) from (select applied_at from qvd.migrations union all select applied_at from qvd.reapplied) a";
    let last = db.sql(applied).await;
    assert!(db.connector().migrate().await.unwrap().is_current());
    assert_eq!(db.sql(applied).await, last, "nothing is applied a second time");
}

#[tokio::test]
async fn runners_that_meet_take_turns() {
    let db = Db::empty().await;
    let connectors = [(); 4].map(|()| db.connector());
    let [a, b, c, d] = &connectors;
    let done = tokio::join!(a.migrate(), b.migrate(), c.migrate(), d.migrate());
    let done = [done.0.unwrap(), done.1.unwrap(), done.2.unwrap(), done.3.unwrap()];
    assert_eq!(done.iter().filter(|status| !status.is_current()).count(), 1, "one did it all");
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let db = Db::new().await;
    let known: i32 = db.sql("select max(number) from qvd.migrations").await.unwrap().parse().unwrap();
    db.sql("insert into qvd.migrations (number, name) values (99, 'future'); update qvd.reapplied set hash = 'other'")
        .await;
    for outcome in [db.connector().migrate().await, db.connector().migration_status().await] {
        let error = outcome.unwrap_err();
        assert!(matches!(error, MigrateError::Newer { found: 99, known: ours } if ours == known), "{error}");
    }
    assert_eq!(db.sql("select count(*) from qvd.reapplied where hash <> 'other'").await.unwrap(), "0");
}

#[tokio::test]
async fn a_file_that_changed_is_applied_again_and_data_stays() {
    let db = Db::with_vms(1).await;
    let file = "functions/10_states.sql";
    db.sql(&format!("update reapplied set hash = 'of an older text' where file = '{file}'")).await;
    db.sql(
        "create or replace function vm_transition_allowed(was vm_state, becomes vm_state) returns boolean
         language sql immutable as 'select true'",
    )
    .await;
    let before = db.connector().migration_status().await.unwrap();
    assert_eq!((before.pending.as_slice(), before.changed.as_slice()), (&[][..], &[file.to_owned()][..]));
    db.connector().migrate().await.unwrap();
    assert_eq!(db.sql("select vm_transition_allowed('stopped', 'zombie')").await.unwrap(), "f");
    assert_eq!(db.sql("select count(*) from vm_list").await.unwrap(), "1");
    assert!(db.connector().migration_status().await.unwrap().is_current());
}

#[tokio::test]
async fn a_migration_that_fails_says_where_and_leaves_nothing_behind() {
    let db = Db::empty().await;
    db.sql("create schema qvd; create table qvd.tenants ()").await;
    let error = db.connector().migrate().await.unwrap_err();
    let MigrateError::File { file, message, .. } = &error else { panic!("{error}") };
    assert_eq!(file, "migrations/0001_foundation.sql");
    assert!(message.contains("\"tenants\" already exists"), "{message}");
    assert_eq!(db.sql("select count(*) from pg_class where relnamespace = 'qvd'::regnamespace").await.unwrap(), "1");
}

#[tokio::test]
async fn the_dump_under_review_is_that_of_this_schema() {
    let db = Db::new().await;
    let programs = db.sql("select setting from pg_config where name = 'BINDIR'").await.unwrap();
    let dump = Command::new(format!("{programs}/pg_dump"))
        .args(["--schema-only", "--schema=qvd", "--no-owner", "--dbname", &db.url("postgres")])
        .output()
        .unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let found = normalised(&String::from_utf8(dump.stdout).unwrap());
    if std::env::var_os(UPDATE).is_some() {
        return fs::write(DUMP, found).unwrap();
    }
    let kept = fs::read_to_string(DUMP).unwrap_or_default();
    let difference = found.lines().zip(kept.lines()).position(|(found, kept)| found != kept);
    let line = difference.unwrap_or(found.lines().count().min(kept.lines().count()));
    assert!(
        found == kept,
        "sql/schema.sql is not the schema, first in line {}: {:?} instead of {:?}.\n\
         Write it with {UPDATE}=1 cargo test --test it the_dump_under_review, and look at the difference.",
        line + 1,
        found.lines().nth(line),
        kept.lines().nth(line),
    );
}

/// Without what differs between versions of pg_dump and says nothing of the schema: comments, settings, psql commands.
fn normalised(dump: &str) -> String {
    let noise = ["--", "SET ", "\\", "SELECT pg_catalog.set_config("];
    let mut lines: Vec<&str> =
        dump.lines().map(str::trim_end).filter(|line| !noise.iter().any(|n| line.starts_with(n))).collect();
    lines.dedup_by(|next, line| next.is_empty() && line.is_empty());
    let text = lines.join("\n");
    let head =
        "-- The schema as migrations, functions, views, triggers and grants make it. Generated; a test compares it.\n";
    format!("{head}{}\n", text.trim_end())
}
