//! The log: entries chosen by a form whose fields are in the address, the newest first. What the fields mean together is a
//! filter, the same for the page and for what is exported; which entries there are for somebody is decided by the database.

use std::{pin::pin, sync::Arc};

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    admin::{
        objects,
        words::{self, Misspelt},
    },
    db::{self, List, ListError},
    model::filter::{Comparison, Condition, Filter},
};

use super::{
    super::{server::Wat, text::Language, visitor::Visitor},
    Page, Problem, acting, address,
    image_rollout::moment,
    may_list, show,
};

/// What is done, as the log calls it.
const VERBS: [&str; 25] = [
    "create",
    "update",
    "delete",
    "block",
    "unblock",
    "start",
    "stop",
    "disconnect",
    "expire",
    "publish",
    "retry",
    "fail",
    "upload",
    "download",
    "download-begin",
    "download-fail",
    "login",
    "claim",
    "adopt",
    "release",
    "take over",
    "refuse",
    "join",
    "leave",
    "restored",
];
/// What it is done with.
const KINDS: [&str; 13] = [
    "vm",
    "user",
    "host",
    "osf",
    "di",
    "staging",
    "tenant",
    "administrator",
    "role",
    "property",
    "config",
    "view",
    "database",
];
/// The outcomes.
const OUTCOMES: [&str; 2] = ["success", "refused"];
/// What the log reads of each entry that is shown.
const COLUMNS: [&str; 8] = ["id", "time", "admin_name", "verb", "qvd_object", "object_id", "object_name", "status"];

/// Which entries are wanted, as the address says.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Wanted {
    /// Not before, in UTC unless it says an offset.
    #[serde(skip_serializing_if = "String::is_empty")]
    from: String,
    /// Not after.
    #[serde(skip_serializing_if = "String::is_empty")]
    to: String,
    /// Part of the name of who did it.
    #[serde(skip_serializing_if = "String::is_empty")]
    administrator: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    action: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    /// Part of the name of what it was done with, or its number.
    #[serde(skip_serializing_if = "String::is_empty")]
    object: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    outcome: String,
    /// With what the address begins from which it was done.
    #[serde(skip_serializing_if = "String::is_empty")]
    address: String,
    /// Conditions in the words of lists.
    #[serde(skip_serializing_if = "String::is_empty")]
    filter: String,
    /// Those before the entry with this number.
    #[serde(skip_serializing_if = "String::is_empty")]
    before: String,
}

