//! The supervisors of one hkd, after `src/hkd/supervisor.rs` and `src/hypervisor/container`: they feed the real `Machine`
//! and carry out what it says, in steps between which anything can happen.

use std::{collections::VecDeque, time::Duration};

use crate::{
    hkd::{
        machine::{self, Effect, Limits, Machine, Phase},
        slots::Purpose,
    },
    hypervisor::Exit,
    model::{VmCommand, VmId, VmState},
};

use super::{
    chance::Millis,
    hkd::{After, Hkd, LifeOf, Stage, Then},
    launch::{AfterFree, Job},
    node::{Cause, Number},
    publish::Publisher,
    storage::Operation,
    world::{Event, Input, World},
};

/// What supervises one VM.
pub struct Supervisor {
    life: u32,
    pub machine: Machine,
    /// Numbers what may take long; what is reported of one that was given up is not heard.
    pub step: u32,
    slot: bool,
    /// In the queue for a slot.
    asked: bool,
    /// What follows this life.
    next: Option<Begin>,
    orders: VecDeque<VmCommand>,
    pub publisher: Publisher,
    /// When the next tick is planned.
    due: Option<Millis>,
    pub job: Option<Job>,
    /// Has what it takes to start the VM.
    spec: bool,
}

/// How a supervisor begins.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    Start,
    Adopt { published: VmState, alive: bool, spec: bool },
}

impl Begin {
    /// Nothing of it lives, and the database is to hear that it has stopped.
    pub const ENDED: Self = Self::Adopt { published: VmState::Stopping, alive: false, spec: false };

    /// As a command wants it.
    pub fn of(command: VmCommand) -> Self {
        match command {
            VmCommand::Start => Self::Start,
            VmCommand::Stop => Self::ENDED,
        }
    }
}

pub const LIMITS: Limits = Limits {
    slot: Duration::from_secs(30),
    prepare: Duration::from_secs(10),
    launch: Duration::from_secs(15),
    boot: Duration::from_secs(10),
    boot_count: 5,
    ping_ok: Duration::from_secs(5),
    ping_error: Duration::from_secs(1),
    dead_after: Duration::from_secs(6),
    dead_count: 3,
    ask_pause: Duration::from_secs(1),
    ask_retries: 3,
    shutdown: Duration::from_secs(6),
    kill: Duration::from_secs(5),
    clean: Duration::from_secs(12),
    zombie: Duration::from_secs(3),
    debug: false,
};
/// For one question to an agent.
const RPC: Millis = 1000;
impl Supervisor {
    /// Whether another life follows this one.
    pub fn is_to_begin(&self) -> bool {
        matches!(self.next, Some(Begin::Start)) || self.orders.contains(&VmCommand::Start)
    }
}

impl Hkd {
    fn supervisor(&mut self, life: LifeOf) -> Option<&mut Supervisor> {
        self.supervisors.get_mut(&life.vm).filter(|supervisor| supervisor.life == life.life)
    }
}

impl World {
    pub fn supervisor(&mut self, node: usize, life: LifeOf) -> Option<&mut Supervisor> {
        self.hkd_of(node)?.supervisor(life)
    }

    /// Gives a supervisor to a VM that has none.
    pub fn begin(&mut self, node: usize, number: Number, vm: VmId, begin: Begin) {
        let now = self.nodes[node].clock.instant(self.now());
        let publisher = Publisher::new(begin, self.rules);
        let Some(hkd) = self.hkd_of(node) else { return };
        if hkd.supervisors.contains_key(&vm) {
            return;
        }
        hkd.lives += 1;
        let life = LifeOf { vm, life: hkd.lives, step: 0 };
        let (spec, (machine, effects)) = match begin {
            Begin::Start => (true, Machine::start(true, &LIMITS, now)),
            Begin::Adopt { published, alive, spec } => {
                let published = if !spec && !alive { VmState::Stopping } else { published };
                (spec, Machine::adopt(published, alive, true, &LIMITS, now))
            }
        };
        let supervisor = Supervisor {
            life: life.life,
            machine,
            step: 0,
            slot: false,
            asked: false,
            next: None,
            orders: VecDeque::new(),
            publisher,
            due: None,
            job: None,
            spec,
        };
        hkd.supervisors.insert(vm, supervisor);
        self.note(|| format!("n{node} supervises VM {vm}: {begin:?}"));
        self.carry_out(node, number, life, effects);
    }

    /// The database has lost commits, and does not have a VM as it is here.
    pub fn remind(&mut self, node: usize, number: Number, vm: VmId) {
        let Some(supervisor) = self.hkd_of(node).and_then(|hkd| hkd.supervisors.get(&vm)) else { return };
        let life = LifeOf { vm, life: supervisor.life, step: supervisor.step };
        self.step_machine(node, number, life, machine::Event::Forgotten);
    }

