//! A site with the demo's desktop image, one user and one desktop; what scenarios with real containers stand on.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::Context;
use qvd::{
    client::session::Link,
    demo::{display::Display, image},
    tunnel::{self, Counters},
};
use tokio::{net::TcpListener, process::Command, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::site::BenchSite;

/// Login, password and VM of the one user.
pub const LOGIN: &str = "bench";
pub const PASSWORD: &str = "measured";
pub const VM: &str = "bench/desktop";

/// An installation with one stopped desktop.
pub async fn open(name: &str, network: u8) -> anyhow::Result<BenchSite> {
    let mut told = String::new();
    let file = image::desktop_image(Path::new(image::CACHE), |progress| {
        let stage = progress.stage.to_string();
        if stage != told {
            eprintln!("desktop image: {stage}");
            told = stage;
        }
    })
    .await?;
    let bench = BenchSite::open(name, network, "lxc", &[]).await?;
    bench.site.add_image(&file, "desktop.tar.zst")?;
    bench
        .site
        .sql(&format!(
            "select osf_create('desktop', memory => 1024, user_storage => 100);
             select di_create('desktop', 'desktop.tar.zst'), user_create('{LOGIN}', '{PASSWORD}');
             select vm_create('{LOGIN}', 'desktop', 'desktop')"
        ))
        .await?;
    Ok(bench)
}

/// What a client says of its screen, which is as large as `Display`s here.
pub fn parameters() -> Vec<(String, String)> {
    [("qvd.client.link", "lan"), ("qvd.client.geometry", "1280x800"), ("qvd.client.fullscreen", "1")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
}

/// Lets a real nxproxy draw a session until somebody has `seen` what they wait for, then cuts the link.
pub async fn draw<T>(
    link: Link,
    display: &Display,
    seen: impl AsyncFnOnce(&Counters) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let home = tempfile::tempdir()?;
    // nxproxy knows displays, not ports: display n is port 4000 + n.
    let mut nxproxy = Command::new("nxproxy")
        .args(["-S", &format!("localhost:{}", i32::from(port) - 4000)])
        .env("DISPLAY", display.name())
        .env("HOME", home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("nxproxy cannot be run")?;
    let (inner, _) = timeout(Duration::from_secs(10), listener.accept()).await??;
    let cancel = CancellationToken::new();
    let counters = Counters::default();
    let drawing = tunnel::relay(link.conn, inner, link.leftover, &counters, &cancel);
    let drawn = async {
        let seen = seen(&counters).await;
        cancel.cancel();
        seen
    };
    let (_, seen) = timeout(Duration::from_secs(60), async { tokio::join!(drawing, drawn) }).await?;
    nxproxy.kill().await?;
    seen
}
