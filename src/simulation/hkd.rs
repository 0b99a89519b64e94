//! hkd of one node, after `src/hkd/daemon.rs` and `src/events/plane.rs`: start, end, listening, rounds of `reconcile`.
//! Whether wake-ups can be relied upon is asked of the real `Health`. Signs of life are in `life`, supervisors in `fleet`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    events::{Action, Health, Intervals},
    hkd::machine,
    keeper::fence::Signer,
    model::{Epoch, HostState, Owner, VmCommand, VmId, VmState},
};

use super::{
    chance::Millis,
    database::{Answer, Call, Refused, Said},
    fleet::{Begin, Supervisor},
    life::Life,
    node::{Cause, Daemon, Number},
    router::For,
    shim::PATIENCE,
    storage::Operation,
    world::{Event, Failure, Input, World},
};

/// Which life of which supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifeOf {
    pub vm: VmId,
    pub life: u32,
    /// Which of its steps that may take long.
    pub step: u32,
}

/// What the answer of the storage is for.
#[derive(Clone, Copy, Debug)]
pub enum After {
    Beat,
    Owned,
    Disowned,
    Identified,
    Beats(u32),
    Prepared(LifeOf),
    Locked(LifeOf),
    Forgotten(LifeOf),
    Furnished(LifeOf),
    GaveUp(LifeOf),
}

/// What the answer of the database is for.
#[derive(Clone, Debug)]
pub enum Then {
    Nothing,
    Started {
        began: Millis,
    },
    /// With those found that were to be put on record already.
    Adopt {
        asked: BTreeSet<VmId>,
    },
    Stray {
        asked: BTreeSet<VmId>,
    },
    Runs,
    Farewell,
    Serves,
    Recover {
        supervised: BTreeSet<VmId>,
    },
    Claim,
    Renewed {
        round: u32,
        began: Millis,
    },
    Life(u32),
    Published(LifeOf),
    Settled(LifeOf, Owner),
    Router(For),
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Starting,
    Serving,
    /// Its epoch is over; it ends what runs here.
    Revoked,
    Leaving,
}

pub struct Hkd {
    pub stage: Stage,
    pub epoch: Epoch,
    pub runs: bool,
    pub health: Health,
    /// Numbers listening connections; what belongs to another is not heard.
    pub listening: u32,
    pub connected: bool,
    serve: Serve,
    pub life: Life,
    pub supervisors: BTreeMap<VmId, Supervisor>,
    pub lives: u32,
    pub slots: usize,
    /// Who waits for a slot; stops go before starts.
    pub starts: VecDeque<LifeOf>,
    pub stops: VecDeque<LifeOf>,
}

/// The loop that takes commands.
#[derive(Default)]
struct Serve {
    /// A round is under way.
    busy: bool,
    woken: bool,
    /// Who is here and who is on record here may differ.
    doubt: bool,
    unsure: bool,
    polled: bool,
    /// Numbers waits, so that a timer of an earlier one is not minded.
    wait: u32,
    until: Millis,
}

/// Slots for VMs in a heavy phase.
pub const MAX_HEAVY: usize = 2;
const URGENT: Millis = 1000;
const INTERVALS: Intervals =
    Intervals { beat: Duration::from_secs(5), relaxed: Duration::from_secs(30), urgent: Duration::from_millis(URGENT) };
const TICK: Millis = 500;

impl Hkd {
    pub fn new(now: std::time::Instant) -> Self {
        Self {
            stage: Stage::Starting,
            epoch: 0,
            runs: false,
            health: Health::new(INTERVALS, Duration::ZERO, now),
            listening: 0,
            connected: false,
            serve: Serve::default(),
            life: Life::default(),
            supervisors: BTreeMap::new(),
            lives: 0,
            slots: MAX_HEAVY,
            starts: VecDeque::new(),
            stops: VecDeque::new(),
        }
    }
}

impl World {
    pub fn hkd_of(&mut self, node: usize) -> Option<&mut Hkd> {
        self.nodes[node].hkd.as_mut().map(|process| &mut process.state)
    }

