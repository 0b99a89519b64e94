//! Files that the web tool takes from a server of the test, which cuts off, changes its mind or leads elsewhere.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::stage::{PASSWORD, Wat, administrator, authorization};
use crate::cluster::{database::Db, patience::until};

const API: &str = "/api/v1/staging/downloads";
const PRIVATE: &str = "wat.download.private = 1\n";

/// What the server has, and how it gives it.
#[derive(Clone, Default)]
struct Site {
    content: Vec<u8>,
    etag: &'static str,
    /// Whether it gives parts.
    ranges: bool,
    /// It hangs up, or says nothing more, after so many bytes.
    cut: Option<usize>,
    stays: bool,
    /// Where it leads to.
    location: Option<String>,
}

struct Server {
    address: SocketAddr,
    site: Arc<Mutex<Site>>,
    /// The header Range of each request.
    asked: Arc<Mutex<Vec<Option<String>>>>,
}

impl Server {
    async fn start(site: Site) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, site: Arc::new(Mutex::new(site)), asked: Arc::default() };
        let (site, asked) = (server.site.clone(), server.asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let site = site.lock().unwrap().clone();
                tokio::spawn(serve(stream, site, asked.clone()));
            }
        });
        server
    }

    fn change(&self, change: impl FnOnce(&mut Site)) {
        change(&mut self.site.lock().unwrap());
    }

    fn url(&self) -> String {
        format!("http://{}/images/desk.tar?token=x", self.address)
    }

    fn asked(&self) -> Vec<Option<String>> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, site: Site, asked: Arc<Mutex<Vec<Option<String>>>>) {
    let mut stream = BufReader::new(stream);
    let (mut range, mut same) = (None, true);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        match line.trim().split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())) {
            Some((name, value)) if name == "range" => range = Some(value),
            Some((name, value)) if name == "if-range" => same = value == site.etag,
            _ if line.trim().is_empty() => break,
            _ => {}
        }
    }
    asked.lock().unwrap().push(range.clone());
    let whole = site.content.len();
    let offset = range
        .filter(|_| site.ranges && same)
        .map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap());
    let head = match &site.location {
        Some(location) => format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"),
        None if offset > 0 => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {offset}-{}/{whole}\r\nContent-Length: {}\r\nETag: {}\r\n\r\n",
            whole - 1,
            whole - offset,
            site.etag
        ),
        None => format!("HTTP/1.1 200 OK\r\nContent-Length: {whole}\r\nETag: {}\r\n\r\n", site.etag),
    };
    let end = site.cut.map_or(whole, |cut| cut.clamp(offset, whole));
    let _ = stream.write_all(head.as_bytes()).await;
    if site.location.is_none() {
        let _ = stream.write_all(&site.content[offset..end]).await;
    }
    let _ = stream.flush().await;
    if site.stays {
        std::future::pending::<()>().await;
    }
}

struct Stage {
    db: Db,
    wat: Wat,
    staging: TempDir,
}

async fn stage(more: &str) -> Stage {
    let db = Db::new().await;
    administrator(&db, "root", "*", "Root").await;
    let staging = tempfile::tempdir().unwrap();
    let wat = Wat::start_configured(&db, &["--staging", staging.path().to_str().unwrap()], more).await;
    Stage { db, wat, staging }
}

impl Stage {
    async fn begun(&self, wanted: &Value) -> String {
        let answer = self.wat.post_json("root", API, wanted).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        format!("{API}/{}", answer["id"].as_str().unwrap())
    }

    async fn only(&self) -> Value {
        let answer = self.wat.get("root", API).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str::<Vec<Value>>(&answer.body).unwrap().remove(0)
    }

    async fn is(&self, state: &str) -> Value {
        until(state, async || Some(self.only().await).filter(|only| only["state"] == state)).await.0
    }

    async fn retry(&self, url: &str) {
        let answer = self.wat.ask("POST", url, &authorization("root", PASSWORD), "").await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }

    fn read(&self) -> Option<Vec<u8>> {
        fs::read(self.staging.path().join("desk.tar")).ok()
    }
}

fn content(seed: u32) -> Vec<u8> {
    (0..1_000_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) ^ seed).to_le_bytes()).collect()
}

fn site(content: &[u8]) -> Site {
    Site { content: content.to_vec(), etag: "\"one\"", ranges: true, ..Site::default() }
}

