//! What must hold in every world, judged by the truth and not by what anybody believes.

use crate::{
    keeper::fence::{BootTime, Verdict},
    model::{HostId, HostState, VmId, VmState},
};

use super::{
    chance::Millis, database::Call, fleet::Supervisor, node::Cause, shim::PATIENCE, storage::Shown, world::World,
};

/// Of a node that is given up, by anybody's clock.
const SILENCE: Millis = PATIENCE * 9 / 10;

impl World {
    /// The first thing that must not be.
    pub fn violated(&mut self, what: String) {
        self.note(|| format!("VIOLATED: {what}"));
        self.violation.get_or_insert(what);
    }

    /// One desktop never lives on two nodes.
    pub fn judge_double(&mut self, vm: VmId) {
        let now = self.now();
        let excused = |node: usize| self.nodes[node].excused_until >= now;
        let here: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].executes(vm)).collect();
        if here.iter().filter(|node| !excused(**node)).count() > 1 {
            self.violated(format!("VM {vm} lives on nodes {here:?}"));
        }
    }

    /// Nobody gives up a node whose heart was to be seen beating.
    pub fn judge_verdict(&mut self, host: HostId, shown: Option<&Shown>) {
        let silent = shown.map_or(SILENCE, |shown| self.now() - shown.since);
        if silent < SILENCE {
            self.violated(format!("n{host} is given up, and its heart was seen to beat {silent} ms ago"));
        }
    }

    /// Nothing is taken from a node that has renewed its lease, and nothing that is not dead already. The dead of a machine
    /// that stands still, and those that nobody is there to kill, are kept from doing harm by their locks.
    pub fn judge_loss(&mut self, node: usize) {
        let (now, it) = (self.now(), &self.nodes[node]);
        let silent = now - it.leased_at;
        let alive = |vm: &VmId| {
            it.executes(*vm) && it.excused_until < now && it.shims.get(vm).is_some_and(|shim| !shim.stopped)
        };
        if let Some(vm) = it.runs.keys().copied().find(alive) {
            self.violated(format!("n{node} is given up while VM {vm} lives there"));
        } else if silent < SILENCE {
            self.violated(format!("n{node} is given up, and renewed its lease {silent} ms ago"));
        }
    }

    /// The database says of a VM that is here that it is not, or shall not be. It has the last word, once it has lost commits.
    pub fn given_away(&mut self, node: usize, vm: VmId) {
        let lost_commits = self.server.lost_commits;
        if let Some(run) = self.nodes[node].runs.get_mut(&vm) {
            run.commanded |= lost_commits;
        }
    }

    /// No desktop is ended while its node gives a sign of life, unless somebody wants it.
    pub fn judge_end(&mut self, node: usize, vm: VmId, cause: Cause) {
        let (now, it) = (self.now(), &self.nodes[node]);
        let Some(run) = it.runs.get(&vm) else { return };
        match cause {
            Cause::Killed | Cause::PoweredOff => {
                // What never came up may be taken back, and what did not answer given up.
                if run.came_up && !run.commanded && !run.was_mute {
                    self.violated(format!("VM {vm} is ended on n{node}, and nobody wants that"));
                }
            }
            Cause::Fenced => {
                let lapses = it.fence.lapses();
                let time: BootTime = it.clock.boot_time(now);
                let born = it.shims.get(&vm).and_then(|shim| shim.state.born);
                if it.fence.verdict(lapses, time) != Verdict::Die && born == Some(lapses) {
                    self.violated(format!("VM {vm} is fenced on n{node} before its time"));
                }
            }
            Cause::ShimDied | Cause::ByItself => {}
        }
    }

    /// Nobody says of a VM whose start has reached its node that it ends: that is about its life before.
    pub fn judge_word(&mut self, node: usize, vm: VmId) {
        // What was lost with a server's last commits is said again.
        if self.server.lost_commits {
            return;
        }
        let it = &self.nodes[node];
        let begins =
            it.hkd.as_ref().and_then(|hkd| hkd.state.supervisors.get(&vm)).is_some_and(Supervisor::is_to_begin);
        if begins && !it.stops.contains(&vm) {
            self.violated(format!("VM {vm} of n{node} is said to end before it begins"));
        }
    }

    /// Long after the last fault: nothing is on its way any more, and everybody knows the truth.
    pub fn judge_rest(&mut self) {
        let vms: Vec<VmId> = self.server.database.vms.keys().copied().collect();
        for vm in vms {
            let row = self.server.database.vms[&vm].clone();
            let lives: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].executes(vm)).collect();
            let held = self.storage.locks.contains_key(&vm);
            let due: Vec<usize> = row.host.iter().map(|host| host.0 as usize).collect();
            let told = match row.state {
                _ if row.command.is_some() => Some("still waits for a command to be taken".to_owned()),
                _ if row.restart_due => Some("still waits for a node".to_owned()),
                VmState::Running if lives != due => Some(format!("is said to run on {due:?} and lives on {lives:?}")),
                // The storage may have freed its lock; who came then would have minded the record.
                VmState::Running if self.storage.owners.get(&vm).map(|owner| owner.host) != row.host => {
                    Some("runs and is said to be another's".to_owned())
                }
                VmState::Running => None,
                VmState::Stopped if !lives.is_empty() => Some(format!("is said to be stopped and lives on {lives:?}")),
                VmState::Stopped if held => Some("is stopped and its home locked".to_owned()),
                VmState::Stopped => None,
                state => Some(format!("is {state} for ever")),
            };
            if let Some(told) = told {
                return self.violated(format!("VM {vm} {told}"));
            }
        }
        self.judge_sessions();
        for node in 0..self.nodes.len() {
            let it = &self.nodes[node];
            if !self.serves(node) {
                return self.violated(format!("n{node} does not serve"));
            }
            let state = self.server.database.hosts[&it.host].state;
            if state != HostState::Running {
                return self.violated(format!("n{node} serves and is on record as {state}"));
            }
            if !it.mounts.iter().all(|vm| it.runs.contains_key(vm)) {
                return self.violated(format!("n{node} keeps mounts of {:?}", it.mounts));
            }
            if !self.is_at_rest(node) {
                return self.violated(format!("n{node} has lost a slot"));
            }
        }
    }

    /// Whoever asks for a desktop when nothing is wrong gets it, through any router.
    pub fn ask_for_all(&mut self) {
        let vms: Vec<VmId> = self.server.database.vms.keys().copied().collect();
        for vm in vms {
            if vm.0 % 2 == 0
                && let Err(refused) = self.transact(&Call::VmStart { vm })
            {
                return self.violated(format!("VM {vm} cannot be started: {refused:?}"));
            }
            let router = self.chance.index(self.nodes.len());
            self.come(vm, router, vm.0 as usize);
        }
    }

    pub fn judge_all_run(&mut self) {
        // Refused with a reason, as long as the node that could not say so has not started the VM again.
        let owed = |vm: &VmId| {
            let owner = self.storage.owners.get(vm).map(|owner| owner.host.0 as usize);
            owner.is_some_and(|owner| self.nodes[owner].owed.contains(vm))
        };
        let mut rows = self.server.database.vms.iter();
        let down = rows.find(|(vm, row)| (row.state != VmState::Running || !self.is_used(**vm)) && !owed(vm));
        if let Some((vm, row)) = down {
            let told =
                format!("VM {vm} was asked for and is {}, its user {}: {:?}", row.state, row.user_state, row.reason);
            self.violated(told);
        }
    }
}
