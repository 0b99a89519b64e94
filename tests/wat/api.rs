//! What programs ask under `/api/v1`.

use serde_json::{Value, json};

use super::stage::{PASSWORD, Wat, administrator, authorization};
use crate::cluster::database::Db;

async fn stage(vms: u32) -> (Db, Wat) {
    let db = Db::with_vms(vms).await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start(&db).await;
    (db, wat)
}

#[tokio::test]
async fn objects_are_made_looked_at_changed_and_deleted_by_programs() {
    let (db, wat) = stage(1).await;
    let root = async |method: &str, path: &str, headers: &str, body: Option<&Value>| {
        wat.api("root", method, &format!("/api/v1{path}"), headers, body).await
    };
    let bob = json!({ "name": "bob", "password": "pw", "tenant": "default" });
    let made = root("POST", "/user", "", Some(&bob)).await;
    let place = made.header("Location").unwrap().strip_prefix("/api/v1").unwrap().to_owned();
    assert_eq!((made.status, place), (201, format!("/user/{}", made.json()["id"])), "{made:?}");
    let place = format!("/user/{}", made.json()["id"]);
    let again = root("POST", "/user", "", Some(&bob)).await;
    assert_eq!((again.status, again.header("Content-Type")), (422, Some("application/problem+json")), "{again:?}");
    assert!(again.json()["detail"].as_str().unwrap().contains("bob exists already"), "{again:?}");
    assert!(again.json()["code"].is_string(), "{again:?}");

    let seen = root("GET", &place, "", None).await;
    assert_eq!(
        (seen.status, &seen.json()["user"], &seen.json()["blocked"]),
        (200, &json!("bob@default"), &json!(false))
    );
    let tag = seen.header("ETag").unwrap().to_owned();
    let same = root("GET", &place, &format!("If-None-Match: {tag}\r\n"), None).await;
    assert_eq!((same.status, same.body.as_str()), (304, ""));
    let changes = json!({ "description": "his & hers" });
    let changed = root("PATCH", &place, &format!("If-Match: {tag}\r\n"), Some(&changes)).await;
    assert_eq!((changed.status, &changed.json()["description"]), (200, &json!("his & hers")), "{changed:?}");
    let late = root("PATCH", &place, &format!("If-Match: {tag}\r\n"), Some(&json!({ "description": "mine" }))).await;
    assert_eq!(late.status, 412, "{late:?}");
    assert_eq!(root("GET", &place, &format!("If-None-Match: {tag}\r\n"), None).await.status, 200);
    let entry = "select administrator_name, ip, source from log where action = 'update' and object_name like 'bob%'";
    assert_eq!(db.rows(entry).await, [["root", "127.0.0.1", "WAT"]]);

    assert_eq!(root("POST", &format!("{place}/block"), "", None).await.status, 204);
    assert_eq!(root("GET", &place, "", None).await.json()["blocked"], true);
    assert_eq!(root("POST", &format!("{place}/start"), "", None).await.status, 404);
    assert_eq!(root("DELETE", &place, "", None).await.status, 204);
    assert_eq!(root("GET", &place, "", None).await.status, 404);
    assert_eq!(root("DELETE", &place, "", None).await.status, 404);
}