    pub fn hkd(&mut self, node: usize, number: Number, input: Input) {
        let Some(stage) = self.hkd_of(node).map(|hkd| hkd.stage) else { return };
        match (stage, input) {
            (_, Input::Begin) => self.store(node, number, Operation::Furnish, After::Identified),
            (Stage::Starting, Input::Stored(After::Identified, _)) => self.announce(node, number),
            (Stage::Starting, Input::Answered(Then::Started { began }, answer)) => {
                self.started(node, number, began, answer);
            }
            (Stage::Starting, Input::Answered(Then::Adopt { asked }, answer)) => {
                self.adopt(node, number, asked, answer);
            }
            (Stage::Starting, Input::Answered(Then::Stray { asked }, answer)) => match answer {
                Ok(_) => {
                    let (node_id, epoch) = self.identity(node);
                    self.call(node, number, Call::NodeVms { node: node_id, epoch }, Then::Adopt { asked });
                }
                Err(_) => self.exit(node, Daemon::Hkd),
            },
            (Stage::Leaving, Input::Answered(Then::Farewell, answer)) => {
                if answer.is_ok() {
                    let (it, now) = (&self.nodes[node], self.now());
                    it.fence.lift(it.clock.boot_time(now));
                }
                self.exit(node, Daemon::Hkd);
            }
            (Stage::Revoked, Input::Timer(since)) => self.end_vms(node, number, since),
            (Stage::Revoked | Stage::Leaving, _) => {}
            (Stage::Serving, Input::Terminate) => {
                let (host, epoch) = self.identity(node);
                if let Some(hkd) = self.hkd_of(node) {
                    hkd.stage = Stage::Leaving;
                }
                let call = Call::NodeState { node: host, epoch, becomes: HostState::Stopped };
                self.call(node, number, call, Then::Farewell);
            }
            (Stage::Serving, Input::Answered(Then::Runs, answer)) => match answer {
                Ok(_) => {
                    if let Some(hkd) = self.hkd_of(node) {
                        hkd.runs = true;
                    }
                }
                Err(failure) => {
                    self.mind(node, number, failure);
                    self.timer(node, number, URGENT, RUNS);
                }
            },
            (Stage::Serving, Input::Timer(RUNS)) => self.say_runs(node, number),
            (_, Input::Answered(Then::Serves, answer)) => self.recover(node, number, answer),
            (_, Input::Answered(Then::Recover { supervised }, answer)) => {
                self.recovered(node, number, &supervised, answer);
            }
            (_, Input::Answered(Then::Claim, answer)) => self.claimed(node, number, answer),
            (_, input @ (Input::Listening(_) | Input::Lost(_) | Input::Heard(..) | Input::Tick)) => {
                self.plane(node, number, input);
            }
            (_, Input::Poll(wait)) => self.poll(node, number, wait),
            (_, input @ (Input::Life | Input::Departed | Input::Late(_) | Input::Stored(After::Beats(_), _))) => {
                self.life(node, number, input);
            }
            (_, Input::Answered(Then::Renewed { round, began }, answer)) => {
                self.renewed(node, number, (round, began), answer);
            }
            (_, Input::Answered(Then::Life(round), answer)) => self.life_answered(node, number, round, answer),
            (_, Input::Answered(Then::Nothing, _)) => {}
            (_, input) => self.fleet(node, number, input),
        }
    }

    pub fn identity(&self, node: usize) -> (crate::model::HostId, Epoch) {
        let it = &self.nodes[node];
        (it.host, it.hkd.as_ref().map_or(0, |hkd| hkd.state.epoch))
    }

    pub fn owner(&self, node: usize) -> Owner {
        let (host, epoch) = self.identity(node);
        Owner { host, epoch, boot_id: self.nodes[node].boot.to_string() }
    }

    fn announce(&mut self, node: usize, number: Number) {
        let began = self.nodes[node].clock.local(self.now());
        self.signed(node, Signer::Hkd, began);
        let (host, boot) = (self.nodes[node].host, self.nodes[node].boot);
        let call = Call::NodeStart { node: host, boot, machine: node as u8, dead: None, patience: PATIENCE };
        self.call(node, number, call, Then::Started { began });
    }

