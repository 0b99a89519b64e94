//! How a supervisor frees what a VM left, and launches it, after `src/hypervisor/container`: one step after the other,
//! between which anything can happen, also that nobody waits for the rest.

use crate::{hkd::machine, model::Owner};

use super::{
    chance::Millis,
    database::{Answer, Call},
    fleet::LIMITS,
    hkd::{After, LifeOf, Then},
    node::{Cause, Number},
    storage::{Operation, Stored},
    world::{Event, Failure, Input, World},
};

/// Freeing what a VM left.
pub struct Job {
    began: Millis,
    killed: bool,
    pub giving_up: bool,
    then: AfterFree,
}

#[derive(Clone, Debug)]
pub enum AfterFree {
    Cleaned,
    Launch,
    Failed(String),
}

/// For the dead to leave their groups, for the storage to note that a VM is nobody's, for a shim to answer.
const DEAD: Millis = 5000;
const GIVE_UP: Millis = 3000;
const SHIM: Millis = 10_000;

impl World {
    // Freeing.

    pub fn start_job(&mut self, node: usize, number: Number, life: LifeOf, then: AfterFree) {
        let now = self.now();
        let life = self.new_step(node, life);
        let Some(supervisor) = self.supervisor(node, life) else { return };
        supervisor.job = Some(Job { began: now, killed: false, giving_up: false, then });
        self.schedule.after(1, Event::To { node, number, input: Input::Free(life) });
    }

    pub fn free(&mut self, node: usize, number: Number, life: LifeOf) {
        let (now, vm) = (self.now(), life.vm);
        let shim = self.nodes[node].shims.get(&vm).map(|shim| (shim.stopped, shim.state.born.is_some()));
        let runs = self.nodes[node].runs.contains_key(&vm);
        let Some(job) = self.in_step(node, life).and_then(|supervisor| supervisor.job.as_mut()) else { return };
        let (first, waited) = (!std::mem::replace(&mut job.killed, true), now - job.began);
        let again = Event::To { node, number, input: Input::Free(life) };
        match shim {
            // Asked for its socket, one that has none yet is none.
            Some((stopped, true)) => {
                if first {
                    self.order_kill(node, vm);
                }
                if stopped && waited > SHIM {
                    return self.not_freed(node, number, life, "its shim does not answer");
                }
                self.schedule.after(20, again);
            }
            _ if runs => {
                self.kill_run(node, vm, Cause::Killed);
                if waited > DEAD {
                    return self.not_freed(node, number, life, "its processes do not die");
                }
                self.schedule.after(20, again);
            }
            _ => {
                job.giving_up = true;
                self.store(node, number, Operation::GiveUp(vm), After::GaveUp(life));
                self.schedule.after(GIVE_UP, Event::To { node, number, input: Input::GaveUp(life) });
            }
        }
    }

    /// Nothing lives any more, and the storage knows or does not answer.
    pub fn freed(&mut self, node: usize, number: Number, life: LifeOf) {
        let unclean = self.nodes[node].unclean;
        let Some(supervisor) = self.in_step(node, life) else { return };
        if !supervisor.job.as_ref().is_some_and(|job| job.giving_up) {
            return;
        }
        if unclean > 0 {
            self.nodes[node].unclean -= 1;
            return self.not_freed(node, number, life, "it cannot be unmounted");
        }
        let Some(job) = self.supervisor(node, life).and_then(|supervisor| supervisor.job.take()) else { return };
        if self.nodes[node].runs.contains_key(&life.vm) {
            self.violated(format!("n{node} frees what VM {} uses", life.vm));
        }
        let it = &mut self.nodes[node];
        it.mounts.remove(&life.vm);
        it.directories.remove(&life.vm);
        match job.then {
            AfterFree::Cleaned => self.step_machine(node, number, life, machine::Event::Cleaned(Ok(()))),
            AfterFree::Failed(why) => self.launch_failed(node, number, life, why),
            AfterFree::Launch => {
                self.nodes[node].directories.insert(life.vm);
                self.store(node, number, Operation::Lock(life.vm), After::Locked(life));
            }
        }
    }

