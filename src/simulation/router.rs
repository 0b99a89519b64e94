//! l7r of one node, after `src/l7r`: it feeds the real `Flow` of each client, carries out what it says, and ends sessions
//! that somebody wants to end. Start and loss of the process, and who connects, are in `users`.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    db::AbortCause,
    l7r::flow::{self, Flow, Limits, Next, Operation, Step},
    model::{InstanceId, SessionId, VmId, VmState, XState},
};

use super::{
    chance::Millis,
    database::{Answer, Call, Refused, Said, Seen},
    hkd::Then,
    node::Number,
    world::{Event, Failure, Input, World},
};

/// A router process.
#[derive(Default)]
pub struct Router {
    pub instance: Option<InstanceId>,
    /// How many sessions have got a name.
    named: u32,
    /// Numbers clients.
    met: u32,
    pub clients: BTreeMap<u32, Client>,
    /// The database may have given it a session that nobody here knows of.
    doubt: bool,
    /// It is asked which sessions must end, and must be asked again.
    asking: bool,
    asked_again: bool,
    /// The database is told of it again, and then asked what these want.
    announcing: bool,
    anew: Vec<ClientStep>,
    /// The hkd that it hears of, and since how many beats it was told nothing new.
    pub relay: Option<Number>,
    pub quiet: u32,
}

/// A client on its way to its VM, or there.
pub struct Client {
    pub vm: VmId,
    address: u8,
    flow: Flow,
    /// Numbers what is under way; what is reported of something that was given up is not heard.
    step: u32,
    /// The session that is asked for.
    named: Option<SessionId>,
    pub session: Option<SessionId>,
    /// What the next look would see.
    fresh: Option<Seen>,
    watches: bool,
    waits: bool,
    pub stage: Stage,
}

impl Client {
    fn has(&self, session: SessionId) -> bool {
        [self.named, self.session].contains(&Some(session))
    }
}

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    /// Bytes flow to this run of the VM.
    Tunnel(Number),
    /// Its session is being ended.
    Ending,
}

/// One client of a router, and what is under way for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientStep {
    client: u32,
    step: u32,
}

/// What the answer of the database is for.
#[derive(Clone, Copy, Debug)]
pub enum For {
    Start,
    Others,
    Cleared,
    Aborts,
    OnRecord,
    Nobody,
    Operation(ClientStep, Operation),
    /// Whether the VM that is talked to still runs.
    Talk(ClientStep),
    End(u32),
}

/// What reaches a router.
#[derive(Clone, Debug)]
pub enum Request {
    /// It may serve.
    Begin,
    Connect(VmId, u8),
    /// The client goes away.
    Leave(u32),
    /// Something was done for a client.
    Done(ClientStep, flow::Event),
    /// Time to see whether the VM that is talked to still runs.
    Talk(ClientStep),
    End(u32),
    /// hkd passes on what it hears; `None`: wake-ups may have been lost.
    Relay(Option<Said>),
    /// The run of a VM to which bytes flow is over.
    Hangup(Number),
}

const LIMITS: Limits = Limits {
    takeover: Duration::from_secs(12),
    vm_start: Duration::from_secs(25),
    x_start: Duration::from_secs(5),
    x_retries: 8,
    tell: Duration::from_secs(2),
};
/// Before it is looked whether a VM that says nothing is still there.
const SILENCE: Millis = 200;
/// For a question to an agent, and before a session whose end could not be written is ended again.
const AGENT: Millis = 2000;
const AGAIN: Millis = 500;

impl World {
    pub fn router_of(&mut self, node: usize) -> Option<&mut Router> {
        self.nodes[node].l7r.as_mut().map(|process| &mut process.state)
    }

    fn client(&mut self, node: usize, of: ClientStep) -> Option<&mut Client> {
        self.router_of(node)?.clients.get_mut(&of.client).filter(|client| client.step == of.step)
    }

    pub fn l7r(&mut self, node: usize, number: Number, input: Input) {
        match input {
            Input::Router(request) => self.requested(node, number, request),
            Input::Tick => self.follow_relay(node, number),
            Input::Answered(Then::Router(what), answer) => self.router_answered(node, number, what, answer),
            _ => {}
        }
    }

