//! The cluster: who is there, what is under way between them, and how it comes about. One event happens at a time; after
//! each the truth is judged (`judge`).

use std::{collections::BTreeMap, time::Instant};

use crate::{
    hkd::machine,
    model::{HostId, VmCommand, VmId, VmState},
};

use super::{
    chance::{Chance, Millis, Schedule},
    database::{Answer, Call, Database, Refused, Said},
    faults::Fault,
    hkd::{After, LifeOf, Then},
    node::{Cause, Daemon, Node, Number},
    router::Request,
    rules::Rules,
    storage::{Operation, Shown, Storage, Stored},
};

/// What happens next.
#[derive(Clone, Debug)]
pub enum Event {
    /// Reaches a process.
    To {
        node: usize,
        number: Number,
        input: Input,
    },
    /// A call reaches the database.
    Call {
        from: From,
        call: Call,
        then: Then,
    },
    /// Its answer reaches the caller.
    Answer {
        from: From,
        then: Then,
        answer: Result<Answer, Failure>,
    },
    /// Somebody wants to listen.
    Listen {
        node: usize,
        number: Number,
        connection: u32,
    },
    /// A question reaches an agent.
    Agent {
        node: usize,
        number: Number,
        life: LifeOf,
        poweroff: bool,
        limit: Millis,
    },
    /// An operation reaches the storage.
    Store {
        node: usize,
        number: Number,
        operation: Operation,
        then: After,
    },
    /// A heartbeat can be seen by everybody.
    Shown {
        host: HostId,
        beat: u64,
    },
    LoseLocks {
        node: usize,
        cut: u32,
    },
    Die {
        node: usize,
        vm: VmId,
        run: Number,
    },
    Boot(usize),
    Start(usize, Daemon),
    Fault(Fault),
    Mend(Fault),
    Administrate,
    /// A user comes.
    Visit,
    Judge(VmId),
}

/// A process that asked the database, since when it waits, and which server its connection leads to.
#[derive(Clone, Copy, Debug)]
pub struct From {
    pub node: usize,
    pub number: Number,
    pub since: Millis,
    pub server: u32,
}

/// What reaches a process.
#[derive(Clone, Debug)]
pub enum Input {
    Begin,
    Terminate,
    Timer(u32),
    Stored(After, Stored),
    Answered(Then, Result<Answer, Failure>),
    Listening(u32),
    Lost(u32),
    Heard(u32, Said),
    Tick,
    Poll(u32),
    Life,
    Late(u32),
    Machine(LifeOf, machine::Event),
    Due(LifeOf),
    Granted(LifeOf),
    Started(LifeOf),
    NotStarted(LifeOf),
    Free(LifeOf),
    GaveUp(LifeOf),
    PublishAgain(LifeOf),
    WatchExit(LifeOf),
    Kill,
    Spawn,
    Dead(Cause),
    Router(Request),
    /// A router of this node may have ended.
    Departed,
}

/// Why a call of the database failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Unreachable,
    Refused(Refused),
}

/// The server that is written to.
pub struct Server {
    pub up: bool,
    /// Another one after each start and promotion.
    pub number: u32,
    pub database: Database,
    /// What a standby has that gets no more of what is committed.
    pub standby: Option<Database>,
    /// One that had not got everything has taken over.
    pub lost_commits: bool,
    /// By node: hkd's process and which of its connections.
    pub listeners: BTreeMap<usize, (Number, u32)>,
    /// How wrong its clock is.
    pub skew: i64,
}

pub struct World {
    pub rules: Rules,
    pub chance: Chance,
    pub schedule: Schedule<Event>,
    pub server: Server,
    pub storage: Storage,
    pub nodes: Vec<Node>,
    /// No more faults; what is broken is mended.
    pub calm: bool,
    pub violation: Option<String>,
    pub trace: Option<Vec<(Millis, String)>>,
    pub zero: Instant,
    numbers: Number,
}

/// How long a connection without an answer is believed in.
const SILENCE: Millis = 15_000;
/// How often what is lost on the way is sent again.
const AGAIN: Millis = 400;

impl World {
    pub fn new(mut chance: Chance, rules: Rules, nodes: usize, vms: usize, traced: bool) -> Self {
        // Only what is counted from it matters.
        let zero = Instant::now();
        let hosts: Vec<HostId> = (0..nodes).map(|node| HostId(node as i32)).collect();
        let vms: Vec<(VmId, bool)> = (0..vms).map(|vm| (VmId(vm as i32), chance.percent(30))).collect();
        let mut world = Self {
            rules,
            chance,
            schedule: Schedule::new(),
            server: Server {
                up: true,
                number: 1,
                database: Database::new(&hosts, &vms, rules),
                standby: None,
                lost_commits: false,
                listeners: BTreeMap::new(),
                skew: 0,
            },
            storage: Storage::default(),
            nodes: hosts.iter().map(|host| Node::new(*host, zero)).collect(),
            calm: false,
            violation: None,
            trace: traced.then(Vec::new),
            zero,
            numbers: 0,
        };
        for node in 0..nodes {
            world.schedule.at(0, Event::Boot(node));
        }
        world
    }

