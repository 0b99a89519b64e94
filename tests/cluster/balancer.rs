//! Which node takes a VM: each rule of each balancer, with nodes whose load is said by the test.

use super::database::Db;

/// Nodes `n1`, `n2`, … that run, with so much memory in all and free (MB), and so much pressure on their processors.
async fn nodes(db: &Db, nodes: &[(u32, u32, f64)]) {
    for (number, (ram, free, pressure)) in (1..).zip(nodes) {
        if number > 1 {
            db.sql(&format!("select host_create('n{number}', '10.9.0.{number}')")).await;
        }
        let life = format!("node_start('n{number}', gen_random_uuid(), 1) n");
        db.sql(&format!("select node_state(n.node, n.node_epoch, 'running') from {life}")).await;
        says(db, number, (*ram, *free, *pressure)).await;
    }
}

/// A sign of life.
async fn says(db: &Db, number: u32, (ram, free, pressure): (u32, u32, f64)) {
    db.sql(&format!(
        "select node_lease(host_id, epoch, {ram}, 1000, null, null, {free}, {pressure}::real)
         from host_runtimes r join hosts h on h.id = r.host_id where h.name = 'n{number}'"
    ))
    .await;
}

async fn balancer(db: &Db, name: &str, chance: u32) {
    db.sql(&format!(
        "select config_set('l7r.loadbalancer.plugin', '{name}'),
             config_set('l7r.loadbalancer.plugin.default.weight.random', '{chance}')"
    ))
    .await;
}

/// Starts `alice/d<from>` to `alice/d<to>`, one after another; the nodes they went to.
async fn start(db: &Db, from: u32, to: u32) -> Vec<String> {
    let mut chosen = Vec::new();
    for vm in from..=to {
        db.sql(&format!("select vm_start('alice/d{vm}')")).await;
        chosen.push(db.sql(&format!("select host from vm_list where vm like '%/d{vm}'")).await.unwrap());
    }
    chosen
}

#[tokio::test]
async fn the_classic_formula_chooses_what_it_says_within_its_random_term() {
    let db = Db::with_vms(40).await;
    nodes(&db, &[(2000, 0, 1.0), (1000, 1000, 0.0), (7000, 10, 0.5)]).await;
    for chance in [0, 500] {
        balancer(&db, "default", chance).await;
        for vm in 1..=40 {
            // Counted anew here, and compared with what starts are told.
            let best = "select max((r.usable_ram + r.usable_cpu)
                            / (1 + (select count(*) from vm_runtimes v where v.host_id = r.host_id))) from host_runtimes r";
            let best: f64 = db.sql(best).await.unwrap().parse().unwrap();
            db.sql(&format!("select vm_start('alice/d{vm}')")).await;
            let had = format!(
                "select (r.usable_ram + r.usable_cpu)
                     / (select count(*) from vm_runtimes v where v.host_id = r.host_id) from host_runtimes r
                 join vm_runtimes s on s.host_id = r.host_id where s.vm_id = vm_id('alice/d{vm}')"
            );
            let had: f64 = db.sql(&had).await.unwrap().parse().unwrap();
            assert!(had >= best - f64::from(chance) - 0.001, "{vm}: {had} of {best}, chance {chance}");
            if vm % 7 == 0 {
                says(&db, 1, (2000, 0, 1.0)).await;
            }
        }
        db.sql("select vm_stop(id) from vms").await;
    }
}

#[tokio::test]
async fn vms_are_counted_exactly_whatever_happens_to_them() {
    let db = Db::with_vms(6).await;
    nodes(&db, &[(4000, 4000, 0.0), (4000, 4000, 0.0)]).await;
    let wrong = "select count(*) from host_list l
                 where l.vms <> (select count(*) from vm_runtimes r where r.host_id = l.id)";
    let steps = [
        "select vm_start(id) from vms",
        "select vm_stop('alice/d1')",
        "select node_claim(host_id, epoch, 1, 2) from host_runtimes",
        "select node_lease(host_id, epoch, 1, 1, null) from host_runtimes",
        "update vm_runtimes set vm_state = 'running' where vm_id in (vm_id('alice/d2'), vm_id('alice/d3'))",
        "update vm_runtimes set vm_state = 'stopped', vm_reason = 'failed' where vm_id = vm_id('alice/d4')",
        "begin; select vm_start('alice/d1'); rollback",
        "select node_lease(host_id, epoch, 1, 1, null) from host_runtimes",
        "select vm_stop('alice/d2'); select node_claim(host_id, epoch, 1, 2) from host_runtimes",
        "update vm_runtimes set vm_state = 'stopped' where vm_state = 'stopping'",
        "update host_runtimes set vms = 17",
        // A machine that was booted anew, of which nothing was heard for a while.
        "update host_runtimes set ok_ts = now() - interval '1 hour'",
        "select node_start(name, gen_random_uuid(), 1, seen_epoch => epoch, seen_lease => lease)
         from hosts join host_runtimes on host_id = id",
    ];
    for (number, step) in steps.iter().enumerate() {
        db.sql(step).await;
        if !step.contains("vms = 17") && !step.contains("ok_ts") {
            assert_eq!(db.sql(wrong).await.unwrap(), "0", "after step {number}: {step}");
        }
    }
    assert_eq!(db.sql("select count(*) from host_changes").await.unwrap(), "0");
}

