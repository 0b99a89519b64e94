//! Processes of the machine, told apart even when a number is given again.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qvd::keeper::process_table;

use super::{eventually, holds};

/// One process, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    start_time: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start_time: process_table::start_time(pid).ok()? })
    }

    /// Whether it is there and not merely waiting to be noticed by its parent.
    pub fn lives(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let zombie = stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']));
        !zombie && Self::of(self.pid) == Some(*self)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    /// Kills it as the kernel does when memory runs out, and waits until it is dead.
    pub async fn kill(&self) {
        assert!(self.lives(), "{self:?} is dead already");
        self.signal(Signal::SIGKILL);
        eventually("a killed process is dead", async || holds(!self.lives())).await;
    }

    /// The file name of its program.
    pub fn program(&self) -> String {
        let path = fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap_or_default();
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The words it was started with.
    pub fn words(&self) -> Vec<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// Its control groups.
    pub fn groups(&self) -> String {
        fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).unwrap_or_default()
    }

    /// All its descendants, the nearest first.
    pub fn descendants(&self) -> Vec<Self> {
        let mut found: Vec<_> = process_table::children(self.pid).into_iter().filter_map(Self::of).collect();
        let mut next = 0;
        while let Some(process) = found.get(next) {
            let children = process_table::children(process.pid);
            found.extend(children.into_iter().filter_map(Self::of));
            next += 1;
        }
        found
    }

    /// Every process of the machine.
    pub fn all() -> impl Iterator<Item = Self> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Self::of)
    }
}
