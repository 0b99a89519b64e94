//! Users who come and go, and what surrounds a router: how it starts, what hkd passes on to it, the desktops that it talks to.

use crate::model::{InstanceId, UserState, VmId};

use super::{
    chance::Millis,
    database::Said,
    hkd::Stage,
    node::Number,
    router::{self, Request},
    world::{Event, Input, World},
};

/// How many users share a VM's owner's password.
const USERS: usize = 3;
/// Between two beats of the relay, and how many of them without news are followed by a poll.
const BEAT: Millis = 1000;
const RELAXED: u32 = 30;

impl World {
    /// Somebody comes, and somebody else will.
    pub fn visit(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.chance.between(200, 8000);
        self.schedule.after(pause, Event::Visit);
        let vm = VmId(self.chance.index(self.server.database.vms.len()) as i32);
        let (node, user) = (self.chance.index(self.nodes.len()), self.chance.index(USERS));
        self.come(vm, node, user);
    }

    /// A user of a VM comes to the router of a node. Where there is none nobody answers.
    pub fn come(&mut self, vm: VmId, node: usize, user: usize) {
        if let Some(number) = self.nodes[node].l7r.as_ref().map(|process| process.number) {
            let connect = Input::Router(Request::Connect(vm, user as u8 + 1));
            self.schedule.after(1, Event::To { node, number, input: connect });
        }
    }

    /// The instances of a node's routers whose processes are no more.
    pub fn gone_routers(&self, node: usize, instances: &[(InstanceId, u64, u32)]) -> Vec<InstanceId> {
        let it = &self.nodes[node];
        let lives =
            |boot: u64, process: u32| boot == it.boot && it.l7r.as_ref().is_some_and(|l7r| l7r.number == process);
        instances.iter().filter(|(_, boot, process)| !lives(*boot, *process)).map(|(instance, ..)| *instance).collect()
    }

    /// The run of a VM that is reached at its address.
    pub fn run_of(&self, vm: VmId) -> Option<Number> {
        let mut here = self.nodes.iter().filter(|node| node.executes(vm));
        here.find_map(|node| node.runs.get(&vm).filter(|run| run.dying.is_none())).map(|run| run.number)
    }

    /// Whether the agent of a VM does what it is asked.
    pub fn answers(&self, vm: VmId) -> bool {
        let now = self.now();
        let mut here = self.nodes.iter().filter(|node| node.executes(vm)).filter_map(|node| node.runs.get(&vm));
        here.any(|run| run.dying.is_none() && run.boots <= now && run.mute_until <= now)
    }

    /// Bytes to a run of a VM flow no more, and after a while everybody notices.
    pub fn hang_up(&mut self, run: Number, delay: Millis) {
        for (node, it) in self.nodes.iter().enumerate() {
            if let Some(number) = it.l7r.as_ref().map(|process| process.number) {
                let input = Input::Router(Request::Hangup(run));
                self.schedule.after(delay, Event::To { node, number, input });
            }
        }
    }

    /// hkd passes on what it hears; `None`: wake-ups may have been lost.
    pub fn relay(&mut self, node: usize, said: Option<Said>) {
        if let Some(number) = self.nodes[node].l7r.as_ref().map(|process| process.number) {
            let input = Input::Router(Request::Relay(said));
            self.schedule.after(1, Event::To { node, number, input });
        }
    }

    /// The relay beats, or is silent and l7r polls.
    pub fn follow_relay(&mut self, node: usize, number: Number) {
        let it = &self.nodes[node];
        let serves = |process: &&super::node::Process<super::hkd::Hkd>| {
            !process.stopped && process.state.stage == Stage::Serving && process.state.connected
        };
        let (relay, trusted) = match it.hkd.as_ref().filter(serves) {
            Some(hkd) => (Some(hkd.number), hkd.state.health.trouble().is_none()),
            None => (None, false),
        };
        let Some(router) = self.router_of(node) else { return };
        router.quiet += 1;
        // Another hkd, or none: all is a gap.
        let due = !trusted || router.relay != relay || router.quiet >= RELAXED;
        router.relay = relay;
        if due {
            router.quiet = 0;
            self.l7r(node, number, Input::Router(Request::Relay(None)));
        }
        self.schedule.after(BEAT, Event::To { node, number, input: Input::Tick });
    }

    /// What sessions must be when nothing goes wrong any more.
    pub fn judge_sessions(&mut self) {
        let rows = self.server.database.vms.clone();
        for (vm, row) in rows {
            let holds = |client: &router::Client| {
                client.session == row.session && matches!(client.stage, router::Stage::Tunnel(_))
            };
            let held = self
                .nodes
                .iter()
                .any(|node| node.l7r.as_ref().is_some_and(|l7r| l7r.state.clients.values().any(holds)));
            match row.user_state {
                UserState::Connecting => return self.violated(format!("VM {vm} is being connected to for ever")),
                _ if row.aborted => return self.violated(format!("VM {vm} has a session that does not end")),
                UserState::Connected if !held => {
                    return self.violated(format!("VM {vm} has a session that no router has"));
                }
                UserState::Connected | UserState::Disconnected => {}
            }
        }
        for (node, it) in self.nodes.iter().enumerate() {
            let clients = it.l7r.iter().flat_map(|l7r| l7r.state.clients.values());
            let late =
                clients.filter(|client| !matches!(client.stage, router::Stage::Tunnel(_))).map(|client| client.vm);
            if let Some(vm) = late.min() {
                return self.violated(format!("a client of n{node} waits for VM {vm} for ever"));
            }
        }
    }

    /// Whether a user has a tunnel to the run of a VM that lives.
    pub fn is_used(&self, vm: VmId) -> bool {
        let Some(run) = self.run_of(vm) else { return false };
        let mut clients =
            self.nodes.iter().filter_map(|node| node.l7r.as_ref()).flat_map(|l7r| l7r.state.clients.values());
        clients.any(|client| client.stage == router::Stage::Tunnel(run))
    }
}
