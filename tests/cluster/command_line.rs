//! The commands of `qvd` that look at the database and at a node.

use std::process::{Output, Stdio};

use qvd::model::config::KEYS;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{
    database::Db,
    host::{Host, QVD},
};

/// How a command is run: on a node over its database, or elsewhere over a web tool (`tests/wat/command_line.rs`).
pub type Qvd<'a> = &'a dyn Fn(&[&str]) -> Output;

pub fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn json(output: &Output) -> Value {
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
    lists_there_are(&|arguments| host.qvd(arguments));
    let table = text(&host.qvd(&["admin", "vm", "list", "--all", "--database", &db.url("qvd_readonly")]).stdout);
    assert!(table.contains("STATE") && table.contains("alice@default/d1"), "{table}");
    assert_eq!(code(&host.qvd(&["admin", "users", "list"])), Some(2), "a mistake of the caller");
}

/// With two VMs.
pub fn lists_there_are(qvd: Qvd<'_>) {
    for (what, column, rows) in
        [("vm", "name", 2), ("host", "name", 1), ("user", "name", 1), ("di", "name", 1), ("session", "vm", 0)]
    {
        let list = qvd(&["admin", what, "list", "--json"]);
        assert_eq!(code(&list), Some(0), "{list:?}");
        let objects = json(&list);
        let objects = objects.as_array().unwrap();
        assert_eq!(objects.len(), rows, "{what}");
        assert!(objects.iter().all(|object| object[column].is_string()), "{objects:?}");
    }
    for what in ["osf", "tenant", "role", "admin", "config", "property", "acl", "log", "tunnel", "end"] {
        let list = qvd(&["admin", what, "list"]);
        assert_eq!(code(&list), Some(0), "{what}: {list:?}");
    }
    let all = text(&qvd(&["admin", "vm", "list", "--all", "--csv"]).stdout);
    assert!(all.starts_with("id,name,") && all.contains("alice@default/d1"), "{all}");
}

#[tokio::test]
async fn lists_are_chosen_by_the_filters_that_administrators_know() {
    let db = Db::with_vms(3).await;
    let host = Host::new(&db, &[]);
    filters_choose(&db, &|arguments| host.qvd(arguments)).await;
}

/// With three VMs.
pub async fn filters_choose(db: &Db, qvd: Qvd<'_>) {
    db.sql(
        "insert into properties_list (key, tenant_id) values ('room', 1);
            insert into qvd_object_properties_list (property_id, qvd_object) select id, 'vm' from properties_list;
            insert into vm_properties (vm_id, property_id, value)
                select v.id, o.id, 'B ' || v.name from vms v, qvd_object_properties_list o;
            update vm_runtimes set blocked = true where vm_id = vm_id('alice/d2')",
    )
    .await;
    let named = |filter: &[&str]| {
        let list = qvd(&[&["admin", "vm", "list", "--columns", "name", "--order=-name", "--csv"], filter].concat());
        assert_eq!(code(&list), Some(0), "{list:?}");
        text(&list.stdout).lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    for (filter, found) in [
        (&["d1"][..], &["d1"][..]),
        (&["alice/d1"], &[]),
        (&["alice@default/d1"], &["d1"]),
        (&["d1;d3"], &["d3", "d1"]),
        (&["blocked=1"], &["d2"]),
        (&["blocked=no", "name!=d1"], &["d3"]),
        (&["name=[d1,d2],!blocked=true"], &["d1"]),
        (&["id=[1:1000000]"], &["d3", "d2", "d1"]),
        (&["room='B d3'"], &["d3"]),
        (&["room~b%"], &["d3", "d2", "d1"]),
        (&["host=,user=alice"], &["d3", "d2", "d1"]),
        (&["host!="], &[]),
        (&["ip>10.0.0.0,tag=default,name=d2"], &["d2"]),
    ] {
        assert_eq!(named(filter), found, "{filter:?}");
    }
    let classic = qvd(&["admin", "vm", "blocked=1", "get", "name,room", "order", "desc", "name", "--csv"]);
    assert_eq!(text(&classic.stdout), "name,room\r\nd2,B d2\r\n", "{classic:?}");
    for (filter, problem) in [
        ("(d1", "“(d1” cannot be understood: “)” is expected at the end"),
        ("floor=1", "there is no field floor; the fields are id, name"),
        ("id=one", "invalid input syntax for type integer"),
    ] {
        let list = qvd(&["admin", "vm", "list", filter]);
        assert_eq!(code(&list), Some(1), "{list:?}");
        assert!(text(&list.stderr).contains(problem), "{list:?}");
    }
}

#[tokio::test]
async fn objects_are_made_changed_and_deleted_from_the_command_line() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[]);
    objects_come_and_go(&db, &|arguments| host.qvd(arguments)).await;
}

