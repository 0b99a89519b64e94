//! What bad people type, and what pages of other sites try.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::stage::{Stage, logged_in};

/// Becomes an image, a script or a quotation's end wherever it is not text.
const EVIL: &str = r#"<img src=x onerror=hacked=1><script>hacked=2</script>"'&{{7*7}}"#;
/// The part of it that every name may have.
const EVIL_NAME: &str = r#"<b onclick=hacked=3>"'&{{7*7}}"#;

/// Nothing of what was typed has become part of the page.
async fn only_text(stage: &Stage) {
    let seen = "return [typeof window.hacked, document.querySelectorAll('main img, main script, main b').length]";
    let page = stage.browser.address().await.unwrap();
    assert_eq!(stage.browser.script(seen).await.unwrap(), serde_json::json!(["undefined", 0]), "{page}");
}

#[tokio::test]
async fn html_in_every_field_of_every_form_stays_text() {
    let stage = Stage::with_vms(1).await;
    stage.go("/").await;
    for section in stage.sections().await {
        stage.go(&section).await;
        let Some(form) = stage.paths("a.button").await.into_iter().find(|path| path.ends_with("/new")) else {
            continue;
        };
        for typed in [EVIL, EVIL_NAME] {
            stage.go(&form).await;
            // As a user would, but for what the browser would not let through.
            let fill = format!(
                "const form = document.querySelector('form.fields');
                 for (const field of form.elements) {{
                     if (field.matches('input:not([type=hidden], [type=checkbox], [type=file]), textarea')) field.value = {};
                     if (field.matches('select')) field.selectedIndex = field.options.length - 1;
                 }}",
                serde_json::json!(typed)
            );
            stage.browser.script(&fill).await.unwrap();
            stage.browser.click("form.fields button").await.unwrap();
            stage.browser.until("document.readyState === 'complete' && document.querySelector('h1')").await.unwrap();
            only_text(&stage).await;
        }
    }
    let vm = stage.db.sql("select id from vms").await.unwrap();
    stage.db.sql(&format!("update vms set description = $x${EVIL}$x$")).await;
    stage.db.sql(&format!("update vm_runtimes set vm_reason = $x${EVIL}$x$")).await;
    assert_eq!(
        stage.db.sql("select count(*) > 0 from users where login like '<b onclick%'").await.as_deref(),
        Some("t"),
        "some of it was kept"
    );
    for page in
        stage.pages().await.iter().chain(&[format!("/vm/{vm}"), "/vm?columns=description&columns=reason".to_owned()])
    {
        stage.go(page).await;
        only_text(&stage).await;
    }
    stage.go("/vm?columns=description").await;
    stage.browser.until_it_says(EVIL).await.unwrap();
    let filter = serde_urlencoded::to_string([("filter", EVIL), ("order", EVIL), ("columns", EVIL)]).unwrap();
    stage.go(&format!("/vm?{filter}")).await;
    only_text(&stage).await;
}

/// Serves one page to everybody.
async fn evil_site(page: impl FnOnce(SocketAddr) -> String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let page = page(address);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            // Browsers open connections on which they ask for nothing yet.
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_and_frames_nothing() {
    let stage = Stage::with_vms(1).await;
    let vm = stage.db.sql("select id from vms").await.unwrap();
    let act = stage.address("/vm/act");
    let site = evil_site(|_| {
        format!(
            "<form method=post action={act}><input name=verb value=block><input name=id value={vm}><button>Win</button></form>
             <iframe src={act}></iframe>"
        )
    })
    .await;
    let browser = logged_in(&stage.wat, &[site]).await;
    for host in ["127.0.0.1", "localhost"] {
        browser.go(&format!("http://{host}:{}/", site.port())).await.unwrap();
        let silent = format!(
            "fetch('{act}', {{method: 'POST', mode: 'no-cors', credentials: 'include',
                 headers: {{'Content-Type': 'application/x-www-form-urlencoded'}}, body: 'verb=block&id={vm}'}})
                 .then(() => done(true), () => done(true));"
        );
        browser.script_until_done(&silent).await.unwrap();
        browser.click_on("Win").await.unwrap();
        browser.until_it_says("another site's page must not change anything here").await.unwrap();
    }
    assert_eq!(stage.db.sql("select blocked from vm_runtimes").await.as_deref(), Some("f"));
    // The same from a page of ours is done, so it was not refused for another reason.
    browser.go(&stage.address(&format!("/vm/{vm}"))).await.unwrap();
    browser.click_on("Block access").await.unwrap();
    browser.until("document.querySelector('#facts .bad')").await.unwrap();
}
