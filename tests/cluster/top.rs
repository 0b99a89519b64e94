//! `qvd admin top` on a terminal and without one.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use super::{
    database::Db,
    host::{Host, QVD},
    patience::PATIENCE,
};

/// A terminal of 100 × 30 with the program on it.
fn terminal(db: &Db) -> Child {
    let program = format!("stty cols 100 rows 30; exec {QVD} admin top --database '{}'", db.url("postgres"));
    Command::new("script")
        .args(["--quiet", "--return", "--echo", "never", "--command", &program, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Reads what is shown until it contains `wanted`.
async fn shows(terminal: &mut Child, wanted: &str) {
    let mut seen = Vec::new();
    let reading = async {
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let read = terminal.stdout.as_mut().unwrap().read(&mut piece).await.unwrap();
            assert!(read > 0, "it ended");
            seen.extend_from_slice(&piece[..read]);
        }
    };
    if tokio::time::timeout(PATIENCE, reading).await.is_err() {
        panic!("{wanted:?} was not shown:\n{}", String::from_utf8_lossy(&seen));
    }
}

#[tokio::test]
async fn top_shows_changes_as_they_happen_until_q_is_pressed() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[]);
    let _hkd = host.started().await;
    let mut terminal = terminal(&db);
    shows(&mut terminal, "vms: 0").await;
    db.sql("select vm_start('alice/d2')").await;
    shows(&mut terminal, "alice@default/d2  running").await;
    terminal.stdin.as_mut().unwrap().write_all(b"q").await.unwrap();
    shows(&mut terminal, "\x1b[?1049l").await;
    assert!(terminal.wait().await.unwrap().success());
}

#[tokio::test]
async fn top_is_printed_once_where_there_is_no_terminal() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[]);
    let _hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    let url = db.url("postgres");
    let printed = host.qvd(&["admin", "top", "--database", &url]);
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success() && text.contains("vms: 1\n") && !text.contains('\x1b'), "{text}");
    let json: Value =
        serde_json::from_slice(&host.qvd(&["admin", "top", "--json", "--database", &url]).stdout).unwrap();
    assert_eq!((json["hosts"][0]["vms"].as_i64(), json["vms"][0]["vm"].as_str()), (Some(1), Some("alice@default/d1")));
    assert_eq!(json["sessions"], Value::Array(vec![]));
}
