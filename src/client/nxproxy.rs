//! The program that draws: nxproxy is started with the number of a display that is really our port, connects to it
//! once, and lives as long as the session.

use std::{
    collections::VecDeque,
    env, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, Command},
    task::JoinHandle,
};

use super::Environment;
use crate::tunnel::tune;

/// How long nxproxy may take to connect to us.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to end once its connection is closed.
const END_LIMIT: Duration = Duration::from_secs(3);
/// nxproxy adds this to the number of a display.
const DISPLAY_BASE: u16 = 4000;
/// Lines of its output that are kept.
const OUTPUT_LINES: usize = 20;

/// A session that nxproxy does not take part in.
#[derive(Debug, Error)]
pub enum NxproxyError {
    /// The program is not there.
    #[error("{} is not installed; install the package nxproxy", program.display())]
    Missing {
        /// What was looked for.
        program: PathBuf,
    },
    /// There is nothing to draw on.
    #[error("there is no display to draw on; DISPLAY is not set")]
    NoDisplay,
    /// It cannot be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended before it connected.
    #[error("nxproxy ended at once ({status}): {output}")]
    Ended {
        /// Exit status in words.
        status: String,
        /// Its last lines.
        output: String,
    },
    /// It ended before anything was drawn.
    #[error("nxproxy gave up before the desktop answered: {output}")]
    Refused {
        /// Its last lines.
        output: String,
    },
    /// It lives but does not connect.
    #[error("nxproxy did not connect within {} s", CONNECT_LIMIT.as_secs())]
    Silent,
    /// Our port cannot be used.
    #[error("cannot open a port for nxproxy")]
    Port(#[source] io::Error),
}

/// Finds out what can be found out without starting it.
pub(super) fn check(program: &Path, environment: &Environment) -> Result<(), NxproxyError> {
    let found = if program.components().count() > 1 {
        program.is_file()
    } else {
        let path = environment.variable("PATH").unwrap_or("/usr/bin:/bin");
        env::split_paths(path).any(|directory| directory.join(program).is_file())
    };
    if !found {
        return Err(NxproxyError::Missing { program: program.to_owned() });
    }
    match environment.variable("DISPLAY") {
        Some(_) => Ok(()),
        None => Err(NxproxyError::NoDisplay),
    }
}

/// A running nxproxy. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Nxproxy {
    child: Child,
    output: Output,
}

impl Nxproxy {
    /// Starts it and waits until it has connected.
    pub(super) async fn start(
        program: &Path,
        args: &[String],
        environment: &Environment,
    ) -> Result<(Self, TcpStream), NxproxyError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(NxproxyError::Port)?;
        let port = listener.local_addr().map_err(NxproxyError::Port)?.port();
        // Ephemeral ports begin far above; a machine set up otherwise gets an error from nxproxy.
        let display = format!("localhost:{}", port.saturating_sub(DISPLAY_BASE));
        let mut command = Command::new(program);
        command.args(args).arg("-S").arg(display).env_clear().envs(&environment.variables);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NxproxyError::Missing { program: program.to_owned() },
            _ => NxproxyError::Start { program: program.to_owned(), source },
        })?;
        let mut nxproxy = Self { output: Output::of(child.stderr.take()), child };
        let connected = tokio::select! {
            accepted = tokio::time::timeout(CONNECT_LIMIT, listener.accept()) => accepted,
            ended = nxproxy.child.wait() => {
                let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(NxproxyError::Ended { status, output: nxproxy.output.end().await.join("\n") });
            }
        };
        let (stream, _) = connected.map_err(|_| NxproxyError::Silent)?.map_err(NxproxyError::Port)?;
        tune(&stream).map_err(NxproxyError::Port)?;
        Ok((nxproxy, stream))
    }

    /// Waits for its end, helps if it takes long, and returns its last lines.
    pub(super) async fn finish(mut self) -> Vec<String> {
        if tokio::time::timeout(END_LIMIT, self.child.wait()).await.is_err() {
            tracing::debug!("nxproxy does not end by itself");
            // It fails only if the process is gone already.
            let _ = self.child.kill().await;
        }
        self.output.end().await
    }
}

/// Collects what nxproxy says.
#[derive(Debug)]
struct Output {
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
}

impl Output {
    fn of(stderr: Option<ChildStderr>) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = lines.clone();
        let reader = tokio::spawn(async move {
            let Some(stderr) = stderr else { return };
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                tracing::debug!(nxproxy = text);
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == OUTPUT_LINES {
                    kept.pop_front();
                }
                if !text.is_empty() {
                    kept.push_back(text);
                }
            }
        });
        Self { lines, reader }
    }

    /// The last lines. Programs that nxproxy started may hold its output open, so they are not waited for long.
    async fn end(&mut self) -> Vec<String> {
        let _ = tokio::time::timeout(Duration::from_millis(200), &mut self.reader).await;
        self.reader.abort();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}
