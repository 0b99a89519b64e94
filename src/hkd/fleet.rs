//! What all supervisors of a node share, and who they are.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    db::{Database, DbError},
    hypervisor::Hypervisor,
    model::{Epoch, HostId, VmId, config::Config},
};

use super::{
    launches::Launches,
    machine::Progress,
    slots::Slots,
    supervisor::{self, Begin, Order},
};

/// The node as its supervisors see it.
pub struct Node {
    pub host: HostId,
    pub epoch: Epoch,
    pub database: Database,
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Replaced when the configuration changes.
    pub config: ArcSwap<Config>,
    /// For VMs in a heavy phase.
    pub slots: Slots,
    /// For VMs that are being launched.
    pub launches: Launches,
    pub fleet: Fleet,
    /// The database may have a VM on record here that nobody acts on.
    pub doubt: Notify,
    /// Somebody else has taken the node over, or its daemon is to end.
    pub stop: CancellationToken,
    /// The node is to stop with all its VMs.
    pub told_to_stop: CancellationToken,
}

impl Node {
    /// Repeats a call while the database is away. `None`: it will never succeed; the reason was logged.
    pub async fn retrying<T, F>(&self, what: &str, mut call: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, DbError>>,
    {
        let mut pause = Duration::from_millis(50);
        loop {
            match call().await {
                Ok(value) => return Some(value),
                Err(DbError::Revoked(message)) => {
                    tracing::error!(host = %self.host, "cannot {what}: {message}");
                    self.stop.cancel();
                    return None;
                }
                Err(error) if error.is_passing() => {
                    tracing::debug!(host = %self.host, %error, "cannot {what} yet");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.stop.cancelled() => return None,
                    }
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(error) => {
                    tracing::error!(host = %self.host, %error, "cannot {what}");
                    return None;
                }
            }
        }
    }
}

/// One supervisor as others see it.
struct Supervised {
    orders: mpsc::UnboundedSender<Order>,
    progress: Arc<Mutex<Option<Progress>>>,
}

/// The supervisors, by VM.
#[derive(Default)]
pub struct Fleet {
    supervisors: Mutex<HashMap<VmId, Supervised>>,
    emptied: Notify,
    tasks: TaskTracker,
}

impl Fleet {
    /// Whether a VM has a supervisor.
    pub fn has(&self, vm: VmId) -> bool {
        self.supervisors().contains_key(&vm)
    }

    /// The VMs that have a supervisor.
    pub fn supervised(&self) -> HashSet<VmId> {
        self.supervisors().keys().copied().collect()
    }

    /// Gives a supervisor to a VM that has none. One that has keeps its own.
    pub fn begin(&self, node: &Arc<Node>, vm: VmId, begin: Begin) {
        let mut supervisors = self.supervisors();
        if supervisors.contains_key(&vm) {
            return;
        }
        let (sender, orders) = mpsc::unbounded_channel();
        let progress = Arc::new(Mutex::new(None));
        supervisors.insert(vm, Supervised { orders: sender, progress: progress.clone() });
        self.tasks.spawn(supervisor::run(node.clone(), vm, begin, orders, progress));
    }

    /// Passes an order to the supervisor of a VM; gives the order back when there is none.
    pub fn order(&self, vm: VmId, order: Order) -> Result<(), Order> {
        match self.supervisors().get(&vm) {
            Some(supervised) => supervised.orders.send(order).map_err(|unsent| unsent.0),
            None => Err(order),
        }
    }

    /// How every VM gets on.
    pub fn progress(&self) -> Vec<(VmId, Progress)> {
        let progress_of = |(vm, supervised): (&VmId, &Supervised)| {
            let progress = supervised.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.clone().map(|progress| (*vm, progress))
        };
        let mut all: Vec<_> = self.supervisors().iter().filter_map(progress_of).collect();
        all.sort_unstable_by_key(|(vm, _)| *vm);
        all
    }

    /// Takes a supervisor off the list, unless an order is waiting for it, which is returned.
    pub fn retire(&self, vm: VmId, orders: &mut mpsc::UnboundedReceiver<Order>) -> Option<Order> {
        let mut supervisors = self.supervisors();
        let waiting = orders.try_recv().ok();
        if waiting.is_none() {
            supervisors.remove(&vm);
            if supervisors.is_empty() {
                self.emptied.notify_waiters();
            }
        }
        waiting
    }

    /// Waits until no VM has a supervisor.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.supervisors().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn supervisors(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, Supervised>> {
        self.supervisors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
