//! `60_l7r.sql`: what routers may do.

use std::net::{IpAddr, Ipv4Addr};

use super::{Answer, Database, Instance, Refused, Seen, Session};
use crate::{
    db::AbortCause,
    model::{HostId, InstanceId, SessionId, UserState, VmId, VmState},
};

/// The address of a client.
pub fn address(client: u8) -> IpAddr {
    Ipv4Addr::new(10, 1, 1, client).into()
}

impl Database {
    pub(super) fn l7r_start(&mut self, node: HostId, boot: u64, process: u32) -> Answer {
        let id = InstanceId(self.instance_ids.take());
        self.instances.insert(id, Instance { host: node, boot, process, ended: false });
        Answer::Instance(id)
    }

    pub(super) fn l7r_instances_of(&self, node: HostId) -> Answer {
        let of_node = self.instances.iter().filter(|(_, instance)| instance.host == node && !instance.ended);
        Answer::Instances(of_node.map(|(id, instance)| (*id, instance.boot, instance.process)).collect())
    }

    pub(super) fn l7r_gone(&mut self, gone: &[InstanceId], reason: &str) -> Answer {
        self.update_vms(
            |vm| vm.instance.is_some_and(|instance| gone.contains(&instance)),
            |vm| vm.user_state = UserState::Disconnected,
        );
        let mut ended = 0;
        for session in self.sessions.values_mut() {
            if gone.contains(&session.instance) && session.ended.is_none() {
                session.ended = Some(reason.to_owned());
                ended += 1;
            }
        }
        for instance in gone {
            if let Some(instance) = self.instances.get_mut(instance) {
                instance.ended = true;
            }
        }
        Answer::Count(ended)
    }

    pub(super) fn l7r_acquire(
        &mut self,
        session: SessionId,
        by: InstanceId,
        vm: VmId,
        client: u8,
    ) -> Result<Answer, Refused> {
        let me = self.instances.get(&by).filter(|instance| !instance.ended).ok_or(Refused("QV001"))?.host;
        let row = self.vms[&vm].clone();
        if row.user_state != UserState::Disconnected {
            let holder = row.instance.and_then(|id| self.instances.get(&id)).filter(|instance| !instance.ended);
            let lives = holder.is_some_and(|holder| holder.host == me || self.is_alive(holder.host));
            let patient = row.aborted_at.is_none_or(|at| at > self.clock - Self::ABORT as i64);
            if lives && patient {
                if !row.aborted {
                    self.update_vm(vm, |vm| (vm.aborted, vm.contender) = (true, Some(client)))?;
                }
                return Ok(Answer::Acquired(None));
            }
            if let Some(former) = row.session.and_then(|id| self.sessions.get_mut(&id)) {
                former.ended.get_or_insert_with(|| "its router is gone".to_owned());
            }
            self.update_vm(vm, |vm| vm.user_state = UserState::Disconnected)?;
        }
        self.sessions.insert(session, Session { vm, router_host: me, instance: by, connected: false, ended: None });
        self.update_vm(vm, |vm| {
            (vm.user_state, vm.session) = (UserState::Connecting, Some(session));
            (vm.router_host, vm.instance) = (Some(me), Some(by));
        })?;
        Ok(Answer::Acquired(Some(Seen {
            state: row.state,
            commanded: row.command.is_some(),
            aborted: false,
            contender: None,
            placed: row.host.is_some(),
        })))
    }

    /// The VM that is in the hands of a session.
    fn vm_of(&self, session: SessionId) -> Option<VmId> {
        self.vms.iter().find(|(_, vm)| vm.session == Some(session)).map(|(id, _)| *id)
    }

    pub(super) fn l7r_session(&self, session: SessionId) -> Answer {
        Answer::Seen(self.vm_of(session).map(|vm| {
            let vm = &self.vms[&vm];
            Seen {
                state: vm.state,
                commanded: vm.command.is_some(),
                aborted: vm.aborted,
                contender: vm.contender,
                placed: vm.host.is_some(),
            }
        }))
    }

    pub(super) fn l7r_vm_start(&mut self, session: SessionId) -> Result<Answer, Refused> {
        let Some(vm) = self.vm_of(session) else { return Ok(Answer::Asked(None)) };
        match self.vm_start(vm) {
            Ok(()) => Ok(Answer::Asked(None)),
            Err(Refused(state @ ("QV030" | "QV031"))) => {
                self.update_vm(vm, |vm| vm.reason = Some("no host can take it".to_owned()))?;
                Ok(Answer::Asked(Some(state)))
            }
            Err(other) => Err(other),
        }
    }

    pub(super) fn l7r_connected(&mut self, session: SessionId) -> Result<Answer, Refused> {
        let ready =
            |vm: &super::Vm| vm.user_state == UserState::Connecting && !vm.aborted && vm.state == VmState::Running;
        let Some(vm) = self.vm_of(session).filter(|vm| ready(&self.vms[vm])) else { return Ok(Answer::Flag(false)) };
        self.update_vm(vm, |vm| vm.user_state = UserState::Connected)?;
        if let Some(session) = self.sessions.get_mut(&session) {
            session.connected = true;
        }
        Ok(Answer::Flag(true))
    }

    pub(super) fn l7r_aborted(&self, instance: InstanceId) -> Answer {
        let aborted = self.vms.values().filter(|vm| vm.aborted && vm.instance == Some(instance));
        let cause = |vm: &super::Vm| match vm.contender {
            _ if vm.state == VmState::Stopped => AbortCause::Stopped,
            Some(client) => AbortCause::Contender(address(client)),
            None => AbortCause::Administrator,
        };
        Answer::Aborted(aborted.filter_map(|vm| Some((vm.session?, cause(vm)))).collect())
    }

    pub(super) fn l7r_sessions(&self, instance: InstanceId) -> Result<Answer, Refused> {
        self.instances.get(&instance).filter(|instance| !instance.ended).ok_or(Refused("QV001"))?;
        let mut sessions: Vec<SessionId> =
            self.vms.values().filter(|vm| vm.instance == Some(instance)).filter_map(|vm| vm.session).collect();
        sessions.sort_unstable();
        Ok(Answer::Sessions(sessions))
    }

    pub(super) fn l7r_end(&mut self, session: SessionId, reason: &str) -> Result<Answer, Refused> {
        if let Some(vm) = self.vm_of(session) {
            self.update_vm(vm, |vm| vm.user_state = UserState::Disconnected)?;
        }
        if let Some(session) = self.sessions.get_mut(&session) {
            session.ended.get_or_insert_with(|| reason.to_owned());
        }
        Ok(Answer::Done)
    }
}