#[tokio::test]
async fn what_was_cut_off_is_asked_for_from_there_on_and_the_log_knows() {
    let (stage, content) = (stage(PRIVATE).await, content(1));
    let server = Server::start(Site { cut: Some(1_500_000), ..site(&content) }).await;
    let url = stage.begun(&json!({ "url": server.url() })).await;
    let failed = stage.is("failed").await;
    assert!(failed["problem"].as_str().unwrap().contains("connection was lost"), "{failed}");
    assert_eq!((failed["offset"].as_u64(), stage.read()), (Some(1_500_000), None));
    server.change(|site| site.cut = None);
    stage.retry(&url).await;
    stage.is("complete").await;
    assert!(stage.read().is_some_and(|found| found == content));
    assert_eq!(server.asked(), [None, Some("bytes=1500000-".to_owned())]);
    let entries = "select action, object_name, coalesce(arguments->>'from', '') from log
        where action like 'download%' order by id";
    let told =
        until("the log is told", async || Some(stage.db.rows(entries).await).filter(|told| told.len() == 3)).await.0;
    let from = format!("http://{}/images/desk.tar", server.address);
    assert_eq!(told[0], ["download-begin", "desk.tar", &from], "without the query, which may be a secret");
    assert_eq!((&*told[1][0], &*told[2][0]), ("download-fail", "download"));
}

#[tokio::test]
async fn another_version_or_a_server_without_ranges_begins_anew() {
    for ranges in [true, false] {
        let stage = stage(PRIVATE).await;
        let server = Server::start(Site { cut: Some(1_500_000), ranges, ..site(&content(1)) }).await;
        let url = stage.begun(&json!({ "url": server.url() })).await;
        stage.is("failed").await;
        let new = [content(2), b"longer".to_vec()].concat();
        server.change(|site| (site.cut, site.etag, site.content) = (None, "\"two\"", new.clone()));
        stage.retry(&url).await;
        stage.is("complete").await;
        assert!(stage.read().is_some_and(|found| found == new));
    }
}

#[tokio::test]
async fn addresses_that_are_not_global_are_refused_and_nobody_is_asked() {
    let stage = stage("").await;
    let server = Server::start(site(b"secret")).await;
    let port = server.address.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "169.254.169.254", "10.0.0.1"] {
        let refused = stage.wat.post_json("root", API, &json!({ "url": format!("http://{host}:{port}/x.tar") })).await;
        assert!(refused.status == 422 && refused.body.contains("not a global address"), "{host}: {refused:?}");
    }
    assert!(server.asked().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn a_wrong_checksum_gives_no_file_and_other_administrators_see_nothing() {
    let stage = stage(PRIVATE).await;
    administrator(&stage.db, "second", "*", "Root").await;
    administrator(&stage.db, "reader", "*", "Operator L1").await;
    let server = Server::start(site(b"evil")).await;
    let wanted = json!({ "url": server.url(), "sha256": "0".repeat(64) });
    assert_eq!(stage.wat.post_json("reader", API, &wanted).await.status, 403);
    let url = stage.begun(&wanted).await;
    let failed = stage.is("failed").await;
    assert!(failed["problem"].as_str().unwrap().contains("its SHA-256 is"), "{failed}");
    assert_eq!((failed["offset"].as_u64(), stage.read()), (Some(0), None));
    assert_eq!(stage.wat.get("second", API).await.body, "[]");
    assert_eq!(stage.wat.ask("DELETE", &url, &authorization("second", PASSWORD), "").await.status, 404);
    assert_eq!(stage.wat.ask("DELETE", &url, &authorization("root", PASSWORD), "").await.status, 204);
    assert_eq!(fs::read_dir(stage.staging.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_web_tool_that_was_killed_goes_on_with_what_it_had() {
    let (mut stage, content) = (stage(PRIVATE).await, content(1));
    let server = Server::start(Site { cut: Some(1_500_000), stays: true, ..site(&content) }).await;
    let url = stage.begun(&json!({ "url": server.url() })).await;
    until("most of it is there", async || Some(stage.only().await).filter(|only| only["offset"] == 1_500_000)).await;
    assert_eq!(stage.only().await["state"], "running");
    // Dropping the one before is SIGKILL.
    stage.wat = Wat::start_configured(&stage.db, &["--staging", stage.staging.path().to_str().unwrap()], PRIVATE).await;
    let failed = stage.is("failed").await;
    assert_eq!(failed["problem"], "the web tool ended");
    server.change(|site| (site.cut, site.stays) = (None, false));
    stage.retry(&url).await;
    stage.is("complete").await;
    assert!(stage.read().is_some_and(|found| found == content));
    assert_eq!(server.asked()[1].as_deref(), Some("bytes=1500000-"));
}

#[tokio::test]
async fn one_that_is_given_up_leaves_nothing_and_one_that_leads_in_circles_ends() {
    let stage = stage(PRIVATE).await;
    let server = Server::start(Site { cut: Some(1_500_000), stays: true, ..site(&content(1)) }).await;
    let url = stage.begun(&json!({ "url": server.url() })).await;
    stage.is("running").await;
    assert_eq!(stage.wat.ask("DELETE", &url, &authorization("root", PASSWORD), "").await.status, 204);
    assert_eq!(fs::read_dir(stage.staging.path()).unwrap().count(), 0);
    server.change(|site| (site.stays, site.location) = (false, Some("/again".to_owned())));
    let circles = stage.wat.post_json("root", API, &json!({ "url": server.url() })).await;
    assert!(circles.status == 422 && circles.body.contains("redirected more than 5"), "{circles:?}");
    assert_eq!(server.asked().len(), 7);
}
