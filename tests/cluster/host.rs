//! A node of a test: its directory and configuration, and the hkd that runs on it. VMs are simulated.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    database::{Db, open_directory},
    patience::until,
};

/// The program under test.
pub const QVD: &str = env!("CARGO_BIN_EXE_qvd");
const KEEPER: &str = env!("CARGO_BIN_EXE_qvd-keeper");

/// A node, named `n1` in the database if nothing else is said.
pub struct Host<'a> {
    db: &'a Db,
    name: &'a str,
    directory: TempDir,
}

impl<'a> Host<'a> {
    /// Writes the configuration: what a node needs, fast simulated VMs, and `settings` over it.
    pub fn new(db: &'a Db, settings: &[(&str, &str)]) -> Self {
        Self::named(db, "n1", settings)
    }

    /// The same for a node of another name.
    pub fn named(db: &'a Db, name: &'a str, settings: &[(&str, &str)]) -> Self {
        let host = Self { db, name, directory: open_directory() };
        let path = host.directory.path().display();
        let mut text = format!(
            "nodename = {name}\ndatabase.host = {}\ndatabase.name = {}\npath.run = {path}/run\n\
             path.storage.root = {path}/storage\nstorage.local = 1\nfence.reboot = 0\n\
             vm.hypervisor = nothing\n\
             internal.hkd.nothing.timeout.on_state.starting = 0.02\n\
             internal.hkd.nothing.timeout.on_state.stopping = 0.02\n\
             internal.hkd.lease.renew = 0.2\n",
            db.socket(),
            db.name(),
        );
        settings.iter().for_each(|(key, value)| text.push_str(&format!("{key} = {value}\n")));
        fs::write(host.config(), text).unwrap();
        host
    }

    /// Sockets and state of the node.
    pub fn run(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Root of its storage, unless the settings name another.
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("storage")
    }

    /// Starts the keeper of a node whose storage has this root.
    pub fn start_keeper(&self, storage: &Path) -> Keeper {
        let child = Command::new(KEEPER)
            .args(["keeper", "--name", self.name, "--interval", "0.2", "--run"])
            .arg(self.run())
            .arg("--hosts-dir")
            .arg(storage.join("hosts"))
            .env("QVD_LIFELINE", "stdin")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Keeper(child.unwrap())
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("node.conf")
    }

    /// Starts hkd.
    pub fn start(&self) -> Hkd {
        self.start_with(Some("info"))
    }

    /// Starts hkd; what it logs is what the configuration says unless the environment does.
    fn start_with(&self, level: Option<&str>) -> Hkd {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let log = self.directory.path().join(format!("hkd{}.log", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let output = fs::File::create(&log).unwrap();
        // Its standard input tells it when this process is gone, however that comes about.
        let mut command = Command::new(QVD);
        command.env_remove("QVD_LOG").envs(level.map(|level| ("QVD_LOG", level)));
        let child = command
            .args(["hkd", "--config"])
            .arg(self.config())
            .env("QVD_LIFELINE", "stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .unwrap();
        Hkd { child, log }
    }

    /// Starts hkd and waits until it takes VMs and its event plane is trusted.
    pub async fn started(&self) -> Hkd {
        self.up(self.start()).await
    }

    /// The same, with a log that follows the configuration.
    pub async fn started_without_log_level(&self) -> Hkd {
        self.up(self.start_with(None)).await
    }

    async fn up(&self, hkd: Hkd) -> Hkd {
        self.db.wait_for(&format!("select state from host_list where host = '{}'", self.name), "running").await;
        // Before it has heard itself for the first time it trusts nothing, but does not complain.
        let listens = async || self.status().filter(|status| status["trouble"].is_null() && status["echoes"] != 0);
        until("notifications are trusted", listens).await;
        hkd
    }

    /// What `qvd status` prints; nothing while hkd does not answer.
    pub fn status(&self) -> Option<Value> {
        let output = self.qvd(&["status"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Runs a command of `qvd` with the node's configuration.
    pub fn qvd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(QVD);
        command.args(arguments).env("QVD_CONFIG", self.config()).env_remove("QVD_DATABASE");
        command.stdin(Stdio::null()).output().unwrap()
    }
}

/// A running hkd. It is killed when it is dropped; its simulated VMs die with it.
pub struct Hkd {
    child: Child,
    log: PathBuf,
}

impl Hkd {
    /// What it said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has said this.
    pub async fn says(&self, words: &str) {
        until(&format!("hkd says {words:?}"), async || self.said().contains(words).then_some(())).await;
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        until("hkd ends", async || self.child.try_wait().unwrap()).await.0
    }

    /// Tells it to end in good order.
    pub fn tell_to_end(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Lets it do nothing for a while.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on after `pause`.
    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Stops it in its tracks, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        freeze(&self.child, frozen);
    }

    /// Kills it as the kernel would when memory is short.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9), "it had ended before: {}", self.said());
    }
}

impl Drop for Hkd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("hkd said:\n{}", self.said());
        }
    }
}

/// A running keeper. It is killed when it is dropped.
pub struct Keeper(Child);

impl Keeper {
    pub fn freeze(&self, frozen: bool) {
        freeze(&self.0, frozen);
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn freeze(child: &Child, frozen: bool) {
    let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}