    fn started(&mut self, node: usize, number: Number, _began: Millis, answer: Result<Answer, Failure>) {
        let Ok(Answer::Life { epoch, state, .. }) = answer else {
            return self.exit(node, Daemon::Hkd);
        };
        self.nodes[node].orders = true;
        if let Some(hkd) = self.hkd_of(node) {
            hkd.epoch = epoch;
            hkd.runs = state == HostState::Running;
        }
        let (host, epoch) = self.identity(node);
        self.listen(node, number, 0);
        self.schedule.after(TICK, Event::To { node, number, input: Input::Tick });
        self.call(node, number, Call::NodeVms { node: host, epoch }, Then::Adopt { asked: BTreeSet::new() });
    }

    fn adopt(&mut self, node: usize, number: Number, mut asked: BTreeSet<VmId>, answer: Result<Answer, Failure>) {
        // A shim that does not answer is no shim that can be adopted.
        let unanswered = self.nodes[node].shims.values().any(|shim| shim.stopped);
        let (Ok(Answer::OnRecord(records)), false) = (answer, unanswered) else {
            return self.exit(node, Daemon::Hkd);
        };
        let found: Vec<VmId> = {
            let it = &self.nodes[node];
            let found: BTreeSet<VmId> = it.runs.keys().chain(&it.directories).copied().collect();
            found.into_iter().collect()
        };
        let alive = |world: &Self, vm: VmId| {
            let it = &world.nodes[node];
            it.shims.get(&vm).is_some_and(|shim| shim.state.born.is_some()) && it.runs.contains_key(&vm)
        };
        // What lives here counts more than a database that has lost commits.
        let is_stray = |vm: &VmId| alive(self, *vm) && !records.iter().any(|(on_record, ..)| on_record == vm);
        if let Some(vm) = found.iter().copied().filter(is_stray).find(|vm| !asked.contains(vm)) {
            let (host, epoch) = self.identity(node);
            asked.insert(vm);
            return self.call(node, number, Call::NodeAdopt { node: host, epoch, vm }, Then::Stray { asked });
        }
        if let Some(hkd) = self.hkd_of(node) {
            hkd.stage = Stage::Serving;
        }
        for (vm, published) in &records {
            let alive = alive(self, *vm);
            self.begin(node, number, *vm, Begin::Adopt { published: *published, alive, spec: true });
        }
        for vm in found {
            if !records.iter().any(|(on_record, ..)| *on_record == vm) {
                self.given_away(node, vm);
                let alive = alive(self, vm);
                let begin = Begin::Adopt { published: VmState::Stopped, alive, spec: false };
                self.begin(node, number, vm, begin);
            }
        }
        self.say_runs(node, number);
        self.life(node, number, Input::Life);
        self.round(node, number, false);
    }

    fn say_runs(&mut self, node: usize, number: Number) {
        if self.hkd_of(node).is_none_or(|hkd| hkd.runs) {
            return;
        }
        let (host, epoch) = self.identity(node);
        self.call(node, number, Call::NodeServes { node: host, epoch }, Then::Runs);
    }

    /// What a failed call means for the daemon: its epoch may be over.
    pub fn mind(&mut self, node: usize, number: Number, failure: Failure) {
        if failure == Failure::Refused(Refused("QV001")) {
            let Some(hkd) = self.hkd_of(node) else { return };
            if hkd.stage != Stage::Revoked {
                hkd.stage = Stage::Revoked;
                self.note(|| format!("hkd of n{node} hears that its epoch is over"));
                for run in self.nodes[node].runs.values_mut() {
                    run.commanded = true;
                }
                self.end_vms(node, number, 0);
            }
        }
    }

    /// Ends every VM: the database has given all of them to others.
    fn end_vms(&mut self, node: usize, number: Number, tries: u32) {
        let vms: Vec<VmId> = self.nodes[node].runs.keys().copied().collect();
        if vms.is_empty() || tries > 100 {
            return self.exit(node, Daemon::Hkd);
        }
        if tries == 0 {
            for vm in vms {
                self.order_kill(node, vm);
            }
        }
        self.timer(node, number, 100, tries + 1);
    }

