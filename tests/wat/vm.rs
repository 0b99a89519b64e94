//! The page of a VM, and its console.

use super::stage::{Wat, administrator};
use crate::cluster::database::Db;

/// The buttons of a page.
fn buttons(page: &str) -> Vec<&str> {
    let verbs = page.split(r#"name="verb" value=""#).skip(1);
    verbs.filter_map(|verb| Some(verb.split_once('"')?.0)).collect()
}

async fn stage() -> (Db, Wat, String, String) {
    let db = Db::with_vms(1).await;
    let node = db.node_runs().await;
    administrator(&db, "root", "*", "Root").await;
    let vm = db.sql("select id from vms").await.unwrap();
    let wat = Wat::start(&db).await;
    (db, wat, node, vm)
}

#[tokio::test]
async fn the_page_of_a_vm_says_why_it_is_in_its_state_and_what_became_of_it_and_of_its_users() {
    let (db, wat, node, vm) = stage().await;
    let host = node.split(',').next().unwrap();
    wat.post("root", "/vm/act", &[("verb", "block"), ("id", &vm)]).await;
    db.sql(&format!(
        "with router as (
             insert into l7r_instances (host_id, boot_id, pid, pid_start) values ({host}, gen_random_uuid(), 1, 1) returning id)
         insert into user_sessions (vm_id, vm_name, user_id, login, tenant_id, host_id, l7r_host_id, l7r_instance,
             client_address, ended_at, end_reason)
         select v.id, v.name, u.id, u.login, v.tenant_id, {host}, {host}, router.id, '192.0.2.77', now(), 'the client left'
         from vms v join users u on u.id = v.user_id, router"
    ))
    .await;
    let page = wat.get("root", &format!("/vm/{vm}")).await.body;
    let why = db.sql(&format!("select vm_why({vm})")).await.unwrap();
    let beginning = why.split(" (").next().unwrap();
    assert!(page.contains(beginning), "{beginning}: {page}");
    assert!(page.contains("192.0.2.77") && page.contains("the client left"), "{page}");
    let address = db.sql("select host(ip) from vms").await.unwrap();
    assert!(page.contains("vm_block") && page.contains(&address), "{page}");
    let image = db.sql("select id from dis").await.unwrap();
    db.sql("update vm_runtimes set current_di_id = (select id from dis)").await;
    let page_in_use = wat.get("root", &format!("/vm/{vm}")).await.body;
    assert_eq!(page_in_use.matches(&format!("href=\"/di/{image}\"")).count(), 2, "{page_in_use}");
    let log = page.split("href=\"/log?").nth(1).and_then(|rest| rest.split_once('"')).unwrap().0.replace("&#38;", "&");
    let log = wat.get("root", &format!("/log?{log}")).await.body;
    assert!(log.contains("alice@default/d1"), "the whole log of it is where it leads to: {log}");
}

