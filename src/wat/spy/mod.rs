//! A desktop in the administrator's browser: a page with noVNC, and the WebSocket by which it speaks to the agent of the VM. Who
//! may look and who may act is decided in the database and asked again as long as it lasts; that who only looks does nothing is
//! seen to here (`rfb`), whatever page, agent and image are like.

mod novnc;
mod relay;
mod rfb;
mod tickets;

use std::{path::PathBuf, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Path, Query, State, WebSocketUpgrade},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{guard, pages, server::Wat};
use novnc::NoVnc;
use tickets::Tickets;

pub use relay::Ending;
pub use rfb::Mode;
pub(crate) use rfb::read_any as fuzz_viewer;
pub use tickets::Look;

/// So many look at once, by this web tool.
const MOST: usize = 64;
/// No message of a viewer is longer, but for what it pastes.
const LONGEST: usize = 2 << 20;

/// What those who look share.
pub struct Spying {
    tickets: Tickets,
    places: Arc<Semaphore>,
    novnc: NoVnc,
}

impl Spying {
    pub fn new(novnc: PathBuf) -> Self {
        Self { tickets: Tickets::default(), places: Arc::new(Semaphore::new(MOST)), novnc: NoVnc::at(novnc) }
    }

    /// A ticket for the page that is about to be shown; `None`: noVNC is not there.
    pub async fn ticket(&self, look: Look) -> Option<String> {
        self.novnc.is_there().await.then(|| self.tickets.give(look, Instant::now()))
    }

    /// Where noVNC is looked for.
    pub fn novnc(&self) -> String {
        self.novnc.directory().display().to_string()
    }
}

pub fn routes() -> Router<Arc<Wat>> {
    Router::new()
        .route("/vm/{id}/spy", get(pages::spy).post(pages::spy_begin))
        .route("/vm/{id}/spy/stream", get(stream))
        .route("/novnc/{*path}", get(module))
}

async fn module(State(wat): State<Arc<Wat>>, Path(path): Path<String>, headers: HeaderMap) -> Response {
    wat.spying.novnc.module(&path, &headers).await
}

#[derive(Deserialize)]
struct Shown {
    ticket: String,
}

/// The WebSocket. Who comes has a ticket, and comes from our page: browsers let any page open one.
async fn stream(
    State(wat): State<Arc<Wat>>,
    Path(vm): Path<i32>,
    Query(Shown { ticket }): Query<Shown>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !guard::is_ours(&headers) {
        return (StatusCode::FORBIDDEN, "another site's page must not look at desktops\n").into_response();
    }
    let Some(look) = wat.spying.tickets.take(&ticket, vm, Instant::now()) else {
        return (StatusCode::FORBIDDEN, "this takes a ticket of the page that shows the desktop\n").into_response();
    };
    let upgrade = upgrade.protocols(["binary"]).max_message_size(LONGEST).max_frame_size(LONGEST);
    upgrade.on_upgrade(move |socket| relay::relay(wat, look, socket))
}
