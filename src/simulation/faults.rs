//! What goes wrong, and what people do meanwhile. A plan is made from the seed before the world begins, so that a world
//! can be tried again with fewer faults.

use crate::model::{HostId, VmId, VmState};

use super::{
    chance::{Chance, Millis},
    database::Call,
    node::{Cause, Daemon},
    world::{Event, World},
};

/// One thing that goes wrong; those that last are mended after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill(usize, Daemon),
    KillShim(usize),
    Stop(usize, Daemon),
    StopShims(usize),
    StopAll(usize),
    KillAll(usize),
    Freeze(usize),
    PowerOff(usize),
    CutDatabase(usize),
    CutStorage(usize),
    CutBoth(usize),
    DatabaseDown,
    DatabaseRestarts,
    /// A standby gets no more commits, and takes over when this is mended.
    StandbyLags,
    Deaf(usize),
    SlowStorage(usize),
    Undying(usize),
    Unclean(usize),
    ClockJumps,
    Drift(usize, u64),
    MuteAgent(usize),
    EndsByItself(usize),
    Restart(usize),
    /// Somebody comes for every desktop at once.
    Crowd,
}

/// The longest that a standby is behind.
const LAG: Millis = 800;

/// When, what, and for how long.
pub type Plan = Vec<(Millis, Fault, Millis)>;

/// A plan for some nodes: a few faults before `end`, mended by then.
pub fn plan(chance: &mut Chance, nodes: usize, end: Millis) -> Plan {
    let count = chance.between(1, 10);
    let mut plan = Vec::new();
    for _ in 0..count {
        let at = chance.between(8000, end - 1000);
        let lasts = match chance.index(3) {
            0 => chance.between(50, 3000),
            1 => chance.between(3000, 14_000),
            _ => chance.between(9000, 40_000),
        };
        let node = chance.index(nodes);
        let daemon = Daemon::ALL[chance.index(Daemon::ALL.len())];
        let fault = match chance.index(25) {
            0 | 1 => Fault::Kill(node, daemon),
            2 => Fault::KillShim(node),
            3 => Fault::Stop(node, daemon),
            4 => Fault::StopShims(node),
            5 => Fault::StopAll(node),
            6 => Fault::KillAll(node),
            7 => Fault::Freeze(node),
            8 => Fault::PowerOff(node),
            9 => Fault::CutDatabase(node),
            10 => Fault::CutStorage(node),
            11 | 12 => Fault::CutBoth(node),
            13 => Fault::DatabaseDown,
            14 => Fault::DatabaseRestarts,
            15 => Fault::Deaf(node),
            16 => Fault::SlowStorage(node),
            17 => Fault::Undying(node),
            18 => Fault::Unclean(node),
            19 => Fault::ClockJumps,
            20 => Fault::Drift(node, chance.between(970_000, 1_030_000)),
            21 => Fault::MuteAgent(node),
            22 => Fault::StandbyLags,
            23 => Fault::Crowd,
            _ if chance.percent(50) => Fault::EndsByItself(node),
            _ => Fault::Restart(node),
        };
        let longest = if fault == Fault::StandbyLags { LAG } else { end - at };
        plan.push((at, fault, lasts.min(longest)));
    }
    plan.sort_by_key(|(at, ..)| *at);
    plan
}

impl World {
    pub fn befall(&mut self, fault: Fault) {
        self.note(|| format!("FAULT {fault:?}"));
        match fault {
            Fault::Kill(node, daemon) => self.exit(node, daemon),
            Fault::KillShim(node) => {
                if let Some(vm) = self.some_vm(node) {
                    self.kill_shim(node, vm);
                }
            }
            Fault::Stop(node, daemon) => self.stop(node, daemon, true),
            // Who can neither be killed nor be held off by a lock runs on; nothing but power helps against that.
            Fault::StopShims(node) if !self.nodes[node].storage_cut && self.holds_its_locks(node) => {
                self.stop_shims(node, true);
            }
            Fault::StopShims(_) => {}
            Fault::StopAll(node) => {
                Daemon::ALL.iter().for_each(|daemon| self.stop(node, *daemon, true));
                self.befall(Fault::StopShims(node));
            }
            Fault::KillAll(node) => {
                Daemon::ALL.iter().for_each(|daemon| self.exit(node, *daemon));
                let vms: Vec<VmId> = self.nodes[node].shims.keys().copied().collect();
                vms.into_iter().for_each(|vm| self.kill_shim(node, vm));
            }
            Fault::Freeze(node) => self.freeze(node, true),
            Fault::PowerOff(node) => self.power_off(node),
            Fault::CutDatabase(node) => {
                self.nodes[node].database_cut = true;
                self.server.listeners.remove(&node);
            }
            Fault::CutStorage(node) => {
                self.stop_shims(node, false);
                self.nodes[node].storage_cut = true;
                self.lose_sight(node);
            }
            Fault::CutBoth(node) => {
                self.befall(Fault::CutDatabase(node));
                self.befall(Fault::CutStorage(node));
            }
            Fault::DatabaseDown => {
                self.server.up = false;
                self.server.number += 1;
                self.drop_listeners();
            }
            Fault::DatabaseRestarts => {
                self.server.number += 1;
                self.drop_listeners();
            }
            Fault::StandbyLags => self.server.standby = Some(self.server.database.clone()),
            Fault::Deaf(node) => self.nodes[node].deaf = true,
            Fault::SlowStorage(node) => self.nodes[node].slow_storage = true,
            Fault::Undying(node) => self.nodes[node].undying = Some(self.chance.between(500, 30_000)),
            Fault::Unclean(node) => self.nodes[node].unclean += self.chance.between(1, 4) as u32,
            Fault::ClockJumps => {
                let jump = self.chance.between(0, 130_000) as i64 - 10_000;
                self.server.skew += jump;
            }
            Fault::Drift(node, rate) => {
                let now = self.now();
                self.nodes[node].clock.set_rate(now, rate);
            }
            Fault::MuteAgent(node) => {
                let until = self.now() + self.chance.between(1000, 20_000);
                if let Some(vm) = self.some_vm(node)
                    && let Some(run) = self.nodes[node].runs.get_mut(&vm)
                {
                    (run.mute_until, run.was_mute) = (until, true);
                }
            }
            Fault::EndsByItself(node) => {
                if let Some(vm) = self.some_vm(node) {
                    self.end_run(node, vm, Cause::ByItself, 1);
                }
            }
            Fault::Crowd => {
                let vms: Vec<VmId> = self.server.database.vms.keys().copied().collect();
                for vm in vms {
                    let router = self.chance.index(self.nodes.len());
                    self.come(vm, router, 0);
                }
            }
            Fault::Restart(node) => {
                if let Some(number) = self.nodes[node].number(Daemon::Hkd) {
                    self.schedule.after(1, Event::To { node, number, input: super::world::Input::Terminate });
                }
            }
        }
    }

