//! Keeper and shims, after `src/keeper`: signs of life on the storage, the deadline, the parent of a VM. What holds at a
//! moment is asked of the real fence.

use crate::{
    hypervisor::Exit,
    keeper::fence::{Signer, Verdict},
    model::{Owner, VmId},
};

use super::{
    chance::Millis,
    hkd::{After, LifeOf},
    node::{Cause, Number, Process, Run},
    storage::{Operation, Stored},
    world::{Event, Input, World},
};

/// The parent of one VM.
pub struct Shim {
    pub owner: Owner,
    /// Lapses before the VM began to live; `None` before that.
    pub born: Option<u64>,
    /// Who waits to hear that it runs: hkd's process, and which life of the supervisor.
    pub starter: Option<(Number, LifeOf)>,
    /// Who waits for the end.
    pub waiting: Vec<(Number, LifeOf)>,
    pub struck: bool,
}

/// Between two signs.
pub const INTERVAL: Millis = 2000;
/// T.
pub const PATIENCE: Millis = 10_000;
/// How often a node that signed off is looked at.
const LEISURE: Millis = 1000;
/// For a VM that must die, before the machine is restarted: half of the margin.
const DEAD_WITHIN: Millis = 1000;

impl World {
    /// For how long VMs may live after a sign.
    pub fn limit(&self) -> std::time::Duration {
        std::time::Duration::from_millis(PATIENCE) - self.rules.margin
    }

    pub fn signed(&mut self, node: usize, signer: Signer, began: Millis) {
        let (now, limit) = (self.now(), self.limit());
        let it = &mut self.nodes[node];
        let began = crate::keeper::fence::BootTime::after_boot(std::time::Duration::from_millis(began));
        it.fence.set(signer, began + limit, it.clock.boot_time(now));
    }

    pub fn keeper(&mut self, node: usize, number: Number, input: Input) {
        let now = self.now();
        match input {
            Input::Timer(_) if self.nodes[node].orders => {
                let began = self.nodes[node].clock.local(now);
                if let Some(keeper) = &mut self.nodes[node].keeper {
                    keeper.state = began;
                }
                self.store(node, number, Operation::Beat, After::Beat);
            }
            Input::Timer(_) => self.timer(node, number, INTERVAL, 0),
            Input::Stored(After::Beat, _) => {
                let Some(began) = self.nodes[node].keeper.as_ref().map(|keeper| keeper.state) else { return };
                self.signed(node, Signer::Keeper, began);
                let next = (began + INTERVAL).saturating_sub(self.nodes[node].clock.local(now));
                self.timer(node, number, next, 0);
            }
            _ => {}
        }
    }

    /// hkd starts a shim.
    pub fn start_shim(&mut self, node: usize, hkd: Number, life: LifeOf, owner: Owner) {
        let vm = life.vm;
        if self.nodes[node].shims.contains_key(&vm) {
            let error = Err("it has a shim already".to_owned());
            return self.report(node, hkd, life, crate::hkd::machine::Event::Launched(error));
        }
        let number = self.new_number();
        let shim =
            Shim { owner: owner.clone(), born: None, starter: Some((hkd, life)), waiting: vec![], struck: false };
        self.nodes[node].shims.insert(vm, Process::new(number, shim));
        self.store(node, number, Operation::Own(vm, owner), After::Owned);
    }

    pub fn shim(&mut self, node: usize, vm: VmId, number: Number, input: Input) {
        match input {
            Input::Stored(After::Owned, Stored::Done) => {
                if !self.nodes[node].directories.contains(&vm) {
                    // hkd did not wait for it, and nobody else will give the VM up.
                    return self.give_up(node, vm, number);
                }
                let lapses = self.nodes[node].fence.lapses();
                if let Some(shim) = self.nodes[node].shims.get_mut(&vm) {
                    shim.state.born = Some(lapses);
                }
                let delay = self.chance.between(1, 20);
                self.schedule.after(delay, Event::To { node, number, input: Input::Spawn });
            }
            Input::Stored(After::Owned, _) => self.shim_failed(node, vm, "locked by another process"),
            Input::Spawn => self.spawn(node, vm, number),
            Input::Kill => self.kill_run(node, vm, Cause::Killed),
            Input::Timer(1) => self.despair(node, vm),
            Input::Timer(_) => self.obey_fence(node, vm, number),
            Input::Dead(cause) => {
                // A storage that hangs, which is why the VM was killed, would keep the news back.
                if cause == Cause::Fenced {
                    self.shim_ends(node, vm, Exit::Fenced);
                } else {
                    self.give_up(node, vm, number);
                }
            }
            Input::Stored(After::Disowned, _) => self.shim_ends(node, vm, Exit::Signal(9)),
            _ => {}
        }
    }

    fn give_up(&mut self, node: usize, vm: VmId, number: Number) {
        let owner = self.nodes[node].shims[&vm].state.owner.clone();
        self.store(node, number, Operation::Disown(vm, owner), After::Disowned);
    }

    fn shim_failed(&mut self, node: usize, vm: VmId, why: &str) {
        let Some(shim) = self.nodes[node].shims.remove(&vm) else { return };
        self.unlock_all(shim.number);
        if let Some((hkd, life)) = shim.state.starter {
            self.report(node, hkd, life, crate::hkd::machine::Event::Launched(Err(why.to_owned())));
        }
    }

