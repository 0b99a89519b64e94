//! One task per VM: the only one that acts on it. It feeds events to the machine and carries out effects; slow effects
//! run beside it and report back as events. States are published in order by a task of their own, which keeps trying
//! while the database is away, so a database outage never holds up a VM.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::AbortHandle,
};
use tracing::Instrument;

use crate::{
    hypervisor::HypervisorError,
    model::{DiId, Expiry, VmId, VmPorts, VmSecret, VmSpec, VmState, config::keys, in_one_line},
    vma::client::{AgentClient, AgentError},
};

use super::{
    fleet::Node,
    machine::{Effect, Event, Limits, Machine, Phase, Progress, published_from},
    slots::Slot,
};

/// What others may ask of a supervisor.
#[derive(Debug)]
pub enum Order {
    /// A start command was claimed.
    Start(Box<VmSpec>),
    /// A stop command was claimed.
    Stop,
    /// It has had its time to stop.
    Kill,
    /// The database has lost commits, and does not have the VM here as it is.
    Forgotten,
    /// The VM must be told that it expires.
    Expire(Expiry),
}

/// Where a supervisor shows how its VM gets on.
pub type Shown = Arc<std::sync::Mutex<Option<Progress>>>;

/// How a supervisor begins.
pub enum Begin {
    /// With a claimed start.
    Start(Box<VmSpec>),
    /// With a VM that was found; `None`: the database has no image for it, so it can only be ended.
    Adopt { spec: Option<Box<VmSpec>>, published: VmState, alive: bool },
}

struct Task {
    node: Arc<Node>,
    vm: VmId,
    spec: Option<VmSpec>,
    machine: Machine,
    slot: Option<Slot>,
    /// In the queue for a slot.
    asked: Option<oneshot::Receiver<Slot>>,
    /// Preparing, launching or cleaning, whichever is under way.
    step: Option<AbortHandle>,
    /// Held by the step under way, so that the next one begins when it has ended, however it ends.
    one_step: Arc<Mutex<()>>,
    events: mpsc::UnboundedSender<Event>,
    publish: mpsc::UnboundedSender<Said>,
}

/// Supervises one VM until it holds nothing and nobody wants anything of it.
pub async fn run(node: Arc<Node>, vm: VmId, begin: Begin, mut orders: mpsc::UnboundedReceiver<Order>, progress: Shown) {
    let mut next = Some(begin);
    let mut told = true;
    while let Some(begin) = next.take() {
        told = live(&node, vm, begin, &mut orders, &progress).instrument(tracing::info_span!("vm", vm = %vm)).await;
        // The registry is asked under its lock, so an order is either seen here or begins a new supervisor.
        while let Some(order) = node.fleet.retire(vm, &mut orders) {
            match order {
                Order::Start(spec) => next = Some(Begin::Start(spec)),
                Order::Stop => next = Some(Begin::Adopt { spec: None, published: VmState::Stopping, alive: false }),
                // About a life that is over.
                Order::Kill | Order::Forgotten | Order::Expire(_) => continue,
            }
            break;
        }
    }
    if !told {
        node.doubt.notify_one();
    }
}

