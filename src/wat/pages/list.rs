//! A list of objects: chosen by a filter, ordered, page by page, all of which is in the address.

use std::{pin::pin, sync::Arc};

use askama::Template;
use axum::{
    Json,
    extract::{Path, Query, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;

use crate::{
    admin::{objects::Object, words},
    db::{self, Acting, List, ListError},
    model::filter::Filter,
};

use super::{
    super::{server::Wat, visitor::Visitor},
    Kind, Page, Problem, ProblemPage, acting, address,
    cell::Cell,
    columns::{device, shown},
    kind, leads_to, show,
    verb::{Verb, acl, verbs},
};

/// How many rows are counted beyond those that are shown.
const COUNTED: i64 = 1000;

#[derive(Template)]
#[template(path = "list.html")]
struct ListPage {
    page: Page,
    list: Shown,
}

/// What is shown of a list.
struct Shown {
    kind: &'static str,
    filter: String,
    order: String,
    /// The address of this page.
    here: String,
    /// Where the ids are of all that the filter finds.
    ids: String,
    /// The columns that the address names.
    named: Vec<String>,
    choices: Vec<Choice>,
    columns: Vec<Column>,
    rows: Vec<Row>,
    verbs: Vec<Verb>,
    can_create: bool,
    total: i64,
    /// What is said of it.
    count: String,
    range: String,
    previous: Option<String>,
    next: Option<String>,
    problem: Option<String>,
}

struct Choice {
    name: String,
    title: String,
    shown: bool,
}

struct Column {
    title: String,
    /// The address that orders by it.
    sort: String,
    direction: Option<&'static str>,
}

struct Row {
    id: String,
    name: String,
    cells: Vec<Cell>,
}

/// What the address says.
#[derive(Clone, Default)]
pub(super) struct Wanted {
    pub filter: String,
    pub order: String,
    pub columns: Vec<String>,
    /// The first is 1.
    pub page: i64,
}

impl Wanted {
    pub fn read(pairs: Vec<(String, String)>) -> Self {
        let mut wanted = Self { page: 1, ..Self::default() };
        for (name, value) in pairs {
            match name.as_str() {
                "filter" => wanted.filter = value,
                "order" => wanted.order = value,
                "columns" => wanted.columns.push(value),
                "page" => wanted.page = value.parse().unwrap_or(1).clamp(1, i64::from(i32::MAX)),
                _ => {}
            }
        }
        wanted
    }

    pub fn address(&self, kind: &str) -> String {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        let page = self.page.to_string();
        for (name, value) in [("filter", &self.filter), ("order", &self.order)] {
            if !value.is_empty() {
                pairs.push((name, value));
            }
        }
        pairs.extend(self.columns.iter().map(|column| ("columns", column.as_str())));
        if self.page > 1 {
            pairs.push(("page", &page));
        }
        let query = serde_urlencoded::to_string(pairs).unwrap_or_default();
        if query.is_empty() { format!("/{kind}") } else { format!("/{kind}?{query}") }
    }
}

pub async fn list(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(name): Kind,
    headers: HeaderMap,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let made = async {
        let object = kind(&name)?;
        let acting = acting(&wat, &visitor).await?;
        let list = acting.list(object.name).await?;
        let page = Page::of(&visitor, object.name);
        let wanted = Wanted::read(pairs);
        let columns = columns(&acting, &list, object, &headers, &wanted).await?;
        let list = look(&list, object, &visitor, wanted, columns).await?;
        acting.finish().await?;
        Ok(ListPage { page, list })
    };
    let made = made.await;
    show(&visitor, made)
}

/// The ids of all that the filter finds, to be chosen.
pub async fn ids(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(name): Kind,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let made = async {
        let object = kind(&name)?;
        let filter = words::filter(&Wanted::read(pairs).filter).map_err(|_| Problem::Missing)?;
        let acting = acting(&wat, &visitor).await?;
        let ids = acting.list(object.name).await?.ids(&object.resolve(filter)).await?;
        acting.finish().await?;
        Ok(ids)
    };
    match made.await {
        Ok(ids) => Json(ids).into_response(),
        Err(problem) => show::<ProblemPage>(&visitor, Err(problem)),
    }
}

async fn columns(
    acting: &Acting,
    list: &List<'_>,
    object: &'static Object,
    headers: &HeaderMap,
    wanted: &Wanted,
) -> Result<Vec<String>, Problem> {
    match wanted.columns.is_empty() {
        true => Ok(shown(object, &acting.columns(object.name, device(headers)).await?, list.fields())),
        false => Ok(wanted.columns.clone()),
    }
}

async fn look(
    list: &List<'_>,
    object: &'static Object,
    visitor: &Visitor,
    wanted: Wanted,
    shown: Vec<String>,
) -> Result<Shown, Problem> {
    let known: Vec<&str> = list.columns().collect();
    // Beside what is shown, what leads to it.
    let mut fetched = vec![identity(&known).to_owned()];
    fetched.extend(shown.iter().cloned());
    let links: Vec<Option<usize>> = shown
        .iter()
        .map(|column| {
            let id = leads_to(column).map(|_| format!("{column}_id"))?;
            known.contains(&id.as_str()).then(|| {
                fetched.push(id);
                fetched.len() - 1
            })
        })
        .collect();
    let (filter, problem) = match words::filter(&wanted.filter) {
        Ok(filter) => (object.resolve(filter), None),
        Err(misspelt) => (Filter::Any(Vec::new()), Some(misspelt.to_string())),
    };
    let order = wanted.order.split(',').filter(|part| !part.is_empty()).map(|part| match part.strip_prefix('-') {
        Some(field) => (object.field(field).to_owned(), true),
        None => (object.field(part).to_owned(), false),
    });
    let order: Vec<_> = order.collect();
    let block = visitor.who.block.clamp(1, 1000);
    let query = db::Query {
        filter,
        columns: fetched,
        order: match order.is_empty() {
            // Of what happened the last comes first.
            true => vec![(identity(&known).to_owned(), matches!(object.name, "log" | "session"))],
            false => order.clone(),
        },
        limit: Some(block),
        offset: (wanted.page - 1) * block,
    };
    let (rows, total, problem) = match (rows(list, &query).await, problem) {
        (Ok((rows, total)), problem) => (rows, total, problem),
        // What was typed cannot be a filter: the page says so. Anything else is no page.
        (Err(ListError::Db(error)), _) => return Err(error.into()),
        (Err(error), _) => (Vec::new(), 0, Some(error.to_string())),
    };
    let name_at = shown.iter().position(|column| column == "name" || column == "key").map(|at| at + 1);
    let rows: Vec<Row> =
        rows.into_iter()
            .map(|row| {
                let id = row[0].clone();
                let cells = shown.iter().zip(&links).enumerate().map(|(at, (column, link))| {
                    let href = match link {
                        Some(link) => address(column, &row[*link]),
                        None => (Some(at + 1) == name_at && !object.update.is_empty())
                            .then(|| format!("/{}/{id}", object.name)),
                    };
                    Cell::new(column, &row[at + 1], href, visitor.language)
                });
                Row { cells: cells.collect(), name: name_at.map_or_else(|| id.clone(), |at| row[at].clone()), id }
            })
            .collect();
    let first = query.offset + 1;
    let range = match rows.len() as i64 {
        0 => String::new(),
        many => format!("{first}–{}", first + many - 1),
    };
    let page = |page: i64| Wanted { page, ..wanted.clone() }.address(object.name);
    Ok(Shown {
        kind: object.name,
        here: wanted.address(object.name),
        ids: Wanted { filter: wanted.filter.clone(), ..Wanted::default() }.address(&format!("{}/ids", object.name)),
        named: wanted.columns.clone(),
        choices: list
            .fields()
            .map(|name| Choice {
                name: name.to_owned(),
                title: visitor.language.field(name),
                shown: shown.iter().any(|column| column == name),
            })
            .collect(),
        columns: shown.iter().map(|column| sortable(column, &order, &wanted, object, visitor)).collect(),
        verbs: verbs(object, visitor),
        can_create: !object.create.is_empty() && visitor.who.can(&acl(object, "create")),
        total,
        count: if total > counted(&query) { format!("> {}", total - 1) } else { total.to_string() },
        previous: (wanted.page > 1).then(|| page(wanted.page - 1)),
        next: (query.offset + (rows.len() as i64) < total).then(|| page(wanted.page + 1)),
        range,
        rows,
        problem,
        filter: wanted.filter,
        order: wanted.order,
    })
}

/// What tells the rows of a list apart.
fn identity<'a>(columns: &[&'a str]) -> &'a str {
    match columns.contains(&"id") {
        true => "id",
        false => columns.first().copied().unwrap_or("id"),
    }
}

