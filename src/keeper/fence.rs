//! The moment by which the VMs of this node must be dead, because other nodes may start them then. Each sign of life moves
//! it on: keeper's on the storage, hkd's in the database. Shims see it and act alone.
//!
//! ```text
//!   sign begun ──── patience of others, less the margin ────► deadline ──── margin ────► others take over
//!                                                             shims kill
//! ```
//!
//! It is counted from before a sign began, in the time since boot, which goes on while the machine sleeps. A deadline that
//! has passed stays passed: a sign that comes later counts a lapse, and whoever lived before it must die, even if he slept
//! through it. When to give signs, and what a VM is, is not known here.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{process_table, words::SharedWords};

/// Deadline of a node that has told everybody that it stops: nobody takes anything over from it.
const NEVER: u64 = u64::MAX;
const LATEST: u64 = NEVER - 1;

/// A moment, counted from the boot of the machine, sleep included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(u64);

/// Who gives signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// On the storage.
    Keeper = 0,
    /// In the database.
    Hkd = 1,
}

/// What a shim is told of the fence; part of `shim.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceSpec {
    /// The file that holds the deadline.
    pub file: PathBuf,
    /// Where to order a restart of the machine when a VM that must die does not; `None`: the machine is not restarted.
    pub sysrq: Option<PathBuf>,
    /// How long a VM may take to die before that, in milliseconds.
    pub dead_within_ms: u64,
}

/// The deadline of this node, as all its processes see it.
#[derive(Debug)]
pub struct Fence {
    /// Deadline by keeper, deadline by hkd, number of lapses.
    words: SharedWords<3>,
}

/// What holds for somebody who began to live at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To be asked again then; `None`: whenever.
    LiveUntil(Option<BootTime>),
    /// The deadline passed.
    Die,
}

impl BootTime {
    /// The present moment.
    pub fn now() -> io::Result<Self> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        Ok(Self(Duration::from(now).as_nanos() as u64))
    }

    /// So long after boot, for those whose time is not the machine's.
    #[cfg(test)]
    pub(crate) fn after_boot(time: Duration) -> Self {
        Self(0) + time
    }

    /// Time since boot.
    pub fn since_boot(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        // The largest number means something else.
        Self(self.0.saturating_add(span.as_nanos() as u64).min(LATEST))
    }
}

impl Fence {
    /// The fence's file below `path.run`. Another boot has another one, since its time is another.
    pub fn path(run: &Path) -> io::Result<PathBuf> {
        Ok(run.join(format!("fence.{}", process_table::boot_id()?)))
    }

    /// The fence of the node with this `path.run`, for those who give signs.
    pub fn of_node(run: &Path) -> io::Result<Self> {
        Ok(Self { words: SharedWords::writable(&Self::path(run)?)? })
    }

    /// The fence in this file, for those who obey it.
    pub fn watch(file: &Path) -> io::Result<Self> {
        Ok(Self { words: SharedWords::readable(file)? })
    }

    /// A fence in no file.
    #[cfg(test)]
    pub(crate) fn in_memory() -> io::Result<Self> {
        Ok(Self { words: SharedWords::in_memory()? })
    }

    /// A sign of life that was begun at `began` has arrived: VMs may live for `limit` from then.
    pub fn signed(&self, signer: Signer, began: BootTime, limit: Duration) -> io::Result<()> {
        self.set(signer, began + limit, BootTime::now()?);
        Ok(())
    }

    /// The node has told the others that it stops, and they leave it its VMs.
    pub fn sign_off(&self) -> io::Result<()> {
        self.lift(BootTime::now()?);
        Ok(())
    }

    pub(crate) fn lift(&self, now: BootTime) {
        self.set(Signer::Hkd, BootTime(NEVER), now);
    }

    pub(crate) fn set(&self, signer: Signer, deadline: BootTime, now: BootTime) {
        let [_, _, lapses] = self.words.words();
        if now >= self.deadline() {
            lapses.fetch_add(1, SeqCst);
        }
        self.words.words()[signer as usize].store(deadline.0, SeqCst);
    }

    fn deadline(&self) -> BootTime {
        let [keeper, hkd, _] = self.words.words();
        BootTime(keeper.load(SeqCst).max(hkd.load(SeqCst)))
    }

    /// How often the deadline has passed; to be asked when a life begins.
    pub fn lapses(&self) -> u64 {
        self.words.words()[2].load(SeqCst)
    }

    /// What holds at `now` for a life that began when there had been so many `lapses`.
    pub fn verdict(&self, lapses: u64, now: BootTime) -> Verdict {
        // In this order: a deadline that is moved on after it passed is moved after its lapse was counted.
        let deadline = self.deadline();
        if self.lapses() != lapses || now >= deadline {
            Verdict::Die
        } else {
            Verdict::LiveUntil((deadline.0 != NEVER).then_some(deadline))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    /// As a keeper, an hkd and a shim have it mapped.
    fn fence() -> (tempfile::TempDir, Fence, Fence) {
        let run = tempfile::tempdir().unwrap();
        let fence = Fence::of_node(run.path()).unwrap();
        fence.set(Signer::Hkd, at(100) + LIMIT, at(100));
        let shim = Fence::watch(&Fence::path(run.path()).unwrap()).unwrap();
        (run, fence, shim)
    }

    #[test]
    fn either_sign_moves_the_deadline_and_the_later_one_counts() {
        let (_run, fence, shim) = fence();
        let born = shim.lapses();
        fence.set(Signer::Keeper, at(104) + LIMIT, at(105));
        assert_eq!(shim.verdict(born, at(111)), Verdict::LiveUntil(Some(at(112))));
        fence.set(Signer::Hkd, at(103) + LIMIT, at(106));
        assert_eq!(shim.verdict(born, at(111)), Verdict::LiveUntil(Some(at(112))));
        assert_eq!(shim.verdict(born, at(112)), Verdict::Die);
    }

    #[test]
    fn who_slept_through_the_deadline_dies_though_signs_came_again() {
        let (_run, fence, shim) = fence();
        let born = shim.lapses();
        fence.set(Signer::Keeper, at(200) + LIMIT, at(200));
        assert_eq!(shim.verdict(born, at(201)), Verdict::Die);
        assert_eq!(shim.verdict(shim.lapses(), at(201)), Verdict::LiveUntil(Some(at(208))), "a VM started since lives");
    }

    #[test]
    fn a_sign_that_took_long_counts_from_its_beginning() {
        let (_run, fence, shim) = fence();
        fence.set(Signer::Keeper, at(101) + LIMIT, at(107));
        assert_eq!(shim.verdict(shim.lapses(), at(109)), Verdict::Die);
    }

    #[test]
    fn a_node_that_signed_off_has_no_deadline_until_it_comes_back() {
        let (_run, fence, shim) = fence();
        let born = shim.lapses();
        fence.set(Signer::Hkd, BootTime(NEVER), at(101));
        assert_eq!(shim.verdict(born, at(100_000)), Verdict::LiveUntil(None));
        fence.set(Signer::Hkd, at(100_000) + LIMIT, at(100_000));
        assert_eq!(shim.verdict(born, at(100_007)), Verdict::LiveUntil(Some(at(100_008))));
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let run = tempfile::tempdir().unwrap();
        std::fs::write(run.path().join("short"), "x").unwrap();
        assert!(Fence::watch(&run.path().join("short")).is_err());
        assert!(Fence::watch(&run.path().join("missing")).is_err());
    }
}
