//! How a client and its VM are brought together, as a pure state machine.
//!
//! ```text
//!  Acquiring ──acquired──► Preparing ──► Looking ──runs──► StartingX ──► WaitingX ──listening──► Dialling ─┐
//!   │  ▲                                  │  ▲ ▲              │  ▲ │            │                   │      │
//!   └──┘ contended:                       │  │ │              └──┘ └────────────┴───────┬───────────┘      │
//!        woken, again                     └──┘ │    refused: again after a pause         │                  │
//!                    stopped: start it, once   └─── the VM stopped meanwhile, once ──────┘                  │
//!                                                                             done ◄────── Confirming ◄─────┘
//! ```
//!
//! One operation is under way at a time, or a wait for a wake-up with a limit. Every wait has a deadline but the one
//! for provisioning, which takes as long as it takes. Texts are those of the classic protocol. Any failure is final
//! and is what the client reads; freeing the VM is the caller's business.

use std::time::{Duration, Instant};

use crate::{
    db::AbortCause,
    model::{VmId, VmState, XState},
};

/// Limits and rhythms.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For another session to let the VM go.
    pub takeover: Duration,
    /// For the VM to run.
    pub vm_start: Duration,
    /// For the X session, not counting provisioning.
    pub x_start: Duration,
    /// Further attempts to start an X session that was refused.
    pub x_retries: u32,
    /// Between two texts to a waiting client.
    pub tell: Duration,
}

/// An operation for the caller to perform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Take the VM; answer with `Acquired`.
    Acquire,
    /// Do what is wanted before the VM is started; answer with `Prepared`.
    Prepare,
    /// Ask how the VM stands; answer with `Vm`.
    Look,
    /// Have the VM placed and started; answer with `StartAsked`.
    StartVm,
    /// Have the X session started; answer with `XStarted`.
    StartX,
    /// Ask for the X state, waiting for it to differ from this; answer with `X`.
    AskX(Option<XState>),
    /// Connect to the VM's nxagent; answer with `Dialled`.
    Dial,
    /// Publish that bytes are about to flow; answer with `Confirmed`.
    Confirm,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Perform this.
    Do(Operation),
    /// Wait until woken or until this moment, and say `Woken`.
    Wait(Instant),
    /// Everything is ready: switch protocols.
    Switch,
    /// It cannot be done; the text completes "The requested virtual machine is not available: …, retry later."
    Fail(String),
}

/// A step: texts for the client, then what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Each in an interim answer of its own.
    pub tell: Vec<String>,
    /// And then.
    pub next: Next,
}

/// How the VM stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its state.
    pub state: VmState,
    /// A command waits to be taken.
    pub commanded: bool,
    /// It has a node.
    pub placed: bool,
    /// Somebody wants this session to end.
    pub aborted: Option<AbortCause>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The VM is ours, or somebody else's still.
    Acquired(bool),
    /// All is done that was wanted before, or why not.
    Prepared(Result<(), String>),
    /// How it stands.
    Vm(Seen),
    /// The start was asked for, or why it cannot be.
    StartAsked(Result<(), String>),
    /// The agent starts or resumes the X session, or why not.
    XStarted(Result<(), String>),
    /// The state of the X session, or why it is not known.
    X(Result<XState, String>),
    /// nxagent accepted the connection, or why not.
    Dialled(Result<(), String>),
    /// Bytes may flow; false: the session was taken away in the last moment.
    Confirmed(bool),
    /// A wake-up, or the end of a wait.
    Woken,
    /// The VM that was being talked to runs no more, or elsewhere: it stopped, or its node was lost.
    Lost,
    /// Somebody wants this session to end; `None`: it has ended already.
    Aborted(Option<AbortCause>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Acquiring,
    Preparing,
    Looking,
    StartingX,
    WaitingX(Option<XState>),
    Dialling,
    Confirming,
    Done,
}

/// One attempt of one client.
#[derive(Clone, Debug)]
pub struct Flow {
    vm: VmId,
    limits: Limits,
    phase: Phase,
    deadline: Instant,
    next_tell: Instant,
    start_asked: bool,
    lost: bool,
    attempts: u32,
}

const RETRY_X: Duration = Duration::from_secs(1);

impl Flow {
    /// Begins.
    pub fn new(vm: VmId, limits: Limits, now: Instant) -> (Self, Step) {
        let flow = Self {
            vm,
            limits,
            phase: Phase::Acquiring,
            deadline: now + limits.takeover,
            next_tell: now,
            start_asked: false,
            lost: false,
            attempts: 0,
        };
        (flow, silent(Next::Do(Operation::Acquire)))
    }

