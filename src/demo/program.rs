//! Runs a short-lived program to its end: logs its command line, captures what it says, enforces a time limit.
//! Programs that stay are not run here; see `attached`.

use std::{io, os::unix::process::CommandExt, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use thiserror::Error;
use tokio::{process::Command, time};

/// A program that did not do its work.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// It could not be started.
    #[error("cannot run {program}")]
    Start {
        /// Name of the program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} did not finish within {} s", .limit.as_secs())]
    Late {
        /// Name of the program.
        program: String,
        /// What it had.
        limit: Duration,
    },
    /// It ended with a failure.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// Name of the program.
        program: String,
        /// Exit status, in words.
        status: std::process::ExitStatus,
        /// The end of its standard error.
        said: String,
    },
}

/// Runs `command`, which is called `program` in errors, and returns its standard output. It is killed with all that
/// it started when it exceeds `limit` and when the future is dropped.
pub async fn run(program: &str, mut command: std::process::Command, limit: Duration) -> Result<String, ProgramError> {
    let program = program.to_owned();
    tracing::debug!(?command, "running");
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = match Command::from(command).spawn() {
        Ok(child) => child,
        Err(source) => return Err(ProgramError::Start { program, source }),
    };
    let group = Group(child.id().map(|id| Pid::from_raw(id.cast_signed())));
    let output = match time::timeout(limit, child.wait_with_output()).await {
        Err(_) => return Err(ProgramError::Late { program, limit }),
        Ok(Err(source)) => return Err(ProgramError::Start { program, source }),
        Ok(Ok(output)) => output,
    };
    group.has_ended();
    if !output.status.success() {
        let said = last_lines(&String::from_utf8_lossy(&output.stderr), 5);
        return Err(ProgramError::Failed { program, status: output.status, said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> std::process::Command {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn what_a_failing_program_said_is_in_the_error() {
        let error = run("sh", shell("echo one >&2; echo two >&2; exit 3"), Duration::from_secs(10)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("one; two"), "{text}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_reported() {
        let error = run("sh", shell("sleep 600"), Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, ProgramError::Late { .. }), "{error}");
    }

    #[test]
    fn only_the_end_of_a_long_complaint_is_kept() {
        assert_eq!(last_lines("a\n\nb\nc\n", 2), "b; c");
        assert_eq!(last_lines("", 2), "");
    }
}
