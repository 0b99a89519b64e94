//! The form that makes a file of the staging directory a version of an OSF, of a new one or one that is there.

use std::{pin::pin, sync::Arc};

use askama::Template;
use axum::{
    Form,
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use futures_util::TryStreamExt;
use serde_json::json;

use crate::{
    db::{self, Acting, NewImage},
    model::filter::Filter,
};

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting,
    form::{Field, FieldKind},
    sentence, show, status,
};

const MOST_OSFS: i64 = 2000;

#[derive(Template)]
#[template(path = "form.html")]
struct ImportPage {
    page: Page,
    problem: Option<String>,
    fields: Vec<Field>,
}

type Pairs = Vec<(String, String)>;

/// What was typed last under a name; a switch comes twice when it is on.
fn typed<'a>(pairs: &'a Pairs, name: &str) -> &'a str {
    pairs.iter().rfind(|(typed, _)| typed == name).map_or("", |(_, value)| value.trim())
}

pub async fn blank(State(wat): State<Arc<Wat>>, visitor: Visitor, Query(mut pairs): Query<Pairs>) -> Response {
    pairs.push(("publish".to_owned(), "true".to_owned()));
    let made = form(&wat, &visitor, &pairs, None).await;
    show(&visitor, made)
}

pub async fn import(State(wat): State<Arc<Wat>>, visitor: Visitor, Form(pairs): Form<Pairs>) -> Response {
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        let osf = match typed(&pairs, "new_osf") {
            "" => typed(&pairs, "osf").to_owned(),
            name => {
                let mut fields = json!({ "name": name });
                let tenant = Some(typed(&pairs, "tenant")).filter(|tenant| !tenant.is_empty());
                if let Some(tenant) = tenant {
                    fields["tenant"] = tenant.into();
                }
                acting.create("osf", &fields).await?;
                tenant.map_or_else(|| name.to_owned(), |tenant| format!("{name}@{tenant}"))
            }
        };
        let optional = |name| Some(typed(&pairs, name)).filter(|typed| !typed.is_empty()).map(str::to_owned);
        let hours = |name| optional(name).map(|hours| format!("{hours} hours"));
        let new = NewImage {
            osf,
            file: typed(&pairs, "file").to_owned(),
            version: optional("version"),
            moves: typed(&pairs, "move") == "true",
            tags: typed(&pairs, "tags").split([',', ' ']).filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
            publish: typed(&pairs, "publish") == "true",
            soft: hours("soft"),
            hard: hours("hard"),
        };
        let id = acting.di_import(&new).await?;
        acting.finish().await?;
        Ok(id)
    };
    match made.await {
        Ok(id) => Redirect::to(&format!("/di/{id}")).into_response(),
        // What was typed is not lost.
        Err(Problem::Refused(error)) => {
            let made = form(&wat, &visitor, &pairs, Some(sentence(&error))).await;
            let found = made.is_ok();
            let page = show(&visitor, made);
            if found { (status(&error), page).into_response() } else { page }
        }
        Err(problem) => show::<ImportPage>(&visitor, Err(problem)),
    }
}

async fn form(wat: &Wat, visitor: &Visitor, pairs: &Pairs, problem: Option<String>) -> Result<ImportPage, Problem> {
    let acting = acting(wat, visitor).await?;
    let mut files: Vec<String> = acting.staged().await?.into_iter().filter_map(|staged| staged.file).collect();
    files.dedup();
    // One that no node has listed yet can be made an image of, too.
    let wanted = typed(pairs, "file");
    if !wanted.is_empty() && !files.iter().any(|file| file == wanted) {
        files.push(wanted.to_owned());
    }
    let osfs = named(&acting, "osf", visitor).await?;
    let above_all = visitor.who.tenant_id == 0;
    let tenants = if above_all { named(&acting, "tenant", visitor).await? } else { Vec::new() };
    acting.finish().await?;
    let files = files.into_iter().map(|file| (file.clone(), file)).collect();
    let t = |english| visitor.language.text(english);
    let fields = [
        ("file", t("File"), FieldKind::Choice(files), true),
        ("osf", t("Version of the OSF"), FieldKind::Choice(osfs), false),
        ("new_osf", t("or of a new OSF with this name"), FieldKind::Text, false),
        ("tenant", t("of the tenant"), FieldKind::Choice(tenants), false),
        ("version", t("Version (of today unless given)"), FieldKind::Text, false),
        ("tags", t("Tags besides head"), FieldKind::Text, false),
        ("move", t("Take the file out of staging"), FieldKind::Switch, false),
        ("publish", t("Publish when it is ready"), FieldKind::Switch, false),
        ("soft", t("Hours until users of other versions are told to log out"), FieldKind::Text, false),
        ("hard", t("Hours until their VMs are stopped"), FieldKind::Text, false),
    ];
    let fields = fields
        .into_iter()
        .filter(|(name, ..)| above_all || *name != "tenant")
        .map(|(name, title, kind, required)| {
            let value = typed(pairs, name).to_owned();
            Field { name, title: title.to_owned(), kind, value, required }
        })
        .collect();
    Ok(ImportPage { page: Page::new(visitor, t("New image"), "di"), problem, fields })
}

/// Objects by the names that functions take; their tenant is shown to those above all.
async fn named(acting: &Acting, kind: &'static str, visitor: &Visitor) -> Result<Vec<(String, String)>, Problem> {
    let with_tenant = kind == "osf";
    let columns = if with_tenant { vec!["name".to_owned(), "tenant".to_owned()] } else { vec!["name".to_owned()] };
    let list = acting.list(kind).await?;
    let query = db::Query {
        filter: Filter::All(Vec::new()),
        columns,
        order: vec![("name".to_owned(), false)],
        limit: Some(MOST_OSFS),
        offset: 0,
    };
    let mut rows = pin!(list.rows(&query).await?);
    let mut found = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let text = |at| row.get::<_, Option<&str>>(at).unwrap_or_default();
        let name = text(0).to_owned();
        let value = if with_tenant { format!("{name}@{}", text(1)) } else { name.clone() };
        let title = if visitor.who.tenant_id == 0 { value.clone() } else { name };
        found.push((value, title));
    }
    Ok(found)
}
