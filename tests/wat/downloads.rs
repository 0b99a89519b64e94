//! Files that the web tool takes from a server of the test, which cuts off, changes its mind or leads elsewhere.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

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
        Self::speaking(site, None).await
    }

    /// One that speaks TLS with a certificate of this authority.
    async fn encrypted(site: Site, authority: &Authority) -> Self {
        Self::speaking(site, Some(authority.acceptor())).await
    }

    async fn speaking(site: Site, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, site: Arc::new(Mutex::new(site)), asked: Arc::default() };
        let (site, asked) = (server.site.clone(), server.asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let site = site.lock().unwrap().clone();
                let (tls, asked) = (tls.clone(), asked.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else { return serve(stream, site, asked).await };
                    // Who does not trust it hangs up.
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, site, asked).await;
                    }
                });
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

/// Who says whose certificates are good.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key.into()).unwrap()).into()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, site: Site, asked: Arc<Mutex<Vec<Option<String>>>>) {
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
async fn nobody_tries_again_before_the_log_knows_why_it_failed() {
    let (stage, content) = (stage(PRIVATE).await, content(1));
    let holder = stage.db.session("postgres").await;
    holder
        .sql(
            "create function held() returns trigger language plpgsql as $$ begin
                 perform pg_advisory_xact_lock(7);
                 return new;
             end $$;
             create trigger held before insert on log for each row when (new.action = 'download-fail')
                 execute function held();
             select pg_advisory_lock(7)",
        )
        .await;
    let server = Server::start(Site { cut: Some(1_500_000), ..site(&content) }).await;
    let url = stage.begun(&json!({ "url": server.url() })).await;
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                 and database = (select oid from pg_database where datname = current_database())";
    stage.db.wait_for(waits, "1").await;
    assert_eq!(stage.only().await["state"], "running");
    let early = stage.wat.ask("POST", &url, &authorization("root", PASSWORD), "").await;
    assert_eq!(early.status, 423, "{early:?}");
    holder.sql("select pg_advisory_unlock(7)").await;
    stage.is("failed").await;
    server.change(|site| site.cut = None);
    stage.retry(&url).await;
    stage.is("complete").await;
    assert!(stage.read().is_some_and(|found| found == content));
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
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0.0.0.0",
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "10.0.0.1",
    ] {
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

#[tokio::test]
async fn the_page_begins_shows_and_gives_up_downloads_and_says_why_it_does_not() {
    let stage = stage(PRIVATE).await;
    let content = content(1);
    let server = Server::start(Site { cut: Some(1_000_000), stays: true, ..site(&content) }).await;
    let wrong = [("url", "ftp://a/b"), ("name", "x.tar"), ("sha256", "")];
    let refused = stage.wat.post("root", "/staging/downloads", &wrong).await;
    assert!(refused.status == 422 && refused.body.contains("not an http or https address"), "{refused:?}");
    assert!(refused.body.contains(r#"value="ftp://a/b""#) && refused.body.contains(r#"value="x.tar""#), "{refused:?}");
    let begun = stage.wat.post("root", "/staging/downloads", &[("url", &server.url()), ("name", "")]).await;
    assert_eq!((begun.status, begun.header("Location")), (303, Some("/staging")), "{begun:?}");
    let part = async || stage.wat.get("root", "/staging/downloads").await.body;
    let quarter = async || Some(part().await).filter(|part| part.contains(r#"value="25""#));
    let shown = until("a quarter is there", quarter).await.0;
    assert!(shown.contains("desk.tar") && shown.contains("976.6 KiB / 3.8 MiB"), "{shown}");
    assert!(shown.contains(r#"hx-trigger="every 1s""#), "it goes on: {shown}");
    assert!(!shown.contains("token=x"), "what is behind the question mark may be a secret: {shown}");
    assert!(stage.wat.get("root", "/staging").await.body.contains(r#"value="25""#), "the page has the same part");
    let id = stage.only().await["id"].as_str().unwrap().to_owned();
    administrator(&stage.db, "ann", "*", "Root").await;
    let stranger = stage.wat.post("ann", "/staging/downloads", &[("give_up", &id)]).await;
    assert_eq!(stranger.status, 404, "it is nobody else's: {stranger:?}");
    let given_up = stage.wat.post("root", "/staging/downloads", &[("give_up", &id)]).await;
    assert_eq!(given_up.status, 303, "{given_up:?}");
    assert_eq!(fs::read_dir(stage.staging.path()).unwrap().count(), 0);
    // One that failed says why and is tried again.
    server.change(|site| site.stays = false);
    stage.wat.post("root", "/staging/downloads", &[("url", &server.url())]).await;
    let failed = async || Some(part().await).filter(|part| part.contains("the connection was lost"));
    let failed = until("it failed", failed).await.0;
    assert!(!failed.contains("every 1s"), "nothing moves: {failed}");
    let id = stage.only().await["id"].as_str().unwrap().to_owned();
    server.change(|site| site.cut = None);
    assert_eq!(stage.wat.post("root", "/staging/downloads", &[("again", &id)]).await.status, 303);
    stage.is("complete").await;
    assert!(stage.read().is_some_and(|found| found == content));
    administrator(&stage.db, "reader", "*", "Operator L1").await;
    let reader = stage.wat.post("reader", "/staging/downloads", &[("url", &server.url())]).await;
    assert!(reader.status == 403 || reader.status == 404, "{reader:?}");
}

#[tokio::test]
async fn no_more_run_than_may_and_one_that_is_given_up_makes_room_at_once() {
    let stage = stage(&format!("{PRIVATE}wat.download.limit = 1\n")).await;
    let server = Server::start(Site { cut: Some(1_000), stays: true, ..site(&content(1)) }).await;
    let url = stage.begun(&json!({ "url": server.url() })).await;
    stage.is("running").await;
    let second = json!({ "url": server.url(), "name": "second.tar" });
    let refused = stage.wat.post_json("root", API, &second).await;
    assert!(refused.status == 429 && refused.body.contains("as many downloads run as may, 1"), "{refused:?}");
    let page = stage.wat.post("root", "/staging/downloads", &[("url", &server.url()), ("name", "second.tar")]).await;
    assert!(page.status == 429 && page.body.contains("as many downloads run as may, 1"), "{page:?}");
    assert_eq!(server.asked().len(), 1, "nobody was asked");
    // Its server says nothing, and would not for half a minute.
    assert_eq!(stage.wat.ask("DELETE", &url, &authorization("root", PASSWORD), "").await.status, 204);
    let began = std::time::Instant::now();
    let place = async || Some(stage.wat.post_json("root", API, &second).await).filter(|answer| answer.status == 202);
    until("there is room", place).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn https_is_believed_from_authorities_that_the_machine_trusts_and_never_left_for_http() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (trusted, strange) = (Authority::new("ours"), Authority::new("another"));
    let db = Db::new().await;
    administrator(&db, "root", "*", "Root").await;
    let staging = tempfile::tempdir().unwrap();
    let authorities = staging.path().join("authorities.pem");
    fs::write(&authorities, trusted.0.pem()).unwrap();
    let arguments = ["--staging", staging.path().to_str().unwrap()];
    let wat = Wat::start_trusting(&db, &arguments, PRIVATE, &authorities).await;
    let stage = Stage { db, wat, staging };
    let content = content(3);
    let target = Server::encrypted(site(&content), &trusted).await;
    let plain = Server::start(site(b"not this")).await;
    let at =
        |scheme: &str, server: &Server, path: &str| format!("{scheme}://localhost:{}/{path}", server.address.port());
    let asks =
        async |url: String, name: &str| stage.wat.post_json("root", API, &json!({ "url": url, "name": name })).await;
    // To itself, to another by http and from there back to https.
    let first = Server::start(site(b"")).await;
    let middle = Server::encrypted(site(b""), &trusted).await;
    first.change(|site| site.location = Some(at("https", &middle, "on")));
    middle.change(|site| site.location = Some(at("https", &target, "desk.tar")));
    let answer = asks(at("http", &first, "begin"), "desk.tar").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    stage.is("complete").await;
    assert!(stage.read().is_some_and(|found| found == content));
    assert_eq!((first.asked().len(), middle.asked().len(), target.asked().len()), (1, 1, 1));
    middle.change(|site| site.location = Some(at("http", &plain, "desk.tar")));
    let down = asks(at("https", &middle, "begin"), "down.tar").await;
    assert!(down.status == 422 && down.body.contains("redirected from https to http"), "{down:?}");
    assert!(plain.asked().is_empty());
    let unknown = Server::encrypted(site(b"not this"), &strange).await;
    let refused = asks(at("https", &unknown, "x"), "unknown.tar").await;
    assert!(refused.status == 422 && refused.body.contains("UnknownIssuer"), "{refused:?}");
    let another = asks(format!("https://127.0.0.2:{}/x", target.address.port()), "name.tar").await;
    assert_eq!(another.status, 422, "{another:?}");
    assert!(unknown.asked().is_empty(), "nothing is said to who is not trusted");
}