    /// By its shim, or where there is none by its control groups.
    pub fn order_kill(&mut self, node: usize, vm: VmId) {
        match self.nodes[node].shims.get(&vm).map(|shim| (shim.number, shim.state.born.is_some())) {
            Some((shim, true)) => self.schedule.after(1, Event::To { node, number: shim, input: Input::Kill }),
            // It has no socket yet.
            Some((_, false)) | None => self.kill_run(node, vm, Cause::Killed),
        }
    }

    // The event plane.

    fn listen(&mut self, node: usize, number: Number, delay: Millis) {
        let Some(hkd) = self.hkd_of(node) else { return };
        hkd.listening += 1;
        let connection = hkd.listening;
        self.schedule.after(delay + 2, Event::Listen { node, number, connection });
    }

    fn plane(&mut self, node: usize, number: Number, input: Input) {
        let now = self.nodes[node].clock.instant(self.now());
        let Some(hkd) = self.hkd_of(node) else { return };
        match input {
            Input::Listening(connection) if connection == hkd.listening => {
                hkd.health.connected(now);
                hkd.connected = true;
                // A gap: whoever waits reads again.
                hkd.serve.doubt = true;
                self.wake(node, number);
                self.relay(node, None);
            }
            Input::Lost(connection) if connection == hkd.listening => {
                hkd.health.disconnected();
                hkd.connected = false;
                let backoff = self.chance.between(100, 1000);
                self.listen(node, number, backoff);
            }
            Input::Heard(connection, said) if connection == hkd.listening => match said {
                Said::Beat => hkd.health.beat(now),
                Said::Echo(_) => hkd.health.echoed(now),
                Said::Host(_) => {
                    hkd.health.woken(now);
                    self.wake(node, number);
                    self.relay(node, Some(said));
                }
                Said::Vm(_) => self.relay(node, Some(said)),
            },
            Input::Tick => {
                let (actions, host) = (hkd.health.tick(now), self.nodes[node].host);
                for action in actions {
                    match action {
                        Action::Beat => self.call(node, number, Call::BeatTry { age: 5000 }, Then::Nothing),
                        Action::Echo => self.call(node, number, Call::Echo { node: host }, Then::Nothing),
                        Action::Reconnect => {
                            if let Some(hkd) = self.hkd_of(node) {
                                hkd.health.disconnected();
                                hkd.connected = false;
                            }
                            self.listen(node, number, 0);
                        }
                    }
                }
                self.schedule.after(TICK, Event::To { node, number, input: Input::Tick });
                self.hasten(node, number);
            }
            _ => {}
        }
    }

    // The loop that takes commands.

    fn wake(&mut self, node: usize, number: Number) {
        let Some(hkd) = self.hkd_of(node) else { return };
        hkd.serve.woken = true;
        if !hkd.serve.busy && hkd.stage == Stage::Serving {
            self.round(node, number, false);
        }
    }

    fn round(&mut self, node: usize, number: Number, polled: bool) {
        let (host, epoch) = self.identity(node);
        let recovery = self.rules.recovery;
        let Some(hkd) = self.hkd_of(node) else { return };
        (hkd.serve.busy, hkd.serve.woken, hkd.serve.polled) = (true, false, polled);
        if (std::mem::take(&mut hkd.serve.doubt) || hkd.serve.unsure) && recovery {
            self.call(node, number, Call::NodeServes { node: host, epoch }, Then::Serves);
        } else {
            self.call(node, number, Call::NodeClaim { node: host, epoch }, Then::Claim);
        }
    }

    fn recover(&mut self, node: usize, number: Number, answer: Result<Answer, Failure>) {
        if let Err(failure) = answer {
            return self.unsure(node, number, failure);
        }
        let (host, epoch) = self.identity(node);
        let Some(hkd) = self.hkd_of(node) else { return };
        let supervised = hkd.supervisors.keys().copied().collect();
        self.call(node, number, Call::NodeVms { node: host, epoch }, Then::Recover { supervised });
    }

