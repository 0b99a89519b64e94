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

#[tokio::test]
async fn what_programs_read_at_their_start_is_told_until_those_of_all_nodes_are_started_again() {
    let (db, wat) = stage().await;
    let page = wat.get("root", "/config?restart=1").await.body;
    assert!(
        page.contains(&format!(r#"id="k-{KEY}""#)) && !page.contains(r#"id="k-l7r.loadbalancer.plugin""#),
        "{page}"
    );
    let start = "select node from node_start('n1', gen_random_uuid(), 1, '00000000-0000-4000-8000-000000000001', 10)";
    db.sql(start).await;
    let due = async |who: &str| wat.get(who, "/config").await.body.contains("Nodes to be restarted");
    assert!(!due("root").await, "nothing was changed");
    wat.post("root", "/config", &[("key", "l7r.loadbalancer.plugin"), ("value", "load"), ("verb", "set")]).await;
    assert!(!due("root").await, "this is read as it changes");
    wat.post("root", "/config", &[("key", KEY), ("value", "8555"), ("verb", "set")]).await;
    let page = wat.get("root", "/config").await.body;
    let rows = page.split("Nodes to be restarted").nth(1).and_then(|rest| rest.split("</table>").next());
    assert!(rows.is_some_and(|rows| rows.contains(KEY) && rows.contains("<td>n1</td>")), "{page}");
    assert!(!due("ann@school").await, "nodes are not a tenant's");
    // A daemon is started again on the same machine.
    db.sql(&start.replace("gen_random_uuid()", "(select boot_id from host_runtimes)")).await;
    assert!(!due("root").await);
}

#[tokio::test]
async fn settings_are_not_made_by_a_form_of_objects() {
    let (db, wat) = stage().await;
    let before = db.sql("select count(*) from configs").await;
    for (path, form) in
        [("/config/new", [("key", "x"), ("value", "y")]), ("/config/act", [("verb", "del"), ("id", "1")])]
    {
        assert_eq!(wat.post("root", path, &form).await.status, 404, "{path}");
    }
    for path in ["/config/new", "/config/1", "/log/new"] {
        assert_eq!(wat.get("root", path).await.status / 100, 4, "{path}");
    }
    assert_eq!(db.sql("select count(*) from configs").await, before);
}
