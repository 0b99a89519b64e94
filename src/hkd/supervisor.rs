//! One task per VM: the only one that acts on it. It feeds events to the machine and carries out effects; slow effects
//! run beside it and report back as events. States are published in order by a task of their own, which keeps trying
//! while the database is away, so a database outage never holds up a VM.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::Instrument;

use crate::{
    model::{VmId, VmSpec, VmState, config::keys},
    vma::client::AgentClient,
};

use super::{
    fleet::Node,
    machine::{Effect, Event, Limits, Machine, Phase, published_from},
};

/// What others may ask of a supervisor.
#[derive(Debug)]
pub enum Order {
    /// A start command was claimed.
    Start(Box<VmSpec>),
    /// A stop command was claimed.
    Stop,
}

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
    slot: Option<OwnedSemaphorePermit>,
    events: mpsc::UnboundedSender<Event>,
    slots: mpsc::UnboundedSender<OwnedSemaphorePermit>,
    publish: mpsc::UnboundedSender<(VmState, Option<String>)>,
}

/// Supervises one VM until it holds nothing and nobody wants anything of it.
pub async fn run(node: Arc<Node>, vm: VmId, begin: Begin, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut next = Some(begin);
    while let Some(begin) = next.take() {
        live(&node, vm, begin, &mut orders).instrument(tracing::info_span!("vm", vm = %vm)).await;
        // The registry is asked under its lock, so an order is either seen here or begins a new supervisor.
        match node.fleet.retire(vm, &mut orders) {
            Some(Order::Start(spec)) => next = Some(Begin::Start(spec)),
            Some(Order::Stop) => next = Some(Begin::Adopt { spec: None, published: VmState::Stopping, alive: false }),
            None => {}
        }
    }
}

async fn live(node: &Arc<Node>, vm: VmId, begin: Begin, orders: &mut mpsc::UnboundedReceiver<Order>) {
    let now = Instant::now();
    let has_agent = node.hypervisor.has_agent();
    let (spec, (machine, mut effects)) = match begin {
        Begin::Start(spec) => (Some(*spec), Machine::start(has_agent, now)),
        Begin::Adopt { spec, published, alive } => {
            let spec = spec.map(|spec| *spec);
            // What cannot be told what it is made of cannot be started again.
            let published = if spec.is_none() && !alive { VmState::Stopping } else { published };
            tracing::info!(%vm, %published, alive, "adopting");
            (spec, Machine::adopt(published, alive, has_agent, &limits(node), now))
        }
    };
    let (events, mut reports) = mpsc::unbounded_channel();
    let (slots, mut granted) = mpsc::unbounded_channel();
    let (publish, to_publish) = mpsc::unbounded_channel();
    let publisher = tokio::spawn(publish_in_order(node.clone(), vm, to_publish));
    let mut task = Task { node: node.clone(), vm, spec, machine, slot: None, events, slots, publish };
    let mut restart = None;
    loop {
        for effect in effects.drain(..) {
            task.carry_out(effect);
        }
        if task.machine.phase() == Phase::Gone {
            break;
        }
        let wake_at = task.machine.wake_at().map(tokio::time::Instant::from_std);
        let event = tokio::select! {
            Some(event) = reports.recv() => event,
            Some(slot) = granted.recv() => {
                task.slot = Some(slot);
                Event::Slot
            }
            Some(order) = orders.recv() => match order {
                Order::Stop => Event::Stop,
                // The database saw it stopped, so this life is about to end; the start is for the next.
                Order::Start(spec) => {
                    restart = Some(spec);
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
    if let Err(error) = publisher.await {
        tracing::error!(%vm, %error, "the publisher failed");
    }
    if let Some(spec) = restart {
        Box::pin(live(node, vm, Begin::Start(spec), orders)).await;
    }
}

impl Task {
    fn carry_out(&mut self, effect: Effect) {
        let (node, vm, events) = (self.node.clone(), self.vm, self.events.clone());
        match effect {
            Effect::AskSlot => {
                let slots = self.slots.clone();
                tokio::spawn(async move {
                    if let Ok(slot) = node.heavy.clone().acquire_owned().await {
                        let _ = slots.send(slot);
                    }
                });
            }
            Effect::FreeSlot => self.slot = None,
            Effect::Prepare => {
                let Some(spec) = self.spec.clone() else {
                    return self.report(Event::Prepared(Err("it has no disk image".to_owned())));
                };
                tokio::spawn(async move {
                    let outcome = node.hypervisor.prepare(&spec).await.map_err(|error| describe(&error));
                    let _ = events.send(Event::Prepared(outcome));
                });
            }
            Effect::Launch => {
                let Some(spec) = self.spec.clone() else {
                    return self.report(Event::Launched(Err("it has no disk image".to_owned())));
                };
                tokio::spawn(async move {
                    let outcome = node.hypervisor.start(&spec).await.map_err(|error| describe(&error));
                    let _ = events.send(Event::Launched(outcome));
                });
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
                        let _ = events.send(Event::Pinged(agent.ping().await.map_err(|error| describe(&error))));
                    });
                }
                None => self.report(Event::Pinged(Err("its address is not known".to_owned()))),
            },
            Effect::PowerOff => match self.agent(None) {
                Some(agent) => {
                    tokio::spawn(async move {
                        let outcome = agent.poweroff().await.map_err(|error| describe(&error));
                        let _ = events.send(Event::PoweredOff(outcome));
                    });
                }
                None => self.report(Event::PoweredOff(Err("its address is not known".to_owned()))),
            },
            Effect::Kill => {
                tokio::spawn(async move {
                    if let Err(error) = node.hypervisor.kill(vm).await {
                        tracing::warn!(%vm, error = describe(&error), "cannot kill");
                    }
                });
            }
            Effect::Clean => {
                tokio::spawn(async move {
                    let outcome = node.hypervisor.clean(vm).await.map_err(|error| describe(&error));
                    let _ = events.send(Event::Cleaned(outcome));
                });
            }
            Effect::Publish(state, reason) => {
                match &reason {
                    Some(reason) => tracing::warn!(%vm, %state, reason, "VM"),
                    None => tracing::info!(%vm, %state, "VM"),
                }
                let _ = self.publish.send((state, reason));
            }
        }
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

async fn publish_in_order(node: Arc<Node>, vm: VmId, mut states: mpsc::UnboundedReceiver<(VmState, Option<String>)>) {
    while let Some((state, reason)) = states.recv().await {
        let expected = published_from(state);
        let written = node
            .retrying("publish the state of a VM", || {
                node.database.node_vm_state((node.host, node.epoch), vm, &expected, state, reason.as_deref())
            })
            .await;
        if written == Some(false) && state != VmState::Stopping {
            tracing::warn!(%vm, %state, "the database has the VM in another state or on another node");
        }
    }
}

fn limits(node: &Node) -> Limits {
    let config = node.config.load();
    Limits {
        boot: config.get(&keys::HKD_FAILED_STARTING),
        ping_ok: config.get(&keys::HKD_PING_OK),
        ping_error: config.get(&keys::HKD_PING_ERROR),
        dead_after: config.get(&keys::HKD_FAILED_RUNNING),
        dead_count: config.get(&keys::HKD_FAILED_COUNT_RUNNING),
        shutdown: config.get(&keys::HKD_TIMEOUT_SHUTDOWN),
        kill: config.get(&keys::HKD_TIMEOUT_STOP),
        zombie: config.get(&keys::HKD_ZOMBIE_DELAY),
        debug: config.get(&keys::VM_DEBUG),
    }
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
