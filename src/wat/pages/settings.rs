//! The settings: a tree by the dots in their keys, for everybody or one tenant. Each is changed in its own small form, and
//! what the database refuses is said there.

use std::sync::Arc;

use askama::Template;
use axum::{
    Form,
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use crate::{
    admin::objects,
    db::{Acting, DbError, Origin, RestartDue, Setting},
};

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting, form, may_list, sentence, show, status,
};

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    page: Page,
    wanted: Wanted,
    /// Id and name of those there are to choose from; none where there is no choice.
    tenants: Vec<(String, String)>,
    nodes: Vec<Node>,
    /// What counts only when programs are started again that run.
    due: Vec<RestartDue>,
    /// A refusal of a key that is not in the tree.
    problem: Option<String>,
}

/// What the address says.
#[derive(Clone, Default, Deserialize)]
pub struct Wanted {
    /// An id; empty: everybody, or one's own.
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    search: String,
    /// Not empty: only what programs read when they start.
    #[serde(default)]
    restart: String,
    /// The key to be shown with what it is in.
    #[serde(default)]
    key: String,
}

#[derive(Deserialize)]
pub struct Change {
    #[serde(flatten)]
    wanted: Wanted,
    #[serde(default)]
    value: String,
    #[serde(default)]
    verb: String,
}

/// The tree, in the order in which it is written.
#[derive(Debug, PartialEq)]
enum Node {
    Open { prefix: String, open: bool },
    Leaf(Shown),
    Close,
}

#[derive(Debug, PartialEq)]
struct Shown {
    key: String,
    value: String,
    default: Option<String>,
    unit: String,
    /// The possible values, if they are few.
    choices: Vec<String>,
    meaning: String,
    needs_restart: bool,
    origin: &'static str,
    /// It has a value of its own here.
    resettable: bool,
    problem: Option<String>,
}

pub async fn settings(State(wat): State<Arc<Wat>>, visitor: Visitor, Query(wanted): Query<Wanted>) -> Response {
    let made = look(&wat, &visitor, wanted, None).await;
    show(&visitor, made)
}

pub async fn set(State(wat): State<Arc<Wat>>, visitor: Visitor, Form(change): Form<Change>) -> Response {
    let wanted = &change.wanted;
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        let tenant = tenant(&tenants(&acting, &visitor).await?, &wanted.tenant)?;
        let tenant = tenant.as_ref().map(|(_, name)| name.as_str());
        match change.verb.as_str() {
            "reset" => acting.config_reset(&wanted.key, tenant).await?,
            _ => acting.config_set(&wanted.key, &change.value, tenant).await?,
        }
        Ok(acting.finish().await?)
    };
    match made.await {
        Ok(()) => {
            let mut pairs = vec![("tenant", &wanted.tenant), ("search", &wanted.search), ("key", &wanted.key)];
            if !wanted.restart.is_empty() {
                pairs.push(("restart", &wanted.restart));
            }
            let query = serde_urlencoded::to_string(pairs).unwrap_or_default();
            let key = serde_urlencoded::to_string([("", &wanted.key)]).unwrap_or_default();
            Redirect::to(&format!("/config?{query}#k-{}", key.trim_start_matches('='))).into_response()
        }
        Err(Problem::Refused(error)) => refused(&wat, &visitor, change, &error).await,
        Err(problem) => show::<SettingsPage>(&visitor, Err(problem)),
    }
}

async fn refused(wat: &Wat, visitor: &Visitor, change: Change, error: &DbError) -> Response {
    let made = look(wat, visitor, change.wanted, Some((change.value, sentence(error)))).await;
    let found = made.is_ok();
    let page = show(visitor, made);
    if found { (status(error), page).into_response() } else { page }
}

