//! Figures of all nodes, of their database and of this process, in the text format that Prometheus reads. Whoever asks logs in
//! like everybody; that takes an administrator who is held by no tenant and may see how nodes are.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use crate::{db::DbError, events::Exposition};

use super::{pages, server::Wat, visitor::Visitor};

/// Version 0.0.4 of the format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub async fn metrics(State(wat): State<Arc<Wat>>, visitor: Visitor) -> Response {
    match gather(&wat, &visitor).await {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(error) => (pages::status(&error), pages::sentence(&error) + "\n").into_response(),
    }
}

async fn gather(wat: &Wat, visitor: &Visitor) -> Result<String, DbError> {
    let acting = pages::acting(wat, visitor).await?;
    let cluster = acting.cluster_status().await?;
    acting.finish().await?;
    let mut exposition = Exposition::default();
    exposition.add_cluster(&cluster);
    let meaning = "Logins of administrators that were checked, not those that were remembered.";
    for (outcome, logins) in wat.logins.counted() {
        exposition.add("qvd_wat_logins_total", "counter", meaning, &[("outcome", outcome)], logins as f64);
    }
    let (streams, listening) = wat.live.standing();
    exposition.add("qvd_wat_streams", "gauge", "Pages that hear of changes.", &[], streams as f64);
    let meaning = "Whether changes are heard of as they happen; else pages ask by themselves.";
    exposition.add("qvd_wat_listening", "gauge", meaning, &[], f64::from(listening));
    if let Some(took) = wat.live.last_latency() {
        let meaning = "Time from a notification until the web tool heard it, measured every ten seconds.";
        exposition.add("qvd_wat_notification_delay_seconds", "gauge", meaning, &[], took.as_secs_f64());
    }
    Ok(exposition.text())
}