    fn requested(&mut self, node: usize, number: Number, request: Request) {
        match request {
            Request::Begin => {
                let (host, boot) = (self.nodes[node].host, self.nodes[node].boot);
                self.ask(node, number, Call::L7rStart { node: host, boot, process: number }, For::Start);
            }
            Request::Connect(vm, address) => self.connect(node, number, vm, address),
            Request::Leave(client) => {
                // What the database gives without anybody knowing would stay taken.
                let acquires = |client: &Client| client.named.is_some();
                match self.router_of(node).and_then(|router| router.clients.get(&client)).is_some_and(acquires) {
                    true => self.request_after(node, number, AGAIN, Request::Leave(client)),
                    false => self.finish(node, number, client, "the client left"),
                }
            }
            Request::Done(of, event) => self.advance(node, number, of, event),
            Request::Talk(of) => {
                if let Some(session) = self.client(node, of).and_then(|client| client.session) {
                    self.ask(node, number, Call::L7rSession { session }, For::Talk(of));
                }
            }
            Request::End(client) => self.end_session(node, number, client, "it ended"),
            Request::Relay(said) => self.woken(node, number, said),
            Request::Hangup(run) => {
                let Some(router) = self.router_of(node) else { return };
                let over = |(id, client): (&u32, &Client)| (client.stage == Stage::Tunnel(run)).then_some(*id);
                let over: Vec<u32> = router.clients.iter().filter_map(over).collect();
                over.into_iter().for_each(|id| self.finish(node, number, id, "the desktop ended the connection"));
            }
        }
    }

    fn ask(&mut self, node: usize, number: Number, call: Call, what: For) {
        self.call(node, number, call, Then::Router(what));
    }

    fn router_answered(&mut self, node: usize, number: Number, what: For, answer: Result<Answer, Failure>) {
        match (what, answer) {
            (For::Start, Ok(Answer::Instance(instance))) => {
                let host = self.nodes[node].host;
                let Some(router) = self.router_of(node) else { return };
                router.announcing = false;
                if router.instance.replace(instance).is_some() {
                    let waiting = std::mem::take(&mut router.anew);
                    return waiting.into_iter().for_each(|of| self.perform(node, number, of, Operation::Acquire));
                }
                self.ask(node, number, Call::L7rInstances { node: host }, For::Others);
            }
            (For::Others, Ok(Answer::Instances(others))) => {
                let gone = self.gone_routers(node, &others);
                self.ask(node, number, Call::L7rGone { instances: gone, reason: "its router died" }, For::Cleared);
            }
            (For::Start, Err(failure)) if self.router_of(node).is_some_and(|router| router.instance.is_some()) => {
                let Some(router) = self.router_of(node) else { return };
                router.announcing = false;
                let waiting = std::mem::take(&mut router.anew);
                waiting.into_iter().for_each(|of| self.acquired(node, number, of, Err(failure)));
            }
            (For::Start | For::Others, Err(_)) => self.exit(node, super::node::Daemon::L7r),
            (For::Aborts, answer) => self.aborts(node, number, answer),
            (For::OnRecord, Ok(Answer::Sessions(sessions))) => self.end_unknown(node, number, &sessions),
            (For::OnRecord, Err(Failure::Refused(Refused("QV001")))) if self.rules.anew => {
                self.begin_anew(node, number);
            }
            (For::Operation(of, operation), answer) => self.performed(node, number, of, operation, answer),
            (For::Talk(of), Ok(Answer::Seen(seen))) => match seen {
                None => self.advance(node, number, of, flow::Event::Aborted(None)),
                Some(seen) if seen.state != VmState::Running => self.advance(node, number, of, flow::Event::Lost),
                Some(_) => {}
            },
            (For::End(client), Err(Failure::Unreachable)) => {
                self.request_after(node, number, AGAIN, Request::End(client))
            }
            (For::End(client), _) => {
                if let Some(router) = self.router_of(node) {
                    router.clients.remove(&client);
                }
            }
            _ => {}
        }
    }

