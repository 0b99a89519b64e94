//! What the X session is doing, judged from the last state that was written down and from who is alive.
//!
//! ```text
//!  (no file) ──x_start──► Initiating ──► Provisioning ──┐
//!                             └─────────────────────────┴─► Starting ──► AwaitingStart ──┐ proxy came
//!                                                                                        ▼
//!      ┌──────────► Resuming ──► AwaitingResume ──────────────────────────► Started / Resumed
//!      │ x_start                      │ 60 s without a proxy                 │ link lost, HUP
//!      │                              ▼                                      ▼
//!      └───────────────────────── Suspended ◄────────────────────────── Suspending
//!
//!  any ──TERM, log-out──► Terminating ──► Terminated ──► (no file)      Aborting, Aborted likewise
//! ```
//!
//! `Initiating` and `Provisioning` are written by the monitor, `Resuming` by the agent or the monitor, the rest by the
//! monitor when nxagent says so. `AwaitingStart` and `AwaitingResume` are ours: nxagent accepts its proxy only once it
//! has said that it waits for it, a moment after it said that it starts or resumes.
//! Nothing is read or signalled here.

use std::time::Duration;

use crate::model::XState;

use super::config::Settings;

macro_rules! nx_states {
    ($($(#[$doc:meta])* $variant:ident = $word:literal => $reported:ident,)+) => {
        /// A state as it stands in the state file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum NxState { $($(#[$doc])* $variant,)+ }

        impl NxState {
            /// Every state.
            #[cfg(test)]
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word in the file.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Reads the word; `None` when it is unknown.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }

            /// What callers are told when everything it needs is alive.
            pub fn reported(self) -> XState {
                match self { $(Self::$variant => XState::$reported,)+ }
            }
        }
    };
}

nx_states! {
    /// The monitor runs, nxagent not yet.
    Initiating = "initiating" => Starting,
    /// The user's account or home is being made.
    Provisioning = "provisioning" => Provisioning,
    /// nxagent came up.
    Starting = "starting" => Starting,
    /// nxagent waits for the first proxy.
    AwaitingStart = "awaiting-start" => Listening,
    /// A proxy is connected for the first time.
    Started = "started" => Connected,
    /// nxagent lets go of its proxy.
    Suspending = "suspending" => Suspending,
    /// nxagent lives without a proxy.
    Suspended = "suspended" => Suspended,
    /// nxagent was told to resume.
    Resuming = "resuming" => Starting,
    /// nxagent waits for the next proxy.
    AwaitingResume = "awaiting-resume" => Listening,
    /// A proxy is connected again.
    Resumed = "resumed" => Connected,
    /// nxagent is ending.
    Terminating = "terminating" => Stopping,
    /// nxagent is ending because something went wrong.
    Aborting = "aborting" => Stopping,
    /// nxagent ended.
    Terminated = "terminated" => Stopped,
    /// nxagent ended because something went wrong.
    Aborted = "aborted" => Stopped,
    /// There is no session.
    Stopped = "stopped" => Stopped,
}

/// How long the states may last that end by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `Initiating`.
    pub initiating: Duration,
    /// `Starting` and `AwaitingStart`.
    pub listening: Duration,
    /// `Suspending`.
    pub suspending: Duration,
    /// `Terminating` and `Aborting`, and whatever was told to end.
    pub stopping: Duration,
}

impl Limits {
    /// The configured ones.
    pub fn of(settings: &Settings) -> Self {
        Self {
            initiating: settings.initiating_limit,
            listening: settings.listening_limit,
            suspending: settings.suspending_limit,
            stopping: settings.stopping_limit,
        }
    }

