//! The log: found by a form, read entry by entry, and exported.

use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::stage::{Answer, Wat, administrator};
use crate::cluster::{database::Db, patience::until};

/// Two tenants, with an administrator of all and one of the school.
async fn stage() -> (Db, Wat) {
    let db = Db::with_vms(2).await;
    administrator(&db, "root", "*", "Root").await;
    db.sql("select tenant_create('school'); select user_create('bob', 'pw', 'school')").await;
    administrator(&db, "ann", "school", "Root").await;
    let wat = Wat::start(&db).await;
    (db, wat)
}

/// So many entries of a VM of the school and one with a name that a spreadsheet would compute.
async fn many(db: &Db, entries: u32, bytes: u32) {
    db.sql(&format!(
        "insert into log (actor, ip, source, tenant_id, action, qvd_object, object_id, object_name, arguments)
         select 'robot', '192.0.2.9', 'test', id, 'update', 'vm', 4711, '=1+1', jsonb_build_object('text', repeat('x', {bytes}))
         from tenants, generate_series(1, {entries}) where name = 'school'"
    ))
    .await;
}

/// The body without its chunks; nothing if it does not end.
fn whole(answer: &Answer) -> Option<String> {
    let (mut rest, mut body) = (answer.body.as_str(), String::new());
    loop {
        let (length, after) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(after.get(..length)?);
        rest = after.get(length + 2..)?;
    }
}

/// The names of objects in a page's table.
fn objects(page: &str) -> Vec<&str> {
    let rows = page.split("<tr>").skip(2);
    rows.filter_map(|row| row.split("<td>").nth(4)?.split("</td>").next())
        .map(|cell| cell.split('>').nth(1).map_or(cell, |inside| inside.trim_end_matches("</a")))
        .collect()
}

#[tokio::test]
async fn entries_are_chosen_by_fields_that_are_kept_in_the_address() {
    let (db, wat) = stage().await;
    wat.post("ann@school", "/user/new", &[("name", "eve"), ("password", "pw")]).await;
    let eve = db.sql("select id from users where login = 'eve'").await.unwrap();
    wat.post("ann@school", &format!("/user/{eve}"), &[("name", "eve"), ("description", "new here")]).await;
    assert_eq!(wat.ask("GET", "/", &super::stage::authorization("ann@school", "wrong"), "").await.status, 401);
    db.sql("update log set time = now() - interval '1 year' where object_name = 'alice@default/d1'").await;
    let year_ago = db.sql("select to_char(now() - interval '11 months', 'YYYY-MM-DD\"T\"HH24:MI')").await.unwrap();
    for (fields, found) in [
        (vec![("administrator", "ann"), ("kind", "user")], vec!["eve", "eve"]),
        (vec![("administrator", "ann"), ("action", "create")], vec!["eve"]),
        (vec![("object", eve.as_str()), ("action", "update")], vec!["eve"]),
        (vec![("object", "EV"), ("address", "127.0.0."), ("action", "update")], vec!["eve"]),
        (vec![("object", "eve"), ("address", "192.")], vec![]),
        (vec![("object", "e_e")], vec![]),
        (vec![("outcome", "refused")], vec!["ann"]),
        (vec![("to", year_ago.as_str())], vec!["alice@default/d1"]),
        (vec![("from", year_ago.as_str()), ("kind", "vm")], vec!["alice@default/d2"]),
        (vec![("filter", "type_of_action=create,object_name~%d2")], vec!["alice@default/d2"]),
    ] {
        let query = serde_urlencoded::to_string(&fields).unwrap();
        let page = wat.get("root", &format!("/log?{query}")).await;
        assert_eq!((page.status, objects(&page.body)), (200, found), "{fields:?}: {}", page.body);
        for (_, value) in fields {
            let kept = [format!("value=\"{value}\""), format!("value=\"{value}\" selected")];
            assert!(kept.iter().any(|kept| page.body.contains(kept)), "{value} is still there: {}", page.body);
        }
    }
    for wrong in ["from=soon", "filter=(((", "filter=nothing%3D1", "filter=id%3Dx", "before=x"] {
        let page = wat.get("root", &format!("/log?{wrong}")).await;
        assert!(page.status == 200 && page.body.contains("role=\"alert\""), "{wrong}: {page:?}");
    }
}

