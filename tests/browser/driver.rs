//! A real Chromium without a screen, driven by chromedriver (WebDriver, W3C). It lives with its driver in network and
//! process namespaces of its own: a browser gives up what it loads whenever an interface appears, and tests make many. What
//! it may reach outside is named, and has the same address inside. Everything ends with the value, or with this process.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpStream, UnixListener, UnixStream},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// How long a page, or the browser, may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(20);

/// What runs in the namespaces, as their first process, whose end is the end of all others. It ends with its input.
/// `$0` is a directory, the arguments are ports that lead outside.
const INSIDE: &str = r#"
    ip link set lo up
    for port in "$@"; do
        socat "TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr" "UNIX-CONNECT:$0/$port" &
    done
    socat "UNIX-LISTEN:$0/driver,fork" TCP:127.0.0.1:9515 &
    chromedriver --port=9515 >"$0/log" 2>&1 &
    exec cat
"#;

/// How WebDriver writes a key that is no letter.
pub mod keys {
    #![allow(dead_code, reason = "not everybody who drives a browser presses all of them")]

    pub const TAB: &str = "\u{E004}";
    pub const ENTER: &str = "\u{E007}";
    pub const ESCAPE: &str = "\u{E00C}";
    pub const SPACE: &str = " ";
}

/// The browser with one window.
pub struct Browser {
    inside: Child,
    socket: PathBuf,
    session: String,
    doors: Vec<JoinHandle<()>>,
    /// Sockets and the browser's profile. Emptied after the last process has ended.
    _directory: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.inside.stdin.take());
        let _ = self.inside.wait();
        self.doors.iter().for_each(JoinHandle::abort);
    }
}

/// A condition that the page waits for.
pub struct Shown(JoinHandle<anyhow::Result<Value>>);

impl Shown {
    /// When it became true, in milliseconds since 1970.
    #[allow(dead_code, reason = "for benchmarks")]
    pub async fn time(self) -> anyhow::Result<f64> {
        self.0.await??.as_f64().context("the page says no time")
    }
}

#[allow(dead_code, reason = "tests and benchmarks each use a part of it")]
impl Browser {
    /// Starts it. It reaches these addresses and no others.
    pub async fn open(reached: &[SocketAddr]) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("qvd-browser-").tempdir()?;
        let doors = reached.iter().map(|address| door(directory.path(), *address)).collect::<anyhow::Result<_>>()?;
        let inside = Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", INSIDE])
            .arg(directory.path())
            .args(reached.iter().map(|address| address.port().to_string()))
            .env("HOME", directory.path())
            .env("TMPDIR", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("unshare cannot be started")?;
        let socket = directory.path().join("driver");
        let mut browser = Self { inside, socket, session: String::new(), doors, _directory: directory };
        browser.session = browser.begin().await.with_context(|| browser.complaint())?;
        Ok(browser)
    }