/// Why it is not known what is wanted.
#[derive(Debug, Error)]
pub enum Misunderstood {
    #[error("This is not a date with a time.")]
    Date(#[from] jiff::Error),
    #[error(transparent)]
    Words(#[from] Misspelt),
}

impl Wanted {
    /// What the fields mean together, but for where the page begins.
    ///
    /// # Errors
    /// A field cannot be understood.
    pub fn filter(&self) -> Result<Filter, Misunderstood> {
        let mut parts = vec![objects::LOG.resolve(words::filter(&self.filter)?)];
        for (typed, comparison) in [(&self.from, Comparison::AtLeast), (&self.to, Comparison::AtMost)] {
            parts.extend(moment(typed.trim())?.map(|moment| is("time", comparison, moment)));
        }
        for (field, typed) in [("verb", &self.action), ("qvd_object", &self.kind)] {
            parts.extend(said(typed).map(|value| is(field, Comparison::Equal, value.to_owned())));
        }
        parts.extend(
            said(&self.administrator).map(|name| is("admin_name", Comparison::Like, format!("%{}%", plain(name)))),
        );
        parts.extend(said(&self.address).map(|begin| is("address", Comparison::Like, format!("{}%", plain(begin)))));
        parts.extend(said(&self.object).map(|object| {
            let name = is("object_name", Comparison::Like, format!("%{}%", plain(object)));
            match object.parse::<i32>() {
                Ok(id) => Filter::Any(vec![is("object_id", Comparison::Equal, id.to_string()), name]),
                Err(_) => name,
            }
        }));
        let done = is("status", Comparison::Equal, "0".to_owned());
        match self.outcome.as_str() {
            "success" => parts.push(done),
            "" => {}
            _ => parts.push(Filter::Not(Box::new(done))),
        }
        Ok(Filter::All(parts))
    }

    /// The address below which the same entries are found.
    fn address(&self, path: &str) -> String {
        match serde_urlencoded::to_string(self) {
            Ok(query) if !query.is_empty() => format!("{path}?{query}"),
            _ => path.to_owned(),
        }
    }
}

fn said(typed: &str) -> Option<&str> {
    Some(typed.trim()).filter(|typed| !typed.is_empty())
}

fn is(field: &str, comparison: Comparison, value: String) -> Filter {
    Filter::Field(field.to_owned(), Condition::Is(comparison, value))
}

/// A pattern that means these characters and nothing else.
fn plain(text: &str) -> String {
    text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_")
}

#[derive(Template)]
#[template(path = "log.html")]
struct LogPage {
    page: Page,
    wanted: Wanted,
    /// Whether who looks is told who did something, and from where.
    sees_who: bool,
    sees_address: bool,
    verbs: Vec<Choice>,
    kinds: Vec<Choice>,
    outcomes: Vec<Choice>,
    /// The address of this page.
    here: String,
    /// What comes is shown as it comes: not on older pages.
    live: bool,
    csv: String,
    json: String,
    newest: Option<String>,
    older: Option<String>,
    rows: Vec<Row>,
    problem: Option<String>,
}

struct Choice {
    value: &'static str,
    title: String,
    chosen: bool,
}

struct Row {
    id: String,
    time: String,
    who: String,
    verb: String,
    kind: String,
    object: String,
    href: Option<String>,
    refused: bool,
    address: String,
}

pub async fn log(State(wat): State<Arc<Wat>>, visitor: Visitor, Query(wanted): Query<Wanted>) -> Response {
    let made = look(&wat, &visitor, wanted).await;
    show(&visitor, made)
}

async fn look(wat: &Wat, visitor: &Visitor, wanted: Wanted) -> Result<LogPage, Problem> {
    if !may_list(&visitor.who, "log") {
        return Err(Problem::Missing);
    }
    let block = visitor.who.block.clamp(1, 1000);
    let (mut rows, problem) = match wanted.filter() {
        Ok(filter) => {
            let acting = acting(wat, visitor).await?;
            let found = rows(&acting.list("log").await?, filter, &wanted.before, block + 1, visitor).await;
            let found = match found {
                Ok(rows) => (rows, None),
                Err(ListError::Db(error)) => return Err(error.into()),
                // What was typed can be no value of the field.
                Err(error) => (Vec::new(), Some(error.to_string())),
            };
            acting.finish().await?;
            found
        }
        Err(error) => (Vec::new(), Some(visitor.language.text(&error.to_string()).to_owned())),
    };
    let more = rows.len() as i64 > block;
    rows.truncate(block as usize);
    let from = |before: String| Wanted { before, ..wanted.clone() }.address("/log");
    let choices = |known: &[&'static str], chosen: &str| {
        let choice =
            |&value: &&'static str| Choice { value, title: visitor.language.field(value), chosen: value == chosen };
        known.iter().map(choice).collect()
    };
    let export = Wanted { before: String::new(), ..wanted.clone() };
    Ok(LogPage {
        page: Page::of(visitor, "log"),
        sees_who: visitor.who.can("log.see.administrator."),
        sees_address: visitor.who.can("log.see.address."),
        verbs: choices(&VERBS, &wanted.action),
        kinds: choices(&KINDS, &wanted.kind),
        outcomes: choices(&OUTCOMES, &wanted.outcome),
        here: wanted.address("/log"),
        live: wanted.before.is_empty() && wanted.to.is_empty() && problem.is_none(),
        csv: export.address("/log/export.csv"),
        json: export.address("/log/export.json"),
        newest: (!wanted.before.is_empty()).then(|| from(String::new())),
        older: rows.last().filter(|_| more).map(|last| from(last.id.clone())),
        rows,
        problem,
        wanted,
    })
}

async fn rows(
    list: &List<'_>,
    filter: Filter,
    before: &str,
    limit: i64,
    visitor: &Visitor,
) -> Result<Vec<Row>, ListError> {
    let older = said(before).map(|id| is("id", Comparison::Less, id.to_owned()));
    let mut columns: Vec<String> = COLUMNS.map(str::to_owned).into();
    columns.push("address".to_owned());
    let query = db::Query {
        filter: Filter::All([Some(filter), older].into_iter().flatten().collect()),
        columns,
        order: vec![("id".to_owned(), true)],
        limit: Some(limit),
        offset: 0,
    };
    let mut found = pin!(list.rows(&query).await?);
    let mut rows = Vec::new();
    while let Some(row) = found.try_next().await? {
        let text = |at: usize| row.get::<_, Option<&str>>(at).unwrap_or_default().to_owned();
        let (verb, kind, id, object) = (text(3), text(4), text(5), text(6));
        rows.push(Row {
            id: text(0),
            time: text(1),
            who: text(2),
            href: leads_to(&kind, &verb, &id, &object),
            verb: visitor.language.field(&verb),
            kind: visitor.language.field(&kind),
            object: if object.is_empty() { id } else { object },
            refused: text(7) != "0",
            address: text(8),
        });
    }
    Ok(rows)
}

/// The page of what an entry is about, if it may still be there.
pub fn leads_to(kind: &str, verb: &str, id: &str, name: &str) -> Option<String> {
    match kind {
        "config" => {
            let query = serde_urlencoded::to_string([("key", name)]).ok()?;
            Some(format!("/config?{query}"))
        }
        _ if verb == "delete" => None,
        _ => address(kind, id),
    }
}

/// Whether it was done, in words.
pub fn outcome(status: &str, language: Language) -> String {
    language.field(if status == "0" { OUTCOMES[0] } else { OUTCOMES[1] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(query: &str) -> Wanted {
        serde_urlencoded::from_str(query).unwrap()
    }

    #[test]
    fn the_address_keeps_what_was_wanted() {
        let query = "from=2026-11-27T03%3A00&administrator=%C3%A9&object=a%26b&outcome=refused&before=7";
        assert_eq!(wanted(query).address("/log"), format!("/log?{query}"));
        assert_eq!(wanted("from=&columns=id").address("/log"), "/log");
    }

    #[test]
    fn each_field_is_a_condition_and_what_is_typed_is_no_pattern() {
        let of = |query: &str| match wanted(query).filter().unwrap() {
            Filter::All(parts) => parts.into_iter().filter(|part| !part.is_everything()).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert!(of("").is_empty());
        assert_eq!(of("from=2026-11-27T03:00"), [is("time", Comparison::AtLeast, "2026-11-27T03:00:00Z".to_owned())]);
        assert_eq!(of("administrator=50%25_"), [is("admin_name", Comparison::Like, r"%50\%\_%".to_owned())]);
        assert_eq!(of("address=192.168."), [is("address", Comparison::Like, "192.168.%".to_owned())]);
        let (id, name) = (
            is("object_id", Comparison::Equal, "17".to_owned()),
            is("object_name", Comparison::Like, "%17%".to_owned()),
        );
        assert_eq!(of("object=17"), [Filter::Any(vec![id, name])]);
        let done = is("status", Comparison::Equal, "0".to_owned());
        assert_eq!(of("outcome=refused"), [Filter::Not(Box::new(done))]);
        assert_eq!(of("filter=action%3Dexec"), [is("type_of_action", Comparison::Equal, "exec".to_owned())]);
        assert!(wanted("to=soon").filter().is_err() && wanted("filter=(((").filter().is_err());
    }

    #[test]
    fn every_action_and_kind_has_a_spanish_name() {
        let known: Vec<_> = include_str!("../spanish.txt")
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .map(|(word, _)| word)
            .collect();
        let missing: Vec<_> =
            VERBS.iter().chain(&KINDS).chain(&OUTCOMES).filter(|word| !known.contains(word)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
