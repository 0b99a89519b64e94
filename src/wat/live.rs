//! What happens elsewhere, told to open pages as server-sent events: kinds and numbers, never contents. One connection
//! listens for all of them. While there is none the pages are told to ask by themselves.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{Query, State},
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{broadcast, watch};

use crate::db::{Connector, Database, DbError, Listen, Listener};

use super::{
    latency::{EVERY, Latency, MINUTES},
    server::Wat,
    visitor::Visitor,
};

/// Changes that a page may be behind with before it is told to look at everything again.
const BEHIND: usize = 4096;
/// Before the next attempt to listen.
const PAUSE: Duration = Duration::from_secs(1);
/// So that proxies do not take a quiet stream for a dead one.
const QUIET: Duration = Duration::from_secs(20);

/// A change, as notified.
#[derive(Clone, Debug, Deserialize)]
pub struct Change {
    pub kind: String,
    #[serde(default)]
    pub id: Option<i64>,
    #[serde(default)]
    pub tenant: Option<i32>,
}

/// Passes changes on.
pub struct Live {
    changes: broadcast::Sender<Arc<Change>>,
    /// Changes so far, counted from a number that no other process begins with.
    heard: AtomicU64,
    listening: watch::Sender<bool>,
    latency: Mutex<Latency>,
}

impl Live {
    pub fn new() -> Self {
        Self {
            changes: broadcast::Sender::new(BEHIND),
            // A page reads it as a number, which in JavaScript has 53 bits.
            heard: AtomicU64::new(rand::random::<u64>() >> 12),
            listening: watch::Sender::new(false),
            latency: Mutex::default(),
        }
    }

    /// Listens for as long as it is polled, and measures how long it takes until something is heard of.
    pub async fn follow(&self, connector: &Connector, database: &Database) -> Infallible {
        // Nobody else's.
        let echo = format!("qvd_wat_{:016x}", rand::random::<u64>());
        loop {
            if let Err(error) = self.listen(connector, database, &echo).await {
                tracing::warn!(%error, "changes are not heard of; pages ask by themselves");
            }
            self.listening.send_replace(false);
            self.measured().forget();
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn listen(&self, connector: &Connector, database: &Database, echo: &str) -> Result<(), DbError> {
        let mut listen = Listener::connect(connector).await?;
        listen.listener.watch().await?;
        listen.listener.listen([echo]).await?;
        self.listening.send_replace(true);
        tokio::select! {
            () = self.hear(&mut listen, echo) => Ok(()),
            never = self.measure(database, echo) => match never {},
        }
    }

    async fn hear(&self, listen: &mut Listen, echo: &str) {
        while let Some(notification) = listen.notifications.recv().await {
            if notification.channel == echo {
                self.measured().heard(Instant::now());
                continue;
            }
            match serde_json::from_str::<Change>(&notification.payload) {
                // Without anybody who reads pages nobody hears it.
                Ok(change) => {
                    // First told, then counted: whoever finds the old number hears the change.
                    drop(self.changes.send(Arc::new(change)));
                    self.heard.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => tracing::debug!(%error, payload = notification.payload, "not a change"),
            }
        }
    }

    async fn measure(&self, database: &Database, echo: &str) -> Infallible {
        loop {
            self.measured().asked(Instant::now());
            if let Err(error) = database.notify_nothing_on(echo).await {
                tracing::debug!(%error, "nothing can be notified");
                self.measured().forget();
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn measured(&self) -> MutexGuard<'_, Latency> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it took until changes were heard of: at most in each minute of the last hour.
    pub fn latency(&self, now: Instant) -> [Option<Duration>; MINUTES] {
        self.measured().by_minute(now)
    }

    /// How long it took last.
    pub fn last_latency(&self) -> Option<Duration> {
        self.measured().last()
    }

    /// A number that is another after each change. A page that was made with an older one may have missed something.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::SeqCst)
    }

    /// How many pages hear of changes, and whether there is anything to be heard.
    pub fn standing(&self) -> (usize, bool) {
        (self.listening.receiver_count(), *self.listening.borrow())
    }

    /// Every change that is.
    pub fn changes(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }
}

/// Something may have been missed. Browsers pass nothing on that has no data.
fn gap() -> Event {
    Event::default().event("gap").data("missed")
}

/// What a page says of itself.
#[derive(Deserialize)]
pub struct Since {
    /// What had been heard when it was made.
    heard: Option<u64>,
}

/// The stream of one page.
pub async fn stream_changes(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Query(since): Query<Since>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = wat.live.changes.subscribe();
    let missed = since.heard.is_some_and(|heard| heard != wat.live.heard());
    let changes = stream::unfold(changes, |mut changes| async move {
        let change = match changes.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        Some((change, changes))
    });
    let changes = changes.filter_map(move |change| {
        let event = match change {
            None => Some(gap()),
            Some(change) if visitor.who.may_see(change.tenant) => {
                Some(Event::default().event("change").data(json!({ "kind": change.kind, "id": change.id }).to_string()))
            }
            Some(_) => None,
        };
        std::future::ready(event.map(Ok))
    });
    // The first one says how it is now; whoever starts to listen has missed what was before.
    let states = stream::unfold((wat.live.listening.subscribe(), true), move |(mut listening, first)| async move {
        if !first {
            listening.changed().await.ok()?;
        }
        let is = *listening.borrow_and_update();
        let state = Event::default().event("state").data(if is { "live" } else { "polling" });
        let gap_before = if first { missed } else { is };
        let events = if gap_before { vec![Ok(state), Ok(gap())] } else { vec![Ok(state)] };
        Some((stream::iter(events), (listening, false)))
    });
    Sse::new(stream::select(changes, states.flatten())).keep_alive(KeepAlive::new().interval(QUIET))
}
