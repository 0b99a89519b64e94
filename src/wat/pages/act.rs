//! What a button does: with those that were chosen, or with all that the filter finds. The outcome is told for each.

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
    total: usize,
    done: Part,
    refused: Part,
    /// Those with which it went well are not there any more.
    gone: bool,
    back: String,
}

/// Those with which it went well, or did not.
struct Part {
    count: usize,
    /// As many as a page can hold.
    items: Vec<Item>,
}

struct Item {
    id: i32,
    name: String,
    /// Why nothing was done.
    why: String,
}

/// More objects are not told of one by one.
const MOST_TOLD: usize = 10_000;

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
                // One that was ticked, or all that were on any page.
                "id" | "ids" => wanted.ids.extend(value.split_whitespace().filter_map(|id| id.parse::<i32>().ok())),
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
        // There is nothing to tell that the list does not show.
        Ok(outcomes)
            if outcomes.len() as i64 <= visitor.who.block
                && outcomes.iter().all(|outcome| outcome.refused.is_none()) =>
        {
            let gone = is_gone(&wanted.verb) && wanted.back.is_some();
            Redirect::to(if gone { back.rsplit_once('/').map_or("/", |(list, _)| list) } else { &back }).into_response()
        }
        Ok(outcomes) => show(&visitor, told(&visitor, &name, &wanted.verb, outcomes, back)),
        Err(problem) => show::<OutcomePage>(&visitor, Err(problem)),
    }
}

/// Whether objects are no more after it.
fn is_gone(verb: &str) -> bool {
    matches!(verb, "del" | "purge")
}

fn told(
    visitor: &Visitor,
    name: &str,
    verb: &str,
    outcomes: Vec<Outcome>,
    back: String,
) -> Result<OutcomePage, Problem> {
    let object = kind(name)?;
    let total = outcomes.len();
    let (done, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|outcome| outcome.refused.is_none());
    Ok(OutcomePage {
        page: Page::new(visitor, visitor.language.text("What became of it"), object.name),
        kind: object.name,
        total,
        done: Part::of(done),
        refused: Part::of(refused),
        gone: is_gone(verb),
        back,
    })
}

impl Part {
    fn of(outcomes: Vec<Outcome>) -> Self {
        let count = outcomes.len();
        let item = |Outcome { id, name, refused }: Outcome| Item {
            id,
            name: name.unwrap_or_else(|| id.to_string()),
            why: refused.map_or(String::new(), |why| why.to_string()),
        };
        Self { count, items: outcomes.into_iter().take(MOST_TOLD).map(item).collect() }
    }

    /// How many are not told of.
    fn more(&self) -> usize {
        self.count - self.items.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ticked_and_what_was_chosen_on_other_pages_are_read_alike() {
        let read = |pairs: &[(&str, &str)]| {
            Wanted::read(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()).ids
        };
        assert_eq!(read(&[("id", "3"), ("id", "4"), ("id", "x")]), [3, 4]);
        assert_eq!(read(&[("ids", "3 4  5 x 99999999999")]), [3, 4, 5]);
    }
}
