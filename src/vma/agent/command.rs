//! Runs the image's own short-lived programs (getent, useradd, mount helpers): logged, with their output captured and
//! a limit on their time. Hooks and the X session are not run here; see `hooks` and `monitor`.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use thiserror::Error;

/// Long enough for what only reads or edits files.
pub const QUICK: Duration = Duration::from_secs(20);

/// A program that did not do what it was asked.
#[derive(Debug, Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot run {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was killed since it took too long.
    #[error("{program} did not end within {} s", .limit.as_secs())]
    Late {
        /// The program.
        program: String,
        /// What it had.
        limit: Duration,
    },
    /// It failed.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: ExitStatus,
        /// The last line it wrote to its error output.
        message: String,
    },
}

/// Runs a program to its end and returns what it printed.
pub fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A], limit: Duration) -> Result<String, CommandError> {
    let name = program.display().to_string();
    tracing::debug!(command = ?(&name, arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>()), "running");
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| CommandError::Start { program: name.clone(), source })?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = match receiver.recv_timeout(limit) {
        Ok(output) => output.map_err(|source| CommandError::Start { program: name.clone(), source })?,
        Err(_) => {
            let _ = signal::kill(pid, Signal::SIGKILL);
            return Err(CommandError::Late { program: name, limit });
        }
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let message = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
        return Err(CommandError::Failed { program: name, status: output.status, message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds a program of the image by its name.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| SYSTEM_PATH.into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

/// Whether a file is there and may be executed.
pub fn is_executable(file: &Path) -> bool {
    file.is_file() && nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// Where programs are looked for when nobody says otherwise.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gives_its_output_or_its_last_complaint() {
        let sh = Path::new("/bin/sh");
        assert_eq!(run(sh, &["-c", "echo yes"], QUICK).unwrap(), "yes\n");
        let error = run(sh, &["-c", "echo first >&2; echo last >&2; exit 3"], QUICK).unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh failed (exit status: 3): last");
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let error = run(Path::new("/bin/sh"), &["-c", "exec sleep 60"], Duration::from_millis(10)).unwrap_err();
        assert!(matches!(error, CommandError::Late { .. }), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run::<&str>(Path::new("/nonexistent/program"), &[], QUICK).unwrap_err();
        assert_eq!(error.to_string(), "cannot run /nonexistent/program");
        assert!(find("sh").is_some() && find("no-such-program").is_none());
    }
}
