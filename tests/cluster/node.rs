//! How commands reach hkd: by notification, by poll when notifications fail, and after it was away.

use std::time::Duration;

use super::{
    database::Db,
    host::Host,
    patience::{PATIENCE, until},
};

/// What a machine that is busy with other tests may add to any latency.
const SLACK: Duration = Duration::from_secs(2);
/// Longer than anybody waits here, so that what is done was not done by such a poll.
const NEVER: &str = "600";

/// Gives a command; how long it took until it was claimed.
async fn claimed(db: &Db, command: &str, vm: &str) -> Duration {
    db.sql(&format!("select vm_{command}('alice/{vm}')")).await;
    let took =
        db.wait_for(&format!("select vm_cmd is null from vm_runtimes where vm_id = vm_id('alice/{vm}')"), "t").await;
    db.wait_vm(vm, if command == "start" { "running" } else { "stopped" }).await;
    took
}

/// Waits until `qvd status` and the list of hosts say the same of notifications: a reason, or nothing at all.
async fn trusted(db: &Db, host: &Host<'_>, reason: Option<&str>) -> serde_json::Value {
    db.wait_for("select coalesce(events_degraded_reason, 'none') from host_list", reason.unwrap_or("none")).await;
    let since = db.sql("select events_degraded_since is not null from host_list").await.unwrap();
    assert_eq!(since == "t", reason.is_some());
    let what = format!("qvd status says {reason:?}");
    until(&what, async || host.status().filter(|status| status["trouble"].as_str() == reason)).await.0
}

#[tokio::test]
async fn a_command_is_carried_out_when_its_notification_comes() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("internal.hkd.poll.relaxed", NEVER)]);
    let _hkd = host.started().await;
    for command in ["start", "stop", "start", "stop"] {
        assert!(claimed(&db, command, "d1").await < SLACK, "{command}");
    }
    assert_eq!(db.sql("select run_ok from vm_counters").await.unwrap(), "2");
    assert_eq!(host.status().unwrap()["missed_wakeups"], 0);
}

#[tokio::test]
async fn commands_are_carried_out_by_urgent_polls_while_nobody_listens() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("internal.hkd.poll.relaxed", NEVER), ("internal.hkd.poll.urgent", "0.5")]);
    let _hkd = host.started().await;
    assert!(claimed(&db, "start", "d1").await < SLACK);

    // Its other connections stay; a new one to listen with is refused.
    db.sql(&format!("alter database {} connection limit 0", db.name())).await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and application_name like 'qvd hkd%' and query ~ '^listen'";
    assert_eq!(db.sql(cut).await.unwrap(), "1");
    let status = trusted(&db, &host, Some("the listening connection to the database is lost")).await;
    assert_eq!(status["poll_interval_s"], 0.5);
    assert!(claimed(&db, "stop", "d1").await < Duration::from_millis(500) + SLACK);

    db.sql(&format!("alter database {} connection limit -1", db.name())).await;
    let status = trusted(&db, &host, None).await;
    assert_eq!(status["poll_interval_s"], 600.0);
    assert!(claimed(&db, "start", "d1").await < SLACK);
}

#[tokio::test]
async fn swallowed_notifications_are_noticed_by_the_first_command_and_do_not_delay_the_next() {
    let db = Db::with_vms(1).await;
    let (relaxed, urgent) = (Duration::from_secs(6), Duration::from_millis(300));
    let host = Host::new(
        &db,
        &[("internal.hkd.poll.relaxed", "6"), ("internal.hkd.poll.urgent", "0.3"), ("internal.hkd.beat", "1")],
    );
    let hkd = host.started().await;
    // Once it has obeyed and come to rest, no wake-up of its own start is left that could carry the command along.
    for (command, state) in [("start", "running"), ("stop", "stopped")] {
        claimed(&db, command, "d1").await;
        db.wait_vm("d1", state).await;
    }
    db.sql("alter table vm_runtimes disable trigger wake").await;
    assert!(claimed(&db, "start", "d1").await < relaxed + SLACK);
    let reason = "work was found that no notification announced";
    let status = trusted(&db, &host, Some(reason)).await;
    assert!(status["missed_wakeups"].as_u64() >= Some(1), "{status}");
    assert_eq!(status["poll_interval_s"], 0.3);
    hkd.says(reason).await;
    for command in ["stop", "start"] {
        assert!(claimed(&db, command, "d1").await < urgent + SLACK, "{command}");
    }

    db.sql("alter table vm_runtimes enable trigger wake").await;
    let status = trusted(&db, &host, None).await;
    assert_eq!(status["poll_interval_s"], 6.0);
    assert!(claimed(&db, "stop", "d1").await < SLACK);
    assert_eq!(host.status().unwrap()["missed_wakeups"], status["missed_wakeups"]);
}

#[tokio::test]
async fn a_plane_without_beats_is_not_trusted_until_they_are_heard_again() {
    let db = Db::with_vms(0).await;
    let host = Host::new(&db, &[("internal.hkd.beat", "0.5"), ("internal.hkd.poll.relaxed", "1")]);
    let _hkd = host.started().await;
    db.sql("alter table beat disable trigger wake").await;
    trusted(&db, &host, Some("notifications do not arrive (no beat)")).await;
    db.sql("alter table beat enable trigger wake").await;
    trusted(&db, &host, None).await;
}

