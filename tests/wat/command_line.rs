//! `qvd admin --url`: the command line on a machine that has no database, only the address of a web tool. What it does over a
//! database it does so as well: the cases are the same.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::stage::{PASSWORD, Wat, administrator};
use crate::cluster::{
    command_line::{self as cases, code, json, text},
    database::Db,
    host::{Host, QVD},
};

/// A machine with the program and nothing else, and a web tool with a certificate.
struct Elsewhere {
    wat: Wat,
    ca: PathBuf,
}

impl Elsewhere {
    async fn of(db: &Db) -> Self {
        administrator(db, "root", "*", "Root").await;
        let (wat, ca) = Wat::secured(db).await;
        Self { wat, ca }
    }

    fn url(&self) -> String {
        format!("https://{}/", self.wat.address())
    }

    fn command(&self, who: &str, password: &str, arguments: &[&str]) -> Command {
        let mut command = asking(&self.url(), Some(&self.ca), arguments);
        command.env("QVD_ADMIN_USER", who).env("QVD_ADMIN_PASSWORD", password);
        command
    }

    fn qvd_as(&self, who: &str, password: &str, arguments: &[&str]) -> Output {
        self.command(who, password, arguments).output().unwrap()
    }

    fn qvd(&self, arguments: &[&str]) -> Output {
        self.qvd_as("root", PASSWORD, arguments)
    }
}

/// `qvd admin --url … --ca …` with what follows `admin`.
fn asking(url: &str, ca: Option<&Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(QVD);
    command.args(["admin", "--url", url]);
    if let Some(ca) = ca {
        command.arg("--ca").arg(ca);
    }
    assert_eq!(arguments[0], "admin");
    command.args(&arguments[1..]).stdin(Stdio::null()).env("QVD_CONFIG", "/nonexistent").env_remove("QVD_DATABASE");
    command
}

#[tokio::test]
async fn what_there_is_is_listed_over_the_web_tool() {
    let db = Db::with_vms(2).await;
    let elsewhere = Elsewhere::of(&db).await;
    let host = Host::new(&db, &[]);
    // There is one administrator more than where the cases come from, and no list of theirs counts them.
    cases::lists_there_are(&|arguments| elsewhere.qvd(arguments));
    for list in [
        &["admin", "vm", "list"][..],
        &["admin", "vm", "list", "--all"],
        &["admin", "log", "list", "--csv", "--order=-id", "--columns", "id,time,action"],
        &["admin", "config", "list", "key~l7r%", "--order", "key"],
        &["admin", "top", "--once"],
        &["admin", "acl", "list", "--csv", "--order", "role,name"],
    ] {
        let (here, there) = (host.qvd(list), elsewhere.qvd(list));
        assert_eq!(text(&there.stdout), text(&here.stdout), "{list:?}: {there:?}");
    }
    let both = [&["admin", "vm", "list", "--json"][..], &["admin", "top", "--json"]];
    for list in both {
        assert_eq!(json(&elsewhere.qvd(list)), json(&host.qvd(list)), "{list:?}");
    }
}

#[tokio::test]
async fn a_long_list_comes_whole_over_the_web_tool() {
    let db = Db::with_vms(2345).await;
    let elsewhere = Elsewhere::of(&db).await;
    for (order, limit, rows) in
        [("id", None, 2345), ("-name", None, 2345), ("id", Some("1500"), 1500), ("id", Some("0"), 0)]
    {
        let mut list = vec!["admin", "vm", "list", "--columns", "name", "--csv", "--order", order];
        list.extend(limit.into_iter().flat_map(|limit| ["--limit", limit]));
        let list = elsewhere.qvd(&list);
        let names: std::collections::BTreeSet<_> = text(&list.stdout).lines().skip(1).map(str::to_owned).collect();
        assert_eq!(names.len(), rows, "{order}");
    }
    let all = elsewhere.qvd(&["admin", "vm", "set", "description=long", "--force"]);
    assert_eq!(text(&all.stdout), "2345 of 2345 done.\n", "{all:?}");
}

