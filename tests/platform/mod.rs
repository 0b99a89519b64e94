//! Shim, keeper and containers as the machine really runs them.

mod agent;
mod container;
mod homes;
mod image;
mod image_files;
mod keeper;
pub mod lab;
mod network;
mod node;
mod shim;
mod shown;
mod storage;

pub use shim::KEEPER;

use std::{
    path::Path,
    process::Command,
    thread::yield_now,
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition, giving way to others meanwhile.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        yield_now();
    }
}

/// Whether a process is there and not merely waiting to be noticed by its parent.
pub fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

pub fn signal(pid: i32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), "--", &pid.to_string()]).status().unwrap().success());
}

pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What a command printed; empty when it failed.
pub fn printed(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
