//! VMs that do not exist: they take the configured time to start and stop and do nothing else. For tests and
//! benchmarks of what is above a hypervisor. They live in memory and end with the process; clones share them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::watch, time::sleep};

use super::{Exit, Found, Hypervisor, HypervisorError};
use crate::model::{
    VmId, VmSpec,
    config::{Config, keys},
};

/// What a hypervisor does, for failures and delays on order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `prepare_node`.
    PrepareNode,
    /// `prepare`.
    Prepare,
    /// `start`.
    Start,
    /// `kill`.
    Kill,
    /// `clean`.
    Clean,
    /// `found`.
    Found,
}

/// Simulated VMs.
#[derive(Clone, Debug)]
pub struct Nothing {
    starting: Duration,
    stopping: Duration,
    state: Arc<Mutex<State>>,
    at_once: Arc<AtOnce>,
}

/// How many VMs are being started, and how many were at most.
#[derive(Debug, Default)]
struct AtOnce {
    now: AtomicUsize,
    peak: AtomicUsize,
}

/// One of them.
struct Starting<'a>(&'a AtOnce);

impl<'a> Starting<'a> {
    fn new(at_once: &'a AtOnce) -> Self {
        at_once.peak.fetch_max(at_once.now.fetch_add(1, SeqCst) + 1, SeqCst);
        Self(at_once)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
    }
}

#[derive(Debug, Default)]
struct State {
    /// `None` inside means that the VM lives.
    vms: HashMap<VmId, watch::Sender<Option<Exit>>>,
    failures: HashMap<Step, u32>,
    hangs: HashMap<Step, u32>,
    starts: u64,
}

impl Nothing {
    /// VMs with the delays of the configuration.
    pub fn new(config: &Config) -> Self {
        Self::with_delays(config.get(&keys::NOTHING_STARTING), config.get(&keys::NOTHING_STOPPING))
    }

    /// VMs that take `starting` from `start` to its return, and `stopping` from `kill` to their end.
    pub fn with_delays(starting: Duration, stopping: Duration) -> Self {
        Self { starting, stopping, state: Arc::default(), at_once: Arc::default() }
    }

    /// Lets the next `times` calls of a step fail.
    pub fn fail(&self, step: Step, times: u32) {
        self.state().failures.insert(step, times);
    }

    /// Lets the next `times` calls of a step never return.
    pub fn hang(&self, step: Step, times: u32) {
        self.state().hangs.insert(step, times);
    }

    /// Ends a VM as if by itself; whether it lived.
    pub fn end(&self, vm: VmId, exit: Exit) -> bool {
        self.state().vms.get(&vm).is_some_and(|ended| end(ended, exit))
    }

    /// How often a VM was started.
    pub fn starts(&self) -> u64 {
        self.state().starts
    }

