//! ACLs as data: who may do what, from the names to the refusals.

use super::{
    database::{Db, Session},
    tenants::{Two, administrator},
};

#[tokio::test]
async fn there_are_the_names_of_classic_qvd_and_its_roles() {
    let db = Db::new().await;
    assert_eq!(db.sql("select count(*) from acls").await.unwrap(), "244");
    let expected = [
        "vm.update.state.",
        "di.see.vm-list-user-state.",
        "osf.see.di-list-default-update.",
        "tenant.purge.",
        "vm.spy.interactive.",
    ];
    for name in expected {
        assert_eq!(db.sql(&format!("select count(*) from acls where name = '{name}'")).await.unwrap(), "1", "{name}");
    }
    assert_eq!(db.sql("select count(*) from acls where name !~ '^[a-z]+([.][a-z-]+)+[.]$'").await.unwrap(), "0");
    let assignable = "select string_agg(name, ', ' order by name) from roles where not internal";
    assert_eq!(db.sql(assignable).await.unwrap(), "Operator L1, Operator L2, Operator L3, Root");
    assert_eq!(
        db.sql("select count(*) from role_acls a join roles r on r.id = a.role_id where r.name = 'Root'")
            .await
            .unwrap(),
        "244"
    );
    let asked = "select count(*) from column_acls() c where not exists (select from acls a where a.name = c.acl)";
    assert_eq!(db.sql(asked).await.unwrap(), "0", "what is asked for can be had");
}

/// Actions, and which roles and templates may do them.
const ACTIONS: &[(&str, &[&str])] = &[
    (
        "select * from objects_update('user', array[1], '{\"blocked\": true}')",
        &["Root", "Operator L2", "Users Operator", "Users Updater", "QVD Manager"],
    ),
    (
        "select * from objects_update('user', array[1], '{\"password\": \"x\"}')",
        &["Root", "Users Updater", "QVD Manager"],
    ),
    ("select * from objects_delete('user', array[1])", &["Root", "Users Eraser", "QVD Manager"]),
    ("select user_create('eve', 'x')", &["Root", "Users Creator", "QVD Manager"]),
    ("update users set description = 'x'", &["Root", "Users Updater", "QVD Manager"]),
    (
        "update users set blocked = not blocked",
        &["Root", "Operator L2", "Users Operator", "Users Updater", "QVD Manager"],
    ),
    ("delete from users where login = 'gone'", &["Root", "Users Eraser", "QVD Manager"]),
    ("select * from vms_start(array[1])", &["Root", "Operator L2", "VMs Operator", "VMs Updater", "QVD Manager"]),
    ("select vm_start('alice/d1')", &["Root", "Operator L2", "VMs Operator", "VMs Updater", "QVD Manager"]),
    ("select vm_start(vm_id('alice/d1'))", &["Root", "Operator L2", "VMs Operator", "VMs Updater", "QVD Manager"]),
    ("select vm_stop(vm_id('alice/d1'))", &["Root", "Operator L2", "VMs Operator", "VMs Updater", "QVD Manager"]),
    ("select * from objects_update('vm', array[1], '{\"di_tag\": \"x\"}')", &["Root", "VMs Updater", "QVD Manager"]),
    ("update vms set description = coalesce(description, '') || 'x'", &["Root", "VMs Updater", "QVD Manager"]),
    (
        "update vm_runtimes set blocked = not blocked",
        &["Root", "Operator L2", "VMs Operator", "VMs Updater", "QVD Manager"],
    ),
    ("select osf_create('other')", &["Root", "QVD Manager"]),
    ("select object_create('role', '{\"name\": \"r\"}')", &["Root"]),
    ("select object_create('administrator', '{\"name\": \"a\"}')", &["Root"]),
    ("select config_set('custom.key', 'x')", &["Root"]),
    ("select view_set('vm', 'ip', 'list_column', 'desktop', false, 'tenant')", &["Root"]),
    ("select object_create('property', '{\"key\": \"k\"}')", &["Root"]),
];

