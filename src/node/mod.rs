//! Runs the processes of a node where no service manager does: starts keeper, hkd and l7r, restarts the one that
//! dies, and ends all when it is told to. Desktops belong to none of them and go on.
//!
//! Told to replace them, it starts them again from the program that is installed now. A router's successor takes the port
//! over, and its predecessor serves its last users to their end; see `l7r`.
//!
//! Each child holds the reading end of a pipe as its standard input. When this process dies, however it dies, the
//! pipe closes and the children end in good order (`lifeline`).

pub mod join;

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use thiserror::Error;
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStdin, Command},
    sync::watch,
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// With this status ends a program that is too old for the schema of the database. Starting it again is of no use.
pub const OUTDATED: u8 = 76;
/// Whether there is a newer program is looked after so often, and the old one is tried all the same now and then.
const LOOK: Duration = Duration::from_secs(1);
const TRY_ALL_THE_SAME: Duration = Duration::from_secs(60);

/// Set for children that must end with their parent.
const LIFELINE: &str = "QVD_LIFELINE";
/// A child that lived this long has not failed at start.
const STEADY: Duration = Duration::from_secs(10);
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];
/// Exit status of a process after whose end the node is not to run any more: it was told to stop, and has.
pub const NODE_STOPPED: u8 = 10;
/// For a child to end in good order.
const FAREWELL: Duration = Duration::from_secs(15);

/// A process of the node.
#[derive(Clone, Debug)]
pub struct Process {
    /// For logs.
    pub name: &'static str,
    /// What to run.
    pub program: PathBuf,
    /// With which arguments.
    pub arguments: Vec<String>,
    /// How it makes room for a newer one of itself.
    pub replacement: Replacement,
}

/// How a process is replaced by a newer one of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// The newer one is started beside it and takes over; the older one ends by itself when it has nothing left to do.
    HandsOver,
    /// It is killed without a word, as if it had crashed, and the newer one finds everything as it is.
    Killed,
}

/// A process that cannot even be started.
#[derive(Debug, Error)]
#[error("cannot start {name} ({program})", program = .program.display())]
pub struct NodeError {
    name: &'static str,
    program: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Keeps `processes` running until `stop`; replaces them whenever `replace` changes.
pub async fn run(
    processes: Vec<Process>,
    replace: watch::Receiver<()>,
    stop: CancellationToken,
) -> Result<(), NodeError> {
    let mut keepers = JoinSet::new();
    for process in processes {
        let first = start(&process)?;
        keepers.spawn(keep(process, first, replace.clone(), stop.clone()));
    }
    while let Some(ended) = keepers.join_next().await {
        if let Ok(Err(error)) = ended {
            stop.cancel();
            keepers.detach_all();
            return Err(error);
        }
    }
    Ok(())
}

async fn keep(
    process: Process,
    mut child: Running,
    mut replace: watch::Receiver<()>,
    stop: CancellationToken,
) -> Result<(), NodeError> {
    let predecessors = TaskTracker::new();
    let mut backoff = BACKOFF[0];
    loop {
        let began = Instant::now();
        tokio::select! {
            status = child.process.wait() => match status {
                Ok(status) if status.code() == Some(NODE_STOPPED.into()) => {
                    tracing::info!(process = process.name, "the node was told to stop");
                    stop.cancel();
                    return Ok(());
                }
                Ok(status) if status.code() == Some(OUTDATED.into()) => {
                    tracing::error!(
                        process = process.name,
                        program = %process.program.display(),
                        "it is too old for the schema of the database; install the newer program, then send SIGHUP to this \
                         process, which replaces all by it; desktops go on"
                    );
                    tokio::select! {
                        () = newer(&process.program) => {}
                        () = tokio::time::sleep(TRY_ALL_THE_SAME) => {}
                        Ok(()) = replace.changed() => {}
                        () = stop.cancelled() => return Ok(()),
                    }
                }
                Ok(status) => tracing::warn!(process = process.name, %status, "ended; starting it again"),
                Err(error) => tracing::warn!(process = process.name, %error, "lost; starting it again"),
            },
            Ok(()) = replace.changed() => {
                tracing::info!(process = process.name, "replacing it");
                let predecessor = child;
                child = match process.replacement {
                    Replacement::HandsOver => {
                        predecessors.spawn(see_off(process.clone(), predecessor, stop.clone()));
                        start(&process)?
                    }
                    Replacement::Killed => {
                        let mut predecessor = predecessor.process;
                        let _ = predecessor.kill().await;
                        start(&process)?
                    }
                };
                continue;
            }
            () = stop.cancelled() => {
                end(&process, child.process).await;
                predecessors.close();
                predecessors.wait().await;
                return Ok(());
            }
        }
        backoff = if began.elapsed() > STEADY { BACKOFF[0] } else { (backoff * 2).min(BACKOFF[1]) };
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stop.cancelled() => return Ok(()),
        }
        child = start(&process)?;
    }
}

/// Waits until another file has taken the place of a program.
async fn newer(program: &Path) {
    let seen = |program: &Path| {
        std::fs::metadata(program).ok().map(|file| (file.ino(), file.mtime(), file.mtime_nsec(), file.size()))
    };
    let before = seen(program);
    while seen(program).is_none() || seen(program) == before {
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits for a process that was replaced to have nothing left to do.
async fn see_off(process: Process, mut predecessor: Running, stop: CancellationToken) {
    tokio::select! {
        status = predecessor.process.wait() => tracing::info!(process = process.name, ?status, "a replaced one has ended"),
        () = stop.cancelled() => end(&process, predecessor.process).await,
    }
}

/// A child and the pipe that tells it that we live.
struct Running {
    process: Child,
    // Held apart, since waiting for a child closes its standard input.
    _lifeline: Option<ChildStdin>,
}

fn start(process: &Process) -> Result<Running, NodeError> {
    let failed = |source| NodeError { name: process.name, program: process.program.clone(), source };
    let mut child = Command::new(&process.program)
        .args(&process.arguments)
        .env(LIFELINE, "stdin")
        .stdin(Stdio::piped())
        // A Ctrl-C of the terminal is for this process, which ends its children in order.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    tracing::debug!(process = process.name, pid = child.id(), "started");
    Ok(Running { _lifeline: child.stdin.take(), process: child })
}

async fn end(process: &Process, mut child: Child) {
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
    }
    if tokio::time::timeout(FAREWELL, child.wait()).await.is_err() {
        tracing::warn!(process = process.name, "does not end; killing it");
        let _ = child.kill().await;
    }
}

/// Cancels `stop` when the parent that started this process as its child is gone. Does nothing for others.
pub async fn lifeline(stop: CancellationToken) {
    if std::env::var_os(LIFELINE).is_none() {
        return;
    }
    let mut end = tokio::io::stdin();
    let mut nothing = [0; 64];
    while matches!(end.read(&mut nothing).await, Ok(read) if read > 0) {}
    tracing::info!("the process that started this one is gone; ending");
    stop.cancel();
}
