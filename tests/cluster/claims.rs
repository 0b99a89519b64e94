//! What a command costs and to whom it is given, seen from the database.

use std::collections::BTreeMap;

use super::{database::Db, host::Host};

/// Makes every wake-up remember the transaction it belongs to.
const REMEMBER: &str = "
    create table woken (channel text, tx xid8 default pg_current_xact_id());
    create or replace function announce(channel text, payload text) returns boolean
    language sql security definer set search_path = qvd, pg_temp as $$
        insert into woken (channel) values (channel);
        select pg_notify(channel, payload) is not null;
    $$";

#[tokio::test]
async fn a_start_and_a_stop_cost_three_notifying_commits_each() {
    let db = Db::with_vms(1).await;
    let others = "select count(*) from pg_proc where pronamespace = 'qvd'::regnamespace and proname <> 'announce'
                  and (prosrc ~* 'pg_notify' or prosrc ~* '\\mnotify\\M')";
    assert_eq!(db.sql(others).await.unwrap(), "0", "only announce notifies, or they cannot be counted");
    let host = Host::new(&db, &[]);
    let _hkd = host.started().await;
    db.sql(REMEMBER).await;
    let commits = "select count(distinct tx) from woken where channel <> 'qvd_beat'";
    for (command, becomes) in [("start", "running"), ("stop", "stopped")] {
        db.sql("truncate woken").await;
        db.sql(&format!("select vm_{command}('alice/d1')")).await;
        db.wait_vm("d1", becomes).await;
        assert_eq!(db.sql(commits).await.unwrap(), "3", "the command, its claim, and what came of it");
    }
}

#[tokio::test]
async fn a_claim_returns_everything_that_a_start_takes() {
    let db = Db::with_vms(1).await;
    db.sql("update osfs set memory = 300, user_storage_size = 40, cpus = 3").await;
    let life = db.node_runs().await;
    db.sql("select vm_start('alice/d1')").await;
    let node = db.session("qvd_node").await;
    let claim = format!(
        "select command, name, login, tenant_id, memory, user_storage_size, di_path,
             di_tag, vm_state, length(secret), ip, cpus, agent from node_claim({life}, 3030, 4100)"
    );
    let claimed = node.rows(&claim).await;
    assert_eq!(
        claimed,
        [[
            "start",
            "d1",
            "alice",
            "1",
            "300",
            "40",
            "desk.tar",
            "default",
            "starting",
            "32",
            "10.0.255.254",
            "3",
            "auto"
        ]]
    );
    assert_eq!(node.rows(&claim).await, Vec::<Vec<String>>::new(), "it is given once");
    let after = "select vm_state, vm_cmd is null, host(vm_address), vm_vma_port, vm_x_port, current_di_id is not null
                 from vm_runtimes";
    assert_eq!(db.rows(after).await, [["starting", "t", "10.0.255.254", "3030", "4100", "t"]]);
    let told = "select string_agg(action || ' ' || actor, ', ' order by id) from log where qvd_object = 'vm' and action <> 'create'";
    assert_eq!(db.sql(told).await.unwrap(), "start postgres, claim qvd_node");
}

#[tokio::test]
async fn every_start_has_a_secret_of_its_own() {
    let db = Db::with_vms(1).await;
    let life = db.node_runs().await;
    let mut secrets = Vec::new();
    for _ in 0..2 {
        db.sql(&format!("select vm_start('alice/d1'); select node_claim({life}, 3030, 4100)")).await;
        secrets.push(db.sql("select secret from vm_specs").await.unwrap());
        db.sql("update vm_runtimes set vm_state = 'stopped'").await;
    }
    assert_ne!(secrets[0], secrets[1]);
}

#[tokio::test]
async fn who_lives_in_another_epoch_may_do_nothing() {
    let db = Db::with_vms(1).await;
    let life = db.node_runs().await;
    let (host, epoch) = life.split_once(", ").unwrap();
    let old = format!("{host}, {}", epoch.parse::<i64>().unwrap() - 1);
    db.sql("select vm_start('alice/d1')").await;
    let node = db.session("qvd_node").await;
    let calls = [
        format!("select node_claim({old}, 3030, 4100)"),
        format!("select node_vms({old})"),
        format!("select node_state({old}, 'stopped')"),
        format!("select node_lease({old}, 1, 1, null)"),
        format!("select node_vm_state({old}, vm_id('alice/d1'), '{{stopped}}', 'starting')")
            .replace("vm_id('alice/d1')", &db.sql("select vm_id('alice/d1')").await.unwrap()),
    ];
    for call in calls {
        assert_eq!(node.refused(&call).await.code, "QV001", "{call}");
    }
    assert_eq!(db.sql("select vm_cmd from vm_runtimes").await.unwrap(), "start", "it waits for the right one");
}