#[tokio::test]
async fn filters_choose_over_the_web_tool_as_they_do_over_a_database() {
    let db = Db::with_vms(3).await;
    let elsewhere = Elsewhere::of(&db).await;
    cases::filters_choose(&db, &|arguments| elsewhere.qvd(arguments)).await;
}

#[tokio::test]
async fn objects_are_made_changed_and_deleted_over_the_web_tool() {
    let db = Db::with_vms(2).await;
    let elsewhere = Elsewhere::of(&db).await;
    cases::objects_come_and_go(&db, &|arguments| elsewhere.qvd(arguments)).await;
    let entries = "select distinct administrator_name, source from log where action = 'create' and qvd_object = 'user' and object_name like 'bob%'";
    assert_eq!(db.rows(entries).await, [["root", "WAT"]], "the log says who it was");
}

#[tokio::test]
async fn starts_and_stops_are_waited_for_over_the_web_tool() {
    let db = Db::with_vms(3).await;
    let elsewhere = Elsewhere::of(&db).await;
    let host = Host::new(&db, &[]);
    cases::starts_and_stops_are_waited_for(&db, &host, &|arguments| elsewhere.qvd(arguments)).await;
}

#[tokio::test]
async fn single_vms_nodes_users_and_images_are_cared_for_over_the_web_tool() {
    let db = Db::with_vms(1).await;
    let elsewhere = Elsewhere::of(&db).await;
    let qvd = |arguments: &[&str]| elsewhere.qvd(arguments);
    let why = qvd(&["admin", "vm", "why", "alice/d1", "--json"]);
    assert!(json(&why)["why"].as_str().unwrap().contains("d1") && json(&why)["state"] == "stopped", "{why:?}");
    db.sql("select vm_create('alice', 'd2', 'desk')").await;
    for (vm, problem) in [("alice/none", "there is no VM alice/none"), ("none/d1", "there is no VM none/d1")] {
        let missing = qvd(&["admin", "vm", "why", vm]);
        assert!(code(&missing) == Some(1) && text(&missing.stderr).contains(problem), "{missing:?}");
    }

    let drained = qvd(&["admin", "host", "drain", "n1", "--wait", "--json"]);
    assert_eq!(json(&drained), serde_json::json!({ "host": "n1", "draining": true, "sessions": 0, "vms": 0 }));
    assert_eq!(db.sql("select blocked from host_runtimes").await.as_deref(), Some("t"));
    assert_eq!(text(&qvd(&["admin", "host", "drain", "n1", "--undo"]).stdout), "n1 takes users and VMs again.\n");
    for verb in ["drain", "stop"] {
        let unknown = qvd(&["admin", "host", verb, "n9"]);
        assert!(code(&unknown) == Some(1) && text(&unknown.stderr).contains("there is no host n9"), "{unknown:?}");
    }
    let stopped = qvd(&["admin", "host", "stop", "n1"]);
    assert!(
        text(&stopped.stderr).contains("cannot be told to stop (select * from host_list;)"),
        "with the hint: {stopped:?}"
    );
    assert_eq!(json(&qvd(&["admin", "host", "release", "n1", "--force", "--json"]))["released"], serde_json::json!([]));

    let secret = json(&qvd(&["admin", "user", "totp", "alice", "--json"]));
    assert_eq!((&secret["user"], secret["secret"].is_string()), (&"alice@default".into(), true), "{secret}");
    assert_eq!(json(&qvd(&["admin", "user", "totp", "alice", "--remove", "--json"]))["removed"], true);

    let tagged = qvd(&["admin", "di", "tag", "desk/default", "spring & autumn", "--json"]);
    assert!(json(&tagged)["tags"].as_array().unwrap().contains(&"spring & autumn".into()), "{tagged:?}");
    let untagged = qvd(&["admin", "di", "untag", "desk/spring & autumn", "spring & autumn", "--json"]);
    assert!(!json(&untagged)["tags"].as_array().unwrap().contains(&"spring & autumn".into()), "{untagged:?}");
    assert_eq!(json(&qvd(&["admin", "di", "block", "desk/default", "--json"]))["blocked"], true);
    assert_eq!(code(&qvd(&["admin", "di", "block", "desk/default", "--undo"])), Some(0));
    let needed = qvd(&["admin", "di", "delete", "desk/default"]);
    assert_eq!(code(&needed), Some(1), "{needed:?}");
    let new =
        json(&qvd(&["admin", "di", "create", "desk", "none.tar", "--version", "next", "--tag", "soon", "--json"]));
    assert_eq!((&new["version"], &new["state"]), (&"next".into(), &"new".into()), "no node has looked for it: {new}");
    assert_eq!(text(&qvd(&["admin", "di", "staging", "--json"]).stdout).trim(), "[]");

    let local = qvd(&["admin", "storage", "check"]);
    assert!(code(&local) != Some(0) && text(&local.stderr).contains("not with --url"), "{local:?}");
}