    fn request_after(&mut self, node: usize, number: Number, delay: Millis, request: Request) {
        self.schedule.after(delay, Event::To { node, number, input: Input::Router(request) });
    }

    // One client.

    fn connect(&mut self, node: usize, number: Number, vm: VmId, address: u8) {
        let now = self.nodes[node].clock.instant(self.now());
        let Some(router) = self.router_of(node).filter(|router| router.instance.is_some()) else { return };
        router.met += 1;
        let (flow, first) = Flow::new(vm, LIMITS, now);
        let client = Client {
            vm,
            address,
            flow,
            step: 0,
            named: None,
            session: None,
            fresh: None,
            watches: false,
            waits: false,
            stage: Stage::Connecting,
        };
        let id = router.met;
        router.clients.insert(id, client);
        self.note(|| format!("a user of VM {vm} comes to n{node}"));
        if !self.calm && self.chance.percent(10) {
            let patience = self.chance.between(1, 4000);
            self.request_after(node, number, patience, Request::Leave(id));
        }
        self.follow(node, number, ClientStep { client: id, step: 0 }, first);
    }

    fn advance(&mut self, node: usize, number: Number, of: ClientStep, event: flow::Event) {
        let now = self.nodes[node].clock.instant(self.now());
        let Some(client) = self.client(node, of).filter(|client| client.stage == Stage::Connecting) else { return };
        client.step += 1;
        client.waits = false;
        let step = client.flow.step(event, now);
        self.follow(node, number, ClientStep { step: of.step + 1, ..of }, step);
    }

    fn follow(&mut self, node: usize, number: Number, of: ClientStep, step: Step) {
        let Some(client) = self.client(node, of) else { return };
        if client.flow.needs_vm() {
            self.request_after(node, number, SILENCE, Request::Talk(of));
        }
        match step.next {
            Next::Do(operation) => self.perform(node, number, of, operation),
            Next::Wait(until) => {
                let Some(client) = self.client(node, of) else { return };
                client.waits = true;
                // What changed before it began to watch nobody heard.
                let first = !std::mem::replace(&mut client.watches, true) && !client.flow.needs_vm();
                let at = self.nodes[node].clock.when(self.now(), until).max(self.now() + 1);
                let at = if first { self.now() + 2 } else { at };
                let request = Request::Done(of, flow::Event::Woken);
                self.schedule.at(at, Event::To { node, number, input: Input::Router(request) });
            }
            Next::Switch => {
                let Some(vm) = self.client(node, of).map(|client| client.vm) else { return };
                self.note(|| format!("a user of VM {vm} is connected by n{node}"));
                if !self.calm {
                    let stays = self.chance.between(500, 30_000);
                    self.request_after(node, number, stays, Request::Leave(of.client));
                }
                match self.run_of(vm) {
                    Some(run) => {
                        if let Some(client) = self.client(node, of) {
                            client.stage = Stage::Tunnel(run);
                        }
                    }
                    None => self.finish(node, number, of.client, "the connection to the desktop failed"),
                }
            }
            Next::Fail(why) => {
                self.note(|| format!("a user is not connected by n{node}: {why}"));
                if why.contains("internal") {
                    self.violated(format!("n{node} tells a user: {why}"));
                }
                self.finish(node, number, of.client, "not connected");
            }
        }
    }

