//! `vm_why`: what a VM does or waits for, in one paragraph.

use std::time::Duration;

use qvd::hypervisor::{Nothing, Step};

use super::{database::Db, host::Host, inside::Inside, patience::until};

/// Waits until the answer for a VM holds all these words.
async fn says(db: &Db, vm: &str, words: &[&str]) {
    let mut why = String::new();
    let what = format!("vm_why('alice/{vm}') says {words:?}");
    let probe = async || {
        why = db.sql(&format!("select vm_why('alice/{vm}')")).await.unwrap();
        words.iter().all(|word| why.contains(word)).then_some(())
    };
    until(&what, probe).await;
    assert!(!why.contains('\n'), "one paragraph: {why}");
}

#[tokio::test]
async fn a_vm_that_is_down_says_why_and_what_would_bring_it_up() {
    let db = Db::with_vms(1).await;
    says(&db, "d1", &["VM alice@default/d1 has been stopped since", "No host could take it: n1 is stopped."]).await;
    db.node_runs().await;
    says(&db, "d1", &["It starts when somebody connects or tells it to."]).await;
    db.sql("select host_block('n1'), vm_block('alice/d1')").await;
    says(&db, "d1", &["No host could take it: n1 is blocked.", "It is blocked, so nobody can connect to it."]).await;
    db.sql("update dis set blocked = true").await;
    says(&db, "d1", &["It cannot start: its OSF has no disk image tagged default that is published"]).await;
    db.sql("update host_runtimes set state = 'stopped'; delete from hosts").await;
    db.sql("update vm_runtimes set vm_reason = 'it ended by itself'").await;
    says(&db, "d1", &["The last thing said of it: it ended by itself.", "No host could take it: there is none."]).await;
    assert_eq!(db.refused("select vm_why('alice/d9')").await.code, "QV010");
    assert_eq!(db.refused("select vm_why(9)").await.code, "QV010");
}

#[tokio::test]
async fn a_command_that_nobody_takes_is_told_with_what_is_wrong_with_the_node() {
    let db = Db::with_vms(1).await;
    let node = db.node_runs().await;
    db.sql("select vm_start('alice/d1')").await;
    says(&db, "d1", &["It was told to start at", "its node n1 has not taken the command yet"]).await;
    db.sql("update host_runtimes set ok_ts = now() - interval '5 minutes'").await;
    says(&db, "d1", &["Its node n1 gave its last sign of life 5 min ago."]).await;
    db.sql(&format!("select node_lease({node}, 1, 1, 'no beat')")).await;
    says(&db, "d1", &["Notifications do not reach n1 as they should (no beat); it polls."]).await;
    db.sql("update vm_runtimes set vm_cmd = null, host_id = null; update vm_runtimes set restart_due = true").await;
    says(&db, "d1", &["Its node was lost, and it starts again as soon as a host can take it."]).await;
}

#[tokio::test]
async fn what_only_the_node_knows_is_told_and_forgotten_without_waking_anybody() {
    let db = Db::with_vms(3).await;
    let host = Host::new(&db, &[("internal.hkd.max_heavy", "1")]);
    let vms = Nothing::with_delays(Duration::ZERO, Duration::ZERO);
    let node = Inside::start(&db, &host, &vms).await;
    vms.hang(Step::Prepare, 1);
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "starting").await;
    db.sql("select vm_start('alice/d2')").await;
    says(&db, "d1", &["starting on n1", "its image desk.tar has been made ready", "the start is given up"]).await;
    says(&db, "d2", &["it has been waiting for one of its node's slots", "the start is given up at"]).await;
    db.sql("select vm_stop('alice/d1')").await;
    db.wait_vm("d2", "running").await;
    says(&db, "d2", &["Its agent answers, and nothing is waited for."]).await;
    db.wait_for("select count(*) from vm_progress", "0").await;

    vms.fail(Step::Clean, 1);
    db.sql("select vm_stop('alice/d2')").await;
    let zombie = ["zombie on n1", "tried once to clean it up", "step Clean fails by order", "The next attempt is at"];
    says(&db, "d2", &zombie).await;
    let triggers = "select count(*) from pg_trigger where tgrelid = 'vm_progress'::regclass and not tgisinternal";
    assert_eq!(db.sql(triggers).await.unwrap(), "0");
    // A program would wait for this thread, which hkd runs on.
    let status = qvd::events::status(&host.run().join("relay.sock")).await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["vms"], serde_json::json!({ "Zombie": 1 }));
    node.end().await;
}

