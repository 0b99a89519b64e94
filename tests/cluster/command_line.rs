//! The commands of `qvd` that look at the database and at a node.

use std::process::{Output, Stdio};

use qvd::model::config::KEYS;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{
    database::Db,
    host::{Host, QVD},
};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn qvd_db_says_what_is_to_be_done_and_does_it() {
    let db = Db::empty().await;
    let host = Host::new(&db, &[]);
    let status = host.qvd(&["db", "status", "--json"]);
    assert_eq!(code(&status), Some(1));
    assert_eq!(json(&status)["version"], 0);
    assert_eq!(json(&status)["pending"][0], "foundation");
    assert!(text(&status.stderr).contains("run `qvd db migrate`"), "{status:?}");

    let migrate = host.qvd(&["db", "migrate"]);
    assert_eq!(code(&migrate), Some(0), "{migrate:?}");
    assert!(text(&migrate.stdout).starts_with("applied migration 1 (foundation)\n"), "{migrate:?}");
    assert_eq!(text(&host.qvd(&["db", "migrate"]).stdout), "the schema is up to date\n");
    let status = host.qvd(&["db", "status", "--json", "--database", &db.url("postgres")]);
    assert_eq!(code(&status), Some(0));
    assert_eq!(json(&status)["pending"], Value::Array(vec![]));

    db.sql("insert into qvd.migrations (number, name) values (99, 'future')").await;
    let newer = host.qvd(&["db", "migrate"]);
    assert_eq!(code(&newer), Some(1));
    assert!(text(&newer.stderr).starts_with("qvd: the schema has version 99, this program knows"), "{newer:?}");
}

#[tokio::test]
async fn qvd_db_without_a_database_is_one_sentence_and_a_failure() {
    let db = Db::empty().await;
    let host = Host::new(&db, &[("database.name", "none")]);
    let status = host.qvd(&["db", "status"]);
    assert_eq!((code(&status), text(&status.stderr).lines().count()), (Some(1), 1), "{status:?}");
    assert!(text(&status.stderr).contains("database \"none\" does not exist"), "{status:?}");
    std::fs::remove_file(host.config()).unwrap();
    let status = host.qvd(&["db", "status"]);
    assert_eq!((code(&status), text(&status.stderr).lines().count()), (Some(1), 1), "{status:?}");
    assert!(text(&status.stderr).contains("no --database given"), "{status:?}");
}

#[tokio::test]
async fn qvd_config_list_shows_every_key_and_what_the_file_sets() {
    let db = Db::empty().await;
    let host = Host::new(&db, &[("l7r.port", "9443")]);
    let list = host.qvd(&["config", "list", "--json"]);
    assert_eq!(code(&list), Some(0), "{list:?}");
    let keys = json(&list);
    let keys = keys.as_array().unwrap();
    assert_eq!(keys.len(), KEYS.len());
    let port = keys.iter().find(|key| key["key"] == "l7r.port").unwrap();
    assert_eq!((&port["value"], &port["default"], &port["set"]), (&"9443".into(), &"8443".into(), &true.into()));
    assert!(keys.iter().all(|key| key["meaning"].as_str().is_some_and(|meaning| !meaning.is_empty())));
    let some = host.qvd(&["config", "list", "hkd.poll"]);
    assert_eq!(
        (code(&some), text(&some.stdout).lines().filter(|line| line.contains("internal.hkd.poll")).count()),
        (Some(0), 2)
    );
}

#[tokio::test]
async fn qvd_admin_lists_what_there_is() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[]);
    for (what, column, rows) in
        [("vm", "vm", 2), ("host", "host", 1), ("user", "user", 1), ("di", "path", 1), ("session", "vm", 0)]
    {
        let list = host.qvd(&["admin", "list", what, "--json"]);
        assert_eq!(code(&list), Some(0), "{list:?}");
        let objects = json(&list);
        let objects = objects.as_array().unwrap();
        assert_eq!(objects.len(), rows, "{what}");
        assert!(objects.iter().all(|object| object[column].is_string()), "{objects:?}");
    }
    let table = text(&host.qvd(&["admin", "list", "vm", "--database", &db.url("qvd_readonly")]).stdout);
    assert!(table.contains("STATE") && table.contains("alice@default/d1"), "{table}");
    assert_eq!(code(&host.qvd(&["admin", "list", "users"])), Some(2), "a mistake of the caller");
}