    fn perform(&mut self, node: usize, number: Number, of: ClientStep, operation: Operation) {
        let then = For::Operation(of, operation);
        let Some(router) = self.router_of(node) else { return };
        let Some((instance, client)) = router.instance.zip(router.clients.get_mut(&of.client)) else { return };
        let (vm, session) = (client.vm, client.session);
        let done = |event| Request::Done(of, event);
        let agent = |ok: bool| if ok { (2, Ok(())) } else { (AGENT, Err("it does not answer".to_owned())) };
        match (operation, session) {
            (Operation::Acquire, _) => {
                router.named += 1;
                let session = SessionId::new(instance, router.named);
                client.named = Some(session);
                let client = client.address;
                self.ask(node, number, Call::L7rAcquire { session, instance, vm, client }, then);
            }
            (Operation::Prepare, _) => self.request_after(node, number, 1, done(flow::Event::Prepared(Ok(())))),
            (Operation::Look, _) if client.fresh.is_some() => {
                let seen = client.fresh.take();
                self.performed(node, number, of, operation, Ok(Answer::Seen(seen)));
            }
            (_, None) => self.request_after(node, number, 1, done(flow::Event::Aborted(None))),
            (Operation::Look, Some(session)) => self.ask(node, number, Call::L7rSession { session }, then),
            (Operation::StartVm, Some(session)) => self.ask(node, number, Call::L7rVmStart { session }, then),
            (Operation::Confirm, Some(session)) => self.ask(node, number, Call::L7rConnected { session }, then),
            (Operation::StartX, _) => {
                let (takes, outcome) = agent(self.answers(vm));
                self.request_after(node, number, takes, done(flow::Event::XStarted(outcome)));
            }
            (Operation::AskX(_), _) => {
                let (takes, outcome) = agent(self.answers(vm));
                let event = flow::Event::X(outcome.map(|()| XState::Listening));
                self.request_after(node, number, takes, done(event));
            }
            (Operation::Dial, _) => {
                let (takes, outcome) = agent(self.answers(vm));
                self.request_after(node, number, takes, done(flow::Event::Dialled(outcome)));
            }
        }
    }

    fn performed(
        &mut self,
        node: usize,
        number: Number,
        of: ClientStep,
        operation: Operation,
        answer: Result<Answer, Failure>,
    ) {
        if operation == Operation::Acquire {
            return self.acquired(node, number, of, answer);
        }
        let event = match answer {
            Ok(Answer::Seen(None)) => flow::Event::Aborted(None),
            Ok(Answer::Seen(Some(seen))) => flow::Event::Vm(flow::Seen {
                state: seen.state,
                commanded: seen.commanded,
                placed: seen.placed,
                aborted: seen.aborted.then_some(AbortCause::Administrator),
            }),
            Ok(Answer::Asked(refused)) => flow::Event::StartAsked(refused.map_or(Ok(()), |why| Err(why.to_owned()))),
            Ok(Answer::Flag(connected)) => flow::Event::Confirmed(connected),
            Ok(_) => return,
            Err(_) if self.client(node, of).is_some() => {
                return self.finish(node, number, of.client, "the database is away");
            }
            Err(_) => return,
        };
        self.advance(node, number, of, event);
    }

    fn acquired(&mut self, node: usize, number: Number, of: ClientStep, answer: Result<Answer, Failure>) {
        let (anew, returns) = (self.rules.anew, self.rules.returns);
        let Some(router) = self.router_of(node) else { return };
        let Some(client) = router.clients.get_mut(&of.client) else { return };
        match answer {
            Ok(Answer::Acquired(Some(seen))) => {
                (client.session, client.fresh) = (client.named.take(), Some(seen));
                self.advance(node, number, of, flow::Event::Acquired(true));
            }
            Ok(_) => {
                client.named = None;
                self.advance(node, number, of, flow::Event::Acquired(false));
            }
            Err(Failure::Refused(Refused("QV001"))) if anew => {
                router.anew.push(of);
                self.begin_anew(node, number);
            }
            Err(failure) => {
                // It may have been given all the same.
                if failure == Failure::Unreachable && returns {
                    client.session = client.named;
                }
                client.named = None;
                router.doubt = true;
                self.finish(node, number, of.client, "the database is away");
            }
        }
    }

    /// The database has forgotten this router, with commits that a server lost.
    fn begin_anew(&mut self, node: usize, number: Number) {
        let Some(router) = self.router_of(node) else { return };
        if !std::mem::replace(&mut router.announcing, true) {
            self.requested(node, number, Request::Begin);
        }
    }

    /// A client is done with, and its session is over.
    fn finish(&mut self, node: usize, number: Number, id: u32, why: &str) {
        let Some(router) = self.router_of(node) else { return };
        let Some(client) = router.clients.get_mut(&id) else { return };
        client.step += 1;
        match (client.session, client.stage) {
            (_, Stage::Ending) => {}
            (None, _) => {
                router.clients.remove(&id);
            }
            (Some(_), _) => {
                client.stage = Stage::Ending;
                let vm = client.vm;
                self.note(|| format!("n{node} ends a session of VM {vm}: {why}"));
                self.end_session(node, number, id, "it ended");
            }
        }
    }