    /// Resuming has none: what waits there is the user's work, and nxagent itself goes back to sleep after 60 s.
    fn of_state(&self, state: NxState) -> Option<Duration> {
        use NxState::*;
        match state {
            Initiating => Some(self.initiating),
            Starting | AwaitingStart => Some(self.listening),
            Suspending => Some(self.suspending),
            Terminating | Aborting => Some(self.stopping),
            Provisioning | Started | Resumed | Resuming | AwaitingResume | Suspended => None,
            Terminated | Aborted | Stopped => None,
        }
    }
}

/// What is found when somebody looks.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The state file, `None` when there is none or nothing readable in it.
    pub state: Option<NxState>,
    /// For how long it has said so.
    pub age: Duration,
    /// Whether a monitor lives.
    pub monitor: bool,
    /// Whether nxagent lives; `None` while its process is not known.
    pub nxagent: Option<bool>,
}

/// What is to be done to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Ask nxagent, or the monitor before there is an nxagent, to end.
    Terminate,
    /// End it without asking.
    Kill,
    /// Remove what a session that is gone left, since its monitor no longer can.
    Clear,
}

/// What follows from what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What callers are told.
    pub reported: XState,
    /// What is to be done.
    pub act: Option<Act>,
    /// When to look again although nothing changed.
    pub again: Option<Duration>,
}

/// Judges the session.
pub fn judge(found: &Found, limits: &Limits) -> Verdict {
    let verdict = |reported, act| Verdict { reported, act, again: None };
    let Some(state) = found.state else {
        // A monitor without a file is one that has cleared up and is about to end.
        return verdict(if found.monitor { XState::Stopping } else { XState::Stopped }, None);
    };
    if !found.monitor {
        return match found.nxagent {
            // Nobody hears it any more, so nobody could say when it has ended if it were asked to.
            Some(true) => verdict(XState::Stopping, Some(Act::Kill)),
            _ => verdict(XState::Stopped, Some(Act::Clear)),
        };
    }
    if state.reported() == XState::Stopped || found.nxagent == Some(false) {
        return verdict(XState::Stopping, None);
    }
    let Some(limit) = limits.of_state(state) else { return verdict(state.reported(), None) };
    if let Some(rest) = limit.checked_sub(found.age).filter(|rest| !rest.is_zero()) {
        return Verdict { reported: state.reported(), act: None, again: Some(rest) };
    }
    let asked = if state.reported() == XState::Stopping { limit } else { limit + limits.stopping };
    match asked.checked_sub(found.age).filter(|rest| !rest.is_zero()) {
        Some(rest) => Verdict { reported: XState::Stopping, act: Some(Act::Terminate), again: Some(rest) },
        None => verdict(XState::Stopping, Some(Act::Kill)),
    }
}

/// What `x_start` does about the session it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartStep {
    /// There is none: start one.
    Start,
    /// Wake it.
    Resume,
    /// It is on its way to listening already: nothing to do.
    Join,
    /// A proxy holds it: make nxagent let go, then look again.
    Interrupt,
    /// It is between two states: look again when that is over.
    Await,
}

/// Decides about one `x_start`. A user who comes back while his old link is being torn down is served as soon as it
/// is gone; a caller that repeats itself, or comes in place of one that died, finds what the first one ordered.
pub fn on_start(reported: XState) -> StartStep {
    match reported {
        XState::Stopped => StartStep::Start,
        XState::Suspended => StartStep::Resume,
        XState::Starting | XState::Provisioning | XState::Listening => StartStep::Join,
        XState::Connected => StartStep::Interrupt,
        XState::Suspending | XState::Stopping => StartStep::Await,
    }
}

