//! The node's sign of life in the database, with the figures that the balancer wants, and the look at the signs of others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    db::{Connector, Database, DbError, Load, Peer},
    events::Hub,
    keeper::fence::BootTime,
    model::{config::keys, in_one_line},
};

use super::{
    daemon::Lines,
    fleet::Node,
    observer::{Look, Observer},
    remount, routers,
    signs::Signs,
};

/// How often nodes are looked at that are late.
const ALERT: Duration = Duration::from_millis(500);

/// Why the storage is not relied upon, as administrators read it.
const STORAGE_SILENT: &str = "the storage does not take this node's sign of life";

/// Gives signs of life and watches those of others.
pub struct Life {
    node: Arc<Node>,
    hub: Hub,
    /// `None`: the storage is this node's own, so there is nobody to watch and nobody watches.
    signs: Option<Arc<Signs>>,
    observer: Observer,
    connector: Connector,
    /// A connection that broke is noticed by its successor.
    database: Database,
    storage_silent: bool,
    /// Why the storage is not used after VMs had to end.
    quarantined: Option<String>,
    routers: Option<Routers>,
    /// How large the machine is and how much of it is in use.
    machine: fn() -> Load,
}

/// The routers of this node.
struct Routers {
    /// One of them may have ended.
    departures: Arc<Notify>,
    /// One of them may be gone that the database believes alive.
    suspected: bool,
}

impl Life {
    /// To be begun with [`Life::go_on`]. `departures` tells of routers that ended, where there are any.
    pub fn new(
        node: Arc<Node>,
        hub: Hub,
        signs: Option<Arc<Signs>>,
        departures: Option<Arc<Notify>>,
        machine: fn() -> Load,
        lines: Lines,
    ) -> Self {
        Self {
            node,
            hub,
            signs,
            observer: Observer::default(),
            database: lines.signs,
            connector: lines.connector,
            storage_silent: false,
            quarantined: None,
            routers: departures.map(|departures| Routers { departures, suspected: true }),
            machine,
        }
    }