#[tokio::test]
async fn a_list_comes_in_pages_that_miss_nothing_and_repeat_nothing() {
    let (db, wat) = stage(7).await;
    for order in ["", "-name", "state,name", "name"] {
        let (mut names, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/vm?filter=name!=d4&columns=name&limit=2&order={order}{cursor}");
            let page = wat.get("root", &path).await.json();
            assert_eq!(page["items"][0].as_object().unwrap().len(), 1, "nothing but the name: {page}");
            names.extend(page["items"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        if order == "-name" {
            names.reverse();
        }
        assert_eq!(names, ["d1", "d2", "d3", "d5", "d6", "d7"], "{order}");
    }
    let first = wat.get("root", "/api/v1/vm?limit=3").await.json();
    db.sql("select vms_delete(array(select id from vms where name in ('d1', 'd2')))").await;
    let next = first["next"].as_str().unwrap();
    let second = wat.get("root", &format!("/api/v1/vm?limit=3&cursor={next}")).await.json();
    assert_eq!(second["items"][0]["name"], "d4", "what is deleted before a page moves nothing in it");
    for wrong in ["limit=0", "limit=1001", "limit=x", "cursor=x", "filter=name~", "filter=nothing=1", "order=nothing"] {
        let refused = wat.get("root", &format!("/api/v1/vm?{wrong}")).await;
        assert_eq!((refused.status, refused.json()["status"].as_i64()), (400, Some(400)), "{wrong}: {refused:?}");
    }
    assert_eq!(wat.get("root", &format!("/api/v1/vm?order=-name&cursor={next}")).await.status, 400);
}

#[tokio::test]
async fn an_action_says_of_each_what_became_of_it() {
    let (db, wat) = stage(3).await;
    let ids = db.rows("select id from vms order by id").await;
    let ids: Vec<i32> = ids.iter().map(|row| row[0].parse().unwrap()).collect();
    let act = async |body: Value| wat.api("root", "POST", "/api/v1/vm/actions", "", Some(&body)).await;
    let done = act(json!({ "verb": "block", "ids": [ids[0], 999_999] })).await.json();
    assert_eq!(done["results"][0], json!({ "id": ids[0], "name": "alice@default/d1", "problem": null }));
    let missing = &done["results"][1]["problem"];
    assert_eq!((missing["status"].as_i64(), missing["code"].as_str()), (Some(404), Some("QV010")), "{done}");
    let done = act(json!({ "verb": "set", "filter": "name!=d1", "arguments": { "description": "new" } })).await.json();
    assert_eq!(done["results"].as_array().unwrap().len(), 2, "{done}");
    assert_eq!(db.sql("select count(*) from vms where description = 'new'").await.as_deref(), Some("2"));
    for (wrong, status) in [
        (json!({ "verb": "block", "ids": [1], "filter": "" }), 422),
        (json!({ "verb": "explode", "ids": [1] }), 404),
        (json!({ "ids": [1] }), 422),
        (json!({ "verb": "block", "ids": ["x"] }), 422),
        (json!({ "verb": "block", "what": 1 }), 422),
        (json!([]), 422),
    ] {
        assert_eq!(act(wrong.clone()).await.status, status, "{wrong}");
    }
    let why = wat.get("root", &format!("/api/v1/vm/{}/why", ids[0])).await.json();
    assert!(why["why"].as_str().unwrap().contains("d1"), "{why}");
}

#[tokio::test]
async fn settings_are_looked_at_set_and_taken_back() {
    let (db, wat) = stage(1).await;
    db.sql("select tenant_create('school')").await;
    let path = "/api/v1/config/l7r.session.limit";
    let value = async |tenant: &str| {
        let values = wat.get("root", path).await.json();
        let of = values.as_array().unwrap().iter().find(|value| value["tenant"] == tenant).cloned();
        of.map(|of| of["value"].as_str().unwrap().to_owned())
    };
    let put = async |query: &str, value: &str| {
        wat.api("root", "PUT", &format!("{path}{query}"), "", Some(&json!({ "value": value }))).await
    };
    assert_eq!(put("", "3600").await.status, 204);
    assert_eq!(put("?tenant=school", "60").await.status, 204);
    assert_eq!((value("-").await.as_deref(), value("school").await.as_deref()), (Some("3600"), Some("60")));
    let refused = put("", "many").await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (422, Some("QV014")), "{refused:?}");
    assert_eq!(wat.api("root", "DELETE", &format!("{path}?tenant=school"), "", None).await.status, 204);
    assert_eq!(value("school").await, None);
    assert_eq!(wat.get("root", "/api/v1/config/nothing.of.this.name").await.status, 404);
    assert!(wat.get("root", "/api/v1/statistics").await.json()["vms"] == 1);
    assert_eq!(wat.get("root", "/api/v1/me").await.json()["name"], "root");
}

#[tokio::test]
async fn programs_of_a_tenant_meet_their_tenant_alone() {
    let (db, wat) = stage(1).await;
    db.sql("select tenant_create('school'); select user_create('bob', 'pw', 'school')").await;
    administrator(&db, "ann", "school", "Root").await;
    let alice = db.sql("select id from users where login = 'alice'").await.unwrap();
    let users = wat.get("ann@school", "/api/v1/user").await;
    assert!(users.body.contains("bob") && !users.body.contains("alice"), "{users:?}");
    for (method, path, body) in [
        ("GET", String::new(), None),
        ("PATCH", String::new(), Some(json!({ "description": "mine" }))),
        ("DELETE", String::new(), None),
        ("POST", "/block".to_owned(), None),
    ] {
        let refused = wat.api("ann@school", method, &format!("/api/v1/user/{alice}{path}"), "", body.as_ref()).await;
        let nobodys = wat.api("ann@school", method, &format!("/api/v1/user/999999{path}"), "", body.as_ref()).await;
        let same = refused.body.replace(&alice, "999999");
        assert_eq!((refused.status, same), (404, nobodys.body), "{method} {path}");
    }
    assert!(!wat.get("ann@school", "/api/v1/tenant").await.body.contains("default"));
    let set = json!({ "value": "1" });
    let others = wat.api("ann@school", "PUT", "/api/v1/config/l7r.session.limit?tenant=default", "", Some(&set)).await;
    assert_eq!(others.status, 404, "{others:?}");
    db.sql("update tenants set blocked = true where name = 'school'").await;
    // He is remembered for a moment, and refused by the database.
    let blocked = wat.get("ann@school", "/api/v1/user").await;
    assert!(matches!(blocked.status, 401 | 403) && !blocked.body.contains("bob"), "{blocked:?}");
}

#[tokio::test]
async fn what_programs_send_is_data_and_never_more() {
    let (db, wat) = stage(1).await;
    let name = "'; drop table vms; --<script>alert(1)</script>\u{1F600}";
    let body = json!({ "name": "mallory", "password": "pw", "tenant": "default", "description": name });
    let made = wat.api("root", "POST", "/api/v1/user", "", Some(&body)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let seen = wat.get("root", &format!("/api/v1/user/{}", made.json()["id"])).await;
    assert_eq!(seen.json()["description"], name);
    assert_eq!(seen.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(db.sql("select count(*) from vms").await.as_deref(), Some("1"));

    let large = json!({ "name": "x".repeat(2 << 20) });
    assert_eq!(wat.api("root", "POST", "/api/v1/user", "", Some(&large)).await.status, 413);
    let form = wat.ask("POST", "/api/v1/user", &authorization("root", PASSWORD), "name=eve&password=pw").await;
    assert_eq!(form.status, 415, "a form of another site is no request: {form:?}");
    let cross = wat.api("root", "POST", "/api/v1/user", "Sec-Fetch-Site: cross-site\r\n", Some(&body)).await;
    assert_eq!(cross.status, 403, "{cross:?}");
    for (path, status) in [
        ("/api/v1/user/1%27%20or%201=1", 404),
        ("/api/v1/user/99999999999999999999", 404),
        ("/api/v1/user/9999999999", 404),
        ("/api/v1/pg_user", 404),
        ("/api/v1/nothing/at/all/here", 404),
        ("/api/v1/user?order=id;drop", 400),
    ] {
        let refused = wat.get("root", path).await;
        assert_eq!(
            (refused.status, refused.header("Content-Type")),
            (status, Some("application/problem+json")),
            "{path}"
        );
    }
    assert_eq!(wat.ask("GET", "/api/v1/user", "", "").await.status, 401);
}

#[tokio::test]
async fn of_two_changes_of_the_same_version_at_the_same_moment_only_one_is_made() {
    let (db, wat) = stage(1).await;
    let id = db.sql("select id from users").await.unwrap();
    let path = format!("/api/v1/user/{id}");
    for round in 0..10 {
        let version = wat.get("root", &path).await.header("ETag").unwrap().to_owned();
        let change = async |who: &str| {
            let changes = json!({ "description": format!("{who} {round}") });
            wat.api("root", "PATCH", &path, &format!("If-Match: {version}\r\n"), Some(&changes)).await
        };
        let (one, other, third) = tokio::join!(change("one"), change("other"), change("third"));
        let mut answers = [one, other, third];
        answers.sort_unstable_by_key(|answer| answer.status);
        assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 412, 412], "{round}: {answers:?}");
    }
}

#[tokio::test]
async fn tags_and_expirations_of_images_have_addresses() {
    let (db, wat) = stage(2).await;
    let image = db.sql("select id from dis").await.unwrap();
    let root = async |method: &str, path: &str, body: Option<&Value>| {
        wat.api("root", method, &format!("/api/v1{path}"), "", body).await
    };
    assert_eq!(root("PUT", &format!("/di/{image}/tags/spring"), None).await.status, 204);
    let tags = root("GET", &format!("/di/{image}"), None).await.json()["tags"].clone();
    assert!(tags.as_array().unwrap().contains(&json!("spring")), "{tags}");
    assert_eq!(root("GET", "/di/named?name=desk/spring", None).await.json()["id"].to_string(), image);
    assert_eq!(root("DELETE", &format!("/di/{image}/tags/spring"), None).await.status, 204);
    assert_eq!(root("GET", "/di/named?name=desk/spring", None).await.status, 404);
    assert_eq!(root("GET", &format!("/di/{image}/affected"), None).await.json(), json!([]));

    db.sql("select di_create('desk', 'new.tar', 'next')").await;
    let next = db.sql("select id from dis where version = 'next'").await.unwrap();
    let session = db.session("postgres").await;
    session
        .sql(&format!(
            "set session_replication_role = replica;
             update vm_runtimes set vm_state = 'running', current_di_id = {image}, host_id = (select id from hosts);
             update di_tags set di_id = {next} where tag in ('default', 'head')"
        ))
        .await;
    drop(session);
    let affected = root("GET", &format!("/di/{next}/affected"), None).await;
    assert_eq!(affected.status, 200, "{affected:?}");
    let times = json!({ "soft": "2040-01-01 00:00", "hard": "2040-01-02 00:00" });
    let rolled = root("POST", &format!("/di/{next}/rollout"), Some(&times)).await;
    assert_eq!(rolled.status, 204, "{rolled:?}");

    let vm = root("GET", "/vm/named?name=alice/d1", None).await.json()["id"].to_string();
    let expiration = format!("/vm/{vm}/expiration");
    let understood = root("PUT", &expiration, Some(&json!({ "hard": "+2 hours" }))).await;
    assert_eq!((understood.status, &understood.json()["soft"]), (200, &Value::Null), "{understood:?}");
    let left =
        "select vm_expiration_hard > now() + interval '119 minutes' from vm_runtimes where vm_id = vm_id('alice/d1')";
    assert_eq!(db.sql(left).await.as_deref(), Some("t"));
    assert_eq!(root("PUT", &expiration, Some(&json!({}))).await.status, 200);
    assert_eq!(root("PUT", &expiration, Some(&json!({ "hard": "soon" }))).await.status, 422);
}
