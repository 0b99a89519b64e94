//! A primary that dies or falls silent, and the standby that takes its place. Nodes know both servers by name.

use std::{cell::Cell, time::Instant};

use futures_util::future::join_all;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{database::Db, host::Host, patience::until};

/// Longer than anybody waits here, so that what is done was not done by such a poll.
const NEVER: &str = "600";

/// A primary with the schema and alice's desktops, and its standby. With `synchronous`, what was committed is on both.
pub async fn pair(vms: u32, synchronous: bool) -> (Db, Db) {
    let primary = Db::alone(&[]).await;
    primary.connector().migrate().await.unwrap();
    primary.sql("set search_path = qvd, public").await;
    primary.fill(vms).await;
    let standby = primary.standby().await;
    standby.sql("set search_path = qvd, public").await;
    primary.wait_for("select count(*) from pg_stat_replication where state = 'streaming'", "1").await;
    if synchronous {
        primary.sql("alter system set synchronous_standby_names = '*'").await;
        primary.sql("select pg_reload_conf()").await;
        primary.wait_for("select sync_state from pg_stat_replication", "sync").await;
    }
    (primary, standby)
}

pub async fn promote(standby: &Db) {
    // It was copied from a server that waits for a standby, and has none.
    standby.sql("alter system reset synchronous_standby_names").await;
    standby.sql("select pg_reload_conf()").await;
    standby.sql("select pg_promote(true, 30)").await;
    standby.wait_for("select pg_is_in_recovery()", "f").await;
}

fn hosts(servers: &[&Db]) -> String {
    servers.iter().map(|db| db.socket()).collect::<Vec<_>>().join(", ")
}

/// Somebody who insists: asks the writable server, whichever it is, until it has answered.
struct Insistent<'a> {
    servers: [&'a Db; 2],
    client: Option<Client>,
}

impl Insistent<'_> {
    async fn ask(&mut self, query: &str) -> String {
        until(&format!("the database answers {query}"), async || self.attempt(query).await).await.0
    }

    async fn attempt(&mut self, query: &str) -> Option<String> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            for server in self.servers {
                let Ok((client, connection)) = tokio_postgres::connect(&server.url("qvd_admin"), NoTls).await else {
                    continue;
                };
                tokio::spawn(connection);
                if value(&client, "select not pg_is_in_recovery()").await.as_deref() == Some("t") {
                    self.client = Some(client);
                    break;
                }
            }
        }
        value(self.client.as_ref()?, query).await
    }
}

