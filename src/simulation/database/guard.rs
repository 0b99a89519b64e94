//! `triggers/vm_runtimes.sql` and `triggers/host_runtimes.sql`: which change of a row is refused, what follows from one,
//! and who hears of it.

use super::{Database, Host, Refused, Said, Vm};
use crate::model::{HostId, HostState, UserState, VmId, VmState};

impl Database {
    /// Updates a VM's row as one statement does.
    pub(super) fn update_vm(&mut self, id: VmId, change: impl FnOnce(&mut Vm)) -> Result<(), Refused> {
        let old = self.vms[&id].clone();
        let mut new = old.clone();
        change(&mut new);
        guard(&old, &mut new, self.clock)?;
        self.wake(id, &old, &new);
        self.vms.insert(id, new);
        Ok(())
    }

    /// Updates those rows of VMs that are meant. What is done to many at once is never refused.
    pub(super) fn update_vms(&mut self, meant: impl Fn(&Vm) -> bool, change: impl Fn(&mut Vm)) -> Vec<VmId> {
        let ids: Vec<VmId> = self.vms.iter().filter(|(_, vm)| meant(vm)).map(|(id, _)| *id).collect();
        for id in &ids {
            self.update_vm(*id, &change).expect("the guard lets this pass");
        }
        ids
    }

    fn wake(&mut self, id: VmId, old: &Vm, new: &Vm) {
        let shown = |vm: &Vm| (vm.host, vm.state, vm.command, vm.user_state, vm.aborted, vm.session, vm.reason.clone());
        // The trigger fires by the columns that a statement names; naming one without changing it wakes for nothing,
        // which nobody may rely upon.
        if shown(old) == shown(new) {
            return;
        }
        self.say(Said::Vm(id));
        if let Some(host) = new.host
            && (new.command.is_some() && new.command != old.command || new.host != old.host)
        {
            self.say(Said::Host(host));
        }
        if let Some(host) = old.host
            && new.host != old.host
            && !matches!(old.state, VmState::Stopping | VmState::Starting)
        {
            self.say(Said::Host(host));
        }
        if new.aborted
            && !old.aborted
            && let Some(host) = new.router_host
        {
            self.say(Said::Host(host));
        }
    }

    /// Updates the state of a host.
    pub(super) fn update_host(&mut self, id: HostId, change: impl FnOnce(&mut Host)) -> Result<(), Refused> {
        let old = &self.hosts[&id];
        let mut new = old.clone();
        change(&mut new);
        if !old.state.may_become(new.state) || new.epoch < old.epoch {
            return Err(Refused("QV020"));
        }
        if (new.epoch, new.blocked, new.state) != (old.epoch, old.blocked, old.state) {
            self.say(Said::Host(id));
        }
        self.hosts.insert(id, new);
        Ok(())
    }
}

fn guard(old: &Vm, new: &mut Vm, clock: i64) -> Result<(), Refused> {
    if new.state != old.state {
        if !old.state.may_become(new.state) {
            return Err(Refused("QV020"));
        }
        if new.state == VmState::Stopped {
            new.host = None;
            new.command = None;
            new.aborted |= new.user_state == UserState::Connected;
        }
    } else if new.host != old.host && new.state != VmState::Stopped {
        return Err(Refused("QV020"));
    }
    if let Some(command) = new.command
        && new.command != old.command
    {
        if !new.state.accepts(command) {
            return Err(Refused("QV021"));
        }
        new.restart_due = false;
    }
    if new.user_state != old.user_state {
        if !old.user_state.may_become(new.user_state) {
            return Err(Refused("QV020"));
        }
        if new.user_state == UserState::Disconnected {
            (new.aborted, new.contender, new.session) = (false, None, None);
            (new.router_host, new.instance) = (None, None);
        }
    }
    if new.aborted != old.aborted {
        new.aborted_at = new.aborted.then_some(clock);
    }
    if new.aborted && new.user_state == UserState::Disconnected {
        return Err(Refused("QV021"));
    }
    Ok(())
}

/// Whether a node that should live is one that others may give up.
pub(super) fn should_live(state: HostState) -> bool {
    matches!(state, HostState::Starting | HostState::Running | HostState::Stopping)
}
