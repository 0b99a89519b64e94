//! What a real desktop says on its console, seen by administrators.

use std::{
    fs::OpenOptions,
    io::Write,
    process::{Command, Stdio},
    time::Instant,
};

use tokio::io::{AsyncBufReadExt, BufReader};

use super::{PATIENCE, desk::Desk, eventually, holds, installation::Installation, measured};
use crate::wat::stage::Wat;

#[tokio::test]
async fn a_line_of_the_console_comes_into_the_database_the_page_and_the_command_line() {
    let at = Installation::shared().await;
    let una = Desk::new(&at, "una").await;
    let guest = una.start().await;
    let vm = una.vm;
    let root = r#"select object_create('administrator',
        '{"name": "watcher", "password": "a secret: ñ", "tenant": "*", "roles": ["Root"]}')"#;
    at.sql(root).await.unwrap();
    let wat = Wat::on(&at.cluster().socket_dir().display().to_string(), "qvd", &[]).await;
    let say = |line: &str| {
        let console = format!("/proc/{}/fd/1", guest.init().pid);
        OpenOptions::new().write(true).open(console).unwrap().write_all(line.as_bytes()).unwrap();
    };
    say("an older line\n");
    let count = async |table: &str| at.value(&format!("select count(*) from {table} where vm_id = {vm}")).await;
    assert_eq!(count("vm_console_pieces").await, "0", "nobody watches");

    let page = wat.get("watcher", &format!("/vm/{vm}/console")).await;
    assert_eq!(page.status, 200, "{page:?}");
    let begin = Instant::now();
    let more = format!("/vm/{vm}/console/more?last=0");
    let shows = async |line: &str| {
        eventually(&format!("the page shows {line}"), async || {
            let page = wat.get("watcher", &more).await.body;
            if page.contains(line) { Ok(()) } else { Err(page) }
        })
        .await;
    };
    shows("an older line").await;
    measured("console page until its first text", begin);
    let mut changes = wat.live("watcher").await;
    let begin = Instant::now();
    say("\x1b[31ma <new> line\x1b[0m\r\n");
    changes.next(&format!("data: {{\"kind\":\"console\",\"id\":{vm}}}")).await;
    measured("line until the page is told", begin);
    shows("a &#60;new&#62; line").await;
    let said = format!("select string_agg(said, '' order by id) from vm_console_pieces where vm_id = {vm}");
    let said = at.value(&said).await;
    assert!(said.contains("\na <new> line\n") && said.matches("an older line").count() == 1, "{said}");

    let printed = Command::new(env!("CARGO_BIN_EXE_qvd"))
        .args(["admin", "vm", "console", &una.name(), "--database", &at.connection_string("qvd_admin")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.status.success() && text.contains("a <new> line\n"), "{printed:?}");

    let mut following = tokio::process::Command::new(env!("CARGO_BIN_EXE_qvd"))
        .args(["admin", "vm", "console", &una.name(), "--follow", "--database", &at.connection_string("qvd_admin")])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut follows = async |wanted: &str| {
        let found = async { while lines.next_line().await.unwrap().expect("it goes on") != wanted {} };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {wanted}"));
    };
    follows("a <new> line").await;
    say("one more\n");
    follows("one more").await;
    following.kill().await.unwrap();

    at.sql(&format!("update vm_console_watches set until = now() where vm_id = {vm}")).await.unwrap();
    at.sql("select wake('qvd_node_' || id, 'console', null) from hosts").await.unwrap();
    eventually("the node forgets what nobody watches", async || holds(count("vm_console_watches").await == "0")).await;
    assert_eq!(count("vm_console_pieces").await, "0");
    una.stop().await;
}

#[tokio::test]
async fn who_watches_before_the_start_sees_the_boot_and_after_the_end_the_last_words() {
    let at = Installation::shared().await;
    let vera = Desk::new(&at, "vera").await;
    let watched = async || {
        let console = at.connector("qvd_admin").unwrap().acting().await.unwrap().vm_console(vera.vm, 0).await.unwrap();
        console.said
    };
    let shows = async |line: &str| {
        eventually(&format!("the console shows {line}"), async || {
            let said = watched().await;
            if said.contains(line) { Ok(()) } else { Err(said) }
        })
        .await;
    };
    assert_eq!(watched().await, "", "it has not run yet");
    vera.ask_start().await;
    shows("\n").await;
    vera.wait("running").await;
    let guest = vera.guest().await;
    let console = OpenOptions::new().write(true).open(format!("/proc/{}/fd/1", guest.init().pid)).unwrap();
    vera.ask_stop().await;
    (&console).write_all(b"its last words\n").unwrap();
    vera.wait("stopped").await;
    shows("its last words").await;
}
