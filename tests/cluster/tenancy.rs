//! What an administrator of a tenant meets of others: nothing, whichever way he tries.

use qvd::db::Listener;

use super::{
    database::Session,
    tenants::{Two, administrator},
};

const LISTS: [&str; 9] = [
    "vm_list",
    "user_list",
    "osf_list",
    "di_list",
    "administrator_list",
    "property_list",
    "log_list",
    "session_list",
    "config_list",
];

async fn code(session: &Session, statement: &str) -> String {
    session.refused(statement).await.code
}

/// What became of each of some objects.
async fn outcomes(session: &Session, call: &str) -> Vec<String> {
    let rows = session.rows(&format!("select sqlstate from {call} order by id")).await;
    rows.into_iter().flatten().collect()
}

#[tokio::test]
async fn an_administrator_sees_and_changes_only_his_tenant() {
    let two = Two::new(2, "Root").await;
    for list in LISTS {
        let foreign =
            two.ann.sql(&format!("select count(*) from {list} where tenant_id <> my_tenant()")).await.unwrap();
        assert_eq!(foreign, "0", "{list}");
    }
    for (list, rows) in [
        ("vm_list", "2"),
        ("user_list", "1"),
        ("osf_list", "1"),
        ("di_list", "1"),
        ("host_list", "0"),
        ("tenant_list", "0"),
    ] {
        assert_eq!(two.ann.sql(&format!("select count(*) from {list}")).await.unwrap(), rows, "{list}");
    }
    // A statement without a condition means his own.
    two.ann.sql("update users set blocked = true").await;
    two.ann.sql("update vm_runtimes set blocked = true").await;
    two.ann.sql("select * from objects_update('osf', (select array_agg(id) from osfs), '{\"memory\": 999}')").await;
    let touched = "select string_agg(t.name || ' ' || n, ', ' order by t.name) from tenants t join (
            select tenant_id, count(*) n from users where blocked group by 1) u on u.tenant_id = t.id";
    assert_eq!(two.db.sql(touched).await.unwrap(), "acme 1");
    assert_eq!(two.db.sql("select count(*) from vm_runtimes where blocked").await.unwrap(), "2");
    assert_eq!(two.ben.sql("select count(*) from vm_list where blocked").await.unwrap(), "0");
    assert_eq!(two.ben.sql("select max(memory) from osf_list").await.unwrap(), "256");
}

#[tokio::test]
async fn numbers_of_others_are_guessed_in_vain() {
    let two = Two::new(1, "Root").await;
    let all = "(select array_agg(n) from generate_series(9990, 10010) n)";
    let mine = two.ann.sql("select count(*) from vm_list").await.unwrap();
    for call in [
        format!("vms_block({all})"),
        format!("objects_update('vm', {all}, '{{\"description\": \"x\"}}')"),
        format!("vms_delete({all})"),
    ] {
        let done = outcomes(&two.ann, &call).await;
        assert_eq!(done.iter().filter(|state| *state == "00000").count().to_string(), mine, "{call}");
        assert_eq!(
            done.iter().filter(|state| *state == "QV010").count(),
            20,
            "{call}: others look as if they were not there"
        );
    }
    for kind in ["user", "osf", "di", "administrator", "role", "property", "host", "tenant"] {
        let ids = two
            .db
            .sql(
                "select array_agg(id) from (select id from users union select id from osfs union select id from dis
             union select id from administrators union select id from tenants union select id from hosts) x
             where id not in (select id from users where tenant_id = tenant_id('acme'))",
            )
            .await
            .unwrap();
        let call = format!("objects_delete('{kind}', '{ids}')");
        let attempt = two.ann.attempt(&format!("select * from {call}")).await;
        assert!(attempt.is_ok() || attempt.unwrap_err().code == "QV040", "{call}");
    }
    let left = "select count(*) from vms v join users u on u.id = v.user_id, tenants t, hosts, osfs o, dis
                where u.tenant_id = t.id and t.name = 'beta' and o.tenant_id = t.id and dis.osf_id = o.id";
    assert_eq!(two.db.sql(left).await.unwrap(), "1", "all of the other is there");
    for (call, wanted) in [
        ("select vm_start(vm_id) from (select max(id) as vm_id from generate_series(1, 10001) id) x", "QV010"),
        ("select vm_start('alice@beta/d1')", "QV010"),
        ("select user_password('alice@beta', 'x')", "QV010"),
        ("select di_delete('desk@beta/head')", "QV010"),
        ("select config_set('l7r.port', '1', 'beta')", "QV010"),
        ("select object_create('user', '{\"name\": \"eve\", \"tenant\": \"beta\"}')", "QV010"),
        ("select object_create('vm', '{\"name\": \"x\", \"user\": \"alice@beta\", \"osf\": \"desk\"}')", "QV010"),
        ("select tenant_create('eve')", "QV040"),
        ("select host_create('n2', '10.9.0.2')", "QV040"),
        ("select host_stop('n1')", "QV040"),
        ("select config_ssl('x', 'y')", "QV040"),
        ("select tenant_purge(10001)", "QV040"),
    ] {
        assert_eq!(code(&two.ann, call).await, wanted, "{call}");
    }
    assert_eq!(
        two.ann.sql("select vm_name(id) from generate_series(9000, 11000) id where vm_name(id) like '%beta%'").await,
        None
    );
}

