//! Short-lived external programs (`tar`, `nft`, the start of a shim): one way to run them all.
//! Every run is logged with its command line, has a time limit, and fails with what the program itself said.
//! Programs that live on are not started here; they belong to a shim. What may hang in this process runs `aside`.

mod aside;
mod identity;

use std::{
    ffi::OsStr,
    io,
    os::unix::process::CommandExt,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Child,
    time::timeout,
};
use tracing::debug;

pub use aside::{aside, blocking};
pub use identity::{began_at, boot_id, is_gone};

/// Most that is kept of each of a program's outputs, in bytes. The rest is read and dropped.
const KEPT: usize = 64 * 1024;
/// Lines of a program's complaint that an error repeats: the end is where the reason is.
const COMPLAINT: usize = 5;

/// A program about to be run.
#[derive(Debug)]
pub struct Program {
    command: std::process::Command,
    input: Vec<u8>,
    limit: Duration,
}

/// What a program that succeeded printed.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A program that did not do its work.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("cannot run {program}")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It was killed because it took too long.
    #[error("{program} did not end within {limit:?} and was killed")]
    Timeout {
        /// Its name.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It failed.
    #[error("{program} failed ({status}): {}", last_lines(.stderr, COMPLAINT))]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
}

impl ProcessError {
    /// Whether the program is not installed.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// What the program said before it failed; empty when it said nothing.
    pub fn stderr(&self) -> &str {
        match self {
            Self::Failed { stderr, .. } => stderr.trim(),
            _ => "",
        }
    }
}

impl From<std::process::Command> for Program {
    /// A command that was prepared elsewhere, with a limit of 30 s unless set otherwise. Its input and outputs are
    /// taken over.
    fn from(command: std::process::Command) -> Self {
        Self { command, input: Vec::new(), limit: Duration::from_secs(30) }
    }
}

impl Program {
    /// A program by its path, or by a name to be found in `PATH`. Its limit is 30 s unless set otherwise.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        let mut command = std::process::Command::new(name);
        command.env("LC_ALL", "C");
        command.into()
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Gives it something to read; it finds its standard input empty otherwise.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Kills it when it runs longer than this.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end. When it exceeds its limit, and when the future is dropped, it is killed with all that it
    /// started and that did not leave its process group.
    pub async fn run(mut self) -> Result<Output, ProcessError> {
        let path = std::path::Path::new(self.command.get_program());
        let program = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let args = format!("{:?}", self.command.get_args().collect::<Vec<_>>());
        let begin = Instant::now();
        self.command
            .process_group(0)
            .stdin(if self.input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = tokio::process::Command::from(self.command)
            .spawn()
            .map_err(|source| ProcessError::Start { program: program.clone(), source })?;
        let group = Group(child.id().map(|id| Pid::from_raw(id.cast_signed())));
        let result = match timeout(self.limit, communicate(child, &self.input)).await {
            Ok(ended) => {
                group.has_ended();
                match ended {
                    Ok((status, output)) if status.success() => Ok(output),
                    Ok((status, output)) => {
                        Err(ProcessError::Failed { program: program.clone(), status, stderr: output.stderr })
                    }
                    Err(source) => Err(ProcessError::Start { program: program.clone(), source }),
                }
            }
            Err(_) => Err(ProcessError::Timeout { program: program.clone(), limit: self.limit }),
        };
        let milliseconds = begin.elapsed().as_millis() as u64;
        debug!(program, args, milliseconds, failed = result.is_err(), "ran a program");
        result
    }
}

/// The process group of a program that may still run; dropping it kills them all.
struct Group(Option<Pid>);

impl Group {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Its leader was not waited for, so the number is still its own.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// The last `count` lines that are not blank, on one line.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("; ")
}

async fn communicate(mut child: Child, input: &[u8]) -> io::Result<(ExitStatus, Output)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read to the end says why by its exit status.
            let _ = stdin.write_all(input).await;
        }
    };
    let ((), stdout, stderr) = tokio::join!(feed, read_kept(stdout), read_kept(stderr));
    Ok((child.wait().await?, Output { stdout: stdout?, stderr: stderr? }))
}

async fn read_kept(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> io::Result<String> {
    let Some(mut pipe) = pipe else { return Ok(String::new()) };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = pipe.read(&mut buffer).await?;
        if length == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        kept.extend_from_slice(&buffer[..length.min(KEPT - kept.len())]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("sh").args(["-c", script])
    }

    #[tokio::test]
    async fn what_a_program_reads_and_prints_passes_through() {
        let output = shell("cat; echo note >&2").input("text").run().await.unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("text", "note\n"));
    }

    #[tokio::test]
    async fn a_failure_carries_the_programs_own_words() {
        let error = shell("echo no such thing >&2; exit 3").run().await.unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): no such thing");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed() {
        let error = shell("exec sleep 1000").limit(Duration::from_millis(50)).run().await.unwrap_err();
        assert!(matches!(error, ProcessError::Timeout { .. }), "{error}");
    }

    #[test]
    fn only_the_end_of_a_long_complaint_is_kept() {
        assert_eq!(last_lines("a\n\nb\nc\n", 2), "b; c");
        assert_eq!(last_lines("", 2), "");
    }

    #[tokio::test]
    async fn a_missing_program_is_told_from_one_that_fails() {
        assert!(Program::new("no-such-program").run().await.unwrap_err().is_missing());
        assert!(!shell("exit 127").run().await.unwrap_err().is_missing());
    }

    #[tokio::test]
    async fn more_output_than_is_kept_does_not_stall_the_program() {
        let output = shell("head -c 1000000 /dev/zero").run().await.unwrap();
        assert_eq!(output.stdout.len(), KEPT);
    }
}