    /// Passes an order to the supervisor of a VM; whether there is one.
    pub fn order(&mut self, node: usize, number: Number, vm: VmId, command: VmCommand) -> bool {
        let Some(supervisor) = self.hkd_of(node).and_then(|hkd| hkd.supervisors.get_mut(&vm)) else { return false };
        let life = LifeOf { vm, life: supervisor.life, step: supervisor.step };
        if supervisor.machine.phase() == Phase::Gone {
            supervisor.orders.push_back(command);
            return true;
        }
        match command {
            // Of the next life, which ends before it began.
            VmCommand::Stop if supervisor.next.is_some() => supervisor.next = Some(Begin::ENDED),
            VmCommand::Stop => self.step_machine(node, number, life, machine::Event::Stop),
            // The database had it stopped, and this life is not about to end.
            VmCommand::Start if supervisor.machine.is_up() => {
                self.step_machine(node, number, life, machine::Event::Forgotten);
            }
            // The start is for the next life.
            VmCommand::Start => supervisor.next = Some(Begin::Start),
        }
        true
    }

    pub fn fleet(&mut self, node: usize, number: Number, input: Input) {
        match input {
            Input::Machine(life, event) => self.step_machine(node, number, life, event),
            Input::Due(life) => self.due(node, number, life),
            Input::Granted(life) => self.granted(node, number, life),
            Input::Stored(After::Prepared(life), _) => {
                if self.in_step(node, life).is_none() {
                    return;
                }
                self.step_machine(node, number, life, machine::Event::Prepared(Ok(())));
            }
            Input::Started(life) => {
                if self.in_step(node, life).is_none() {
                    return;
                }
                self.step_machine(node, number, life, machine::Event::Launched(Ok(())));
            }
            Input::NotStarted(life) => self.not_started(node, number, life),
            Input::Free(life) => self.free(node, number, life),
            Input::Stored(After::GaveUp(life), _) => self.freed(node, number, life),
            Input::GaveUp(life) => {
                if self.in_step(node, life).is_some_and(|it| it.job.as_ref().is_some_and(|job| job.giving_up)) {
                    self.nodes[node].owed.insert(life.vm);
                }
                self.freed(node, number, life);
            }
            Input::Stored(After::Locked(life), stored) => self.locked(node, number, life, stored),
            Input::Stored(After::Forgotten(life), _) => self.furnish(node, number, life),
            Input::Stored(After::Furnished(life), _) => self.furnished(node, number, life),
            Input::Answered(Then::Settled(life, former), answer) => {
                self.settled(node, number, (life, former), answer);
            }
            Input::Answered(Then::Published(life), answer) => self.published(node, number, life, answer),
            Input::WatchExit(life) => self.watch_exit(node, number, life),
            Input::PublishAgain(life) => self.publish_again(node, number, life),
            _ => {}
        }
    }

    pub fn step_machine(&mut self, node: usize, number: Number, life: LifeOf, event: machine::Event) {
        let now = self.nodes[node].clock.instant(self.now());
        let Some(supervisor) = self.supervisor(node, life) else { return };
        if supervisor.machine.phase() == Phase::Gone {
            return;
        }
        let was = supervisor.machine.phase();
        let launch_failed = match &event {
            machine::Event::Launched(Err(why)) if was == Phase::Launching && supervisor.step == life.step => {
                Some(why.clone())
            }
            machine::Event::Launched(Err(_)) => return,
            _ => None,
        };
        if let Some(why) = launch_failed {
            // What was begun is taken back before the failure is told.
            return self.start_job(node, number, life, AfterFree::Failed(why));
        }
        let effects = supervisor.machine.step(event.clone(), &LIMITS, now);
        let is = supervisor.machine.phase();
        if is != was {
            self.note(|| format!("VM {} on n{node}: {was:?} to {is:?} by {event:?}", life.vm));
        }
        self.carry_out(node, number, life, effects);
    }

    fn due(&mut self, node: usize, number: Number, life: LifeOf) {
        let now = self.nodes[node].clock.instant(self.now());
        let Some(supervisor) = self.supervisor(node, life) else { return };
        supervisor.due = None;
        if supervisor.machine.wake_at().is_some_and(|at| at <= now) {
            self.step_machine(node, number, life, machine::Event::Tick);
        } else {
            self.plan_tick(node, number, life);
        }
    }

