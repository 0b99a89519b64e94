//! Command line and web tool over many VMs, each beside the bare SQL that does the same: lists of the command line beside
//! `psql`, pages beside their queries, a start that is waited for beside the start itself.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use qvd::demo::site::free_port;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command as Background,
};

use crate::{
    fleet::Ground,
    report::{Report, Samples},
    site::{BenchSite, program},
};

const NODES: usize = 20;
/// Of every hundred VMs so many run.
const RUNNING: usize = 60;
const COLUMNS: &str = r#"id, name, blocked, "user", host, di, ip, ip_in_use, di_in_use, state, user_state"#;
const PASSWORD: &str = "secret";

/// The list of all VMs on the command line, beside `psql`.
pub async fn cli(repetitions: usize, vms: usize) -> anyhow::Result<Report> {
    let ground = Ground::open(20).await?;
    ground.peopled("faces", NODES, vms, RUNNING).await?;
    let url = ground.url("faces", "qvd_admin");
    let copy = format!("\\copy (select {COLUMNS} from vm_list) to stdout csv");
    let mut qvd = Command::new(program()?);
    qvd.args(["admin", "vm", "list", "--database", &url]);
    let mut csv = Command::new(program()?);
    csv.args(["admin", "vm", "list", "--csv", "--database", &url]);
    let mut psql = Command::new("psql");
    psql.args(["-X", "-d", &url, "-c", &copy]);
    let (mut ours, mut as_csv, mut peer) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..=repetitions {
        for (command, samples) in [(&mut qvd, &mut ours), (&mut csv, &mut as_csv), (&mut psql, &mut peer)] {
            let began = Instant::now();
            let status = command.stdout(Stdio::null()).status()?;
            ensure!(status.success(), "{command:?} fails");
            if round > 0 {
                samples.add(began.elapsed());
            }
        }
    }
    let mut report = Report { scenario: "cli", repetitions, ..Report::default() };
    report.figure("list_p50_ms", ours.ms(0.5));
    report.figure("csv_p50_ms", as_csv.ms(0.5));
    report.figure("ratio", ours.us(0.5) / peer.us(0.5));
    report.figure("ratio_csv", as_csv.us(0.5) / peer.us(0.5));
    report.peer("psql", "list_p50_ms", peer.ms(0.5));
    report.spread.insert("list_ms".to_owned(), ours.spread());
    ground.close().await?;
    Ok(report)
}

/// The web tool as a process. It ends with this value.
struct Wat {
    child: Child,
    port: u16,
}

impl Drop for Wat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Wat {
    async fn start(config: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let child = Command::new(program()?)
            .args(["wat", "--url", &format!("http://127.0.0.1:{port}/"), "--config"])
            .arg(config)
            .env("QVD_LOG", "error")
            .spawn()?;
        let wat = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ensure!(Instant::now() < deadline, "the web tool does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(wat)
    }

    /// A page, its time and its size.
    async fn get(&self, path: &str) -> anyhow::Result<(Duration, usize)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let login = BASE64_STANDARD.encode(format!("bench:{PASSWORD}"));
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: wat\r\nConnection: close\r\nAuthorization: Basic {login}\r\n\r\n");
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let took = began.elapsed();
        ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        Ok((took, answer.len()))
    }
}

/// A page of 50 of many VMs, with a filter and an order, beside its two queries.
pub async fn wat(repetitions: usize, vms: usize) -> anyhow::Result<Report> {
    let ground = Ground::open(20).await?;
    ground.peopled("faces", NODES, vms, RUNNING).await?;
    let owner = ground.client("faces").await?;
    owner
        .batch_execute(&format!(
            r#"select object_create('administrator',
                 '{{"name": "bench", "password": "{PASSWORD}", "tenant": "*", "roles": ["Root"], "block": 50}}')"#
        ))
        .await?;
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("api.conf");
    let socket = ground.url("faces", "qvd_wat");
    let host = socket.split_whitespace().find_map(|part| part.strip_prefix("host=")).context("no host")?;
    std::fs::write(&config, format!("database.host = {}\ndatabase.name = faces\n", host.trim_matches('\'')))?;
    let wat = Wat::start(&config).await?;
    let page = owner
        .prepare(&format!(
            "select {COLUMNS} from vm_list where state = 'running' and name like '%1%' order by name desc, id limit 50"
        ))
        .await?;
    let count = owner.prepare("select count(*) from vm_list where state = 'running' and name like '%1%'").await?;
    let path = "/vm?filter=state%3Drunning%2Cname%7E%251%25&order=-name";
    let (mut pages, mut queries, mut bytes) = (Samples::default(), Samples::default(), 0);
    for round in 0..repetitions + 5 {
        let began = Instant::now();
        owner.query(&count, &[]).await?;
        owner.query(&page, &[]).await?;
        let query = began.elapsed();
        let (took, size) = wat.get(path).await?;
        if round >= 5 {
            queries.add(query);
            pages.add(took);
            bytes = size;
        }
    }
    let mut report = Report { scenario: "wat", repetitions, ..Report::default() };
    report.figure("server_p50_ms", pages.ms(0.5));
    report.figure("server_p99_ms", pages.ms(0.99));
    report.figure("page_kib", bytes as f64 / 1024.0);
    report.peer("bare queries", "server_p50_ms", queries.ms(0.5));
    report.peer("bare queries", "server_p99_ms", queries.ms(0.99));
    report.spread.insert("server_ms".to_owned(), pages.spread());
    drop(wat);
    ground.close().await?;
    Ok(report)
}

/// A start that the command line waits for, beside the time until the VM runs that is started by SQL.
pub async fn wait(repetitions: usize) -> anyhow::Result<Report> {
    let bench = BenchSite::open("bwa", 9, "nothing", &[]).await?;
    bench.site.start_node().await?;
    bench.site.wait_node().await?;
    bench
        .site
        .sql("select osf_create('o'), user_create('u'); select di_create('o', 'x.tar'), vm_create('u', 'v', 'o')")
        .await?;
    let url = bench.site.connection_string("qvd_admin");
    let (mut ours, mut bare) = (Samples::default(), Samples::default());
    for round in 0..=repetitions {
        let began = Instant::now();
        bench.site.sql("select vm_start('u/v')").await?;
        bench.site.wait_vm("u/v", "running").await?;
        let started = began.elapsed();
        stop(&bench).await?;
        let began = Instant::now();
        let status = Background::new(program()?)
            .args(["admin", "vm", "start", "v", "--wait", "--database", &url])
            .stdout(Stdio::null())
            .status()
            .await?;
        let waited = began.elapsed();
        ensure!(status.success(), "the VM does not start");
        stop(&bench).await?;
        if round > 0 {
            bare.add(started);
            ours.add(waited);
        }
    }
    let mut report = Report { scenario: "wait", repetitions, ..Report::default() };
    report.figure("wait_p50_ms", ours.ms(0.5));
    report.figure("over_start_p50_ms", ours.ms(0.5) - bare.ms(0.5));
    report.peer("start by SQL", "wait_p50_ms", bare.ms(0.5));
    report.spread.insert("wait_ms".to_owned(), ours.spread());
    bench.close().await?;
    Ok(report)
}

async fn stop(bench: &BenchSite) -> anyhow::Result<()> {
    bench.site.sql("select vm_stop('u/v')").await?;
    Ok(bench.site.wait_vm("u/v", "stopped").await?)
}
