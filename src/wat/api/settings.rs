//! The configuration, key by key: of everybody, or of a tenant.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use futures_util::TryStreamExt;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    db,
    model::filter::{Comparison, Condition, Filter},
};

use super::{
    super::{pages::acting, server::Wat, visitor::Visitor},
    problem::Problem,
    take::{Asked, Body, Named},
};

/// Of which tenant; without one, of everybody or of that of who asks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    tenant: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct New {
    value: String,
}

/// The values of a key: what everybody has, and tenants besides.
pub async fn look(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Named(key): Named<String>,
    Asked(Whose { tenant }): Asked<Whose>,
) -> Result<Json<Value>, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let list = acting.list("config").await?;
    let is = |field: &str, value: String| Filter::Field(field.to_owned(), Condition::Is(Comparison::Equal, value));
    let filter = [Some(is("key", key.clone())), tenant.map(|tenant| is("tenant", tenant))];
    let query = db::Query {
        filter: Filter::All(filter.into_iter().flatten().collect()),
        columns: list.columns().map(str::to_owned).collect(),
        order: vec![("tenant".to_owned(), false)],
        limit: None,
        offset: 0,
    };
    let rows: Vec<_> = list.objects(&query).await?.try_collect().await?;
    let values: Vec<Value> = rows
        .iter()
        .map(|row| serde_json::from_str(row.get(0)))
        .collect::<Result<_, _>>()
        .map_err(|error| db::DbError::Shape(error.to_string()))?;
    acting.finish().await?;
    if values.is_empty() {
        return Err(Problem::missing(&format!("there is no key {key}, or it is not yours")));
    }
    Ok(Json(values.into()))
}

pub async fn set(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Named(key): Named<String>,
    Asked(Whose { tenant }): Asked<Whose>,
    Body(New { value }): Body<New>,
) -> Result<StatusCode, Problem> {
    let acting = acting(&wat, &visitor).await?;
    acting.config_set(&key, &value, tenant.as_deref()).await?;
    acting.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Back to the default.
pub async fn reset(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Named(key): Named<String>,
    Asked(Whose { tenant }): Asked<Whose>,
) -> Result<StatusCode, Problem> {
    let acting = acting(&wat, &visitor).await?;
    acting.config_reset(&key, tenant.as_deref()).await?;
    acting.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}
