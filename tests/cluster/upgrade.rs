//! The schema becomes newer while nodes run.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use qvd::{db::Migration, demo::site::free_port, node::OUTDATED};

use super::{
    database::{Db, open_directory},
    host::{Host, QVD},
    patience::until,
};

/// The migrations of this version, and later ones with these contents.
fn with_later(contents: &[&str]) -> Vec<Migration> {
    let mut all = Migration::all();
    for content in contents {
        let number = all.len() as i32 + 1;
        all.push(Migration::new(number, "later", (*content).to_owned()));
    }
    all
}

const HARMLESS: &str = "-- Older programs go on.\ncreate table harmless ();";
const BREAKING: &str = "create table breaking ();";

#[tokio::test]
async fn nodes_go_on_with_a_newer_schema_that_lets_them_and_stop_with_one_that_does_not() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("internal.hkd.poll.relaxed", "600")]);
    let hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;

    let harmless = with_later(&[HARMLESS]);
    assert_eq!(db.connector().migration_status_for(&harmless).await.unwrap().stops, [""; 0]);
    db.connector().migrate_to(&harmless).await.unwrap();
    db.sql("select vm_stop('alice/d1')").await;
    db.wait_vm("d1", "stopped").await;
    drop(hkd);
    let mut hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;

    let breaking = with_later(&[HARMLESS, BREAKING]);
    let stops = db.connector().migration_status_for(&breaking).await.unwrap().stops;
    assert_eq!(stops, [format!("n1 ({})", env!("CARGO_PKG_VERSION"))]);
    db.connector().migrate_to(&breaking).await.unwrap();
    // It is woken: no poll would come.
    assert_eq!(hkd.ended().await.code(), Some(OUTDATED.into()));
    assert!(hkd.said().contains("run `qvd db migrate`, or the program that made it"), "{}", hkd.said());
    let record = "select h.state || ' ' || v.state from host_list h, vm_list v";
    assert_eq!(db.sql(record).await.unwrap(), "running running", "its successor takes it up");
    let mut hkd = host.start();
    assert_eq!(hkd.ended().await.code(), Some(OUTDATED.into()));
}

/// `qvd node`. It is told to end when it is dropped.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_node_waits_for_the_newer_program_and_starts_it_when_it_is_there() {
    let db = Db::with_vms(0).await;
    let directory = open_directory();
    let program = directory.path().join("qvd");
    fs::copy(QVD, &program).unwrap();
    let port = free_port().unwrap().to_string();
    let certificates = directory.path().display().to_string();
    let settings =
        [("l7r.port", port.as_str()), ("l7r.use_ssl", "0"), ("l7r.as_user", "root"), ("path.l7r.ssl", &certificates)];
    let host = Host::new(&db, &settings);
    let log = directory.path().join("log");
    let child = Command::new(&program)
        .args(["node", "--config"])
        .arg(host.config())
        .env("QVD_LIFELINE", "stdin")
        .stdin(Stdio::piped())
        .stderr(fs::File::create(&log).unwrap())
        .spawn();
    let node = Node(child.unwrap());
    let said = || fs::read_to_string(&log).unwrap();
    let count = |words: &str| said().matches(words).count();
    let says = async |words: &str, times: usize| {
        until(&format!("the node says {words:?}"), async || (count(words) >= times).then_some(())).await;
    };
    says("hkd runs", 1).await;
    says("l7r runs", 1).await;

    let before =
        "select string_agg(component || '=' || version, ' ' order by 1) from versions where component ~ 'schema'";
    let was = db.sql(before).await.unwrap();
    let output = host.qvd(&["db", "migrate"]);
    assert!(output.status.success(), "{output:?}");
    db.connector().migrate_to(&with_later(&[BREAKING])).await.unwrap();
    says("it is too old for the schema of the database; install the newer program", 1).await;
    says("no new users until another router replaces it", 1).await;
    assert_eq!(count("starting it again"), 0, "{}", said());

    // The newer program knows the migration: here it is the database that is put right.
    for part in was.split(' ') {
        let (component, version) = part.split_once('=').unwrap();
        db.sql(&format!("update versions set version = '{version}' where component = '{component}'")).await;
    }
    let newer = directory.path().join("newer");
    fs::copy(QVD, &newer).unwrap();
    fs::rename(&newer, &program).unwrap();
    says("hkd runs", 2).await;
    says("the schema of the database will do again", 1).await;
    drop(node);
}

#[tokio::test]
async fn who_brings_the_schema_up_is_told_which_nodes_will_stop() {
    let db = Db::with_vms(0).await;
    db.node_runs().await;
    db.sql("update host_runtimes set program = '0.0.9', program_schema = 0").await;
    let breaking = with_later(&[BREAKING]);
    assert_eq!(db.connector().migration_status_for(&breaking).await.unwrap().stops, ["n1 (0.0.9)"]);
    db.sql("update host_runtimes set program = '99', program_schema = 1000").await;
    assert_eq!(db.connector().migration_status_for(&breaking).await.unwrap().stops, [""; 0], "they know it already");
}
