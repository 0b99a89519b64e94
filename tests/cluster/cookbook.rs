//! The recipes of the cookbook work, in the order in which they are written.

use super::database::Db;

#[tokio::test]
async fn every_recipe_of_the_cookbook_works() {
    let text = include_str!("../../sql/COOKBOOK.md");
    let db = Db::new().await;
    db.sql(
        "select osf_create('desk'), di_create('desk', 'desk.tar', 'v1'), host_create('n1', '10.9.0.1');
         insert into storage_reports (place) select 'host ' || id from hosts;
         insert into staging (place, name, size, modified, kind) select place, 'new.tar', 1, now(), 'tar' from storage_reports",
    )
    .await;
    db.node_runs().await;
    let admin = db.session("qvd_admin").await;
    admin.sql("set search_path = qvd, public").await;
    let mut recipes = 0;
    for block in text.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()) {
        for statement in block.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
            if let Err(refusal) = admin.attempt(statement).await {
                panic!("{statement}\n{refusal:?}");
            }
            recipes += 1;
        }
    }
    assert!(recipes > 50, "only {recipes} recipes were found");
    let refused = admin
        .rows("select message from log_list l, lateral (select l.arguments->>'message' as message) m where status <> 0")
        .await;
    assert!(refused.is_empty(), "{refused:?}");
}
