//! The publication of an image: first whom it concerns, then until when they may go on with what they have.

use std::sync::Arc;

use askama::Template;
use axum::{
    Form,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use jiff::{SignedDuration, Timestamp, civil::DateTime};

use crate::db::AffectedVm;

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting, sentence, show, status,
};

/// More VMs are counted and not listed.
const LISTED: usize = 500;

#[derive(Template)]
#[template(path = "image_rollout.html")]
struct RolloutPage {
    page: Page,
    id: i32,
    published: bool,
    problem: Option<String>,
    affected: Vec<AffectedVm>,
    count: usize,
    may_expire: bool,
    soft: String,
    hard: String,
}

type Pairs = Vec<(String, String)>;

pub async fn confirm(State(wat): State<Arc<Wat>>, visitor: Visitor, Path(id): Path<i32>) -> Response {
    let made = look(&wat, &visitor, id, None).await;
    show(&visitor, made)
}

pub async fn publish(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(id): Path<i32>,
    Form(pairs): Form<Pairs>,
) -> Response {
    let at = |name: &str| pairs.iter().rfind(|(typed, _)| typed == name).map_or("", |(_, value)| value.trim());
    let typed = [at("soft").to_owned(), at("hard").to_owned()];
    let (Ok(soft), Ok(hard)) = (moment(&typed[0]), moment(&typed[1])) else {
        let problem = visitor.language.text("This is not a date with a time.").to_owned();
        let made = look(&wat, &visitor, id, Some((problem, typed))).await;
        return (StatusCode::UNPROCESSABLE_ENTITY, show(&visitor, made)).into_response();
    };
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        acting.di_rollout(id, soft.as_deref(), hard.as_deref()).await?;
        acting.finish().await
    };
    match made.await {
        Ok(()) => Redirect::to(&format!("/di/{id}")).into_response(),
        Err(error) => {
            let made = look(&wat, &visitor, id, Some((sentence(&error), typed))).await;
            let found = made.is_ok();
            let page = show(&visitor, made);
            if found { (status(&error), page).into_response() } else { page }
        }
    }
}

/// What browsers send for a date with a time, which is meant in UTC, as PostgreSQL reads it; nothing for nothing. Programs may
/// say an offset.
pub fn moment(typed: &str) -> Result<Option<String>, jiff::Error> {
    if typed.is_empty() {
        return Ok(None);
    }
    if let Ok(moment) = typed.parse::<Timestamp>() {
        return Ok(Some(moment.to_string()));
    }
    let moment: DateTime = typed.parse()?;
    Ok(Some(format!("{moment}Z")))
}

/// The other way round: so many seconds from now.
fn offered(now: Timestamp, seconds: Option<f64>) -> String {
    let later = seconds.and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds as i64)).ok());
    later.map(|later| later.strftime("%Y-%m-%dT%H:%M").to_string()).unwrap_or_default()
}

/// With what was typed and refused, and why.
async fn look(
    wat: &Wat,
    visitor: &Visitor,
    id: i32,
    refused: Option<(String, [String; 2])>,
) -> Result<RolloutPage, Problem> {
    let acting = acting(wat, visitor).await?;
    let image = acting.image(id).await?.ok_or(Problem::Missing)?;
    let mut affected = acting.di_affected(id).await?;
    acting.finish().await?;
    let count = affected.len();
    affected.truncate(LISTED);
    let now = Timestamp::now();
    let (problem, [soft, hard]) = match refused {
        Some((problem, typed)) => (Some(problem), typed),
        None => (None, image.expirations.map(|seconds| offered(now, seconds))),
    };
    let published = image.state == "published";
    let title = visitor.language.text(if published { "Roll out" } else { "Publish" });
    let title = format!("{title}: {}", image.version.as_deref().unwrap_or(&image.path));
    Ok(RolloutPage {
        page: Page::new(visitor, title, "di"),
        id,
        published,
        problem,
        affected,
        count,
        may_expire: visitor.who.can("vm.update.expiration."),
        soft,
        hard,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_in_utc_both_ways() {
        let now: Timestamp = "2030-01-31T23:30:00Z".parse().unwrap();
        assert_eq!(offered(now, Some(3600.0)), "2030-02-01T00:30");
        assert_eq!(offered(now, None), "");
        assert_eq!(moment("2030-02-01T00:30").unwrap().as_deref(), Some("2030-02-01T00:30:00Z"));
        assert_eq!(moment("2030-02-01T02:30:00+02:00").unwrap().as_deref(), Some("2030-02-01T00:30:00Z"));
        assert_eq!(moment("").unwrap(), None);
        for wrong in ["soon", "2030-02-30T00:30", "'; drop table vms; --"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