    pub fn now(&self) -> Millis {
        self.schedule.now()
    }

    pub fn new_number(&mut self) -> Number {
        self.numbers += 1;
        self.numbers
    }

    /// Lets everything happen that comes before `end`.
    pub fn run(&mut self, end: Millis) {
        while self.violation.is_none() {
            let Some(event) = self.schedule.next(end) else { return };
            self.happen(event);
        }
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.now();
        if let Some(trace) = &mut self.trace {
            trace.push((now, text()));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::To { node, number, input } => self.reach(node, number, input),
            Event::Call { from, call, then } => self.called(from, call, then),
            Event::Answer { from, then, answer } => self.answered(from, then, answer),
            Event::Listen { node, number, connection } => self.listened(node, number, connection),
            Event::Agent { node, number, life, poweroff, limit } => self.agent(node, number, life, poweroff, limit),
            Event::Store { node, number, operation, then } => self.stored(node, number, operation, then),
            Event::Shown { host, beat } => {
                let since = self.now();
                let shown = self.storage.seen.entry(host).or_default();
                if shown.beat < beat {
                    *shown = Shown { beat, since };
                }
            }
            Event::LoseLocks { node, cut } => self.lose_locks(node, cut),
            Event::Die { node, vm, run } => {
                if self.nodes[node].frozen {
                    self.schedule.after(100, Event::Die { node, vm, run });
                } else {
                    self.died(node, vm, run);
                }
            }
            Event::Boot(node) => self.boot(node),
            Event::Start(node, daemon) => self.start_daemon(node, daemon),
            Event::Fault(fault) => self.befall(fault),
            Event::Mend(fault) => self.mend(fault),
            Event::Administrate => self.administrate(),
            Event::Visit => self.visit(),
            Event::Judge(vm) => self.judge_double(vm),
        }
    }

    /// Delivers to a process, or keeps for one that is stopped.
    fn reach(&mut self, node: usize, number: Number, input: Input) {
        let it = &mut self.nodes[node];
        if !it.lives(number) {
            return;
        }
        if let Some(backlog) = it.backlog(number) {
            return backlog.push(input);
        }
        let of = |daemon| it.number(daemon) == Some(number);
        if of(Daemon::Hkd) {
            self.hkd(node, number, input);
        } else if of(Daemon::Keeper) {
            self.keeper(node, number, input);
        } else if of(Daemon::L7r) {
            self.l7r(node, number, input);
        } else if let Some(vm) = it.shims.iter().find(|(_, shim)| shim.number == number).map(|(vm, _)| *vm) {
            self.shim(node, vm, number, input);
        }
    }

    /// After so much of its node's time.
    pub fn timer(&mut self, node: usize, number: Number, delay: Millis, which: u32) {
        let at = self.nodes[node].clock.after(self.now(), delay);
        self.schedule.at(at, Event::To { node, number, input: Input::Timer(which) });
    }

    // The database.

    pub fn call(&mut self, node: usize, number: Number, call: Call, then: Then) {
        let from = From { node, number, since: self.now(), server: self.server.number };
        let delay = if !self.calm && self.chance.percent(2) { self.chance.between(1, 4000) } else { 1 };
        self.schedule.after(delay, Event::Call { from, call, then });
    }

    fn called(&mut self, from: From, call: Call, then: Then) {
        if self.now() - from.since > 1 && !self.nodes[from.node].lives(from.number) {
            // The connections of a dead process are reset. One whose end cannot be told may still deliver; that is not so here.
            return;
        }
        if self.nodes[from.node].database_cut {
            return match self.now() - from.since < SILENCE {
                true => self.schedule.after(AGAIN, Event::Call { from, call, then }),
                false => self.tell(from, then, Err(Failure::Unreachable)),
            };
        }
        if !self.server.up || self.server.number != from.server {
            return self.tell(from, then, Err(Failure::Unreachable));
        }
        let answer = self.transact(&call);
        self.heed(&call, &answer);
        // The server dies, or the connection breaks, between commit and answer.
        let lost = !self.calm && self.chance.percent(1);
        let answer = if lost { Err(Failure::Unreachable) } else { answer.map_err(Failure::Refused) };
        if lost {
            self.note(|| format!("the answer to {call:?} of n{} is lost", from.node));
        }
        let delay = if !self.calm && self.chance.percent(1) { self.chance.between(1, 4000) } else { 1 };
        self.schedule.after(delay, Event::Answer { from, then, answer });
    }

