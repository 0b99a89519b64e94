//! What all connections of one L7R process share: the database, the hub, the sessions under way, counters.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{Chain, FailedLogins},
    db::{AbortCause, Database, DbError, Started},
    events::{Cause, Channel, Hub},
    model::{HostId, InstanceId, SessionId, config::Config},
    tunnel::{Clock, Counters, Limit, Limits, Way},
};

use super::{
    limits::Strangers,
    metrics::{End, Metrics},
    nodes::Nodes,
};

/// One L7R process.
pub struct Router {
    pub database: Database,
    pub hub: Hub,
    pub config: ArcSwap<Config>,
    pub host: HostId,
    pub process: Process,
    /// This run of the process, as the database knows it.
    pub instance: tokio::sync::Mutex<InstanceId>,
    pub authenticators: Chain,
    pub sessions: Sessions,
    /// The routers of other nodes, where each node has a VM network of its own.
    pub nodes: Option<Arc<Nodes>>,
    pub counts: Counts,
    pub refused: Refused,
    pub metrics: Metrics,
    /// Failed logins.
    pub limits: Arc<FailedLogins>,
    /// Connections that have not logged in.
    pub strangers: Arc<Strangers>,
    /// The schema of the database is newer than this program: users stay, nobody comes.
    pub outdated: AtomicBool,
    /// Another process accepts now. Clients of TCP stay until they leave; those of QUIC, whose packets all come to one
    /// socket, are told to connect again.
    pub replaced: CancellationToken,
    /// The process ends.
    pub stop: CancellationToken,
}

/// Which process this is.
pub struct Process {
    /// Name of its node.
    pub node: String,
    pub boot_id: String,
    pub pid: i32,
    /// In clock ticks since boot.
    pub began: i64,
}

impl Process {
    /// Tells the database that it runs.
    pub async fn announce(&self, database: &Database) -> Result<Started, DbError> {
        database.l7r_start(&self.node, &self.boot_id, self.pid, self.began).await
    }
}

/// A session that this process holds.
#[derive(Clone, Default)]
pub struct Held {
    /// Somebody wants it to end.
    pub abort: CancellationToken,
    /// Why; set before `abort` says so.
    cause: Arc<OnceLock<AbortCause>>,
    /// Bytes moved so far.
    pub counters: Arc<Counters>,
    /// The limit that ended it.
    pub limit: Arc<OnceLock<Limit>>,
}

/// A session, the clock that runs once it has a tunnel with limits, and what of the tunnel is counted already.
#[derive(Default)]
struct Entry {
    held: Held,
    clock: Option<Clock>,
    way: Option<Way>,
    counted: (u64, u64),
}

impl Entry {
    /// Counts the bytes that have been moved since.
    fn count(&mut self, metrics: &Metrics) {
        let Some(way) = self.way else { return };
        let (up, down) = (self.held.counters.up(), self.held.counters.down());
        metrics.moved(way, up - self.counted.0, down - self.counted.1);
        self.counted = (up, down);
    }
}

impl Held {
    /// Why somebody wants it to end.
    pub fn cause(&self) -> Option<AbortCause> {
        self.cause.get().copied()
    }
}

/// The sessions of this process.
#[derive(Default)]
pub struct Sessions {
    held: Mutex<HashMap<SessionId, Entry>>,
    /// How many have got a name.
    named: AtomicU32,
    doubt: AtomicBool,
    /// A clock has begun to run.
    limited: Notify,
}

/// Takes its session off the list when it is dropped.
pub struct Registered {
    router: Arc<Router>,
    session: SessionId,
    pub held: Held,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let entry = self.router.sessions.held().remove(&self.session);
        if let Some(mut entry) = entry {
            entry.count(&self.router.metrics);
        }
    }
}

impl Sessions {
    /// A name for a session that is about to begin.
    pub fn name(&self, instance: InstanceId) -> SessionId {
        SessionId::new(instance, self.named.fetch_add(1, Relaxed) + 1)
    }

    /// Puts a session on the list.
    pub fn register(router: &Arc<Router>, session: SessionId) -> Registered {
        let held = Held::default();
        router.sessions.held().insert(session, Entry { held: held.clone(), ..Entry::default() });
        Registered { router: router.clone(), session, held }
    }