    fn end_session(&mut self, node: usize, number: Number, id: u32, reason: &'static str) {
        let session = self.router_of(node).and_then(|router| router.clients.get(&id)?.session);
        if let Some(session) = session {
            self.ask(node, number, Call::L7rEnd { session, reason }, For::End(id));
        }
    }

    // Wake-ups, and sessions that must end.

    fn woken(&mut self, node: usize, number: Number, said: Option<Said>) {
        let host = self.nodes[node].host;
        let Some(router) = self.router_of(node) else { return };
        if let Some(instance) = router.instance.filter(|_| said.is_none()) {
            self.ask(node, number, Call::L7rSessions { instance }, For::OnRecord);
        }
        if said.is_none() || said == Some(Said::Host(host)) {
            self.ask_aborts(node, number);
        }
        let meant = |client: &Client| said.is_none() || said == Some(Said::Vm(client.vm));
        let Some(router) = self.router_of(node) else { return };
        let woken: Vec<(ClientStep, bool, bool)> = router
            .clients
            .iter()
            .filter(|(_, client)| meant(client) && client.stage == Stage::Connecting)
            .map(|(id, client)| (ClientStep { client: *id, step: client.step }, client.waits, client.flow.needs_vm()))
            .collect();
        for (of, waits, needs_vm) in woken {
            if needs_vm {
                self.requested(node, number, Request::Talk(of));
            } else if waits {
                self.advance(node, number, of, flow::Event::Woken);
            }
        }
    }

    fn ask_aborts(&mut self, node: usize, number: Number) {
        let Some(router) = self.router_of(node) else { return };
        let Some(instance) = router.instance.filter(|_| router.doubt || !router.clients.is_empty()) else { return };
        if std::mem::replace(&mut router.asking, true) {
            router.asked_again = true;
        } else {
            self.ask(node, number, Call::L7rAborted { instance }, For::Aborts);
        }
    }

    /// What ended may be there again when a server has taken over that lost commits.
    fn end_unknown(&mut self, node: usize, number: Number, sessions: &[SessionId]) {
        if !self.rules.returns {
            return;
        }
        let Some(router) = self.router_of(node) else { return };
        let knows = |session: &SessionId| router.clients.values().any(|client| client.has(*session));
        let unknown: Vec<SessionId> = sessions.iter().filter(|session| !knows(session)).copied().collect();
        for session in unknown {
            self.ask(node, number, Call::L7rEnd { session, reason: "its client never got it" }, For::Nobody);
        }
    }

    fn aborts(&mut self, node: usize, number: Number, answer: Result<Answer, Failure>) {
        let Some(router) = self.router_of(node) else { return };
        router.asking = false;
        let again = std::mem::take(&mut router.asked_again);
        if let Ok(Answer::Aborted(sessions)) = answer {
            for (session, cause) in sessions {
                self.abort(node, number, session, cause);
            }
        }
        if again {
            self.ask_aborts(node, number);
        }
    }

    fn abort(&mut self, node: usize, number: Number, session: SessionId, cause: AbortCause) {
        let Some(router) = self.router_of(node) else { return };
        let known = router.clients.iter().find(|(_, client)| client.has(session));
        match known.map(|(id, client)| (ClientStep { client: *id, step: client.step }, client.stage)) {
            // Taking a VM is not interrupted; the next look at it shows the same.
            Some((of, Stage::Connecting)) if self.client(node, of).is_some_and(|client| client.named.is_some()) => {}
            Some((of, Stage::Connecting)) => self.advance(node, number, of, flow::Event::Aborted(Some(cause))),
            Some((of, Stage::Tunnel(_))) => self.finish(node, number, of.client, "somebody wants it to end"),
            Some((_, Stage::Ending)) => {}
            // The answer that gave it to a client was lost.
            None if !self.rules.returns => {}
            None => self.ask(node, number, Call::L7rEnd { session, reason: "its client never got it" }, For::Nobody),
        }
    }
}