    fn recovered(&mut self, node: usize, number: Number, supervised: &BTreeSet<VmId>, answer: Result<Answer, Failure>) {
        match answer {
            Ok(Answer::OnRecord(records)) => {
                let mut forgotten = supervised.clone();
                for (vm, published) in records {
                    if !supervised.contains(&vm) {
                        self.begin(node, number, vm, Begin::Adopt { published, alive: false, spec: true });
                    }
                    forgotten.remove(&vm);
                    match published {
                        VmState::Stopping | VmState::Zombie => {
                            self.given_away(node, vm);
                            self.order(node, number, vm, VmCommand::Stop);
                        }
                        VmState::Starting => self.remind(node, number, vm),
                        _ => {}
                    }
                }
                for vm in forgotten {
                    self.remind(node, number, vm);
                }
                let (host, epoch) = self.identity(node);
                self.call(node, number, Call::NodeClaim { node: host, epoch }, Then::Claim);
            }
            Ok(_) => {}
            Err(failure) => self.unsure(node, number, failure),
        }
    }

    fn claimed(&mut self, node: usize, number: Number, answer: Result<Answer, Failure>) {
        match answer {
            Ok(Answer::Claimed(claims)) => {
                let now = self.nodes[node].clock.instant(self.now());
                if let Some(hkd) = self.hkd_of(node) {
                    hkd.serve.unsure = false;
                    if hkd.serve.polled && !claims.is_empty() {
                        hkd.health.poll_found_work(now);
                    }
                }
                for (vm, command) in claims {
                    if !self.order(node, number, vm, command) {
                        self.begin(node, number, vm, Begin::of(command));
                    }
                }
                self.wait(node, number);
            }
            Ok(_) => {}
            Err(failure) => self.unsure(node, number, failure),
        }
    }

    /// The database may have a VM on record here that nobody acts on.
    pub fn doubt(&mut self, node: usize, number: Number) {
        if let Some(hkd) = self.hkd_of(node) {
            hkd.serve.doubt = true;
        }
        self.wake(node, number);
    }

    fn unsure(&mut self, node: usize, number: Number, failure: Failure) {
        self.mind(node, number, failure);
        if let Some(hkd) = self.hkd_of(node) {
            hkd.serve.unsure = true;
        }
        self.wait(node, number);
    }

    fn wait(&mut self, node: usize, number: Number) {
        let (now, polls) = (self.now(), self.rules.polls);
        let Some(hkd) = self.hkd_of(node) else { return };
        hkd.serve.busy = false;
        if hkd.serve.woken && hkd.stage == Stage::Serving {
            return self.round(node, number, false);
        }
        let interval = match hkd.serve.unsure {
            true => URGENT,
            false => hkd.health.poll_interval().as_millis() as Millis,
        };
        hkd.serve.wait += 1;
        hkd.serve.until = now + interval;
        let (wait, until) = (hkd.serve.wait, hkd.serve.until);
        if polls || hkd.serve.unsure {
            self.schedule.at(until, Event::To { node, number, input: Input::Poll(wait) });
        }
    }

    fn poll(&mut self, node: usize, number: Number, wait: u32) {
        let Some(hkd) = self.hkd_of(node) else { return };
        if hkd.serve.wait == wait && !hkd.serve.busy {
            let polled = !hkd.serve.unsure;
            self.round(node, number, polled);
        }
    }

    /// A change to urgent polling must not wait for the end of a relaxed interval.
    fn hasten(&mut self, node: usize, number: Number) {
        let (now, polls) = (self.now(), self.rules.polls);
        let Some(hkd) = self.hkd_of(node) else { return };
        let interval = hkd.health.poll_interval().as_millis() as Millis;
        if polls && !hkd.serve.busy && hkd.stage == Stage::Serving && hkd.serve.until > now + interval {
            self.round(node, number, true);
        }
    }

    /// Tells a supervisor what happened to its VM.
    pub fn report(&mut self, node: usize, hkd: Number, life: LifeOf, event: machine::Event) {
        self.schedule.after(1, Event::To { node, number: hkd, input: Input::Machine(life, event) });
    }
}

/// Timer of a node whose state could not be published.
const RUNS: u32 = 1;
