//! The web tool on a test's database, and somebody who asks it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use qvd::demo::site::free_port;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::cluster::{database::Db, host::QVD, patience::until};

/// Every administrator's password here.
pub const PASSWORD: &str = "a secret: ñ";

/// The web tool. It ends with this value.
pub struct Wat {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Drop for Wat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Answer {
    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .headers
            .lines()
            .find(|line| line.split_once(':').is_some_and(|(known, _)| known.eq_ignore_ascii_case(name)))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }
}

/// The statement that makes an administrator with a role; `*` is the tenant above all.
pub fn made_administrator(name: &str, tenant: &str, role: &str) -> String {
    format!(
        r#"select object_create('administrator',
            '{{"name": "{name}", "password": "{PASSWORD}", "tenant": "{tenant}", "roles": ["{role}"]}}')"#
    )
}

/// Makes an administrator.
pub async fn administrator(db: &Db, name: &str, tenant: &str, role: &str) {
    db.sql(&made_administrator(name, tenant, role)).await;
}

impl Wat {
    /// Starts it and waits until it answers.
    pub async fn start(db: &Db) -> Self {
        Self::start_with(db, &[]).await
    }

    /// The same with more arguments.
    pub async fn start_with(db: &Db, arguments: &[&str]) -> Self {
        Self::start_configured(db, arguments, "").await
    }

    /// The same with more lines in its configuration.
    pub async fn start_configured(db: &Db, arguments: &[&str], more: &str) -> Self {
        Self::configured(&db.socket(), db.name(), arguments, more).await
    }

    /// The same on a machine that trusts these certificates, in a file, and no others.
    pub async fn start_trusting(db: &Db, arguments: &[&str], more: &str, authorities: &Path) -> Self {
        let trusted = [("SSL_CERT_FILE", authorities)];
        Self::spawned(("http", tempfile::tempdir().unwrap()), &db.socket(), db.name(), arguments, more, &trusted).await
    }

    /// The same with a certificate, which is in the file that is told, for 127.0.0.1.
    pub async fn secured(db: &Db) -> (Self, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let more = format!("path.api.ssl.cert = {}\npath.api.ssl.key = {}\n", certificate.display(), key.display());
        (Self::spawned(("https", directory), &db.socket(), db.name(), &[], &more, &[]).await, certificate)
    }

    /// The same on the database of that name behind a socket in this directory.
    pub async fn on(socket: &str, database: &str, arguments: &[&str]) -> Self {
        Self::configured(socket, database, arguments, "").await
    }

    /// The same with more arguments, and lines in its configuration.
    pub async fn configured(socket: &str, database: &str, arguments: &[&str], more: &str) -> Self {
        Self::spawned(("http", tempfile::tempdir().unwrap()), socket, database, arguments, more, &[]).await
    }

