//! What is seen and done on pages.

use super::stage::{PASSWORD, Wat, administrator, authorization};
use crate::cluster::database::Db;

async fn stage(vms: u32) -> (Db, Wat) {
    let db = Db::with_vms(vms).await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start(&db).await;
    (db, wat)
}

#[tokio::test]
async fn objects_are_made_looked_at_changed_and_deleted() {
    let (db, wat) = stage(1).await;
    let form = [("name", "bob"), ("password", "pw"), ("tenant_id", "1"), ("blocked", "false"), ("description", "")];
    let made = wat.post("root", "/user/new", &form).await;
    assert_eq!(made.status, 303, "{made:?}");
    let page = made.header("Location").unwrap().to_owned();
    let shown = wat.get("root", &page).await;
    assert!(shown.status == 200 && shown.body.contains("bob@default"), "{shown:?}");
    let again = wat.post("root", "/user/new", &form).await;
    assert_eq!(again.status, 422);
    assert!(again.body.contains("user bob exists already") && again.body.contains(r#"value="bob""#), "{again:?}");
    let changed = wat.post("root", &page, &[("name", "bob"), ("description", "his & hers"), ("blocked", "true")]).await;
    assert_eq!(changed.status, 303, "{changed:?}");
    assert_eq!(
        db.sql("select blocked and description = 'his & hers' from users where login = 'bob'").await.as_deref(),
        Some("t")
    );
    let entry = db
        .rows("select administrator_name, ip, source from log where action = 'update' and object_name like 'bob%'")
        .await;
    assert_eq!(entry, [["root", "127.0.0.1", "WAT"]], "one entry that says who, from where and by what");
    let id = page.rsplit_once('/').unwrap().1;
    let deleted = wat.post("root", "/user/act", &[("verb", "del"), ("id", id), ("back", &page)]).await;
    assert_eq!((deleted.status, deleted.header("Location")), (303, Some("/user")));
    assert_eq!(wat.get("root", &page).await.status, 404);
    assert_eq!(wat.get("root", "/user/999999").await.status, 404);
    assert_eq!(wat.get("root", "/nothing").await.status, 404);
}

#[tokio::test]
async fn an_action_with_many_tells_what_became_of_each() {
    let (db, wat) = stage(5).await;
    let vms = db.rows("select id from vms order by id").await;
    let form = [("verb", "block"), ("id", vms[0][0].as_str()), ("id", vms[1][0].as_str())];
    let done = wat.post("root", "/vm/act", &form).await;
    assert_eq!(done.status, 303, "{done:?}");
    assert_eq!(db.sql("select count(*) from vm_runtimes where blocked").await.as_deref(), Some("2"));
    let all = wat.post("root", "/vm/act", &[("verb", "block"), ("all", "1"), ("filter", "name~d%,name!=d5")]).await;
    assert_eq!(all.status, 303, "{all:?}");
    assert_eq!(db.sql("select count(*) from vm_runtimes where blocked").await.as_deref(), Some("4"));
    // There is no node.
    let refused = wat.post("root", "/vm/act", &[("verb", "start"), ("id", &vms[4][0])]).await;
    assert!(
        refused.status == 200 && refused.body.contains("0 / 1") && refused.body.contains("no host can take"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn ten_thousand_are_chosen_at_once_and_each_has_its_result() {
    let db = Db::with_many_vms(10_500).await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start(&db).await;
    let found = wat.get("root", "/vm/ids?filter=%21name%7Ed10%25").await;
    let ids: Vec<i32> = serde_json::from_str(&found.body).unwrap();
    assert_eq!((found.status, ids.len()), (200, 9_888), "without d10, d100 and so on");
    let ids = (20_001..=30_000).map(|id: i32| id.to_string()).collect::<Vec<_>>().join(" ");
    let began = std::time::Instant::now();
    let done = wat.post("root", "/vm/act", &[("verb", "block"), ("ids", &ids), ("here", "/vm?page=3")]).await;
    println!("10000 were blocked within {:?}, {} KiB", began.elapsed(), done.body.len() >> 10);
    assert!(done.status == 200 && done.body.contains("10000 / 10000 done"), "{}", &done.headers);
    assert_eq!(done.body.matches("<li><a href=\"/vm/").count(), 10_000);
    assert!(done.body.contains("href=\"/vm/20001\">alice@default/d1</a>") && done.body.contains("href=\"/vm?page=3\""));
    assert_eq!(db.sql("select count(*) from vm_runtimes where blocked").await.as_deref(), Some("10000"));
    assert_eq!(db.sql("select count(*) from log where action = 'block'").await.as_deref(), Some("10000"));
    // There is no node, so each is refused.
    let began = std::time::Instant::now();
    let refused = wat.post("root", "/vm/act", &[("verb", "start"), ("ids", &ids)]).await;
    println!("10000 were refused within {:?}, {} KiB", began.elapsed(), refused.body.len() >> 10);
    assert!(refused.status == 200 && refused.body.contains("0 / 10000 done"), "{}", &refused.headers);
    assert_eq!(refused.body.matches("no host can take").count(), 10_000);
}

#[tokio::test]
async fn lists_are_filtered_ordered_and_cut_into_pages_by_their_address() {
    let (db, wat) = stage(25).await;
    db.sql("select objects_update('administrator', array(select id from administrators where name = 'root'), '{\"block\": 10}')").await;
    let names = |page: &str| {
        let links = page.split("href=\"/vm/1").skip(1).filter_map(|link| link.split_once(">d")?.1.split_once('<'));
        links.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let first = wat.get("root", "/vm?order=-name").await.body;
    assert_eq!(names(&first), ["9", "8", "7", "6", "5", "4", "3", "25", "24", "23"], "{first}");
    assert!(first.contains(">25</span> in all") && first.contains("/vm?order=-name&#38;page=2"), "{first}");
    let last = wat.get("root", "/vm?order=-name&page=3").await.body;
    assert_eq!(names(&last), ["13", "12", "11", "10", "1"]);
    let found = wat.get("root", "/vm?filter=name%7Ed2%25&order=name").await.body;
    assert_eq!(names(&found), ["2", "20", "21", "22", "23", "24", "25"]);
    for (filter, problem) in
        [("(((", "cannot be understood"), ("x=1", "there is no field x"), ("id=x", "invalid input syntax")]
    {
        let query = serde_urlencoded::to_string([("filter", filter)]).unwrap();
        let page = wat.get("root", &format!("/vm?{query}")).await;
        assert!(page.status == 200 && page.body.contains(problem), "{page:?}");
    }
}

#[tokio::test]
async fn nothing_that_is_typed_becomes_part_of_a_page() {
    let (db, wat) = stage(1).await;
    let evil = "<script>alert(1)</script>\"'&";
    let vm = db.sql("select id from vms").await.unwrap();
    let done = wat.post("root", &format!("/vm/{vm}"), &[("description", evil)]).await;
    assert_eq!(done.status, 303, "{done:?}");
    let filter = serde_urlencoded::to_string([("filter", evil), ("order", evil), ("columns", evil)]).unwrap();
    for path in [
        format!("/vm/{vm}"),
        "/vm?columns=description".to_owned(),
        "/log?columns=arguments".to_owned(),
        format!("/vm?{filter}"),
    ] {
        let page = wat.get("root", &path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(!page.body.contains("<script>alert"), "{path}: {}", page.body);
    }
    let metacharacters = wat.get("root", "/vm?filter=name%3D'%3B+drop+table+vms%3B--").await;
    assert_eq!(metacharacters.status, 200);
    assert_eq!(db.sql("select count(*) from vms").await.as_deref(), Some("1"));
    let back = wat.post("root", "/vm/act", &[("verb", "block"), ("id", &vm), ("back", "//evil.example/")]).await;
    assert_eq!(back.header("Location"), Some("/vm?filter="), "nobody is led away");
}

#[tokio::test]
async fn browsers_are_told_to_take_nothing_but_ours_and_other_sites_change_nothing() {
    let (db, wat) = stage(1).await;
    let page = wat.get("root", "/vm").await;
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(page.header("Cache-Control"), Some("no-store"));
    assert!(
        !page.body.contains("<style") && !page.body.contains(" style=") && !page.body.contains("onclick"),
        "{}",
        page.body
    );
    let vm = db.sql("select id from vms").await.unwrap();
    let form = format!("verb=block&id={vm}");
    for header in ["Sec-Fetch-Site: cross-site\r\n", "Origin: https://evil.example\r\n"] {
        let headers = format!("{}{header}", authorization("root", PASSWORD));
        assert_eq!(wat.ask("POST", "/vm/act", &headers, &form).await.status, 403, "{header}");
    }
    assert_eq!(db.sql("select blocked from vm_runtimes").await.as_deref(), Some("f"));
}

#[tokio::test]
async fn an_open_page_is_told_what_changes_elsewhere() {
    let (db, wat) = stage(1).await;
    let vm = db.sql("select id from vms").await.unwrap();
    let mut changes = wat.live("root").await;
    db.sql(&format!("select vms_block(array[{vm}], true)")).await;
    changes.next(&format!("data: {{\"kind\":\"vm\",\"id\":{vm}}}")).await;
    let page = wat.get("root", "/vm").await.body;
    assert!(page.contains(r#"data-kinds="vm""#) && page.contains(r#"class="bad""#), "{page}");
}

#[tokio::test]
async fn pages_speak_the_language_of_the_administrator_or_the_browser() {
    let (db, wat) = stage(1).await;
    let spanish = format!("{}Accept-Language: es-ES,en;q=0.5\r\n", authorization("root", PASSWORD));
    let page = wat.ask("GET", "/vm", &spanish, "").await.body;
    assert!(page.contains(r#"lang="es""#) && page.contains("Máquinas virtuales"), "{page}");
    db.sql("select objects_update('administrator', array(select id from administrators where name = 'root'), '{\"language\": \"en\"}')").await;
    let english = async || wat.ask("GET", "/vm", &spanish, "").await.body.contains(r#"lang="en""#).then_some(());
    crate::cluster::patience::until("the page is English", english).await;
}

#[tokio::test]
async fn what_may_go_better_later_is_told_apart_from_what_nobody_planned_for() {
    let (db, wat) = stage(0).await;
    db.sql(
        "create function fails() returns trigger language plpgsql as $$
             begin raise exception 'a secret of the server' using errcode = new.description; end $$;
         create trigger fails before insert or update on properties_list for each row
             when (new.description is not null) execute function fails()",
    )
    .await;
    for (code, status) in [
        ("40001", 503),
        ("40P01", 503),
        ("54000", 503),
        ("57000", 503),
        ("08006", 503),
        ("53100", 503),
        ("XX000", 500),
        ("42P01", 500),
        ("22000", 422),
        ("QV014", 422),
    ] {
        let form = [("key", "k"), ("tenant_id", "1"), ("description", code)];
        let page = wat.post("root", "/property/new", &form).await;
        assert_eq!(page.status, status, "{code}: {page:?}");
        assert!(status == 422 || !page.body.contains("a secret of the server"), "{code}: {page:?}");
        let body = serde_json::json!({ "key": "k", "tenant_id": 1, "description": code });
        let told = wat.api("root", "POST", "/api/v1/property", "", Some(&body)).await;
        assert_eq!(told.status, status, "{code}: {told:?}");
        assert!(status == 422 || !told.body.contains("a secret of the server"), "{code}: {told:?}");
    }
}