/// With what was typed for the key and why it was refused.
async fn look(
    wat: &Wat,
    visitor: &Visitor,
    wanted: Wanted,
    refused: Option<(String, String)>,
) -> Result<SettingsPage, Problem> {
    if !may_list(&visitor.who, "config") {
        return Err(Problem::Missing);
    }
    let acting = acting(wat, visitor).await?;
    let tenants = tenants(&acting, visitor).await?;
    let chosen = tenant(&tenants, &wanted.tenant)?.map(|(id, _)| id);
    let mut settings = acting.settings(chosen).await?;
    let due = acting.restarts_due().await?;
    acting.finish().await?;
    settings.retain(|setting| {
        let wanted_so = wanted.restart.is_empty() || setting.needs_restart;
        wanted_so && found(setting, &wanted.search) || (refused.is_some() && setting.key == wanted.key)
    });
    let here = if chosen.is_some() || visitor.who.tenant_id != 0 { Origin::Tenant } else { Origin::Everybody };
    let mut problem = refused.as_ref().map(|(_, why)| why.clone());
    let shown = settings.into_iter().map(|setting| {
        let mut choices: Vec<String> = match setting.unit.contains('|') {
            true => setting.unit.split('|').map(str::to_owned).collect(),
            false => Vec::new(),
        };
        let refused = refused.as_ref().filter(|_| setting.key == wanted.key);
        if refused.is_some() {
            problem = None;
        }
        let value = refused.map_or(setting.value, |(typed, _)| typed.clone());
        if !choices.is_empty() && !choices.contains(&value) {
            choices.push(value.clone());
        }
        Shown {
            key: setting.key,
            value,
            default: setting.default,
            unit: setting.unit,
            choices,
            meaning: setting.meaning,
            needs_restart: setting.needs_restart,
            origin: match setting.origin {
                Origin::Default => "default",
                Origin::Everybody => "everybody",
                Origin::Tenant => "tenant",
            },
            resettable: setting.origin == here,
            problem: refused.map(|(_, why)| why.clone()),
        }
    });
    let shown: Vec<Shown> = shown.collect();
    let mut nodes = Vec::new();
    let chosen = !wanted.search.is_empty() || !wanted.restart.is_empty();
    let open = |prefix: &str| chosen || wanted.key.starts_with(prefix);
    grow(shown, 1, &open, &mut nodes);
    Ok(SettingsPage { page: Page::of(visitor, "config"), wanted, tenants, nodes, due, problem })
}

fn found(setting: &Setting, search: &str) -> bool {
    let search = search.trim().to_lowercase();
    [&setting.key, &setting.meaning, &setting.value].iter().any(|text| text.to_lowercase().contains(&search))
}

/// Those whose settings this administrator may choose.
async fn tenants(acting: &Acting, visitor: &Visitor) -> Result<Vec<(String, String)>, Problem> {
    if visitor.who.tenant_id != 0 || !may_list(&visitor.who, "tenant") {
        return Ok(Vec::new());
    }
    let all = form::choices(acting, &objects::TENANT).await?;
    Ok(all.into_iter().filter(|(id, _)| id != "0").collect())
}

/// The one that was chosen.
fn tenant(tenants: &[(String, String)], wanted: &str) -> Result<Option<(i32, String)>, Problem> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let (id, name) = tenants.iter().find(|(id, _)| id == wanted).ok_or(Problem::Missing)?;
    let id = id.parse().map_err(|_| Problem::Missing)?;
    Ok(Some((id, name.clone())))
}

/// Keys that begin alike, in as many parts as `depth` says, are a branch; one alone is none.
fn grow(settings: Vec<Shown>, depth: usize, open: &impl Fn(&str) -> bool, nodes: &mut Vec<Node>) {
    let mut rest = settings.into_iter().peekable();
    while let Some(first) = rest.next() {
        let Some(prefix) = prefix(&first.key, depth).map(str::to_owned) else {
            nodes.push(Node::Leaf(first));
            continue;
        };
        let mut branch = vec![first];
        while let Some(next) = rest.next_if(|next| next.key.starts_with(&prefix)) {
            branch.push(next);
        }
        if branch.len() == 1 {
            nodes.extend(branch.into_iter().map(Node::Leaf));
            continue;
        }
        nodes.push(Node::Open { open: open(&prefix), prefix });
        grow(branch, depth + 1, open, nodes);
        nodes.push(Node::Close);
    }
}

/// The first parts of a key, with the dot behind them; none if it has no more than those.
fn prefix(key: &str, depth: usize) -> Option<&str> {
    key.match_indices('.').nth(depth - 1).map(|(at, _)| &key[..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_begin_alike_are_a_branch_and_one_alone_is_none() {
        let keys = ["a.b", "a.b.c", "a.b.d", "a.e.f", "g", "h.i.j"];
        let shown = keys.map(|key| Shown {
            key: key.to_owned(),
            value: String::new(),
            default: None,
            unit: String::new(),
            choices: Vec::new(),
            meaning: String::new(),
            needs_restart: false,
            origin: "default",
            resettable: false,
            problem: None,
        });
        let mut nodes = Vec::new();
        grow(shown.into(), 1, &|prefix| prefix == "a.b.", &mut nodes);
        let tree: Vec<String> = nodes
            .iter()
            .map(|node| match node {
                Node::Open { prefix, open } => format!("{prefix}{}", if *open { "v" } else { ">" }),
                Node::Leaf(leaf) => leaf.key.clone(),
                Node::Close => "/".to_owned(),
            })
            .collect();
        assert_eq!(tree, ["a.>", "a.b", "a.b.v", "a.b.c", "a.b.d", "/", "a.e.f", "/", "g", "h.i.j"]);
    }
}
