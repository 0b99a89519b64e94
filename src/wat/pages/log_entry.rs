//! An entry of the log: who did what from where, and for each field what it was and what it became.

use std::{pin::pin, sync::Arc};

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use futures_util::TryStreamExt;
use serde_json::{Map, Value};

use crate::{
    db,
    model::filter::{Comparison, Condition, Filter},
};

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting, log, may_list, show,
};

#[derive(Template)]
#[template(path = "log_entry.html")]
struct EntryPage {
    page: Page,
    facts: Vec<Fact>,
    changes: Vec<Change>,
    /// Entries of the same object.
    others: Option<String>,
}

struct Fact {
    title: String,
    text: String,
    href: Option<String>,
}

/// What became of a field.
#[derive(Debug, PartialEq)]
struct Change {
    field: String,
    old: Option<String>,
    new: Option<String>,
}

const COLUMNS: [&str; 10] =
    ["time", "admin_name", "address", "source", "tenant", "verb", "qvd_object", "object_id", "object_name", "status"];
/// Those that are shown as they are.
const PLAIN: usize = 5;

pub async fn entry(State(wat): State<Arc<Wat>>, visitor: Visitor, Path(id): Path<i64>) -> Response {
    let made = look(&wat, &visitor, id).await;
    show(&visitor, made)
}

async fn look(wat: &Wat, visitor: &Visitor, id: i64) -> Result<EntryPage, Problem> {
    if !may_list(&visitor.who, "log") {
        return Err(Problem::Missing);
    }
    let query = db::Query {
        filter: Filter::Field("id".to_owned(), Condition::Is(Comparison::Equal, id.to_string())),
        columns: COLUMNS.into_iter().chain(["arguments"]).map(str::to_owned).collect(),
        order: Vec::new(),
        limit: Some(1),
        offset: 0,
    };
    let acting = acting(wat, visitor).await?;
    let row = pin!(acting.list("log").await?.rows(&query).await?).try_next().await?.ok_or(Problem::Missing)?;
    acting.finish().await?;
    let text = |at: usize| row.get::<_, Option<&str>>(at).unwrap_or_default().to_owned();
    let (verb, kind, object, name) = (text(PLAIN), text(PLAIN + 1), text(PLAIN + 2), text(PLAIN + 3));
    let plain = COLUMNS[..PLAIN].iter().enumerate().map(|(at, column)| Fact {
        title: match *column {
            "time" => "UTC".to_owned(),
            "admin_name" => visitor.language.field("administrator"),
            column => visitor.language.field(column),
        },
        text: text(at),
        href: None,
    });
    let fact = |field: &str, text: String, href| Fact { title: visitor.language.field(field), text, href };
    let shown = if name.is_empty() { object.clone() } else { name.clone() };
    let about = [
        fact("action", visitor.language.field(&verb), None),
        fact(&kind, shown, log::leads_to(&kind, &verb, &object, &name)),
        fact("outcome", log::outcome(&text(PLAIN + 4), visitor.language), None),
    ];
    let said = serde_json::from_str(&text(COLUMNS.len())).unwrap_or(Value::Null);
    let mut changes = changes(&verb, said);
    for change in &mut changes {
        change.field = visitor.language.field(&change.field);
    }
    let others =
        serde_urlencoded::to_string([("kind", &kind), ("object", if object.is_empty() { &name } else { &object })]);
    Ok(EntryPage {
        page: Page::new(visitor, format!("{} {id}", visitor.language.field("log")), "log"),
        facts: plain.chain(about).filter(|fact| !fact.text.is_empty()).collect(),
        changes,
        others: others.ok().map(|query| format!("/log?{query}")),
    })
}

/// What the log keeps of a change: `old` and `new` fields, or of something new, or of anything else, just fields.
fn changes(verb: &str, said: Value) -> Vec<Change> {
    let Value::Object(mut said) = said else { return Vec::new() };
    let two = !said.is_empty()
        && said.iter().all(|(part, value)| matches!(part.as_str(), "old" | "new") && value.is_object());
    let mut part = |name: &str| match said.remove(name) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (mut old, new) = match (two, verb) {
        (true, _) => (part("old"), part("new")),
        (false, "delete") => (said, Map::new()),
        (false, _) => (Map::new(), said),
    };
    let mut changes: Vec<Change> = new
        .into_iter()
        .map(|(field, new)| Change { old: old.remove(&field).map(readable), new: Some(readable(new)), field })
        .collect();
    changes.extend(old.into_iter().map(|(field, old)| Change { field, old: Some(readable(old)), new: None }));
    changes.sort_by(|a, b| a.field.cmp(&b.field));
    changes
}

fn readable(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            items.into_iter().map(readable).collect::<Vec<_>>().join(", ")
        }
        other => serde_json::to_string_pretty(&other).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(verb: &str, said: Value) -> Vec<(String, Option<String>, Option<String>)> {
        changes(verb, said).into_iter().map(|change| (change.field, change.old, change.new)).collect()
    }

    #[test]
    fn each_field_stands_beside_what_it_was() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            shown(
                "update",
                json!({ "old": { "memory": 512, "gone": "x" }, "new": { "memory": 1024, "tags": ["a", "b"] } })
            ),
            [
                ("gone".to_owned(), text("x"), None),
                ("memory".to_owned(), text("512"), text("1024")),
                ("tags".to_owned(), None, text("a, b")),
            ]
        );
        assert_eq!(shown("create", json!({ "name": "desk" })), [("name".to_owned(), None, text("desk"))]);
        assert_eq!(shown("delete", json!({ "old": { "name": "desk" } })), [("name".to_owned(), text("desk"), None)]);
        // A field may be called so.
        assert_eq!(shown("upload", json!({ "new": "file" })), [("new".to_owned(), None, text("file"))]);
        assert_eq!(shown("login", Value::Null), []);
        let nested = shown("expire", json!({ "at": { "soft": null } }));
        assert_eq!(nested[0].2.as_deref(), Some("{\n  \"soft\": null\n}"));
    }
}
