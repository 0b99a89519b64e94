//! `40_command.sql`: what administrators may do.

use super::{Answer, Database, Refused};
use crate::model::{HostId, HostState, UserState, VmCommand, VmId, VmState};

impl Database {
    /// A balancer of its own: the node with the fewest VMs.
    fn place(&self) -> Result<HostId, Refused> {
        let vms_on = |node| self.vms.values().filter(|vm| vm.host == Some(node)).count();
        let candidates = self.hosts.iter().filter(|(id, host)| {
            !host.blocked && host.state == HostState::Running && self.is_alive(**id) && !host.storage_degraded
        });
        candidates.map(|(id, _)| *id).min_by_key(|id| (vms_on(*id), *id)).ok_or(Refused("QV030"))
    }

    pub(super) fn vm_start(&mut self, vm: VmId) -> Result<(), Refused> {
        let row = &self.vms[&vm];
        if matches!(row.state, VmState::Starting | VmState::Running) || row.command == Some(VmCommand::Start) {
            return Ok(());
        }
        let host = row.host.map_or_else(|| self.place(), Ok)?;
        self.update_vm(vm, |vm| (vm.host, vm.command) = (Some(host), Some(VmCommand::Start)))
    }

    pub(super) fn vm_stop(&mut self, vm: VmId) -> Result<(), Refused> {
        let row = &self.vms[&vm];
        if row.state == VmState::Stopped && row.command == Some(VmCommand::Start) {
            self.update_vm(vm, |vm| {
                (vm.command, vm.host, vm.reason) = (None, None, Some("the start was withdrawn".to_owned()));
            })
        } else if row.restart_due {
            self.update_vm(vm, |vm| vm.restart_due = false)
        } else if matches!(row.state, VmState::Stopped | VmState::Stopping) || row.command == Some(VmCommand::Stop) {
            Ok(())
        } else {
            self.update_vm(vm, |vm| (vm.command, vm.reason) = (Some(VmCommand::Stop), None))
        }
    }

    pub(super) fn vm_disconnect(&mut self, vm: VmId) -> Result<(), Refused> {
        if self.vms[&vm].user_state == UserState::Disconnected {
            return Ok(());
        }
        self.update_vm(vm, |vm| vm.aborted = true)
    }

    pub(super) fn host_block(&mut self, node: HostId, blocked: bool) -> Answer {
        self.update_host(node, |host| host.blocked = blocked).expect("blocking changes no state");
        Answer::Done
    }
}
