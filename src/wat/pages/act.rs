//! What a button does: with those that were ticked, or with all that the filter finds. The outcome is told for each.

use std::sync::Arc;

use askama::Template;
use axum::{
    Form,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use serde_json::json;

use crate::{admin::words, db::Outcome};

use super::{
    super::{server::Wat, visitor::Visitor},
    Kind, Page, Problem, acting, kind, show,
};

#[derive(Template)]
#[template(path = "outcome.html")]
struct OutcomePage {
    page: Page,
    kind: &'static str,
    done: usize,
    total: usize,
    refused: Vec<Item>,
    back: String,
}

struct Item {
    id: i32,
    why: String,
}

#[derive(Default)]
struct Wanted {
    verb: String,
    ids: Vec<i32>,
    all: bool,
    filter: String,
    back: Option<String>,
    /// The list in which it was wanted.
    here: Option<String>,
}

impl Wanted {
    fn read(pairs: Vec<(String, String)>) -> Self {
        let mut wanted = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "verb" => wanted.verb = value,
                "id" => wanted.ids.extend(value.parse::<i32>()),
                "all" => wanted.all = value == "1",
                "filter" => wanted.filter = value,
                "back" => wanted.back = of_this_site(value),
                "here" => wanted.here = of_this_site(value),
                _ => {}
            }
        }
        wanted
    }
}

/// Nobody is led elsewhere.
fn of_this_site(address: String) -> Option<String> {
    Some(address).filter(|address| address.starts_with('/') && !address.starts_with("//"))
}

pub async fn act(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(name): Kind,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Response {
    let wanted = Wanted::read(pairs);
    let made = async {
        let object = kind(&name)?;
        let deletes = wanted.verb == "del" && !object.create.is_empty();
        if !deletes && !object.verbs.contains(&wanted.verb.as_str()) {
            return Err(Problem::Missing);
        }
        let acting = acting(&wat, &visitor).await?;
        let ids = match wanted.all {
            false => wanted.ids.clone(),
            true => {
                let filter = words::filter(&wanted.filter).map_err(|_| Problem::Missing)?;
                acting.list(object.name).await?.ids(&object.resolve(filter)).await?
            }
        };
        let outcomes = acting.act(object.name, &wanted.verb, &ids, &json!({})).await?;
        acting.finish().await?;
        Ok(outcomes)
    };
    let back = wanted.back.clone().or_else(|| wanted.here.clone()).unwrap_or_else(|| {
        let query = serde_urlencoded::to_string([("filter", &wanted.filter)]).unwrap_or_default();
        format!("/{name}?{query}")
    });
    match made.await {
        // There is nothing to tell.
        Ok(outcomes) if outcomes.iter().all(|outcome| outcome.refused.is_none()) => {
            let gone = matches!(wanted.verb.as_str(), "del" | "purge") && wanted.back.is_some();
            Redirect::to(if gone { back.rsplit_once('/').map_or("/", |(list, _)| list) } else { &back }).into_response()
        }
        Ok(outcomes) => show(&visitor, told(&visitor, &name, &outcomes, back)),
        Err(problem) => show::<OutcomePage>(&visitor, Err(problem)),
    }
}

fn told(visitor: &Visitor, name: &str, outcomes: &[Outcome], back: String) -> Result<OutcomePage, Problem> {
    let object = kind(name)?;
    let refused: Vec<Item> = outcomes
        .iter()
        .filter_map(|outcome| Some(Item { id: outcome.id, why: outcome.refused.as_ref()?.to_string() }))
        .collect();
    Ok(OutcomePage {
        page: Page::new(visitor, visitor.language.text("What became of it"), object.name),
        kind: object.name,
        done: outcomes.len() - refused.len(),
        total: outcomes.len(),
        refused,
        back,
    })
}