/// One life of a VM. Whether the database knows how it ended.
async fn live(
    node: &Arc<Node>,
    vm: VmId,
    begin: Begin,
    orders: &mut mpsc::UnboundedReceiver<Order>,
    progress: &Shown,
) -> bool {
    let now = Instant::now();
    let has_agent = node.hypervisor.has_agent();
    let record = match begin {
        Begin::Start(_) => Some(VmState::Starting),
        Begin::Adopt { published, .. } => Some(published).filter(|published| *published != VmState::Stopped),
    };
    let (spec, (machine, mut effects)) = match begin {
        Begin::Start(spec) => (Some(*spec), Machine::start(has_agent, &limits(node), now)),
        Begin::Adopt { spec, published, alive } => {
            let spec = spec.map(|spec| *spec);
            // What cannot be told what it is made of cannot be started again.
            let published = if spec.is_none() && !alive { VmState::Stopping } else { published };
            tracing::info!(%vm, %published, alive, "adopting");
            (spec, Machine::adopt(published, alive, has_agent, &limits(node), now))
        }
    };
    let (events, mut reports) = mpsc::unbounded_channel();
    let (publish, to_publish) = mpsc::unbounded_channel();
    let publisher = Publisher {
        node: node.clone(),
        vm,
        secret: spec.as_ref().and_then(|spec| spec.secret.clone()),
        image: spec.as_ref().map(|spec| spec.di),
        events: events.clone(),
    };
    let publisher = tokio::spawn(publisher.run(record, to_publish));
    let mut task = Task {
        node: node.clone(),
        vm,
        spec,
        machine,
        slot: None,
        asked: None,
        step: None,
        one_step: Arc::default(),
        events,
        publish,
    };
    let mut next = None;
    loop {
        for effect in effects.drain(..) {
            task.carry_out(effect);
        }
        *progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.machine.progress());
        if task.machine.phase() == Phase::Gone {
            break;
        }
        let wake_at = task.machine.wake_at().map(tokio::time::Instant::from_std);
        let event = tokio::select! {
            Some(event) = reports.recv() => event,
            Ok(slot) = async {
                match &mut task.asked {
                    Some(asked) => asked.await,
                    None => std::future::pending().await,
                }
            } => {
                task.slot = Some(slot);
                task.asked = None;
                Event::Slot
            }
            Some(order) = orders.recv() => match order {
                // Of the next life, which ends before it began.
                Order::Stop if next.is_some() => {
                    next = Some(Begin::Adopt { spec: None, published: VmState::Stopping, alive: false });
                    continue;
                }
                Order::Stop => Event::Stop,
                Order::Kill => Event::Kill,
                Order::Expire(expiry) => Event::Expires(expiry),
                Order::Forgotten => Event::Forgotten,
                // The database had it stopped, and this life is not about to end.
                Order::Start(_) if task.machine.is_up() => Event::Forgotten,
                // The start is for the next life.
                Order::Start(spec) => {
                    next = Some(Begin::Start(spec));
                    continue;
                }
            },
            () = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            } => Event::Tick,
        };
        let was = task.machine.phase();
        effects = task.machine.step(event, &limits(node), Instant::now());
        if task.machine.phase() != was {
            tracing::debug!(vm = %vm, from = ?was, to = ?task.machine.phase(), "phase");
        }
    }
    drop(task);
    let told = publisher.await.inspect_err(|error| tracing::error!(%vm, %error, "the publisher failed"));
    match next {
        Some(begin) => Box::pin(live(node, vm, begin, orders, progress)).await,
        None => told.unwrap_or(false),
    }
}

impl Task {
    fn carry_out(&mut self, effect: Effect) {
        let (node, vm, events) = (self.node.clone(), self.vm, self.events.clone());
        match effect {
            Effect::AskSlot(purpose) => self.asked = Some(node.slots.ask(purpose)),
            Effect::FreeSlot => (self.asked, self.slot) = (None, None),
            Effect::Abandon => {
                if let Some(step) = self.step.take() {
                    step.abort();
                }
            }
            Effect::Prepare => {
                let Some(spec) = self.spec.clone() else {
                    return self.report(Event::Prepared(Err("it has no disk image".to_owned())));
                };
                self.begin(Event::Prepared, async move { node.hypervisor.prepare(&spec).await });
            }
            Effect::Launch => {
                let Some(spec) = self.spec.clone() else {
                    return self.report(Event::Launched(Err("it has no disk image".to_owned())));
                };
                self.begin(Event::Launched, async move { node.launches.in_turn(node.hypervisor.start(&spec)).await });
            }
            Effect::WatchExit => {
                let exited = node.hypervisor.exited(vm);
                tokio::spawn(async move {
                    let _ = events.send(Event::Exited(exited.await));
                });
            }
            Effect::Ping(limit) => match self.agent(limit) {
                Some(agent) => {
                    tokio::spawn(async move {
                        let _ = events.send(Event::Pinged(agent.ping().await.map_err(|error| in_one_line(&error))));
                    });
                }
                None => self.report(Event::Pinged(Err("its address is not known".to_owned()))),
            },
            Effect::PowerOff => match self.agent(None) {
                Some(agent) => {
                    tokio::spawn(async move {
                        let outcome = agent.poweroff().await.map_err(|error| in_one_line(&error));
                        if outcome.is_ok() {
                            tracing::info!(%vm, "powers off");
                        }
                        let _ = events.send(Event::PoweredOff(outcome));
                    });
                }
                None => self.report(Event::PoweredOff(Err("its address is not known".to_owned()))),
            },
            Effect::PressPowerButton => {
                tokio::spawn(async move {
                    let pressed = node.hypervisor.press_power_button(vm).await.map_err(|error| in_one_line(&error));
                    let _ = events.send(Event::PoweredOff(pressed));
                });
            }
            Effect::TellExpiry(expiry) => {
                let agent = self.agent(None);
                tokio::spawn(async move {
                    let told = tell(&node, vm, agent, &expiry).await;
                    let _ = events.send(Event::ToldExpiry(told));
                });
            }
            Effect::Kill => {
                tokio::spawn(async move {
                    if let Err(error) = node.hypervisor.kill(vm).await {
                        tracing::warn!(%vm, error = in_one_line(&error), "cannot kill");
                    }
                });
            }
            Effect::Clean => self.begin(Event::Cleaned, async move { node.hypervisor.clean(vm).await }),
            Effect::Publish(state, reason) => {
                match &reason {
                    Some(reason) => tracing::warn!(%vm, %state, reason, "VM"),
                    None => tracing::info!(%vm, %state, "VM"),
                }
                let _ = self.publish.send(Said::State(state, reason));
            }
            Effect::PutOnRecord => {
                let _ = self.publish.send(Said::Here);
            }
        }
    }

