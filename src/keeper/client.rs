//! The daemons' side of a shim: start one, ask it, order it to kill, wait for its end.
//! A shim that does not answer is not an error but an answer: no shim. Nothing here holds a VM; the shim does.

use std::{
    io::{self, ErrorKind},
    path::Path,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{Ended, ShimDir, ShimSpec, ShimStatus};
use crate::process::{ProcessError, Program};

/// How long a shim may take to answer or to get ready. It does nothing slow, so this is only met on a sick machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A shim that could not be started or asked.
#[derive(Debug, Error)]
pub enum ShimClientError {
    /// `shim.json` cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(std::path::PathBuf, #[source] io::Error),
    /// The shim did not start; the text is its own.
    #[error("cannot start the shim of {}", .dir.display())]
    Start {
        /// Its directory.
        dir: std::path::PathBuf,
        /// Why.
        source: ProcessError,
    },
    /// The shim lives but gives no sensible answer.
    #[error("the shim of {} does not answer {question:?}", .dir.display())]
    Ask {
        /// Its directory.
        dir: std::path::PathBuf,
        /// What it was asked.
        question: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Starts the shim of `dir` with the program `keeper`, detached from this process. Returns when its command runs.
pub async fn start(keeper: &Path, dir: &ShimDir, spec: &ShimSpec) -> Result<(), ShimClientError> {
    let text = serde_json::to_vec_pretty(spec).map_err(io::Error::from);
    text.and_then(|text| std::fs::write(dir.spec(), text)).map_err(|e| ShimClientError::Write(dir.spec(), e))?;
    let shim = Program::new(keeper).args(["shim".as_ref(), "--detach".as_ref(), dir.path()]).limit(PATIENCE);
    shim.run().await.map(drop).map_err(|source| ShimClientError::Start { dir: dir.path().to_owned(), source })
}

/// What the shim of `dir` says of its VM; `None` when there is no shim.
pub async fn status(dir: &ShimDir) -> Result<Option<ShimStatus>, ShimClientError> {
    let Some(line) = ask(dir, "status").await? else { return Ok(None) };
    let status = serde_json::from_str(&line).map_err(|e| failed(dir, "status", e.into()))?;
    Ok(Some(status))
}

/// Orders the shim of `dir` to kill its VM; whether there was a shim to hear it.
pub async fn kill(dir: &ShimDir) -> Result<bool, ShimClientError> {
    Ok(ask(dir, "kill").await?.is_some())
}

/// Resolves when the VM of `dir` has ended; at once when there is no shim. `None` when nobody saw the end.
pub async fn wait(dir: &ShimDir) -> Option<Ended> {
    // A shim that is gone before, or goes while we ask, may still have recorded the end.
    hear_end(dir).await.ok().flatten().or_else(|| dir.ended())
}

async fn hear_end(dir: &ShimDir) -> io::Result<Option<Ended>> {
    let mut stream = UnixStream::connect(dir.socket()).await?;
    stream.write_all(b"wait\n").await?;
    let mut text = String::new();
    // To the very end of the connection: then the shim is gone and its locks are free.
    stream.read_to_string(&mut text).await?;
    Ok(serde_json::from_str(text.trim()).ok())
}

/// One question, one line; `None` when there is no shim, or none any more.
async fn ask(dir: &ShimDir, question: &'static str) -> Result<Option<String>, ShimClientError> {
    let exchange = async {
        let mut stream = UnixStream::connect(dir.socket()).await?;
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        Ok::<_, io::Error>((!line.is_empty()).then_some(line))
    };
    match timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
        Ok(answer) => Ok(answer),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
            // It ended while we asked.
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Ok(None),
            _ => Err(failed(dir, question, error)),
        },
    }
}

fn failed(dir: &ShimDir, question: &'static str, source: io::Error) -> ShimClientError {
    ShimClientError::Ask { dir: dir.path().to_owned(), question, source }
}
