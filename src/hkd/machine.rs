//! The life of one VM on its node, as a pure state machine. `ARCHITECTURE.md` has its diagram, which a test compares
//! with what happens here.
//!
//! Every phase but `Running`, `Debugging` and `Gone` has a deadline and a next step, whatever others fail to report.
//! Resources are freed before anything is reported. Time comes in as an argument; effects go out as data.

use std::time::{Duration, Instant};

use crate::{
    hypervisor::Exit,
    model::{Expiry, VmState},
};

use super::slots::Purpose;

/// Where the VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Wants to be started; waits for one of the node's slots.
    Waiting,
    /// Its image is being made ready.
    Preparing,
    /// Storage, network and shim are being set up.
    Launching,
    /// Its processes live; the agent has not answered yet.
    Booting,
    /// The agent answers.
    Running,
    /// The agent is dead and the VM is kept for inspection.
    Debugging,
    /// Is to stop; waits for one of the node's slots, but not for ever.
    WaitingToStop,
    /// It was asked to power off.
    ShuttingDown,
    /// Its processes were killed and are being waited for.
    Killing,
    /// What it left is being freed.
    Cleaning,
    /// Freeing failed and is tried again after a pause.
    Zombie,
    /// It holds nothing any more.
    Gone,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// It may do heavy work.
    Slot,
    /// The image is ready, or why not.
    Prepared(Result<(), String>),
    /// The shim holds it, or why not.
    Launched(Result<(), String>),
    /// The agent answered a ping, or why not.
    Pinged(Result<(), String>),
    /// The agent took the order to power off, or why not.
    PoweredOff(Result<(), String>),
    /// No process of it lives any more.
    Exited(Exit),
    /// Everything is freed, or why not.
    Cleaned(Result<(), String>),
    /// It shall stop.
    Stop,
    /// It shall stop at once, without being asked.
    Kill,
    /// The agent must be told that the VM expires.
    Expires(Expiry),
    /// The agent knows that the VM expires, or why not.
    ToldExpiry(Result<(), String>),
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask for a slot; answer with `Slot`.
    AskSlot(Purpose),
    /// Give the slot back, or ask no more.
    FreeSlot,
    /// Give up the preparing, launching or cleaning that is under way; what it still reports counts no more.
    Abandon,
    /// Make the image ready.
    Prepare,
    /// Start it.
    Launch,
    /// Tell when it has exited.
    WatchExit,
    /// Ping the agent once; with a limit, give up after that long.
    Ping(Option<Duration>),
    /// Ask the agent to power off.
    PowerOff,
    /// Tell the agent that the VM expires.
    TellExpiry(Expiry),
    /// Kill every process.
    Kill,
    /// Free what it left.
    Clean,
    /// Publish a state, with a reason when something went wrong.
    Publish(VmState, Option<String>),
}

/// The states from which `state` is published; in any other the database has moved on, and nothing is written.
pub fn published_from(state: VmState) -> Vec<VmState> {
    VmState::ALL
        .iter()
        .copied()
        .filter(|from| *from != state && *from != VmState::Stopped && from.may_become(state))
        .collect()
}

/// Limits and rhythms.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a slot to become free for a start.
    pub slot: Duration,
    /// For the image to become ready.
    pub prepare: Duration,
    /// For the shim to hold it.
    pub launch: Duration,
    /// For the agent to answer for the first time.
    pub boot: Duration,
    /// Failed pings after which a starting agent may be dead.
    pub boot_count: u32,
    /// Between pings of an agent that answers.
    pub ping_ok: Duration,
    /// Between pings of one that did not.
    pub ping_error: Duration,
    /// Silence after which a running agent may be dead.
    pub dead_after: Duration,
    /// Failed pings after which a running agent may be dead.
    pub dead_count: u32,
    /// Between attempts to ask an agent that did not take an order.
    pub ask_pause: Duration,
    /// Further attempts to ask it to power off.
    pub ask_retries: u32,
    /// For powering off.
    pub shutdown: Duration,
    /// For dying after having been killed.
    pub kill: Duration,
    /// For freeing what it left.
    pub clean: Duration,
    /// Between attempts to clean up.
    pub zombie: Duration,
    /// Keep a VM whose agent died.
    pub debug: bool,
}

/// First pause between pings of a booting agent. It doubles up to `BOOT_PING_MAX`: an agent that is nearly there is
/// noticed at once, one that takes long is not bothered.
const BOOT_PING: Duration = Duration::from_millis(4);
const BOOT_PING_MAX: Duration = Duration::from_millis(250);
/// A ping of a booting agent gives up soon: what is sent before the VM's network is up is lost, and the kernel sends
/// it again only after a second. The limit grows with the pauses, for an agent that is slow to answer.
const BOOT_PING_LIMIT: Duration = Duration::from_millis(20);

