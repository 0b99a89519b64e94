//! A machine and what runs on it: its clock, its processes, and the truth about its VMs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    keeper::fence::{BootTime, Fence},
    model::{HostId, VmId},
};

use super::{
    chance::Millis,
    hkd::Hkd,
    router::Router,
    shim::Shim,
    world::{Event, Input},
};

/// Numbers processes of all nodes; none is used twice.
pub type Number = u32;

/// The daemons that a watchdog starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    Hkd,
    Keeper,
    L7r,
}

impl Daemon {
    pub const ALL: [Self; 3] = [Self::Hkd, Self::Keeper, Self::L7r];
}

/// A process, stopped (SIGSTOP) or not. What reaches a stopped one waits.
pub struct Process<T> {
    pub number: Number,
    pub stopped: bool,
    pub backlog: Vec<Input>,
    pub state: T,
}

impl<T> Process<T> {
    pub fn new(number: Number, state: T) -> Self {
        Self { number, stopped: false, backlog: Vec::new(), state }
    }
}

/// One machine.
pub struct Node {
    pub host: HostId,
    /// Which boot of the machine this is.
    pub boot: u64,
    pub on: bool,
    /// The whole machine stands still, its clock too goes on: a virtual one that was suspended.
    pub frozen: bool,
    pub clock: Clock,
    pub database_cut: bool,
    pub storage_cut: bool,
    /// Counts cuts of the storage, so that a lease of the locks ends only with its own.
    pub cuts: u32,
    pub slow_storage: bool,
    /// Notifications do not reach it although the connection looks well.
    pub deaf: bool,
    /// It or its shims stood still, so it may have been given up; until then its VMs may be seen beside their successors.
    pub excused_until: Millis,
    /// What waits for the storage to come back.
    pub parked: Vec<Event>,
    /// In memory: gone with the boot.
    pub fence: Fence,
    pub orders: bool,
    /// When it last renewed its lease.
    pub leased_at: Millis,
    pub directories: BTreeSet<VmId>,
    pub mounts: BTreeSet<VmId>,
    pub hkd: Option<Process<Hkd>>,
    pub keeper: Option<Process<u64>>,
    pub l7r: Option<Process<Router>>,
    pub shims: BTreeMap<VmId, Process<Shim>>,
    /// The VMs that have processes here.
    pub runs: BTreeMap<VmId, Run>,
    /// Those whose stop was claimed since they were last to be started.
    pub stops: BTreeSet<VmId>,
    /// The storage did not answer when it was to note that these are nobody's.
    pub owed: BTreeSet<VmId>,
    /// The next kill meets a process that does not die for so long.
    pub undying: Option<Millis>,
    /// So many times nothing can be cleaned up.
    pub unclean: u32,
}

/// The processes of one VM, from the first to the death of the last.
#[derive(Clone, Debug)]
pub struct Run {
    pub number: Number,
    /// When its agent answers for the first time.
    pub boots: Millis,
    /// Its agent does not answer until then.
    pub mute_until: Millis,
    /// It was mute at some time, so its node may have given it up.
    pub was_mute: bool,
    /// Its agent has answered, so it may have a user.
    pub came_up: bool,
    /// Somebody with the right to it wants it to end.
    pub commanded: bool,
    /// What ends it.
    pub dying: Option<Cause>,
}

/// What ends the processes of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    PoweredOff,
    Killed,
    Fenced,
    ShimDied,
    ByItself,
}

/// A clock that counts from boot and goes a little wrong.
pub struct Clock {
    zero: Instant,
    real: Millis,
    local: Millis,
    /// Parts per million of the true rate.
    rate: u64,
}

impl Clock {
    pub fn new(zero: Instant, real: Millis, rate: u64) -> Self {
        Self { zero, real, local: 0, rate }
    }

    /// Milliseconds that it has counted.
    pub fn local(&self, real: Millis) -> Millis {
        self.local + (real - self.real) * self.rate / 1_000_000
    }

    /// From now on it goes this fast.
    pub fn set_rate(&mut self, real: Millis, rate: u64) {
        (self.local, self.real, self.rate) = (self.local(real), real, rate);
    }

    pub fn boot_time(&self, real: Millis) -> BootTime {
        BootTime::after_boot(Duration::from_millis(self.local(real)))
    }

    pub fn instant(&self, real: Millis) -> Instant {
        self.zero + Duration::from_millis(self.local(real))
    }

    /// When it will have counted so much more.
    pub fn after(&self, real: Millis, local: Millis) -> Millis {
        real + (local * 1_000_000).div_ceil(self.rate)
    }

    /// When it will show this.
    pub fn when(&self, real: Millis, instant: Instant) -> Millis {
        let left = instant.saturating_duration_since(self.instant(real));
        self.after(real, left.as_micros().div_ceil(1000) as Millis)
    }

    /// When it will show this time since boot.
    pub fn when_booted(&self, real: Millis, time: BootTime) -> Millis {
        let left = time.since_boot().saturating_sub(Duration::from_millis(self.local(real)));
        self.after(real, left.as_micros().div_ceil(1000) as Millis)
    }
}

impl Node {
    /// A machine that is off.
    pub fn new(host: HostId, zero: Instant) -> Self {
        Self {
            host,
            boot: 0,
            on: false,
            frozen: false,
            clock: Clock::new(zero, 0, 1_000_000),
            database_cut: false,
            storage_cut: false,
            cuts: 0,
            slow_storage: false,
            deaf: false,
            excused_until: 0,
            parked: Vec::new(),
            fence: Fence::in_memory().expect("a page of memory"),
            orders: false,
            leased_at: 0,
            directories: BTreeSet::new(),
            mounts: BTreeSet::new(),
            hkd: None,
            keeper: None,
            l7r: None,
            shims: BTreeMap::new(),
            runs: BTreeMap::new(),
            stops: BTreeSet::new(),
            owed: BTreeSet::new(),
            undying: None,
            unclean: 0,
        }
    }

    /// Whether processes of a VM do anything here.
    pub fn executes(&self, vm: VmId) -> bool {
        self.on && !self.frozen && self.runs.contains_key(&vm)
    }

    pub fn number(&self, daemon: Daemon) -> Option<Number> {
        match daemon {
            Daemon::Hkd => self.hkd.as_ref().map(|process| process.number),
            Daemon::Keeper => self.keeper.as_ref().map(|process| process.number),
            Daemon::L7r => self.l7r.as_ref().map(|process| process.number),
        }
    }

    /// Whether a process lives here.
    pub fn lives(&self, number: Number) -> bool {
        self.on
            && (Daemon::ALL.iter().any(|daemon| self.number(*daemon) == Some(number))
                || self.shims.values().any(|shim| shim.number == number))
    }

    /// What waits for a process that is stopped; `None` when it is not, or the machine stands still.
    pub fn backlog(&mut self, number: Number) -> Option<&mut Vec<Input>> {
        let frozen = self.frozen;
        fn of<T>(process: &mut Process<T>, number: Number, frozen: bool) -> Option<&mut Vec<Input>> {
            (process.number == number && (process.stopped || frozen)).then_some(&mut process.backlog)
        }
        let daemons = [
            self.hkd.as_mut().and_then(|process| of(process, number, frozen)),
            self.keeper.as_mut().and_then(|process| of(process, number, frozen)),
            self.l7r.as_mut().and_then(|process| of(process, number, frozen)),
        ];
        let shims = self.shims.values_mut().find_map(|shim| of(shim, number, frozen));
        daemons.into_iter().flatten().next().or(shims)
    }
}
