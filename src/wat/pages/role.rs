//! What a role comes to: a table of its ACLs, kinds of objects by what is done with them, and the roles it inherits. All
//! of it is saved at once, and only what was ticked or unticked is changed.

use std::{collections::HashSet, sync::Arc};

use askama::Template;
use axum::{
    Form,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde_json::{Value, json};

use crate::{admin::objects, db::RoleAcl};

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting, form, sentence, show, status,
};

/// What is done, and the words for it with which names of ACLs go on after the kind of objects.
const ACTIONS: [(&str, &[&str]); 6] = [
    ("look", &["see-main", "see-details", "see"]),
    ("create", &["create"]),
    ("update", &["update", "manage", "qvd", "wat"]),
    ("delete", &["delete", "purge"]),
    ("count", &["stats"]),
    ("watch", &["spy"]),
];

#[derive(Template)]
#[template(path = "role.html")]
struct RolePage {
    page: Page,
    id: i32,
    /// Nothing of it can be changed by who looks.
    acls_stay: bool,
    roles_stay: bool,
    roles: Vec<String>,
    others: Vec<String>,
    actions: Vec<String>,
    rows: Vec<Row>,
    problem: Option<String>,
}

struct Row {
    title: String,
    /// One for each action.
    cells: Vec<Vec<Right>>,
}

struct Right {
    name: String,
    detail: String,
    effective: bool,
    denied: bool,
    from: String,
}

pub async fn role(State(wat): State<Arc<Wat>>, visitor: Visitor, Path(id): Path<i32>) -> Response {
    let made = look(&wat, &visitor, id, None).await;
    show(&visitor, made)
}

pub async fn change_role(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(id): Path<i32>,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Response {
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        let changes = changes(&acting.role_acls(id).await?, &pairs);
        let outcomes = acting.act("role", "set", &[id], &changes).await?;
        let refused = outcomes.into_iter().find_map(|outcome| outcome.refused);
        if refused.is_none() {
            acting.finish().await?;
        }
        Ok(refused)
    };
    let (status, why) = match made.await {
        Ok(None) => return Redirect::to(&format!("/role/{id}/acls")).into_response(),
        Ok(Some(why)) => (StatusCode::UNPROCESSABLE_ENTITY, why.to_string()),
        Err(Problem::Refused(error)) => (status(&error), sentence(&error)),
        Err(problem) => return show::<RolePage>(&visitor, Err(problem)),
    };
    let made = look(&wat, &visitor, id, Some(why)).await;
    let found = made.is_ok();
    let page = show(&visitor, made);
    if found { (status, page).into_response() } else { page }
}

/// What was ticked and was not before, and the other way round. What is inherited can only be denied.
fn changes(acls: &[RoleAcl], pairs: &[(String, String)]) -> Value {
    let named = |name: &str| -> HashSet<&str> {
        pairs
            .iter()
            .filter(|(typed, value)| typed == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
            .collect()
    };
    let (ticked, was) = (named("acl"), named("had"));
    let (mut set, mut delete, mut deny) = (Vec::new(), Vec::new(), Vec::new());
    for acl in acls {
        let inherited = !acl.from.is_empty();
        match (was.contains(acl.name.as_str()), ticked.contains(acl.name.as_str())) {
            (false, true) if inherited && acl.own == Some(false) => delete.push(&acl.name),
            (false, true) => set.push(&acl.name),
            (true, false) if inherited => deny.push(&acl.name),
            (true, false) => delete.push(&acl.name),
            _ => {}
        }
    }
    let mut changes = serde_json::Map::new();
    if !(set.is_empty() && delete.is_empty() && deny.is_empty()) {
        changes.insert("acls".to_owned(), json!({ "set": set, "delete": delete, "deny": deny }));
    }
    let (kept, inherited) = (named("role"), named("inherited"));
    let (more, less): (Vec<_>, Vec<_>) = (kept.difference(&inherited).collect(), inherited.difference(&kept).collect());
    if !(more.is_empty() && less.is_empty()) {
        changes.insert("roles".to_owned(), json!({ "set": more, "delete": less }));
    }
    Value::Object(changes)
}

async fn look(wat: &Wat, visitor: &Visitor, id: i32, problem: Option<String>) -> Result<RolePage, Problem> {
    let acting = acting(wat, visitor).await?;
    let (name, fixed, roles) = acting.role(id).await?.ok_or(Problem::Missing)?;
    let acls = acting.role_acls(id).await?;
    let all = form::choices(&acting, &objects::ROLE).await?;
    acting.finish().await?;
    let others = all.into_iter().map(|(_, other)| other).filter(|other| *other != name && !roles.contains(other));
    let stays = |acl| fixed || !visitor.who.can(acl);
    Ok(RolePage {
        page: Page::new(visitor, format!("{} {name}", visitor.language.field("role")), "role"),
        id,
        acls_stay: stays("role.update.assign-acl."),
        roles_stay: stays("role.update.assign-role."),
        others: others.collect(),
        roles,
        actions: ACTIONS.iter().map(|(action, _)| visitor.language.field(action)).collect(),
        rows: table(acls, visitor),
        problem,
    })
}

fn table(acls: Vec<RoleAcl>, visitor: &Visitor) -> Vec<Row> {
    let mut rows: Vec<(String, Row)> = Vec::new();
    for acl in acls {
        let Some((kind, rest)) = acl.name.split_once('.') else { continue };
        let detail = rest.trim_end_matches('.').to_owned();
        let word = rest.split('.').next().unwrap_or_default();
        let Some(column) = ACTIONS.iter().position(|(_, words)| words.contains(&word)) else { continue };
        if rows.last().is_none_or(|(last, _)| last != kind) {
            let cells = ACTIONS.iter().map(|_| Vec::new()).collect();
            rows.push((kind.to_owned(), Row { title: visitor.language.field(kind), cells }));
        }
        let right = Right {
            detail,
            effective: acl.effective,
            denied: acl.own == Some(false),
            from: acl.from.join(", "),
            name: acl.name,
        };
        if let Some((_, row)) = rows.last_mut() {
            row.cells[column].push(right);
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}