const ROLES: [&str; 9] = [
    "Root",
    "Operator L1",
    "Operator L2",
    "Users Operator",
    "Users Updater",
    "Users Eraser",
    "Users Creator",
    "VMs Updater",
    "VMs Operator",
];

#[tokio::test]
async fn each_role_may_do_what_its_acls_say() {
    let two = Two::new(1, "Root").await;
    two.db.sql("insert into users (tenant_id, login) values (tenant_id('acme'), 'gone')").await;
    // Trying everything may take longer than a lease lasts.
    two.db.sql("select config_set('internal.hkd.lease.lapse', '3600')").await;
    let runs = "select node_state(n.node, n.node_epoch, 'running') from node_start('n1', gen_random_uuid(), 1) n";
    two.db.sql(runs).await;
    for (number, role) in ROLES.into_iter().chain(["QVD Manager"]).enumerate() {
        let session = administrator(&two.db, &format!("a{number}"), "acme", role).await;
        for (action, allowed) in ACTIONS {
            let outcome = session.attempt(&format!("begin; {action}; rollback")).await;
            let code = outcome.as_ref().err().map(|refusal| refusal.code.as_str());
            let wanted = (!allowed.contains(&role)).then_some("QV040");
            assert_eq!(code, wanted, "{role}: {action}: {outcome:?}");
        }
    }
}

async fn field(session: &Session, query: &str) -> Option<String> {
    session.sql(query).await
}

#[tokio::test]
async fn a_field_without_its_acl_is_null_also_to_filters() {
    let two = Two::new(1, "Root").await;
    two.db
        .sql(
            "select object_create('role', '{\"name\": \"narrow\", \"tenant\": \"acme\", \"roles\": [\"VMs Reader\"]}')",
        )
        .await;
    two.db.sql("select * from objects_update('role', array(select id from roles where name = 'narrow'), '{\"acls\": {\"deny\": [\"vm.see.ip.\", \"vm.see.state.\"]}}')").await;
    let narrow = administrator(&two.db, "nat", "acme", "narrow").await;
    assert_eq!(narrow.rows("select name, ip, state, blocked from vm_list").await, [["d1", "", "", "f"]]);
    assert_eq!(
        field(&narrow, "select count(*) from vm_list where state = 'stopped' or ip is not null").await.unwrap(),
        "0"
    );
    assert_eq!(
        field(&narrow, "select count(*) from user_list").await.unwrap(),
        "0",
        "without see-main there is no list"
    );
    assert_eq!(two.ann.rows("select state, ip is not null from vm_list").await, [["stopped", "t"]]);
    let seen = "select string_agg(k, ' ' order by k) from jsonb_object_keys(statistics()) k";
    assert_eq!(field(&narrow, seen).await.unwrap(), "blocked_vms running_vms vms vms_with_expiration_date");
}

