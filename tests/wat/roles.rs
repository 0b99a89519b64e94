//! Roles: what they may, and what they inherit.

use super::stage::{Wat, administrator};
use crate::cluster::database::Db;

#[tokio::test]
async fn rights_of_a_role_are_ticked_inherited_and_taken_away_in_one_table() {
    let db = Db::with_vms(1).await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start(&db).await;
    let role = db.sql(r#"select object_create('role', '{"name": "helpers", "tenant": "*"}')"#).await.unwrap();
    let path = format!("/role/{role}/acls");
    let effective = async || {
        db.sql(&format!("select string_agg(acl, ' ' order by acl) from role_acls where role_id = {role}")).await
    };
    let saved = wat.post("root", &path, &[("acl", "vm.delete."), ("role", "Properties Manager")]).await;
    assert_eq!(saved.status, 303, "{saved:?}");
    assert_eq!(effective().await.as_deref(), Some("property.manage. property.see-main. vm.delete."));
    let page = wat.get("root", &path).await.body;
    assert!(page.contains("← Properties Manager") && page.contains(r#"name="had" value="vm.delete.""#), "{page}");
    let kept = [("inherited", "Properties Manager"), ("role", "Properties Manager")];
    let had = [("had", "vm.delete."), ("had", "property.manage."), ("had", "property.see-main.")];
    let ticked = [("acl", "property.see-main.")];
    let saved = wat.post("root", &path, &[&kept[..], &had, &ticked].concat()).await;
    assert_eq!(saved.status, 303, "{saved:?}");
    assert_eq!(effective().await.as_deref(), Some("property.see-main."), "taken away, though inherited");
    assert!(wat.get("root", &path).await.body.contains("taken away here"));
    wat.post("root", &path, &[&kept[..], &[("acl", "property.manage.")]].concat()).await;
    assert_eq!(effective().await.as_deref(), Some("property.manage. property.see-main."));
    let circle = wat.post("root", &path, &[&kept[..], &[("role", "helpers")]].concat()).await;
    assert!(circle.status == 422 && circle.body.contains("would inherit itself"), "{circle:?}");
    wat.post("root", &path, &kept[..1]).await;
    assert_eq!(effective().await.unwrap_or_default(), "");
    administrator(&db, "reader", "*", "Operator L1").await;
    assert_eq!(wat.get("reader", &path).await.status, 404);
    wat.post("reader", &path, &[("acl", "vm.delete.")]).await;
    assert_eq!(effective().await.unwrap_or_default(), "");
}