#[tokio::test]
async fn a_start_does_not_wait_for_another_one_on_the_same_node() {
    let db = Db::with_vms(2).await;
    nodes(&db, &[(4000, 4000, 0.0)]).await;
    let (first, second) = (db.session("qvd_admin").await, db.session("qvd_admin").await);
    first.sql("begin; select vm_start('alice/d1')").await;
    second.sql("set lock_timeout = '1s'; select vm_start('alice/d2')").await;
    first.sql("commit").await;
    assert_eq!(db.sql("select vms from host_list").await.unwrap(), "2");
}

#[tokio::test]
async fn free_memory_and_idle_processors_attract_vms() {
    let db = Db::with_vms(12).await;
    balancer(&db, "load", 0).await;
    // The same machines; the first has half its memory left, on the second every processor is waited for.
    nodes(&db, &[(8000, 4000, 0.0), (8000, 8000, 1.0), (8000, 8000, 0.0)]).await;
    let mut chosen = start(&db, 1, 12).await;
    chosen.sort();
    let of = |name: &str| chosen.iter().filter(|host| *host == name).count();
    assert_eq!((of("n1"), of("n2"), of("n3")), (3, 3, 6), "{chosen:?}");
}

#[tokio::test]
async fn a_vm_goes_where_it_fits_before_it_goes_where_it_does_not() {
    let db = Db::with_vms(3).await;
    balancer(&db, "load", 0).await;
    db.sql("update osfs set memory = 1000").await;
    // The large one is nearly full. What was given to the small one counts at once.
    nodes(&db, &[(90_000, 990, 0.0), (2500, 2100, 0.0)]).await;
    assert_eq!(start(&db, 1, 2).await, ["n2", "n2"]);
    assert_eq!(start(&db, 3, 3).await, ["n1"], "it fits nowhere");
}

#[tokio::test]
async fn a_node_whose_starts_fail_gets_a_lower_share_for_a_while() {
    let db = Db::with_vms(9).await;
    balancer(&db, "load", 0).await;
    nodes(&db, &[(8000, 8000, 0.0)]).await;
    // As hkd does, and as others who give up a VM do.
    for ways in ["'stopping', 'stopped'", "'stopped'"] {
        db.sql("select vm_start('alice/d1'); select node_claim(host_id, epoch, 1, 2) from host_runtimes").await;
        for state in ways.split(", ") {
            let failing = "where vm_state in ('starting', 'stopping')";
            db.sql(&format!("update vm_runtimes set vm_state = {state}, vm_reason = 'no' {failing}")).await;
        }
    }
    // One that is stopped while it starts is no failure.
    db.sql("select vm_start('alice/d1'); select node_claim(host_id, epoch, 1, 2) from host_runtimes").await;
    db.sql("select vm_stop('alice/d1'); select node_claim(host_id, epoch, 1, 2) from host_runtimes").await;
    db.sql("update vm_runtimes set vm_state = 'stopped', vm_reason = 'told to' where vm_state = 'stopping'").await;
    nodes_after_first(&db).await;
    // Each halves: n2 takes four VMs before n1 takes its first.
    let chosen = start(&db, 1, 5).await;
    assert_eq!(chosen.iter().filter(|host| *host == "n1").count(), 1, "{chosen:?}");

    for number in [1, 2] {
        says(&db, number, (8000, 8000, 0.0)).await;
    }
    db.sql("select vm_stop(id) from vms; update host_runtimes set ok_ts = now() - interval '10 minutes'").await;
    for number in [1, 2] {
        says(&db, number, (8000, 8000, 0.0)).await;
    }
    let chosen = start(&db, 1, 4).await;
    assert_eq!(chosen.iter().filter(|host| *host == "n1").count(), 2, "forgotten: {chosen:?}");
}