/// How a VM gets on, for whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// Since when.
    pub since: Instant,
    /// When the next step follows if nothing happens.
    pub until: Option<Instant>,
    /// Pings that failed in a row, or attempts to clean up.
    pub attempts: u32,
    /// What went wrong last.
    pub note: Option<String>,
}

const STOPPED_EARLY: &str = "it was stopped while it was starting";

/// One VM.
#[derive(Clone, Debug)]
pub struct Machine {
    phase: Phase,
    since: Instant,
    has_agent: bool,
    slot: bool,
    deadline: Option<Instant>,
    ping_at: Option<Instant>,
    ping_pause: Duration,
    last_answer: Instant,
    failures: u32,
    /// A booting agent had its time, but was not asked often enough to be called dead.
    overtime: bool,
    /// How often it could not be cleaned up.
    rounds: u32,
    /// What went wrong last, and may still go well.
    note: Option<String>,
    /// What the agent has still to be told.
    expiry: Option<Expiry>,
    /// When the agent is asked again to do what it did not take: to power off, or to know its expiry.
    ask_at: Option<Instant>,
    /// How often it may still be asked to power off.
    retries: u32,
    reason: Option<String>,
}

impl Machine {
    /// A VM that is to be started.
    pub fn start(has_agent: bool, limits: &Limits, now: Instant) -> (Self, Vec<Effect>) {
        let mut machine = Self::at(Phase::Waiting, has_agent, now);
        machine.deadline = Some(now + limits.slot);
        (machine, vec![Effect::AskSlot(Purpose::Start)])
    }

    /// A VM that a new daemon finds. `published` is what the database says of it, `alive` what the node says.
    pub fn adopt(
        published: VmState,
        alive: bool,
        has_agent: bool,
        limits: &Limits,
        now: Instant,
    ) -> (Self, Vec<Effect>) {
        if published == VmState::Starting && !alive {
            return Self::start(has_agent, limits, now);
        }
        let phase = match (alive, published) {
            (false, _) => Phase::Cleaning,
            (true, VmState::Starting) => Phase::Booting,
            (true, VmState::Running) => Phase::Running,
            (true, VmState::Debugging) => Phase::Debugging,
            (true, VmState::Stopping) => Phase::ShuttingDown,
            // A zombie is dying already; a VM that should not be here must not stay.
            (true, VmState::Zombie | VmState::Stopped) => Phase::Killing,
        };
        let mut machine = Self::at(phase, has_agent, now);
        let effects = match phase {
            Phase::Cleaning => {
                if published == VmState::Running {
                    machine.reason = Some("it ended while no daemon of its node was watching".to_owned());
                }
                machine.clean(limits, now)
            }
            Phase::Booting => {
                machine.deadline = Some(now + limits.boot);
                machine.ping_at = Some(now);
                vec![Effect::WatchExit]
            }
            Phase::Running | Phase::Debugging => {
                machine.ping_at = has_agent.then_some(now);
                vec![Effect::WatchExit]
            }
            Phase::ShuttingDown => {
                let mut effects = vec![Effect::WatchExit];
                effects.extend(machine.shut_down(limits, now));
                effects
            }
            _ => {
                let mut effects = vec![Effect::WatchExit];
                effects.extend(machine.kill(limits, now));
                effects
            }
        };
        (machine, effects)
    }

