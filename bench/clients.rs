//! Clients that log in one after another, each over a connection of its own. They stand for other people's machines, so
//! they are a process of their own that stands back behind everything that is measured.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use qvd::client::{
    session::{Credentials, Server, Session},
    trust::Trust,
};
use tokio::{process::Command, task::JoinSet};

/// Who logs in.
pub const LOGIN: &str = "bench";
/// With what.
pub const PASSWORD: &str = "measured";
/// From its begin until a storm is even: as much is under way from then on as at its end.
pub const RAMP: Duration = Duration::from_millis(500);

/// Where clients of a router go.
pub struct Door {
    server: Server,
    certificate: PathBuf,
    trust: Arc<Trust>,
}

impl Door {
    /// The port of 127.0.0.1 whose router shows this certificate.
    pub fn new(port: u16, certificate: &Path) -> anyhow::Result<Self> {
        let server = Server { host: "localhost".to_owned(), port };
        let trust = Arc::new(Trust::load(None, &[certificate.to_owned()])?);
        Ok(Self { server, certificate: certificate.to_owned(), trust })
    }

    /// A new connection; whoever is at its other end has not been asked anything yet.
    pub async fn session(&self) -> anyhow::Result<Session> {
        self.session_of(LOGIN).await
    }

    /// Likewise, of somebody else with the same password.
    pub async fn session_of(&self, login: &str) -> anyhow::Result<Session> {
        let credentials = Credentials::Password { login: login.to_owned(), password: PASSWORD.to_owned() };
        Ok(Session::open(&self.server, credentials, Some(&self.trust)).await?)
    }

    /// Lists per second that so many clients at once were given.
    pub async fn storm(&self, at_once: usize, window: Duration) -> anyhow::Result<f64> {
        let storm = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe()?)
            .args(["clients", "--port", &self.server.port.to_string(), "--at-once", &at_once.to_string()])
            .args(["--seconds", &window.as_secs_f64().to_string(), "--certificate"])
            .arg(&self.certificate)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(storm.status.success(), "the storm ended early");
        String::from_utf8(storm.stdout)?.trim().parse().context("the storm says nothing")
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// Port of the router
    #[arg(long)]
    port: u16,
    /// Certificate of the router
    #[arg(long)]
    certificate: PathBuf,
    /// Clients at once
    #[arg(long)]
    at_once: usize,
    /// How long
    #[arg(long)]
    seconds: f64,
}

/// Storms, and prints the lists per second.
pub fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let door = Arc::new(Door::new(arguments.port, &arguments.certificate)?);
    let window = Duration::from_secs_f64(arguments.seconds);
    let from = Instant::now() + RAMP;
    let served = tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let until = from + window;
        let mut clients = JoinSet::new();
        for _ in 0..arguments.at_once {
            let door = door.clone();
            clients.spawn(async move {
                let mut served = 0_u64;
                while Instant::now() < until {
                    door.session().await?.list().await?;
                    served += u64::from((from..until).contains(&Instant::now()));
                }
                anyhow::Ok(served)
            });
        }
        let mut all = 0;
        while let Some(client) = clients.join_next().await {
            all += client??;
        }
        anyhow::Ok(all)
    })?;
    println!("{}", served as f64 / arguments.seconds);
    Ok(())
}
