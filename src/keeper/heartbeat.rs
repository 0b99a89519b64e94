//! The node's sign of life on the shared storage: a counter in a file that the other nodes watch.
//! Each beat goes through the directory's path anew and is read back the same way, so that a share which is gone is
//! noticed. Before each the storage's identity is compared with the one that hkd ordered. A beat moves the node's deadline
//! (`fence`); one that fails is logged once and tried again. What others conclude from silence is not known here.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    Orders, Quarantine,
    fence::{BootTime, Fence, Signer},
    priority, process_table,
};
use crate::model::in_one_line;

/// What the keeper is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatSpec {
    /// Directory on the shared storage where every node has its file.
    pub hosts_dir: PathBuf,
    /// The node's `path.run`, where hkd leaves its orders.
    pub run: PathBuf,
    /// Name of this node.
    pub name: String,
    /// Time between two beats.
    pub interval: Duration,
}

/// Why a beat did not happen.
#[derive(Debug, Error)]
pub enum BeatError {
    /// The file cannot be written or read back.
    #[error("cannot advance {}", .path.display())]
    File {
        /// The heartbeat's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The share is not mounted, or another one is.
    #[error("{} is not the storage that this node shall use", .root.display())]
    Storage {
        /// Root of the storage.
        root: PathBuf,
        /// Why its identity cannot be read.
        source: io::Error,
    },
    /// Orders or deadline, below `path.run`.
    #[error("cannot use what hkd left in {}", .run.display())]
    Run {
        /// `path.run`.
        run: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// VMs were ended here, and the storage was not mounted anew since.
    #[error(
        "VMs of this node had to end; its storage must be mounted anew before it is used again, which is hkd's business"
    )]
    Quarantined,
    /// Somebody else writes the same file.
    #[error("{} does not hold what was just written; does another machine have this node's name?", .path.display())]
    Foreign {
        /// The heartbeat's file.
        path: PathBuf,
    },
}

/// A node's counter.
#[derive(Debug)]
pub struct Heartbeat {
    path: PathBuf,
    boot_id: String,
    counter: u64,
}

impl Heartbeat {
    /// The file of `name` in `hosts_dir`; goes on counting where an earlier keeper stopped.
    pub fn new(hosts_dir: &Path, name: &str) -> io::Result<Self> {
        let path = hosts_dir.join(format!("{name}.beat"));
        let counter = read(&path).map_or(0, |(counter, _)| counter);
        Ok(Self { path, boot_id: process_table::boot_id()?, counter })
    }

    /// Advances the counter by one, in place, and reads it back.
    pub fn beat(&mut self) -> Result<u64, BeatError> {
        let failed = |source| BeatError::File { path: self.path.clone(), source };
        self.counter += 1;
        let line = format!("{:020} {}\n", self.counter, self.boot_id);
        write(&self.path, &line).map_err(failed)?;
        match read(&self.path).map_err(failed)? {
            (counter, boot_id) if counter == self.counter && boot_id == self.boot_id => Ok(counter),
            _ => Err(BeatError::Foreign { path: self.path.clone() }),
        }
    }
}

/// Beats until SIGTERM or SIGINT, or until the end of standard input when `QVD_LIFELINE` says that a parent holds its
/// other end: two keepers of one node would fight for its file.
pub fn run(spec: &HeartbeatSpec) -> io::Result<()> {
    for refused in [priority::shield_from_oom_killer(), priority::lock_memory(), priority::run_in_real_time()] {
        if let Err(refused) = refused {
            warn!(refused, "the machine does not grant a privilege that the keeper would like");
        }
    }
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block()?;
    let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let lifeline = std::env::var_os("QVD_LIFELINE").is_some();
    let mut told = false;
    while !matches!(Orders::read(&spec.run), Ok(Some(_))) {
        if !std::mem::replace(&mut told, true) {
            info!(node = spec.name, run = %spec.run.display(), "waiting for the storage to be made ready");
        }
        if wait(&signals, lifeline, Instant::now() + spec.interval)? {
            return Ok(());
        }
    }
    let fence = Fence::of_node(&spec.run)?;
    let mut heartbeat = Heartbeat::new(&spec.hosts_dir, &spec.name)?;
    info!(node = spec.name, file = %heartbeat.path.display(), interval = ?spec.interval, "giving signs of life");

    let mut trouble = None;
    loop {
        let next = Instant::now() + spec.interval;
        let problem = give_sign(spec, &mut heartbeat, &fence).err().map(|error| in_one_line(&error));
        match (&trouble, &problem) {
            (before, Some(problem)) if before.as_ref() != Some(problem) => warn!(node = spec.name, "{problem}"),
            (Some(_), None) => info!(node = spec.name, "signs of life are possible again"),
            _ => {}
        }
        trouble = problem;
        if wait(&signals, lifeline, next)? {
            info!(node = spec.name, "no more signs of life: asked to end");
            return Ok(());
        }
    }
}

/// One sign of life, on the right storage, and what follows for the node's deadline.
fn give_sign(spec: &HeartbeatSpec, heartbeat: &mut Heartbeat, fence: &Fence) -> Result<(), BeatError> {
    let failed = |source| BeatError::Run { run: spec.run.clone(), source };
    let began = BootTime::now().map_err(failed)?;
    if Quarantine::of_node(&spec.run).map_err(failed)?.is_imposed() {
        return Err(BeatError::Quarantined);
    }
    let orders = Orders::read(&spec.run).and_then(|orders| orders.ok_or(io::ErrorKind::NotFound.into()));
    let orders = orders.map_err(failed)?;
    orders.check().map_err(|source| BeatError::Storage { root: orders.root.clone(), source })?;
    heartbeat.beat()?;
    fence.signed(Signer::Keeper, began, orders.limit()).map_err(failed)
}

/// Sleeps until `next`; whether a signal, or the end of the parent, ended it.
fn wait(signals: &SignalFd, lifeline: bool, next: Instant) -> io::Result<bool> {
    let stdin = io::stdin();
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut ends = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if lifeline {
            ends.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut ends, timeout) {
            Ok(0) if Instant::now() >= next => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

fn write(path: &Path, line: &str) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    // In place: needs no free space once the file exists, and no rename that a reader could fall between.
    let mut file = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o644).open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_data()
}

fn read(path: &Path) -> io::Result<(u64, String)> {
    let text = fs::read_to_string(path)?;
    let (counter, boot_id) = text.trim().split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    Ok((counter.parse().map_err(|_| io::ErrorKind::InvalidData)?, boot_id.to_owned()))
}