    /// The most VMs that were being started at the same time.
    pub fn most_at_once(&self) -> usize {
        self.at_once.peak.load(SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements, so a panic elsewhere did not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt(&self, step: Step) -> Result<(), HypervisorError> {
        if let Some(left) = self.state().hangs.get_mut(&step).filter(|left| **left > 0) {
            *left -= 1;
        } else {
            return self.outcome(step);
        }
        std::future::pending().await
    }

    fn outcome(&self, step: Step) -> Result<(), HypervisorError> {
        match self.state().failures.get_mut(&step) {
            Some(left) if *left > 0 => {
                *left -= 1;
                Err(HypervisorError { what: format!("step {step:?} fails by order"), hint: None, source: None })
            }
            _ => Ok(()),
        }
    }
}

impl Hypervisor for Nothing {
    fn prepare_node(&self) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(self.attempt(Step::PrepareNode))
    }

    fn release_node(&self) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async { Ok(()) })
    }

    fn prepare<'a>(&'a self, _: &'a VmSpec) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(self.attempt(Step::Prepare))
    }

    fn start<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move {
            let _one = Starting::new(&self.at_once);
            sleep(self.starting).await;
            self.attempt(Step::Start).await?;
            self.end(spec.vm, Exit::Unseen);
            let mut state = self.state();
            state.vms.insert(spec.vm, watch::Sender::new(None));
            state.starts += 1;
            Ok(())
        })
    }

    fn exited(&self, vm: VmId) -> BoxFuture<'static, Exit> {
        let ended = self.state().vms.get(&vm).map(watch::Sender::subscribe);
        Box::pin(async move {
            let Some(mut ended) = ended else { return Exit::Unseen };
            ended.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Unseen)
        })
    }

    fn kill(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async move {
            self.attempt(Step::Kill).await?;
            let (nothing, condemned) = (self.clone(), self.state().vms.get(&vm).cloned());
            if let Some(condemned) = condemned {
                tokio::spawn(async move {
                    sleep(nothing.stopping).await;
                    // The VM that was killed, not one started since.
                    end(&condemned, Exit::Signal(9));
                });
            }
            Ok(())
        })
    }

    fn clean(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async move {
            self.attempt(Step::Clean).await?;
            self.end(vm, Exit::Unseen);
            self.state().vms.remove(&vm);
            Ok(())
        })
    }

    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, HypervisorError>> {
        Box::pin(async {
            self.attempt(Step::Found).await?;
            let state = self.state();
            Ok(state.vms.iter().map(|(vm, ended)| Found { vm: *vm, alive: ended.borrow().is_none() }).collect())
        })
    }

    fn has_agent(&self) -> bool {
        false
    }
}

/// Ends a VM that lives; whether it did.
fn end(ended: &watch::Sender<Option<Exit>>, exit: Exit) -> bool {
    ended.send_if_modified(|now| {
        let lived = now.is_none();
        now.get_or_insert(exit);
        lived
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::{Agent, DiId, OsfId, TenantId, UserId};

    fn spec(vm: i32) -> VmSpec {
        VmSpec {
            vm: VmId(vm),
            name: "desktop".into(),
            tenant: TenantId(1),
            user: UserId(1),
            login: "alice".into(),
            osf: OsfId(1),
            memory_mb: 256,
            user_storage_mb: 0,
            cpus: None,
            di: DiId(1),
            di_path: "desk.tar".into(),
            agent: Agent::Auto,
            address: Ipv4Addr::new(10, 0, 0, 200).into(),
            secret: None,
        }
    }

    #[tokio::test]
    async fn a_vm_takes_its_time_to_start_and_to_stop() {
        let nothing = Nothing::with_delays(Duration::from_millis(20), Duration::from_millis(30));
        let begin = tokio::time::Instant::now();
        nothing.start(&spec(1)).await.unwrap();
        assert!(begin.elapsed().as_millis() >= 20);
        assert_eq!(nothing.found().await.unwrap(), [Found { vm: VmId(1), alive: true }]);
        let exited = nothing.exited(VmId(1));
        nothing.kill(VmId(1)).await.unwrap();
        assert_eq!(exited.await, Exit::Signal(9));
        assert!(begin.elapsed().as_millis() >= 50);
        assert_eq!(nothing.found().await.unwrap(), [Found { vm: VmId(1), alive: false }]);
        nothing.clean(VmId(1)).await.unwrap();
        assert!(nothing.found().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn failures_come_as_often_as_ordered() {
        let nothing = Nothing::with_delays(Duration::ZERO, Duration::ZERO);
        nothing.fail(Step::Start, 1);
        assert!(nothing.start(&spec(1)).await.is_err());
        assert_eq!(nothing.exited(VmId(1)).await, Exit::Unseen);
        nothing.start(&spec(1)).await.unwrap();
        assert!(nothing.end(VmId(1), Exit::Status(0)));
        assert!(!nothing.end(VmId(1), Exit::Status(1)));
        assert_eq!(nothing.exited(VmId(1)).await, Exit::Status(0));
        assert_eq!(nothing.starts(), 1);
    }
}
