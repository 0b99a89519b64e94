//! VMs that expire: told when it begins, stopped when it is over, exactly then and also when nobody was there.

use std::time::Duration;

use qvd::hypervisor::Nothing;
use serde_json::Value;

use super::{database::Db, host::Host, inside::Inside};

/// Longer than anybody waits here, so that what is done was not done by such a poll.
const NEVER: (&str, &str) = ("internal.hkd.poll.relaxed", "600");
const TOLD: &str = "select vm_expiration_told >= vm_expiration_soft from vm_runtimes";

#[tokio::test]
async fn a_vm_is_told_when_its_time_comes_and_stopped_when_it_is_over() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[NEVER]);
    let _hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    db.sql("select vm_expire('alice/d1', now() + interval '1 second', now() + interval '1 hour')").await;
    assert_eq!(db.sql("select vm_expiration_told is null from vm_runtimes").await.unwrap(), "t", "not yet");
    db.wait_for(TOLD, "t").await;
    let told = db.sql("select vm_expiration_told from vm_runtimes").await;
    // Only the end changes: nobody is told again, and the timer is set anew.
    db.sql("select vm_expire('alice/d1', vm_expiration_soft, now() + interval '1 second') from vm_runtimes").await;
    assert_eq!(db.sql("select vm_expiration_told from vm_runtimes").await, told);
    db.wait_vm("d1", "stopped").await;
    let vm = db.rows("select reason, expiration_soft, expiration_hard from vm_list").await;
    assert_eq!(vm, [["it expired", "", ""]]);
    let due = "select a.time >= (e.arguments->>'hard')::timestamptz
               from log a, log e where a.action = 'stop' and e.action = 'expire' order by e.id desc limit 1";
    assert_eq!(db.sql(due).await.unwrap(), "t", "not before its time");
}

#[tokio::test]
async fn a_reminder_comes_until_the_vm_is_stopped() {
    let db = Db::with_vms(1).await;
    let host =
        Host::new(&db, &[("internal.hkd.poll.relaxed", "1"), ("internal.hkd.agent.expiration_monitor.delay", "1")]);
    let _hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    db.sql("select vm_expire('alice/d1', now())").await;
    let count = "select (vm_expiration_told - vm_expiration_soft > interval '2 seconds') from vm_runtimes";
    db.wait_for(count, "t").await;
}

#[tokio::test]
async fn what_expires_while_no_daemon_is_there_expires_when_one_comes() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[NEVER]);
    let vms = Nothing::with_delays(Duration::ZERO, Duration::ZERO);
    let node = Inside::start(&db, &host, &vms).await;
    db.sql("select vm_start('alice/d1'), vm_start('alice/d2')").await;
    db.wait_vm("d1", "running").await;
    db.wait_vm("d2", "running").await;
    node.end().await;
    db.sql("select vm_expire('alice/d1', now()), vm_expire('alice/d2', now(), now())").await;
    let node = Inside::start(&db, &host, &vms).await;
    db.wait_vm("d2", "stopped").await;
    db.wait_for(&format!("{TOLD} where vm_id = vm_id('alice/d1')"), "t").await;
    db.wait_vm("d1", "running").await;
    assert_eq!(vms.starts(), 2, "it went on all the time");
    node.end().await;
}

#[tokio::test]
async fn only_a_run_expires_and_only_in_order() {
    let db = Db::with_vms(1).await;
    let admin = db.session("qvd_admin").await;
    assert_eq!(admin.refused("select vm_expire('alice/d1', now())").await.code, "QV021");
    admin.sql("select vm_expire('alice/d1', null)").await;
    let node = db.node_runs().await;
    db.sql(&format!("select vm_start('alice/d1'); select node_claim({node}, 3030, 4100)")).await;
    for times in ["now(), now() - interval '1 second'", "'infinity'", "null, 'infinity'"] {
        assert_eq!(admin.refused(&format!("select vm_expire('alice/d1', {times})")).await.code, "QV014", "{times}");
    }
    assert_eq!(admin.refused("select vm_expire(7, now())").await.code, "QV010");
    admin.sql("select vm_expire('alice/d1', null, now() + interval '1 hour')").await;
    let next = db.sql(&format!("select round(next_in) from node_duties({node}, 3600)")).await.unwrap();
    assert_eq!(next, "3600");
    db.sql("update vm_runtimes set vm_state = 'stopped'").await;
    assert_eq!(db.sql(&format!("select next_in is null from node_duties({node}, 3600)")).await.unwrap(), "t");
}

#[tokio::test]
async fn qvd_admin_vm_expire_takes_times_and_whiles() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[]);
    let node = db.node_runs().await;
    db.sql(&format!("select vm_start('alice/d1'); select node_claim({node}, 3030, 4100)")).await;
    let expire = |times: &[&str]| host.qvd(&[&["admin", "vm", "expire", "alice/d1", "--json"], times].concat());
    let output = expire(&["--soft", "2130-01-31 18:00+00", "--hard", "2130-01-31 19:00+00"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["hard"].as_str().unwrap().starts_with("2130-01-31 19:00:00"), "{said}");
    expire(&["--hard", "+2 hours"]);
    let left =
        "select round(extract(epoch from vm_expiration_hard - now()) / 3600), vm_expiration_soft from vm_runtimes";
    assert_eq!(db.rows(left).await, [["2", ""]]);
    expire(&["--never"]);
    assert_eq!(db.sql("select vm_expiration_hard from vm_runtimes").await, None);
    let bad = expire(&["--soft", "soon"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("soon"), "{bad:?}");
    assert_eq!(expire(&[]).status.code(), Some(2));
}