    fn at(phase: Phase, has_agent: bool, now: Instant) -> Self {
        Self {
            phase,
            since: now,
            has_agent,
            slot: false,
            deadline: None,
            ping_at: None,
            ping_pause: BOOT_PING,
            last_answer: now,
            failures: 0,
            overtime: false,
            rounds: 0,
            note: None,
            expiry: None,
            ask_at: None,
            retries: 0,
            reason: None,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How it gets on.
    pub fn progress(&self) -> Progress {
        let attempts = match self.phase {
            Phase::Booting | Phase::Running | Phase::Debugging => self.failures,
            _ => self.rounds,
        };
        Progress { phase: self.phase, since: self.since, until: self.deadline, attempts, note: self.note.clone() }
    }

    /// When `Tick` must be sent at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.ping_at).chain(self.ask_at).min()
    }

    /// What follows from an event. Events that come too late for the phase change nothing.
    pub fn step(&mut self, event: Event, limits: &Limits, now: Instant) -> Vec<Effect> {
        let was = self.phase;
        let effects = self.follow(event, limits, now);
        if self.phase != was {
            self.since = now;
        }
        effects
    }

    fn follow(&mut self, event: Event, limits: &Limits, now: Instant) -> Vec<Effect> {
        use Phase::*;
        match (self.phase, event) {
            (Waiting, Event::Slot) => {
                self.slot = true;
                self.enter(Preparing, now + limits.prepare);
                vec![Effect::Prepare]
            }
            (WaitingToStop, Event::Slot) => {
                self.slot = true;
                self.shut_down(limits, now)
            }
            (Waiting, Event::Stop | Event::Kill) => self.clean_without_slot(limits, now),

            (Preparing, Event::Prepared(Ok(()))) => {
                self.enter(Launching, now + limits.launch);
                vec![Effect::Launch]
            }
            (Preparing, Event::Prepared(Err(why))) => {
                self.fail(why);
                self.clean(limits, now)
            }
            (Preparing, Event::Stop | Event::Kill) => {
                self.fail(STOPPED_EARLY);
                self.abandon_and_clean(limits, now)
            }
            // What has been launched by half is not left by half.
            (Launching, Event::Stop) => {
                self.fail(STOPPED_EARLY);
                vec![]
            }
            (Launching, Event::Kill) => {
                self.fail(STOPPED_EARLY);
                self.abandon_and_kill(limits, now)
            }
            (Launching, Event::Launched(Ok(()))) => self.launched(limits, now),
            (Launching, Event::Launched(Err(why))) => {
                self.fail(why);
                self.clean(limits, now)
            }

            (Booting | Debugging, Event::Pinged(Ok(()))) => self.run(now, limits),
            (Booting, Event::Pinged(Err(why))) => {
                self.failures += 1;
                self.note = Some(why);
                if self.overtime && self.failures >= limits.boot_count {
                    return self.never_answered(limits, now);
                }
                self.ping_at = Some(now + self.ping_pause);
                self.ping_pause = (self.ping_pause * 2).min(BOOT_PING_MAX);
                vec![]
            }
            (Running, Event::Pinged(Ok(()))) => {
                self.last_answer = now;
                self.failures = 0;
                self.note = None;
                self.ping_at = Some(now + limits.ping_ok);
                vec![]
            }
            (Running, Event::Pinged(Err(why))) => self.missed_ping(&why, limits, now),
            (Debugging, Event::Pinged(Err(_))) => {
                self.ping_at = Some(now + limits.ping_error);
                vec![]
            }

            // It holds a slot already.
            (Booting, Event::Stop) if self.slot => self.shut_down(limits, now),
            (Booting | Running | Debugging, Event::Stop) => {
                self.enter(WaitingToStop, now + limits.shutdown);
                vec![Effect::AskSlot(Purpose::Stop)]
            }
            (ShuttingDown, Event::PoweredOff(Err(_))) if self.retries > 0 => {
                self.retries -= 1;
                self.ask_at = Some(now + limits.ask_pause);
                vec![]
            }
            (ShuttingDown, Event::PoweredOff(Err(_))) => self.kill(limits, now),
            (WaitingToStop, Event::Kill) => {
                let mut effects = vec![Effect::FreeSlot];
                effects.extend(self.kill(limits, now));
                effects
            }
            (Booting | Running | Debugging | ShuttingDown | Killing, Event::Kill) => self.kill(limits, now),
            (Zombie, Event::Kill) => self.kill_again(limits, now),

            (Booting | Running | Debugging, Event::Exited(exit)) => {
                let when = if self.phase == Booting { "while it was starting" } else { "by itself" };
                self.fail(format!("it ended {when}: {exit}"));
                self.clean(limits, now)
            }
            (WaitingToStop, Event::Exited(_)) => self.clean_without_slot(limits, now),
            (ShuttingDown | Killing, Event::Exited(_)) => self.clean(limits, now),

            (Cleaning, Event::Cleaned(Ok(()))) => {
                self.phase = Gone;
                self.deadline = None;
                let mut effects = self.free_slot();
                effects.push(Effect::Publish(VmState::Stopped, self.reason.take()));
                effects
            }
            (Cleaning, Event::Cleaned(Err(why))) => self.zombie(&why, limits, now),

            (_, Event::Expires(expiry)) if self.expiry.as_ref() != Some(&expiry) => {
                self.expiry = Some(expiry);
                self.tell_expiry()
            }
            (_, Event::ToldExpiry(Ok(()))) => {
                self.expiry = None;
                vec![]
            }
            (Running, Event::ToldExpiry(Err(_))) => {
                self.ask_at = Some(now + limits.ask_pause);
                vec![]
            }

            (_, Event::Tick) => self.tick(limits, now),
            _ => vec![],
        }
    }

    fn tick(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![];
        if self.ping_at.is_some_and(|at| at <= now) {
            self.ping_at = None;
            let hasty = (self.phase == Phase::Booting).then(|| BOOT_PING_LIMIT.max(self.ping_pause * 5));
            effects.push(Effect::Ping(hasty));
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_at = None;
            match self.phase {
                Phase::ShuttingDown => effects.push(Effect::PowerOff),
                _ => effects.extend(self.tell_expiry()),
            }
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            effects.extend(self.late(limits, now));
        }
        effects
    }

    /// What follows when the time for a phase is over.
    fn late(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let within = |limit: Duration| format!("within {} s", limit.as_secs());
        match self.phase {
            Phase::Waiting => {
                self.fail(format!("none of its node's slots became free {}", within(limits.slot)));
                self.clean_without_slot(limits, now)
            }
            Phase::Preparing => {
                self.fail(format!("its disk image was not ready {}", within(limits.prepare)));
                self.abandon_and_clean(limits, now)
            }
            Phase::Launching => {
                self.fail(format!("it could not be launched {}", within(limits.launch)));
                let mut effects = vec![Effect::Publish(VmState::Stopping, None)];
                effects.extend(self.abandon_and_kill(limits, now));
                effects
            }
            Phase::Booting if self.overtime || self.failures >= limits.boot_count => self.never_answered(limits, now),
            Phase::Booting => {
                self.overtime = true;
                self.deadline = Some(now + limits.boot);
                vec![]
            }
            Phase::WaitingToStop => {
                let mut effects = vec![Effect::FreeSlot];
                effects.extend(self.shut_down(limits, now));
                effects
            }
            Phase::ShuttingDown => self.kill(limits, now),
            Phase::Killing => self.zombie("its processes do not die", limits, now),
            Phase::Cleaning => {
                let mut effects = vec![Effect::Abandon];
                effects.extend(self.zombie(&format!("that was not done {}", within(limits.clean)), limits, now));
                effects
            }
            Phase::Zombie => self.kill_again(limits, now),
            Phase::Running | Phase::Debugging | Phase::Gone => vec![],
        }
    }

    fn enter(&mut self, phase: Phase, deadline: Instant) {
        self.phase = phase;
        self.deadline = Some(deadline);
        self.ping_at = None;
        self.ask_at = None;
        if self.rounds == 0 {
            self.note = None;
        }
    }

    /// Only while the agent answers; otherwise when it does again.
    fn tell_expiry(&self) -> Vec<Effect> {
        self.expiry.iter().filter(|_| self.phase == Phase::Running).cloned().map(Effect::TellExpiry).collect()
    }

    fn launched(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::WatchExit];
        self.last_answer = now;
        if self.reason.is_some() {
            effects.extend(self.kill(limits, now));
        } else if self.has_agent {
            self.enter(Phase::Booting, now + limits.boot);
            effects.push(Effect::Ping(Some(BOOT_PING_LIMIT)));
        } else {
            effects.extend(self.run(now, limits));
        }
        effects
    }

