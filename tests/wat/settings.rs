//! The settings, for everybody and for tenants.

use super::stage::{Wat, administrator};
use crate::cluster::database::Db;

async fn stage() -> (Db, Wat) {
    let db = Db::with_vms(1).await;
    administrator(&db, "root", "*", "Root").await;
    db.sql("select tenant_create('school')").await;
    administrator(&db, "ann", "school", "Root").await;
    let wat = Wat::start(&db).await;
    (db, wat)
}

/// A key with whole numbers, in its form.
const KEY: &str = "l7r.port";

async fn value(db: &Db, tenant: &str) -> Option<String> {
    db.sql(&format!("select coalesce(max(value), '') from configs c where key = '{KEY}' and tenant_id = {tenant}"))
        .await
}

#[tokio::test]
async fn a_setting_is_changed_in_its_place_refused_there_and_goes_back_to_the_default() {
    let (db, wat) = stage().await;
    let page = wat.get("root", "/config").await;
    assert!(page.status == 200 && page.body.contains(&format!(r#"id="k-{KEY}""#)), "{page:?}");
    let set = wat.post("root", "/config", &[("key", KEY), ("value", "8555"), ("verb", "set")]).await;
    assert_eq!(set.header("Location"), Some(format!("/config?tenant=&search=&key={KEY}#k-{KEY}").as_str()), "{set:?}");
    assert_eq!(value(&db, "-1").await.as_deref(), Some("8555"));
    let page = wat.get("root", &format!("/config?search={KEY}")).await.body;
    assert!(
        page.contains(r#"value="8555""#) && page.contains("everybody") && page.contains(r#"value="reset""#),
        "{page}"
    );
    let refused = wat.post("root", "/config", &[("key", KEY), ("value", "none"), ("verb", "set")]).await;
    assert_eq!(refused.status, 422);
    let form = refused.body.split(&format!(r#"id="k-{KEY}""#)).nth(1).and_then(|rest| rest.split("</form>").next());
    assert!(
        form.is_some_and(|form| form.contains("expected a port number") && form.contains(r#"value="none""#)),
        "{refused:?}"
    );
    assert_eq!(value(&db, "-1").await.as_deref(), Some("8555"));
    wat.post("root", "/config", &[("key", KEY), ("verb", "reset")]).await;
    assert_eq!(value(&db, "-1").await.as_deref(), None);
}

#[tokio::test]
async fn a_tenant_has_settings_of_its_own_and_no_choice_of_others() {
    let (db, wat) = stage().await;
    let school = db.sql("select id from tenants where name = 'school'").await.unwrap();
    let set = [("key", KEY), ("value", "8666"), ("verb", "set"), ("tenant", school.as_str())];
    assert_eq!(wat.post("root", "/config", &set).await.status, 303);
    assert_eq!(value(&db, &school).await.as_deref(), Some("8666"));
    assert_eq!(value(&db, "-1").await.as_deref(), None);
    let page = wat.get("root", &format!("/config?tenant={school}&search={KEY}")).await.body;
    assert!(page.contains(r#"value="8666""#), "{page}");
    let page = wat.get("root", &format!("/config?search={KEY}")).await.body;
    assert!(!page.contains(r#"value="8666""#), "{page}");
    let page = wat.get("ann@school", &format!("/config?search={KEY}")).await.body;
    assert!(page.contains(r#"value="8666""#) && !page.contains(r#"name="tenant">"#), "{page}");
    let others = [("key", KEY), ("value", "8777"), ("verb", "set"), ("tenant", "1")];
    assert_eq!(wat.post("ann@school", "/config", &others).await.status, 404);
    assert_eq!(value(&db, "1").await.as_deref(), None);
    administrator(&db, "reader", "school", "Operator L1").await;
    assert_eq!(wat.get("reader@school", "/config").await.status, 404);
    let refused = wat.post("reader@school", "/config", &[("key", KEY), ("value", "1"), ("verb", "set")]).await;
    assert_eq!(refused.status, 404, "{refused:?}");
    assert_eq!(value(&db, &school).await.as_deref(), Some("8666"));
}