#[tokio::test]
async fn what_is_unique_or_refers_tells_nothing_of_others() {
    let two = Two::new(1, "Root").await;
    let beta = two.db.sql("select tenant_id('beta')").await.unwrap();
    let user =
        two.db.sql("select id from users where login = 'alice' and tenant_id = tenant_id('beta')").await.unwrap();
    let other = two.db.sql("select id from vms where tenant_id = tenant_id('beta')").await.unwrap();
    // The same name is free in his own tenant, and the other's cannot be written to, whether it is taken or not.
    for login in ["alice", "nobody"] {
        let write = format!("insert into users (tenant_id, login) values ({beta}, '{login}')");
        assert_eq!(code(&two.ann, &write).await, "42501", "{write}");
    }
    // Numbers and addresses are not his to choose, so a collision tells nothing.
    assert_eq!(
        code(&two.ann, &format!("insert into users (id, tenant_id, login) values ({user}, my_tenant(), 'x')")).await,
        "42501"
    );
    assert_eq!(code(&two.ann, "update vms set ip = (select max(ip) - 1 from vms)").await, "42501");
    assert_eq!(code(&two.ann, "select vm_create('alice', 'd9', 'desk', ip => '10.0.0.9')").await, "QV040");
    // A reference to what is somebody else's fails as one to what is not there.
    for id in [other.as_str(), "77777"] {
        let write = format!("insert into vm_properties (vm_id, property_id, value) values ({id}, 1, 'x')");
        assert_eq!(code(&two.ann, &write).await, "42501", "{write}");
    }
    let property = "select object_create('property', '{\"key\": \"color\", \"objects\": [\"vm\"]}')";
    two.ann.sql(property).await;
    two.ben.sql(property).await;
    let set = format!(
        "select sqlstate, message from objects_update('vm', array[{other}], '{{\"properties\": {{\"color\": \"x\"}}}}')"
    );
    assert_eq!(two.ann.rows(&set).await[0][0], "QV010");
}

#[tokio::test]
async fn notifications_tell_kinds_and_numbers_and_nothing_else() {
    let two = Two::new(1, "Root").await;
    let mut watcher = Listener::connect(&two.db.connector()).await.unwrap();
    watcher.listener.watch().await.unwrap();
    two.ben.sql("select object_create('user', '{\"name\": \"top-secret-name\"}')").await;
    two.ben.sql("update users set description = 'top-secret-text' where login = 'top-secret-name'").await;
    two.ben.sql("select object_create('role', '{\"name\": \"top-secret-role\"}')").await;
    two.db.sql("notify qvd_admin, 'end'").await;
    let mut heard = 0;
    loop {
        let told = watcher.notifications.recv().await.unwrap();
        if told.payload == "end" {
            break;
        }
        heard += 1;
        let payload: serde_json::Value = serde_json::from_str(&told.payload).unwrap();
        let keys: Vec<&String> = payload.as_object().unwrap().keys().collect();
        assert!(keys.iter().all(|key| ["v", "kind", "id", "tenant"].contains(&key.as_str())), "{payload}");
        assert!(!told.payload.contains("secret"), "{payload}");
    }
    assert!(heard >= 3, "{heard}");
    // With what he hears, the other looks at nothing.
    let there = two.db.sql("select max(id) from users").await.unwrap();
    assert_eq!(two.ann.sql(&format!("select count(*) from user_list where id = {there}")).await.unwrap(), "0");
}

