//! `50_node.sql` and `55_life.sql`: what hkd may do, and what becomes of a node that gives no sign of life.

use std::time::Duration;

use super::{Answer, Database, Refused, Said, guard::should_live};
use crate::{
    db::Peer,
    model::{Epoch, HostId, HostState, InstanceId, UserState, VmCommand, VmId, VmState},
    simulation::chance::Millis,
};

/// How many nodes one watches.
const WATCHED: usize = 16;

impl Database {
    pub(super) fn node_check(&self, node: HostId, epoch: Epoch) -> Result<(), Refused> {
        if self.hosts[&node].epoch == epoch || !self.rules.epochs { Ok(()) } else { Err(Refused("QV001")) }
    }

    fn lapsed(&self, ok_at: Option<i64>) -> bool {
        ok_at.is_none_or(|at| at <= self.clock - Self::LAPSE as i64)
    }

    pub(super) fn node_start(
        &mut self,
        node: HostId,
        (machine, boot): (u8, u64),
        dead: Option<(Epoch, i64)>,
        patience: Millis,
    ) -> Result<Answer, Refused> {
        let host = &self.hosts[&node];
        let mut released = Vec::new();
        if host.boot != Some(boot) {
            let heir = host.boot.is_none() || host.machine == Some(machine) || dead == Some((host.epoch, host.lease));
            let up = |vm: &super::Vm| vm.host == Some(node) && vm.state != VmState::Stopped;
            if !heir && (should_live(host.state) || self.vms.values().any(up)) {
                return Err(Refused("QV002"));
            }
            released = self.host_forget(node, "its node was restarted");
            self.update_host(node, |host| {
                (host.boot, host.machine, host.state) = (Some(boot), Some(machine), HostState::Starting);
                host.epoch += 1;
            })?;
        } else if host.state != HostState::Running {
            self.update_host(node, |host| host.state = HostState::Starting)?;
        }
        let clock = self.clock;
        self.update_host(node, |host| {
            (host.ok_at, host.patience, host.storage) = (Some(clock), Some(patience), true);
            host.lease += 1;
        })?;
        let host = &self.hosts[&node];
        Ok(Answer::Life { epoch: host.epoch, state: host.state, released })
    }