    /// Begins a step that may take long and may be given up.
    fn begin(
        &mut self,
        report: fn(Result<(), String>) -> Event,
        step: impl Future<Output = Result<(), HypervisorError>> + Send + 'static,
    ) {
        let (events, one_step) = (self.events.clone(), self.one_step.clone());
        let running = tokio::spawn(async move {
            let _alone = one_step.lock_owned().await;
            let outcome = step.await.map_err(|error| in_one_line(&error));
            let _ = events.send(report(outcome));
        });
        self.step = Some(running.abort_handle());
    }

    fn report(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn agent(&self, limit: Option<Duration>) -> Option<AgentClient> {
        let spec = self.spec.as_ref()?;
        let config = self.node.config.load();
        let address = SocketAddr::from((spec.address, config.get(&keys::VM_PORT_VMA)));
        let limit = limit.unwrap_or_else(|| config.get(&keys::HKD_TIMEOUT_RPC));
        Some(AgentClient::new(address, spec.secret.clone(), limit))
    }
}

/// Tells the agent of a VM when it expires, and the database that it knows. An agent whose hook fails knows too.
async fn tell(node: &Node, vm: VmId, agent: Option<AgentClient>, expiry: &Expiry) -> Result<(), String> {
    if node.hypervisor.has_agent() {
        let agent = agent.ok_or_else(|| "its address is not known".to_owned())?;
        match agent.expire(&expiry.soft, &expiry.hard).await {
            Ok(()) => {}
            Err(AgentError::Refused(why)) => {
                tracing::warn!(%vm, why, "told that it expires, and does nothing about it")
            }
            Err(error) => return Err(in_one_line(&error)),
        }
    }
    node.retrying("say that a VM knows when it expires", || {
        node.database.node_vm_told(node.host, node.epoch, vm, expiry)
    })
    .await;
    Ok(())
}

/// What is said of a VM.
enum Said {
    State(VmState, Option<String>),
    /// It is here, whatever the database says.
    Here,
}

/// Tells the database what becomes of a VM.
///
/// That a VM has stopped, or cannot be cleaned up, is said only of one that is said to be on its way down, and that once.
/// What is said again because the answer was lost would else be taken for the end of the next start. So an end that is not
/// taken was taken before, or was forgotten with commits that a server lost.
struct Publisher {
    node: Arc<Node>,
    vm: VmId,
    secret: Option<VmSecret>,
    image: Option<DiId>,
    events: mpsc::UnboundedSender<Event>,
}

impl Publisher {
    /// Goes on until nothing more is said; whether the database took the end. `record` is its state in the database when this
    /// life began; `None`: it is not on record here, and nothing is said, because a record that is made meanwhile is of the
    /// next life. Who begins that may not know of it.
    async fn run(self, record: Option<VmState>, mut said: mpsc::UnboundedReceiver<Said>) -> bool {
        use VmState::{Stopped, Stopping, Zombie};
        let Some(record) = record else {
            while said.recv().await.is_some() {}
            return false;
        };
        let mut told = true;
        let mut down = matches!(record, Stopping | Zombie);
        let mut last = (record, None);
        while let Some(said) = said.recv().await {
            let (state, reason) = match said {
                Said::State(state, reason) => (state, reason),
                Said::Here => {
                    self.put_on_record(&last).await;
                    continue;
                }
            };
            if matches!(state, Stopping | Zombie | Stopped) && !std::mem::replace(&mut down, true) {
                let reason = reason.as_deref().filter(|_| state == Stopping);
                self.publish(&published_from(Stopping), Stopping, reason).await;
            }
            let expected = match state {
                Stopping => continue,
                Zombie => vec![Stopping],
                Stopped => vec![Stopping, Zombie],
                other => published_from(other),
            };
            let written = self.publish(&expected, state, reason.as_deref()).await;
            told = (state, written) != (Stopped, Some(false));
            last = (state, reason);
            if (state, written) == (VmState::Running, Some(false)) {
                self.put_on_record(&last).await;
            }
        }
        told
    }