#[tokio::test]
async fn what_a_role_takes_away_goes_no_further() {
    let db = Db::new().await;
    db.sql("select object_create('role', '{\"name\": \"base\", \"tenant\": \"default\", \"acls\": [\"vm.create.\", \"vm.delete.\"]}')").await;
    db.sql("select object_create('role', '{\"name\": \"middle\", \"tenant\": \"default\", \"roles\": [\"base\"]}')")
        .await;
    db.sql("select object_create('role', '{\"name\": \"top\", \"tenant\": \"default\", \"roles\": [\"middle\"]}')")
        .await;
    let of = async |role: &str| {
        db.sql(&format!("select string_agg(acl, ' ' order by acl) from role_acls a join roles r on r.id = a.role_id where r.name = '{role}'")).await
    };
    assert_eq!(of("top").await.unwrap(), "vm.create. vm.delete.");
    let change = |role: &str, acls: &str| {
        format!(
            "select sqlstate from objects_update('role', array(select id from roles where name = '{role}'), '{{\"acls\": {acls}}}')"
        )
    };
    assert_eq!(db.sql(&change("middle", "{\"deny\": [\"vm.create.\"]}")).await.unwrap(), "00000");
    assert_eq!((of("middle").await.unwrap(), of("top").await.unwrap()), ("vm.delete.".into(), "vm.delete.".into()));
    assert_eq!(of("base").await.unwrap(), "vm.create. vm.delete.");
    assert_eq!(db.sql(&change("middle", "{\"delete\": [\"vm.create.\"]}")).await.unwrap(), "00000");
    assert_eq!(of("top").await.unwrap(), "vm.create. vm.delete.");
    assert_eq!(
        db.sql("select count(*) from (select * from role_acls except select * from role_acls_due) x").await.unwrap(),
        "0"
    );

    let circle = "select sqlstate from objects_update('role', array(select id from roles where name = 'base'), '{\"roles\": [\"top\"]}')";
    assert_eq!(db.sql(circle).await.unwrap(), "QV042");
    assert_eq!(db.sql(&change("Root", "[\"vm.create.\"]")).await.unwrap(), "QV042", "what is fixed stays");
    assert_eq!(db.refused("delete from roles where name = 'Root'").await.code, "QV042");
}

#[tokio::test]
async fn nobody_locks_everybody_out() {
    let db = Db::new().await;
    let first = administrator(&db, "first", "*", "Root").await;
    let mine = first.sql("select me()").await.unwrap();
    let delete = |id: &str| format!("select sqlstate from objects_delete('administrator', array[{id}])");
    assert_eq!(first.sql(&delete(&mine)).await.unwrap(), "QV041", "not himself");
    let unassign = format!(
        "select sqlstate from objects_update('administrator', array[{mine}], '{{\"roles\": {{\"delete\": [\"of first\"]}}}}')"
    );
    assert_eq!(first.sql(&unassign).await.unwrap(), "QV041", "nor the last who could give it back");
    assert_eq!(db.sql(&delete(&mine)).await.unwrap(), "QV041");
    let second = administrator(&db, "second", "*", "Root").await;
    assert_eq!(second.sql(&delete(&mine)).await.unwrap(), "00000");
    assert_eq!(first.sql("select count(*) from user_list").await.unwrap(), "0", "who was deleted is nobody");
    // The recovery administrator is not there, and stays.
    assert_eq!(second.sql(&delete("0")).await.unwrap(), "QV010");
    assert_eq!(second.sql("select count(*) from administrator_list where id = 0").await.unwrap(), "0");
    assert_eq!(db.refused("delete from administrators where id = 0").await.code, "QV041");
}

#[tokio::test]
async fn nobody_gives_what_he_does_not_have() {
    let db = Db::new().await;
    db.sql("select tenant_create('acme')").await;
    db.sql("select object_create('role', '{\"name\": \"clerk\", \"tenant\": \"acme\", \"roles\": [\"Administrators Manager\", \"Roles Manager\"]}')").await;
    let clerk = administrator(&db, "clara", "acme", "clerk").await;
    let me = clerk.sql("select me()").await.unwrap();
    for change in [
        format!("objects_update('administrator', array[{me}], '{{\"roles\": [\"Root\"]}}')"),
        "objects_update('role', array(select id from role_list where name = 'clerk'), '{\"roles\": [\"Root\"]}')"
            .to_owned(),
        "objects_update('role', array(select id from role_list where name = 'clerk'), '{\"acls\": [\"vm.delete.\"]}')"
            .to_owned(),
    ] {
        assert_eq!(clerk.sql(&format!("select sqlstate from {change}")).await.unwrap(), "QV040", "{change}");
    }
    assert_eq!(clerk.sql("select can('vm.delete.')").await.unwrap(), "f");
    let own = "select sqlstate from objects_update('role', array(select id from role_list where name = 'of clara'), '{\"acls\": [\"role.create.\"]}')";
    assert_eq!(clerk.sql(own).await.unwrap(), "00000", "what he has he gives");
}
