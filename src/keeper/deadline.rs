//! The node's deadline as one shim obeys it: wakes the shim when it may have passed, remembers that it did, and restarts the
//! machine when that is the only way left.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

use super::{
    Quarantine,
    fence::{BootTime, Fence, FenceSpec, Verdict},
};

/// How often a node that signed off is looked at, in case it came back.
const LEISURE: Duration = Duration::from_secs(1);

/// The deadline and a timer that fires when it may have passed.
pub struct Deadline {
    fence: Fence,
    timer: TimerFd,
    /// Lapses before the VM began to live.
    born: u64,
    dead_within: Duration,
    sysrq: Option<PathBuf>,
    /// `path.run` of the node.
    run: PathBuf,
    /// When the deadline was found to have passed.
    struck: Option<BootTime>,
}

impl Deadline {
    /// For a VM that begins to live now.
    pub fn new(spec: &FenceSpec) -> io::Result<Self> {
        let fence = Fence::watch(&spec.file)?;
        let deadline = Self {
            born: fence.lapses(),
            fence,
            // Goes on while the machine sleeps, and fires as soon as it wakes.
            timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?,
            dead_within: Duration::from_millis(spec.dead_within_ms),
            sysrq: spec.sysrq.clone(),
            run: spec.file.parent().map(PathBuf::from).unwrap_or_default(),
            struck: None,
        };
        deadline.wake_at(BootTime::now()?)?;
        Ok(deadline)
    }

    /// Whether the VM must die. Once it must, it must for ever.
    pub fn has_passed(&mut self) -> io::Result<bool> {
        if self.struck.is_none() {
            let now = BootTime::now()?;
            match self.fence.verdict(self.born, now) {
                Verdict::Die => {
                    self.struck = Some(now);
                    // Nothing is left to be woken for: while a VM ends, the shim looks all the time.
                    self.timer.unset()?;
                }
                Verdict::LiveUntil(deadline) => self.wake_at(deadline.unwrap_or(now + LEISURE))?,
            }
        }
        Ok(self.struck.is_some())
    }

    /// Keeps the node from using its storage until it is mounted anew.
    pub fn quarantine(&self) -> io::Result<()> {
        Quarantine::of_node(&self.run)?.impose()
    }

    /// Whether it was found to have passed.
    pub fn struck(&self) -> bool {
        self.struck.is_some()
    }

    /// Whether the VM should be dead since long and the machine may be restarted for that.
    pub fn is_desperate(&self) -> io::Result<bool> {
        let Some(struck) = self.struck.filter(|_| self.sysrq.is_some()) else { return Ok(false) };
        Ok(BootTime::now()? >= struck + self.dead_within)
    }

    /// Restarts the machine without a further word; the storage may be what hangs.
    pub fn restart_machine(&mut self) -> io::Result<()> {
        match self.sysrq.take() {
            Some(sysrq) => fs::write(sysrq, "b"),
            None => Ok(()),
        }
    }

    fn wake_at(&self, at: BootTime) -> io::Result<()> {
        let at = Expiration::OneShot(TimeSpec::from(at.since_boot()));
        Ok(self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }
}

impl AsFd for Deadline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::keeper::fence::Signer;

    fn deadline(run: &Path, sysrq: Option<PathBuf>, dead_within_ms: u64) -> Deadline {
        let fence = Fence::of_node(run).unwrap();
        fence.signed(Signer::Hkd, BootTime::now().unwrap(), Duration::ZERO).unwrap();
        Deadline::new(&FenceSpec { file: Fence::path(run).unwrap(), sysrq, dead_within_ms }).unwrap()
    }

    #[test]
    fn a_machine_is_restarted_once_for_what_does_not_die_in_time() {
        let run = tempfile::tempdir().unwrap();
        let sysrq = run.path().join("trigger");
        let mut patient = deadline(run.path(), Some(sysrq.clone()), 600_000);
        assert!(!patient.is_desperate().unwrap(), "the deadline was not looked at yet");
        assert!(patient.has_passed().unwrap() && !patient.is_desperate().unwrap());

        let mut hasty = deadline(run.path(), Some(sysrq.clone()), 0);
        assert!(hasty.has_passed().unwrap() && hasty.is_desperate().unwrap());
        hasty.restart_machine().unwrap();
        assert_eq!(fs::read_to_string(&sysrq).unwrap(), "b");
        assert!(!hasty.is_desperate().unwrap(), "it was ordered");
    }

    #[test]
    fn a_machine_that_may_not_be_restarted_is_not() {
        let run = tempfile::tempdir().unwrap();
        let mut deadline = deadline(run.path(), None, 0);
        assert!(deadline.has_passed().unwrap() && !deadline.is_desperate().unwrap());
    }
}
