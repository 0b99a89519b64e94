//! The overview: how many there are of each kind, and in which state, as numbers that lead to their lists and drawn.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};

use crate::{
    admin::{objects::Object, words},
    db::Acting,
};

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting, may_list,
    overview::Charts,
    show,
};

#[derive(Template)]
#[template(path = "dashboard.html")]
struct DashboardPage {
    page: Page,
    tiles: Vec<Tile>,
    charts: Charts,
}

struct Tile {
    title: &'static str,
    href: String,
    count: i64,
    parts: Vec<Part>,
}

/// A part of a tile: its filter, its title, and whether its share is of interest.
type Wanted<'a> = (&'a str, &'a str, bool);

struct Part {
    title: &'static str,
    href: String,
    count: i64,
    /// Of all.
    percent: Option<i64>,
}

pub async fn dashboard(State(wat): State<Arc<Wat>>, visitor: Visitor) -> Response {
    let made = look(&wat, &visitor).await;
    show(&visitor, made)
}

async fn look(wat: &Wat, visitor: &Visitor) -> Result<DashboardPage, Problem> {
    let page = Page::new(visitor, visitor.language.text("Overview"), "");
    let wanted: [(&str, &str, &[Wanted<'_>]); 5] = [
        ("user", page.t("Users"), &[("number_of_vms_connected>0", "connected", true), ("blocked=1", "blocked", false)]),
        (
            "vm",
            page.t("VMs"),
            &[
                ("state=running", "running", true),
                ("state=[starting,stopping]", "on their way", false),
                ("state=[zombie,debugging]", "in trouble", false),
                ("blocked=1", "blocked", false),
            ],
        ),
        (
            "host",
            page.t("Nodes"),
            &[("state=running", "running", true), ("state=lost", "lost", false), ("blocked=1", "blocked", false)],
        ),
        ("osf", page.t("OSFs"), &[]),
        ("di", page.t("Images"), &[("state=published", "published", true), ("state=fail", "failed", false)]),
    ];
    let acting = acting(wat, visitor).await?;
    let mut tiles = Vec::new();
    for (kind, title, parts) in wanted {
        let Some(object) = Object::called(kind).filter(|_| may_list(&visitor.who, kind)) else { continue };
        let count = count(&acting, object, "").await?;
        let mut shown = Vec::new();
        for (filter, title, share) in parts {
            let found = self::count(&acting, object, filter).await?;
            let query = serde_urlencoded::to_string([("filter", filter)]).unwrap_or_default();
            let title = page.language.agreed(title, kind, found == 1);
            let percent = share.then(|| found.saturating_mul(100).checked_div(count).unwrap_or(0));
            shown.push(Part { title, href: format!("/{kind}?{query}"), count: found, percent });
        }
        tiles.push(Tile { title, href: format!("/{kind}"), count, parts: shown });
    }
    let charts = Charts::of(wat, &acting, visitor.language).await?;
    acting.finish().await?;
    Ok(DashboardPage { page, tiles, charts })
}

async fn count(acting: &Acting, object: &Object, filter: &str) -> Result<i64, Problem> {
    let filter = words::filter(filter).map_err(|_| Problem::Missing)?;
    Ok(acting.list(object.name).await?.count(&object.resolve(filter)).await?)
}
