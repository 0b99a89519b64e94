//! The program `qvd-vma`, the part of the system that runs inside a VM. It needs nothing of the image but what it calls.
//!
//! Up to three processes: `init` (PID 1 of a container) keeps `agent` running, which answers the nodes; for each run of
//! the X session the agent starts a `monitor`, which outlives it. They share nothing but files in the run directory,
//! so each can be killed and replaced alone. What nodes do with the answers is not known here.

mod command;
mod config;
mod dialog;
mod environment;
mod home;
mod hooks;
pub mod init;
pub mod launch;
mod methods;
pub mod monitor;
mod network;
mod options;
mod output;
mod parameters;
mod pidfd;
mod power;
mod rundir;
mod server;
mod session;
mod six;
mod state;
mod users;
mod vnc;

use std::{
    error::Error,
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use nix::sys::signal::SigSet;
use thiserror::Error;

pub use config::{Settings, SettingsError};
pub use dialog::answer as answer_dialog;
pub use network::{NetworkError, meet_firmware};

use methods::Agent;

/// Why the agent cannot serve.
#[derive(Debug, Error)]
pub enum AgentFailure {
    /// The port is taken, most likely by another agent.
    #[error("cannot listen on port {port}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nodes cannot reach it.
    #[error("cannot set up the network")]
    Network(#[from] NetworkError),
    /// Nothing can be kept there.
    #[error("cannot prepare the run directory {dir}")]
    RunDir {
        /// The directory.
        dir: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Changes of the session's state would go unseen.
    #[error("cannot watch the X session")]
    Watch(#[source] io::Error),
}

/// Serves calls until the process is killed. An X session that runs already is taken over.
pub fn serve(settings: Settings) -> Result<(), AgentFailure> {
    network::set_up(&settings)?;
    let port = settings.port;
    // There what comes by IPv4 comes, too, where the kernel has both.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(|source| AgentFailure::Listen { port, source })?;
    let agent = Arc::new(Agent::new(settings)?);
    agent.watch().map_err(AgentFailure::Watch)?;
    tracing::info!(port, version = env!("CARGO_PKG_VERSION"), "serving");
    server::serve(&listener, &agent);
    Ok(())
}

/// Undoes a signal mask inherited from a parent that waits for its signals; programs started from here would
/// otherwise inherit it too.
pub fn clear_signal_mask() {
    if let Err(error) = SigSet::empty().thread_set_mask() {
        tracing::warn!(%error, "cannot clear the signal mask");
    }
}

/// The file of this program, by which it starts itself in another role.
fn ourselves() -> PathBuf {
    let file = std::env::current_exe().unwrap_or_default();
    // A program that was replaced while it runs has no path any more, but can still be run.
    if file.exists() { file } else { PathBuf::from("/proc/self/exe") }
}

/// An error and all its causes in one line, for callers that get nothing but text.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
