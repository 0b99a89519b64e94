//! Which columns a list shows: what an administrator chose is there in the next browser, and an address wins.

use super::stage::{PASSWORD, Wat, administrator, authorization};
use crate::cluster::database::Db;

/// The titles of a list's columns.
fn titles(page: &str) -> Vec<&str> {
    let head = page.split_once("<thead>").unwrap().1.split_once("</thead>").unwrap().0;
    head.split("</a></th>")
        .filter_map(|column| Some(column.rsplit_once('>')?.1))
        .filter(|title| !title.trim().is_empty())
        .collect()
}

async fn stage() -> (Db, Wat) {
    let db = Db::with_vms(1).await;
    administrator(&db, "root", "*", "Root").await;
    administrator(&db, "ann", "default", "Root").await;
    administrator(&db, "ben", "default", "Root").await;
    let wat = Wat::start(&db).await;
    (db, wat)
}

#[tokio::test]
async fn columns_that_were_chosen_are_there_in_the_next_browser_and_an_address_wins() {
    let (db, wat) = stage().await;
    let usual = titles(&wat.get("ann@default", "/osf").await.body).join(",");
    let form = [
        ("columns", "id"),
        ("columns", "name"),
        ("columns", "cpus"),
        ("filter", "name~d%"),
        ("order", "-id"),
        ("columns", "' ; --"),
    ];
    let chosen = wat.post("ann@default", "/osf/columns", &form).await;
    assert_eq!(
        (chosen.status, chosen.header("Location")),
        (303, Some("/osf?filter=name%7Ed%25&order=-id")),
        "{chosen:?}"
    );
    assert_eq!(titles(&wat.get("ann@default", "/osf").await.body), ["ID", "Name", "CPUs"]);
    let page = wat.get("ann@default", "/osf?columns=memory&columns=id").await.body;
    assert_eq!(titles(&page), ["Memory", "ID"], "an address wins");
    assert!(page.contains(r#"<input type="hidden" name="columns" value="memory">"#), "and goes on: {page}");
    for other in ["ben@default", "root"] {
        assert_eq!(titles(&wat.get(other, "/osf").await.body).join(","), usual, "{other} has his own");
    }
    let kept = db.rows("select field, visible from views_setups where qvd_object = 'osf' and not visible").await;
    assert_eq!(kept.len(), 6, "what everybody sees was hidden: {kept:?}");
    let again = wat.post("ann@default", "/osf/columns", &[("usual", "1"), ("columns", "id")]).await;
    assert_eq!(again.status, 303, "{again:?}");
    assert_eq!(titles(&wat.get("ann@default", "/osf").await.body).join(","), usual);
    assert_eq!(db.sql("select count(*) from views_setups").await.as_deref(), Some("0"));
}

#[tokio::test]
async fn what_the_tenant_says_holds_where_the_administrator_says_nothing() {
    let (db, wat) = stage().await;
    let program = db.session("qvd_wat").await;
    let ben = db.sql("select id from administrators where name = 'ben'").await.unwrap();
    program
        .sql(&format!(
            "begin; select act_as({ben}, '127.0.0.1', 'test');
             select view_set('osf', 'cpus', 'list_column', 'desktop', true, 'tenant');
             select view_set('osf', 'id', 'list_column', 'desktop', false, 'tenant'); commit"
        ))
        .await;
    let of_tenant = titles(&wat.get("ann@default", "/osf").await.body).join(",");
    assert!(of_tenant.starts_with("Name,") && of_tenant.ends_with(",CPUs"), "{of_tenant}");
    wat.post("ann@default", "/osf/columns", &[("columns", "id"), ("columns", "name")]).await;
    wat.post("ann@default", "/osf/columns", &[("columns", "id"), ("columns", "name")]).await;
    let own = titles(&wat.get("ann@default", "/osf").await.body).join(",");
    assert_eq!(own, "ID,Name");
    assert!(!titles(&wat.get("root", "/osf").await.body).contains(&"CPUs"), "another tenant is another");
}

#[tokio::test]
async fn a_phone_has_its_own_and_custom_properties_are_columns_like_others() {
    let (db, wat) = stage().await;
    db.sql(
        "insert into properties_list (key, tenant_id) values ('room', 1);
         insert into qvd_object_properties_list (property_id, qvd_object) select id, 'vm' from properties_list",
    )
    .await;
    let phone =
        format!("{}User-Agent: Mozilla/5.0 (Android 15; Mobile; rv:133.0)\r\n", authorization("ann@default", PASSWORD));
    let chosen = wat.ask("POST", "/vm/columns", &phone, "columns=name&columns=room").await;
    assert_eq!(chosen.status, 303, "{chosen:?}");
    assert_eq!(titles(&wat.ask("GET", "/vm", &phone, "").await.body), ["Name", "Room"]);
    assert!(titles(&wat.get("ann@default", "/vm").await.body).len() > 8, "on a large screen it is as it was");
    assert_eq!(
        db.sql("select field from views_setups where field like '%room'").await.as_deref(),
        Some("property:room")
    );
    // One that is not there any more is not asked for.
    db.sql("delete from qvd_object_properties_list; delete from properties_list").await;
    let page = wat.ask("GET", "/vm", &phone, "").await;
    assert_eq!(titles(&page.body), ["Name"], "{page:?}");
}

#[tokio::test]
async fn every_list_remembers_its_columns() {
    let (_db, wat) = stage().await;
    for (kind, column) in
        [("vm", "name"), ("user", "name"), ("session", "client"), ("property", "key"), ("role", "name")]
    {
        let chosen = wat.post("root", &format!("/{kind}/columns"), &[("columns", column)]).await;
        assert_eq!(chosen.status, 303, "{kind}: {chosen:?}");
        assert_eq!(titles(&wat.get("root", &format!("/{kind}")).await.body).len(), 1, "{kind}");
    }
    assert_eq!(wat.post("root", "/nothing/columns", &[("columns", "id")]).await.status, 404);
}
