//! The figures of the overview: each for who has the right to it, of his tenant, and as cheap however many sessions were.

use serde_json::Value;

use super::{
    database::{Db, Session},
    tenants::{Two, administrator},
};

const SESSIONS: u32 = 1_000_000;
/// Of them in the last hour.
const RECENT: u32 = 600;

async fn overview(session: &Session) -> Value {
    serde_json::from_str(&session.rows("select overview()").await[0][0]).unwrap()
}

/// What somebody with this role alone of tenant `acme`, or `*`, sees.
async fn seen_by(db: &Db, name: &str, tenant: &str, acls: &str) -> Value {
    db.sql(&format!(
        r#"select object_create('role', '{{"name": "r{name}", "tenant": "{tenant}", "acls": [{acls}]}}')"#
    ))
    .await;
    overview(&administrator(db, name, tenant, &format!("r{name}")).await).await
}

/// Sessions that began a minute after the other, the last one now, in both tenants in turn.
async fn sessions(db: &Db, sessions: u32, seconds_between: f64) {
    db.sql(&format!(
        "set session_replication_role = replica;
         insert into user_sessions (vm_id, vm_name, user_id, login, tenant_id, l7r_host_id, l7r_instance, client_address,
             started_at, ended_at, end_reason)
         select v.ids[1 + n % 2], 'd1', 1, 'alice', v.tenants[1 + n % 2], 1, 1, '192.0.2.1',
             now() - ({sessions} - n) * interval '1 second' * {seconds_between},
             now() - ({sessions} - n) * interval '1 second' * {seconds_between}, 'left'
         from generate_series(1, {sessions}) n,
             (select array_agg(id order by tenant_id) as ids, array_agg(tenant_id order by tenant_id) as tenants
              from vms where name = 'd1') v;
         set session_replication_role = origin"
    ))
    .await;
}

fn logins(overview: &Value) -> i64 {
    overview["logins"].as_array().unwrap().iter().map(|minute| minute[1].as_i64().unwrap()).sum()
}

#[tokio::test]
async fn a_tenants_administrator_counts_what_is_of_his_tenant() {
    let two = Two::new(6, "Root").await;
    sessions(&two.db, 10, 60.0).await;
    two.db
        .sql(
            "set session_replication_role = replica;
             update vm_runtimes set vm_state = 'running', host_id = (select id from hosts) where vm_id % 2 = 0;
             update host_runtimes set state = 'running', usable_ram = 1000, free_ram = 250, cpu_pressure = 0.5;
             set session_replication_role = origin;
             select * from vms_block(array(select v.id from vms v join tenants t on t.id = v.tenant_id where t.name = 'acme' limit 2), true);
             select * from users_block(array(select u.id from users u join tenants t on t.id = u.tenant_id where t.name = 'beta'), true);
             select * from vms_expire(array(select id from vms where name = 'd3'), now() + interval '1 hour', now() + interval '2 hours')",
        )
        .await;
    let (ann, ben, all) =
        (overview(&two.ann).await, overview(&two.ben).await, overview(&two.db.session("qvd_admin").await).await);
    assert_eq!(ann["vm_states"], serde_json::json!({ "stopped": 3, "running": 3 }));
    assert_eq!((&ann["vms"]["all"], &ann["vms"]["blocked"], &ben["vms"]["blocked"]), (&6.into(), &2.into(), &0.into()));
    assert_eq!((&ann["users"]["blocked"], &ben["users"]["blocked"]), (&0.into(), &1.into()));
    assert_eq!((logins(&ann), logins(&ben), logins(&all)), (5, 5, 10));
    assert_eq!((&ann["expiring"]["all"], &all["expiring"]["all"]), (&1.into(), &2.into()));
    assert_eq!(ann["expiring"]["first"][0]["vm"], "alice@acme/d3");
    for cluster in ["hosts", "events"] {
        assert!(ann.get(cluster).is_none(), "{cluster} is not a tenant's: {ann}");
    }
    let host = &all["hosts"][0];
    assert_eq!((&host["name"], &host["memory"], &host["processors"]), (&"n1".into(), &0.75.into(), &0.5.into()));
    assert_eq!(all["events"]["degraded"], serde_json::json!([]));
    assert_eq!(all["logins"].as_array().unwrap().len(), 60);
    assert_eq!(all["logins"][59][0], two.db.sql("select to_char(now() at time zone 'UTC', 'HH24:MI')").await.unwrap());
}

#[tokio::test]
async fn each_figure_takes_its_acl() {
    let two = Two::new(1, "Root").await;
    assert_eq!(seen_by(&two.db, "nobody", "*", "").await, serde_json::json!({}));
    for (number, (acl, part)) in [
        ("vm.stats.running-vms.", "vm_states"),
        ("vm.stats.blocked.", "vms"),
        ("vm.stats.close-to-expire.", "expiring"),
        ("user.stats.blocked.", "users"),
        ("user.stats.connected-users.", "logins"),
        ("host.stats.top-hosts-most-vms.", "hosts"),
        ("host.see.state.", "events"),
    ]
    .into_iter()
    .enumerate()
    {
        let seen = seen_by(&two.db, &format!("a{number}"), "*", &format!("\"{acl}\"")).await;
        let parts: Vec<_> = seen.as_object().unwrap().keys().collect();
        assert_eq!(parts, [part], "{acl}");
    }
}

#[tokio::test]
async fn a_million_sessions_make_the_logins_of_an_hour_no_dearer() {
    let two = Two::new(1, "Root").await;
    // Each six seconds: two months and more.
    sessions(&two.db, SESSIONS, 6.0).await;
    two.db.sql("vacuum analyze user_sessions").await;
    let everything = two.db.session("qvd_admin").await;
    for (who, session, share) in [("all", &everything, 1), ("a tenant", &two.ann, 2)] {
        let asked = "begin; explain (analyze, buffers, format json) select overview(); rollback";
        // The first makes the plans.
        session.rows(asked).await;
        let plan: Value = serde_json::from_str(&session.rows(asked).await[0][0]).unwrap();
        let blocks = |kind: &str| plan[0]["Plan"][format!("Shared {kind} Blocks")].as_u64().unwrap();
        // The whole table has more than ten thousand.
        assert!(blocks("Hit") + blocks("Read") < 400, "{who}: {plan}");
        let counted = logins(&overview(session).await) as u32;
        assert!((RECENT - 20) / share <= counted && counted <= RECENT / share + 1, "{who}: {counted}");
        let statement = "explain (format json) select count(*) from user_sessions
             where started_at >= date_trunc('minute', now()) - interval '59 minutes'";
        let plan = &session.rows(statement).await[0][0];
        assert!(plan.contains("user_sessions_started") && !plan.contains("Seq Scan"), "{who}: {plan}");
    }
}
