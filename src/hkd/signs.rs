//! What a node shows on the storage that it shares, and what it sees there of others: the identity of the storage, the
//! heartbeats, its own deadline. Judging what is seen is the business of `observer`.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::{
    db::{Database, Peer},
    keeper::{
        Orders, Quarantine,
        fence::{BootTime, Fence, Signer},
    },
    model::{
        HostId, StorageId,
        config::{Config, keys},
    },
    process::aside,
    storage::{Storage, StorageError},
};

use super::{
    daemon::HkdError,
    observer::{Beat, Beats},
    remount,
};

/// How long the storage may take to say what it is. One that takes longer hangs.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(20);

/// The signs of life of a node that shares its storage.
pub struct Signs {
    /// What the storage is.
    pub storage: StorageId,
    /// How long both signs must stand still before others take over.
    pub patience: Duration,
    /// Whether the storage must be mounted anew first.
    pub quarantine: Quarantine,
    /// For how long VMs may live after a sign.
    limit: Duration,
    orders: Orders,
    run: PathBuf,
    fence: Fence,
    reader: Reader,
}

impl Signs {
    /// Makes sure that the storage is the one that this node had.
    pub async fn prepare(config: &Config, database: &Database) -> Result<Self, HkdError> {
        let (name, run) = (config.get(&keys::NODENAME), config.get(&keys::PATH_RUN));
        let failed = |source| HkdError::File { what: "cannot use", path: run.clone(), source };
        let quarantine = Quarantine::of_node(&run).map_err(failed)?;
        remount::settle(config, &quarantine).await?;
        let recorded = database.node_storage(&name).await?;
        let (storage, of_node) = (Storage::new(config), recorded.clone());
        let identify = move || -> Result<(StorageId, Storage), StorageError> {
            let id = storage.identify(of_node.as_ref())?;
            storage.make_hosts()?;
            Ok((id, storage))
        };
        let (id, storage) = aside(identify, IDENTIFY_LIMIT).await.ok_or(HkdError::StorageHangs)??;
        if recorded.is_none() {
            tracing::info!(name, storage = %id, root = %storage.root().display(), "this node's storage from now on");
        }
        let patience = config.get(&keys::HKD_LEASE_LAPSE);
        let limit = patience.saturating_sub(config.get(&keys::FENCE_MARGIN));
        if limit < config.get(&keys::HKD_LEASE_RENEW) * 2 {
            return Err(HkdError::Impatient { lapse: keys::HKD_LEASE_LAPSE.name, margin: keys::FENCE_MARGIN.name });
        }
        let orders = Orders {
            root: storage.root().to_owned(),
            storage: id.clone(),
            limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        };
        let fence = Fence::of_node(&run).map_err(failed)?;
        let reader = Reader::new(storage.hosts(), &name);
        Ok(Self { storage: id, patience, quarantine, limit, orders, run, fence, reader })
    }

    /// From here on this node's VMs have a deadline. To be called before the database hears of the node, so that no VM goes
    /// on without one when this process dies in between.
    pub fn begin(&self) {
        self.signed(BootTime::now());
    }

    /// Tells keeper to give signs of life. Not before the database took this machine for the node: another one of the same
    /// name would spoil the first one's signs.
    pub fn order(&self) -> Result<(), HkdError> {
        let failed = |source| HkdError::File { what: "cannot leave orders in", path: self.run.clone(), source };
        self.orders.write(&self.run).map_err(failed)
    }

    /// The database has taken a sign that was begun at `began`.
    pub fn signed(&self, began: std::io::Result<BootTime>) {
        let signed = began.and_then(|began| self.fence.signed(Signer::Hkd, began, self.limit));
        if let Err(error) = signed {
            tracing::error!(%error, "the deadline of this node's VMs cannot be moved");
        }
    }

    /// The database knows that this node stops, so its VMs have no deadline any more.
    pub fn sign_off(&self) {
        if let Err(error) = self.fence.sign_off() {
            tracing::error!(%error, "the deadline of this node's VMs cannot be lifted");
        }
    }

    /// What a machine sees of the one that is the node now, whose name it has: gives a heartbeat under the name of its own
    /// boot, which shows whether the storage takes and shows what is new, and reads both.
    pub async fn beats_of_another(&self, boot_id: &str, number: u64, other: &Peer, limit: Duration) -> Option<Beats> {
        let reader =
            Reader { name: boot_id.to_owned(), hosts: self.reader.hosts.clone(), busy: self.reader.busy.clone() };
        let ours = self.reader.hosts.join(format!("{boot_id}.beat"));
        aside(move || fs::write(ours, number.to_string()).is_ok(), limit).await.filter(|written| *written)?;
        reader.read(vec![(other.host, other.name.clone())], limit).await
    }

    /// Takes back what `beats_of_another` left.
    pub async fn forget_beats(&self, boot_id: &str, limit: Duration) {
        let ours = self.reader.hosts.join(format!("{boot_id}.beat"));
        aside(move || fs::remove_file(ours), limit).await;
    }

    /// The heartbeats of this node and others; `None` when the storage does not answer in time.
    pub async fn beats(&self, peers: &[Peer], limit: Duration) -> Option<Beats> {
        self.reader.read(peers.iter().map(|peer| (peer.host, peer.name.clone())).collect(), limit).await
    }
}

/// Reads heartbeats on threads of their own: storage may hang for ever. While one hangs, no second one is sent after it.
struct Reader {
    hosts: PathBuf,
    name: String,
    busy: Arc<AtomicBool>,
}

impl Reader {
    fn new(hosts: &Path, name: &str) -> Self {
        Self { hosts: hosts.to_owned(), name: name.to_owned(), busy: Arc::default() }
    }

    async fn read(&self, others: Vec<(HostId, String)>, limit: Duration) -> Option<Beats> {
        if self.busy.swap(true, SeqCst) {
            return None;
        }
        let (hosts, name, busy) = (self.hosts.clone(), self.name.clone(), Busy(self.busy.clone()));
        let read = move || {
            let beat = |name: &str| -> Option<Beat> { fs::read_to_string(hosts.join(format!("{name}.beat"))).ok() };
            // Its own first: what is read later of others is no older.
            let own = beat(&name);
            let others: HashMap<HostId, Beat> =
                others.into_iter().filter_map(|(host, name)| Some((host, beat(&name)?))).collect();
            drop(busy);
            Beats { own, others }
        };
        aside(read, limit).await
    }
}

/// Ends with the thread that reads, or that could not be made.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

impl From<StorageError> for HkdError {
    fn from(error: StorageError) -> Self {
        Self::Storage { hint: error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default(), source: error.into() }
    }
}