    fn run(&mut self, now: Instant, limits: &Limits) -> Vec<Effect> {
        self.phase = Phase::Running;
        self.deadline = None;
        self.last_answer = now;
        self.failures = 0;
        self.note = None;
        self.ping_at = self.has_agent.then_some(now + limits.ping_ok);
        let mut effects = self.free_slot();
        effects.push(Effect::Publish(VmState::Running, None));
        effects.extend(self.tell_expiry());
        effects
    }

    fn never_answered(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let silence = now.saturating_duration_since(self.last_answer).as_secs();
        self.fail(format!("its agent did not answer within {silence} s"));
        let mut effects = vec![Effect::Publish(VmState::Stopping, None)];
        effects.extend(self.kill(limits, now));
        effects
    }

    fn missed_ping(&mut self, why: &str, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.failures += 1;
        self.note = Some(why.to_owned());
        let silence = now.saturating_duration_since(self.last_answer);
        if self.failures < limits.dead_count || silence <= limits.dead_after {
            self.ping_at = Some(now + limits.ping_error);
            return vec![];
        }
        let reason = format!("its agent has not answered for {} s: {why}", silence.as_secs());
        if limits.debug {
            self.phase = Phase::Debugging;
            self.ask_at = None;
            self.ping_at = Some(now + limits.ping_error);
            return vec![Effect::Publish(VmState::Debugging, Some(reason))];
        }
        let mut effects = vec![Effect::Publish(VmState::Stopping, Some(reason.clone()))];
        self.fail(reason);
        effects.extend(self.kill(limits, now));
        effects
    }

    fn shut_down(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        if !self.has_agent {
            return self.kill(limits, now);
        }
        // One whose agent never answered has nothing to lose.
        self.retries = if self.phase == Phase::Booting { 0 } else { limits.ask_retries };
        self.enter(Phase::ShuttingDown, now + limits.shutdown);
        vec![Effect::PowerOff]
    }

    fn kill(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.enter(Phase::Killing, now + limits.kill);
        vec![Effect::Kill]
    }