    pub(super) fn node_state(&mut self, node: HostId, epoch: Epoch, becomes: HostState) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        let clock = self.clock;
        self.update_host(node, |host| {
            (host.state, host.ok_at) = (becomes, Some(clock));
            host.lease += 1;
        })?;
        Ok(Answer::Done)
    }

    pub(super) fn node_serves(&mut self, node: HostId, epoch: Epoch) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        if matches!(self.hosts[&node].state, HostState::Stopped | HostState::Lost) {
            self.update_host(node, |host| host.state = HostState::Starting)?;
        }
        if self.hosts[&node].state != HostState::Starting {
            return Ok(Answer::Flag(false));
        }
        self.update_host(node, |host| host.state = HostState::Running)?;
        Ok(Answer::Flag(true))
    }

    pub(super) fn node_lease(&mut self, node: HostId, epoch: Epoch, storage_degraded: bool) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        let clock = self.clock;
        self.update_host(node, |host| {
            (host.ok_at, host.storage_degraded) = (Some(clock), storage_degraded);
            host.lease += 1;
        })?;
        Ok(Answer::Done)
    }

    pub(super) fn node_peers(&self, node: HostId, epoch: Epoch) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        let watched = |id: &HostId| {
            let host = &self.hosts[id];
            let patience = host.patience.filter(|_| host.storage && should_live(host.state) && *id != node)?;
            Some(Peer {
                host: *id,
                name: format!("n{id}"),
                epoch: host.epoch,
                lease: host.lease,
                patience: Duration::from_millis(patience),
            })
        };
        let (before, after): (Vec<HostId>, Vec<HostId>) = self.hosts.keys().partition(|id| **id < node);
        let ring = after.iter().chain(&before);
        Ok(Answer::Peers(ring.filter_map(watched).take(WATCHED).collect()))
    }

    pub(super) fn node_claim(&mut self, node: HostId, epoch: Epoch) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        let waiting: Vec<(VmId, VmCommand)> = self
            .vms
            .iter()
            .filter(|(_, vm)| vm.host == Some(node))
            .filter_map(|(id, vm)| Some((*id, vm.command?)))
            .collect();
        for (vm, command) in &waiting {
            self.update_vm(*vm, |vm| {
                vm.command = None;
                match command {
                    VmCommand::Start => (vm.state, vm.reason) = (VmState::Starting, None),
                    VmCommand::Stop => vm.state = VmState::Stopping,
                }
            })?;
        }
        Ok(Answer::Claimed(waiting))
    }

    pub(super) fn node_vms(&self, node: HostId, epoch: Epoch) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        let here = self.vms.iter().filter(|(_, vm)| vm.host == Some(node) && vm.state != VmState::Stopped);
        Ok(Answer::OnRecord(here.map(|(id, vm)| (*id, vm.state)).collect()))
    }

    pub(super) fn node_vm_state(
        &mut self,
        (node, epoch): (HostId, Epoch),
        vm: VmId,
        expected: &[VmState],
        becomes: VmState,
        reason: Option<&str>,
    ) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        let row = &self.vms[&vm];
        if row.host != Some(node) || !expected.contains(&row.state) {
            return Ok(Answer::Flag(false));
        }
        self.update_vm(vm, |row| {
            row.state = becomes;
            if becomes == VmState::Running || reason.is_some() {
                row.reason = reason.map(str::to_owned);
            }
        })?;
        Ok(Answer::Flag(true))
    }

    pub(super) fn node_adopt(&mut self, (node, epoch): (HostId, Epoch), vm: VmId) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        let row = &self.vms[&vm];
        if row.state == VmState::Stopped && row.host.is_none_or(|host| host == node) {
            self.update_vm(vm, |vm| {
                (vm.host, vm.state) = (Some(node), VmState::Starting);
                (vm.command, vm.restart_due) = (None, false);
            })?;
        }
        let row = &self.vms[&vm];
        Ok(Answer::Adopted((row.host == Some(node)).then_some(row.state)))
    }

    pub(super) fn node_routers(&self, node: HostId, epoch: Epoch) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        Ok(self.l7r_instances_of(node))
    }

    pub(super) fn node_routers_gone(
        &mut self,
        node: HostId,
        epoch: Epoch,
        gone: &[InstanceId],
    ) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        let of_node = |id: &&InstanceId| self.instances.get(id).is_some_and(|instance| instance.host == node);
        let gone: Vec<InstanceId> = gone.iter().filter(of_node).copied().collect();
        Ok(self.l7r_gone(&gone, "its router died"))
    }

    pub(super) fn beat_try(&mut self, age: Millis) -> bool {
        if self.beat_at >= self.clock - age as i64 {
            return false;
        }
        self.beat_at = self.clock;
        self.say(Said::Beat);
        true
    }

    pub(super) fn epoch_is_over(&self, node: HostId, epoch: Epoch) -> bool {
        self.hosts.get(&node).is_none_or(|host| host.epoch != epoch)
    }

    fn host_forget(&mut self, node: HostId, reason: &str) -> Vec<VmId> {
        self.update_vms(
            |vm| vm.host == Some(node) && vm.state == VmState::Stopped && vm.command == Some(VmCommand::Start),
            |vm| (vm.command, vm.host, vm.restart_due) = (None, None, true),
        );
        let released = self.update_vms(
            |vm| vm.host == Some(node) && vm.state != VmState::Stopped,
            |vm| {
                vm.restart_due =
                    vm.keep_running && vm.state != VmState::Stopping && vm.command != Some(VmCommand::Stop);
                (vm.state, vm.reason) = (VmState::Stopped, Some(reason.to_owned()));
            },
        );
        self.update_vms(
            |vm| vm.router_host == Some(node) && vm.user_state != UserState::Disconnected,
            |vm| vm.user_state = UserState::Disconnected,
        );
        let instances = &self.instances;
        let of_node =
            |id: InstanceId| instances.get(&id).is_some_and(|instance| instance.host == node && !instance.ended);
        for session in self.sessions.values_mut().filter(|session| of_node(session.instance)) {
            session.ended.get_or_insert_with(|| reason.to_owned());
        }
        released
    }

    pub(super) fn node_take_over(
        &mut self,
        (node, epoch): (HostId, Epoch),
        (silent, silent_epoch, lease): (HostId, Epoch, i64),
    ) -> Result<Answer, Refused> {
        self.node_check(node, epoch)?;
        let host = &self.hosts[&silent];
        let as_seen = !self.rules.as_seen || (host.epoch, host.lease) == (silent_epoch, lease);
        if !as_seen || !should_live(host.state) || !host.storage || !self.hosts[&node].storage {
            return Ok(Answer::Released(None));
        }
        self.update_host(silent, |host| {
            host.state = HostState::Lost;
            host.epoch += 1;
        })?;
        let released = self.host_forget(silent, "its node gave no more signs of life");
        self.vms_restart();
        Ok(Answer::Released(Some(released)))
    }

    pub(super) fn vms_restart(&mut self) -> i64 {
        let due: Vec<VmId> = self.vms.iter().filter(|(_, vm)| vm.restart_due).map(|(id, _)| *id).take(100).collect();
        let mut started = 0;
        for vm in due {
            match self.vm_start(vm) {
                Ok(()) => started += 1,
                // The others would not be taken either.
                Err(Refused("QV030")) => return started,
                Err(Refused(other)) => panic!("a VM that is due is refused with {other}"),
            }
        }
        started
    }

    pub(super) fn host_release(&mut self, node: HostId) -> Result<Answer, Refused> {
        let host = &self.hosts[&node];
        let gone = matches!(host.state, HostState::Stopped | HostState::Lost);
        if !gone && host.ok_at.is_some_and(|at| at >= self.clock - Self::LAPSE as i64) {
            return Err(Refused("QV022"));
        }
        self.update_host(node, |host| {
            host.epoch += 1;
            if host.state != HostState::Stopped {
                host.state = HostState::Lost;
            }
        })?;
        let released = self.host_forget(node, "its node was released by an administrator");
        self.vms_restart();
        Ok(Answer::Released(Some(released)))
    }

    pub(super) fn is_alive(&self, node: HostId) -> bool {
        !self.lapsed(self.hosts[&node].ok_at)
    }
}