#[tokio::test]
async fn a_command_is_given_to_one_of_two_who_ask_at_the_same_moment() {
    let db = Db::with_vms(8).await;
    let life = db.node_runs().await;
    db.sql("select vm_start(id) from vms").await;
    let (first, second) = (db.session("qvd_node").await, db.session("qvd_node").await);
    let claim = format!("select count(*) from node_claim({life}, 3030, 4100)");
    assert_eq!(first.sql(&format!("begin; {claim}")).await.unwrap(), "8");
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let (late, ()) = tokio::join!(second.sql(&claim), async {
        db.wait_for(waits, "1").await;
        first.sql("commit").await;
    });
    assert_eq!(late.unwrap(), "0");
    let claims = "select count(*) || ' of ' || count(distinct object_id) from log where action = 'claim'";
    assert_eq!(db.sql(claims).await.unwrap(), "8 of 8");
}

#[tokio::test]
async fn what_one_caller_did_not_commit_another_gets() {
    let db = Db::with_vms(1).await;
    let life = db.node_runs().await;
    db.sql("select vm_start('alice/d1')").await;
    let (first, second) = (db.session("qvd_node").await, db.session("qvd_node").await);
    let claim = format!("select count(*) from node_claim({life}, 3030, 4100)");
    first.sql(&format!("begin; {claim}; rollback")).await;
    assert_eq!(second.sql(&claim).await.unwrap(), "1");
}

#[tokio::test]
async fn a_stop_before_the_claim_withdraws_the_start() {
    let db = Db::with_vms(1).await;
    let life = db.node_runs().await;
    db.sql("select vm_start('alice/d1'); select vm_start('alice/d1')").await;
    assert_eq!(db.rows("select state, command, host from vm_list").await, [["stopped", "start", "n1"]]);
    db.sql("select vm_stop('alice/d1')").await;
    let after = db.rows("select state, command, host, reason from vm_list").await;
    assert_eq!(after, [["stopped", "", "", "the start was withdrawn"]]);
    assert_eq!(db.sql(&format!("select count(*) from node_claim({life}, 3030, 4100)")).await.unwrap(), "0");
    let commands = "select action, count(*) from log where action in ('start', 'stop') group by 1";
    let counted: BTreeMap<_, _> =
        db.rows(commands).await.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(
        counted,
        BTreeMap::from([("start".into(), "1".into()), ("stop".into(), "1".into())]),
        "asking twice is asking once"
    );
}

#[tokio::test]
async fn a_vm_is_placed_only_where_it_can_run() {
    let db = Db::with_vms(1).await;
    let none = async |why: &str| {
        let refusal = db.refused("select vm_start('alice/d1')").await;
        assert_eq!(
            (refusal.code.as_str(), refusal.message.as_str()),
            ("QV030", "no host can take VM alice@default/d1"),
            "{why}"
        );
        assert_ne!(refusal.hint, "");
    };
    none("the host does not run").await;
    db.node_runs().await;
    db.sql("select host_block('n1')").await;
    none("the host is blocked").await;
    db.sql("select host_block('n1', false); update hosts set backend = false").await;
    none("the host is no back end").await;
    db.sql("update hosts set backend = true; update host_runtimes set ok_ts = now() - interval '1 hour'").await;
    none("the host gives no sign of life").await;
    db.sql("update host_runtimes set ok_ts = now(); update dis set blocked = true").await;
    let refusal = db.refused("select vm_start('alice/d1')").await;
    assert_eq!(refusal.code, "QV031", "{refusal:?}");
    db.sql("update dis set blocked = false; select vm_start('alice/d1')").await;
    assert_eq!(db.sql("select host from vm_list").await.unwrap(), "n1");
}

#[tokio::test]
async fn a_state_is_written_only_from_the_states_it_can_come_from() {
    let db = Db::with_vms(1).await;
    let life = db.node_runs().await;
    let vm = db.sql("select vm_id('alice/d1')").await.unwrap();
    db.sql(&format!("select vm_start({vm}); select node_claim({life}, 3030, 4100)")).await;
    let node = db.session("qvd_node").await;
    let late = format!("select node_vm_state({life}, {vm}, '{{stopping}}', 'zombie', 'too late')");
    assert_eq!(node.sql(&late).await.unwrap(), "f");
    let due = format!("select node_vm_state({life}, {vm}, '{{starting}}', 'running')");
    assert_eq!(node.sql(&due).await.unwrap(), "t");
    assert_eq!(node.sql(&due).await.unwrap(), "f", "once");
    assert_eq!(db.rows("select run_attempts, run_ok from vm_counters").await, [["1", "1"]]);
}