    /// Whoever watched for its exit may have gone before it became a zombie.
    fn kill_again(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::WatchExit];
        effects.extend(self.kill(limits, now));
        effects
    }

    fn abandon_and_kill(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::Abandon, Effect::WatchExit];
        effects.extend(self.kill(limits, now));
        effects
    }

    fn clean(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.enter(Phase::Cleaning, now + limits.clean);
        vec![Effect::Clean]
    }

    fn abandon_and_clean(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::Abandon];
        effects.extend(self.clean(limits, now));
        effects
    }

    /// From a queue for a slot.
    fn clean_without_slot(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::FreeSlot];
        effects.extend(self.clean(limits, now));
        effects
    }

    fn free_slot(&mut self) -> Vec<Effect> {
        if std::mem::take(&mut self.slot) { vec![Effect::FreeSlot] } else { vec![] }
    }

    fn zombie(&mut self, why: &str, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.enter(Phase::Zombie, now + limits.zombie);
        self.rounds += 1;
        self.note = Some(why.to_owned());
        // One that does not die must not keep others from starting.
        let mut effects = self.free_slot();
        // Only a VM that is on its way down becomes a zombie; where it is already, the first of the two does nothing.
        effects.push(Effect::Publish(VmState::Stopping, None));
        effects.push(Effect::Publish(VmState::Zombie, Some(format!("it cannot be cleaned up: {why}"))));
        effects
    }

    /// The first reason is the one that counts.
    fn fail(&mut self, why: impl Into<String>) {
        self.reason.get_or_insert_with(|| why.into());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet, VecDeque};

    use proptest::prelude::*;

    use super::*;
    use crate::model::VmCommand;

    const LIMITS: Limits = Limits {
        slot: Duration::from_secs(900),
        prepare: Duration::from_secs(600),
        launch: Duration::from_secs(120),
        boot: Duration::from_secs(180),
        boot_count: 40,
        ping_ok: Duration::from_secs(120),
        ping_error: Duration::from_secs(10),
        dead_after: Duration::from_secs(320),
        dead_count: 10,
        ask_pause: Duration::from_secs(5),
        ask_retries: 3,
        shutdown: Duration::from_secs(180),
        kill: Duration::from_secs(120),
        clean: Duration::from_secs(120),
        zombie: Duration::from_secs(60),
        debug: false,
    };

    fn after(events: &[Event], now: Instant) -> Machine {
        let (mut machine, _) = Machine::start(true, &LIMITS, now);
        for event in events {
            machine.step(event.clone(), &LIMITS, now);
        }
        machine
    }

    fn running(now: Instant) -> Machine {
        let machine =
            after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(())), Event::Pinged(Ok(()))], now);
        assert_eq!(machine.phase(), Phase::Running);
        machine
    }

    fn stopping(now: Instant) -> Machine {
        let mut machine = running(now);
        assert_eq!(machine.step(Event::Stop, &LIMITS, now), [Effect::AskSlot(Purpose::Stop)]);
        assert_eq!(machine.step(Event::Slot, &LIMITS, now), [Effect::PowerOff]);
        machine
    }

    #[test]
    fn a_start_goes_through_its_phases_and_frees_its_slot_when_it_runs() {
        let now = Instant::now();
        let (mut machine, effects) = Machine::start(true, &LIMITS, now);
        assert_eq!(effects, [Effect::AskSlot(Purpose::Start)]);
        assert_eq!(machine.step(Event::Slot, &LIMITS, now), [Effect::Prepare]);
        assert_eq!(machine.step(Event::Prepared(Ok(())), &LIMITS, now), [Effect::Launch]);
        assert_eq!(
            machine.step(Event::Launched(Ok(())), &LIMITS, now),
            [Effect::WatchExit, Effect::Ping(Some(BOOT_PING_LIMIT))]
        );
        let effects = machine.step(Event::Pinged(Ok(())), &LIMITS, now);
        assert_eq!(effects, [Effect::FreeSlot, Effect::Publish(VmState::Running, None)]);
    }

    #[test]
    fn a_stop_powers_off_and_reports_only_when_everything_is_freed() {
        let now = Instant::now();
        let mut machine = stopping(now);
        assert_eq!(machine.step(Event::PoweredOff(Ok(())), &LIMITS, now), []);
        assert_eq!(machine.step(Event::Exited(Exit::Status(0)), &LIMITS, now), [Effect::Clean]);
        let effects = machine.step(Event::Cleaned(Ok(())), &LIMITS, now);
        assert_eq!(effects, [Effect::FreeSlot, Effect::Publish(VmState::Stopped, None)]);
    }

    #[test]
    fn a_stop_that_gets_no_slot_goes_on_without_one() {
        let now = Instant::now();
        let mut machine = running(now);
        machine.step(Event::Stop, &LIMITS, now);
        let effects = machine.step(Event::Tick, &LIMITS, now + LIMITS.shutdown);
        assert_eq!(effects, [Effect::FreeSlot, Effect::PowerOff]);
    }

    #[test]
    fn an_agent_that_does_not_take_the_order_is_asked_again_and_then_killed() {
        let mut now = Instant::now();
        let gone = || Event::PoweredOff(Err("gone".into()));
        let mut machine = stopping(now);
        for _ in 0..LIMITS.ask_retries {
            assert_eq!(machine.step(gone(), &LIMITS, now), []);
            now += LIMITS.ask_pause;
            assert_eq!(machine.step(Event::Tick, &LIMITS, now), [Effect::PowerOff]);
        }
        assert_eq!(machine.step(gone(), &LIMITS, now), [Effect::Kill]);
        let mut machine = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(()))], now);
        assert_eq!(machine.step(Event::Stop, &LIMITS, now), [Effect::PowerOff]);
        assert_eq!(machine.step(gone(), &LIMITS, now), [Effect::Kill], "it never answered");
    }

    #[test]
    fn a_dead_agent_ends_the_vm_only_after_many_failures_and_a_long_silence() {
        let now = Instant::now();
        let mut machine = running(now);
        for n in 1..=32 {
            let at = now + LIMITS.ping_error * n;
            assert_eq!(machine.step(Event::Pinged(Err("no".into())), &LIMITS, at), [], "{n}");
        }
        let effects = machine.step(Event::Pinged(Err("no".into())), &LIMITS, now + Duration::from_secs(330));
        assert!(matches!(&effects[..], [Effect::Publish(VmState::Stopping, Some(_)), Effect::Kill]), "{effects:?}");
    }

    #[test]
    fn a_vm_that_is_kept_for_inspection_runs_again_when_its_agent_is_back_and_can_be_stopped() {
        let now = Instant::now();
        let limits = Limits { debug: true, dead_count: 1, ..LIMITS };
        let late = now + LIMITS.dead_after * 2;
        let mut machine = running(now);
        let effects = machine.step(Event::Pinged(Err("no".into())), &limits, late);
        assert!(matches!(&effects[..], [Effect::Publish(VmState::Debugging, Some(_))]), "{effects:?}");
        assert_eq!(machine.step(Event::Tick, &limits, late + LIMITS.ping_error), [Effect::Ping(None)]);
        let mut back = machine.clone();
        let effects = back.step(Event::Pinged(Ok(())), &limits, late);
        assert_eq!(effects, [Effect::Publish(VmState::Running, None)]);
        assert_eq!(machine.step(Event::Stop, &limits, late), [Effect::AskSlot(Purpose::Stop)]);
    }

    #[test]
    fn a_long_silence_with_few_failures_is_a_daemon_that_did_not_ask() {
        let now = Instant::now();
        let mut machine = running(now);
        let asleep = now + LIMITS.dead_after * 10;
        assert_eq!(machine.step(Event::Pinged(Err("no".into())), &LIMITS, asleep), []);
        let mut machine = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(()))], now);
        let asleep = now + LIMITS.boot * 10;
        assert!(!machine.step(Event::Tick, &LIMITS, asleep).contains(&Effect::Kill));
        for n in 1..LIMITS.boot_count {
            assert_eq!(machine.step(Event::Pinged(Err("no".into())), &LIMITS, asleep), [], "{n}");
        }
        let effects = machine.step(Event::Pinged(Err("no".into())), &LIMITS, asleep);
        assert_eq!(effects, [Effect::Publish(VmState::Stopping, None), Effect::Kill]);
    }

    #[test]
    fn a_booting_vm_whose_pings_never_report_is_given_up_too() {
        let now = Instant::now();
        let mut machine = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(()))], now);
        machine.step(Event::Tick, &LIMITS, now + LIMITS.boot);
        let effects = machine.step(Event::Tick, &LIMITS, now + LIMITS.boot * 2);
        assert_eq!(effects, [Effect::Publish(VmState::Stopping, None), Effect::Kill]);
    }

    #[test]
    fn a_crash_is_cleaned_and_its_reason_published() {
        let now = Instant::now();
        let mut machine = running(now);
        assert_eq!(machine.step(Event::Exited(Exit::Signal(9)), &LIMITS, now), [Effect::Clean]);
        let effects = machine.step(Event::Cleaned(Ok(())), &LIMITS, now);
        let reason = "it ended by itself: it was killed by signal 9".to_owned();
        assert_eq!(effects, [Effect::Publish(VmState::Stopped, Some(reason))]);
    }

    #[test]
    fn what_cannot_be_cleaned_is_a_zombie_without_a_slot_and_is_tried_again() {
        let now = Instant::now();
        let mut machine = stopping(now);
        machine.step(Event::Exited(Exit::Unseen), &LIMITS, now);
        let effects = machine.step(Event::Cleaned(Err("busy".into())), &LIMITS, now);
        assert!(matches!(&effects[..], [Effect::FreeSlot, _, Effect::Publish(VmState::Zombie, Some(_))]));
        let later = now + LIMITS.zombie;
        assert_eq!(machine.step(Event::Tick, &LIMITS, later), [Effect::WatchExit, Effect::Kill]);
    }

    #[test]
    fn a_stop_before_the_launch_is_carried_out_at_once_and_during_it_when_it_has_ended() {
        let now = Instant::now();
        let mut machine = after(&[Event::Slot], now);
        assert_eq!(machine.step(Event::Stop, &LIMITS, now), [Effect::Abandon, Effect::Clean]);
        let effects = machine.step(Event::Cleaned(Ok(())), &LIMITS, now);
        assert!(matches!(&effects[..], [Effect::FreeSlot, Effect::Publish(VmState::Stopped, Some(_))]));
        let mut machine = after(&[Event::Slot, Event::Prepared(Ok(()))], now);
        assert_eq!(machine.step(Event::Stop, &LIMITS, now), []);
        assert_eq!(machine.step(Event::Launched(Ok(())), &LIMITS, now), [Effect::WatchExit, Effect::Kill]);
    }

    #[test]
    fn a_step_that_never_reports_is_given_up_in_time() {
        let now = Instant::now();
        let mut preparing = after(&[Event::Slot], now);
        let effects = preparing.step(Event::Tick, &LIMITS, now + LIMITS.prepare);
        assert_eq!(effects, [Effect::Abandon, Effect::Clean]);
        let mut launching = after(&[Event::Slot, Event::Prepared(Ok(()))], now);
        let effects = launching.step(Event::Tick, &LIMITS, now + LIMITS.launch);
        let stopping = Effect::Publish(VmState::Stopping, None);
        assert_eq!(effects, [stopping, Effect::Abandon, Effect::WatchExit, Effect::Kill]);
        let later = now + LIMITS.prepare + LIMITS.clean;
        let effects = preparing.step(Event::Tick, &LIMITS, later);
        assert!(matches!(&effects[..], [Effect::Abandon, Effect::FreeSlot, _, Effect::Publish(VmState::Zombie, _)]));
    }

    fn expiry() -> Expiry {
        Expiry { soft: "2030-01-01T00:00:00".into(), hard: String::new() }
    }

    #[test]
    fn an_expiry_is_told_while_the_agent_answers_and_again_until_it_knows() {
        let now = Instant::now();
        let told = Effect::TellExpiry(expiry());
        let mut machine = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(()))], now);
        assert_eq!(machine.step(Event::Expires(expiry()), &LIMITS, now), []);
        assert_eq!(machine.step(Event::Pinged(Ok(())), &LIMITS, now).last(), Some(&told));
        assert_eq!(machine.step(Event::Expires(expiry()), &LIMITS, now), [], "it is under way");
        machine.step(Event::ToldExpiry(Err("no".into())), &LIMITS, now);
        let again = now + LIMITS.ask_pause;
        assert_eq!(machine.wake_at(), Some(again));
        assert_eq!(machine.step(Event::Tick, &LIMITS, again), std::slice::from_ref(&told));
        machine.step(Event::ToldExpiry(Ok(())), &LIMITS, again);
        assert_eq!(machine.wake_at(), Some(now + LIMITS.ping_ok));
        assert_eq!(machine.step(Event::Expires(expiry()), &LIMITS, again), [told], "a reminder");
    }

    /// What may happen, once well and once badly.
    fn every_event() -> Vec<Event> {
        let no = || Err("no".to_owned());
        vec![
            Event::Slot,
            Event::Prepared(Ok(())),
            Event::Prepared(no()),
            Event::Launched(Ok(())),
            Event::Launched(no()),
            Event::Pinged(Ok(())),
            Event::Pinged(no()),
            Event::PoweredOff(Ok(())),
            Event::PoweredOff(no()),
            Event::Exited(Exit::Unseen),
            Event::Cleaned(Ok(())),
            Event::Cleaned(no()),
            Event::Stop,
            Event::Kill,
            Event::Expires(expiry()),
            Event::ToldExpiry(Ok(())),
            Event::ToldExpiry(no()),
            Event::Tick,
        ]
    }

    /// The word of the diagram.
    fn word(event: &Event) -> &'static str {
        match event {
            Event::Slot => "slot",
            Event::Prepared(Ok(())) => "ready",
            Event::Launched(Ok(())) => "launched",
            Event::Pinged(Ok(())) => "answer",
            Event::Pinged(Err(_)) => "silence",
            Event::PoweredOff(Err(_)) => "refused",
            Event::Exited(_) => "exit",
            Event::Cleaned(Ok(())) => "freed",
            Event::Prepared(Err(_)) | Event::Launched(Err(_)) | Event::Cleaned(Err(_)) => "failed",
            Event::Stop => "stop",
            Event::Kill => "kill",
            Event::Tick => "late",
            Event::PoweredOff(Ok(())) | Event::Expires(_) | Event::ToldExpiry(_) => "-",
        }
    }

    /// Every arrow that the machine can go, found by trying every event, at once and late, in every state.
    fn explored() -> BTreeSet<(String, &'static str, String)> {
        let mut arrows = BTreeSet::new();
        for (has_agent, debug) in [(true, false), (true, true), (false, false)] {
            let limits = Limits { debug, boot_count: 1, dead_count: 1, ask_retries: 1, ..LIMITS };
            let now = Instant::now();
            let (mut known, mut to_try) = (HashSet::new(), VecDeque::new());
            to_try.push_back((Machine::start(has_agent, &limits, now).0, now));
            for (published, alive) in VmState::ALL.iter().flat_map(|state| [(*state, true), (*state, false)]) {
                to_try.push_back((Machine::adopt(published, alive, has_agent, &limits, now).0, now));
            }
            while let Some((machine, now)) = to_try.pop_front() {
                let Machine { phase, slot, overtime, .. } = machine;
                if !known.insert((
                    phase,
                    slot,
                    overtime,
                    machine.reason.is_some(),
                    machine.failures.min(1),
                    machine.retries,
                )) {
                    continue;
                }
                for event in every_event() {
                    for now in [now, now + Duration::from_secs(3600)] {
                        let mut next = machine.clone();
                        next.step(event.clone(), &limits, now);
                        if next.phase() != phase {
                            arrows.insert((format!("{phase:?}"), word(&event), format!("{:?}", next.phase())));
                        }
                        to_try.push_back((next, now));
                    }
                }
            }
        }
        arrows
    }

    #[test]
    fn the_diagram_in_the_documents_shows_what_the_machine_does() {
        let drawn: BTreeSet<_> = crate::model::diagram::arrows("The life of a VM on its node")
            .into_iter()
            .flat_map(|arrow| arrow.words.into_iter().map(move |word| (arrow.from.clone(), word, arrow.to.clone())))
            .collect();
        let done: BTreeSet<_> = explored().into_iter().map(|(from, word, to)| (from, word.to_owned(), to)).collect();
        let missing: Vec<_> = done.difference(&drawn).collect();
        let invented: Vec<_> = drawn.difference(&done).collect();
        assert!(missing.is_empty() && invented.is_empty(), "not drawn: {missing:?}\ndrawn, but not so: {invented:?}");
    }

    fn events() -> impl Strategy<Value = Event> {
        proptest::sample::select(every_event())
    }

    /// What is around a machine: the queue for slots, and who listens to the database.
    struct World {
        published: VmState,
        asking: bool,
        holding: bool,
    }

    impl World {
        fn carry_out(&mut self, effects: &[Effect]) {
            for effect in effects {
                match effect {
                    Effect::AskSlot(_) => {
                        assert!(!self.asking && !self.holding, "one slot is enough");
                        self.asking = true;
                    }
                    Effect::FreeSlot => {
                        assert!(self.asking || self.holding, "what it has not it cannot free");
                        (self.asking, self.holding) = (false, false);
                    }
                    Effect::Publish(state, _) if published_from(*state).contains(&self.published) => {
                        self.published = *state;
                    }
                    _ => {}
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_states_follow_the_table_slots_are_kept_count_of_and_nothing_waits_for_ever(
            events in proptest::collection::vec((events(), 0u64..400), 0..60), debug: bool, has_agent: bool,
        ) {
            let limits = Limits { debug, ..LIMITS };
            let mut now = Instant::now();
            let (mut machine, effects) = Machine::start(has_agent, &limits, now);
            let mut world = World { published: VmState::Starting, asking: false, holding: false };
            world.carry_out(&effects);
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                if matches!(event, Event::Slot) && !std::mem::take(&mut world.asking) {
                    continue;
                }
                world.holding |= matches!(event, Event::Slot);
                if matches!(event, Event::Stop | Event::Kill) && world.published.accepts(VmCommand::Stop) {
                    world.published = VmState::Stopping; // as the claim of the command does
                }
                world.carry_out(&machine.step(event, &limits, now));
                prop_assert_eq!(machine.slot, world.holding);
                match machine.phase() {
                    Phase::Waiting | Phase::WaitingToStop => prop_assert!(world.asking),
                    Phase::Preparing | Phase::Launching => prop_assert!(world.holding),
                    Phase::Zombie => prop_assert_eq!(world.published, VmState::Zombie),
                    Phase::Running => prop_assert_eq!(world.published, VmState::Running),
                    Phase::Gone => prop_assert_eq!(world.published, VmState::Stopped),
                    _ => {}
                }
                let at_rest = matches!(machine.phase(), Phase::Running | Phase::Debugging | Phase::Gone);
                if at_rest || machine.phase() == Phase::Zombie {
                    prop_assert!(!world.asking && !world.holding);
                }
                prop_assert!(at_rest || machine.deadline.is_some(), "{:?} waits for ever", machine.phase());
            }
            // Left alone, with nobody who reports anything, it comes to rest or is tried again for ever.
            for _ in 0..6 {
                let Some(at) = machine.wake_at() else { break };
                now = now.max(at);
                world.carry_out(&machine.step(Event::Tick, &limits, now));
            }
            prop_assert!(matches!(machine.phase(), Phase::Running | Phase::Debugging | Phase::Gone | Phase::Zombie
                | Phase::Killing), "{:?}", machine.phase());
        }
    }
}