    /// A session has its tunnel: from now on bytes are counted, and it is held against limits.
    pub fn tunnel(&self, session: SessionId, way: Way, limits: Limits) {
        if let Some(entry) = self.held().get_mut(&session) {
            entry.way = Some(way);
        }
        if limits == Limits::default() {
            return;
        }
        if let Some(entry) = self.held().get_mut(&session) {
            entry.clock = Some(Clock::new(limits, Instant::now()));
        }
        // One permit is kept, so a clock that starts while the others are looked at is not overlooked.
        self.limited.notify_one();
    }

    /// Ends the sessions that are over their limits, and says when to look again.
    fn end_those_over(&self, now: Instant) -> Option<Instant> {
        let mut soonest: Option<Instant> = None;
        for Entry { held, clock, .. } in self.held().values_mut() {
            match clock.as_mut().map(|clock| clock.look(held.counters.both(), now)) {
                Some(Ok(next)) => soonest = soonest.into_iter().chain(next).min(),
                Some(Err(limit)) => {
                    let _ = held.limit.set(limit);
                    held.abort.cancel();
                    *clock = None;
                }
                None => {}
            }
        }
        soonest
    }

    /// What every session has moved so far; counted besides.
    fn traffic(&self, metrics: &Metrics) -> Vec<(SessionId, u64, u64)> {
        let row = |(session, entry): (&SessionId, &mut Entry)| {
            entry.count(metrics);
            (*session, entry.held.counters.up(), entry.held.counters.down())
        };
        self.held().iter_mut().map(row).collect()
    }

    /// The database may have given this process a session and not been able to say so.
    pub fn doubt(&self) {
        self.doubt.store(true, Relaxed);
    }

    /// Whether the session is known here.
    fn abort(&self, session: SessionId, cause: AbortCause) -> bool {
        let held = self.held();
        let Some(entry) = held.get(&session) else { return false };
        // The first cause is the one.
        let _ = entry.held.cause.set(cause);
        entry.held.abort.cancel();
        true
    }

    fn has(&self, session: SessionId) -> bool {
        self.held().contains_key(&session)
    }