    fn answered(&mut self, from: From, then: Then, answer: Result<Answer, Failure>) {
        if self.server.number != from.server {
            return self.tell(from, then, Err(Failure::Unreachable));
        }
        if self.nodes[from.node].database_cut {
            return match self.now() - from.since < SILENCE {
                true => self.schedule.after(AGAIN, Event::Answer { from, then, answer }),
                false => self.tell(from, then, Err(Failure::Unreachable)),
            };
        }
        self.tell(from, then, answer);
    }

    fn tell(&mut self, from: From, then: Then, answer: Result<Answer, Failure>) {
        let (node, number) = (from.node, from.number);
        self.schedule.after(1, Event::To { node, number, input: Input::Answered(then, answer) });
    }

    /// One transaction at the server; who listens hears of it.
    pub fn transact(&mut self, call: &Call) -> Result<Answer, Refused> {
        self.server.database.clock = self.now() as i64 + self.server.skew;
        let (answer, said) = self.server.database.call(call)?;
        let quiet = matches!(call, Call::NodeLease { .. } | Call::NodePeers { .. } | Call::BeatTry { .. })
            || matches!(call, Call::VmsRestart | Call::NodeVms { .. })
            || matches!(call, Call::L7rAborted { .. } | Call::L7rSessions { .. } | Call::L7rSession { .. });
        if !quiet && !matches!(&answer, Answer::Claimed(claims) if claims.is_empty()) {
            self.note(|| format!("{call:?} gives {answer:?}"));
        }
        for said in said {
            self.notify(said);
        }
        Ok(answer)
    }

    /// What is known from then on about what may end.
    pub fn heed(&mut self, call: &Call, answer: &Result<Answer, Refused>) {
        match (call, answer) {
            (Call::NodeClaim { node, .. }, Ok(Answer::Claimed(claims))) => {
                let it = &mut self.nodes[node.0 as usize];
                for (vm, command) in claims {
                    match command {
                        VmCommand::Start => {
                            it.stops.remove(vm);
                        }
                        VmCommand::Stop => {
                            it.stops.insert(*vm);
                            it.runs.entry(*vm).and_modify(|run| run.commanded = true);
                        }
                    }
                }
            }
            (Call::NodeVmState { node, vm, becomes, .. }, Ok(Answer::Flag(true)))
                if !matches!(becomes, VmState::Running | VmState::Debugging) =>
            {
                self.judge_word(node.0 as usize, *vm);
            }
            (Call::NodeLease { node, .. }, Ok(_)) => {
                let now = self.now();
                self.nodes[node.0 as usize].leased_at = now;
            }
            (Call::NodeTakeOver { silent: node, .. }, Ok(Answer::Released(Some(_)))) => {
                self.judge_loss(node.0 as usize);
                self.nodes[node.0 as usize].runs.values_mut().for_each(|run| run.commanded = true);
            }
            _ => {}
        }
    }

    fn listened(&mut self, node: usize, number: Number, connection: u32) {
        if !self.nodes[node].lives(number) {
            return;
        }
        let reachable = self.server.up && !self.nodes[node].database_cut;
        let input = if reachable { Input::Listening(connection) } else { Input::Lost(connection) };
        if reachable {
            self.server.listeners.insert(node, (number, connection));
        }
        self.schedule.after(2, Event::To { node, number, input });
    }

    fn notify(&mut self, said: Said) {
        for (node, (number, connection)) in self.server.listeners.clone() {
            let it = &self.nodes[node];
            let meant = match said {
                Said::Host(host) | Said::Echo(host) => host == it.host,
                Said::Vm(_) | Said::Beat => true,
            };
            if !meant || it.deaf || it.database_cut {
                continue;
            }
            let times = match self.calm {
                true => 1,
                false => [0, 2, 1][self.chance.index(50).min(2)],
            };
            for _ in 0..times {
                let delay = if !self.calm && self.chance.percent(5) { self.chance.between(1, 2000) } else { 1 };
                self.schedule.after(delay, Event::To { node, number, input: Input::Heard(connection, said) });
            }
        }
    }

    /// A standby takes over. What it has not got is forgotten.
    pub fn promote(&mut self) {
        let Some(mut database) = self.server.standby.take() else { return };
        database.promote();
        (self.server.database, self.server.lost_commits) = (database, true);
        self.server.number += 1;
        self.drop_listeners();
    }

    /// All connections to the server break.
    pub fn drop_listeners(&mut self) {
        for (node, (number, connection)) in std::mem::take(&mut self.server.listeners) {
            self.schedule.after(5, Event::To { node, number, input: Input::Lost(connection) });
        }
    }
}
