//! Who may see the desktops of VMs, and what is told to whom of it.

use super::{
    database::Db,
    tenants::{Two, administrator},
};

/// VM d1 of ann's tenant, running.
async fn running() -> (Two, String, String) {
    let two = Two::new(1, "Root").await;
    let node = two.db.node_runs().await;
    let vm = two.ann.sql("select id from vm_list").await.unwrap();
    two.db.sql(&format!("select vm_start({vm}); select node_claim({node}, 3031, 4100)")).await;
    two.db.sql(&format!("select node_vm_state({node}, {vm}, '{{starting}}', 'running')")).await;
    (two, vm, node)
}

/// A statement as the web tool runs it for an administrator.
fn acting(id: &str, statement: &str) -> String {
    format!("begin; select act_as({id}, '192.0.2.9', 'WAT'); {statement}; commit")
}

async fn id(db: &Db, name: &str) -> String {
    db.sql(&format!("select id from administrators where name = '{name}'")).await.unwrap()
}

#[tokio::test]
async fn a_desktop_is_seen_by_administrators_of_the_tenant_who_may_and_used_by_those_who_may_do_that_too() {
    let (two, vm, _node) = running().await;
    let wat = two.db.session("qvd_wat").await;
    let look = format!("select vm_spy({vm}, false)");
    let act = format!("select vm_spy({vm}, true)");
    administrator(&two.db, "carl", "acme", "VMs Reader").await;
    administrator(&two.db, "dora", "acme", "VMs Operator").await;
    two.db.sql(r#"select objects_update('role', array(select id from roles where name = 'of dora'), '{"acls": {"deny": ["vm.spy.interactive."]}}')"#).await;
    for (name, statement, refusal) in [
        ("ann", &look, None),
        ("ann", &act, None),
        ("ben", &look, Some("QV010")),
        ("carl", &look, Some("QV040")),
        ("dora", &look, None),
        ("dora", &act, Some("QV040")),
    ] {
        let statement = acting(&id(&two.db, name).await, statement);
        let refused = wat.attempt(&statement).await.err().map(|refusal| refusal.code);
        assert_eq!(refused.as_deref(), refusal, "{name}: {statement}");
    }
    assert_eq!(wat.refused(&look).await.code, "QV010", "nobody");
    for session in [
        &two.ann,
        &two.db.session("qvd_admin").await,
        &two.db.session("qvd_l7r").await,
        &two.db.session("qvd_node").await,
    ] {
        for statement in [&look, &format!("select vm_spy_check({vm}, false)")] {
            assert_eq!(
                session.refused(statement).await.code,
                "42501",
                "only the web tool gets to know how the agent is asked"
            );
        }
    }
}

#[tokio::test]
async fn only_a_vm_that_runs_has_a_desktop_and_who_looks_is_told_the_way_to_its_agent_and_is_in_the_log() {
    let (two, vm, node) = running().await;
    let wat = two.db.session("qvd_wat").await;
    let ann = id(&two.db, "ann").await;
    let told = format!("select host(address) || ':' || port || ' ' || encode(secret, 'hex') from vm_spy({vm}, true)");
    let spy = acting(&ann, &told);
    let told = wat.rows(&spy).await.pop().unwrap().pop().unwrap();
    let known = "select host(r.vm_address) || ':3031 ' || encode(s.secret, 'hex') from vm_runtimes r join vm_specs s using (vm_id)";
    assert_eq!(Some(told), two.db.sql(&format!("{known} where vm_id = {vm}")).await);
    let logged = "select administrator_name, host(ip), source, object_name, arguments from log where action = 'spy'";
    let entry = r#"ann 192.0.2.9 WAT alice@acme/d1 {"interactive": true}"#;
    assert_eq!(two.db.rows(logged).await.iter().map(|row| row.join(" ")).collect::<Vec<_>>(), [entry]);
    assert_eq!(
        two.ann.sql("select action || ' ' || type_of_action from log_list where action ~ 'spy'").await.as_deref(),
        Some("vm_spy exec")
    );

    two.db.sql(&format!("select vm_stop({vm}); select node_claim({node}, 3031, 4100)")).await;
    assert_eq!(wat.refused(&spy).await.code, "QV021", "it is stopping");
    assert_eq!(
        two.db.sql("select count(*) from log where action = 'spy'").await.as_deref(),
        Some("1"),
        "of what was refused there is nothing to tell"
    );
}
