//! Turns this process into a daemon of its own session, and tells whoever started it when it is ready.
//! The starter sees an ordinary short-lived program: it ends when the daemon is ready, or fails with the daemon's own
//! words on its standard error.
#![allow(unsafe_code, reason = "fork has no safe form")]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
};

use nix::{
    fcntl::OFlag,
    unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid},
};

const READY: &str = "ready\n";

/// Owed to the starter by a daemon. Dropped unanswered, the starter learns that the daemon died.
#[must_use = "the starter waits for an answer"]
pub struct Readiness(Option<File>);

impl Readiness {
    /// For a process that stays in the foreground: nobody waits.
    pub fn nobody_waits() -> Self {
        Self(None)
    }

    /// Lets the starter end well.
    pub fn ready(self) {
        self.answer(READY);
    }

    /// Lets the starter fail with `problem`, or prints it when nobody waits.
    pub fn failed(self, problem: &str) {
        if self.0.is_none() {
            eprintln!("{problem}");
        }
        self.answer(problem);
    }

    fn answer(self, text: &str) {
        if let Some(mut pipe) = self.0 {
            // A starter that was killed meanwhile is not the daemon's concern.
            let _ = pipe.write_all(text.as_bytes());
        }
    }
}

/// Goes on in a child with a session of its own; the calling process ends with the child's answer.
/// To be called before any thread exists.
pub fn detach() -> io::Result<Readiness> {
    let (answer, readiness) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: no other thread exists, so the child may do whatever the parent may.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(readiness);
            #[expect(
                clippy::disallowed_methods,
                reason = "the foreground process owns nothing that must be taken down"
            )]
            std::process::exit(relay(File::from(answer)));
        }
        ForkResult::Child => {
            setsid()?;
            std::env::set_current_dir("/")?;
            // The starter reads our standard error to its end, which must not be ours.
            let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
            dup2_stdin(&null)?;
            dup2_stdout(&null)?;
            dup2_stderr(&null)?;
            Ok(Readiness(Some(File::from(readiness))))
        }
    }
}

/// Passes the daemon's answer on; returns the exit status for the starter.
fn relay(mut answer: File) -> i32 {
    let mut text = String::new();
    match answer.read_to_string(&mut text) {
        Ok(_) if text == READY => return 0,
        Ok(0) => eprintln!("it died before it was ready"),
        Ok(_) => eprintln!("{text}"),
        Err(error) => eprintln!("its answer cannot be read: {error}"),
    }
    1
}
