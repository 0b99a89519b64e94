//! Who is notified of what: each notification wakes every process of the server that listens to anything.

use qvd::db::{Listen, Listener};

use super::database::Db;

async fn listening(db: &Db, channels: &[&str]) -> Listen {
    let listen = Listener::connect(&db.connector()).await.unwrap();
    listen.listener.listen(channels.iter().copied().chain(["done"])).await.unwrap();
    listen
}

/// The channels that are notified by a change.
async fn heard_of(change: &str, db: &Db, listen: &mut Listen) -> Vec<String> {
    db.sql(change).await;
    db.sql("notify done").await;
    let mut heard = Vec::new();
    loop {
        match listen.notifications.recv().await.unwrap().channel {
            done if done == "done" => return heard,
            channel => heard.push(channel),
        }
    }
}

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn administrators_are_notified_only_while_one_watches() {
    let db = Db::with_vms(1).await;
    let mut listen = listening(&db, &["qvd_admin"]).await;
    assert_eq!(heard_of("select vm_block('alice/d1')", &db, &mut listen).await, NOTHING);
    let mut watcher = Listener::connect(&db.connector()).await.unwrap();
    watcher.listener.watch().await.unwrap();
    assert_eq!(heard_of("select vm_block('alice/d1', false)", &db, &mut listen).await, ["qvd_admin"]);
    assert_eq!(watcher.notifications.recv().await.unwrap().channel, "qvd_admin");
    drop(watcher);
    let watched = "select count(*) from pg_locks where locktype = 'advisory'
                   and database = (select oid from pg_database where datname = current_database())";
    db.wait_for(watched, "0").await;
    assert_eq!(heard_of("select vm_block('alice/d1')", &db, &mut listen).await, NOTHING);
}

#[tokio::test]
async fn those_who_change_something_at_once_do_not_take_each_other_for_one_who_watches() {
    let db = Db::with_vms(2).await;
    let mut listen = listening(&db, &["qvd_admin"]).await;
    let lock = "select pg_backend_pid() & 31";
    let own = db.sql(lock).await;
    let mut other = db.session("postgres").await;
    while other.sql(lock).await == own {
        other = db.session("postgres").await;
    }
    other.sql("begin; select vm_block('alice/d1')").await;
    assert_eq!(heard_of("select vm_block('alice/d2')", &db, &mut listen).await, NOTHING);
    other.sql("commit").await;
}

#[tokio::test]
async fn who_begins_to_watch_sees_what_was_notified_to_nobody() {
    let db = Db::with_vms(1).await;
    let other = db.session("postgres").await;
    other.sql("begin; select vm_block('alice/d1')").await;
    let begins = Listener::connect(&db.connector()).await.unwrap();
    let watching = tokio::spawn(async move { begins.listener.watch().await });
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                 and database = (select oid from pg_database where datname = current_database())";
    db.wait_for(waits, "1").await;
    other.sql("commit").await;
    watching.await.unwrap().unwrap();
    assert_eq!(db.sql("select blocked from vm_runtimes").await.as_deref(), Some("t"));
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_is_notified_to_its_node_and_no_more() {
    let db = Db::with_vms(1).await;
    let node = db.node_runs().await;
    let vm = db.sql("select vm_id('alice/d1')").await.unwrap();
    let (host, of_vm) = (format!("qvd_host_{}", node.split(',').next().unwrap()), format!("qvd_vm_{vm}"));
    let mut listen = listening(&db, &["qvd_admin", &host, &of_vm]).await;
    assert_eq!(heard_of("select vm_start('alice/d1')", &db, &mut listen).await, [host]);
    assert_eq!(heard_of(&format!("select node_claim({node}, 3030, 4100)"), &db, &mut listen).await, NOTHING);
    let becomes =
        |was: &str, state: &str| format!("select node_vm_state({node}, {vm}, array['{was}'::vm_state], '{state}')");
    assert_eq!(heard_of(&becomes("starting", "running"), &db, &mut listen).await, NOTHING);
    // A user may wait for this one.
    assert_eq!(heard_of(&becomes("running", "stopping"), &db, &mut listen).await, NOTHING);
    assert_eq!(heard_of(&becomes("stopping", "stopped"), &db, &mut listen).await, [of_vm]);
}
