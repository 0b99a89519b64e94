//! The web tool over many VMs: pages of its list beside their queries, and changes until a browser shows them beside the
//! moment in which an event stream tells of them.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use qvd::demo::site::free_port;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    browser::Browser,
    faces::{COLUMNS, NODES, RUNNING},
    fleet::Ground,
    report::{Report, Samples},
    site::program,
    swarm::FIRST_VM,
};

const PASSWORD: &str = "secret";
/// Administrators: of everything, and of a tenant with one VM of a hundred.
const EVERYTHING: &str = "bench@*";
const TENANT: &str = "small@small";
/// Event streams that are open beside the browser.
const CLIENTS: usize = 49;
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two changes, longer than a page gathers them.
const BETWEEN: Duration = Duration::from_millis(400);

/// Pages: what they are ordered by, who asks, and for what.
const PAGES: [(&str, &str, &str); 6] = [
    ("name", EVERYTHING, "/vm?filter=state%3Drunning%2Cname%7E%251%25&order=-name"),
    ("user", EVERYTHING, "/vm?filter=state%3Drunning&order=user"),
    ("state", EVERYTHING, "/vm?filter=name%7E%251%25&order=state"),
    ("host", EVERYTHING, "/vm?filter=user%7E%251%25&order=-host"),
    ("ip_in_use", EVERYTHING, "/vm?filter=state%3Drunning&order=ip_in_use"),
    ("tenants_user", TENANT, "/vm?filter=state%3Drunning&order=user"),
];

/// A server with many VMs, and the web tool.
struct Wat {
    ground: Ground,
    process: Process,
    port: u16,
    _directory: TempDir,
}

/// It ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Wat {
    async fn start(vms: usize) -> anyhow::Result<Self> {
        let ground = Ground::open(20).await?;
        ground.peopled("faces", NODES, vms, RUNNING).await?;
        let owner = ground.client("faces").await?;
        let account = |name: &str, tenant: &str| {
            format!(
                r#"select object_create('administrator', '{{"name": "{name}", "password": "{PASSWORD}",
                    "tenant": "{tenant}", "roles": ["Root"], "block": 50}}');"#
            )
        };
        owner.batch_execute("select tenant_create('small')").await?;
        owner.batch_execute(&account("bench", "*")).await?;
        owner.batch_execute(&account("small", "small")).await?;
        // Of a tenant, and with different names.
        owner
            .batch_execute(
                "set session_replication_role = replica;
                 update users set tenant_id = (select id from tenants where name = 'small') where id % 100 = 7;
                 update vms v set name = 'desk' || v.id % 2000, tenant_id = u.tenant_id from users u where u.id = v.user_id;
                 update vm_runtimes r set tenant_id = v.tenant_id,
                     vm_address = case when r.vm_state = 'running' then v.ip end
                 from vms v where v.id = r.vm_id;
                 set session_replication_role = origin",
            )
            .await?;
        owner.batch_execute("vacuum analyze").await?;
        let directory = tempfile::tempdir()?;
        let config: PathBuf = directory.path().join("api.conf");
        let socket = ground.url("faces", "qvd_wat");
        let host = socket.split_whitespace().find_map(|part| part.strip_prefix("host=")).context("no host")?;
        std::fs::write(&config, format!("database.host = {}\ndatabase.name = faces\n", host.trim_matches('\'')))?;
        let port = free_port()?;
        let child = Command::new(program()?)
            .args(["wat", "--url", &format!("http://127.0.0.1:{port}/"), "--config"])
            .arg(config)
            .env("QVD_LOG", "error")
            .spawn()?;
        let wat = Self { ground, process: Process(child), port, _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ensure!(Instant::now() < deadline, "the web tool does not answer");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(wat)
    }

    async fn ask(&self, account: &str, path: &str) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let login = BASE64_STANDARD.encode(format!("{account}:{PASSWORD}"));
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: wat\r\nConnection: close\r\nAuthorization: Basic {login}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    }

    /// A page, its time and its size.
    async fn get(&self, account: &str, path: &str) -> anyhow::Result<(Duration, usize)> {
        let began = Instant::now();
        let mut answer = Vec::new();
        self.ask(account, path).await?.read_to_end(&mut answer).await?;
        let took = began.elapsed();
        ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        Ok((took, answer.len()))
    }

    /// Ends it, and the server.
    async fn close(self) -> anyhow::Result<()> {
        drop(self.process);
        self.ground.close().await
    }
}

