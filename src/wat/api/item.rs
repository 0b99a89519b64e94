//! One object: what is known of it, with a tag that says which version that is, and what is done with it.

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;
use serde_json::{Map, Value, json};

use crate::{
    admin::objects::Object,
    db::{self, Acting},
    model::filter::{Comparison, Condition, Filter},
};

use super::{
    super::{pages::acting, server::Wat, visitor::Visitor},
    collection::verb,
    problem::Problem,
    shape::Fields,
    take::{Body, Named},
};

/// What is known of an object, as text.
async fn known(acting: &Acting, object: &Object, id: i64) -> Result<String, Problem> {
    let missing = || Problem::missing(&format!("there is no {} {id}, or it is not yours", object.name));
    let list = acting.list(object.name).await?;
    let columns: Vec<_> = list.columns().map(str::to_owned).collect();
    if !columns.iter().any(|column| column == "id") {
        return Err(missing());
    }
    let filter = Filter::Field("id".to_owned(), Condition::Is(Comparison::Equal, id.to_string()));
    let query = db::Query { filter, columns, order: Vec::new(), limit: Some(1), offset: 0 };
    let row = match list.objects(&query).await {
        // A number beyond those that there are.
        Err(db::ListError::NoValue(_)) => return Err(missing()),
        rows => Box::pin(rows?).try_next().await?,
    };
    Ok(row.ok_or_else(missing)?.get(0))
}

/// Fields that say how old something is: they are other ones each time, and no other version.
const AGES: [&str; 4] = ["last_sign_of_life", "duration", "time_until_expiration_soft", "time_until_expiration_hard"];

/// Names a version of an object.
fn tag(known: &str) -> String {
    let mut lasting: Map<String, Value> = serde_json::from_str(known).unwrap_or_default();
    lasting.retain(|field, _| !AGES.contains(&field.as_str()));
    let hash = digest::digest(&digest::SHA256, Value::Object(lasting).to_string().as_bytes());
    let hex: String = hash.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// Whether a header names this version, or any.
fn names(headers: &HeaderMap, header: HeaderName, tag: &str) -> Option<bool> {
    let said = headers.get(header)?.to_str().unwrap_or_default();
    Some(said.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag || one == "*"))
}

pub async fn look(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Named(id): Named<i64>,
    headers: HeaderMap,
    object: &Object,
) -> Result<Response, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let known = known(&acting, object, id).await?;
    acting.finish().await?;
    let tag = tag(&known);
    let fresh = names(&headers, header::IF_NONE_MATCH, &tag) == Some(true);
    let about = [(header::ETAG, tag), (header::CONTENT_TYPE, "application/json".to_owned())];
    Ok(match fresh {
        true => (StatusCode::NOT_MODIFIED, about).into_response(),
        false => (about, known).into_response(),
    })
}

/// Changes what is said and nothing else, if it is still the version that `If-Match` names.
pub async fn change(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Named(id): Named<i64>,
    headers: HeaderMap,
    Body(changes): Body<Map<String, Value>>,
    object: &'static Object,
) -> Result<Response, Problem> {
    let acting = acting(&wat, &visitor).await?;
    Fields::of_change(&acting, &acting.list(object.name).await?, object).await?.check(&changes)?;
    expect(&acting, object, id, &headers).await?;
    once(&acting, object, "set", id, Value::Object(changes)).await?;
    let known = known(&acting, object, id).await?;
    acting.finish().await?;
    Ok(([(header::ETAG, tag(&known)), (header::CONTENT_TYPE, "application/json".to_owned())], known).into_response())
}

pub async fn delete(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Named(id): Named<i64>,
    headers: HeaderMap,
    object: &Object,
) -> Result<StatusCode, Problem> {
    let acting = acting(&wat, &visitor).await?;
    expect(&acting, object, id, &headers).await?;
    once(&acting, object, "del", id, json!({})).await?;
    acting.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn act(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Named(id): Named<i64>,
    object: &Object,
    word: &str,
) -> Result<StatusCode, Problem> {
    let acting = acting(&wat, &visitor).await?;
    once(&acting, object, word, id, json!({})).await?;
    acting.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whoever means to change the same waits meanwhile, and finds what it has become.
async fn expect(acting: &Acting, object: &Object, id: i64, headers: &HeaderMap) -> Result<(), Problem> {
    if let Ok(id) = i32::try_from(id) {
        acting.hold(object.name, id).await?;
    }
    let known = known(acting, object, id).await?;
    match names(headers, header::IF_MATCH, &tag(&known)) {
        Some(false) => Err(Problem::new(StatusCode::PRECONDITION_FAILED, "it was changed meanwhile; look at it again")),
        _ => Ok(()),
    }
}

/// Does it with one.
async fn once(acting: &Acting, object: &Object, word: &str, id: i64, arguments: Value) -> Result<(), Problem> {
    let word = verb(object, word).map_err(|_| {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("this cannot be done with a {}", object.name))
    })?;
    let missing = || Problem::missing(&format!("there is no {} {id}, or it is not yours", object.name));
    let id = i32::try_from(id).map_err(|_| missing())?;
    let outcome = acting.act(object.name, word, &[id], &arguments).await?.pop().ok_or_else(missing)?;
    outcome.refused.map_or(Ok(()), |why| Err(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_has_another_tag_and_growing_older_makes_none() {
        let host = |state: &str, age: &str| tag(&json!({ "state": state, "last_sign_of_life": age }).to_string());
        assert_eq!(host("running", "00:00:01"), host("running", "00:00:03"));
        assert_ne!(host("running", "00:00:01"), host("stopped", "00:00:01"));
    }
}
