//! The database as the simulation has it: the rows that matter and, in Rust, what the functions in `sql/functions` do to
//! them. `agreement` applies the same calls to PostgreSQL and compares, so the two cannot drift apart. One call is one
//! transaction. Names, passwords, images and counters are left out; every VM has an image.

mod agreement;
mod command;
mod guard;
mod node;
mod router;

use std::collections::BTreeMap;

use crate::{
    db::{AbortCause, Peer},
    model::{Epoch, HostId, HostState, InstanceId, SessionId, UserState, VmCommand, VmId, VmState},
};

use super::{chance::Millis, rules::Rules};

/// `hosts` and `host_runtimes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub state: HostState,
    pub blocked: bool,
    pub epoch: Epoch,
    pub boot: Option<u64>,
    pub machine: Option<u8>,
    pub lease: i64,
    pub ok_at: Option<i64>,
    pub patience: Option<Millis>,
    pub storage: bool,
    pub storage_degraded: bool,
}

/// `vms` and `vm_runtimes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    pub keep_running: bool,
    pub state: VmState,
    pub command: Option<VmCommand>,
    pub host: Option<HostId>,
    pub restart_due: bool,
    pub reason: Option<String>,
    pub user_state: UserState,
    pub aborted: bool,
    pub aborted_at: Option<i64>,
    /// The last part of the address of the client that wants it.
    pub contender: Option<u8>,
    pub session: Option<SessionId>,
    pub router_host: Option<HostId>,
    pub instance: Option<InstanceId>,
}

/// `user_sessions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub vm: VmId,
    pub router_host: HostId,
    pub instance: InstanceId,
    pub connected: bool,
    pub ended: Option<String>,
}

/// `l7r_instances`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub host: HostId,
    pub boot: u64,
    pub process: u32,
    pub ended: bool,
}

/// What a sequence gives out. It writes ahead of itself, so that a server that lost its last commits skips numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    last: i64,
    written: i64,
}

/// PostgreSQL's SEQ_LOG_VALS.
const WRITTEN_AHEAD: i64 = 32;

impl Sequence {
    fn take(&mut self) -> i64 {
        if self.last == self.written {
            self.written += WRITTEN_AHEAD + 1;
        }
        self.last += 1;
        self.last
    }

