//! What programs ask under `/api/v1`: the same objects and verbs that pages and the command line have, as JSON, with the same
//! login, in one transaction each. Nothing is decided here; what the database refuses is a `problem`.

mod collection;
mod item;
mod log;
mod openapi;
mod problem;
mod settings;
mod take;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde_json::{Value, json};

use crate::admin::objects::Object;

use super::{pages, server::Wat, visitor::Visitor};
use problem::Problem;

/// All of it, to be nested where it is asked for.
pub fn routes() -> Router<Arc<Wat>> {
    Router::new()
        .route("/openapi.json", get(openapi::document))
        .route("/me", get(me))
        .route("/statistics", get(statistics))
        .route("/config/{key}", get(settings::look).put(settings::set).delete(settings::reset))
        .route("/log/export.csv", get(log::csv))
        .route("/log/export.json", get(log::json))
        .route("/vm/{id}/why", get(item::why))
        .route("/{kind}", get(collection::list).post(collection::create))
        .route("/{kind}/actions", post(collection::act))
        .route("/{kind}/{id}", get(item::look).patch(item::change).delete(item::delete))
        .route("/{kind}/{id}/{verb}", post(item::act))
        .fallback(async || Problem::missing("there is no such address; see /api/v1/openapi.json"))
}

fn kind(name: &str) -> Result<&'static Object, Problem> {
    Object::called(name).ok_or_else(|| Problem::missing(&format!("there are no objects called {name}")))
}

/// Who asks, and what he may do.
async fn me(visitor: Visitor) -> Json<Value> {
    let who = &visitor.who;
    Json(json!({ "id": who.id, "name": who.name, "tenant_id": who.tenant_id, "tenant": who.tenant, "acls": who.acls }))
}

async fn statistics(State(wat): State<Arc<Wat>>, visitor: Visitor) -> Result<Json<Value>, Problem> {
    let acting = pages::acting(&wat, &visitor).await?;
    let statistics = acting.statistics().await?;
    acting.finish().await?;
    Ok(Json(statistics))
}
