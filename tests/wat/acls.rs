//! For each template of roles and each verb: who has the right may, and who has it not may not, whichever way is taken.

use serde_json::json;

use super::stage::{PASSWORD, Wat};
use crate::cluster::database::Db;

/// A verb for an object of a kind that is in use, so that whoever may delete it is refused for another reason.
const VERBS: [(&str, &str, &str); 11] = [
    ("vm", "start", "vm.update.state."),
    ("vm", "stop", "vm.update.state."),
    ("vm", "disconnect", "vm.update.disconnect-user."),
    ("vm", "block", "vm.update.block."),
    ("user", "block", "user.update.block."),
    ("host", "block", "host.update.block."),
    ("host", "del", "host.delete."),
    ("osf", "del", "osf.delete."),
    ("di", "block", "di.update.block."),
    ("tenant", "block", "tenant.update.block."),
    ("tenant", "del", "tenant.delete."),
];

#[tokio::test]
async fn every_role_may_do_what_it_says_and_nothing_else_by_sql_programs_and_pages() {
    let db = Db::with_vms(1).await;
    let in_use = "set session_replication_role = replica;
         update host_runtimes set state = 'running', ok_ts = now();
         update vm_runtimes set vm_state = 'running', host_id = (select id from hosts)";
    db.session("postgres").await.sql(in_use).await;
    let templates = db.rows("select name from roles where fixed order by name").await;
    assert!(templates.len() > 30, "{templates:?}");
    for (number, template) in templates.iter().enumerate() {
        let template = &template[0];
        let make = format!(
            r#"select object_create('role', '{{"name": "r{number}", "tenant": "*", "roles": ["{template}"]}}');
               select object_create('administrator',
                   '{{"name": "a{number}", "password": "{PASSWORD}", "tenant": "*", "roles": ["r{number}"]}}')"#
        );
        db.sql(&make).await;
    }
    let wat = Wat::start(&db).await;
    let program = db.session("qvd_wat").await;
    let (mut allowed, mut refused) = (0, 0);
    for (number, template) in templates.iter().enumerate() {
        let (name, template) = (format!("a{number}"), &template[0]);
        let id = db.sql(&format!("select id from administrators where name = '{name}'")).await.unwrap();
        for (kind, verb, acl) in VERBS {
            let target = db.sql(&format!("select max(id) from {kind}s where id > 0")).await.unwrap();
            let has = db.sql(&format!("select '{acl}' in (select acls_of({id}))")).await.as_deref() == Some("t");
            let what = format!("{template}: {verb} {kind}");

            let function = match verb {
                "start" | "stop" | "disconnect" => format!("vms_{verb}(array[{target}])"),
                "del" => format!("objects_delete('{kind}', array[{target}])"),
                _ => format!("{kind}s_block(array[{target}], {})", verb == "block"),
            };
            // Some refuse all at once, others each for itself.
            let act = format!(
                "begin; select act_as({id}, '127.0.0.1', 'test');
                 select 1 / (sqlstate <> 'QV040')::integer from {function}; rollback"
            );
            let outcome = program.attempt(&act).await;
            assert_eq!(outcome.is_ok(), has, "{what} in SQL: {outcome:?}");

            let body = json!({ "verb": verb, "ids": [target.parse::<i32>().unwrap()] });
            let answer = wat.api(&name, "POST", &format!("/api/v1/{kind}/actions"), "", Some(&body)).await;
            let said = answer.json();
            let problem = if answer.status == 200 { &said["results"][0]["problem"] } else { &said };
            assert_eq!(problem["code"] != "QV040", has, "{what} by a program: {answer:?}");

            let page = wat.post(&name, &format!("/{kind}/act"), &[("verb", verb), ("id", &target)]).await;
            assert_eq!(!page.body.contains("it takes the ACL"), has, "{what} on a page: {page:?}");
            *if has { &mut allowed } else { &mut refused } += 1;
        }
    }
    assert!(allowed > 40 && refused > 150, "{allowed} were allowed and {refused} refused");
}