async fn nodes_after_first(db: &Db) {
    db.sql("select host_create('n2', '10.9.0.2')").await;
    db.sql("select node_state(n.node, n.node_epoch, 'running') from node_start('n2', gen_random_uuid(), 1) n").await;
    says(db, 2, (8000, 8000, 0.0)).await;
}

#[tokio::test]
async fn vms_of_one_user_come_together_when_that_is_asked_for_and_they_fit() {
    let db = Db::with_vms(3).await;
    db.sql("select user_create('bob'); select vm_create('bob', 'd9', 'desk')").await;
    balancer(&db, "load", 0).await;
    db.sql("update osfs set memory = 1000; select config_set('l7r.loadbalancer.plugin.load.same_user', '1')").await;
    nodes(&db, &[(8000, 2500, 0.0), (8000, 2400, 0.0)]).await;
    assert_eq!(start(&db, 1, 2).await, ["n1", "n1"]);
    assert_eq!(start(&db, 3, 3).await, ["n2"], "no room beside the others");
    db.sql("select vm_stop(id) from vms").await;
    db.sql("select vm_start('alice/d1'), vm_start('bob/d9')").await;
    let hosts = db.rows("select host from vm_list where host is not null order by vm").await;
    assert_eq!(hosts, [["n1"], ["n2"]], "another user's goes elsewhere");
}

#[tokio::test]
async fn containers_that_share_a_home_come_together_whatever_the_balancer_wants() {
    let db = Db::with_vms(8).await;
    db.sql("select user_create('bob'); select vm_create('bob', 'd9', 'desk')").await;
    db.sql("select config_set('vm.lxc.home.per.user', 'yes')").await;
    nodes(&db, &[(8000, 8000, 0.0); 4]).await;
    for plugin in ["default", "load"] {
        balancer(&db, plugin, 1).await;
        let chosen = start(&db, 1, 8).await;
        assert!(chosen.iter().all(|host| *host == chosen[0]), "{plugin}: {chosen:?}");
        // A node that takes none any more is no place for the others.
        db.sql(&format!("select host_block('{}', true)", chosen[0])).await;
        db.sql("select vm_stop('alice/d8')").await;
        let elsewhere = start(&db, 8, 8).await;
        assert_ne!(elsewhere[0], chosen[0], "{plugin}");
        db.sql(&format!("select host_block('{}', false)", chosen[0])).await;
        db.sql("select vm_stop(id) from vms").await;
    }
}

#[tokio::test]
async fn starts_that_do_not_see_each_other_spread_evenly_over_equal_nodes() {
    let db = Db::with_vms(12).await;
    nodes(&db, &[(4000, 4000, 0.0); 4]).await;
    let mut sessions = Vec::new();
    for vm in 1..=12 {
        let session = db.session("qvd_admin").await;
        session.sql(&format!("begin; select vm_start('alice/d{vm}')")).await;
        sessions.push(session);
    }
    for session in &sessions {
        session.sql("commit").await;
    }
    assert_eq!(db.sql("select string_agg(distinct vms::text, ' ') from host_list").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn equal_nodes_all_get_vms() {
    let db = Db::with_vms(1).await;
    nodes(&db, &[(8000, 8000, 0.0); 4]).await;
    for plugin in ["default", "load"] {
        balancer(&db, plugin, 1).await;
        let spread = "select setseed(0.5);
                      select count(distinct place(s)) from vm_specs s, generate_series(1, 200)";
        assert_eq!(db.rows(spread).await[1], ["4"], "{plugin}");
    }
}

#[tokio::test]
async fn a_balancer_of_ones_own_is_a_function_and_must_be_there() {
    let db = Db::with_vms(1).await;
    nodes(&db, &[(8000, 8000, 0.0); 2]).await;
    let refusal = db.refused("select config_set('l7r.loadbalancer.plugin', 'mine')").await;
    assert_eq!(refusal.code, "QV014");
    assert!(refusal.message.contains("there is no function place_mine(vm integer)"), "{refusal:?}");
    db.sql(
        "create function place_mine(vm integer) returns integer language sql as
             $$ select id from qvd.hosts where name = 'n2' $$",
    )
    .await;
    db.sql("select config_set('l7r.loadbalancer.plugin', 'mine')").await;
    assert_eq!(start(&db, 1, 1).await, ["n2"]);
}