    /// Whether the VM is being talked to, so that it matters when it stops.
    pub fn needs_vm(&self) -> bool {
        matches!(self.phase, Phase::StartingX | Phase::WaitingX(_) | Phase::Dialling)
    }

    /// What follows from an event.
    pub fn step(&mut self, event: Event, now: Instant) -> Step {
        if let Event::Aborted(cause) = event
            && self.phase != Phase::Done
        {
            return self.abort(cause);
        }
        match (self.phase, event) {
            (Phase::Acquiring, Event::Acquired(true)) => {
                self.phase = Phase::Preparing;
                telling(format!("Session acquired for VM_ID: {}", self.vm), Next::Do(Operation::Prepare))
            }
            (Phase::Acquiring, Event::Acquired(false)) if now >= self.deadline => {
                self.fail("Unable to acquire VM, close other clients")
            }
            (Phase::Acquiring, Event::Acquired(false)) => {
                self.waiting(format!("Aborting contending session for VM_ID: {}", self.vm), now)
            }
            (Phase::Acquiring, Event::Woken) => silent(Next::Do(Operation::Acquire)),

            (Phase::Preparing, Event::Prepared(Ok(()))) => {
                self.phase = Phase::Looking;
                self.deadline = now + self.limits.vm_start;
                silent(Next::Do(Operation::Look))
            }
            (Phase::Preparing, Event::Prepared(Err(why))) => self.fail(why),

            (Phase::Looking, Event::Vm(seen)) => self.look(seen, now),
            (Phase::Looking, Event::StartAsked(Ok(()))) => {
                telling("Starting virtual machine".to_owned(), Next::Do(Operation::Look))
            }
            (Phase::Looking, Event::StartAsked(Err(why))) => self.fail(why),
            (Phase::Looking, Event::Woken) => silent(Next::Do(Operation::Look)),

            (Phase::StartingX, Event::XStarted(Ok(()))) => {
                self.phase = Phase::WaitingX(None);
                self.deadline = now + self.limits.x_start;
                self.next_tell = now + self.limits.tell;
                telling(format!("Waiting for X session to come up on VM {}", self.vm), Next::Do(Operation::AskX(None)))
            }
            (Phase::StartingX, Event::XStarted(Err(why))) => {
                self.attempts += 1;
                if self.attempts > self.limits.x_retries {
                    return self.fail(format!("Unable to start X session: {why}"));
                }
                self.deadline = now + RETRY_X;
                let text = format!("Starting X session at VM {}", self.vm);
                Step { tell: self.due(text, now), next: Next::Wait(self.deadline) }
            }
            // Whatever the wake-up was about, it does not make the agent ready.
            (Phase::StartingX, Event::Woken) if now < self.deadline => silent(Next::Wait(self.deadline)),
            (Phase::StartingX, Event::Woken) => {
                let text = format!("Starting X session at VM {}", self.vm);
                Step { tell: self.due(text, now), next: Next::Do(Operation::StartX) }
            }

            (Phase::WaitingX(_), Event::X(Ok(XState::Listening))) => {
                self.phase = Phase::Dialling;
                telling(format!("Connecting X session for VM_ID: {}", self.vm), Next::Do(Operation::Dial))
            }
            (Phase::WaitingX(seen), Event::X(Ok(state @ (XState::Starting | XState::Provisioning)))) => {
                self.phase = Phase::WaitingX(Some(state));
                // Also the first answer after it: an agent of ours says nothing until it has something new to say.
                if state == XState::Provisioning || seen == Some(XState::Provisioning) {
                    self.deadline = now + self.limits.x_start;
                } else if now >= self.deadline {
                    return self.fail("X session did not come up. Timeout");
                }
                let text = format!("Waiting for X session to come up on VM {}", self.vm);
                Step { tell: self.due(text, now), next: Next::Do(Operation::AskX(Some(state))) }
            }
            (Phase::WaitingX(_), Event::X(Ok(state))) => self.fail(format!("Unable to start X session: it is {state}")),
            (Phase::WaitingX(seen), Event::X(Err(why))) => {
                if now >= self.deadline {
                    return self.fail(format!("X session did not come up: {why}"));
                }
                self.phase = Phase::WaitingX(seen);
                silent(Next::Wait(now + Duration::from_millis(200)))
            }
            (Phase::WaitingX(_), Event::Woken) => silent(Next::Do(Operation::AskX(None))),

            (Phase::Dialling, Event::Dialled(Ok(()))) => {
                self.phase = Phase::Confirming;
                silent(Next::Do(Operation::Confirm))
            }
            (Phase::Dialling, Event::Dialled(Err(why))) => self.fail(format!("Unable to connect X session: {why}")),

            (_, Event::Lost) if self.needs_vm() && !self.lost => {
                self.lost = true;
                self.start_asked = false;
                self.attempts = 0;
                self.phase = Phase::Looking;
                self.deadline = now + self.limits.vm_start;
                silent(Next::Do(Operation::Look))
            }
            (_, Event::Lost) => self.fail(format!("virtual machine {} stopped again", self.vm)),

            (Phase::Confirming, Event::Confirmed(true)) => {
                self.phase = Phase::Done;
                telling("Connection established".to_owned(), Next::Switch)
            }
            (Phase::Confirming, Event::Confirmed(false)) => self.abort(None),

            // A wake-up while an operation is under way is not sent by callers; anything else is their mistake.
            (phase, event) => self.fail(format!("internal error ({event:?} while {phase:?})")),
        }
    }