#[tokio::test]
async fn older_entries_are_behind_a_link_and_none_is_shown_twice_or_left_out() {
    let (db, wat) = stage().await;
    db.sql("select objects_update('administrator', array(select id from administrators where name = 'root'), '{\"block\": 20}')").await;
    many(&db, 50, 1).await;
    let (mut path, mut seen) = ("/log?kind=vm&object=4711".to_owned(), Vec::new());
    loop {
        let page = wat.get("root", &path).await.body;
        let ids = page.split("href=\"/log/").skip(1).filter_map(|link| link.split('"').next());
        seen.extend(ids.filter_map(|id| id.parse::<i64>().ok()));
        // What comes meanwhile is on the first page alone.
        many(&db, 1, 1).await;
        let Some(next) = page.split("rel=\"next\"").next().filter(|_| page.contains("rel=\"next\"")) else { break };
        path = next.rsplit("href=\"").next().unwrap().split('"').next().unwrap().replace("&#38;", "&");
    }
    assert_eq!(seen.len(), 50, "{seen:?}");
    assert!(seen.is_sorted_by(|a, b| a > b), "the newest first: {seen:?}");
}

#[tokio::test]
async fn an_entry_shows_what_each_field_was_and_what_it_became() {
    let (db, wat) = stage().await;
    let bob = db.sql("select id from users where login = 'bob'").await.unwrap();
    for description in ["first", "second & last"] {
        wat.post("root", &format!("/user/{bob}"), &[("description", description)]).await;
    }
    let entry = db.sql("select max(id) from log where action = 'update' and qvd_object = 'user'").await.unwrap();
    let page = wat.get("root", &format!("/log/{entry}")).await;
    assert_eq!(page.status, 200);
    for shown in [
        "<del>first</del>",
        "<ins>second &#38; last</ins>",
        "Description",
        "127.0.0.1",
        "root",
        &format!("href=\"/user/{bob}\""),
        &format!("href=\"/log?kind=user&#38;object={bob}\""),
    ] {
        assert!(page.body.contains(shown), "{shown}: {}", page.body);
    }
    assert_eq!(wat.get("ann@school", &format!("/log/{entry}")).await.status, 200, "it is of her tenant");
    let others = db.sql("select max(id) from log where object_name = 'alice@default/d1'").await.unwrap();
    assert_eq!(wat.get("ann@school", &format!("/log/{others}")).await.status, 404);
    // Who above all tenants did it is not hers to know.
    let hers = wat.get("ann@school", &format!("/log/{entry}")).await.body;
    assert!(!hers.contains("127.0.0.1") && !hers.contains("<dd>root"), "{hers}");
}

#[tokio::test]
async fn an_export_has_all_that_the_page_finds_in_pieces_that_make_a_whole_and_no_formula() {
    let (db, wat) = stage().await;
    for entries in [0, 1, 1000, 2500] {
        db.sql("delete from log where object_id = 4711").await;
        many(&db, entries, 10).await;
        let csv = wat.get("root", "/log/export.csv?kind=vm&object=4711").await;
        assert_eq!(csv.header("Content-Disposition"), Some("attachment; filename=\"log.csv\""));
        let csv = whole(&csv).unwrap();
        let lines: Vec<_> = csv.split_terminator("\r\n").collect();
        assert_eq!(lines.len() as u32, entries + 1, "{}", lines[0]);
        assert!(lines[0].starts_with("id,time,admin_name,"), "{}", lines[0]);
        assert!(
            lines[1..].iter().all(|line| line.contains(",'=1+1,") && !line.contains(",=1+1")),
            "{:?}",
            lines.get(1)
        );
        let json = whole(&wat.get("root", "/log/export.json?kind=vm&object=4711").await).unwrap();
        let json: Vec<Value> = serde_json::from_str(&json).unwrap();
        let ids: Vec<_> = json.iter().map(|entry| entry["id"].as_i64().unwrap()).collect();
        assert!(ids.len() as u32 == entries && ids.is_sorted_by(|a, b| a > b), "each once: {}", ids.len());
        assert!(json.iter().all(|entry| entry["object_name"] == "=1+1" && entry["arguments"]["text"] == "xxxxxxxxxx"));
    }
    let by_program = wat.api("root", "GET", "/api/v1/log/export.json?kind=vm&object=4711", "", None).await;
    let of_page = wat.get("root", "/log/export.json?kind=vm&object=4711").await;
    assert_eq!(whole(&by_program), whole(&of_page));
    let page = wat.get("root", "/log?kind=vm&object=4711").await.body;
    for form in ["csv", "json"] {
        assert!(page.contains(&format!("href=\"/log/export.{form}?kind=vm&#38;object=4711\" download")), "{page}");
    }
}