    fn recover(&mut self) {
        self.last = self.written;
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Database {
    pub rules: Rules,
    /// What `now()` says.
    pub clock: i64,
    pub hosts: BTreeMap<HostId, Host>,
    pub vms: BTreeMap<VmId, Vm>,
    pub sessions: BTreeMap<SessionId, Session>,
    pub instances: BTreeMap<InstanceId, Instance>,
    pub beat_at: i64,
    instance_ids: Sequence,
    /// What the transaction under way will say when it commits.
    said: Vec<Said>,
}

/// A notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Host(HostId),
    Echo(HostId),
    Vm(VmId),
    Beat,
}

/// A call of a function in `sql/functions`, or a statement of `src/db`.
#[derive(Clone, Debug)]
pub enum Call {
    NodeStart {
        node: HostId,
        boot: u64,
        machine: u8,
        /// The life and the lease of who was the node before, seen to stand still.
        dead: Option<(Epoch, i64)>,
        patience: Millis,
    },
    NodeState {
        node: HostId,
        epoch: Epoch,
        becomes: HostState,
    },
    NodeServes {
        node: HostId,
        epoch: Epoch,
    },
    NodeLease {
        node: HostId,
        epoch: Epoch,
        storage_degraded: bool,
    },
    NodePeers {
        node: HostId,
        epoch: Epoch,
    },
    NodeTakeOver {
        node: HostId,
        epoch: Epoch,
        silent: HostId,
        silent_epoch: Epoch,
        lease: i64,
    },
    NodeClaim {
        node: HostId,
        epoch: Epoch,
    },
    NodeVms {
        node: HostId,
        epoch: Epoch,
    },
    NodeVmState {
        node: HostId,
        epoch: Epoch,
        vm: VmId,
        expected: Vec<VmState>,
        becomes: VmState,
        reason: Option<String>,
    },
    NodeAdopt {
        node: HostId,
        epoch: Epoch,
        vm: VmId,
    },
    NodeRouters {
        node: HostId,
        epoch: Epoch,
    },
    NodeRoutersGone {
        node: HostId,
        epoch: Epoch,
        instances: Vec<InstanceId>,
    },
    EpochIsOver {
        node: HostId,
        epoch: Epoch,
    },
    VmsRestart,
    BeatTry {
        age: Millis,
    },
    Echo {
        node: HostId,
    },
    VmStart {
        vm: VmId,
    },
    VmStop {
        vm: VmId,
    },
    VmDisconnect {
        vm: VmId,
    },
    HostBlock {
        node: HostId,
        blocked: bool,
    },
    HostRelease {
        node: HostId,
    },
    L7rStart {
        node: HostId,
        boot: u64,
        process: u32,
    },
    L7rInstances {
        node: HostId,
    },
    L7rGone {
        instances: Vec<InstanceId>,
        reason: &'static str,
    },
    L7rAcquire {
        session: SessionId,
        instance: InstanceId,
        vm: VmId,
        client: u8,
    },
    L7rSession {
        session: SessionId,
    },
    L7rVmStart {
        session: SessionId,
    },
    L7rConnected {
        session: SessionId,
    },
    L7rAborted {
        instance: InstanceId,
    },
    L7rSessions {
        instance: InstanceId,
    },
    L7rEnd {
        session: SessionId,
        reason: &'static str,
    },
}

/// What a call returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Flag(bool),
    Count(i64),
    Life {
        epoch: Epoch,
        state: HostState,
        released: Vec<VmId>,
    },
    Peers(Vec<Peer>),
    /// `None`: it is not as it was seen.
    Released(Option<Vec<VmId>>),
    Claimed(Vec<(VmId, VmCommand)>),
    OnRecord(Vec<(VmId, VmState)>),
    Instance(InstanceId),
    Instances(Vec<(InstanceId, u64, u32)>),
    /// `None`: another session has the VM.
    Acquired(Option<Seen>),
    Seen(Option<Seen>),
    /// `None`: it is not this node's.
    Adopted(Option<VmState>),
    /// The start of a session's VM: SQLSTATE of the refusal.
    Asked(Option<&'static str>),
    Aborted(Vec<(SessionId, AbortCause)>),
    Sessions(Vec<SessionId>),
}

/// What `l7r_acquire` and `l7r_session` show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub state: VmState,
    pub commanded: bool,
    pub aborted: bool,
    pub contender: Option<u8>,
    pub placed: bool,
}

/// A refusal by the rules of the schema: its SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

impl Database {
    /// `internal.hkd.lease.lapse` and `internal.l7r.timeout.abort`.
    pub const LAPSE: Millis = 10_000;
    pub const ABORT: Millis = 3_000;

    pub fn new(hosts: &[HostId], vms: &[(VmId, bool)], rules: Rules) -> Self {
        let host = Host {
            state: HostState::Stopped,
            blocked: false,
            epoch: 0,
            boot: None,
            machine: None,
            lease: 0,
            ok_at: None,
            patience: None,
            storage: false,
            storage_degraded: false,
        };
        let vm = |keep_running| Vm {
            keep_running,
            state: VmState::Stopped,
            command: None,
            host: None,
            restart_due: false,
            reason: None,
            user_state: UserState::Disconnected,
            aborted: false,
            aborted_at: None,
            contender: None,
            session: None,
            router_host: None,
            instance: None,
        };
        Self {
            rules,
            clock: 0,
            hosts: hosts.iter().map(|id| (*id, host.clone())).collect(),
            vms: vms.iter().map(|(id, keep_running)| (*id, vm(*keep_running))).collect(),
            sessions: BTreeMap::new(),
            instances: BTreeMap::new(),
            beat_at: 0,
            instance_ids: Sequence::default(),
            said: Vec::new(),
        }
    }

