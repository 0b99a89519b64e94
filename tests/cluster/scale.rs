//! What is asked again and again costs the same however many VMs the cluster has. Counted are the pages that a statement
//! touches, since time would depend on the machine.

use serde_json::Value;

use super::database::{Db, Session};

const SMALL: u32 = 1_000;
const LARGE: u32 = 100_000;

/// A cluster of 20 nodes with so many VMs, all in the same shares: on a node, in use, stopped.
async fn cluster(vms: u32) -> Db {
    let db = Db::with_vms(1).await;
    // Making the VMs takes longer than a lease lasts.
    db.sql("select config_set('internal.hkd.lease.lapse', '3600')").await;
    db.sql("select host_create('n' || n, ('10.9.0.' || n)::inet) from generate_series(2, 20) n").await;
    db.sql(
        "select node_state(n.node, n.node_epoch, 'running') from hosts h,
             node_start(h.name, gen_random_uuid(), 1, '00000000-0000-4000-8000-000000000001', 10) n",
    )
    .await;
    db.sql("select node_lease(host_id, epoch, 9000, 9000, null, null, 8000, 0) from host_runtimes").await;
    // Without triggers, which would take minutes; what they keep is written here.
    db.sql(&format!(
        "set session_replication_role = replica;
         insert into users (id, tenant_id, login) select 20000 + n, 1, 'u' || n from generate_series(1, {vms}) n;
         insert into vms (id, tenant_id, name, user_id, osf_id, ip)
         select 20000 + n, 1, 'desk', 20000 + n, (select id from osfs), inet '10.20.0.0' + n from generate_series(1, {vms}) n;
         insert into l7r_instances (host_id, boot_id, pid, pid_start)
         select id, gen_random_uuid(), 1, 1 from hosts order by id;
         insert into user_sessions (vm_id, vm_name, user_id, login, tenant_id, l7r_host_id, l7r_instance, client_address)
         select 20000 + n, 'desk', 20000 + n, 'u' || n, 1, i.host_id, i.id, '192.0.2.1' from generate_series(1, {vms}, 2) n
             join (select *, row_number() over (order by id) as number from l7r_instances) i on i.number = 1 + n / 2 % 20;
         insert into vm_runtimes (vm_id, tenant_id, host_id, vm_state, user_state, session_id, l7r_host_id, l7r_instance)
         select v.id, 1, case when v.id % 4 < 3 then h.id end, (case when v.id % 4 < 3 then 'running' else 'stopped' end)::vm_state,
             (case when s.id is null then 'disconnected' else 'connected' end)::user_state, s.id, s.l7r_host_id, s.l7r_instance
         from vms v join (select id, row_number() over (order by id) as number from hosts) h on h.number = 1 + v.id % 20
             left join user_sessions s on s.vm_id = v.id
         where v.id > 20000;
         insert into vm_specs
         select d.vm_id, d.name, d.tenant_id, d.tenant, d.user_id, d.login, d.osf_id, d.memory, d.user_storage_size,
             d.di_tag, d.ip, d.di_id, d.di_path, fresh_secret(), d.cpus, d.agent
         from vm_specs_due d where d.vm_id > 20000;
         select host_recount(id) from hosts;
         set session_replication_role = origin"
    ))
    .await;
    // By itself: it cannot be done in a transaction, as several statements at once are.
    db.sql("vacuum analyze").await;
    db
}

/// What a statement did once its plans were made, as the server explains it.
async fn explained(session: &Session, statement: &str) -> Value {
    for _ in 0..2 {
        session.sql(&format!("begin; {statement}; rollback")).await;
    }
    let explained =
        session.rows(&format!("begin; explain (analyze, buffers, format json) {statement}; rollback")).await;
    let plan: Value = serde_json::from_str(&explained[0][0]).unwrap();
    plan[0]["Plan"].clone()
}

/// Pages that a statement touches.
async fn cost(session: &Session, statement: &str) -> u64 {
    let plan = explained(session, statement).await;
    let blocks = |kind: &str| plan[format!("Shared {kind} Blocks")].as_u64().unwrap();
    blocks("Hit") + blocks("Read")
}

/// Rows that the steps of a plan hand on or drop, whether they touch a page for it or not.
fn rows_handled(step: &Value) -> f64 {
    let number = |key: &str| step[key].as_f64().unwrap_or_default();
    let dropped = number("Rows Removed by Filter") + number("Rows Removed by Join Filter");
    let below: f64 = step["Plans"].as_array().into_iter().flatten().map(rows_handled).sum();
    (number("Actual Rows") + dropped) * number("Actual Loops") + below
}

/// The tables that a statement reads from beginning to end although they hold something for every VM.
async fn read_whole(session: &Session, statement: &str) -> Vec<Vec<String>> {
    let seen = format!(
        "begin; {statement}; select relname from pg_stat_xact_user_tables
         where schemaname = 'qvd' and seq_scan > 0
             and relname in ('vms', 'vm_runtimes', 'vm_specs', 'vm_counters', 'users', 'user_sessions', 'log'); rollback"
    );
    session.rows(&seen).await.into_iter().filter(|row| row[0] != "1").collect()
}

