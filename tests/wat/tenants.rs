//! Tenants do not know of each other, and roles are kept to.

use super::stage::{Wat, administrator};
use crate::cluster::database::Db;

#[tokio::test]
async fn a_tenants_administrator_meets_his_tenant_alone() {
    let db = Db::with_vms(1).await;
    db.sql("select tenant_create('school'); select user_create('bob', 'pw', 'school')").await;
    administrator(&db, "ann", "school", "Root").await;
    let wat = Wat::start(&db).await;
    let (alice, bob) = (
        db.sql("select id from users where login = 'alice'").await.unwrap(),
        db.sql("select id from users where login = 'bob'").await.unwrap(),
    );
    let page = wat.get("ann@school", "/user").await.body;
    assert!(page.contains("bob") && !page.contains("alice") && !page.contains("/tenant"), "{page}");
    assert_eq!(wat.get("ann@school", &format!("/user/{bob}")).await.status, 200);
    let others = wat.get("ann@school", &format!("/user/{alice}")).await;
    let nobodys = wat.get("ann@school", "/user/999999").await;
    assert_eq!((others.status, &others.body), (404, &nobodys.body), "a guessed number is like one that is not there");
    let refused = wat.post("ann@school", "/user/act", &[("verb", "block"), ("id", &alice)]).await;
    assert!(refused.body.contains("there is no user"), "{refused:?}");
    let refused = wat.post("ann@school", &format!("/user/{alice}"), &[("description", "mine")]).await;
    assert_eq!(refused.status, 404, "{refused:?}");
    assert_eq!(
        db.sql("select count(*) from users where blocked or description is not null").await.as_deref(),
        Some("0")
    );
    let mut changes = wat.live("ann@school").await;
    db.sql(&format!("select users_block(array[{alice}], true)")).await;
    db.sql(&format!("select users_block(array[{bob}], true)")).await;
    let before = changes.next(&format!("data: {{\"kind\":\"user\",\"id\":{bob}}}")).await;
    assert!(!before.iter().any(|line| line.contains(&alice)), "{before:?}");
}

#[tokio::test]
async fn who_may_not_do_something_has_no_button_for_it_and_is_refused() {
    let db = Db::with_vms(1).await;
    administrator(&db, "reader", "*", "Operator L1").await;
    let wat = Wat::start(&db).await;
    let page = wat.get("reader", "/vm").await;
    assert!(page.status == 200 && page.body.contains("alice"), "{page:?}");
    assert!(!page.body.contains(r#"value="del""#) && !page.body.contains("/vm/new"), "{}", page.body);
    let vm = db.sql("select id from vms").await.unwrap();
    let refused = wat.post("reader", "/vm/act", &[("verb", "del"), ("id", &vm)]).await;
    assert!(refused.body.contains("it takes the ACL vm.delete."), "{refused:?}");
    assert_eq!(db.sql("select count(*) from vms").await.as_deref(), Some("1"));
}
