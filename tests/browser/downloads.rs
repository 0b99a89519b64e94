//! A file that is fetched for somebody who looks on.

use std::{net::SocketAddr, sync::Arc};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::Notify,
};

use super::stage::{Stage, logged_in};
use crate::{
    cluster::database::Db,
    wat::stage::{Wat, administrator},
};

const WHOLE: usize = 3 << 20;

/// Sends a third of a file whenever it is told to go on.
async fn slow_site() -> (SocketAddr, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let on = Arc::new(Notify::new());
    let go_on = on.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let go_on = go_on.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                    line.clear();
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {WHOLE}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                for _ in 0..3 {
                    let _ = stream.write_all(&vec![7; WHOLE / 3]).await;
                    let _ = stream.flush().await;
                    go_on.notified().await;
                }
            });
        }
    });
    (address, on)
}

async fn stage() -> (Stage, TempDir) {
    let db = Db::with_vms(1).await;
    administrator(&db, "root", "*", "Root").await;
    let staging = tempfile::tempdir().unwrap();
    let arguments = ["--staging", staging.path().to_str().unwrap()];
    let wat = Wat::start_configured(&db, &arguments, "wat.download.private = 1\n").await;
    let browser = logged_in(&wat, &[]).await;
    (Stage { db, wat, browser }, staging)
}

#[tokio::test]
async fn a_file_is_fetched_from_an_address_and_the_page_follows() {
    let (stage, staging) = stage().await;
    let (site, on) = slow_site().await;
    let browser = &stage.browser;
    stage.go("/staging").await;
    browser.fill("#download-url", &format!("http://{site}/images/desk.tar?key=secret")).await.unwrap();
    browser.click_on("Download").await.unwrap();
    let percent = |percent: &str| format!("document.querySelector('#downloads progress')?.value === {percent}");
    browser.until(&percent("33")).await.unwrap();
    browser.script("window.unbroken = true").await.unwrap();
    stage.picture("download").await;
    on.notify_one();
    browser.until(&percent("66")).await.unwrap();
    on.notify_one();
    browser.until("document.querySelector('#downloads .good')").await.unwrap();
    assert_eq!(browser.script("return window.unbroken").await.unwrap(), true, "without a reload");
    assert_eq!(std::fs::metadata(staging.path().join("desk.tar")).unwrap().len(), WHOLE as u64);
    assert!(!browser.text().await.unwrap().contains("secret"));
    browser.click_on("Take off the list").await.unwrap();
    browser
        .until("document.querySelector('#download') && !document.querySelector('#downloads article')")
        .await
        .unwrap();
    // One that is given up.
    browser.fill("#download-url", &format!("http://{site}/images/other.tar")).await.unwrap();
    browser.click_on("Download").await.unwrap();
    browser.until(&percent("33")).await.unwrap();
    browser.click_on("Cancel").await.unwrap();
    assert_eq!(browser.answer(true).await.unwrap(), "Give it up?");
    browser
        .until("document.querySelector('#download') && !document.querySelector('#downloads article')")
        .await
        .unwrap();
    stage.is_content("/staging").await;
}

#[tokio::test]
async fn why_nothing_is_fetched_is_said_on_the_page_in_either_language_on_a_phone() {
    let (stage, _staging) = stage().await;
    let browser = &stage.browser;
    browser.phone(Some((390, 844))).await.unwrap();
    for (language, dark) in [("en", false), ("es", true)] {
        browser.language(language).await.unwrap();
        browser.dark(dark).await.unwrap();
        stage.go("/staging").await;
        browser.fill("#download-url", "http://127.0.0.1:1/desk.tar").await.unwrap();
        browser.click("#download button").await.unwrap();
        browser
            .until("document.querySelector('[role=alert]')?.innerText.includes('127.0.0.1 does not answer')")
            .await
            .unwrap();
        let kept = "return document.querySelector('#download-url').value";
        assert_eq!(browser.script(kept).await.unwrap(), "http://127.0.0.1:1/desk.tar");
        let fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
        browser.until(fits).await.unwrap();
        stage.picture(&format!("download-refused-{language}")).await;
    }
}
