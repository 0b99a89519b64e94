//! Images on pages: from a file that nodes report to a version that is rolled out.

use super::stage::{Wat, administrator};
use crate::cluster::database::Db;

/// A VM that runs, and what says which life of the node it is.
async fn stage() -> (Db, Wat, String) {
    let db = Db::with_vms(2).await;
    let life = db.node_runs().await;
    db.sql(&format!("select vm_start('alice/d1'); select node_claim({life}, 3030, 4100)")).await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start(&db).await;
    (db, wat, life)
}

async fn made(db: &Db, wat: &Wat, life: &str, form: &[(&str, &str)]) -> String {
    let answer = wat.post("root", "/di/new", form).await;
    assert_eq!(answer.status, 303, "{answer:?}");
    let id = answer.header("Location").unwrap().strip_prefix("/di/").unwrap().to_owned();
    assert_eq!(db.sql(&format!("select di from node_images({life}, 600, true)")).await.as_ref(), Some(&id));
    id
}

#[tokio::test]
async fn a_file_in_staging_becomes_a_version_of_a_new_osf_and_its_page_shows_how_far_it_is() {
    let (db, wat, life) = stage().await;
    let mut changes = wat.live("root").await;
    db.sql(&format!(
        "select node_images({life}, 0, false), node_staging({life}, '{{kde.tar}}', '{{1536}}', '{{0}}', '{{tar}}', null)"
    ))
    .await;
    changes.next(r#"data: {"kind":"staging","id":null}"#).await;
    let page = wat.get("root", "/staging").await.body;
    assert!(page.contains("kde.tar") && page.contains("1.5 KiB") && page.contains("/di/new?file=kde.tar"), "{page}");
    let form = wat.get("root", "/di/new?file=kde.tar").await.body;
    assert!(form.contains(r#"value="kde.tar" selected"#) && form.contains("desk@default"), "{form}");
    let refused = wat.post("root", "/di/new", &[("file", "../passwd"), ("osf", "desk@default")]).await;
    assert!(refused.status == 422 && refused.body.contains("cannot be the file name"), "{refused:?}");
    let form = [("file", "kde.tar"), ("new_osf", "kde"), ("tenant", "default"), ("tags", "gold"), ("version", "v1")];
    let id = made(&db, &wat, &life, &form).await;
    changes.next(&format!("data: {{\"kind\":\"di\",\"id\":{id}}}")).await;
    db.sql(&format!("select node_di_progress({life}, {id}, 'uploading', 42)")).await;
    let page = wat.get("root", &format!("/di/{id}")).await.body;
    assert!(page.contains(r#"<progress max="100" value="42""#) && page.contains(">Cancel<"), "{page}");
    db.sql(&format!("select node_di_ready({life}, {id}, repeat('ab', 32), 1536, 'no locale is installed')")).await;
    let page = wat.get("root", &format!("/di/{id}")).await.body;
    for wanted in ["no locale is installed", "abababab", "/publish", ">gold ×<"] {
        assert!(page.contains(wanted), "{wanted}: {page}");
    }
    let osf = db.sql("select id from osfs where name = 'kde'").await.unwrap();
    let page = wat.get("root", &format!("/osf/{osf}")).await.body;
    assert!(
        page.contains(&format!("href=\"/di/{id}\">v1</a>")) && page.contains("/di/new?osf=kde%40default"),
        "{page}"
    );
}

#[tokio::test]
async fn an_image_that_failed_is_tried_again_and_one_under_way_is_given_up() {
    let (db, wat, life) = stage().await;
    let id = made(&db, &wat, &life, &[("file", "x.tar"), ("osf", "desk@default"), ("version", "v2")]).await;
    let early = wat.post("root", &format!("/di/{id}/retry"), &[]).await;
    assert!(early.status == 422 && early.body.contains("only one that failed"), "{early:?}");
    db.sql(&format!("select node_di_failed({life}, {id}, 'the end of the archive is missing')")).await;
    let page = wat.get("root", &format!("/di/{id}")).await.body;
    assert!(page.contains("the end of the archive is missing") && page.contains("/retry"), "{page}");
    assert_eq!(wat.post("root", &format!("/di/{id}/retry"), &[]).await.status, 303);
    let again = db.sql(&format!("select source from node_images({life}, 600, true)")).await;
    assert_eq!(again.as_deref(), Some("x.tar"));
    let back = format!("/di/{id}");
    let given_up = wat.post("root", "/di/act", &[("verb", "del"), ("id", &id), ("back", &back)]).await;
    assert_eq!((given_up.status, given_up.header("Location")), (303, Some("/di")));
    assert_eq!(wat.get("root", &back).await.status, 404);
}

#[tokio::test]
async fn tags_come_and_go_by_a_click() {
    let (db, wat, life) = stage().await;
    let id = made(&db, &wat, &life, &[("file", "x.tar"), ("osf", "desk@default"), ("version", "v2")]).await;
    let tags = async || db.sql(&format!("select tags from di_list where id = {id}")).await.unwrap();
    let path = format!("/di/{id}/tags");
    let given = wat.post("root", &path, &[("add", " gold "), ("back", "/osf/1")]).await;
    assert_eq!((given.status, given.header("Location")), (303, Some("/osf/1")));
    assert_eq!(
        wat.post("root", &path, &[("add", "default"), ("back", "//evil.example")]).await.header("Location"),
        Some(&*format!("/di/{id}"))
    );
    assert_eq!(tags().await, "{default,gold,head,v2}");
    assert_eq!(wat.post("root", &path, &[("remove", "gold")]).await.status, 303);
    assert_eq!(tags().await, "{default,head,v2}");
    for (form, said) in
        [(("remove", "v2"), "stays"), (("add", "a/b"), "cannot have the tag"), (("remove", "no"), "has no tag")]
    {
        let refused = wat.post("root", &path, &[form]).await;
        assert!(refused.status >= 400 && refused.body.contains(said), "{refused:?}");
    }
    administrator(&db, "reader", "*", "Operator L1").await;
    let refused = wat.post("reader", &path, &[("add", "gold")]).await;
    assert!(refused.status == 403 && refused.body.contains("di.update.tags."), "{refused:?}");
    let page = wat.get("reader", &format!("/di/{id}")).await.body;
    assert!(!page.contains("class=\"chip\" name=") && !page.contains("New tag"), "{page}");
}

#[tokio::test]
async fn before_an_image_is_published_its_page_says_who_has_another_and_then_they_expire() {
    let (db, wat, life) = stage().await;
    let form = [
        ("file", "x.tar"),
        ("osf", "desk@default"),
        ("version", "v2"),
        ("tags", "default"),
        ("soft", "1"),
        ("hard", "3"),
    ];
    let id = made(&db, &wat, &life, &form).await;
    let path = format!("/di/{id}/publish");
    db.sql(&format!("select node_di_ready({life}, {id}, repeat('a', 64), 1, null)")).await;
    let page = wat.get("root", &path).await.body;
    assert!(
        page.contains("alice@default/d1") && !page.contains("alice@default/d2"),
        "what does not run is not concerned: {page}"
    );
    assert!(page.contains(r#"type="datetime-local" value="20"#), "what was said when it was made is offered: {page}");
    let wrong = [("soft", "2035-01-01T12:00"), ("hard", "2035-01-01T11:00")];
    let refused = wat.post("root", &path, &wrong).await;
    assert!(
        refused.status == 422
            && refused.body.contains("before their users are told")
            && refused.body.contains("2035-01-01T11:00"),
        "{refused:?}"
    );
    assert_eq!(wat.post("root", &path, &[("soft", "soon")]).await.status, 422);
    assert_eq!(db.sql(&format!("select state from di_list where id = {id}")).await.as_deref(), Some("ready"));
    let done = wat.post("root", &path, &[("soft", "2035-01-01T12:00"), ("hard", "")]).await;
    assert_eq!(done.status, 303, "{done:?}");
    assert_eq!(db.sql(&format!("select state from di_list where id = {id}")).await.as_deref(), Some("published"));
    let left =
        "select string_agg(coalesce(to_char(vm_expiration_soft at time zone 'utc', 'YYYY-MM-DD HH24:MI'), '-') || ' '
        || coalesce(vm_expiration_hard::text, '-'), ', ' order by vm_id) from vm_runtimes";
    assert_eq!(
        db.sql(left).await.as_deref(),
        Some("2035-01-01 12:00 -, - -"),
        "the form counts, not what was said before"
    );
    // Who goes on with the old one can be told later, too; nobody gets more time by that.
    let page = wat.get("root", &path).await.body;
    assert!(page.contains("alice@default/d1") && page.contains("2035-01-01 12:00"), "{page}");
    wat.post("root", &path, &[("soft", "2036-01-01T12:00"), ("hard", "2034-01-01T12:00")]).await;
    let refused = wat.post("root", &path, &[("soft", ""), ("hard", "2034-01-01T12:00")]).await;
    assert_eq!(refused.status, 303, "{refused:?}");
    let hard = "select to_char(max(vm_expiration_soft) at time zone 'utc', 'YYYY') || to_char(max(vm_expiration_hard) at time zone 'utc', ' YYYY') from vm_runtimes";
    assert_eq!(db.sql(hard).await.as_deref(), Some("2035 2034"));
    administrator(&db, "reader", "*", "Operator L1").await;
    assert_eq!(wat.post("reader", &path, &[]).await.status, 403);
    assert_eq!(wat.get("reader", "/staging").await.status, 404);
}