    async fn spawned(
        (scheme, directory): (&str, TempDir),
        socket: &str,
        database: &str,
        arguments: &[&str],
        more: &str,
        environment: &[(&str, &Path)],
    ) -> Self {
        let config = directory.path().join("api.conf");
        let text = format!("database.host = {socket}\ndatabase.name = {database}\n{more}");
        fs::write(&config, text).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let child = Command::new(QVD)
            .args(["wat", "--url", &format!("{scheme}://{address}/"), "--config"])
            .arg(&config)
            .args(arguments)
            .env("QVD_LIFELINE", "stdin")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stderr(fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let wat = Self { child, address, _directory: directory };
        until("the web tool answers", async || TcpStream::connect(address).await.ok()).await;
        wat
    }

    /// Ends it without a word.
    pub fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A page, as this administrator.
    pub async fn get(&self, who: &str, path: &str) -> Answer {
        self.ask("GET", path, &authorization(who, PASSWORD), "").await
    }

    /// Sends a form.
    pub async fn post(&self, who: &str, path: &str, form: &[(&str, &str)]) -> Answer {
        let form = serde_urlencoded::to_string(form).unwrap();
        self.ask("POST", path, &authorization(who, PASSWORD), &form).await
    }

    /// One request with these headers, each with its line end.
    pub async fn ask(&self, method: &str, path: &str, headers: &str, form: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(self.request(method, path, headers, form).as_bytes()).await.unwrap();
        read(stream).await
    }

    /// What a program asks: with a body of JSON, or none, and further headers.
    pub async fn api(&self, who: &str, method: &str, path: &str, headers: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}{headers}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            authorization(who, PASSWORD),
            body.len()
        );
        // Who is refused may be hung up on.
        let _ = stream.write_all(request.as_bytes()).await;
        read(stream).await
    }

    /// Says that a piece of an upload has a length and sends this much of it. `None`: it was not all, and the connection was cut.
    pub async fn bring(&self, headers: &str, path: &str, offset: usize, length: usize, sent: &[u8]) -> Option<Answer> {
        let headers = format!("{headers}Content-Length: {length}\r\n");
        let mut stream = self.piece(&headers, path, offset).await;
        // Who is refused may be hung up on.
        let _ = stream.write_all(sent).await;
        if sent.len() < length {
            stream.flush().await.unwrap();
            return None;
        }
        Some(read(stream).await)
    }

    /// Sends so much of a piece, and stays.
    pub async fn hold(&self, headers: &str, path: &str, length: usize, sent: &[u8]) -> TcpStream {
        let mut stream = self.piece(&format!("{headers}Content-Length: {length}\r\n"), path, 0).await;
        stream.write_all(sent).await.unwrap();
        stream
    }

    /// Brings a piece of a length that is not said before.
    pub async fn bring_chunked(&self, headers: &str, path: &str, offset: usize, chunks: &[&[u8]]) -> Answer {
        let headers = format!("{headers}Transfer-Encoding: chunked\r\n");
        let mut stream = self.piece(&headers, path, offset).await;
        for chunk in chunks.iter().chain([&&b""[..]]) {
            let _ = stream.write_all(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()).await;
        }
        read(stream).await
    }

    /// Sends JSON.
    pub async fn post_json(&self, who: &str, path: &str, body: &serde_json::Value) -> Answer {
        let (body, headers) = (body.to_string(), authorization(who, PASSWORD));
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        read(stream).await
    }

    async fn piece(&self, headers: &str, path: &str, offset: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\
             Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    fn request(&self, method: &str, path: &str, headers: &str, form: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            self.address,
            form.len()
        )
    }

    /// Asks for an answer that is read by the caller, as slowly as he likes.
    pub async fn begin(&self, who: &str, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = self.request("GET", path, &authorization(who, PASSWORD), "");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// The most memory that it had so far, in bytes.
    pub fn most_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// The changes that an open page is told.
    pub async fn live(&self, who: &str) -> Changes {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = self.request("GET", "/live", &authorization(who, PASSWORD), "");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut changes = Changes { lines: BufReader::new(stream) };
        changes.next("data: live").await;
        changes
    }
}

async fn read(mut stream: TcpStream) -> Answer {
    let mut text = Vec::new();
    // One that was hung up on has its answer all the same.
    let ended = stream.read_to_end(&mut text).await;
    let text = String::from_utf8(text).unwrap();
    let (headers, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?} {ended:?}"));
    let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

pub fn authorization(who: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("{who}:{password}")))
}

/// Lines of an event stream.
pub struct Changes {
    lines: BufReader<TcpStream>,
}

impl Changes {
    /// Reads on until this line comes; the lines before it.
    pub async fn next(&mut self, wanted: &str) -> Vec<String> {
        let mut before = Vec::new();
        let read = async {
            loop {
                let mut line = String::new();
                assert_ne!(self.lines.read_line(&mut line).await.unwrap(), 0, "the stream ended: {before:?}");
                if line.trim() == wanted {
                    return;
                }
                before.push(line.trim().to_owned());
            }
        };
        tokio::time::timeout(crate::cluster::patience::PATIENCE, read).await.unwrap_or_else(|_| panic!("no {wanted}"));
        before
    }
}