/// Pages of 50 of many VMs, with filters and orders, beside the two queries of the first.
pub async fn pages(repetitions: usize, vms: usize) -> anyhow::Result<Report> {
    let wat = Wat::start(vms).await?;
    let owner = wat.ground.client("faces").await?;
    let page = owner
        .prepare(&format!(
            "select {COLUMNS} from vm_list where state = 'running' and name like '%1%' order by name desc, id limit 50"
        ))
        .await?;
    let count = owner.prepare("select count(*) from vm_list where state = 'running' and name like '%1%'").await?;
    let (mut all, mut queries, mut bytes) = (Samples::default(), Samples::default(), 0);
    let mut each: [Samples; PAGES.len()] = Default::default();
    for round in 0..repetitions + 5 {
        let began = Instant::now();
        owner.query(&count, &[]).await?;
        owner.query(&page, &[]).await?;
        let query = began.elapsed();
        if round >= 5 {
            queries.add(query);
        }
        for ((_, account, path), samples) in PAGES.iter().zip(&mut each) {
            let (took, size) = wat.get(account, path).await?;
            if round >= 5 {
                all.add(took);
                samples.add(took);
                bytes = bytes.max(size);
            }
        }
    }
    let mut report = Report { scenario: "wat", repetitions, ..Report::default() };
    report.figure("server_p50_ms", all.ms(0.5));
    report.figure("server_p99_ms", all.ms(0.99));
    report.figure("page_kib", bytes as f64 / 1024.0);
    for ((name, ..), samples) in PAGES.iter().zip(&each) {
        report.figure(format!("by_{name}_p50_ms"), samples.ms(0.5));
    }
    report.peer("bare queries", "server_p50_ms", queries.ms(0.5));
    report.peer("bare queries", "server_p99_ms", queries.ms(0.99));
    report.spread.insert("server_ms".to_owned(), all.spread());
    wat.close().await?;
    Ok(report)
}

/// From the commit of a change until a browser shows it, with event streams open besides, one of which says when it heard.
pub async fn live(repetitions: usize, vms: usize) -> anyhow::Result<Report> {
    let wat = Wat::start(vms).await?;
    let owner = wat.ground.client("faces").await?;
    // The password is checked once; afterwards it is remembered.
    wat.get(EVERYTHING, "/").await?;
    let (heard, mut hearing) = watch::channel(0.0);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let stream = wat.ask(EVERYTHING, "/live").await?;
        let heard = heard.clone();
        clients.spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if number == 0 && line.contains("\"kind\":\"vm\"") {
                    heard.send_replace(now_ms());
                }
            }
        });
    }
    let address = SocketAddr::from(([127, 0, 0, 1], wat.port));
    let browser = Browser::open(&[address]).await?;
    browser.log_in(address, EVERYTHING, PASSWORD).await?;
    browser.go(&format!("http://{address}/vm")).await?;
    browser.until("document.querySelector('#live.on') !== null").await?;
    let (mut visible, mut told) = (Samples::default(), Samples::default());
    for round in 0..=repetitions {
        let name = format!("live-{round}");
        let cell = format!("[...document.querySelectorAll('td')].some(cell => cell.textContent.trim() === '{name}')");
        let shown = browser.when(&cell).await?;
        sleep(BETWEEN).await;
        hearing.borrow_and_update();
        let committing = now_ms();
        owner.execute("update vms set name = $1::text where id = $2", &[&name, &FIRST_VM]).await?;
        let committed = now_ms();
        timeout(PATIENCE, hearing.changed()).await??;
        let heard = *hearing.borrow();
        let seen = shown.time().await?;
        ensure!(seen >= committing, "the browser's clock is another");
        if round > 0 {
            visible.add(Duration::from_secs_f64((seen - committed).max(0.0) / 1000.0));
            told.add(Duration::from_secs_f64((heard - committed).max(0.0) / 1000.0));
        }
    }
    browser.close().await?;
    let mut report = Report { scenario: "live", repetitions, ..Report::default() };
    report.figure("visible_p50_ms", visible.ms(0.5));
    report.figure("visible_p99_ms", visible.ms(0.99));
    report.peer("event stream", "visible_p50_ms", told.ms(0.5));
    report.spread.insert("visible_ms".to_owned(), visible.spread());
    drop(clients);
    wat.close().await?;
    Ok(report)
}

/// The clock that a browser on this machine has, too.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}