    async fn publish(&self, expected: &[VmState], state: VmState, reason: Option<&str>) -> Option<bool> {
        let Self { node, vm, .. } = self;
        let written = node
            .retrying("publish the state of a VM", || {
                node.database.node_vm_state((node.host, node.epoch), *vm, expected, state, reason)
            })
            .await;
        if written == Some(false) && state != VmState::Stopping {
            tracing::warn!(%vm, %state, "the database has the VM in another state or on another node");
        }
        written
    }

    /// Has it put on record here, and in the state that was published last. What is another node's must end here first.
    async fn put_on_record(&self, (last, reason): &(VmState, Option<String>)) {
        use VmState::{Debugging, Running, Starting, Stopping, Zombie};
        let Self { node, vm, .. } = self;
        let ports = VmPorts::of(&node.config.load());
        let adopted = node
            .retrying("put a VM on record", || {
                node.database.node_adopt((node.host, node.epoch), *vm, ports, self.secret.as_ref(), self.image)
            })
            .await;
        match adopted {
            Some(Some(Starting)) => {
                if matches!(last, Running | Debugging) {
                    tracing::warn!(%vm, host = %node.host, "the database did not know that it runs here");
                    self.publish(&[Starting], Running, None).await;
                }
                if *last == Debugging {
                    self.publish(&[Running], Debugging, reason.as_deref()).await;
                }
            }
            Some(None) => {
                tracing::warn!(%vm, host = %node.host, "here but not assigned to this node; ending it");
                let _ = self.events.send(Event::Stop);
            }
            // Nobody but this node can end what the database has on its way down.
            Some(Some(Stopping | Zombie)) => {
                let _ = self.events.send(Event::Stop);
            }
            Some(Some(_)) | None => {}
        }
    }
}

fn limits(node: &Node) -> Limits {
    let config = node.config.load();
    Limits {
        slot: config.get(&keys::HKD_TIMEOUT_SLOT),
        prepare: config.get(&keys::HKD_TIMEOUT_PREPARE),
        launch: config.get(&keys::HKD_TIMEOUT_LAUNCH),
        boot: config.get(&keys::HKD_FAILED_STARTING),
        boot_count: config.get(&keys::HKD_FAILED_COUNT_STARTING),
        ping_ok: config.get(&keys::HKD_PING_OK),
        ping_error: config.get(&keys::HKD_PING_ERROR),
        dead_after: config.get(&keys::HKD_FAILED_RUNNING),
        dead_count: config.get(&keys::HKD_FAILED_COUNT_RUNNING),
        ask_pause: config.get(&keys::HKD_RPC_DELAY),
        ask_retries: config.get(&keys::HKD_RPC_RETRIES),
        shutdown: config.get(&keys::HKD_TIMEOUT_SHUTDOWN),
        kill: config.get(&keys::HKD_TIMEOUT_STOP),
        clean: config.get(&keys::HKD_TIMEOUT_CLEAN),
        zombie: config.get(&keys::HKD_ZOMBIE_DELAY),
        debug: config.get(&keys::VM_DEBUG),
    }
}