    /// One transaction: what it returns and what it says to those who listen.
    pub fn call(&mut self, call: &Call) -> Result<(Answer, Vec<Said>), Refused> {
        let answer = self.perform(call);
        let said = std::mem::take(&mut self.said);
        Ok((answer?, said))
    }

    /// This server takes over from one whose last commits it never got.
    pub fn promote(&mut self) {
        self.instance_ids.recover();
    }

    fn perform(&mut self, call: &Call) -> Result<Answer, Refused> {
        match *call {
            Call::NodeStart { node, boot, machine, dead, patience } => {
                self.node_start(node, (machine, boot), dead, patience)
            }
            Call::NodeState { node, epoch, becomes } => self.node_state(node, epoch, becomes),
            Call::NodeServes { node, epoch } => self.node_serves(node, epoch),
            Call::NodeLease { node, epoch, storage_degraded } => self.node_lease(node, epoch, storage_degraded),
            Call::NodePeers { node, epoch } => self.node_peers(node, epoch),
            Call::NodeTakeOver { node, epoch, silent, silent_epoch, lease } => {
                self.node_take_over((node, epoch), (silent, silent_epoch, lease))
            }
            Call::NodeClaim { node, epoch } => self.node_claim(node, epoch),
            Call::NodeVms { node, epoch } => self.node_vms(node, epoch),
            Call::NodeVmState { node, epoch, vm, ref expected, becomes, ref reason } => {
                self.node_vm_state((node, epoch), vm, expected, becomes, reason.as_deref())
            }
            Call::NodeAdopt { node, epoch, vm } => self.node_adopt((node, epoch), vm),
            Call::NodeRouters { node, epoch } => self.node_routers(node, epoch),
            Call::NodeRoutersGone { node, epoch, ref instances } => self.node_routers_gone(node, epoch, instances),
            Call::EpochIsOver { node, epoch } => Ok(Answer::Flag(self.epoch_is_over(node, epoch))),
            Call::VmsRestart => Ok(Answer::Count(self.vms_restart())),
            Call::BeatTry { age } => Ok(Answer::Flag(self.beat_try(age))),
            Call::Echo { node } => {
                self.say(Said::Echo(node));
                Ok(Answer::Done)
            }
            Call::VmStart { vm } => self.vm_start(vm).map(|()| Answer::Done),
            Call::VmStop { vm } => self.vm_stop(vm).map(|()| Answer::Done),
            Call::VmDisconnect { vm } => self.vm_disconnect(vm).map(|()| Answer::Done),
            Call::HostBlock { node, blocked } => Ok(self.host_block(node, blocked)),
            Call::HostRelease { node } => self.host_release(node),
            Call::L7rStart { node, boot, process } => Ok(self.l7r_start(node, boot, process)),
            Call::L7rInstances { node } => Ok(self.l7r_instances_of(node)),
            Call::L7rGone { ref instances, reason } => Ok(self.l7r_gone(instances, reason)),
            Call::L7rAcquire { session, instance, vm, client } => self.l7r_acquire(session, instance, vm, client),
            Call::L7rSession { session } => Ok(self.l7r_session(session)),
            Call::L7rVmStart { session } => self.l7r_vm_start(session),
            Call::L7rConnected { session } => self.l7r_connected(session),
            Call::L7rAborted { instance } => Ok(self.l7r_aborted(instance)),
            Call::L7rSessions { instance } => self.l7r_sessions(instance),
            Call::L7rEnd { session, reason } => self.l7r_end(session, reason),
        }
    }

    fn say(&mut self, said: Said) {
        // Equal ones of a transaction are merged.
        if !self.said.contains(&said) {
            self.said.push(said);
        }
    }
}
