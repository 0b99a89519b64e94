//! An object: what is known of it, what can be done with it and changed.

use std::{pin::pin, sync::Arc};

use askama::Template;
use axum::{
    Form,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use futures_util::TryStreamExt;
use serde_json::{Map, Value};

use crate::{
    admin::objects::Object,
    db::{self, Acting},
    model::filter::{Comparison, Condition, Filter},
};

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting, address,
    cell::Cell,
    form::{Field, FieldKind, field},
    image, kind, looking, sentence, show, status,
    verb::{Verb, verbs},
    vm::{self, Vm},
};

#[derive(Template)]
#[template(path = "object.html")]
struct ObjectPage {
    page: Page,
    object: Shown,
}

struct Shown {
    kind: &'static str,
    id: i32,
    facts: Vec<Fact>,
    vm: Option<Vm>,
    verbs: Vec<Verb>,
    images: Option<image::Section>,
    fields: Vec<Field>,
    problem: Option<String>,
}

struct Fact {
    title: String,
    cell: Cell,
}

/// What is known of an object.
pub struct Known {
    columns: Vec<String>,
    values: Vec<Option<String>>,
}

impl Known {
    pub async fn of(acting: &Acting, object: &Object, id: i32) -> Result<Self, Problem> {
        let list = acting.list(object.name).await?;
        let columns: Vec<String> = list.columns().map(str::to_owned).collect();
        if !columns.iter().any(|column| column == "id") {
            return Err(Problem::Missing);
        }
        let query = db::Query {
            filter: Filter::Field("id".to_owned(), Condition::Is(Comparison::Equal, id.to_string())),
            columns: columns.clone(),
            order: Vec::new(),
            limit: Some(1),
            offset: 0,
        };
        let row = pin!(list.rows(&query).await?).try_next().await?.ok_or(Problem::Missing)?;
        let values = (0..columns.len()).map(|at| row.get::<_, Option<&str>>(at).map(str::to_owned)).collect();
        Ok(Self { columns, values })
    }

    pub fn value(&self, column: &str) -> Option<String> {
        let at = self.columns.iter().position(|known| known == column)?;
        self.values[at].clone()
    }
}

/// Older words for fields, and the newer ones.
const OLDER: [(&str, &str); 3] = [("tag", "di_tag"), ("osf_name", "osf"), ("path", "name")];

/// What is shown of an object, in this order: of what a name leads to no number, and nothing twice.
fn shown<'a>(kind: &str, columns: &'a [String]) -> Vec<&'a str> {
    let has = |column: &str| columns.iter().any(|known| known == column);
    let (first, hidden) = if kind == "vm" { (vm::FIRST, vm::HIDDEN) } else { (&[][..], &[][..]) };
    let rest = columns.iter().map(String::as_str).filter(|column| {
        let named = column.contains("_id") && has(&column.replacen("_id", "", 1));
        let older = OLDER.iter().any(|(older, newer)| column == older && has(newer));
        !named && !older && !first.contains(column) && !hidden.contains(column)
    });
    // As they are in `columns`, which the row lives with.
    let first = first.iter().filter_map(|wanted| columns.iter().find(|column| column == wanted));
    first.map(String::as_str).chain(rest).collect()
}

type One = Path<(String, i32)>;

pub async fn object(State(wat): State<Arc<Wat>>, visitor: Visitor, Path((name, id)): One) -> Response {
    let made = look(&wat, &visitor, &name, id, None).await;
    show(&visitor, made)
}