#[tokio::test]
async fn an_hkd_that_was_killed_comes_back_and_makes_the_record_true() {
    let db = Db::with_vms(4).await;
    let host = Host::new(&db, &[]);
    let mut hkd = host.started().await;
    db.sql("select vm_start('alice/d' || n) from generate_series(1, 2) n").await;
    db.wait_vm("d1", "running").await;
    db.wait_vm("d2", "running").await;
    hkd.kill();
    // It had claimed a stop and a start when it died; another start came after its death.
    let life = db.sql("select host_id || ', ' || epoch from host_runtimes").await.unwrap();
    db.sql(&format!("select vm_stop('alice/d2'), vm_start('alice/d3'); select node_claim({life}, 3030, 4100)")).await;
    db.sql("select vm_start('alice/d4')").await;

    let hkd = host.started().await;
    for (vm, state) in [("d1", "stopped"), ("d2", "stopped"), ("d3", "running"), ("d4", "running")] {
        db.wait_vm(vm, state).await;
    }
    let reason = db.sql("select reason from vm_list where vm like '%/d1'").await.unwrap();
    assert_eq!(reason, "it ended while no daemon of its node was watching");
    let starts = hkd.said().lines().filter(|line| line.contains("state=running")).count();
    assert_eq!(starts, 2, "{}", hkd.said());
    let epoch = format!("select host_id || ', ' || epoch = '{life}' from host_runtimes");
    assert_eq!(db.sql(&epoch).await.unwrap(), "t", "the same boot keeps its epoch");
}

#[tokio::test]
async fn an_hkd_that_is_told_to_end_says_that_its_node_is_stopped() {
    let db = Db::with_vms(0).await;
    let host = Host::new(&db, &[]);
    let mut hkd = host.started().await;
    hkd.tell_to_end();
    assert_eq!(hkd.ended().await.code(), Some(0), "{}", hkd.said());
    assert_eq!(db.sql("select state from host_list").await.unwrap(), "stopped");
}

/// The server commits a claim and the connection breaks before hkd has the answer: nobody would act on it.
#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_carried_out() {
    let db = Db::with_vms(3).await;
    let host = Host::new(&db, &[("internal.hkd.poll.relaxed", NEVER), ("internal.hkd.poll.urgent", "0.3")]);
    let hkd = host.started().await;
    claimed(&db, "start", "d2").await;
    let life = db.sql("select host_id || ', ' || epoch from host_runtimes").await.unwrap();
    db.sql(&format!("select vm_start('alice/d1'), vm_stop('alice/d2'); select node_claim({life}, 3030, 4100)")).await;

    // The next claim is held up, and its connection cut.
    let other = db.session("postgres").await;
    hkd.pause();
    let asked = "select count(*) from pg_stat_activity
                 where application_name like 'qvd hkd%' and datname = current_database() and state = 'active'";
    db.wait_for(asked, "0").await;
    db.sql("select vm_start('alice/d3')").await;
    other.sql("begin; lock table vm_specs in access exclusive mode").await;
    hkd.go_on();
    let waiting = "select count(pg_terminate_backend(pid)) > 0 from pg_stat_activity
                   where application_name like 'qvd hkd%' and datname = current_database() and wait_event_type = 'Lock'";
    db.wait_for(waiting, "t").await;
    other.sql("commit").await;

    for (vm, state) in [("d1", "running"), ("d2", "stopped"), ("d3", "running")] {
        db.wait_vm(vm, state).await;
    }
    let runs =
        db.rows("select v.name, run_attempts, run_ok from vm_counters c join vms v on v.id = c.vm_id order by 1").await;
    assert_eq!(runs, [["d1", "1", "1"], ["d2", "1", "1"], ["d3", "1", "1"]]);
    assert!(PATIENCE < Duration::from_secs(60), "no relaxed poll helped");
}

#[tokio::test]
async fn a_node_tells_what_its_event_plane_did_and_what_its_routers_counted() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("internal.hkd.poll.relaxed", "0.3"), ("internal.hkd.beat", "0.2")]);
    let _hkd = host.started().await;
    claimed(&db, "start", "d1").await;
    db.sql("insert into end_counters (host_id, reason, sessions) select id, 'client left', 3 from hosts").await;
    db.sql("update host_counters set http_requests = 7").await;
    // What woke the node for the start may have come together with the gap after connecting.
    db.sql("select wake('qvd_host_' || id, 'host', id) from hosts").await;
    let told = async || {
        host.status().filter(|status| {
            let some = |cause: &str| status["reconciles"][cause].as_u64() > Some(0);
            some("start") && some("wake-up") && some("poll") && status["beat_delay_s"].is_f64()
        })
    };
    let (status, _) = until("every cause was counted", told).await;
    assert!(status["database"]["notification_queue_usage"].as_f64() < Some(0.5), "{status}");
    assert_eq!(status["database"]["vm_states"]["running"], 1, "{status}");

    let text = String::from_utf8(host.qvd(&["status", "--prometheus"]).stdout).unwrap();
    for line in [
        "qvd_reconciles_total{cause=\"start\"} 1",
        "qvd_vms{state=\"running\"} 1",
        "qvd_session_ends_total{reason=\"client left\"} 3",
        "qvd_router_http_requests_total 7",
        "qvd_notifications_degraded 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}
