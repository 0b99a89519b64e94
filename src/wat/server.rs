//! The process: where it listens, what is asked for under which address, and how it ends.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    auth::Rates,
    db::{Connector, Database},
};
use anyhow::Context;
use axum::{
    Router, middleware,
    routing::{get, post},
    serve::Listener,
};
use rustls::ServerConfig;

use super::{
    api, assets,
    door::{Door, Peer},
    downloads, guard, live, metrics, pages, spy, uploads,
    visitor::Logins,
};

/// For what was begun when the process is told to end.
const LAST_CALL: Duration = Duration::from_secs(10);
/// Nothing that is typed is longer.
const LONGEST: usize = 1 << 20;
/// As much as the numbers of a million objects that are chosen at once.
const MOST_CHOSEN: usize = 12 << 20;

/// What is needed to begin.
pub struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// What browsers are shown; without it they come in the clear.
    pub tls: Option<Arc<ServerConfig>>,
    /// The database, as role `qvd_wat`.
    pub connector: Connector,
    /// How many connections to it.
    pub connections: usize,
    /// Failed logins that are allowed.
    pub rates: Rates,
    /// Where files lie that can become images, if this machine has the storage.
    pub staging: PathBuf,
    /// Whether files may be downloaded from addresses that are not global.
    pub private_downloads: bool,
    /// How many at the same time.
    pub most_downloads: usize,
    /// Where noVNC lies.
    pub novnc: PathBuf,
}

/// What all requests share.
pub struct Wat {
    pub database: Database,
    pub logins: Logins,
    pub live: live::Live,
    pub staging: uploads::Staging,
    pub private_downloads: bool,
    pub downloads: Arc<downloads::Places>,
    pub spying: spy::Spying,
}

/// Serves until `ended`.
///
/// # Errors
/// It cannot listen, or the system gives no threads.
pub async fn run(settings: Settings, ended: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let door = Door::open(settings.address, settings.tls)
        .await
        .with_context(|| format!("cannot listen on {}", settings.address))?;
    let wat = Arc::new(Wat {
        database: Database::new(&settings.connector, settings.connections)?,
        logins: Logins::new(settings.rates)?,
        live: live::Live::new(),
        staging: uploads::Staging::new(settings.staging),
        private_downloads: settings.private_downloads,
        downloads: downloads::Places::new(settings.most_downloads),
        spying: spy::Spying::new(settings.novnc),
    });
    tracing::info!(scheme, address = %door.local_addr()?, "listening");
    let application = application(wat.clone()).into_make_service_with_connect_info::<Peer>();
    let (over, end) = tokio::sync::oneshot::channel();
    let serve = axum::serve(door, application).with_graceful_shutdown(async move {
        ended.await;
        let _ = over.send(());
    });
    tokio::select! {
        served = serve => served.context("cannot serve any more"),
        never = wat.live.follow(&settings.connector, &wat.database) => match never {},
        never = forget(&wat) => match never {},
        never = uploads::collect(&wat) => match never {},
        // Pages that are open listen for ever.
        () = async { let _ = end.await; tokio::time::sleep(LAST_CALL).await } => Ok(()),
    }
}

/// Asks everybody anew when what was remembered of them may be wrong.
async fn forget(wat: &Wat) -> std::convert::Infallible {
    let mut changes = wat.live.changes();
    loop {
        match changes.recv().await {
            Ok(change) if !matches!(change.kind.as_str(), "administrator" | "admin" | "role" | "tenant") => {}
            _ => wat.logins.forget(),
        }
    }
}

fn application(wat: Arc<Wat>) -> Router {
    let mut addresses = api::Addresses::default();
    api::add(&mut addresses);
    uploads::add(&mut addresses);
    downloads::add(&mut addresses);
    Router::new()
        .route("/", get(pages::dashboard))
        .route("/live", get(live::stream_changes))
        .route("/metrics", get(metrics::metrics))
        .merge(pages::image_routes())
        .merge(api::finish(addresses))
        .route("/config", get(pages::settings).post(pages::set))
        .route("/log", get(pages::log))
        .route("/log/export.csv", get(pages::log_csv))
        .route("/log/export.json", get(pages::log_json))
        .route("/log/{id}", get(pages::log_entry))
        .route("/profile", get(pages::profile).post(pages::change_profile))
        .route("/role/{id}/acls", get(pages::role).post(pages::change_role))
        .route("/{kind}", get(pages::list))
        .route("/{kind}/new", get(pages::blank).post(pages::create))
        .route("/{kind}/ids", get(pages::ids))
        .route("/{kind}/columns", post(pages::choose))
        .route("/{kind}/act", post(pages::act).layer(axum::extract::DefaultBodyLimit::max(MOST_CHOSEN)))
        .route("/{kind}/{id}", get(pages::object).post(pages::change))
        .route("/vm/{id}/console", get(pages::console))
        .route("/vm/{id}/console/more", get(pages::console_more))
        .merge(spy::routes())
        .layer(axum::extract::DefaultBodyLimit::max(LONGEST))
        .with_state(wat)
        .route("/static/{name}", get(assets::asset))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(middleware::from_fn(guard::guard))
        .layer(middleware::from_fn(api::speak))
}