    fn spawn(&mut self, node: usize, vm: VmId, number: Number) {
        let run = self.new_number();
        let now = self.now();
        let boots = now + if self.calm { 300 } else { self.chance.between(50, 3000) };
        self.note(|| format!("VM {vm} begins to live on n{node}"));
        if self.nodes[node].runs.contains_key(&vm) {
            return self.violated(format!("VM {vm} lives twice on n{node}"));
        }
        let commanded = self.nodes[node].stops.contains(&vm);
        self.nodes[node].runs.insert(
            vm,
            Run { number: run, boots, mute_until: 0, was_mute: false, came_up: false, commanded, dying: None },
        );
        self.judge_double(vm);
        self.obey_fence(node, vm, number);
        let Some(shim) = self.nodes[node].shims.get_mut(&vm) else { return };
        if let Some((hkd, life)) = shim.state.starter.take() {
            self.schedule.after(15, Event::To { node, number: hkd, input: Input::Started(life) });
        }
    }

    fn obey_fence(&mut self, node: usize, vm: VmId, number: Number) {
        let now = self.now();
        let it = &mut self.nodes[node];
        let Some(shim) = it.shims.get_mut(&vm) else { return };
        let Some(born) = shim.state.born else { return };
        if shim.state.struck || !it.runs.contains_key(&vm) {
            return;
        }
        match it.fence.verdict(born, it.clock.boot_time(now)) {
            Verdict::Die => {
                shim.state.struck = true;
                self.timer(node, number, DEAD_WITHIN, 1);
                self.kill_run(node, vm, Cause::Fenced);
            }
            Verdict::LiveUntil(Some(deadline)) => {
                let at = it.clock.when_booted(now, deadline);
                self.schedule.at(at, Event::To { node, number, input: Input::Timer(0) });
            }
            Verdict::LiveUntil(None) => self.timer(node, number, LEISURE, 0),
        }
    }

    fn despair(&mut self, node: usize, vm: VmId) {
        if self.rules.reboot && self.nodes[node].runs.contains_key(&vm) {
            self.note(|| format!("what must be dead does not die; n{node} is restarted"));
            self.power_off(node);
            self.schedule.after(8000, Event::Boot(node));
        }
    }

    /// Sends SIGKILL to the processes of a VM.
    pub fn kill_run(&mut self, node: usize, vm: VmId, cause: Cause) {
        let Some(run) = self.nodes[node].runs.get(&vm) else { return };
        if run.dying.is_some() {
            return;
        }
        self.judge_end(node, vm, cause);
        let takes = match cause {
            Cause::Killed | Cause::Fenced => self.nodes[node].undying.take(),
            _ => None,
        };
        let takes = takes.unwrap_or_else(|| self.chance.between(2, 50));
        self.end_run(node, vm, cause, takes);
    }

    /// Lets the processes of a VM end after a while.
    pub fn end_run(&mut self, node: usize, vm: VmId, cause: Cause, takes: Millis) {
        let Some(run) = self.nodes[node].runs.get_mut(&vm) else { return };
        let first = run.dying.is_none();
        run.dying.get_or_insert(cause);
        let number = run.number;
        if first || cause == Cause::ShimDied {
            self.note(|| format!("VM {vm} is to end on n{node} within {takes} ms: {cause:?}"));
        }
        self.schedule.after(takes, Event::Die { node, vm, run: number });
    }

    /// The last process of a VM is dead.
    pub fn died(&mut self, node: usize, vm: VmId, run: Number) {
        if self.nodes[node].runs.get(&vm).is_none_or(|it| it.number != run) {
            return;
        }
        let Some(run) = self.nodes[node].runs.remove(&vm) else { return };
        self.note(|| format!("VM {vm} is dead on n{node}"));
        self.hang_up(run.number, 2);
        if let Some(shim) = self.nodes[node].shims.get(&vm).map(|shim| shim.number) {
            let cause = run.dying.unwrap_or(Cause::ByItself);
            self.schedule.after(1, Event::To { node, number: shim, input: Input::Dead(cause) });
        }
    }

    fn shim_ends(&mut self, node: usize, vm: VmId, exit: Exit) {
        let Some(shim) = self.nodes[node].shims.remove(&vm) else { return };
        self.unlock_all(shim.number);
        for (hkd, life) in shim.state.waiting {
            self.report(node, hkd, life, crate::hkd::machine::Event::Exited(exit));
        }
        if let Some((hkd, life)) = shim.state.starter {
            let ended = Err("it ended at once".to_owned());
            self.report(node, hkd, life, crate::hkd::machine::Event::Launched(ended));
        }
    }

    /// SIGKILL for a shim: its VM dies with it.
    pub fn kill_shim(&mut self, node: usize, vm: VmId) {
        let Some(shim) = self.nodes[node].shims.remove(&vm) else { return };
        self.note(|| format!("the shim of VM {vm} on n{node} is killed"));
        self.unlock_all(shim.number);
        let takes = self.chance.between(1, 5);
        self.end_run(node, vm, Cause::ShimDied, takes);
        for (hkd, life) in shim.state.waiting {
            self.schedule.after(1, Event::To { node, number: hkd, input: Input::WatchExit(life) });
        }
        if let Some((hkd, life)) = shim.state.starter {
            let error = Err("its shim died".to_owned());
            self.report(node, hkd, life, crate::hkd::machine::Event::Launched(error));
        }
    }
}