pub async fn change(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path((name, id)): One,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Response {
    let made = async {
        let object = kind(&name)?;
        let acting = acting(&wat, &visitor).await?;
        let known = Known::of(&acting, object, id).await?;
        let mut changes = Map::new();
        for name in object.update {
            // What is as it was is not changed: that might take a right, and would be in the log.
            match pairs.iter().rfind(|(typed, _)| typed == name) {
                Some((_, value)) if *value != known.value(name).unwrap_or_default() => {
                    changes.insert((*name).to_owned(), Value::String(value.clone()));
                }
                _ => {}
            }
        }
        if changes.is_empty() {
            acting.finish().await?;
            return Ok(None);
        }
        let outcomes = acting.act(object.name, "set", &[id], &Value::Object(changes)).await?;
        let refused = outcomes.into_iter().find_map(|outcome| outcome.refused);
        if refused.is_none() {
            acting.finish().await?;
        }
        Ok(refused)
    };
    let refused = match made.await {
        Ok(None) => return Redirect::to(&format!("/{name}/{id}")).into_response(),
        Ok(Some(why)) => (StatusCode::UNPROCESSABLE_ENTITY, why.to_string()),
        Err(Problem::Refused(error)) => (status(&error), sentence(&error)),
        Err(problem) => return show::<ObjectPage>(&visitor, Err(problem)),
    };
    let made = look(&wat, &visitor, &name, id, Some((refused.1, &pairs))).await;
    let found = made.is_ok();
    let page = show(&visitor, made);
    if found { (refused.0, page).into_response() } else { page }
}

/// With what was typed and refused, and why.
async fn look(
    wat: &Wat,
    visitor: &Visitor,
    name: &str,
    id: i32,
    refused: Option<(String, &[(String, String)])>,
) -> Result<ObjectPage, Problem> {
    let object = kind(name)?;
    let acting = looking(wat, visitor).await?;
    let known = Known::of(&acting, object, id).await?;
    let value = |column: &str| known.value(column);
    let mut facts = Vec::new();
    for column in shown(object.name, &known.columns) {
        let Some(text) = value(column).filter(|text| !text.is_empty() && text != "{}") else { continue };
        let number = match column.strip_suffix("_in_use") {
            Some(column) => value(&format!("{column}_id_in_use")),
            None => value(&format!("{column}_id")),
        };
        let href = number.and_then(|id| address(column, &id));
        facts.push(Fact {
            title: visitor.language.field(column),
            cell: Cell::new(column, &text, href, visitor.language),
        });
    }
    let mut fields = Vec::new();
    for name in object.update {
        let typed = refused.as_ref().and_then(|(_, pairs)| pairs.iter().rfind(|(typed, _)| typed == name));
        let shown = typed.map(|(_, value)| value.clone()).or_else(|| value(name)).unwrap_or_default();
        fields.push(field(&acting, visitor, object, name, shown, false).await?);
    }
    let called = value("name").unwrap_or_default();
    let images = match object.name {
        "di" => image::of_image(&acting, visitor, id).await?,
        "osf" => image::of_osf(&acting, visitor, id, &called, &value("tenant").unwrap_or_default()).await?,
        _ => None,
    };
    let mut verbs = verbs(object, visitor);
    // Of one image that is a page, which says whom it concerns.
    verbs.retain(|verb| verb.name != "publish");
    let mut vm = None;
    if object.name == "vm" {
        let possible = acting.vm_verbs(id).await?;
        verbs.retain(|verb| possible.iter().any(|name| name == verb.name));
        vm = Some(Vm::of(&acting, visitor, id, value("state").as_deref()).await?);
    }
    acting.finish().await?;
    let called = value("name").or_else(|| value("key")).unwrap_or_else(|| id.to_string());
    let title = match value("vm").filter(|_| object.name == "vm") {
        Some(full_name) => full_name,
        None => format!("{} {called}", visitor.language.field(object.name)),
    };
    Ok(ObjectPage {
        page: Page::new(visitor, title, object.name),
        object: Shown {
            kind: object.name,
            id,
            facts,
            vm,
            verbs,
            images,
            fields,
            problem: refused.map(|(problem, _)| problem),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_name_is_shown_by_it_and_a_vm_begins_with_its_state() {
        let columns = |names: &str| names.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let of_vm = columns("id name tag di_tag state host_id host di_id_in_use di_in_use user_id");
        assert_eq!(shown("vm", &of_vm), ["state", "host", "di_in_use", "id", "di_tag", "user_id"]);
        assert_eq!(shown("user", &columns("id name tenant_id tenant")), ["id", "name", "tenant"]);
    }
}