#[tokio::test]
async fn a_vm_has_the_buttons_that_its_state_and_the_acls_allow_and_they_change_with_it() {
    let (db, wat, _node, vm) = stage().await;
    let page = format!("/vm/{vm}");
    assert_eq!(buttons(&wat.get("root", &page).await.body), ["start", "block", "del"]);
    let mut changes = wat.live("root").await;
    wat.post("root", "/vm/act", &[("verb", "start"), ("id", &vm), ("back", &page)]).await;
    changes.next(&format!("data: {{\"kind\":\"vm\",\"id\":{vm}}}")).await;
    assert_eq!(buttons(&wat.get("root", &page).await.body), ["stop", "block", "del"]);
    db.sql("update vm_runtimes set blocked = true").await;
    assert_eq!(buttons(&wat.get("root", &page).await.body), ["stop", "unblock", "del"]);
    administrator(&db, "reader", "*", "Operator L1").await;
    assert_eq!(buttons(&wat.get("reader", &page).await.body), Vec::<&str>::new());
    let body = wat.get("root", &page).await.body;
    let (live, after) = body.split_once("<section id=\"facts\"").unwrap().1.split_once("</section>").unwrap();
    assert!(
        live.contains(r#"value="stop""#) && !after.contains(r#"value="stop""#),
        "what changes is shown anew: {body}"
    );
}

#[tokio::test]
async fn a_console_is_asked_for_by_its_page_and_what_comes_is_appended_and_escaped() {
    let (db, wat, node, vm) = stage().await;
    db.sql(&format!("select vm_start({vm})")).await;
    let page = wat.get("root", &format!("/vm/{vm}/console")).await;
    assert!(page.status == 200 && page.body.contains("Its node has not answered yet."), "{page:?}");
    assert!(page.body.contains(r#"data-kinds="vm console""#), "{page:?}");
    assert_eq!(db.sql(&format!("select vm from node_consoles({node})")).await.as_ref(), Some(&vm));
    let mut changes = wat.live("root").await;
    db.sql(&format!("select node_console({node}, {vm}, 7, 1, 'one <script>alert(1)</script>')")).await;
    changes.next(&format!("data: {{\"kind\":\"console\",\"id\":{vm}}}")).await;
    let more = wat.get("root", &format!("/vm/{vm}/console/more?last=0")).await;
    assert!(more.body.contains("one &#60;script&#62;") && !more.body.contains("<script"), "{more:?}");
    assert!(!more.body.contains("not answered"), "{more:?}");
    let last = more.body.split("name=\"last\" value=\"").nth(1).and_then(|rest| rest.split_once('"')).unwrap().0;
    db.sql(&format!("select node_console({node}, {vm}, 7, 2, 'two')")).await;
    let more = wat.get("root", &format!("/vm/{vm}/console/more?last={last}")).await;
    assert!(more.body.contains("two") && !more.body.contains("one"), "{more:?}");
}

#[tokio::test]
async fn a_console_is_nobodys_who_may_not_see_it() {
    let (db, wat, _node, vm) = stage().await;
    db.sql("select tenant_create('school')").await;
    administrator(&db, "ann", "school", "Root").await;
    db.sql("select object_create('role', '{\"name\": \"deaf\", \"tenant\": \"*\", \"roles\": [\"VMs Operator\"]}')")
        .await;
    administrator(&db, "deaf", "*", "deaf").await;
    let path = format!("/vm/{vm}/console");
    assert_eq!(wat.get("ann@school", &path).await.status, 404);
    assert_eq!(wat.get("ann@school", &format!("{path}/more?last=0")).await.status, 404);
    assert_eq!(wat.get("deaf", &path).await.status, 403);
    let page = wat.get("deaf", &format!("/vm/{vm}")).await;
    assert!(page.status == 200 && !page.body.contains(&path), "{page:?}");
    assert_eq!(db.sql("select count(*) from vm_console_watches").await.as_deref(), Some("0"));
}

#[tokio::test]
async fn what_the_page_of_a_vm_says_is_all_of_one_moment() {
    let (db, wat, _node, vm) = stage().await;
    // The page reads the facts, then the sessions, then the reasons. Whoever holds the sessions stops it between them.
    let holder = db.session("postgres").await;
    holder.sql("begin; lock table user_sessions in access exclusive mode").await;
    let path = format!("/vm/{vm}");
    let (page, ()) = tokio::join!(wat.get("root", &path), async {
        db.wait_for(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and usename = 'qvd_wat' and wait_event_type = 'Lock'",
            "t",
        )
        .await;
        db.sql(&format!("select vms_block(array[{vm}], true)")).await;
        holder.sql("rollback").await;
    });
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.body.contains(r#"value="block""#), "it was not blocked: {}", page.body);
    assert!(!page.body.contains("It is blocked"), "the reasons are those of the facts: {}", page.body);
    assert!(wat.get("root", &path).await.body.contains("It is blocked, so nobody can connect to it."));
}