    fn not_freed(&mut self, node: usize, number: Number, life: LifeOf, why: &str) {
        let Some(job) = self.supervisor(node, life).and_then(|supervisor| supervisor.job.take()) else { return };
        match job.then {
            AfterFree::Cleaned => {
                self.step_machine(node, number, life, machine::Event::Cleaned(Err(why.to_owned())));
            }
            AfterFree::Failed(why) => self.launch_failed(node, number, life, why),
            AfterFree::Launch => self.launch_failed(node, number, life, why.to_owned()),
        }
    }

    // Launching.

    /// What was begun has been taken back.
    fn launch_failed(&mut self, node: usize, number: Number, life: LifeOf, why: String) {
        let now = self.nodes[node].clock.instant(self.now());
        let Some(supervisor) = self.supervisor(node, life) else { return };
        let effects = supervisor.machine.step(machine::Event::Launched(Err(why)), &LIMITS, now);
        self.carry_out(node, number, life, effects);
    }

    /// It fails before a shim is there.
    fn give_up_launch(&mut self, node: usize, number: Number, life: LifeOf, why: &str) {
        self.unlock(number, life.vm);
        self.start_job(node, number, life, AfterFree::Failed(why.to_owned()));
    }

    pub fn locked(&mut self, node: usize, number: Number, life: LifeOf, stored: Stored) {
        if self.in_step(node, life).is_none() {
            if matches!(stored, Stored::Locked(_)) {
                self.unlock(number, life.vm);
            }
            return;
        }
        match stored {
            Stored::Locked(Some(former)) if former.host != self.nodes[node].host => {
                let Owner { host, epoch, .. } = former;
                self.call(node, number, Call::EpochIsOver { node: host, epoch }, Then::Settled(life, former));
            }
            // What ran here is dead, or its shim would have the lock.
            Stored::Locked(Some(former)) => {
                self.store(node, number, Operation::Disown(life.vm, former), After::Forgotten(life));
            }
            Stored::Locked(None) => self.furnish(node, number, life),
            _ => self.give_up_launch(node, number, life, "its home is in use"),
        }
    }

    pub fn settled(
        &mut self,
        node: usize,
        number: Number,
        (life, former): (LifeOf, Owner),
        answer: Result<Answer, Failure>,
    ) {
        if self.in_step(node, life).is_none() {
            return;
        }
        match answer {
            Ok(Answer::Flag(true)) => {
                self.store(node, number, Operation::Disown(life.vm, former), After::Forgotten(life));
            }
            Ok(_) => self.give_up_launch(node, number, life, "it belongs to a host that lives"),
            Err(_) => self.give_up_launch(node, number, life, "nobody knows whether its owner lives"),
        }
    }

    pub fn furnish(&mut self, node: usize, number: Number, life: LifeOf) {
        if self.in_step(node, life).is_none() {
            return;
        }
        self.store(node, number, Operation::Furnish, After::Furnished(life));
    }

    pub fn furnished(&mut self, node: usize, number: Number, life: LifeOf) {
        if self.in_step(node, life).is_none() {
            return;
        }
        self.unlock(number, life.vm);
        self.nodes[node].mounts.insert(life.vm);
        let owner = self.owner(node);
        self.start_shim(node, number, life, owner);
        self.schedule.after(SHIM, Event::To { node, number, input: Input::NotStarted(life) });
    }

    /// A shim that is not ready by now is not waited for.
    pub fn not_started(&mut self, node: usize, number: Number, life: LifeOf) {
        let Some(shim) = self.nodes[node].shims.get_mut(&life.vm) else { return };
        if shim.state.starter.take_if(|starter| *starter == (number, life)).is_some() {
            let late = Err("its shim is not ready in time".to_owned());
            self.step_machine(node, number, life, machine::Event::Launched(late));
        }
    }
}
