//! A Chromium without a screen, driven by chromedriver (WebDriver, W3C).

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use qvd::demo::site::free_port;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    task::JoinHandle,
    time::{Instant, sleep},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The browser with one window. It ends with this value.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

/// A condition that the page waits for.
pub struct Shown(JoinHandle<anyhow::Result<Value>>);

impl Browser {
    /// Starts it.
    pub async fn open() -> anyhow::Result<Self> {
        let (port, profile) = (free_port()?, tempfile::tempdir()?);
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("chromedriver cannot be started; install chromium-driver")?;
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ensure!(Instant::now() < deadline, "chromedriver does not answer");
            sleep(Duration::from_millis(20)).await;
        }
        let options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000",
            format!("--user-data-dir={}", profile.path().display()),
        ]});
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "timeouts": {"script": PATIENCE.as_millis() as u64},
        }}});
        let made = call(port, "POST", "/session", &wanted).await?;
        let session = made["sessionId"].as_str().context("chromedriver names no session")?.to_owned();
        Ok(Self { driver, port, session, _profile: profile })
    }

    /// Goes to an address and waits until its page has come.
    pub async fn go(&self, address: &str) -> anyhow::Result<()> {
        call(self.port, "POST", &self.path("/url"), &json!({ "url": address })).await?;
        Ok(())
    }

    /// Waits until a condition in JavaScript is true.
    pub async fn until(&self, condition: &str) -> anyhow::Result<()> {
        self.when(condition).await?.time().await?;
        Ok(())
    }

    /// Lets the page wait for a condition in JavaScript: looked at in each frame that it paints.
    pub async fn when(&self, condition: &str) -> anyhow::Result<Shown> {
        let script = format!(
            "const done = arguments[0];
             const look = () => ({condition}) ? done(Date.now()) : requestAnimationFrame(look);
             look();"
        );
        let (port, path) = (self.port, self.path("/execute/async"));
        let body = json!({ "script": script, "args": [] });
        Ok(Shown(tokio::spawn(async move { call(port, "POST", &path, &body).await })))
    }

    /// Ends it.
    pub async fn close(mut self) -> anyhow::Result<()> {
        call(self.port, "DELETE", &self.path(""), &Value::Null).await?;
        self.driver.kill().await?;
        Ok(())
    }

    fn path(&self, command: &str) -> String {
        format!("/session/{}{command}", self.session)
    }
}

impl Shown {
    /// When it became true, in milliseconds since 1970.
    pub async fn time(self) -> anyhow::Result<f64> {
        self.0.await??.as_f64().context("the page says no time")
    }
}

async fn call(port: u16, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, said) = answer.split_once("\r\n\r\n").context("chromedriver ends without an answer")?;
    let said: Value = serde_json::from_str(said)?;
    ensure!(said["value"]["error"].is_null(), "{path}: {}", said["value"]["message"]);
    Ok(said["value"].clone())
}
