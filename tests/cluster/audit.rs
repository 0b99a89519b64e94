//! The log of changes: who, from where, what, old and new, however the change came; and changes of many.

use qvd::db::Listener;

use super::{database::Db, tenants::Two};

#[tokio::test]
async fn a_change_by_hand_is_logged_as_one_by_function() {
    let two = Two::new(1, "Root").await;
    two.ann.sql("update users set description = 'new text', blocked = true").await;
    let last = "select administrator_name, action, qvd_object, object_name, arguments->'old'->>'blocked', arguments->'new'->>'description'
                from log order by id desc limit 1";
    assert_eq!(two.db.rows(last).await, [["ann", "update", "user", "alice", "false", "new text"]]);
    two.ann.sql("update users set blocked = false").await;
    two.ann.sql("select user_block('alice')").await;
    assert_eq!(two.db.rows("select action from log order by id desc limit 2").await, [["block"], ["unblock"]]);
    two.ann.sql("update users set blocked = blocked").await;
    assert_eq!(
        two.db.sql("select count(*) from log where action = 'block'").await.unwrap(),
        "1",
        "what stays as it is is no change"
    );
    let shown = two.ann.rows("select action, type_of_action, admin_name from log_list order by id desc limit 1").await;
    assert_eq!(shown, [["user_block", "update", "ann"]]);
    assert_eq!(two.ann.rows("select created_by, creation_date is not null from user_list").await, [["*", "t"]]);
    two.ann.sql("select object_create('user', '{\"name\": \"eve\"}')").await;
    assert_eq!(two.ann.sql("select created_by from user_list where name = 'eve'").await.unwrap(), "ann");
}

#[tokio::test]
async fn secrets_are_in_no_entry() {
    let two = Two::new(1, "Root").await;
    two.ann.sql("select object_create('user', '{\"name\": \"eve\", \"password\": \"sesame1\"}')").await;
    two.ann.sql("select * from objects_update('user', array(select id from user_list where name = 'eve'), '{\"password\": \"sesame2\"}')").await;
    two.ann.sql("select config_set('auth.ldap.bindpass', 'sesame3')").await;
    two.ann.sql("select user_totp('eve', 'GEZDGNBVGY3TQOJQ')").await;
    two.ann.sql("select object_create('administrator', '{\"name\": \"adam\", \"password\": \"sesame4\"}')").await;
    two.ann.sql("select me_update('{\"password\": \"sesame5\"}')").await;
    two.ann.sql("select * from objects_delete('user', array(select id from user_list where name = 'eve'))").await;
    let told = "select count(*) from log l where l::text ~ '(sesame|GEZD|[$]2[abxy]?[$])'";
    assert_eq!(two.db.sql(told).await.unwrap(), "0");
    assert!(
        two.db
            .sql("select count(*) from log where arguments::text like '%(secret)%'")
            .await
            .unwrap()
            .parse::<u32>()
            .unwrap()
            >= 5
    );
}

#[tokio::test]
async fn commands_are_logged_once_whoever_gives_them() {
    let db = Db::with_vms(2).await;
    let node = db.node_runs().await;
    db.sql("select vm_start('alice/d1')").await;
    let admin = db.session("qvd_admin").await;
    admin.sql("set search_path = qvd, public; select * from vms_start(array(select id from vms))").await;
    let starts = "select string_agg(object_name || ' ' || actor, ', ' order by id) from log where action = 'start'";
    assert_eq!(db.sql(starts).await.unwrap(), "alice@default/d1 postgres, alice@default/d2 qvd_admin");
    db.sql(&format!("select node_claim({node}, 3030, 4100)")).await;
    admin.sql("update vm_runtimes set vm_cmd = 'stop'").await;
    assert_eq!(db.sql("select count(*) from log where action = 'stop' and actor = 'qvd_admin'").await.unwrap(), "2");
}

#[tokio::test]
async fn ten_thousand_vms_are_blocked_by_one_statement_with_an_entry_each_and_few_notifications() {
    let db = Db::with_vms(1).await;
    db.sql(
        "insert into vms (name, user_id, osf_id, ip)
         select 'm' || n, v.user_id, v.osf_id, '10.100.0.0'::inet + n from vms v, generate_series(1, 9999) n",
    )
    .await;
    let mut watcher = Listener::connect(&db.connector()).await.unwrap();
    watcher.listener.watch().await.unwrap();
    let done = "select count(*) from vms_block(array(select id from vms)) where sqlstate = '00000'";
    assert_eq!(db.sql(done).await.unwrap(), "10000");
    let entries = "select count(*) || ' ' || count(distinct object_id) || ' ' || count(distinct time) from log where action = 'block'";
    assert_eq!(db.sql(entries).await.unwrap(), "10000 10000 1");
    db.sql("notify qvd_admin, 'end'").await;
    let (mut named, mut merged) = (0, 0);
    loop {
        let told = watcher.notifications.recv().await.unwrap();
        match told.payload.as_str() {
            "end" => break,
            payload if payload.contains("\"id\"") => named += 1,
            _ => merged += 1,
        }
    }
    assert_eq!((named, merged), (100, 1));
    // By hand it is the same.
    db.sql("update vm_runtimes set blocked = false").await;
    assert_eq!(db.sql("select count(*) from log where action = 'unblock'").await.unwrap(), "10000");
}

#[tokio::test]
async fn one_of_many_that_fails_does_not_stop_the_others() {
    let two = Two::new(3, "Root").await;
    two.ann.sql("select object_create('user', '{\"name\": \"eve\"}')").await;
    let rows = two.ann.rows("select name, sqlstate, hint <> '' from objects_delete('user', array(select id from user_list)) order by name").await;
    assert_eq!(rows, [["alice", "QV022", "t"], ["eve", "00000", ""]]);
    let rows = two.ann.rows("select distinct sqlstate, hint <> '' from vms_start(array(select id from vm_list))").await;
    assert_eq!(rows, [["QV030", "t"]]);
    let rows = two.ann.rows("select sqlstate, count(*) from objects_update('vm', array(select id from vm_list), '{\"name\": \"same\"}') group by 1 order by 1").await;
    assert_eq!(rows, [["00000", "1"], ["QV013", "2"]]);
}

#[tokio::test]
async fn a_tenant_is_purged_with_everything_in_it() {
    let two = Two::new(2, "Root").await;
    two.ann.sql("select config_set('custom.key', 'x'), object_create('property', '{\"key\": \"color\", \"objects\": [\"vm\"]}')").await;
    let acme = two.ann.sql("select my_tenant()").await.unwrap();
    assert_eq!(
        two.db.sql(&format!("select sqlstate from objects_delete('tenant', array[{acme}])")).await.unwrap(),
        "QV022"
    );
    two.db.sql(&format!("select tenant_purge({acme})")).await;
    let left = "select (select count(*) from vms) || ' ' || (select count(*) from users) || ' ' || (select count(*) from tenants where name = 'acme')";
    assert_eq!(two.db.sql(left).await.unwrap(), "2 1 0", "what is another's stays");
    assert_eq!(two.db.sql("select path from di_leftovers").await.unwrap(), "acme.tar");
}
