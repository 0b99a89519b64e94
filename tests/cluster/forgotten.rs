//! What becomes of a node whose database has forgotten something, as a server has that was promoted without the last
//! commits of the one before.

use super::{database::Db, host::Host};

/// Longer than anybody waits here, so that what is done was not done by such a poll.
const NEVER: (&str, &str) = ("internal.hkd.poll.relaxed", "600");

/// Breaks the connection that hkd listens on: who connects again reads what is on record.
async fn cut(db: &Db) {
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and application_name like 'qvd hkd%' and query ~ '^listen'";
    assert_eq!(db.sql(cut).await.unwrap(), "1");
}

#[tokio::test]
async fn a_node_that_is_on_record_as_lost_though_it_serves_says_so() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[NEVER]);
    let hkd = host.started().await;
    db.sql("update host_runtimes set state = 'lost'").await;
    cut(&db).await;
    db.wait_for("select state from host_list", "running").await;
    hkd.says("did not know that this node serves").await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
}

#[tokio::test]
async fn a_node_that_was_told_to_stop_does_not_say_that_it_serves() {
    let db = Db::with_vms(0).await;
    let life = db.node_runs().await;
    let node = db.session("qvd_node").await;
    for (is, said, becomes) in [
        ("stopping", "f", "stopping"),
        ("running", "f", "running"),
        ("lost", "t", "running"),
        ("stopped", "t", "running"),
    ] {
        db.sql(&format!(
            "set session_replication_role = replica; update host_runtimes set state = '{is}';
             set session_replication_role = origin"
        ))
        .await;
        assert_eq!(node.sql(&format!("select node_serves({life})")).await.unwrap(), said, "{is}");
        assert_eq!(db.sql("select state from host_runtimes").await.unwrap(), becomes);
    }
    let (host, epoch) = life.split_once(", ").unwrap();
    let over = format!("select node_serves({host}, {})", epoch.parse::<i64>().unwrap() - 1);
    assert_eq!(node.refused(&over).await.code, "QV001");
}

#[tokio::test]
async fn a_vm_that_is_on_record_as_a_zombie_though_it_runs_is_stopped() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[NEVER]);
    let _hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    db.sql("update vm_runtimes set vm_state = 'stopping'; update vm_runtimes set vm_state = 'zombie'").await;
    cut(&db).await;
    db.wait_vm("d1", "stopped").await;
}

/// It is given up because it was launched too slowly, and that is forgotten before it has ended.
#[tokio::test]
async fn a_vm_that_has_ended_though_it_is_on_record_as_starting_does_not_stay_so() {
    let db = Db::with_vms(1).await;
    let settings =
        [NEVER, ("internal.hkd.nothing.timeout.on_state.starting", "600"), ("internal.hkd.timeout.launch", "0.5")];
    db.sql(
        "create sequence public.forgotten;
         create function public.forget() returns trigger language plpgsql as $$
         begin
             if nextval('public.forgotten') = 1 then
                 perform set_config('session_replication_role', 'replica', true);
                 update qvd.vm_runtimes set vm_state = 'starting' where vm_id = new.vm_id;
                 perform set_config('session_replication_role', 'origin', true);
             end if;
             return null;
         end $$;
         create trigger zz_forget after update on vm_runtimes for each row
             when (new.vm_state = 'stopping') execute function public.forget()",
    )
    .await;
    let host = Host::new(&db, &settings);
    let _hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_for("select is_called from public.forgotten", "t").await;
    db.wait_vm("d1", "stopped").await;
}

/// A VM that was due, and whose start was forgotten. It could not be stopped: who stops one that is due only calls it off.
#[tokio::test]
async fn a_vm_that_is_put_on_record_waits_for_no_start() {
    let db = Db::with_vms(1).await;
    let life = db.node_runs().await;
    db.sql("update vm_runtimes set restart_due = true").await;
    let vm = db.sql("select vm_id('alice/d1')").await.unwrap();
    let node = db.session("qvd_node").await;
    let adopted = node.sql(&format!("select node_adopt({life}, {vm}, 3030, 4100)")).await;
    assert_eq!(adopted.as_deref(), Some("starting"));
    assert_eq!(db.sql("select restart_due from vm_runtimes").await.as_deref(), Some("f"));
    db.sql("select vm_stop('alice/d1')").await;
    assert_eq!(db.sql("select vm_cmd from vm_runtimes").await.as_deref(), Some("stop"));
}