#[tokio::test]
async fn an_export_that_is_refused_says_why_and_is_no_file() {
    let (db, wat) = stage().await;
    db.sql(r#"select object_create('role', '{"name": "users only", "tenant": "school", "acls": ["user.see-main."]}')"#)
        .await;
    administrator(&db, "users", "school", "users only").await;
    for form in ["csv", "json"] {
        let page = wat.get("root", &format!("/log/export.{form}?filter=id%3Dx")).await;
        assert!(page.status == 400 && page.body.contains("role=\"alert\""), "{page:?}");
        assert_eq!(page.header("Content-Disposition"), None);
        let told = wat.api("root", "GET", &format!("/api/v1/log/export.{form}?from=soon"), "", None).await;
        assert_eq!((told.status, told.header("Content-Type")), (400, Some("application/problem+json")), "{told:?}");
        assert_eq!(wat.get("users@school", &format!("/log/export.{form}")).await.status, 404);
        let told = wat.api("users@school", "GET", &format!("/api/v1/log/export.{form}"), "", None).await;
        assert_eq!(told.status, 403, "{told:?}");
    }
    assert_eq!(wat.get("users@school", "/log").await.status, 404);
    assert_eq!(wat.ask("GET", "/log/export.csv", "", "").await.status, 401);
    // Of a tenant's administrator it has what his tenant did.
    let hers = whole(&wat.get("ann@school", "/log/export.json").await).unwrap();
    let hers: Vec<Value> = serde_json::from_str(&hers).unwrap();
    let school: i64 = db.sql("select id from tenants where name = 'school'").await.unwrap().parse().unwrap();
    assert!(!hers.is_empty() && hers.iter().all(|entry| entry["tenant_id"] == school), "{hers:?}");
}

#[tokio::test]
async fn who_reads_slowly_holds_neither_memory_nor_a_transaction_and_is_cut_off_with_the_right() {
    let (db, wat) = stage().await;
    many(&db, 20_000, 4000).await;
    let before = wat.most_memory();
    let mut slow = wat.begin("ann@school", "/log/export.csv").await;
    let mut head = [0; 1024];
    slow.read_exact(&mut head).await.unwrap();
    let busy = "select count(*) from pg_stat_activity where datname = current_database() and usename = 'qvd_wat' and xact_start is not null";
    until("no transaction waits for the reader", async || (db.sql(busy).await.as_deref() == Some("0")).then_some(()))
        .await;
    // Eighty megabytes for somebody who is quick.
    let mut quick = wat.begin("root", "/log/export.json").await;
    let (mut piece, mut read) = (vec![0; 1 << 16], 0);
    loop {
        match quick.read(&mut piece).await.unwrap() {
            0 => break,
            bytes => read += bytes,
        }
    }
    assert!(read > 80_000_000 && piece.windows(2).any(|end| end == b"]\n"), "{read}");
    let grown = wat.most_memory() - before;
    assert!(grown < 60 << 20, "it took {grown} bytes");
    db.sql("update tenants set blocked = true where name = 'school'").await;
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await;
    assert!(rest.len() < 80_000_000 && !rest.ends_with(b"0\r\n\r\n"), "what is cut off is seen to be: {}", rest.len());
}
