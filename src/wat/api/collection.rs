//! Objects of a kind: lists in pages, new ones, and what is done with many.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::TryStreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    admin::{objects::Object, words},
    db::{self, List, Outcome},
    model::filter::{Comparison, Condition, Filter},
};

use super::{
    super::{pages::acting, server::Wat, visitor::Visitor},
    problem::Problem,
    shape::Fields,
    take::{Asked, Body},
};

/// Rows of a page unless something else is wanted, and at most.
pub const LIMIT: i64 = 100;
pub const MOST: i64 = 1000;

/// What a list is asked for.
#[derive(Deserialize)]
pub struct Wanted {
    #[serde(default)]
    filter: String,
    #[serde(default)]
    order: String,
    #[serde(default)]
    columns: String,
    limit: Option<i64>,
    cursor: Option<String>,
    /// Values as people read them, each a text.
    #[serde(default)]
    text: bool,
    /// Say how many there are on all pages.
    #[serde(default)]
    count: bool,
}

/// What is to be done, and with which.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    verb: String,
    #[serde(default)]
    ids: Vec<i32>,
    filter: Option<String>,
    #[serde(default)]
    arguments: Map<String, Value>,
}

/// Where the next page begins.
#[derive(Debug, PartialEq, Eq)]
enum Cursor {
    /// Behind the row with this id: whatever comes and goes before it changes nothing.
    After(i64),
    /// Behind so many rows.
    Skip(i64),
}

impl Cursor {
    fn text(&self) -> String {
        let text = match self {
            Self::After(id) => format!("a{id}"),
            Self::Skip(rows) => format!("s{rows}"),
        };
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    fn read(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let text = std::str::from_utf8(&bytes).ok()?;
        let number = text.get(1..)?.parse().ok().filter(|number| *number >= 0)?;
        match text.get(..1)? {
            "a" => Some(Self::After(number)),
            "s" => Some(Self::Skip(number)),
            _ => None,
        }
    }
}

pub async fn list(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Asked(wanted): Asked<Wanted>,
    object: &Object,
) -> Result<Json<Value>, Problem> {
    let acting = acting(&wat, &visitor).await?;
    let list = acting.list(object.name).await?;
    let page = page(&list, object, &wanted).await?;
    acting.finish().await?;
    Ok(Json(page))
}

async fn page(list: &List<'_>, object: &Object, wanted: &Wanted) -> Result<Value, Problem> {
    let wrong = |what: &str| Problem::new(StatusCode::BAD_REQUEST, what);
    let has_ids = list.columns().any(|column| column == "id");
    let limit = wanted.limit.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(wrong("limit is a number from 1 to 1000"));
    }
    let mut columns: Vec<String> = match wanted.columns.as_str() {
        "" => list.columns().map(str::to_owned).collect(),
        columns => columns.split(',').map(|column| object.field(column.trim()).to_owned()).collect(),
    };
    let shows_ids = columns.iter().any(|column| column == "id");
    if has_ids && !shows_ids {
        columns.push("id".to_owned());
    }
    let order: Vec<_> = wanted
        .order
        .split(',')
        .filter(|field| !field.is_empty())
        .map(|field| match field.strip_prefix('-') {
            Some(field) => (object.field(field).to_owned(), true),
            None => (object.field(field).to_owned(), false),
        })
        .collect();
    let by_id = has_ids && (order.is_empty() || order == [("id".to_owned(), false)]);
    let mut filter = chosen(object, &wanted.filter)?;
    let count = if wanted.count { Some(list.count(&filter).await?) } else { None };
    let mut offset = 0;
    let cursor = wanted.cursor.as_deref().map(|text| Cursor::read(text).ok_or(wrong("this is no cursor of ours")));
    match cursor.transpose()? {
        Some(Cursor::After(id)) if by_id => {
            let behind = Filter::Field("id".to_owned(), Condition::Is(Comparison::Greater, id.to_string()));
            filter = Filter::All(vec![filter, behind]);
        }
        Some(Cursor::Skip(rows)) if !by_id => offset = rows,
        Some(_) => return Err(wrong("this cursor is of a list in another order")),
        None => {}
    }
    let order = match by_id {
        true => vec![("id".to_owned(), false)],
        // Without an order a page would have any rows.
        false if order.is_empty() => columns.first().map(|first| (first.clone(), false)).into_iter().collect(),
        false => order,
    };
    let query = db::Query { filter, columns, order, limit: Some(limit + 1), offset };
    let mut items = if wanted.text { texts(list, &query).await? } else { objects(list, &query).await? };
    let next = (items.len() as i64 > limit).then(|| {
        items.truncate(limit as usize);
        let last = items.last().map(|last| &last["id"]);
        match last.and_then(|id| id.as_i64().or_else(|| id.as_str()?.parse().ok())).filter(|_| by_id) {
            Some(id) => Cursor::After(id).text(),
            None => Cursor::Skip(offset + limit).text(),
        }
    });
    if has_ids && !shows_ids {
        items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| drop(item.shift_remove("id")));
    }
    let mut page = json!({ "items": items, "next": next });
    if let Some(count) = count {
        page["count"] = count.into();
    }
    Ok(page)
}

