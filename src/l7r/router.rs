//! What all connections of one L7R process share: the database, the hub, the sessions under way, counters.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::LocalAuthenticator,
    db::Database,
    events::{Channel, Hub},
    model::{HostId, InstanceId, SessionId, config::Config},
    tunnel::Counters,
};

use super::limits::{Limits, Strangers};

/// One L7R process.
pub struct Router {
    pub database: Database,
    pub hub: Hub,
    pub config: ArcSwap<Config>,
    pub host: HostId,
    pub instance: InstanceId,
    pub authenticator: LocalAuthenticator,
    pub sessions: Sessions,
    pub counts: Counts,
    pub refused: Refused,
    /// Failed logins.
    pub limits: Arc<Limits>,
    /// Connections that have not logged in.
    pub strangers: Arc<Strangers>,
    /// The process ends.
    pub stop: CancellationToken,
}

/// A session that this process holds.
#[derive(Clone, Default)]
pub struct Held {
    /// Somebody wants it to end.
    pub abort: CancellationToken,
    /// Bytes moved so far.
    pub counters: Arc<Counters>,
}

/// The sessions of this process.
#[derive(Default)]
pub struct Sessions {
    held: Mutex<HashMap<SessionId, Held>>,
    doubt: AtomicBool,
}

/// Takes its session off the list when it is dropped.
pub struct Registered {
    router: Arc<Router>,
    session: SessionId,
    pub held: Held,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.router.sessions.held().remove(&self.session);
    }
}

impl Sessions {
    /// Puts a session on the list.
    pub fn register(router: &Arc<Router>, session: SessionId) -> Registered {
        let held = Held::default();
        router.sessions.held().insert(session, held.clone());
        Registered { router: router.clone(), session, held }
    }

    fn traffic(&self) -> Vec<(SessionId, u64, u64)> {
        self.held().iter().map(|(session, held)| (*session, held.counters.up(), held.counters.down())).collect()
    }

    /// The database may have given this process a session and not been able to say so.
    pub fn doubt(&self) {
        self.doubt.store(true, Relaxed);
    }

    /// Whether the session is known here.
    fn abort(&self, session: SessionId) -> bool {
        self.held().get(&session).inspect(|held| held.abort.cancel()).is_some()
    }

    fn may_exist(&self) -> bool {
        self.doubt.load(Relaxed) || !self.held().is_empty()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Held>> {
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
    /// Ends sessions as soon as somebody wants them to end.
    pub async fn obey_aborts(self: Arc<Self>) {
        let mut watch = self.hub.watch(Channel::Host(self.host)).await;
        loop {
            // With no session there is nothing that could be aborted, and nothing to ask.
            if self.sessions.may_exist() {
                match self.database.l7r_aborted(self.instance).await {
                    Ok(sessions) => {
                        for session in sessions {
                            if !self.sessions.abort(session) {
                                self.disown(session).await;
                            }
                        }
                    }
                    Err(error) => tracing::warn!(%error, "cannot ask which sessions must end"),
                }
            }
            tokio::select! {
                _ = watch.changed() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Ends a session that the database gave to this process and that nobody here knows of.
    async fn disown(&self, session: SessionId) {
        match self.database.l7r_end(session, "its client never got it", 0, 0).await {
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
            self.write_counts().await;
            let traffic = self.sessions.traffic();
            if !traffic.is_empty() {
                let _ = self.database.l7r_traffic(&traffic).await;
            }
        }
    }

    /// Writes the counters.
    pub async fn write_counts(&self) {
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