    fn plan_tick(&mut self, node: usize, number: Number, life: LifeOf) {
        let now = self.now();
        let Some(at) = self.supervisor(node, life).and_then(|supervisor| supervisor.machine.wake_at()) else { return };
        let at = self.nodes[node].clock.when(now, at);
        let Some(supervisor) = self.supervisor(node, life) else { return };
        if supervisor.due.is_none_or(|due| at < due) {
            supervisor.due = Some(at);
            self.schedule.at(at, Event::To { node, number, input: Input::Due(life) });
        }
    }

    pub fn carry_out(&mut self, node: usize, number: Number, life: LifeOf, effects: Vec<Effect>) {
        let vm = life.vm;
        for effect in effects {
            match effect {
                Effect::AskSlot(purpose) => {
                    if let Some(supervisor) = self.supervisor(node, life) {
                        supervisor.asked = true;
                    }
                    match (self.hkd_of(node), purpose) {
                        (Some(hkd), Purpose::Start) => hkd.starts.push_back(life),
                        (Some(hkd), Purpose::Stop) => hkd.stops.push_back(life),
                        (None, _) => {}
                    }
                    self.grant(node, number);
                }
                Effect::Abandon => self.abandon(node, number, life),
                Effect::TellExpiry(_) => {}
                Effect::FreeSlot => self.free_slot(node, number, life),
                Effect::Prepare => match self.supervisor(node, life).is_some_and(|supervisor| supervisor.spec) {
                    true => {
                        let life = self.new_step(node, life);
                        self.store(node, number, Operation::Furnish, After::Prepared(life));
                    }
                    false => {
                        let none = Err("it has no disk image".to_owned());
                        self.report(node, number, life, machine::Event::Prepared(none));
                    }
                },
                Effect::Launch => self.start_job(node, number, life, AfterFree::Launch),
                Effect::WatchExit => self.watch_exit(node, number, life),
                Effect::Ping(limit) => {
                    let limit = limit.map_or(RPC, |limit| limit.as_millis() as Millis);
                    self.schedule.after(2, Event::Agent { node, number, life, poweroff: false, limit });
                }
                Effect::PowerOff => {
                    self.schedule.after(2, Event::Agent { node, number, life, poweroff: true, limit: RPC });
                }
                Effect::PressPowerButton => self.press_power_button(node, number, life),
                Effect::Kill => self.order_kill(node, vm),
                Effect::Clean => self.start_job(node, number, life, AfterFree::Cleaned),
                Effect::Publish(state, reason) => {
                    if let Some(supervisor) = self.supervisor(node, life) {
                        supervisor.publisher.say(state, reason);
                    }
                    self.publish(node, number, life);
                }
                Effect::PutOnRecord => {
                    if let Some(supervisor) = self.supervisor(node, life) {
                        supervisor.publisher.put_on_record();
                    }
                    self.publish(node, number, life);
                }
            }
        }
        self.plan_tick(node, number, life);
        self.retire(node, number, life);
    }

    /// Ends a supervisor that holds nothing and has nothing left to say.
    pub fn retire(&mut self, node: usize, number: Number, life: LifeOf) {
        let Some(supervisor) = self.supervisor(node, life) else { return };
        if supervisor.machine.phase() != Phase::Gone || !supervisor.publisher.is_done() {
            return;
        }
        let next = supervisor.next.or_else(|| supervisor.orders.pop_front().map(Begin::of));
        let rest = std::mem::take(&mut supervisor.orders);
        let mut doubted = false;
        if let Some(hkd) = self.hkd_of(node) {
            let gone = hkd.supervisors.remove(&life.vm);
            // One that was granted too late to be used is dropped with its holder.
            hkd.slots += usize::from(gone.as_ref().is_some_and(|gone| gone.slot));
            doubted = next.is_none() && gone.is_some_and(|gone| !gone.publisher.has_told());
        }
        self.grant(node, number);
        if doubted {
            self.doubt(node, number);
        }
        let Some(begin) = next else { return };
        self.begin(node, number, life.vm, begin);
        for command in rest {
            self.order(node, number, life.vm, command);
        }
    }

    // Slots.

    fn grant(&mut self, node: usize, number: Number) {
        while let Some(hkd) = self.hkd_of(node) {
            if hkd.slots == 0 {
                return;
            }
            let Some(life) = hkd.stops.pop_front().or_else(|| hkd.starts.pop_front()) else { return };
            if hkd.supervisor(life).is_none_or(|supervisor| !supervisor.asked) {
                continue;
            }
            hkd.slots -= 1;
            self.schedule.after(0, Event::To { node, number, input: Input::Granted(life) });
        }
    }

