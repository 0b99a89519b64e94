//! The life of one VM on its node, as a pure state machine. `ARCHITECTURE.md` has its diagram, which a test compares
//! with what happens here.
//!
//! Every phase but `Running`, `Debugging` and `Gone` has a deadline and a next step, whatever others fail to report.
//! Resources are freed before anything is reported. Time comes in as an argument; effects go out as data.

mod alphabet;
mod ending;
mod expiry;

use std::time::{Duration, Instant};

use crate::model::VmState;

use super::slots::Purpose;
pub use alphabet::{Effect, Event, Limits, Phase, Progress, published_from};
use expiry::Telling;

/// First pause between pings of a booting agent. It doubles up to `BOOT_PING_MAX`: an agent that is nearly there is
/// noticed at once, one that takes long is not bothered.
const BOOT_PING: Duration = Duration::from_millis(4);
const BOOT_PING_MAX: Duration = Duration::from_millis(250);
/// A ping of a booting agent gives up soon: what is sent before the VM's network is up is lost, and the kernel sends
/// it again only after a second. The limit grows with the pauses, for an agent that is slow to answer.
const BOOT_PING_LIMIT: Duration = Duration::from_millis(20);

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
    expiry: Telling,
    /// When the agent is asked again to do what it did not take: to power off, or to know its expiry.
    ask_at: Option<Instant>,
    /// How often it may still be asked to power off.
    retries: u32,
    /// Whether its power button is still to be pressed before it is killed.
    button: bool,
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
            expiry: Telling::default(),
            ask_at: None,
            retries: 0,
            button: false,
            reason: None,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// It lives or is about to, and nothing is to end it.
    pub fn is_up(&self) -> bool {
        self.phase <= Phase::Debugging && self.reason.is_none()
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
            (ShuttingDown, Event::PoweredOff(Err(_))) if self.button => {
                self.button = false;
                vec![Effect::PressPowerButton]
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

            (_, Event::Forgotten) if self.is_up() => vec![Effect::PutOnRecord],

            (_, Event::Expires(expiry)) => self.expires(expiry),
            (_, Event::ToldExpiry(told)) => self.told_expiry(told.is_ok(), limits, now),

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

    /// The first reason is the one that counts.
    fn fail(&mut self, why: impl Into<String>) {
        self.reason.get_or_insert_with(|| why.into());
    }
}

#[cfg(test)]
mod tests;