/// Whether HUP makes nxagent suspend in this state. It is a toggle: in a suspended session it would resume, and
/// before the first proxy came it would end nxagent.
pub fn hup_suspends(state: NxState) -> bool {
    matches!(state, NxState::Started | NxState::Resumed | NxState::AwaitingResume)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        initiating: Duration::from_secs(20),
        listening: Duration::from_secs(10),
        suspending: Duration::from_secs(20),
        stopping: Duration::from_secs(20),
    };

    fn found() -> impl Strategy<Value = Found> {
        let state = prop::option::of(prop::sample::select(NxState::ALL));
        (state, 0..100_000_u64, any::<bool>(), any::<Option<bool>>()).prop_map(|(state, age, monitor, nxagent)| Found {
            state,
            age: Duration::from_millis(age),
            monitor,
            nxagent,
        })
    }

    fn alive(state: NxState, age: Duration) -> Found {
        Found { state: Some(state), age, monitor: true, nxagent: Some(true) }
    }

    #[test]
    fn every_word_reads_back_as_its_state() {
        for state in NxState::ALL {
            assert_eq!(NxState::parse(state.as_str()), Some(*state));
        }
        assert_eq!(NxState::parse("dancing"), None);
    }

    #[test]
    fn listening_means_that_nxagent_waits_for_its_proxy() {
        for state in NxState::ALL {
            let waits = matches!(state, NxState::AwaitingStart | NxState::AwaitingResume);
            assert_eq!(
                judge(&alive(*state, Duration::ZERO), &LIMITS).reported == XState::Listening,
                waits,
                "{state:?}"
            );
        }
    }

    #[test]
    fn a_session_without_anybody_alive_is_stopped_and_cleared() {
        for state in NxState::ALL {
            let gone = Found { monitor: false, nxagent: Some(false), ..alive(*state, Duration::ZERO) };
            let verdict = judge(&gone, &LIMITS);
            assert_eq!((verdict.reported, verdict.act), (XState::Stopped, Some(Act::Clear)), "{state:?}");
        }
    }

    #[test]
    fn a_slow_ending_is_asked_first_and_killed_then() {
        let at = |seconds| judge(&alive(NxState::AwaitingStart, Duration::from_secs(seconds)), &LIMITS).act;
        assert_eq!(
            (at(9), at(10), at(29), at(30)),
            (None, Some(Act::Terminate), Some(Act::Terminate), Some(Act::Kill))
        );
    }

    #[test]
    fn a_session_with_work_in_it_is_ended_by_no_timer() {
        for state in
            [NxState::Started, NxState::Resumed, NxState::Suspended, NxState::Resuming, NxState::AwaitingResume]
        {
            assert_eq!(judge(&alive(state, Duration::from_secs(1 << 40)), &LIMITS).act, None, "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn whoever_waits_for_the_next_look_finds_something_new_and_never_spins(found in found()) {
            let verdict = judge(&found, &LIMITS);
            if let Some(rest) = verdict.again {
                prop_assert!(!rest.is_zero());
                let later = judge(&Found { age: found.age + rest, ..found }, &LIMITS);
                prop_assert_ne!(later, verdict);
            }
        }

        #[test]
        fn a_verdict_becomes_only_sterner_with_time(found in found(), wait in 0..100_000_u64) {
            let stern = |verdict: Verdict| match verdict.act {
                None | Some(Act::Clear) => 0,
                Some(Act::Terminate) => 1,
                Some(Act::Kill) => 2,
            };
            let later = Found { age: found.age + Duration::from_millis(wait), ..found };
            prop_assert!(stern(judge(&later, &LIMITS)) >= stern(judge(&found, &LIMITS)));
        }

        #[test]
        fn nobody_is_signalled_in_a_session_that_is_stopped(found in found()) {
            let verdict = judge(&found, &LIMITS);
            if verdict.reported == XState::Stopped {
                prop_assert!(matches!(verdict.act, None | Some(Act::Clear)));
                prop_assert!(!found.monitor);
            }
        }

        #[test]
        fn a_start_never_disturbs_two_sessions_at_once(found in found()) {
            // Only a session of which nothing lives is followed by a new one.
            if on_start(judge(&found, &LIMITS).reported) == StartStep::Start {
                prop_assert!(!found.monitor && (found.state.is_none() || found.nxagent != Some(true)));
            }
        }
    }
}
