//! What a machine hears, says and goes through, and by which limits.

use std::time::{Duration, Instant};

use crate::{
    hkd::slots::Purpose,
    hypervisor::Exit,
    model::{Expiry, VmState},
};

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
    /// The agent, or its power button, took the order to power off, or why not.
    PoweredOff(Result<(), String>),
    /// No process of it lives any more.
    Exited(Exit),
    /// Everything is freed, or why not.
    Cleaned(Result<(), String>),
    /// It shall stop.
    Stop,
    /// It shall stop at once, without being asked.
    Kill,
    /// The database has lost commits, and does not know what has become of it.
    Forgotten,
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
    /// Ask the agent to power off; answer with `PoweredOff`.
    PowerOff,
    /// Press its power button; answer with `PoweredOff`.
    PressPowerButton,
    /// Tell the agent that the VM expires.
    TellExpiry(Expiry),
    /// Kill every process.
    Kill,
    /// Free what it left.
    Clean,
    /// Have it put on record here as it was published last, unless it is assigned to another node.
    PutOnRecord,
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