    fn granted(&mut self, node: usize, number: Number, life: LifeOf) {
        let Some(hkd) = self.hkd_of(node) else { return };
        match hkd.supervisor(life).filter(|supervisor| supervisor.asked) {
            Some(supervisor) => {
                (supervisor.slot, supervisor.asked) = (true, false);
                self.step_machine(node, number, life, machine::Event::Slot);
            }
            // Dropped with whoever wanted it.
            None => {
                hkd.slots += 1;
                self.grant(node, number);
            }
        }
    }

    fn free_slot(&mut self, node: usize, number: Number, life: LifeOf) {
        let Some(hkd) = self.hkd_of(node) else { return };
        let Some(supervisor) = hkd.supervisor(life) else { return };
        supervisor.asked = false;
        hkd.slots += usize::from(std::mem::take(&mut supervisor.slot));
        self.grant(node, number);
    }

    // Agent and exit.

    pub fn agent(&mut self, node: usize, number: Number, life: LifeOf, poweroff: bool, limit: Millis) {
        let now = self.now();
        let run = self.nodes[node].runs.get(&life.vm).filter(|run| run.dying.is_none());
        let answers = run.is_some_and(|run| run.boots <= now && run.mute_until <= now);
        let (wait, outcome) = match (answers, run) {
            (true, _) => (1, Ok(())),
            (false, Some(_)) => (limit, Err("no answer".to_owned())),
            (false, None) => (1, Err("refused".to_owned())),
        };
        if answers && let Some(run) = self.nodes[node].runs.get_mut(&life.vm) {
            run.came_up = true;
        }
        if answers && poweroff {
            self.power_off_run(node, life.vm);
        }
        let event = if poweroff { machine::Event::PoweredOff(outcome) } else { machine::Event::Pinged(outcome) };
        self.schedule.after(wait, Event::To { node, number, input: Input::Machine(life, event) });
    }

    /// Some have one; an agent that is mute does not keep the system around it from ending.
    fn press_power_button(&mut self, node: usize, number: Number, life: LifeOf) {
        let lives = self.nodes[node].runs.get(&life.vm).is_some_and(|run| run.dying.is_none());
        let pressed = lives && self.chance.percent(50);
        if pressed {
            self.power_off_run(node, life.vm);
        }
        let outcome = if pressed { Ok(()) } else { Err("it has no power button".to_owned()) };
        self.report(node, number, life, machine::Event::PoweredOff(outcome));
    }

    fn power_off_run(&mut self, node: usize, vm: VmId) {
        self.judge_end(node, vm, Cause::PoweredOff);
        let takes = self.chance.between(50, 4000);
        self.end_run(node, vm, Cause::PoweredOff, takes);
    }

    fn watch_exit(&mut self, node: usize, number: Number, life: LifeOf) {
        let it = &mut self.nodes[node];
        match (it.shims.get_mut(&life.vm), it.runs.contains_key(&life.vm)) {
            (Some(shim), _) => shim.state.waiting.push((number, life)),
            // A shim that died took its VM with it; it is made sure.
            (None, true) => {
                self.kill_run(node, life.vm, Cause::Killed);
                self.schedule.after(20, Event::To { node, number, input: Input::WatchExit(life) });
            }
            (None, false) => self.report(node, number, life, machine::Event::Exited(Exit::Unseen)),
        }
    }

    // What may take long.

    /// Begins something that may take long.
    pub fn new_step(&mut self, node: usize, life: LifeOf) -> LifeOf {
        let Some(supervisor) = self.supervisor(node, life) else { return life };
        supervisor.step += 1;
        LifeOf { step: supervisor.step, ..life }
    }

    /// The supervisor, if it has not given up since what this is about.
    pub fn in_step(&mut self, node: usize, life: LifeOf) -> Option<&mut Supervisor> {
        self.supervisor(node, life).filter(|supervisor| supervisor.step == life.step)
    }

    /// Gives up what is under way.
    fn abandon(&mut self, node: usize, number: Number, life: LifeOf) {
        self.new_step(node, life);
        self.unlock(number, life.vm);
        if let Some(supervisor) = self.supervisor(node, life) {
            supervisor.job = None;
        }
        if let Some(shim) = self.nodes[node].shims.get_mut(&life.vm) {
            shim.state.starter = None;
        }
    }

    /// Nobody is at work on it and nothing is left to be published.
    pub fn is_at_rest(&self, node: usize) -> bool {
        self.nodes[node].hkd.as_ref().is_some_and(|hkd| {
            let slots = hkd.state.supervisors.values().filter(|supervisor| supervisor.slot).count();
            hkd.state.stage == Stage::Serving && hkd.state.slots + slots == super::hkd::MAX_HEAVY
        })
    }
}
