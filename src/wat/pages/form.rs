//! Forms: for new objects, and their fields for those that are changed.

use std::{pin::pin, sync::Arc};

use askama::Template;
use axum::{
    Form,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use futures_util::TryStreamExt;
use serde_json::{Map, Value};

use crate::{
    admin::objects::Object,
    db::{self, Acting},
    model::filter::Filter,
};

use super::{
    super::{server::Wat, visitor::Visitor},
    Kind, Page, Problem, acting, kind, sentence, show, status,
};

/// More to choose from than anybody looks through.
const MOST_CHOICES: i64 = 2000;

/// What something is typed into.
pub struct Field {
    pub name: &'static str,
    pub title: String,
    pub kind: FieldKind,
    pub value: String,
    pub required: bool,
}

pub enum FieldKind {
    Text,
    Long,
    Secret,
    Switch,
    /// One of these: value and title.
    Choice(Vec<(String, String)>),
}

#[derive(Template)]
#[template(path = "form.html")]
struct FormPage {
    page: Page,
    problem: Option<String>,
    fields: Vec<Field>,
}

/// A kind of objects that are made by filling in a form.
fn made_here(name: &str) -> Result<&'static Object, Problem> {
    kind(name).and_then(|object| if object.create.is_empty() { Err(Problem::Missing) } else { Ok(object) })
}

pub async fn blank(State(wat): State<Arc<Wat>>, visitor: Visitor, Path(name): Kind) -> Response {
    let made = form(&wat, &visitor, &name, &[], None).await;
    show(&visitor, made)
}

pub async fn create(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(name): Kind,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Response {
    let made = async {
        let object = made_here(&name)?;
        let acting = acting(&wat, &visitor).await?;
        let names = object.create.iter().map(|(name, _)| *name);
        let id = acting.create(object.name, &typed(names, &pairs)).await?;
        acting.finish().await?;
        Ok(id)
    };
    match made.await {
        Ok(id) => Redirect::to(&format!("/{name}/{id}")).into_response(),
        // What was typed is not lost.
        Err(Problem::Refused(error)) => {
            let made = form(&wat, &visitor, &name, &pairs, Some(sentence(&error))).await;
            let refused = made.is_ok().then(|| status(&error));
            let page = show(&visitor, made);
            match refused {
                Some(status) => (status, page).into_response(),
                None => page,
            }
        }
        Err(problem) => show::<FormPage>(&visitor, Err(problem)),
    }
}

async fn form(
    wat: &Wat,
    visitor: &Visitor,
    name: &str,
    typed: &[(String, String)],
    problem: Option<String>,
) -> Result<FormPage, Problem> {
    let object = made_here(name)?;
    let acting = acting(wat, visitor).await?;
    let mut fields = Vec::new();
    for (name, required) in object.create {
        // Only those above all tenants choose one.
        if *name == "tenant_id" && visitor.who.tenant_id != 0 {
            continue;
        }
        let value = typed.iter().rfind(|(typed, _)| typed == name).map_or(String::new(), |(_, value)| value.clone());
        fields.push(field(&acting, visitor, object, name, value, *required).await?);
    }
    acting.finish().await?;
    let title = format!("{}: {}", visitor.language.text("New"), visitor.language.text(object.name));
    Ok(FormPage { page: Page::new(visitor, title, object.name), problem, fields })
}

/// A field, and what there is to choose from.
pub async fn field(
    acting: &Acting,
    visitor: &Visitor,
    object: &Object,
    name: &'static str,
    value: String,
    required: bool,
) -> Result<Field, Problem> {
    let kind = match name {
        "blocked" | "frontend" | "backend" | "overlay" => FieldKind::Switch,
        "password" => FieldKind::Secret,
        "description" => FieldKind::Long,
        "language" => {
            let mut languages = vec![("auto", "as the browser says"), ("en", "English"), ("es", "Español")];
            if object.name != "tenant" {
                languages.insert(0, ("default", "as the tenant has it"));
            }
            let title = |(code, name): (&str, &str)| (code.to_owned(), visitor.language.text(name).to_owned());
            FieldKind::Choice(languages.into_iter().map(title).collect())
        }
        name => match name.strip_suffix("_id").and_then(Object::called) {
            Some(object) => FieldKind::Choice(choices(acting, object).await?),
            None => FieldKind::Text,
        },
    };
    Ok(Field { name, title: visitor.language.field(name.trim_end_matches("_id")), kind, value, required })
}

/// Id and name of all of a kind.
pub async fn choices(acting: &Acting, object: &Object) -> Result<Vec<(String, String)>, Problem> {
    let list = acting.list(object.name).await?;
    let query = db::Query {
        filter: Filter::All(Vec::new()),
        columns: vec!["id".to_owned(), "name".to_owned()],
        order: vec![("name".to_owned(), false)],
        limit: Some(MOST_CHOICES),
        offset: 0,
    };
    let mut rows = pin!(list.rows(&query).await?);
    let mut choices = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let text = |at| row.get::<_, Option<&str>>(at).unwrap_or_default().to_owned();
        choices.push((text(0), text(1)));
    }
    Ok(choices)
}

/// What was typed, as far as there are such fields. What stays empty is left as it would be without.
pub fn typed(names: impl Iterator<Item = &'static str>, pairs: &[(String, String)]) -> Value {
    let mut fields = Map::new();
    for name in names {
        // A switch comes twice when it is on.
        if let Some((_, value)) = pairs.iter().rfind(|(typed, value)| typed == name && !value.is_empty()) {
            fields.insert(name.to_owned(), Value::String(value.clone()));
        }
    }
    Value::Object(fields)
}