#[tokio::test]
async fn qvd_admin_watch_prints_changes_as_they_happen() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[]);
    let mut watch = tokio::process::Command::new(QVD)
        .args(["admin", "watch", "--json", "--config"])
        .arg(host.config())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines();
    assert_eq!(said.next_line().await.unwrap().unwrap(), "watching; Ctrl-C ends");
    db.sql("select vm_block('alice/d1'), host_block('n1'), config_set('osf.default.memory', '300')").await;
    let vm: i64 = db.sql("select id from vms").await.unwrap().parse().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut heard = Vec::new();
    for _ in 0..3 {
        let message: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(message["v"], 1);
        heard.push((message["kind"].as_str().unwrap().to_owned(), message["id"].as_i64()));
    }
    let host = db.sql("select id from hosts").await.unwrap().parse().ok();
    assert_eq!(heard, [("vm".to_owned(), Some(vm)), ("host".to_owned(), host), ("config".to_owned(), None)]);
    watch.kill().await.unwrap();
}

#[tokio::test]
async fn qvd_status_shows_the_counters_of_a_node_that_runs_and_fails_for_one_that_does_not() {
    let db = Db::with_vms(0).await;
    let host = Host::new(&db, &[]);
    let none = host.qvd(&["status"]);
    assert_eq!(code(&none), Some(1));
    assert!(text(&none.stderr).contains("is this node running?"), "{none:?}");
    let _hkd = host.started().await;
    let status = host.status().unwrap();
    assert_eq!(status["missed_wakeups"], 0);
    assert_eq!(status["trouble"], Value::Null);
    assert_eq!(status["poll_interval_s"], 30.0);
}

#[tokio::test]
async fn qvd_admin_host_drain_waits_until_the_last_user_has_gone() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[]);
    let node = db.sql("select id from hosts").await.unwrap();
    db.sql(&format!(
        "insert into user_sessions (vm_id, vm_name, user_id, login, tenant_id, l7r_host_id, l7r_instance, client_address)
         values (1, 'd1', 1, 'alice', 1, {node}, 1, '192.0.2.1')"
    ))
    .await;
    let mut drain = tokio::process::Command::new(QVD)
        .args(["admin", "host", "drain", "n1", "--wait", "--json", "--config"])
        .arg(host.config())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(drain.stderr.take().unwrap()).lines();
    assert_eq!(said.next_line().await.unwrap().unwrap(), "1 sessions left");
    assert_eq!(db.sql("select blocked from host_runtimes").await.unwrap(), "t");
    db.sql("update user_sessions set ended_at = now(), end_reason = 'left'").await;
    let drained = drain.wait_with_output().await.unwrap();
    assert_eq!(json(&drained), serde_json::json!({ "host": "n1", "draining": true, "sessions": 0, "vms": 0 }));

    let again = host.qvd(&["admin", "host", "drain", "n1", "--undo"]);
    assert_eq!(text(&again.stdout), "n1 takes users and VMs again.\n");
    assert_eq!(db.sql("select blocked from host_runtimes").await.unwrap(), "f");
    let unknown = host.qvd(&["admin", "host", "drain", "n9"]);
    assert_eq!(code(&unknown), Some(1));
    assert!(text(&unknown.stderr).contains("there is no host n9"), "{unknown:?}");
}

#[tokio::test]
async fn qvd_admin_host_release_frees_the_vms_of_a_node_that_is_off_and_no_other() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[]);
    let mut hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    let asked = host.qvd(&["admin", "host", "release", "n1"]);
    assert_eq!(code(&asked), Some(1), "there is nobody to ask");
    assert!(text(&asked.stderr).contains("say --force if n1 is off"), "{asked:?}");
    let alive = host.qvd(&["admin", "host", "release", "n1", "--force"]);
    assert_eq!(code(&alive), Some(1));
    assert!(text(&alive.stderr).contains("host n1 gives signs of life"), "{alive:?}");

    hkd.kill();
    db.sql("update host_runtimes set ok_ts = now() - interval '1 minute'").await;
    let released = host.qvd(&["admin", "host", "release", "n1", "--force", "--json"]);
    let vm: i32 = db.sql("select id from vms").await.unwrap().parse().unwrap();
    assert_eq!(json(&released), serde_json::json!({ "host": "n1", "released": [vm] }));
    db.wait_vm("d1", "stopped").await;
}