    /// Renews the lease and looks around until the node stops. What fails is repeated at the next beat of the clock.
    pub async fn go_on(mut self) {
        let stop = self.node.stop.clone();
        tokio::select! {
            () = self.rounds() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn rounds(&mut self) {
        let mut renew_at = Instant::now();
        loop {
            let interval: Duration = self.node.config.load().get(&keys::HKD_LEASE_RENEW);
            if Instant::now() >= renew_at {
                renew_at = Instant::now() + interval;
                self.settle_storage().await;
                let due = self.renew().await;
                if let Some(true) = self.note(due, "renew the lease") {
                    let done = self.restart_vms().await;
                    self.note(done, "start VMs whose node was lost");
                }
            }
            let done = self.end_sessions_of_dead_routers().await;
            self.note(done, "end what dead routers left");
            let mut late = false;
            if let Some(signs) = self.signs.clone() {
                let done = self.look_around(&signs).await;
                self.note(done, "look for other nodes");
                late = self.observer.somebody_is_late(Instant::now(), interval);
            }
            let pause = renew_at.saturating_duration_since(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(if late { pause.min(ALERT) } else { pause }) => {}
                () = departure(self.routers.as_mut()) => {}
            }
        }
    }

    /// How long the database or the storage may take before this look counts as none.
    fn answer_limit(&self) -> Duration {
        self.signs.as_ref().map_or(Duration::from_secs(10), |signs| signs.patience / 4)
    }

    /// Says whether VMs of lost nodes are to be started.
    async fn renew(&mut self) -> Result<bool, DbError> {
        let (node, trouble) = (&self.node, self.hub.trouble());
        let storage = self.quarantined.as_deref().or(self.storage_silent.then_some(STORAGE_SILENT));
        let began = BootTime::now();
        let load = (self.machine)();
        let due = in_time(
            self.answer_limit(),
            self.database.node_lease((node.host, node.epoch), &load, trouble.as_deref(), storage),
        )
        .await?;
        if let Some(signs) = &self.signs {
            signs.signed(began);
        }
        Ok(due)
    }

    async fn restart_vms(&mut self) -> Result<(), DbError> {
        let started = in_time(self.answer_limit(), self.database.vms_restart()).await?;
        if started > 0 {
            tracing::info!(host = %self.node.host, started, "VMs whose node was lost start again");
        }
        Ok(())
    }

    /// After VMs had to end: mounts the storage anew. Until then the node begins nothing.
    async fn settle_storage(&mut self) {
        let Some(signs) = &self.signs else { return };
        match remount::settle(&self.node.config.load(), &signs.quarantine).await {
            Ok(_) => self.quarantined = None,
            Err(error) => {
                let error = in_one_line(&error);
                if self.quarantined.as_ref() != Some(&error) {
                    tracing::error!(host = %self.node.host, "{error}");
                }
                self.quarantined = Some(error);
            }
        }
    }

    async fn end_sessions_of_dead_routers(&mut self) -> Result<(), DbError> {
        let limit = self.answer_limit();
        if let Some(routers) = self.routers.as_mut().filter(|routers| routers.suspected) {
            in_time(limit, routers::end_sessions_of_dead(&self.node, &self.database)).await?;
            routers.suspected = false;
        }
        Ok(())
    }

    /// One look at the database and the storage, and what follows.
    async fn look_around(&mut self, signs: &Signs) -> Result<(), DbError> {
        let (host, epoch) = (self.node.host, self.node.epoch);
        let limit = self.answer_limit();
        let began = Instant::now();
        let (database, problem) = match in_time(limit, self.database.node_peers(host, epoch)).await {
            Ok(peers) => (Some(peers), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let peers: &[Peer] = database.as_ref().map(|database| database.peers.as_slice()).unwrap_or_default();
        let storage = signs.beats(peers, limit).await;
        let silent = self.observer.look(Look { began, ended: Instant::now(), database, storage });
        self.judge_storage(signs.patience);
        for peer in silent {
            tracing::warn!(%host, silent = %peer.host, name = peer.name, "no sign of life; taking its VMs over");
            match in_time(limit, self.database.node_take_over((host, epoch), &peer)).await? {
                Some(vms) => tracing::warn!(%host, silent = %peer.host, vms = vms.len(), "took over"),
                None => tracing::info!(%host, silent = %peer.host, "it gave a sign, or another node was quicker"),
            }
        }
        problem
    }

    /// Whether the storage takes what keeper writes. One that does not is said to the database with the lease.
    fn judge_storage(&mut self, patience: Duration) {
        let silent = self.observer.own_silence(Instant::now()).is_some_and(|silence| silence >= patience);
        match (self.storage_silent, silent) {
            (false, true) => tracing::error!(host = %self.node.host, "{STORAGE_SILENT}; the node takes no new VMs"),
            (true, false) => tracing::info!(host = %self.node.host, "the storage takes signs of life again"),
            _ => {}
        }
        self.storage_silent = silent;
    }

    fn note<T>(&mut self, done: Result<T, DbError>, what: &str) -> Option<T> {
        match done {
            Ok(done) => return Some(done),
            Err(DbError::Revoked(message)) => {
                tracing::error!(host = %self.node.host, "{message}; stopping");
                self.node.stop.cancel();
            }
            Err(error) => {
                tracing::warn!(host = %self.node.host, %error, "cannot {what}");
                // One that does not answer would hold up the next sign.
                if matches!(error, DbError::Unreachable(_) | DbError::Busy) {
                    match Database::new(&self.connector, 1) {
                        Ok(database) => self.database = database,
                        Err(error) => tracing::error!(%error, "no connection for signs of life"),
                    }
                }
            }
        }
        None
    }
}

/// Resolves when a router may have ended.
async fn departure(routers: Option<&mut Routers>) {
    match routers {
        Some(routers) => {
            routers.departures.notified().await;
            routers.suspected = true;
        }
        None => std::future::pending().await,
    }
}

async fn in_time<T>(limit: Duration, call: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
    match tokio::time::timeout(limit, call).await {
        Ok(done) => done,
        Err(late) => Err(DbError::Unreachable(Box::new(late))),
    }
}