    pub fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::Stop(node, daemon) => self.stop(node, daemon, false),
            Fault::StopShims(node) => self.stop_shims(node, false),
            Fault::StopAll(node) => {
                Daemon::ALL.iter().for_each(|daemon| self.stop(node, *daemon, false));
                self.stop_shims(node, false);
            }
            Fault::Freeze(node) => self.freeze(node, false),
            Fault::PowerOff(node) => self.schedule.after(1, Event::Boot(node)),
            Fault::CutDatabase(node) => self.nodes[node].database_cut = false,
            Fault::CutStorage(node) => {
                self.nodes[node].storage_cut = false;
                self.unpark(node);
            }
            Fault::CutBoth(node) => {
                self.mend(Fault::CutDatabase(node));
                self.mend(Fault::CutStorage(node));
            }
            Fault::DatabaseDown => self.server.up = true,
            Fault::StandbyLags => self.promote(),
            Fault::Deaf(node) => self.nodes[node].deaf = false,
            Fault::SlowStorage(node) => self.nodes[node].slow_storage = false,
            _ => return,
        }
        self.note(|| format!("mended: {fault:?}"));
    }

    /// Everything is mended, and nothing goes wrong any more.
    pub fn calm_down(&mut self) {
        self.note(|| "all is mended".to_owned());
        self.calm = true;
        self.server.up = true;
        let now = self.now();
        for node in 0..self.nodes.len() {
            self.freeze(node, false);
            Daemon::ALL.iter().for_each(|daemon| self.stop(node, *daemon, false));
            self.stop_shims(node, false);
            self.nodes[node].database_cut = false;
            self.nodes[node].storage_cut = false;
            self.unpark(node);
            self.nodes[node].deaf = false;
            self.nodes[node].slow_storage = false;
            (self.nodes[node].undying, self.nodes[node].unclean) = (None, 0);
            self.nodes[node].clock.set_rate(now, 1_000_000);
            for run in self.nodes[node].runs.values_mut() {
                run.mute_until = 0;
            }
            if !self.nodes[node].on {
                self.schedule.after(1, Event::Boot(node));
            }
            let host = self.nodes[node].host;
            let _ = self.transact(&Call::HostBlock { node: host, blocked: false });
        }
    }

    fn some_vm(&mut self, node: usize) -> Option<VmId> {
        let vms: Vec<VmId> = self.nodes[node].runs.keys().copied().collect();
        (!vms.is_empty()).then(|| vms[self.chance.index(vms.len())])
    }

    /// Whether the storage has not lost the locks of what a node runs.
    fn holds_its_locks(&self, node: usize) -> bool {
        self.nodes[node].runs.keys().all(|vm| self.storage.locks.get(vm).is_some_and(|(holder, _)| *holder == node))
    }

    /// An administrator does something, and will again.
    pub fn administrate(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.chance.between(100, 6000);
        self.schedule.after(pause, Event::Administrate);
        if !self.server.up {
            return;
        }
        let vm = VmId(self.chance.index(self.server.database.vms.len()) as i32);
        let node = HostId(self.chance.index(self.nodes.len()) as i32);
        let stopped = self.server.database.vms[&vm].state == VmState::Stopped;
        let call = match self.chance.index(12) {
            0..=7 if stopped => Call::VmStart { vm },
            0..=2 => Call::VmStop { vm },
            3 | 4 => Call::VmDisconnect { vm },
            8 => Call::HostBlock { node, blocked: self.chance.percent(30) },
            9 if self.is_gone(node) => Call::HostRelease { node },
            10 => Call::VmStart { vm },
            11 => Call::VmStop { vm },
            _ => return,
        };
        let answer = self.transact(&call);
        self.heed(&call, &answer);
    }

    /// Administrators release only what they have seen to be off.
    fn is_gone(&self, node: HostId) -> bool {
        !self.nodes[node.0 as usize].on
    }
}
