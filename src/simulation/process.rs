//! Machines that boot and lose power, and processes that begin, end and stand still.

use super::{
    chance::Millis,
    hkd::{Hkd, Stage},
    node::{Clock, Daemon, Node, Number, Process},
    router::{Request, Router},
    world::{Event, Input, World},
};

/// Before bytes that nobody acknowledges end a connection.
const USER_TIMEOUT: Millis = 10_000;

impl World {
    pub fn boot(&mut self, node: usize) {
        if self.nodes[node].on {
            return;
        }
        let (now, rate) = (self.now(), self.chance.between(970_000, 1_030_000));
        let (host, zero) = (self.nodes[node].host, self.zero);
        let former = &self.nodes[node];
        let new = Node {
            boot: former.boot + 1,
            on: true,
            database_cut: former.database_cut,
            storage_cut: former.storage_cut,
            cuts: former.cuts + 1,
            slow_storage: former.slow_storage,
            clock: Clock::new(zero, now, if self.calm { 1_000_000 } else { rate }),
            ..Node::new(host, zero)
        };
        self.nodes[node] = new;
        // The storage knows that this is another life of its client.
        self.storage.locks.retain(|_, (holder, _)| *holder != node);
        if self.nodes[node].storage_cut {
            self.lose_sight(node);
        }
        self.note(|| format!("n{node} boots"));
        for daemon in Daemon::ALL {
            let delay = self.chance.between(1, 500);
            self.schedule.after(delay, Event::Start(node, daemon));
        }
    }

    pub fn power_off(&mut self, node: usize) {
        if !self.nodes[node].on {
            return;
        }
        self.note(|| format!("n{node} is off"));
        let it = &mut self.nodes[node];
        it.on = false;
        it.frozen = false;
        let runs: Vec<Number> = it.runs.values().map(|run| run.number).collect();
        it.runs.clear();
        it.shims.clear();
        it.parked.clear();
        (it.hkd, it.keeper, it.l7r) = (None, None, None);
        runs.into_iter().for_each(|run| self.hang_up(run, USER_TIMEOUT));
        self.server.listeners.remove(&node);
        self.lose_sight(node);
    }

    pub fn start_daemon(&mut self, node: usize, daemon: Daemon) {
        if !self.nodes[node].on || self.nodes[node].number(daemon).is_some() {
            return;
        }
        let number = self.new_number();
        let now = self.nodes[node].clock.instant(self.now());
        let it = &mut self.nodes[node];
        match daemon {
            Daemon::Hkd => it.hkd = Some(Process::new(number, Hkd::new(now))),
            Daemon::Keeper => it.keeper = Some(Process::new(number, 0)),
            Daemon::L7r => it.l7r = Some(Process::new(number, Router::default())),
        }
        let input = match daemon {
            Daemon::Hkd => Input::Begin,
            Daemon::Keeper => Input::Timer(0),
            Daemon::L7r => Input::Router(Request::Begin),
        };
        self.schedule.after(1, Event::To { node, number, input });
        if daemon == Daemon::L7r {
            self.schedule.after(2, Event::To { node, number, input: Input::Tick });
        }
    }

    /// A daemon ends, and a watchdog starts it again.
    pub fn exit(&mut self, node: usize, daemon: Daemon) {
        let Some(number) = self.nodes[node].number(daemon) else { return };
        self.note(|| format!("{daemon:?} of n{node} ends"));
        self.unlock_all(number);
        let it = &mut self.nodes[node];
        match daemon {
            Daemon::Hkd => it.hkd = None,
            Daemon::Keeper => it.keeper = None,
            Daemon::L7r => it.l7r = None,
        }
        if daemon == Daemon::L7r
            && let Some(hkd) = self.nodes[node].number(Daemon::Hkd)
        {
            self.schedule.after(5, Event::To { node, number: hkd, input: Input::Departed });
        }
        if self.server.listeners.get(&node).is_some_and(|(listener, _)| *listener == number) {
            self.server.listeners.remove(&node);
        }
        let pause = self.chance.between(50, if self.calm { 200 } else { 5000 });
        self.schedule.after(pause, Event::Start(node, daemon));
    }

    /// SIGSTOP or SIGCONT.
    pub fn stop(&mut self, node: usize, daemon: Daemon, stopped: bool) {
        let it = &mut self.nodes[node];
        let backlog = match daemon {
            Daemon::Hkd => it.hkd.as_mut().map(|process| process.stop(stopped)),
            Daemon::Keeper => it.keeper.as_mut().map(|process| process.stop(stopped)),
            Daemon::L7r => it.l7r.as_mut().map(|process| process.stop(stopped)),
        };
        if let Some((number, backlog)) = backlog {
            self.resume(node, number, backlog);
        }
    }

    pub fn stop_shims(&mut self, node: usize, stopped: bool) {
        let was_stopped = self.nodes[node].shims.values().any(|shim| shim.stopped);
        let backlogs: Vec<_> = self.nodes[node].shims.values_mut().map(|shim| shim.stop(stopped)).collect();
        for (number, backlog) in backlogs {
            self.resume(node, number, backlog);
        }
        if was_stopped && !stopped {
            self.excuse(node);
        }
    }

    fn resume(&mut self, node: usize, number: Number, backlog: Vec<Input>) {
        for input in backlog {
            self.schedule.after(0, Event::To { node, number, input });
        }
    }

    /// Everything on a machine stands still, or goes on.
    pub fn freeze(&mut self, node: usize, frozen: bool) {
        if !self.nodes[node].on || self.nodes[node].frozen == frozen {
            return;
        }
        self.nodes[node].frozen = frozen;
        if frozen {
            self.stop_shims(node, false);
            return self.lose_sight(node);
        }
        self.excuse(node);
        for daemon in Daemon::ALL {
            self.stop(node, daemon, false);
        }
        self.stop_shims(node, false);
    }

    /// What a node ran that stood still may run elsewhere by now. It takes a moment to end.
    fn excuse(&mut self, node: usize) {
        let until = self.now() + 1500;
        self.nodes[node].excused_until = until;
        for vm in self.server.database.vms.keys() {
            self.schedule.at(until + 1, Event::Judge(*vm));
        }
    }

    /// A node's storage is back.
    pub fn unpark(&mut self, node: usize) {
        for event in std::mem::take(&mut self.nodes[node].parked) {
            self.schedule.after(1, event);
        }
    }

    /// Whether a node does its work.
    pub fn serves(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        it.on && it.hkd.as_ref().is_some_and(|hkd| hkd.state.stage == Stage::Serving)
    }
}

impl<T> Process<T> {
    fn stop(&mut self, stopped: bool) -> (Number, Vec<Input>) {
        self.stopped = stopped;
        let backlog = if stopped { Vec::new() } else { std::mem::take(&mut self.backlog) };
        (self.number, backlog)
    }
}