    fn look(&mut self, seen: Seen, now: Instant) -> Step {
        if seen.aborted.is_some() {
            return self.abort(seen.aborted);
        }
        match seen.state {
            VmState::Running => {
                self.phase = Phase::StartingX;
                self.next_tell = now + self.limits.tell;
                return telling(format!("Starting X session at VM {}", self.vm), Next::Do(Operation::StartX));
            }
            VmState::Stopped if !seen.commanded && !self.start_asked => {
                self.start_asked = true;
                self.next_tell = now;
                let tell = if seen.placed { vec![] } else { vec![format!("Assigning VM {} to host", self.vm)] };
                return Step { tell, next: Next::Do(Operation::StartVm) };
            }
            VmState::Stopped if !seen.commanded => {
                return self.fail(format!("Failed to start virtual machine {}", self.vm));
            }
            VmState::Zombie | VmState::Debugging => {
                return self.fail(format!("Virtual machine is in state '{}'", seen.state));
            }
            // It will be stopped or running before long.
            VmState::Stopped | VmState::Starting | VmState::Stopping => {}
        }
        if now >= self.deadline {
            return self.fail("VM didn't reach state 'running'. Timeout");
        }
        self.waiting("Waiting for VM to reach state 'running'".to_owned(), now)
    }

    /// Tells the client now and then, and waits.
    fn waiting(&mut self, text: String, now: Instant) -> Step {
        let tell = self.due(text, now);
        Step { tell, next: Next::Wait(self.next_tell.min(self.deadline)) }
    }

    /// The text, when the client was told nothing for a while.
    fn due(&mut self, text: String, now: Instant) -> Vec<String> {
        if now < self.next_tell {
            return vec![];
        }
        self.next_tell = now + self.limits.tell;
        vec![text]
    }

    fn abort(&mut self, cause: Option<AbortCause>) -> Step {
        match cause {
            Some(cause @ (AbortCause::Administrator | AbortCause::Stopped)) => self.fail(cause.to_string()),
            Some(AbortCause::Contender(_)) | None => self.fail("Aborted by contending session"),
        }
    }

    fn fail(&mut self, why: impl Into<String>) -> Step {
        self.phase = Phase::Done;
        silent(Next::Fail(why.into()))
    }
}

fn silent(next: Next) -> Step {
    Step { tell: vec![], next }
}