#[tokio::test]
async fn agents_deadlines_expirations_and_sessions_are_told() {
    let db = Db::with_vms(1).await;
    let node = db.node_runs().await;
    db.sql(&format!("select vm_start('alice/d1'); select node_claim({node}, 3030, 4100)")).await;
    let vm = db.sql("select vm_id('alice/d1')").await.unwrap();
    let progress = async |phase: &str, attempts: u32| {
        let row = format!("'{{{vm}}}', '{{{phase}}}', '{{75}}', '{{105}}', '{{{attempts}}}', '{{no route}}'");
        db.sql(&format!("select node_progress({node}, {row})")).await;
    };
    progress("Booting", 7).await;
    let booting =
        ["booting since", "(75 s ago)", "7 pings were not answered, the last because: no route.", "(in 105 s)"];
    says(&db, "d1", &booting).await;
    db.sql(&format!("select node_vm_state({node}, {vm}, '{{starting}}', 'running')")).await;
    progress("Running", 1).await;
    says(&db, "d1", &["Its agent does not answer. 1 ping was not answered", "It counts as dead after as many pings"])
        .await;
    db.sql("select vm_expire('alice/d1', now() + interval '1 hour', now() + interval '3 hours')").await;
    says(&db, "d1", &["Its run expires: its user is asked to log out from", "(in 60 min) on; it is stopped at"]).await;
    let router = db.sql("select instance from l7r_start('n1', gen_random_uuid(), 1, 1)").await.unwrap();
    let token = "t".repeat(60);
    let acquire = format!("select l7r_acquire(7, {router}, id, user_id, '10.1.1.1', '{token}', '{{}}') from vms");
    db.sql(&acquire).await;
    says(&db, "d1", &["from 10.1.1.1 through n1 has been connecting since"]).await;
    db.sql("select vm_disconnect('alice/d1')").await;
    says(&db, "d1", &["and was told to end."]).await;
    db.sql("select vm_stop('alice/d1')").await;
    db.sql(&format!("select node_claim({node}, 3030, 4100)")).await;
    for (phase, words) in [
        ("WaitingToStop", "waiting for one of its node's slots"),
        ("ShuttingDown", "It was asked to power off at"),
        ("Killing", "Its processes were killed at"),
        ("Cleaning", "What it left has been freed since"),
    ] {
        progress(phase, 0).await;
        says(&db, "d1", &["stopping on n1", words]).await;
    }
}

#[tokio::test]
async fn qvd_admin_vm_why_prints_the_paragraph_or_the_facts() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[]);
    let why = host.qvd(&["admin", "vm", "why", "alice/d1", "--database", &db.url("qvd_readonly")]);
    let said = String::from_utf8(why.stdout).unwrap();
    assert!(said.starts_with("VM alice@default/d1 has been stopped since") && said.lines().count() == 1, "{said}");
    let facts = host.qvd(&["admin", "vm", "why", "alice/d1", "--json"]);
    let facts: serde_json::Value = serde_json::from_slice(&facts.stdout).unwrap();
    assert_eq!((&facts["state"], &facts["hosts"]["n1"]), (&"stopped".into(), &"is stopped".into()));
    assert!(facts["why"].as_str().is_some_and(|why| why.starts_with("VM ")));
    let unknown = host.qvd(&["admin", "vm", "why", "alice/d9"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no VM alice/d9"), "{unknown:?}");
}
