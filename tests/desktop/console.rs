//! What a real desktop says on its console, seen by administrators.

use std::{fs::OpenOptions, io::Write, process::Command, time::Instant};

use super::{desk::Desk, eventually, holds, installation::Installation, measured};
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
    assert_eq!(at.value("select count(*) from vm_console_pieces").await, "0", "nobody watches");

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

    let over = "update vm_console_watches set until = now()";
    at.sql(over).await.unwrap();
    at.sql("select wake('qvd_node_' || id, 'console', null) from hosts").await.unwrap();
    eventually("the node forgets what nobody watches", async || {
        holds(at.value("select count(*) from vm_console_watches").await == "0")
    })
    .await;
    assert_eq!(at.value("select count(*) from vm_console_pieces").await, "0");
    una.stop().await;
}