#[tokio::test]
async fn a_vm_expires_when_it_is_said_over_the_web_tool() {
    let db = Db::with_vms(1).await;
    let elsewhere = Elsewhere::of(&db).await;
    let host = Host::new(&db, &[]);
    let _hkd = host.started().await;
    assert_eq!(code(&elsewhere.qvd(&["admin", "vm", "start", "d1", "--wait"])), Some(0));
    let expire = elsewhere.qvd(&["admin", "vm", "expire", "alice/d1", "--hard", "+2 hours", "--json"]);
    assert!(json(&expire)["soft"].is_null() && json(&expire)["hard"].is_string(), "{expire:?}");
    let wrong = elsewhere.qvd(&["admin", "vm", "expire", "alice/d1", "--hard", "soon"]);
    assert!(code(&wrong) == Some(1) && text(&wrong.stderr).contains("soon"), "{wrong:?}");
    let never = elsewhere.qvd(&["admin", "vm", "expire", "alice/d1", "--never"]);
    assert_eq!(text(&never.stdout), "alice/d1 does not expire.\n", "{never:?}");
}

#[tokio::test]
async fn changes_are_watched_over_the_web_tool_until_it_ends() {
    let db = Db::with_vms(1).await;
    let mut elsewhere = Elsewhere::of(&db).await;
    let mut watch = tokio::process::Command::from(elsewhere.command("root", PASSWORD, &["admin", "watch", "--json"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines();
    assert_eq!(said.next_line().await.unwrap().unwrap(), "watching; Ctrl-C ends");
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let vm: i64 = db.sql("select id from vms").await.unwrap().parse().unwrap();
    // The web tool may still be about to listen; it says that something may have been missed when it does.
    let mut blocked = false;
    loop {
        db.sql(&format!("select vm_block('alice/d1', {})", !blocked)).await;
        blocked = !blocked;
        let message: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        if message["kind"] == "vm" {
            assert_eq!(message["id"], vm);
            break;
        }
    }
    elsewhere.wat.end();
    let ended = watch.wait().await.unwrap();
    let mut last = String::new();
    while let Some(line) = said.next_line().await.unwrap() {
        last = line;
    }
    assert_eq!((ended.code(), last.as_str()), (Some(1), "qvd: the connection was lost"));
}

#[tokio::test]
async fn nobody_is_let_in_without_the_right_name_password_and_certificate() {
    let db = Db::with_vms(1).await;
    let mut elsewhere = Elsewhere::of(&db).await;
    let list = ["admin", "vm", "list"];
    let refused = |output: Output, problem: &str| {
        let said = text(&output.stderr);
        assert_eq!((code(&output), said.lines().count()), (Some(1), 1), "one sentence and a failure: {output:?}");
        assert!(said.contains(problem) && output.stdout.is_empty(), "{problem}: {output:?}");
    };
    refused(elsewhere.qvd_as("root", "wrong", &list), "knows no administrator of this name and password");
    refused(elsewhere.qvd_as("nobody", PASSWORD, &list), "knows no administrator of this name and password");
    let with = |url: &str, ca: Option<&Path>| {
        let mut command = asking(url, ca, &list);
        command.env("QVD_ADMIN_USER", "root").env("QVD_ADMIN_PASSWORD", PASSWORD);
        command.output().unwrap()
    };
    refused(with(&elsewhere.url(), None), "an authority that is not trusted here (--ca names");
    refused(with(&elsewhere.url(), Some(Path::new("/nonexistent.pem"))), "/nonexistent.pem");
    let localhost = format!("https://localhost:{}/", elsewhere.wat.address().port());
    refused(with(&localhost, Some(&elsewhere.ca)), "the certificate of localhost");
    refused(with("http://wat.example/", None), "would be sent in the clear");
    refused(with("https://root:secret@wat.example/", None), "do not belong there");
    let silent = asking(&elsewhere.url(), Some(&elsewhere.ca), &list).output().unwrap();
    refused(silent, "--url needs QVD_ADMIN_USER, since there is no terminal");
    let alone = Command::new(QVD).args(["admin", "--ca", "ca.pem", "vm", "list"]).output().unwrap();
    refused(alone, "which --url names");
    assert_eq!(code(&elsewhere.qvd(&["admin", "vm", "lits"])), Some(2), "a mistake of the caller");
    elsewhere.wat.end();
    refused(elsewhere.qvd(&list), "cannot be reached");
}

#[tokio::test]
async fn name_and_password_are_asked_for_at_a_terminal() {
    let db = Db::with_vms(1).await;
    let elsewhere = Elsewhere::of(&db).await;
    let (url, ca) = (elsewhere.url(), elsewhere.ca.display());
    let list = format!("exec {QVD} admin --url {url} --ca {ca} vm list --columns name --csv");
    let mut terminal = tokio::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &list, "/dev/null"])
        .env("QVD_CONFIG", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut keys, mut screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    let mut seen = Vec::new();
    for (question, answer) in [("Administrator: ", "root"), ("Password: ", PASSWORD)] {
        while !seen.ends_with(question.as_bytes()) {
            assert_ne!(screen.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
        }
        keys.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
    }
    screen.read_to_end(&mut seen).await.unwrap();
    let seen = String::from_utf8(seen).unwrap();
    assert!(terminal.wait().await.unwrap().success() && seen.contains("\nd1"), "{seen}");
}

#[tokio::test]
async fn an_administrator_meets_and_does_over_the_web_tool_what_his_rights_allow() {
    let db = Db::with_vms(1).await;
    db.sql(
        r#"select tenant_create('school'), user_create('bob', 'pw', 'school'),
               object_create('role', '{"name": "looks", "tenant": "school", "roles": ["Users Reader"]}')"#,
    )
    .await;
    let elsewhere = Elsewhere::of(&db).await;
    administrator(&db, "ann", "school", "looks").await;
    let ann = |arguments: &[&str]| elsewhere.qvd_as("ann@school", PASSWORD, arguments);
    let users = ann(&["admin", "user", "list", "--columns", "name", "--csv"]);
    assert_eq!(text(&users.stdout), "name\r\nbob\r\n", "none of another tenant: {users:?}");
    let refused = ann(&["admin", "user", "new", "name=eve,password=pw"]);
    assert!(code(&refused) == Some(1) && text(&refused.stderr).contains("user.create."), "{refused:?}");
    let refused = ann(&["admin", "user", "bob", "block"]);
    assert!(code(&refused) == Some(1) && text(&refused.stderr).contains("user.update.block."), "{refused:?}");
    let missing = ann(&["admin", "vm", "why", "alice@default/d1"]);
    assert!(code(&missing) == Some(1) && !text(&missing.stderr).contains("d1 is"), "{missing:?}");
    assert_eq!(db.sql("select blocked from users where login = 'bob'").await.as_deref(), Some("f"));
}
