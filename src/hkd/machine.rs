//! The life of one VM on its node, as a pure state machine.
//!
//! ```text
//!  Waiting ──slot──► Preparing ──► Launching ──► Booting ──agent──► Running ◄──agent──┐
//!     │ stop            │ failed      │ failed     │ │ exit          │  │  └─dead─► Debugging
//!     │                 │             │            │ │ late, stop    │  │ exit         │
//!     │                 │             │            │ └────┐  stop,   │  │              │ stop
//!     │                 │             │            │      │  dead    ▼  │              │
//!     │                 │             │            │      │   ShuttingDown ◄───────────┘
//!     │                 │             │            │      ▼          │ late, no agent   │
//!     │                 │             │            │   Killing ◄─────┘   │              │
//!     │                 ▼             ▼            ▼      │ exit         │ exit         │
//!     │              Cleaning ◄──────────────────────────────────────────┘◄─────────────┘
//!     │                 │ │ failed, or Killing late
//!     ▼                 │ └─────► Zombie ──pause──► Killing
//!    Gone ◄─── done ────┘
//! ```
//!
//! Every state but `Running`, `Debugging` and `Gone` has a deadline or waits for something that reports in any case.
//! Resources are freed before anything is reported. Time comes in as an argument; effects go out as data.

use std::time::{Duration, Instant};

use crate::{hypervisor::Exit, model::VmState};

/// Where the VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// It may begin with heavy work.
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
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask for a slot; answer with `Slot`.
    AskSlot,
    /// Give the slot back.
    FreeSlot,
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
    /// For the agent to answer for the first time.
    pub boot: Duration,
    /// Between pings of an agent that answers.
    pub ping_ok: Duration,
    /// Between pings of one that did not.
    pub ping_error: Duration,
    /// Silence after which a running agent may be dead.
    pub dead_after: Duration,
    /// Failed pings after which a running agent may be dead.
    pub dead_count: u32,
    /// For powering off.
    pub shutdown: Duration,
    /// For dying after having been killed.
    pub kill: Duration,
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

/// One VM.
#[derive(Clone, Debug)]
pub struct Machine {
    phase: Phase,
    has_agent: bool,
    slot: bool,
    deadline: Option<Instant>,
    ping_at: Option<Instant>,
    ping_pause: Duration,
    last_answer: Instant,
    failures: u32,
    reason: Option<String>,
}

