//! What is done with one object beside its fields: what a VM waits for, says and expires at; tags and publication of images; nodes
//! that are stopped or released; secrets of one-time passwords; and which object a name means.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::objects::Object,
    db::{AffectedVm, TotpSettings},
};

use super::{
    super::{pages::acting, server::Wat, visitor::Visitor},
    problem::Problem,
    take::{Asked, Body, Named},
};

type Wats = State<Arc<Wat>>;

/// A name, as people say it.
#[derive(Deserialize)]
pub struct Name {
    name: String,
}

pub async fn named(
    State(wat): Wats,
    visitor: Visitor,
    Asked(Name { name }): Asked<Name>,
    object: &Object,
) -> Result<Json<Value>, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let id = acting.named(object.name, &name).await?;
    acting.finish().await?;
    Ok(Json(json!({ "id": id })))
}

/// What a VM is waiting for, in words and as facts.
pub async fn why(State(wat): Wats, visitor: Visitor, Named(id): Named<i32>) -> Result<Json<Value>, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let why = acting.vm_why(id).await?;
    let facts = acting.vm_facts(id).await?;
    acting.finish().await?;
    Ok(Json(json!({ "why": why, "facts": facts })))
}

/// Behind what somebody has seen of a console.
#[derive(Deserialize)]
pub struct Seen {
    #[serde(default)]
    after: i64,
}

pub async fn console(
    State(wat): Wats,
    visitor: Visitor,
    Named(id): Named<i32>,
    Asked(Seen { after }): Asked<Seen>,
) -> Result<Json<Value>, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let console = acting.vm_console(id, after).await?;
    acting.finish().await?;
    Ok(Json(json!({ "answered": console.answered, "said": console.said, "last": console.last })))
}

/// Times as PostgreSQL reads them, or an interval from now behind a `+`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    soft: Option<String>,
    hard: Option<String>,
}

pub async fn expire(
    State(wat): Wats,
    visitor: Visitor,
    Named(id): Named<i32>,
    Body(Times { soft, hard }): Body<Times>,
) -> Result<Json<Value>, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let understood = acting.vm_expire(id, soft.as_deref(), hard.as_deref()).await?;
    acting.finish().await?;
    Ok(Json(json!({ "soft": understood.soft, "hard": understood.hard })))
}

pub async fn tag(
    State(wat): Wats,
    visitor: Visitor,
    Named((id, tag)): Named<(i32, String)>,
    give: bool,
) -> Result<StatusCode, Problem> {
    let acting = acting(&wat, &visitor).await?;
    acting.di_mark(id, &tag, give).await?;
    acting.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn retry(State(wat): Wats, visitor: Visitor, Named(id): Named<i32>) -> Result<StatusCode, Problem> {
    let acting = acting(&wat, &visitor).await?;
    acting.di_retry(id).await?;
    acting.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The VMs that are up with another image.
pub async fn affected(State(wat): Wats, visitor: Visitor, Named(id): Named<i32>) -> Result<Json<Value>, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let affected = acting.di_affected(id).await?;
    acting.finish().await?;
    let vm = |AffectedVm { id, name, state, user_state, host, version, expirations: [soft, hard] }| {
        json!({
            "id": id, "vm": name, "state": state, "user_state": user_state, "host": host, "version": version,
            "expiration_soft": soft, "expiration_hard": hard,
        })
    };
    Ok(Json(affected.into_iter().map(vm).collect()))
}

/// Publishes an image and has those VMs expire.
pub async fn rollout(
    State(wat): Wats,
    visitor: Visitor,
    Named(id): Named<i32>,
    Body(Times { soft, hard }): Body<Times>,
) -> Result<StatusCode, Problem> {
    let acting = acting(&wat, &visitor).await?;
    acting.di_rollout(id, soft.as_deref(), hard.as_deref()).await?;
    acting.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn stop(State(wat): Wats, visitor: Visitor, Named(id): Named<i32>) -> Result<StatusCode, Problem> {
    let acting = acting(&wat, &visitor).await?;
    acting.host_stop(id).await?;
    acting.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn release(State(wat): Wats, visitor: Visitor, Named(id): Named<i32>) -> Result<Json<Value>, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let released = acting.host_release(id).await?;
    acting.finish().await?;
    Ok(Json(json!({ "released": released })))
}

/// What one-time passwords are made from, in base32.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    secret: String,
}

pub async fn enrol(
    State(wat): Wats,
    visitor: Visitor,
    Named(id): Named<i32>,
    Body(Secret { secret }): Body<Secret>,
) -> Result<Json<Value>, Problem> {
    totp(&wat, &visitor, id, Some(&secret)).await
}

pub async fn disenrol(State(wat): Wats, visitor: Visitor, Named(id): Named<i32>) -> Result<Json<Value>, Problem> {
    totp(&wat, &visitor, id, None).await
}

async fn totp(wat: &Wat, visitor: &Visitor, id: i32, secret: Option<&str>) -> Result<Json<Value>, Problem> {
    let acting = acting(wat, visitor).await?;
    let TotpSettings { user, had_one, required, digits, interval, t0 } = acting.user_totp(id, secret).await?;
    acting.finish().await?;
    Ok(Json(json!({
        "user": user, "had_one": had_one, "required": required, "digits": digits, "interval": interval, "t0": t0,
    })))
}

/// Has the staging directories listed anew.
pub async fn refresh(State(wat): Wats, visitor: Visitor) -> Result<StatusCode, Problem> {
    let acting = acting(&wat, &visitor).await?;
    acting.staging_refresh().await?;
    acting.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether all were, since then.
pub async fn fresh(State(wat): Wats, visitor: Visitor) -> Result<Json<Value>, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let fresh = acting.staging_is_fresh().await?;
    acting.finish().await?;
    Ok(Json(json!({ "fresh": fresh })))
}
