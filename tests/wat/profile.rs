//! What administrators change of themselves.

use super::stage::{PASSWORD, Wat, administrator, authorization};
use crate::cluster::database::Db;

#[tokio::test]
async fn administrators_change_their_language_and_with_the_old_password_their_password() {
    let db = Db::with_vms(1).await;
    administrator(&db, "reader", "*", "Operator L1").await;
    let wat = Wat::start(&db).await;
    let page = wat.get("reader", "/profile").await;
    assert!(page.status == 200 && page.body.contains(r#"autocomplete="current-password""#), "{page:?}");
    assert_eq!(wat.post("reader", "/profile", &[("language", "es")]).await.status, 303);
    let language = "select language from administrators where name = 'reader'";
    assert_eq!(db.sql(language).await.as_deref(), Some("es"));
    assert_eq!(wat.post("reader", "/profile", &[("language", "xx")]).await.status, 422);
    for (old, again) in [("a guess", "better"), (PASSWORD, "bettor"), ("", "better")] {
        let form = [("old", old), ("new", "better"), ("again", again)];
        let refused = wat.post("reader", "/profile", &form).await;
        assert!(refused.status == 422 && refused.body.contains(r#"role="alert""#), "{old} {again}: {refused:?}");
        assert_eq!(wat.get("reader", "/profile").await.status, 200, "{old} {again}");
    }
    let form = [("old", PASSWORD), ("new", "better"), ("again", "better")];
    let changed = wat.post("reader", "/profile", &form).await;
    assert!(changed.status == 200 && changed.body.contains(r#"role="status""#), "{changed:?}");
    let new = authorization("reader", "better");
    let enters = async || (wat.ask("GET", "/", &new, "").await.status == 200).then_some(());
    crate::cluster::patience::until("the new password counts", enters).await;
    let old = async || (wat.get("reader", "/").await.status == 401).then_some(());
    crate::cluster::patience::until("the old one does not", old).await;
}