/// Up to where rows are counted: to count all that a filter finds takes longer than to find those of a page.
fn counted(query: &db::Query) -> i64 {
    query.offset + query.limit.unwrap_or(0) + COUNTED
}

async fn rows(list: &List<'_>, query: &db::Query) -> Result<(Vec<Vec<String>>, i64), ListError> {
    let total = list.count_to(&query.filter, counted(query) + 1).await?;
    let mut found = pin!(list.rows(query).await?);
    let mut rows = Vec::new();
    while let Some(row) = found.try_next().await? {
        let text = |at| row.get::<_, Option<&str>>(at).unwrap_or_default().to_owned();
        rows.push((0..query.columns.len()).map(text).collect());
    }
    Ok((rows, total))
}

fn sortable(column: &str, order: &[(String, bool)], wanted: &Wanted, object: &Object, visitor: &Visitor) -> Column {
    let by = order.first().filter(|(first, _)| first == column).map(|(_, descending)| *descending);
    let order = if by == Some(false) { format!("-{column}") } else { column.to_owned() };
    Column {
        title: visitor.language.field(column),
        sort: Wanted { order, page: 1, ..wanted.clone() }.address(object.name),
        direction: by.map(|descending| if descending { "descending" } else { "ascending" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_keeps_what_was_wanted() {
        let pairs = [("filter", "name~%é&=%"), ("columns", "id"), ("columns", "name"), ("order", "-id"), ("page", "3")];
        let wanted = Wanted::read(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
        let address = wanted.address("vm");
        assert_eq!(address, "/vm?filter=name%7E%25%C3%A9%26%3D%25&order=-id&columns=id&columns=name&page=3");
        let query = address.split_once('?').unwrap().1;
        let again = Wanted::read(serde_urlencoded::from_str(query).unwrap());
        assert_eq!(again.address("vm"), address);
        assert_eq!(Wanted::read(vec![("page".to_owned(), "-7".to_owned())]).address("vm"), "/vm");
    }
}
