//! The storage that nodes share: locks, owner records, heartbeats. What is asked of it by a node that is cut off waits until
//! it is back, as on a hard mount. Locks of a node that is cut off or stands still are lost after a while, and nobody
//! tells their holder.

use std::collections::BTreeMap;

use crate::model::{HostId, Owner, VmId};

use super::{
    chance::Millis,
    node::Number,
    world::{Event, Input, World},
};

/// What it holds.
#[derive(Default)]
pub struct Storage {
    /// Who holds a VM's locks: node and process.
    pub locks: BTreeMap<VmId, (usize, Number)>,
    /// Whose a VM is.
    pub owners: BTreeMap<VmId, Owner>,
    pub beats: BTreeMap<HostId, u64>,
    /// What others see of them so far.
    pub seen: BTreeMap<HostId, Shown>,
}

/// A heartbeat, and since when it is to be seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    pub beat: u64,
    pub since: Millis,
}

/// What is asked of it.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Advances a heartbeat.
    Beat,
    /// Reads all heartbeats.
    ReadBeats,
    /// Unpacks an image, or makes a home and a layer ready.
    Furnish,
    /// Takes a VM's lock, and says whose the VM is.
    Lock(VmId),
    /// Takes a VM's lock for good and writes whose it is, unless it is another's.
    Own(VmId, Owner),
    /// Forgets whose a VM is, if it is still his.
    Disown(VmId, Owner),
    /// The same by a node that has not got the lock, if the VM is its own and the lock is free.
    GiveUp(VmId),
}

/// What it says.
#[derive(Clone, Debug)]
pub enum Stored {
    Done,
    Beats(BTreeMap<HostId, Shown>),
    Locked(Option<Owner>),
    InUse,
    Owned,
}

impl World {
    /// Lets a process ask the storage.
    pub fn store(&mut self, node: usize, number: Number, operation: Operation, then: super::hkd::After) {
        let delay = match (self.nodes[node].slow_storage, &operation) {
            (true, _) => self.chance.between(1, 4000),
            (false, Operation::Furnish) => self.chance.between(5, 300),
            (false, _) => self.chance.between(1, 5),
        };
        self.schedule.after(delay, Event::Store { node, number, operation, then });
    }

    pub fn stored(&mut self, node: usize, number: Number, operation: Operation, then: super::hkd::After) {
        if !self.nodes[node].lives(number) {
            return;
        }
        if self.nodes[node].storage_cut {
            self.nodes[node].parked.push(Event::Store { node, number, operation, then });
            return;
        }
        let host = self.nodes[node].host;
        let storage = &mut self.storage;
        let result = match operation {
            Operation::Beat => {
                *storage.beats.entry(host).or_default() += 1;
                let late = if self.nodes[node].slow_storage { self.chance.between(0, 1500) } else { 0 };
                let beat = self.storage.beats[&host];
                self.schedule.after(late, Event::Shown { host, beat });
                Stored::Done
            }
            Operation::ReadBeats => Stored::Beats(storage.seen.clone()),
            Operation::Furnish => Stored::Done,
            Operation::Lock(vm) => match storage.locks.contains_key(&vm) && self.rules.locks {
                true => Stored::InUse,
                false => {
                    storage.locks.insert(vm, (node, number));
                    Stored::Locked(storage.owners.get(&vm).cloned())
                }
            },
            Operation::Own(vm, owner) => {
                if storage.locks.contains_key(&vm) && self.rules.locks {
                    Stored::InUse
                } else if storage.owners.get(&vm).is_some_and(|former| *former != owner) {
                    Stored::Owned
                } else {
                    storage.locks.insert(vm, (node, number));
                    storage.owners.insert(vm, owner);
                    Stored::Done
                }
            }
            Operation::Disown(vm, owner) => {
                if storage.owners.get(&vm) == Some(&owner) || !self.rules.disowning {
                    storage.owners.remove(&vm);
                }
                Stored::Done
            }
            Operation::GiveUp(vm) => {
                if !storage.locks.contains_key(&vm) && storage.owners.get(&vm).is_some_and(|owner| owner.host == host) {
                    storage.owners.remove(&vm);
                }
                Stored::Done
            }
        };
        self.schedule.after(1, Event::To { node, number, input: Input::Stored(then, result) });
    }

    /// Frees the lock that a process holds.
    pub fn unlock(&mut self, number: Number, vm: VmId) {
        if self.storage.locks.get(&vm).is_some_and(|(_, holder)| *holder == number) {
            self.storage.locks.remove(&vm);
        }
    }

    /// Frees all locks of a process that is no more.
    pub fn unlock_all(&mut self, number: Number) {
        self.storage.locks.retain(|_, (_, holder)| *holder != number);
    }

    /// The storage stops hearing of a node. If that lasts, it frees the node's locks.
    pub fn lose_sight(&mut self, node: usize) {
        self.nodes[node].cuts += 1;
        let (cut, lease) = (self.nodes[node].cuts, self.chance.between(1000, 20_000) as Millis);
        self.schedule.after(lease, Event::LoseLocks { node, cut });
    }

    pub fn lose_locks(&mut self, node: usize, cut: u32) {
        let it = &self.nodes[node];
        if it.cuts == cut && (it.storage_cut || it.frozen || !it.on) {
            self.note(|| format!("the storage frees the locks of n{node}"));
            self.storage.locks.retain(|_, (holder, _)| *holder != node);
        }
    }
}