async fn objects(list: &List<'_>, query: &db::Query) -> Result<Vec<Value>, Problem> {
    let rows: Vec<_> = list.objects(query).await?.try_collect().await?;
    let items = rows.iter().map(|row| serde_json::from_str(row.get(0))).collect::<Result<_, _>>();
    Ok(items.map_err(|error| db::DbError::Shape(error.to_string()))?)
}

async fn texts(list: &List<'_>, query: &db::Query) -> Result<Vec<Value>, Problem> {
    let rows: Vec<_> = list.rows(query).await?.try_collect().await?;
    let item = |row: &tokio_postgres::Row| {
        let cell = |(at, name): (usize, &String)| (name.clone(), row.get::<_, Option<String>>(at).into());
        query.columns.iter().enumerate().map(cell).collect::<Map<_, _>>().into()
    };
    Ok(rows.iter().map(item).collect())
}

/// Which are meant.
pub fn chosen(object: &Object, filter: &str) -> Result<Filter, Problem> {
    let filter = words::filter(filter).map_err(|wrong| Problem::new(StatusCode::BAD_REQUEST, wrong.to_string()))?;
    Ok(object.resolve(filter))
}

pub async fn create(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Body(fields): Body<Map<String, Value>>,
    object: &'static Object,
) -> Result<Response, Problem> {
    let acting = acting(&wat, &visitor).await?;
    Fields::of_new(&acting, &acting.list(object.name).await?, object).await?.check(&fields)?;
    let id = acting.create(object.name, &Value::Object(fields)).await?;
    acting.finish().await?;
    let place = [(header::LOCATION, format!("/api/v1/{}/{id}", object.name))];
    Ok((StatusCode::CREATED, place, Json(json!({ "id": id }))).into_response())
}

/// Does it with each, and says of each what became of it.
pub async fn act(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Body(action): Body<Action>,
    object: &'static Object,
) -> Result<Json<Value>, Problem> {
    let verb = verb(object, &action.verb)?;
    let acting = acting(&wat, &visitor).await?;
    if verb == "set" {
        Fields::of_change(&acting, &acting.list(object.name).await?, object).await?.check(&action.arguments)?;
    }
    let ids = match (&action.filter, action.ids.as_slice()) {
        (Some(filter), []) => acting.list(object.name).await?.ids(&chosen(object, filter)?).await?,
        (None, ids) => ids.to_vec(),
        (Some(_), _) => {
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "it takes ids or a filter, not both"));
        }
    };
    let outcomes = acting.act(object.name, verb, &ids, &Value::Object(action.arguments)).await?;
    acting.finish().await?;
    let result = |Outcome { id, name, refused }| json!({ "id": id, "name": name, "problem": refused.map(|why| Problem::from(why).json()) });
    Ok(Json(json!({ "results": outcomes.into_iter().map(result).collect::<Vec<_>>() })))
}

/// What can be done with objects of a kind by its word, changes and deletion among it.
pub fn verb<'a>(object: &'a Object, word: &str) -> Result<&'a str, Problem> {
    let found = verbs(object).find(|known| *known == word);
    found.ok_or_else(|| Problem::missing(&format!("nothing is known of {word} for {}", object.name)))
}

/// All of that.
pub fn verbs(object: &Object) -> impl Iterator<Item = &str> {
    let more = [("set", !object.update.is_empty()), ("del", !object.create.is_empty())];
    object.verbs.iter().copied().chain(more.into_iter().filter(|(_, can)| *can).map(|(verb, _)| verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_were_written_and_nothing_else_is() {
        for cursor in [Cursor::After(0), Cursor::After(i64::MAX), Cursor::Skip(200)] {
            assert_eq!(Cursor::read(&cursor.text()), Some(cursor));
        }
        for text in ["", "a", "YQ", "YS0x", "eDE", "%%", "YTF4"] {
            assert_eq!(Cursor::read(text), None, "{text}");
        }
    }
}
