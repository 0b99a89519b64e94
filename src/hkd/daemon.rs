//! Start, run and end of the daemon.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, OptionFuture};
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use crate::{
    db::{Connector, Database, DbError, Life, Load, Role},
    events::{Cause, Channel, Intervals, Plane, RelayServer},
    hypervisor::{Container, Epochs, Hypervisor, HypervisorError, Kvm, Memory, Nothing},
    logging,
    model::{
        Epoch, HostId, HostState, Owner, VmId, VmPorts, VmState,
        config::{Config, keys},
    },
    process::boot_id,
    storage::StorageError,
};

use super::{
    console, duties,
    fleet::{Fleet, Node},
    heir, images,
    launches::Launches,
    lease, limits, load, progress,
    reconcile::{reconcile, recover},
    remount::RemountError,
    retention,
    signs::Signs,
    slots::Slots,
    stopping,
    succession::Machine,
    supervisor::Begin,
};

/// For a VM that must end to be dead before the next daemon looks after it.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long whoever asks for the status waits for the database.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// Why the daemon cannot run, or stopped.
#[derive(Debug, Error)]
pub enum HkdError {
    /// Another hkd of this node runs.
    #[error("another hkd holds {0}")]
    Locked(PathBuf),
    /// A directory or file of its own cannot be used.
    #[error("{what} {path}", path = .path.display())]
    File {
        /// What could not be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A limit of the process cannot be set.
    #[error("the limits of the process")]
    Limit(#[from] limits::LimitError),
    /// The database refused.
    #[error("the database does not let this node start")]
    Db(#[from] DbError),
    /// The schema is of another version.
    #[error(
        "the schema of the database has version {found}, this program needs {known}; run `qvd db migrate`, or the program that made it"
    )]
    Schema {
        /// What the database has.
        found: String,
        /// What this program has.
        known: i32,
    },
    /// The storage is not the one that this node had, or cannot be used.
    #[error("this node cannot use its storage{hint}")]
    Storage {
        /// What to do, in parentheses.
        hint: String,
        /// Why.
        #[source]
        source: Box<StorageError>,
    },
    /// The node would end its VMs between two signs of life.
    #[error("{lapse} less {margin} leaves no room for two signs of life")]
    Impatient {
        /// Name of the key.
        lapse: &'static str,
        /// Name of the key.
        margin: &'static str,
    },
    /// VMs had to end, and the storage was not mounted anew since.
    #[error("this node may not use its storage")]
    Quarantined(#[from] RemountError),
    /// The storage does not even say what it is.
    #[error("the storage does not answer")]
    StorageHangs,
    /// The node cannot run VMs of the kind that is configured.
    #[error("this node cannot run VMs")]
    Hypervisor(#[from] HypervisorError),
    /// Its epoch is over.
    #[error("another process has taken this node over")]
    Revoked,
}

/// Why the daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its process was told to. VMs go on.
    Told,
    /// The node was told to stop, and nothing of it is left.
    Ordered,
}

/// Runs the daemon until `stop`, or until the node is told to stop. VMs go on when it ends; the next one adopts them. `make` builds the hypervisor once
/// configuration and address are known.
pub async fn run(
    mut config: Config,
    make: impl FnOnce(&Config, &Life, Arc<dyn Epochs>) -> Result<Arc<dyn Hypervisor>, HypervisorError>,
    stop: CancellationToken,
) -> Result<End, HkdError> {
    let path_run = config.get(&keys::PATH_RUN);
    std::fs::create_dir_all(&path_run).map_err(|source| HkdError::File {
        what: "cannot make",
        path: path_run.clone(),
        source,
    })?;
    let _lock = lock(&config.get(&keys::HKD_LOCK))?;
    limits::set(&config)?;
    let connector = Connector::from_config(&config, Role::Node)?;
    let database = Database::new(&connector, config.get(&keys::DATABASE_POOL_SIZE) as usize)?;
    if !wait_for_database(&database, &stop).await {
        return Ok(End::Told);
    }
    database.schema_is_ours().await.map_err(|(found, known)| match found {
        Ok(found) => HkdError::Schema { found, known },
        Err(error) => error.into(),
    })?;
    let nodename = config.get(&keys::NODENAME);
    for refused in config.add_rows(database.config_rows().await?) {
        tracing::warn!(name = nodename, "{refused}; ignored");
    }
    logging::follow(&config);
    let signs = match config.get(&keys::STORAGE_LOCAL) {
        true => None,
        false => Some(Arc::new(Signs::prepare(&config, &database).await?)),
    };
    let machine = Machine::own();
    let dead = heir::wait(&nodename, &machine, signs.as_deref(), &database, &stop).await?;
    if stop.is_cancelled() {
        return Ok(End::Told);
    }
    let shared = signs.as_ref().map(|signs| {
        signs.begin();
        (&signs.storage, signs.patience)
    });
    let life = {
        let machine = (machine.boot_id.as_str(), machine.id.as_deref());
        database.node_start(&nodename, machine, std::process::id(), shared, dead.as_ref()).await?
    };
    database.node_program(life.host, life.epoch).await?;
    if let Some(signs) = &signs {
        signs.order()?;
    }
    let nodes = database.node_addresses().await?;
    let prepared = async {
        let hypervisor = make(&config, &life, Arc::new(Asked(database.clone())))?;
        hypervisor.know_nodes(nodes).await?;
        hypervisor.prepare_node().await.map(|()| hypervisor)
    };
    let hypervisor = match prepared.await {
        Ok(hypervisor) => hypervisor,
        Err(error) => {
            // Nobody shall wait for a node that cannot be one.
            let _ = database.node_state(life.host, life.epoch, HostState::Stopped).await;
            return Err(error.into());
        }
    };

    let relay_path = path_run.join("relay.sock");
    let relay = RelayServer::bind(&relay_path).map_err(|source| HkdError::File {
        what: "cannot listen on",
        path: relay_path.clone(),
        source,
    })?;
    let lines = Lines { signs: Database::new(&connector, 1)?, database, connector };
    let mut member = Member::new(life, config, lines, hypervisor);
    (member.signs, member.relay) = (signs, Some(relay));
    let end = member.live(stop).await?;
    let _ = std::fs::remove_file(relay_path);
    Ok(end)
}

/// How a node reaches the database. Simulated nodes share the pools.
#[derive(Clone)]
pub struct Lines {
    /// For commands and states.
    pub database: Database,
    /// For signs of life and nothing else: whoever waits for a slow statement shall not be taken for dead.
    pub signs: Database,
    /// Makes the listening connection, and a new one for signs of life after a failure.
    pub connector: Connector,
}

/// A node that is on record and can begin to live.
pub struct Member {
    life: Life,
    config: Config,
    lines: Lines,
    hypervisor: Arc<dyn Hypervisor>,
    machine: fn() -> Load,
    signs: Option<Arc<Signs>>,
    relay: Option<RelayServer>,
}

impl Member {
    /// A node on storage of its own, without a router.
    pub fn new(life: Life, config: Config, lines: Lines, hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self { life, config, lines, hypervisor, machine: load::look, signs: None, relay: None }
    }

    /// The same on a machine that is said to be like this.
    pub fn on_machine(self, machine: fn() -> Load) -> Self {
        Self { machine, ..self }
    }

    /// Takes up what is on record and serves until `stop`, after which VMs go on, or until the node is told to stop with them,
    /// or until it is given up, which is an error.
    pub async fn live(self, stop: CancellationToken) -> Result<End, HkdError> {
        let Self { life, config, lines, hypervisor, machine, signs, relay } = self;
        let database = lines.database.clone();
        let plane =
            Plane::start(lines.connector.clone(), database.clone(), life.host, intervals(&config), stop.clone());
        let outdated = Arc::new(OnceLock::new());
        let node = Arc::new(Node {
            host: life.host,
            epoch: life.epoch,
            database: database.clone(),
            hypervisor,
            slots: Slots::new(config.get(&keys::HKD_MAX_HEAVY) as usize),
            launches: Launches::on_this_machine(),
            config: ArcSwap::from_pointee(config.clone()),
            fleet: Fleet::default(),
            doubt: Notify::new(),
            stop: stop.child_token(),
            told_to_stop: CancellationToken::new(),
        });
        // Simulated nodes have no storage; what their configuration names is that of the machine.
        let has_storage = relay.is_some();
        let departures = relay.map(|relay| {
            let (asked, departures) = (node.clone(), Arc::<Notify>::default());
            let figures = Box::new(move || Box::pin(figures(asked.clone())) as BoxFuture<'static, serde_json::Value>);
            tokio::spawn(relay.serve(plane.hub().clone(), figures, departures.clone(), stop.clone()));
            tokio::spawn(tell_states(node.clone()));
            departures
        });
        adopt(&node, &life).await?;
        let signs_of_life =
            lease::Life::new(node.clone(), plane.hub().clone(), signs.clone(), departures, machine, lines);
        let signs_of_life = tokio::spawn(signs_of_life.go_on());
        node.retrying("say that the node serves", || database.node_serves(node.host, node.epoch)).await;
        tracing::info!(host = %node.host, name = config.get(&keys::NODENAME), epoch = node.epoch, "hkd runs");
        tokio::spawn(follow_config(node.clone(), config, plane.clone(), outdated.clone()));
        tokio::spawn(retention::go_on(node.clone()));
        tokio::spawn(guard(node.clone()));
        let _ = sd_notify();

        tokio::spawn(progress::report(node.clone()));
        tokio::spawn(console::go_on(node.clone(), plane.hub().clone()));
        tokio::spawn(duties::go_on(node.clone(), plane.hub().clone()));
        let images = has_storage.then(|| tokio::spawn(images::go_on(node.clone(), plane.hub().clone(), signs.clone())));
        let ordered = tokio::spawn(obey(node.clone()));
        serve(&node, signs.as_deref(), &plane).await;
        let end = if ordered.await.unwrap_or(false) { End::Ordered } else { End::Told };

        // None may come after the farewell, and who is given what this node had begun shall find that nobody writes.
        let _ = tokio::join!(signs_of_life, OptionFuture::from(images));
        if let Some((found, known)) = outdated.get() {
            // As if it had been killed: its successor takes up what it leaves, and meanwhile keeper gives signs of life.
            return Err(HkdError::Schema { found: found.clone(), known: *known });
        }
        if !stop.is_cancelled() && end == End::Told {
            end_vms(&node).await;
            return Err(HkdError::Revoked);
        }
        match (database.node_state(node.host, node.epoch, HostState::Stopped).await, &signs) {
            (Ok(()), Some(signs)) => signs.sign_off(),
            (Ok(()), None) => {}
            (Err(error), _) => tracing::warn!(host = %node.host, %error, "cannot say that the node stops"),
        }
        match end {
            End::Told => tracing::info!(host = %node.host, "hkd ends; VMs go on"),
            End::Ordered => tracing::info!(host = %node.host, "the node has stopped"),
        }
        Ok(end)
    }
}

/// The hypervisor that is configured.
pub fn hypervisor_for(
    config: &Config,
    life: &Life,
    epochs: Arc<dyn Epochs>,
) -> Result<Arc<dyn Hypervisor>, HypervisorError> {
    let refuse = |what: String, hint: &str| HypervisorError { what, hint: Some(hint.to_owned()), source: None };
    let (kind, allowed) = (config.get(&keys::VM_HYPERVISOR), config.get(&keys::HKD_HYPERVISORS));
    if !allowed.contains(&kind) {
        let what = format!("vm.hypervisor = {kind} is not in internal.hkd.hypervisor_list");
        return Err(refuse(what, &format!("use one of {}, or add it there", allowed.join(", "))));
    }
    let owner = (!config.get(&keys::STORAGE_LOCAL)).then(|| Owner {
        host: life.host,
        epoch: life.epoch,
        boot_id: boot_id().unwrap_or_default(),
    });
    Ok(match (kind.as_str(), owner) {
        ("lxc", owner) => {
            let container = Container::new(config, &config.get(&keys::NODENAME), life.address)?;
            match owner {
                Some(owner) => Arc::new(container.in_the_name_of(owner, epochs)),
                None => Arc::new(container),
            }
        }
        ("kvm", owner) => {
            let kvm = Kvm::new(config, life.address)?;
            match owner {
                Some(owner) => Arc::new(kvm.in_the_name_of(owner, epochs)),
                None => Arc::new(kvm),
            }
        }
        ("nothing", _) => Arc::new(Nothing::new(config)),
        (other, _) => {
            return Err(refuse(format!("vm.hypervisor = {other} is not known"), "use lxc, kvm or nothing"));
        }
    })
}

/// The database, as hypervisors see it.
struct Asked(Database);

impl Epochs for Asked {
    fn is_over(&self, host: HostId, epoch: Epoch) -> BoxFuture<'_, Result<bool, HypervisorError>> {
        Box::pin(async move {
            let answer = self.0.epoch_is_over(host, epoch).await;
            answer.map_err(|error| HypervisorError {
                what: format!("nobody knows whether host {host} lives in epoch {epoch}"),
                hint: Some("the database does not answer".to_owned()),
                source: Some(io::Error::other(error)),
            })
        })
    }
}

/// What `qvd status` shows beside the event plane. Without the database it shows the rest.
async fn figures(node: Arc<Node>) -> serde_json::Value {
    let database = tokio::time::timeout(STATUS_LIMIT, node.database.node_status(node.host));
    let (database, memory) = tokio::join!(database, node.hypervisor.memory());
    let database = database.ok().and_then(Result::ok);
    let given: BTreeMap<_, _> = memory.iter().map(|(vm, memory)| (vm.to_string(), memory.given)).collect();
    let known = |(vm, memory): &(VmId, Memory)| Some((vm.to_string(), memory.available?));
    let available: BTreeMap<_, _> = memory.iter().filter_map(known).collect();
    let memory = serde_json::json!({ "given_bytes": given, "available_bytes": available });
    serde_json::json!({ "vms": progress::histogram(&node), "vm_memory": memory, "database": database })
}

/// Logs how many VMs are in which phase whenever SIGUSR1 asks.
async fn tell_states(node: Arc<Node>) {
    let mut asked = match signal(SignalKind::user_defined1()) {
        Ok(asked) => asked,
        Err(error) => return tracing::warn!(%error, "SIGUSR1 cannot be heard"),
    };
    loop {
        tokio::select! {
            _ = asked.recv() => tracing::info!(host = %node.host, vms = ?progress::histogram(&node), "asked for the states"),
            () = node.stop.cancelled() => return,
        }
    }
}

async fn guard(node: Arc<Node>) {
    node.stop.run_until_cancelled(node.hypervisor.guard_node()).await;
}

/// Stops the node when it is told to; whether it was, and has.
async fn obey(node: Arc<Node>) -> bool {
    let obedient = async {
        node.told_to_stop.cancelled().await;
        stopping::stop_all(&node).await;
    };
    tokio::select! {
        () = obedient => {}
        () = node.stop.cancelled() => return false,
    }
    node.stop.cancel();
    true
}

async fn serve(node: &Arc<Node>, signs: Option<&Signs>, plane: &Plane) {
    let mut commands = plane.hub().watch(Channel::Host(node.host)).await;
    let mut cause = Cause::Start;
    let mut unsure = false;
    loop {
        if signs.is_some_and(|signs| signs.quarantine.is_imposed()) {
            // Commands wait: what they would use must be mounted anew first.
            let pause = node.config.load().get(&keys::HKD_POLL_URGENT);
            tokio::select! {
                () = tokio::time::sleep(pause) => continue,
                () = node.stop.cancelled() => return,
            }
        }
        plane.hub().stats().reconciled(cause);
        // After a gap it may be another server that answers, one that was promoted without the last commits.
        let outcome = if unsure || cause == Cause::Gap { recover(node).await } else { Ok(()) };
        let outcome = match outcome {
            Ok(()) => reconcile(node).await,
            Err(error) => Err(error),
        };
        unsure = outcome.is_err();
        match outcome {
            Ok(0) => {}
            Ok(count) if cause == Cause::Poll => {
                tracing::info!(host = %node.host, count, "a poll found work");
                plane.poll_found_work();
            }
            Ok(_) => {}
            Err(DbError::Revoked(message)) => {
                tracing::error!(host = %node.host, "{message}");
                node.stop.cancel();
            }
            Err(error) => tracing::warn!(host = %node.host, %error, "cannot ask for commands"),
        }
        let retry = node.config.load().get(&keys::HKD_POLL_URGENT);
        cause = tokio::select! {
            cause = commands.changed() => cause,
            () = tokio::time::sleep(retry), if unsure => Cause::Retry,
            () = node.doubt.notified() => {
                unsure = true;
                Cause::Retry
            }
            () = node.stop.cancelled() => return,
        };
    }
}

/// Gives a supervisor to every VM that the database or the node knows of.
async fn adopt(node: &Arc<Node>, life: &Life) -> Result<(), HkdError> {
    let found = node.hypervisor.found().await?;
    let mut on_record = node.database.node_vms(node.host, node.epoch).await?;
    let known: HashSet<VmId> = on_record.iter().map(|record| record.vm).collect();
    let ports = VmPorts::of(&node.config.load());
    for stray in found.iter().filter(|found| found.alive && !known.contains(&found.vm)) {
        if node.database.node_adopt((node.host, node.epoch), stray.vm, ports, None, None).await?.is_some() {
            tracing::warn!(vm = %stray.vm, host = %node.host, "here and assigned nowhere; taking it up");
            on_record = node.database.node_vms(node.host, node.epoch).await?;
        }
    }
    for record in on_record {
        let alive = found.iter().any(|found| found.vm == record.vm && found.alive);
        let begin = Begin::Adopt { spec: record.spec.map(Box::new), published: record.state, alive };
        node.fleet.begin(node, record.vm, begin);
    }
    for stray in found {
        if !node.fleet.has(stray.vm) {
            tracing::warn!(vm = %stray.vm, alive = stray.alive, "here but not assigned to this node; ending it");
            let begin = Begin::Adopt { spec: None, published: VmState::Stopped, alive: stray.alive };
            node.fleet.begin(node, stray.vm, begin);
        }
    }
    if !life.released.is_empty() {
        tracing::info!(host = %node.host, count = life.released.len(), "the machine was restarted; its VMs are stopped");
    }
    Ok(())
}

/// Ends every VM: the database has given all of them to others.
async fn end_vms(node: &Node) {
    let found = match node.hypervisor.found().await {
        Ok(found) => found,
        Err(error) => return tracing::error!(host = %node.host, %error, "cannot find the VMs that must end"),
    };
    let ends = found.into_iter().filter(|found| found.alive).map(async |found| {
        let exited = node.hypervisor.exited(found.vm);
        match node.hypervisor.kill(found.vm).await {
            Ok(()) if tokio::time::timeout(END_LIMIT, exited).await.is_ok() => {
                tracing::warn!(vm = %found.vm, host = %node.host, "ended, since it is another node's");
            }
            Ok(()) => tracing::error!(vm = %found.vm, host = %node.host, "must end and does not"),
            Err(error) => tracing::error!(vm = %found.vm, host = %node.host, %error, "must end and cannot be killed"),
        }
    });
    futures_util::future::join_all(ends).await;
}

fn intervals(config: &Config) -> Intervals {
    Intervals {
        beat: config.get(&keys::HKD_BEAT),
        relaxed: config.get(&keys::HKD_POLL_RELAXED),
        urgent: config.get(&keys::HKD_POLL_URGENT),
    }
}

async fn follow_config(node: Arc<Node>, file: Config, plane: Plane, outdated: Arc<OnceLock<(String, i32)>>) {
    let mut watch = plane.hub().watch(Channel::Config).await;
    // Before it was listened to, nobody heard of them.
    know_nodes(&node).await;
    loop {
        tokio::select! {
            _ = watch.changed() => {}
            () = node.stop.cancelled() => return,
        }
        if let Err((Ok(found), known)) = node.database.schema_is_ours().await {
            let _ = outdated.set((found, known));
            node.stop.cancel();
            return;
        }
        if let Ok(rows) = node.database.config_rows().await {
            let mut config = file.clone();
            for refused in config.add_rows(rows) {
                tracing::warn!(host = %node.host, "{refused}; ignored");
            }
            logging::follow(&config);
            plane.set_intervals(intervals(&config));
            node.slots.set_limit(config.get(&keys::HKD_MAX_HEAVY) as usize);
            node.config.store(Arc::new(config));
        }
        know_nodes(&node).await;
    }
}

/// Lets nodes in that have come, and no more those that have gone.
async fn know_nodes(node: &Node) {
    if let Ok(nodes) = node.database.node_addresses().await
        && let Err(error) = node.hypervisor.know_nodes(nodes).await
    {
        tracing::warn!(host = %node.host, %error, "the packet filter does not know the nodes");
    }
}

async fn wait_for_database(database: &Database, stop: &CancellationToken) -> bool {
    let mut told = String::new();
    loop {
        let attempt = tokio::select! {
            attempt = database.reachable(Duration::from_secs(1)) => attempt,
            () = stop.cancelled() => return false,
        };
        match attempt {
            Ok(()) => return true,
            Err(error) if told != error.to_string() => {
                told = error.to_string();
                tracing::warn!("{told}; trying until it answers");
            }
            Err(_) => {}
        }
    }
}

fn lock(path: &Path) -> Result<Flock<File>, HkdError> {
    let file =
        File::create(path).map_err(|source| HkdError::File { what: "cannot make", path: path.to_owned(), source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| HkdError::Locked(path.to_owned()))
}

/// Tells a service manager that waits for it that the daemon is up.
fn sd_notify() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    std::os::unix::net::UnixDatagram::unbound()?.send_to(b"READY=1", path).map(drop)
}