    async fn begin(&self) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while call(&self.socket, "GET", "/status", &Value::Null).await.is_err() {
            ensure!(Instant::now() < deadline, "chromedriver does not answer; is chromium-driver installed?");
            sleep(LOOK).await;
        }
        let profile = self.socket.with_file_name("profile");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--no-first-run",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // What is clicked stands still.
            "--force-prefers-reduced-motion",
            "--window-size=1280,800",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
            "timeouts": {"script": PATIENCE.as_millis() as u64},
        }}});
        let made = call(&self.socket, "POST", "/session", &wanted).await?;
        let session = made["sessionId"].as_str().context("chromedriver names no session")?.to_owned();
        Ok(session)
    }

    /// What the driver said last.
    fn complaint(&self) -> String {
        let log = fs::read_to_string(self.socket.with_file_name("log")).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(5).collect();
        format!("the browser cannot be started; chromedriver said: {last:?}")
    }

    async fn call(&self, method: &str, command: &str, body: &Value) -> anyhow::Result<Value> {
        call(&self.socket, method, &format!("/session/{}{command}", self.session), body).await
    }

    async fn post(&self, command: &str, body: Value) -> anyhow::Result<Value> {
        self.call("POST", command, &body).await
    }

    /// A command of Chromium's own protocol.
    async fn chromium(&self, command: &str, parameters: Value) -> anyhow::Result<Value> {
        self.post("/goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// Goes to an address and waits until its page has come.
    pub async fn go(&self, address: &str) -> anyhow::Result<()> {
        self.post("/url", json!({ "url": address })).await.with_context(|| address.to_owned())?;
        Ok(())
    }

    /// Goes where a name and a password are asked for, and remembers them for what comes after.
    pub async fn log_in(&self, site: SocketAddr, name: &str, password: &str) -> anyhow::Result<()> {
        let login = format!("{}:{}", percent_encoded(name), percent_encoded(password));
        self.go(&format!("http://{login}@{site}/")).await?;
        // A page whose own address has a password may not fetch what is relative to it.
        self.go(&format!("http://{site}/")).await
    }

    /// The address of the page.
    pub async fn address(&self) -> anyhow::Result<String> {
        text(&self.call("GET", "/url", &Value::Null).await?)
    }

    pub async fn title(&self) -> anyhow::Result<String> {
        text(&self.call("GET", "/title", &Value::Null).await?)
    }

    /// What the user sees of the page, as text.
    pub async fn text(&self) -> anyhow::Result<String> {
        text(&self.script("return document.body.innerText").await?)
    }

    /// Runs JavaScript in the page; what it returns.
    pub async fn script(&self, script: &str) -> anyhow::Result<Value> {
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// Runs JavaScript that says later, to the function `done`, what came out.
    pub async fn script_until_done(&self, script: &str) -> anyhow::Result<Value> {
        let script = format!("const done = arguments[0]; {script}");
        self.post("/execute/async", json!({"script": script, "args": []})).await
    }

    /// Waits until a condition in JavaScript is true, on whatever page is there by then.
    pub async fn until(&self, condition: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // While a page goes nothing can be asked of it.
            if let Ok(Value::Bool(true)) = self.script(&format!("return Boolean({condition})")).await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("never: {condition}; on {}: {}", self.address().await?, self.text().await?);
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until the page, or the next one, shows this text.
    pub async fn until_it_says(&self, words: &str) -> anyhow::Result<()> {
        self.until(&format!("document.body.innerText.includes({})", json!(words))).await
    }

    /// Lets the page wait for a condition in JavaScript: looked at in each frame that it paints.
    pub async fn when(&self, condition: &str) -> anyhow::Result<Shown> {
        let script = format!(
            "const done = arguments[0];
             const look = () => ({condition}) ? done(Date.now()) : requestAnimationFrame(look);
             look();"
        );
        let (socket, path) = (self.socket.clone(), format!("/session/{}/execute/async", self.session));
        let body = json!({ "script": script, "args": [] });
        Ok(Shown(tokio::spawn(async move { call(&socket, "POST", &path, &body).await })))
    }

    async fn find(&self, using: &str, what: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.post("/element", json!({"using": using, "value": what})).await {
                Ok(found) => {
                    let (_, id) = found.as_object().and_then(|found| found.iter().next()).context("no element")?;
                    return text(id);
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("on {}: {}", self.address().await?, self.text().await?)));
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    async fn click_found(&self, using: &str, what: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let element = self.find(using, what).await?;
            match self.post(&format!("/element/{element}/click"), json!({})).await {
                Ok(_) => return Ok(()),
                // It was replaced by a newer one meanwhile.
                Err(error) if error.to_string().contains("stale element") && Instant::now() < deadline => {}
                Err(error) => return Err(error.context(format!("clicking {what}"))),
            }
        }
    }

    /// Clicks what a CSS selector finds, with the mouse.
    pub async fn click(&self, selector: &str) -> anyhow::Result<()> {
        self.click_found("css selector", selector).await
    }

    /// Clicks the link, button or the like with these words.
    pub async fn click_on(&self, words: &str) -> anyhow::Result<()> {
        let says = format!("[normalize-space()='{words}']");
        self.click_found("xpath", &format!("//button{says} | //a{says} | //summary{says} | //label{says}")).await
    }

    /// Types into a field in place of what is in it.
    pub async fn fill(&self, selector: &str, typed: &str) -> anyhow::Result<()> {
        let element = self.find("css selector", selector).await?;
        self.post(&format!("/element/{element}/clear"), json!({})).await?;
        self.post(&format!("/element/{element}/value"), json!({ "text": typed })).await?;
        Ok(())
    }

    /// Chooses what a list of choices calls so.
    pub async fn choose(&self, selector: &str, title: &str) -> anyhow::Result<()> {
        let element = self.find("css selector", selector).await?;
        self.post(&format!("/element/{element}/value"), json!({ "text": title })).await?;
        Ok(())
    }

    /// Presses keys one after another, wherever the focus is.
    pub async fn press(&self, keys: &str) -> anyhow::Result<()> {
        // Before that a page takes no keys.
        self.until("performance.getEntriesByType('paint').length").await?;
        let strokes = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
        });
        let strokes: Vec<_> = strokes.collect();
        self.post("/actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})).await?;
        Ok(())
    }

    /// Answers the question that the page asks; what it asked.
    pub async fn answer(&self, yes: bool) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let asked = loop {
            match self.call("GET", "/alert/text", &Value::Null).await {
                Ok(asked) => break text(&asked)?,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(LOOK).await,
            }
        };
        self.post(if yes { "/alert/accept" } else { "/alert/dismiss" }, json!({})).await?;
        Ok(asked)
    }

    /// What the browser complained about since it was asked last.
    pub async fn complaints(&self) -> anyhow::Result<Vec<String>> {
        let entries = self.post("/se/log", json!({"type": "browser"})).await?;
        let entries = entries.as_array().context("no log")?;
        let bad = entries.iter().filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")));
        bad.map(|entry| text(&entry["message"])).collect()
    }

    /// Shows pages as to somebody who likes them dark, or light.
    pub async fn dark(&self, dark: bool) -> anyhow::Result<()> {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.chromium("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// Asks for pages in a language.
    pub async fn language(&self, language: &str) -> anyhow::Result<()> {
        self.chromium("Network.enable", json!({})).await?;
        let headers = json!({"headers": {"Accept-Language": language}});
        self.chromium("Network.setExtraHTTPHeaders", headers).await.map(drop)
    }

    /// Loads nothing from addresses like these.
    pub async fn block(&self, addresses: &[&str]) -> anyhow::Result<()> {
        self.chromium("Network.enable", json!({})).await?;
        self.chromium("Network.setBlockedURLs", json!({ "urls": addresses })).await.map(drop)
    }

    /// Makes it a phone of this size, or what it was.
    pub async fn phone(&self, size: Option<(u32, u32)>) -> anyhow::Result<()> {
        match size {
            None => self.chromium("Emulation.clearDeviceMetricsOverride", json!({})).await.map(drop),
            Some((width, height)) => {
                let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": true});
                self.chromium("Emulation.setDeviceMetricsOverride", metrics).await.map(drop)
            }
        }
    }

    /// A picture of the page, also of what is below the window's edge, as PNG.
    pub async fn picture(&self) -> anyhow::Result<Vec<u8>> {
        let taken = self.chromium("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await?;
        Ok(BASE64_STANDARD.decode(text(&taken["data"])?)?)
    }

    /// Ends it in good order.
    pub async fn close(self) -> anyhow::Result<()> {
        self.call("DELETE", "", &Value::Null).await.map(drop)
    }
}

/// Leads from a socket in the directory, which the namespaces share with us, to an address outside.
fn door(directory: &Path, outside: SocketAddr) -> anyhow::Result<JoinHandle<()>> {
    let door = UnixListener::bind(directory.join(outside.port().to_string()))?;
    Ok(tokio::spawn(async move {
        while let Ok((mut inside, _)) = door.accept().await {
            tokio::spawn(async move {
                if let Ok(mut outside) = TcpStream::connect(outside).await {
                    // Whoever ends it first.
                    let _ = copy_bidirectional(&mut inside, &mut outside).await;
                }
            });
        }
    }))
}

async fn call(socket: &Path, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let said = timeout(2 * PATIENCE, ask(socket, method, path, body));
    let said = said.await.with_context(|| format!("{path}: chromedriver says nothing"))??;
    let (error, message) = (&said["value"]["error"], said["value"]["message"].as_str().unwrap_or_default());
    ensure!(error.is_null(), "{path}: {error}: {}", message.lines().next().unwrap_or_default());
    Ok(said["value"].clone())
}

/// One request on a connection of its own. The answer's length says where it ends: a driver that is asked to close the
/// connection may answer no other.
async fn ask(socket: &Path, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? != 0, "chromedriver ends without an answer");
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = Some(value.trim().parse()?),
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut said = vec![0; length.context("chromedriver does not say how much it says")?];
    stream.read_exact(&mut said).await?;
    Ok(serde_json::from_slice(&said)?)
}

fn text(value: &Value) -> anyhow::Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("no text: {value}"))
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