async fn value(client: &Client, query: &str) -> Option<String> {
    client.simple_query(query).await.ok()?.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

#[tokio::test]
async fn what_was_accepted_survives_a_promotion_and_commands_go_on() {
    const VMS: u32 = 8;
    let (primary, standby) = pair(VMS, true).await;
    let settings = [("database.host", hosts(&[&primary, &standby])), ("internal.hkd.poll.relaxed", NEVER.to_owned())];
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let host = Host::new(&primary, &settings);
    let hkd = host.started().await;

    let (accepted, enough) = (Cell::new(0), Cell::new(false));
    let users = (1..=VMS).map(async |n| {
        let mut user = Insistent { servers: [&primary, &standby], client: None };
        while !enough.get() {
            for (command, state) in [("start", "running"), ("stop", "stopped")] {
                user.ask(&format!("select vm_{command}('alice/d{n}')")).await;
                accepted.set(accepted.get() + 1);
                let query = format!("select vm_state from vm_runtimes where vm_id = vm_id('alice/d{n}')");
                until(state, async || (user.ask(&query).await == state).then_some(())).await;
            }
        }
    });
    let blow = async {
        let more = async || {
            let so_far = accepted.get();
            until("commands are accepted", async || (accepted.get() >= so_far + 30).then_some(())).await;
        };
        more().await;
        primary.cluster().kill().await;
        let killed = Instant::now();
        promote(&standby).await;
        let promoted = Instant::now();
        let before = standby.sql("select count(*) from log where action = 'claim'").await.unwrap();
        until("the next command is claimed", async || {
            let now = standby.sql("select count(*) from log where action = 'claim'").await.unwrap();
            (now != before).then_some(())
        })
        .await;
        println!("promoted after {:?}, claimed {:?} later", promoted - killed, promoted.elapsed());
        more().await;
        enough.set(true);
    };
    tokio::join!(join_all(users), blow);

    let count = async |what: &str| -> usize {
        standby.sql(&format!("select count(*) from {what}")).await.unwrap().parse().unwrap()
    };
    let commands = count("log where action in ('start', 'stop')").await;
    assert!(commands >= accepted.get(), "{commands} of {} accepted commands survived", accepted.get());
    assert_eq!(count("log where action = 'claim'").await, commands, "every command is claimed once");
    let starts = count("log where action = 'start'").await;
    let runs = hkd.said().lines().filter(|line| line.contains("state=running")).count();
    assert_eq!(runs, starts, "no VM was started twice");
    hkd.says("the database is another server now").await;
    let trusted = async || host.status().filter(|status| status["trouble"].is_null());
    let status = until("notifications are trusted again", trusted).await.0;
    assert!(status["gaps"].as_u64() >= Some(2), "who waited was told to read again: {status}");
}

#[tokio::test]
async fn what_runs_counts_more_than_a_standby_that_has_not_heard_of_it() {
    let (primary, standby) = pair(3, false).await;
    let settings = [("database.host", hosts(&[&primary, &standby])), ("internal.hkd.poll.relaxed", NEVER.to_owned())];
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let host = Host::new(&primary, &settings);
    let hkd = host.started().await;
    // One VM was told to start on a node that does not see it, one runs, and this the standby has heard.
    primary
        .sql(
            "select host_create('n2', '10.3.0.2');
             select di_create('desk', 'newer.tar');
             select node_state(n.node, n.node_epoch, 'running') from node_start('n2', gen_random_uuid(), 1) n;
             select host_block('n2');
             select vm_start('alice/d3');
             update vm_runtimes set host_id = (select id from hosts where name = 'n2'), vm_cmd = 'start'
             where vm_id = vm_id('alice/d2')",
        )
        .await;
    primary.wait_vm("d3", "running").await;
    standby.wait_vm("d3", "running").await;
    standby.sql("alter system set primary_conninfo = ''").await;
    standby.sql("select pg_reload_conf()").await;
    primary.wait_for("select count(*) from pg_stat_replication", "0").await;
    primary.sql("update vm_runtimes set host_id = null, vm_cmd = null where vm_id = vm_id('alice/d2')").await;
    primary.sql("update vms set di_tag = (select version from dis order by id limit 1) where name = 'd1'").await;
    for (command, vm, state) in [
        ("start", "d1", "running"),
        ("stop", "d1", "stopped"),
        ("start", "d1", "running"),
        ("start", "d2", "running"),
        ("stop", "d3", "stopped"),
    ] {
        primary.sql(&format!("select vm_{command}('alice/{vm}')")).await;
        primary.wait_vm(vm, state).await;
    }
    let image = "select current_di_id from vm_runtimes where vm_id = vm_id('alice/d1')";
    let ran = primary.sql(image).await;
    assert_ne!(standby.sql("select di_id from vm_specs where vm_id = vm_id('alice/d1')").await, ran);
    let secret = "select encode(secret, 'hex') from vm_specs where vm_id = vm_id('alice/d1')";
    let known = primary.sql(secret).await;
    assert_ne!(standby.sql(secret).await, known);

    primary.cluster().kill().await;
    promote(&standby).await;
    standby.wait_vm("d1", "running").await;
    assert_eq!(standby.sql(secret).await, known, "with the secret of another run its agent listens to nobody");
    assert_eq!(standby.sql(image).await, ran, "it is not what a start would use now");
    standby.wait_vm("d3", "stopped").await;
    let d2 = standby.sql("select vm_id('alice/d2')").await.unwrap();
    hkd.says(&format!("here but not assigned to this node; ending it vm={d2}")).await;
    until("it has ended", async || {
        let lines = hkd.said();
        lines.lines().rfind(|line| line.contains(&format!("VM vm={d2}")))?.contains("state=stopped").then_some(())
    })
    .await;
    let waits = "select vm_state || ' ' || vm_cmd from vm_runtimes where vm_id = vm_id('alice/d2')";
    assert_eq!(standby.sql(waits).await.as_deref(), Some("stopped start"), "it is for the other node");
    assert_eq!(standby.sql("select count(*) from log where action = 'adopt'").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_primary_that_falls_silent_is_left_and_not_believed_when_it_is_back() {
    let (primary, standby) = pair(1, false).await;
    let settings = [
        ("database.host", hosts(&[&primary, &standby])),
        ("internal.hkd.poll.relaxed", NEVER.to_owned()),
        ("internal.database.client.connect.timeout", "5".to_owned()),
    ];
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let host = Host::new(&primary, &settings);
    let hkd = host.started().await;
    primary.cluster().freeze(true).unwrap();
    let frozen = Instant::now();
    promote(&standby).await;
    standby.sql("select vm_start('alice/d1')").await;
    standby.wait_vm("d1", "running").await;
    println!("running {:?} after the primary fell silent", frozen.elapsed());

    // It is back, and still believes that it is the primary.
    primary.cluster().freeze(false).unwrap();
    primary.wait_for("select pg_is_in_recovery()", "f").await;
    // What it was told before is done now, late.
    primary.wait_for("select count(*) from pg_stat_activity where application_name like 'qvd hkd%'", "0").await;
    let leases = "select lease from host_runtimes";
    let lease = primary.sql(leases).await;
    standby.cluster().restart().await.unwrap();
    let standby = standby.again().await;
    standby.sql("select vm_stop('alice/d1')").await;
    standby.wait_vm("d1", "stopped").await;
    assert_eq!(primary.sql(leases).await, lease, "nobody spoke to it");
    assert!(!hkd.said().contains("ERROR"), "{}", hkd.said());
}

#[tokio::test]
async fn pools_leave_a_server_that_became_read_only() {
    let (primary, standby) = pair(1, false).await;
    let settings = [("database.host", hosts(&[&primary, &standby])), ("internal.hkd.poll.relaxed", NEVER.to_owned())];
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let host = Host::new(&primary, &settings);
    let _hkd = host.started().await;
    primary.sql("alter system set default_transaction_read_only = on").await;
    primary.sql("select pg_reload_conf()").await;
    primary.wait_for("show transaction_read_only", "on").await;
    promote(&standby).await;
    standby.sql("select vm_start('alice/d1')").await;
    standby.wait_vm("d1", "running").await;
}
