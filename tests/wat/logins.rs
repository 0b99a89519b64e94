//! Who is let in.

use super::stage::{PASSWORD, Wat, administrator, authorization};
use crate::cluster::database::Db;

#[tokio::test]
async fn only_administrators_with_their_password_are_let_in_and_it_is_logged() {
    let db = Db::with_vms(1).await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start(&db).await;
    assert_eq!(wat.get("root@*", "/vm").await.status, 200);
    assert_eq!(wat.get("root", "/vm").await.status, 200, "a name alone is one above all tenants");
    let logged =
        "select count(*) from log where action = 'login' and status = 0 and ip = '127.0.0.1' and source = 'WAT'";
    assert_eq!(db.sql(logged).await.as_deref(), Some("2"), "once for each name, not for each page");
    let wrong =
        [authorization("root", "wrong"), authorization("nobody", PASSWORD), authorization("alice@default", PASSWORD)];
    for headers in wrong.into_iter().chain([String::new(), "Authorization: Basic ***\r\n".to_owned()]) {
        let refused = wat.ask("GET", "/vm", &headers, "").await;
        assert_eq!(refused.status, 401, "{headers}");
        assert_eq!(refused.header("WWW-Authenticate"), Some("Basic realm=\"QVD\", charset=\"UTF-8\""));
        assert!(!refused.body.contains("alice"), "{refused:?}");
    }
    let refused = "select count(*) from log where action = 'login' and status <> 0";
    assert_eq!(db.sql(refused).await.as_deref(), Some("3"));
    let kept = db.sql("select password like '$argon2id$%' from administrators where name = 'root'").await;
    assert_eq!(kept.as_deref(), Some("t"), "the first login makes a better hash");
}

#[tokio::test]
async fn who_guesses_passwords_has_to_wait() {
    let db = Db::new().await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start(&db).await;
    let mut last = 0;
    for _ in 0..20 {
        last = wat.ask("GET", "/", &authorization("root", "guess"), "").await.status;
        if last == 429 {
            break;
        }
        assert_eq!(last, 401);
    }
    assert_eq!(last, 429);
    let refused = wat.get("root", "/").await;
    assert_eq!(refused.status, 429, "even with the right one");
    assert!(refused.header("Retry-After").unwrap().parse::<u32>().unwrap() > 0);
}

#[tokio::test]
async fn a_blocked_tenant_or_a_changed_password_ends_it_at_once() {
    let db = Db::new().await;
    db.sql("select tenant_create('school')").await;
    administrator(&db, "ann", "school", "Root").await;
    let wat = Wat::start(&db).await;
    let mut changes = wat.live("ann@school").await;
    assert_eq!(wat.get("ann@school", "/user").await.status, 200);
    db.sql("update administrators set password = password_hash('other') where name = 'ann'").await;
    let gone = async || (wat.get("ann@school", "/user").await.status == 401).then_some(());
    crate::cluster::patience::until("the old password is of no use", gone).await;
    let other = authorization("ann@school", "other");
    assert_eq!(wat.ask("GET", "/user", &other, "").await.status, 200);
    db.sql("update tenants set blocked = true where name = 'school'").await;
    let gone = async || (wat.ask("GET", "/user", &other, "").await.status != 200).then_some(());
    crate::cluster::patience::until("the tenant is blocked", gone).await;
    drop(changes.next("data: {\"kind\":\"tenant\",\"id\":10000}").await);
}
