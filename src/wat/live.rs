//! What happens elsewhere, told to open pages as server-sent events: kinds and numbers, never contents. One connection
//! listens for all of them. While there is none the pages are told to ask by themselves.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
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

use crate::db::{Connector, DbError, Listener};

use super::{server::Wat, visitor::Visitor};

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
}

impl Live {
    pub fn new() -> Self {
        Self {
            changes: broadcast::Sender::new(BEHIND),
            // A page reads it as a number, which in JavaScript has 53 bits.
            heard: AtomicU64::new(rand::random::<u64>() >> 12),
            listening: watch::Sender::new(false),
        }
    }

    /// Listens for as long as it is polled.
    pub async fn follow(&self, connector: &Connector) -> Infallible {
        loop {
            if let Err(error) = self.listen(connector).await {
                tracing::warn!(%error, "changes are not heard of; pages ask by themselves");
            }
            self.listening.send_replace(false);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn listen(&self, connector: &Connector) -> Result<(), DbError> {
        let mut listen = Listener::connect(connector).await?;
        listen.listener.watch().await?;
        self.listening.send_replace(true);
        while let Some(notification) = listen.notifications.recv().await {
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
        Ok(())
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