#[tokio::test]
async fn what_nodes_and_routers_ask_again_and_again_costs_the_same_with_a_hundred_times_the_vms() {
    // What a node asks at rest, and what it and its router do with a VM.
    let repeated = [
        "select 1 from node_claim((select id from hosts where name = 'n3'), 1, 3030, 4100)",
        "select 1 from vms_restart()",
        "select 1 from node_lease((select id from hosts where name = 'n3'), 1, 9000, 9000, null, null, 8000, 0)",
        "select 1 from node_peers((select id from hosts where name = 'n3'), 1)",
        "select 1 from l7r_aborted((select min(id) from l7r_instances))",
        "select 1 from l7r_session((select session_id from vm_runtimes where vm_id = 20101))",
        "select 1 from l7r_list((select id from hosts where name = 'n3'), 20101, false)",
        "select 1 from l7r_connected((select session_id from vm_runtimes where vm_id = 20101), 'splice')",
        "select 1 from l7r_end((select session_id from vm_runtimes where vm_id = 20101), 'left', 1, 1)",
        "select 1 from l7r_vm_start((select session_id from vm_runtimes where vm_id = 20103))",
        "select 1 from vm_start(20103)",
        "select 1 from vm_start('u103/desk')",
        "select 1 from place_default(20103)",
        "select 1 from place_load(20103)",
    ];
    let (small, large) = (cluster(SMALL).await, cluster(LARGE).await);
    let (few, many) = (small.session("postgres").await, large.session("postgres").await);
    for statement in repeated {
        assert_eq!(read_whole(&many, statement).await, Vec::<Vec<String>>::new(), "{statement}");
        let (of_few, of_many) = (cost(&few, statement).await, cost(&many, statement).await);
        // Every index that is asked may be a level or two deeper.
        assert!(of_many <= of_few + 12 && of_many < 120, "{statement}: {of_few} pages, then {of_many}");
    }
}

/// So many nodes, which run, while the planner believes that none does.
async fn running(nodes: u32) -> Db {
    let db = Db::with_vms(1).await;
    let more = format!(
        "select host_create('n' || n, ('10.9.' || n / 250 || '.' || n % 250 + 1)::inet) from generate_series(2, {nodes}) n"
    );
    db.sql(&more).await;
    // Hardly anything comes to a node, it believes, too.
    db.sql("insert into host_changes (host_id, vms) select id, 0 from hosts limit 1").await;
    db.sql("vacuum analyze").await;
    db.sql(
        "select node_state(n.node, n.node_epoch, 'running') from hosts h, node_start(h.name, gen_random_uuid(), 1) n",
    )
    .await;
    db.sql("select node_lease(host_id, epoch, 9000, 9000, null, null, 8000, 0) from host_runtimes").await;
    // What came to each since.
    db.sql("insert into host_changes (host_id, vms) select host_id, 1 from host_runtimes, generate_series(1, 3)").await;
    db
}

#[tokio::test]
async fn finding_a_place_costs_no_more_than_in_proportion_to_the_nodes() {
    let (few, many) = (running(40).await, running(400).await);
    for balancer in ["place_default", "place_load"] {
        let statement = format!("select {balancer}(vm_id('alice/d1'))");
        let (of_few, of_many) = (
            cost(&few.session("postgres").await, &statement).await,
            cost(&many.session("postgres").await, &statement).await,
        );
        assert!(of_many < of_few * 10, "{balancer}: {of_few} pages with 40 nodes, {of_many} with 400");
    }
    let loads = "select * from host_loads";
    let of_few = rows_handled(&explained(&few.session("postgres").await, loads).await);
    let of_many = rows_handled(&explained(&many.session("postgres").await, loads).await);
    assert!(of_many <= of_few * 11.0, "{of_few} rows with 40 nodes, {of_many} with 400");
}

#[tokio::test]
async fn a_poll_uses_the_index_of_what_waits() {
    let db = cluster(SMALL).await;
    let uses = async |index: &str, statement: &str| {
        let seen = format!("begin; {statement}; select pg_stat_get_xact_numscans('{index}'::regclass); rollback");
        db.rows(&seen).await.last().unwrap()[0].clone()
    };
    let host = "(select id from hosts where name = 'n3')";
    let claim = format!("select 1 from node_claim({host}, 1, 3030, 4100)");
    assert_ne!(uses("vm_runtimes_commands", &claim).await, "0");
    assert_ne!(uses("vm_runtimes_restart_due", "select 1 from vms_restart()").await, "0");
    let aborted = "select 1 from l7r_aborted((select min(id) from l7r_instances))";
    assert_ne!(uses("vm_runtimes_user_commands", aborted).await, "0");
}