fn telling(text: String, next: Next) -> Step {
    Step { tell: vec![text], next }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        takeover: Duration::from_secs(30),
        vm_start: Duration::from_secs(270),
        x_start: Duration::from_secs(10),
        x_retries: 20,
        tell: Duration::from_secs(2),
    };

    fn seen(state: VmState) -> Event {
        Event::Vm(Seen { state, commanded: false, placed: true, aborted: None })
    }

    fn drive(flow: &mut Flow, events: Vec<Event>, now: Instant) -> (Vec<String>, Next) {
        let mut tell = vec![];
        let mut next = Next::Switch;
        for event in events {
            let step = flow.step(event, now);
            tell.extend(step.tell);
            next = step.next;
        }
        (tell, next)
    }

    #[test]
    fn a_running_vm_is_reached_without_waiting_for_anything() {
        let now = Instant::now();
        let (mut flow, first) = Flow::new(VmId(7), LIMITS, now);
        assert_eq!(first.next, Next::Do(Operation::Acquire));
        let events = vec![
            Event::Acquired(true),
            Event::Prepared(Ok(())),
            seen(VmState::Running),
            Event::XStarted(Ok(())),
            Event::X(Ok(XState::Listening)),
            Event::Dialled(Ok(())),
            Event::Confirmed(true),
        ];
        let (tell, next) = drive(&mut flow, events, now);
        assert_eq!(next, Next::Switch);
        assert_eq!(
            tell,
            [
                "Session acquired for VM_ID: 7",
                "Starting X session at VM 7",
                "Waiting for X session to come up on VM 7",
                "Connecting X session for VM_ID: 7",
                "Connection established",
            ]
        );
    }

    #[test]
    fn what_is_wanted_before_is_done_between_taking_and_looking() {
        let now = Instant::now();
        let (mut flow, _) = Flow::new(VmId(7), LIMITS, now);
        assert_eq!(flow.step(Event::Acquired(true), now).next, Next::Do(Operation::Prepare));
        let mut refused = flow.clone();
        assert_eq!(flow.step(Event::Prepared(Ok(())), now).next, Next::Do(Operation::Look));
        assert_eq!(refused.step(Event::Prepared(Err("no".into())), now).next, Next::Fail("no".to_owned()));
    }

    #[test]
    fn a_stopped_vm_is_started_once_and_a_second_stop_is_a_failure() {
        let now = Instant::now();
        let (mut flow, _) = Flow::new(VmId(7), LIMITS, now);
        let stopped = Event::Vm(Seen { state: VmState::Stopped, commanded: false, placed: false, aborted: None });
        let (tell, next) = drive(&mut flow, vec![Event::Acquired(true), Event::Prepared(Ok(())), stopped.clone()], now);
        assert_eq!(tell.last().unwrap(), "Assigning VM 7 to host");
        assert_eq!(next, Next::Do(Operation::StartVm));
        let (tell, next) = drive(&mut flow, vec![Event::StartAsked(Ok(())), seen(VmState::Starting)], now);
        assert_eq!(tell, ["Starting virtual machine", "Waiting for VM to reach state 'running'"]);
        assert!(matches!(next, Next::Wait(_)));
        let (_, next) = drive(&mut flow, vec![Event::Woken, stopped], now);
        assert_eq!(next, Next::Fail("Failed to start virtual machine 7".to_owned()));
    }

    #[test]
    fn a_contended_vm_is_asked_for_again_at_each_wake_up_until_the_limit() {
        let now = Instant::now();
        let (mut flow, _) = Flow::new(VmId(7), LIMITS, now);
        let step = flow.step(Event::Acquired(false), now);
        assert_eq!(step.tell, ["Aborting contending session for VM_ID: 7"]);
        assert_eq!(step.next, Next::Wait(now + LIMITS.tell));
        assert_eq!(flow.step(Event::Woken, now).next, Next::Do(Operation::Acquire));
        let late = now + LIMITS.takeover;
        let step = flow.step(Event::Acquired(false), late);
        assert_eq!(step.next, Next::Fail("Unable to acquire VM, close other clients".to_owned()));
    }

    #[test]
    fn provisioning_has_no_limit_and_the_clock_of_x_starts_after_it() {
        let now = Instant::now();
        let (mut flow, _) = Flow::new(VmId(7), LIMITS, now);
        drive(
            &mut flow,
            vec![Event::Acquired(true), Event::Prepared(Ok(())), seen(VmState::Running), Event::XStarted(Ok(()))],
            now,
        );
        let hour = now + Duration::from_secs(3600);
        let step = flow.step(Event::X(Ok(XState::Provisioning)), hour);
        assert_eq!(step.next, Next::Do(Operation::AskX(Some(XState::Provisioning))));
        // The agent may have been silent about its state until it changed.
        let changed = hour + Duration::from_secs(3600);
        for (seconds, over) in [(0, false), (9, false), (10, true)] {
            let step = flow.step(Event::X(Ok(XState::Starting)), changed + Duration::from_secs(seconds));
            assert_eq!(matches!(step.next, Next::Fail(_)), over, "{seconds} s");
        }
    }

    #[test]
    fn a_refused_x_session_is_tried_again_a_bounded_number_of_times() {
        let now = Instant::now();
        let (mut flow, _) = Flow::new(VmId(7), LIMITS, now);
        drive(&mut flow, vec![Event::Acquired(true), Event::Prepared(Ok(())), seen(VmState::Running)], now);
        for attempt in 0..LIMITS.x_retries {
            let now = now + RETRY_X * attempt;
            let wait = Next::Wait(now + RETRY_X);
            assert_eq!(flow.step(Event::XStarted(Err("later".into())), now).next, wait);
            assert_eq!(flow.step(Event::Woken, now).next, wait, "woken for another reason");
            let step = flow.step(Event::Woken, now + RETRY_X);
            assert_eq!(step.next, Next::Do(Operation::StartX));
            assert_eq!(step.tell.len(), (attempt % 2) as usize, "the client is told every two seconds");
        }
        let step = flow.step(Event::XStarted(Err("later".into())), now);
        assert_eq!(step.next, Next::Fail("Unable to start X session: later".to_owned()));
    }

    #[test]
    fn a_vm_that_stops_while_it_is_talked_to_is_started_anew_but_not_for_ever() {
        let now = Instant::now();
        let begun = vec![Event::Acquired(true), Event::Prepared(Ok(())), seen(VmState::Running)];
        let later = [
            vec![],
            vec![Event::XStarted(Err("no route".into()))],
            vec![Event::XStarted(Ok(()))],
            vec![Event::XStarted(Ok(())), Event::X(Ok(XState::Listening))],
        ];
        for events in later {
            let (mut flow, _) = Flow::new(VmId(7), LIMITS, now);
            drive(&mut flow, begun.clone().into_iter().chain(events).collect(), now);
            assert!(flow.needs_vm());
            let (_, next) = drive(&mut flow, vec![Event::Lost], now);
            assert_eq!(next, Next::Do(Operation::Look));
            let (_, next) = drive(&mut flow, vec![seen(VmState::Stopped)], now);
            assert_eq!(next, Next::Do(Operation::StartVm));
            let (_, next) = drive(&mut flow, vec![Event::StartAsked(Ok(())), seen(VmState::Running)], now);
            assert_eq!(next, Next::Do(Operation::StartX));
            let (_, next) = drive(&mut flow, vec![Event::Lost], now);
            assert_eq!(next, Next::Fail("virtual machine 7 stopped again".to_owned()));
        }
    }

    proptest! {
        #[test]
        fn answering_what_is_asked_always_ends_and_never_with_an_internal_error(
            choices in proptest::collection::vec((0u8..8, 0u64..20), 2000),
        ) {
            let mut now = Instant::now();
            let (mut flow, mut step) = Flow::new(VmId(1), LIMITS, now);
            let mut ended = false;
            for (choice, seconds) in choices {
                now += Duration::from_secs(seconds);
                let good = choice < 5;
                let outcome = || if good { Ok(()) } else { Err("no".to_owned()) };
                let event = match &step.next {
                    Next::Switch => { ended = true; break }
                    Next::Fail(why) => {
                        prop_assert!(!why.contains("internal"), "{why}");
                        ended = true;
                        break;
                    }
                    Next::Wait(at) => { now = now.max(*at); Event::Woken }
                    Next::Do(Operation::Acquire) => Event::Acquired(good),
                    Next::Do(Operation::Prepare) => Event::Prepared(outcome()),
                    Next::Do(Operation::Look) => {
                        Event::Vm(Seen {
                            state: VmState::ALL[usize::from(choice) % VmState::ALL.len()],
                            commanded: seconds % 2 == 0,
                            placed: good,
                            aborted: (seconds == 19).then_some(AbortCause::Administrator),
                        })
                    }
                    Next::Do(Operation::StartVm) => Event::StartAsked(outcome()),
                    Next::Do(Operation::StartX) => Event::XStarted(outcome()),
                    // An X session that provisions for ever is allowed to; this one does not.
                    Next::Do(Operation::AskX(_)) => Event::X(
                        if good { Ok(XState::ALL[usize::from(choice) + 1]).map(|state| {
                            if state == XState::Provisioning { XState::Starting } else { state }
                        }) } else { Err("no".to_owned()) }),
                    Next::Do(Operation::Dial) => Event::Dialled(outcome()),
                    Next::Do(Operation::Confirm) => Event::Confirmed(good),
                };
                let event = if choice == 7 && seconds == 7 && flow.needs_vm() { Event::Lost } else { event };
                step = flow.step(event, now);
            }
            prop_assert!(ended);
        }
    }
}