impl Machine {
    /// A VM that is to be started.
    pub fn start(has_agent: bool, now: Instant) -> (Self, Vec<Effect>) {
        (Self::at(Phase::Waiting, has_agent, now), vec![Effect::AskSlot])
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
            return Self::start(has_agent, now);
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
                vec![Effect::Clean]
            }
            Phase::Booting => {
                machine.deadline = Some(now + limits.boot);
                machine.ping_at = Some(now);
                vec![Effect::WatchExit]
            }
            Phase::Running => {
                machine.ping_at = has_agent.then_some(now);
                vec![Effect::WatchExit]
            }
            Phase::ShuttingDown => {
                machine.deadline = Some(now + limits.shutdown);
                vec![Effect::WatchExit, if has_agent { Effect::PowerOff } else { Effect::Kill }]
            }
            Phase::Killing => {
                machine.deadline = Some(now + limits.kill);
                vec![Effect::WatchExit, Effect::Kill]
            }
            _ => vec![Effect::WatchExit],
        };
        (machine, effects)
    }

    fn at(phase: Phase, has_agent: bool, now: Instant) -> Self {
        Self {
            phase,
            has_agent,
            slot: false,
            deadline: None,
            ping_at: None,
            ping_pause: BOOT_PING,
            last_answer: now,
            failures: 0,
            reason: None,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When `Tick` must be sent at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.ping_at).min()
    }

    /// What follows from an event. Events that come too late for the phase change nothing.
    pub fn step(&mut self, event: Event, limits: &Limits, now: Instant) -> Vec<Effect> {
        use Phase::*;
        match (self.phase, event) {
            (Waiting, Event::Slot) => {
                self.slot = true;
                self.phase = Preparing;
                vec![Effect::Prepare]
            }
            // Somebody gave it a slot although it no longer wants one.
            (Gone, Event::Slot) => vec![Effect::FreeSlot],
            (Waiting, Event::Stop) => self.clean(),

            (Preparing, Event::Prepared(Ok(()))) if self.reason.is_none() => {
                self.phase = Launching;
                vec![Effect::Launch]
            }
            (Preparing, Event::Prepared(outcome)) => {
                self.fail(outcome.err());
                self.clean()
            }
            (Preparing | Launching, Event::Stop) => {
                self.fail(Some("it was stopped while it was starting".to_owned()));
                vec![]
            }
            (Launching, Event::Launched(Ok(()))) => {
                if self.reason.is_some() {
                    let mut effects = vec![Effect::WatchExit];
                    effects.extend(self.kill(limits, now));
                    return effects;
                }
                self.phase = Booting;
                self.last_answer = now;
                if !self.has_agent {
                    let mut effects = vec![Effect::WatchExit];
                    effects.extend(self.run(now, limits));
                    return effects;
                }
                self.deadline = Some(now + limits.boot);
                vec![Effect::WatchExit, Effect::Ping(Some(BOOT_PING_LIMIT))]
            }
            (Launching, Event::Launched(Err(why))) => {
                self.fail(Some(why));
                self.clean()
            }

            (Booting | Debugging, Event::Pinged(Ok(()))) => self.run(now, limits),
            (Booting, Event::Pinged(Err(_))) => {
                self.ping_at = Some(now + self.ping_pause);
                self.ping_pause = (self.ping_pause * 2).min(BOOT_PING_MAX);
                vec![]
            }
            (Running, Event::Pinged(Ok(()))) => {
                self.last_answer = now;
                self.failures = 0;
                self.ping_at = Some(now + limits.ping_ok);
                vec![]
            }
            (Running, Event::Pinged(Err(why))) => self.missed_ping(&why, limits, now),
            (Debugging, Event::Pinged(Err(_))) => {
                self.ping_at = Some(now + limits.ping_error);
                vec![]
            }

            (Booting | Running | Debugging, Event::Stop) => self.shut_down(limits, now),
            (ShuttingDown, Event::PoweredOff(Err(_))) => self.kill(limits, now),

            (Booting | Running | Debugging, Event::Exited(exit)) => {
                let when = if self.phase == Booting { "while it was starting" } else { "by itself" };
                self.fail(Some(format!("it ended {when}: {exit}")));
                self.clean()
            }
            (ShuttingDown | Killing, Event::Exited(_)) => self.clean(),

            (Cleaning, Event::Cleaned(Ok(()))) => {
                self.phase = Gone;
                self.deadline = None;
                let mut effects = vec![];
                if std::mem::take(&mut self.slot) {
                    effects.push(Effect::FreeSlot);
                }
                effects.push(Effect::Publish(VmState::Stopped, self.reason.take()));
                effects
            }
            (Cleaning, Event::Cleaned(Err(why))) => self.zombie(&why, limits, now),

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
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return effects;
        }
        self.deadline = None;
        effects.extend(match self.phase {
            Phase::Booting => {
                self.fail(Some(format!("its agent did not answer within {} s", limits.boot.as_secs())));
                let mut effects = vec![Effect::Publish(VmState::Stopping, None)];
                effects.extend(self.kill(limits, now));
                effects
            }
            Phase::ShuttingDown => self.kill(limits, now),
            Phase::Killing => self.zombie("its processes do not die", limits, now),
            Phase::Zombie => self.kill(limits, now),
            _ => vec![],
        });
        effects
    }

    fn run(&mut self, now: Instant, limits: &Limits) -> Vec<Effect> {
        self.phase = Phase::Running;
        self.deadline = None;
        self.last_answer = now;
        self.failures = 0;
        self.ping_at = self.has_agent.then_some(now + limits.ping_ok);
        let mut effects = vec![Effect::Publish(VmState::Running, None)];
        if std::mem::take(&mut self.slot) {
            effects.push(Effect::FreeSlot);
        }
        effects
    }

    fn missed_ping(&mut self, why: &str, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.failures += 1;
        let silence = now.saturating_duration_since(self.last_answer);
        if self.failures < limits.dead_count || silence <= limits.dead_after {
            self.ping_at = Some(now + limits.ping_error);
            return vec![];
        }
        let reason = format!("its agent has not answered for {} s: {why}", silence.as_secs());
        if limits.debug {
            self.phase = Phase::Debugging;
            self.ping_at = Some(now + limits.ping_error);
            return vec![Effect::Publish(VmState::Debugging, Some(reason))];
        }
        self.fail(Some(reason));
        let mut effects = vec![Effect::Publish(VmState::Stopping, self.reason.clone())];
        effects.extend(self.kill(limits, now));
        effects
    }

    fn shut_down(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.ping_at = None;
        if !self.has_agent {
            return self.kill(limits, now);
        }
        self.phase = Phase::ShuttingDown;
        self.deadline = Some(now + limits.shutdown);
        vec![Effect::PowerOff]
    }

    fn kill(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.ping_at = None;
        let was_zombie = self.phase == Phase::Zombie;
        self.phase = Phase::Killing;
        self.deadline = Some(now + limits.kill);
        if was_zombie { vec![Effect::WatchExit, Effect::Kill] } else { vec![Effect::Kill] }
    }

    fn clean(&mut self) -> Vec<Effect> {
        self.phase = Phase::Cleaning;
        self.ping_at = None;
        self.deadline = None;
        vec![Effect::Clean]
    }

    fn zombie(&mut self, why: &str, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.phase = Phase::Zombie;
        self.deadline = Some(now + limits.zombie);
        // Only a VM that is on its way down becomes a zombie; where it is already, the first of the two does nothing.
        let reason = format!("it cannot be cleaned up: {why}");
        vec![Effect::Publish(VmState::Stopping, None), Effect::Publish(VmState::Zombie, Some(reason))]
    }

    fn fail(&mut self, why: Option<String>) {
        if self.reason.is_none() {
            self.reason = why;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::VmCommand;

    const LIMITS: Limits = Limits {
        boot: Duration::from_secs(180),
        ping_ok: Duration::from_secs(120),
        ping_error: Duration::from_secs(10),
        dead_after: Duration::from_secs(320),
        dead_count: 10,
        shutdown: Duration::from_secs(180),
        kill: Duration::from_secs(120),
        zombie: Duration::from_secs(60),
        debug: false,
    };

    fn running(now: Instant) -> Machine {
        let (mut machine, _) = Machine::start(true, now);
        for event in [Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(())), Event::Pinged(Ok(()))] {
            machine.step(event, &LIMITS, now);
        }
        assert_eq!(machine.phase(), Phase::Running);
        machine
    }

    #[test]
    fn a_start_goes_through_its_phases_and_frees_its_slot_when_it_runs() {
        let now = Instant::now();
        let (mut machine, effects) = Machine::start(true, now);
        assert_eq!(effects, [Effect::AskSlot]);
        assert_eq!(machine.step(Event::Slot, &LIMITS, now), [Effect::Prepare]);
        assert_eq!(machine.step(Event::Prepared(Ok(())), &LIMITS, now), [Effect::Launch]);
        assert_eq!(
            machine.step(Event::Launched(Ok(())), &LIMITS, now),
            [Effect::WatchExit, Effect::Ping(Some(BOOT_PING_LIMIT))]
        );
        let effects = machine.step(Event::Pinged(Ok(())), &LIMITS, now);
        assert_eq!(effects, [Effect::Publish(VmState::Running, None), Effect::FreeSlot]);
    }

    #[test]
    fn a_stop_powers_off_and_reports_only_when_everything_is_freed() {
        let now = Instant::now();
        let mut machine = running(now);
        assert_eq!(machine.step(Event::Stop, &LIMITS, now), [Effect::PowerOff]);
        assert_eq!(machine.step(Event::PoweredOff(Ok(())), &LIMITS, now), []);
        assert_eq!(machine.step(Event::Exited(Exit::Status(0)), &LIMITS, now), [Effect::Clean]);
        let effects = machine.step(Event::Cleaned(Ok(())), &LIMITS, now);
        assert_eq!(effects, [Effect::Publish(VmState::Stopped, None)]);
    }

    #[test]
    fn an_agent_that_does_not_take_the_order_is_killed() {
        let now = Instant::now();
        let mut machine = running(now);
        machine.step(Event::Stop, &LIMITS, now);
        assert_eq!(machine.step(Event::PoweredOff(Err("gone".into())), &LIMITS, now), [Effect::Kill]);
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
    fn a_crash_is_cleaned_and_its_reason_published() {
        let now = Instant::now();
        let mut machine = running(now);
        assert_eq!(machine.step(Event::Exited(Exit::Signal(9)), &LIMITS, now), [Effect::Clean]);
        let effects = machine.step(Event::Cleaned(Ok(())), &LIMITS, now);
        let reason = "it ended by itself: it was killed by signal 9".to_owned();
        assert_eq!(effects, [Effect::Publish(VmState::Stopped, Some(reason))]);
    }

    #[test]
    fn what_cannot_be_cleaned_is_a_zombie_and_is_tried_again() {
        let now = Instant::now();
        let mut machine = running(now);
        machine.step(Event::Exited(Exit::Unseen), &LIMITS, now);
        let effects = machine.step(Event::Cleaned(Err("busy".into())), &LIMITS, now);
        assert!(matches!(&effects[..], [_, Effect::Publish(VmState::Zombie, Some(_))]));
        let later = now + LIMITS.zombie;
        assert_eq!(machine.step(Event::Tick, &LIMITS, later), [Effect::WatchExit, Effect::Kill]);
    }

    #[test]
    fn a_stop_before_the_launch_is_carried_out_once_the_step_under_way_has_ended() {
        let now = Instant::now();
        let (mut machine, _) = Machine::start(true, now);
        machine.step(Event::Slot, &LIMITS, now);
        assert_eq!(machine.step(Event::Stop, &LIMITS, now), []);
        assert_eq!(machine.step(Event::Prepared(Ok(())), &LIMITS, now), [Effect::Clean]);
        let effects = machine.step(Event::Cleaned(Ok(())), &LIMITS, now);
        assert!(effects.contains(&Effect::FreeSlot));
        assert!(effects.iter().any(|e| matches!(e, Effect::Publish(VmState::Stopped, Some(_)))));
    }

    fn events() -> impl Strategy<Value = Event> {
        let outcome = || prop_oneof![Just(Ok(())), Just(Err("no".to_owned()))];
        prop_oneof![
            Just(Event::Slot),
            Just(Event::Stop),
            Just(Event::Tick),
            outcome().prop_map(Event::Prepared),
            outcome().prop_map(Event::Launched),
            outcome().prop_map(Event::Pinged),
            outcome().prop_map(Event::PoweredOff),
            outcome().prop_map(Event::Cleaned),
            Just(Event::Exited(Exit::Unseen)),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_states_follow_the_table_and_slots_are_freed_once(
            events in proptest::collection::vec((events(), 0u64..400), 0..60), debug: bool,
        ) {
            let limits = Limits { debug, ..LIMITS };
            let mut now = Instant::now();
            let (mut machine, _) = Machine::start(true, now);
            let mut published = VmState::Starting;
            let mut slots = 0;
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                let was = machine.phase();
                if matches!(event, Event::Slot) && matches!(was, Phase::Waiting | Phase::Gone) {
                    slots += 1;
                }
                if matches!(event, Event::Stop) && published.accepts(VmCommand::Stop) {
                    published = VmState::Stopping; // as the claim of the command does
                }
                for effect in machine.step(event, &limits, now) {
                    match effect {
                        Effect::Publish(state, _) if published_from(state).contains(&published) => published = state,
                        Effect::FreeSlot => slots -= 1,
                        _ => {}
                    }
                }
                prop_assert!(slots >= 0);
                if machine.phase() == Phase::Gone {
                    prop_assert_eq!(slots, 0);
                    prop_assert_eq!(published, VmState::Stopped);
                }
                if machine.phase() == Phase::Zombie {
                    prop_assert_eq!(published, VmState::Zombie);
                }
                if machine.phase() == Phase::Running {
                    prop_assert_eq!(published, VmState::Running);
                }
                // Nothing waits for ever for somebody who may never report.
                if matches!(machine.phase(), Phase::Booting | Phase::ShuttingDown | Phase::Killing | Phase::Zombie) {
                    prop_assert!(machine.wake_at().is_some());
                }
            }
        }
    }
}