#[tokio::test]
async fn nobody_but_the_web_tool_acts_in_anothers_name() {
    let two = Two::new(1, "Root").await;
    let ben = two.ben.sql("select me()").await.unwrap();
    assert_eq!(code(&two.ann, &format!("select act_as({ben}, null, 'x')")).await, "42501");
    two.ann.sql(&format!("select set_config('qvd.acting', '{ben}||x', false)")).await;
    assert_ne!(two.ann.sql("select me()").await.unwrap(), ben, "a setting means nothing");
    assert_eq!(two.ann.sql("select count(*) from vm_list where tenant = 'beta'").await.unwrap(), "0");
    let admin = two.db.session("qvd_admin").await;
    admin.sql(&format!("set qvd.acting = '{ben}||x'")).await;
    assert_eq!(admin.sql("select qvd.me()").await.unwrap(), "0");

    let wat = two.db.session("qvd_wat").await;
    wat.sql("set search_path = qvd, public").await;
    assert_eq!(wat.sql("select count(*) from vm_list").await.unwrap(), "0", "nobody acts");
    assert_eq!(code(&wat, "select objects_update('vm', array[10000], '{\"blocked\": true}')").await, "QV040");
    let acting = format!("begin; select act_as({ben}, '192.0.2.7', 'REST')");
    wat.sql(&acting).await;
    assert_eq!(wat.sql("select tenant from vm_list").await.unwrap(), "beta");
    wat.sql("select * from vms_block((select array_agg(id) from vm_list)); commit").await;
    let logged =
        two.db.rows("select administrator_name, source, host(ip), actor from log order by id desc limit 1").await;
    assert_eq!(logged, [["ben", "REST", "192.0.2.7", "qvd_wat"]]);
    assert_eq!(wat.sql("select count(*) from vm_list").await.unwrap(), "0", "it ends with the transaction");

    // A blocked tenant is closed to its administrators, at once and whichever way they come.
    two.db.sql("update tenants set blocked = true where name = 'beta'").await;
    assert_eq!(code(&wat, &format!("select act_as({ben}, null, 'WAT')")).await, "QV040");
    assert_eq!(two.ben.sql("select count(*) from vm_list").await.unwrap(), "0");
    assert_eq!(code(&two.ben, "select vms_block(array[10001])").await, "QV040");
    assert_eq!(wat.sql("select count(id) from wat_administrator('ben', 'beta')").await.unwrap(), "0");
    assert_eq!(wat.sql("select count(id) from wat_administrator('ann', 'acme')").await.unwrap(), "1");
}

#[tokio::test]
async fn hostile_text_stays_text() {
    let two = Two::new(1, "Root").await;
    for text in [
        "'; drop table users; --",
        "$$ || pg_sleep(9) || $$",
        "%s%I%L",
        "<script>alert(1)</script>",
        "\\\\x00\\u0000 ', \"",
        "{\"set\":1}",
    ] {
        let quoted = text.replace('\'', "''");
        let call = format!(
            "select sqlstate from objects_update('user', array(select id from user_list), jsonb_build_object('description', '{quoted}'))"
        );
        assert_eq!(two.ann.sql(&call).await.unwrap(), "00000", "{text}");
        assert_eq!(two.ann.sql("select description from user_list").await.unwrap(), text);
        let field = format!("select objects_update('user', array[1], jsonb_build_object('{quoted}', 'x'))");
        assert_eq!(code(&two.ann, &field).await, "QV014", "{text}");
        let kind = format!("select objects_update('{quoted}', array[1], '{{}}')");
        assert_eq!(code(&two.ann, &kind).await, "QV010", "{text}");
    }
    let late = administrator(&two.db, "zoe", "acme", "Root").await;
    assert_eq!(late.sql("select count(*) from user_list").await.unwrap(), "1");
}

#[tokio::test]
async fn no_table_or_view_that_administrators_read_forgets_whose_rows_are_whose() {
    let two = Two::new(1, "Root").await;
    let open = "select string_agg(relname, ' ' order by relname) from pg_class
                where relnamespace = 'qvd'::regnamespace and relkind = 'r' and not (relrowsecurity and relforcerowsecurity)
                    and has_any_column_privilege('qvd_administrators', oid, 'select, insert, update')";
    assert_eq!(two.db.sql(open).await.unwrap(), "acls beat config_keys versions", "what is nobody's");
    let others = "select string_agg(relname, ' ') from pg_class
                  where relnamespace = 'qvd'::regnamespace and relkind = 'v' and not coalesce('security_invoker=true' = any (reloptions), false)
                      and has_table_privilege('qvd_administrators', oid, 'select')";
    assert_eq!(two.db.sql(others).await, None);
    let loose = "select string_agg(proname, ' ') from pg_proc where pronamespace = 'qvd'::regnamespace and prosecdef
                 and not coalesce(exists (select from unnest(proconfig) c where c like 'search_path=%'), false)";
    assert_eq!(two.db.sql(loose).await, None, "whoever calls them chooses no tables");
}

#[tokio::test]
async fn a_policy_asks_who_acts_once_in_a_statement() {
    let two = Two::new(3, "Root").await;
    for query in [
        "select * from vms",
        "select * from vm_list",
        "select * from user_list where name = 'alice'",
        "update users set blocked = true",
    ] {
        let plan = two.ann.rows(&format!("explain (verbose, costs off) {query}")).await.concat();
        for line in plan.iter().filter(|line| line.contains("Filter:")) {
            assert!(
                !line.contains("sees_all(") && !line.contains("my_tenant(") && !line.contains("can("),
                "{query}: {line}"
            );
        }
    }
}