    fn may_exist(&self) -> bool {
        self.doubt.load(Relaxed) || !self.held().is_empty()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counters that are added up here and written to `host_counters` now and then.
#[derive(Default)]
pub struct Counts {
    pub requests: AtomicU64,
    pub auth_attempts: AtomicU64,
    pub auth_ok: AtomicU64,
    pub nx_attempts: AtomicU64,
    pub nx_ok: AtomicU64,
    pub short_sessions: AtomicU64,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counts {
    fn take(&self) -> [u64; 6] {
        [&self.requests, &self.auth_attempts, &self.auth_ok, &self.nx_attempts, &self.nx_ok, &self.short_sessions]
            .map(|counter| counter.swap(0, Relaxed))
    }

    fn give_back(&self, counts: [u64; 6]) {
        let counters =
            [&self.requests, &self.auth_attempts, &self.auth_ok, &self.nx_attempts, &self.nx_ok, &self.short_sessions];
        for (counter, count) in counters.into_iter().zip(counts) {
            counter.fetch_add(count, Relaxed);
        }
    }
}

/// Strangers turned away; written like the counters, and logged.
#[derive(Default)]
pub struct Refused {
    /// Closed at once because there were too many.
    pub crowd: AtomicU64,
    /// Failed handshakes.
    pub handshakes: AtomicU64,
    /// HTTP in the clear where TLS is spoken.
    pub plain_http: AtomicU64,
    /// Took too long to send a request.
    pub slow: AtomicU64,
    /// Logins that were not checked because too many had failed.
    pub limited: AtomicU64,
}

impl Refused {
    fn all(&self) -> [&AtomicU64; 5] {
        [&self.crowd, &self.handshakes, &self.plain_http, &self.slow, &self.limited]
    }

    fn take(&self) -> [u64; 5] {
        self.all().map(|counter| counter.swap(0, Relaxed))
    }

    fn give_back(&self, counts: [u64; 5]) {
        for (counter, count) in self.all().into_iter().zip(counts) {
            counter.fetch_add(count, Relaxed);
        }
    }
}

const FLUSH: Duration = Duration::from_secs(5);

impl Router {
    /// Whether clients that came this way have to go to another router.
    pub fn has_moved(&self, way: Way) -> bool {
        way == Way::Quic && self.replaced.is_cancelled()
    }

    /// Resolves when clients that came this way have to go to another router.
    pub async fn moves(&self, way: Way) {
        match way {
            Way::Quic => self.replaced.cancelled().await,
            Way::Splice | Way::Ktls | Way::User | Way::Node => std::future::pending().await,
        }
    }

    /// The database does not know the instance any more: it has lost commits, and this process makes itself known again.
    /// Returns the new instance. Sessions that it forgot, too, go on as long as nobody else wants their desktops.
    pub async fn begin_anew(&self, forgotten: InstanceId) -> Result<InstanceId, DbError> {
        let mut instance = self.instance.lock().await;
        if *instance == forgotten {
            let announced = self.process.announce(&self.database).await?.instance;
            if let Some(nodes) = &self.nodes {
                nodes.publish(announced).await?;
            }
            *instance = announced;
            tracing::warn!(host = %self.host, %forgotten, instance = %*instance, "the database did not know this router");
        }
        Ok(*instance)
    }

    /// Ends sessions as soon as somebody wants them to end.
    pub async fn obey_aborts(self: Arc<Self>) {
        let mut watch = self.hub.watch(Channel::Host(self.host)).await;
        let mut cause = Cause::Start;
        loop {
            if matches!(cause, Cause::Gap | Cause::Poll) {
                self.end_unknown_sessions().await;
            }
            // With no session there is nothing that could be aborted, and nothing to ask.
            if self.sessions.may_exist() {
                let instance = *self.instance.lock().await;
                match self.database.l7r_aborted(instance).await {
                    Ok(sessions) => {
                        for (session, cause) in sessions {
                            if !self.sessions.abort(session, cause) {
                                self.disown(session).await;
                            }
                        }
                    }
                    Err(error) => tracing::warn!(%error, "cannot ask which sessions must end"),
                }
            }
            cause = tokio::select! {
                cause = watch.changed() => cause,
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Ends what is on record as this process's and is not known here. What ended may be there again when a server has taken
    /// over that lost commits.
    async fn end_unknown_sessions(&self) {
        let instance = *self.instance.lock().await;
        match self.database.l7r_sessions(instance).await {
            Ok(sessions) => {
                for session in sessions.into_iter().filter(|session| !self.sessions.has(*session)) {
                    self.disown(session).await;
                }
            }
            Err(DbError::Revoked(_)) => {
                if let Err(error) = self.begin_anew(instance).await {
                    tracing::warn!(%error, "cannot make this router known again");
                }
            }
            Err(error) => tracing::warn!(%error, "cannot ask which sessions are on record"),
        }
    }

    /// Ends sessions that have reached a limit of their tenant. One task does so for all of them, so that a limit costs
    /// a session nothing while its bytes move.
    pub async fn keep_limits(self: Arc<Self>) {
        loop {
            let again = self.sessions.end_those_over(Instant::now());
            let look = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = look => {}
                () = self.sessions.limited.notified() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Ends a session that the database gave to this process and that nobody here knows of.
    async fn disown(&self, session: SessionId) {
        self.metrics.end(End::Lost);
        match self.database.l7r_end(session, "its client never got it", 0, 0, false).await {
            Ok(()) => tracing::warn!(%session, "ended a session that was lost on the way from the database"),
            Err(error) => tracing::warn!(%session, %error, "cannot end a session that was lost"),
        }
    }

    /// Writes counters and traffic every few seconds.
    pub async fn flush(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(FLUSH) => {}
                () = self.stop.cancelled() => return,
            }
            let traffic = self.sessions.traffic(&self.metrics);
            self.write_counts().await;
            if !traffic.is_empty() {
                let _ = self.database.l7r_traffic(&traffic).await;
            }
        }
    }

    /// Writes the counters.
    pub async fn write_counts(&self) {
        self.write_metrics().await;
        let counts = self.counts.take();
        if counts != [0; 6]
            && let Err(error) = self.database.l7r_count(self.host, counts).await
        {
            self.counts.give_back(counts);
            tracing::debug!(%error, "cannot write the counters");
        }
        let refused = self.refused.take();
        if refused == [0; 5] {
            return;
        }
        match self.database.l7r_count_refused(self.host, refused).await {
            Ok(()) => {
                let [crowd, handshakes, plain_http, slow, limited] = refused;
                tracing::info!(crowd, handshakes, plain_http, slow, limited, "turned away");
            }
            Err(error) => {
                self.refused.give_back(refused);
                tracing::debug!(%error, "cannot write the counters");
            }
        }
    }
}