/// With two VMs.
pub async fn objects_come_and_go(db: &Db, qvd: Qvd<'_>) {
    let made = qvd(&["admin", "user", "new", "name=bob,password='p,w',description=the builder", "--json"]);
    assert_eq!(code(&made), Some(0), "{made:?}");
    assert!(json(&made)["id"].is_i64());
    let vm = qvd(&["admin", "vm", "new", "name=d1,user=bob,osf=desk"]);
    assert_eq!(code(&vm), Some(0), "{vm:?}");
    let set = qvd(&["admin", "vm", "bob@default/d1", "set", "name=d9,description=a (new) desk"]);
    assert_eq!(text(&set.stdout), "1 of 1 done.\n", "{set:?}");
    assert_eq!(db.sql("select description from vms where name = 'd9'").await.as_deref(), Some("a (new) desk"));
    let refused = qvd(&["admin", "vm", "new", "name=d1"]);
    assert!(
        code(&refused) == Some(1) && text(&refused.stderr).contains("a new vm needs user_id, osf_id"),
        "{refused:?}"
    );
    let refused = qvd(&["admin", "user", "del", "alice"]);
    assert!(code(&refused) == Some(1) && text(&refused.stderr).starts_with("user 1"), "it has VMs: {refused:?}");
    let nobody = qvd(&["admin", "user", "del", "carol"]);
    assert!(code(&nobody) == Some(1) && text(&nobody.stderr).contains("there is no such user"), "{nobody:?}");
    let all = qvd(&["admin", "vm", "del"]);
    assert!(code(&all) == Some(1) && text(&all.stderr).contains("say --force"), "{all:?}");
    let dry = qvd(&["admin", "vm", "del", "--dry-run"]);
    assert!(code(&dry) == Some(0) && text(&dry.stdout).starts_with("del: 3 × vm"), "{dry:?}");
    assert_eq!(db.sql("select count(*) from vms").await.as_deref(), Some("3"));
    let all = qvd(&["admin", "vm", "del", "--force", "--json"]);
    assert_eq!(json(&all).as_array().map(Vec::len), Some(3), "{all:?}");
    assert_eq!(db.sql("select count(*) from vms").await.as_deref(), Some("0"));
}

#[tokio::test]
async fn start_and_stop_return_when_it_is_done_or_say_why_it_is_not() {
    let db = Db::with_vms(3).await;
    let host = Host::new(&db, &[]);
    starts_and_stops_are_waited_for(&db, &host, &|arguments| host.qvd(arguments)).await;
}

/// With three VMs and a node.
pub async fn starts_and_stops_are_waited_for(db: &Db, host: &Host<'_>, qvd: Qvd<'_>) {
    let nowhere = qvd(&["admin", "vm", "start", "d1", "--wait"]);
    assert!(code(&nowhere) == Some(1) && text(&nowhere.stderr).contains("no host can take VM"), "{nowhere:?}");
    let hkd = host.started().await;
    let up = qvd(&["admin", "vm", "start", "name~d%", "--wait"]);
    assert_eq!((code(&up), text(&up.stdout)), (Some(0), "3 of 3 done.\n".to_owned()), "{up:?}");
    assert_eq!(db.sql("select count(*) from vm_runtimes where vm_state = 'running'").await.as_deref(), Some("3"));
    let down = qvd(&["admin", "vm", "d1", "stop", "--wait"]);
    assert_eq!(code(&down), Some(0), "{down:?}");
    assert_eq!(
        db.sql("select vm_state from vm_runtimes where vm_id = vm_id('alice/d1')").await.as_deref(),
        Some("stopped")
    );
    db.sql("update vm_runtimes set blocked = true where vm_id = vm_id('alice/d1')").await;
    // Nobody stops it any more.
    drop(hkd);
    let late = qvd(&["admin", "vm", "stop", "d2", "--wait", "--timeout", "0"]);
    assert!(code(&late) == Some(1) && text(&late.stderr).contains("when the time is over"), "{late:?}");
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

#[tokio::test]
async fn every_command_has_a_manual_page_and_is_completed_by_shells() {
    let pages = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| std::process::Command::new(QVD).args(arguments).output().unwrap();
    let written = run(&["man", pages.path().to_str().unwrap()]);
    assert_eq!(code(&written), Some(0), "{written:?}");
    let page = std::fs::read_to_string(pages.path().join("qvd-admin-vm-list.1")).unwrap();
    assert!(page.contains("Print a list") && page.contains(r"\-\-csv"), "{page}");
    assert!(pages.path().join("qvd-client.1").exists());
    // For fish options of verbs are left out.
    for (shell, known) in [("bash", "--csv"), ("zsh", "--csv"), ("fish", "\"list\"")] {
        let script = text(&run(&["completion", shell]).stdout);
        assert!(script.contains("admin") && script.contains(known), "{shell}");
    }
}
