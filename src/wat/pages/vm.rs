//! What there is to see of a VM besides what every object has: why it is in its state, what became of it and of its users,
//! and its console. The console comes by way of the database, which asks the node for it while the page is open.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use futures_util::TryStreamExt;
use serde::Deserialize;

use crate::{
    admin::{
        objects::{self, Object},
        words,
    },
    db::{self, Acting, Console},
};

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting,
    cell::Cell,
    may_list,
    object::Known,
    show,
};

/// What it takes to see what a VM says.
const CONSOLE_ACL: &str = "vm.see.port-serial.";
/// What it takes to see its desktop.
const SPY_ACL: &str = "vm.spy.";
/// And to use it.
pub const TAKE_OVER_ACL: &str = "vm.spy.interactive.";
/// What is looked for first.
pub const FIRST: &[&str] = &[
    "state",
    "command",
    "since",
    "reason",
    "blocked",
    "user_state",
    "host",
    "ip_in_use",
    "di_in_use",
    "expiration_soft",
    "time_until_expiration_soft",
    "expiration_hard",
    "time_until_expiration_hard",
    "user",
    "osf",
    "di",
    "ip",
];
/// What the title says, or another column.
pub const HIDDEN: &[&str] = &["name", "vm", "tag", "next_boot_ip"];
/// So much of the past is shown; lists have the rest.
const RECENT: i64 = 10;

/// The part of the page that VMs have alone.
pub struct Vm {
    /// Why it is in its state, in words.
    pub why: String,
    /// Whether its console may be seen.
    pub console: bool,
    /// Whether its desktop may be seen, and used.
    pub watch: bool,
    pub take_over: bool,
    pub past: Vec<Past>,
}

/// What was, the latest first.
pub struct Past {
    pub title: &'static str,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
    /// All of it.
    pub href: String,
}

impl Vm {
    pub async fn of(acting: &Acting, visitor: &Visitor, id: i32, state: Option<&str>) -> Result<Self, Problem> {
        let t = |english| visitor.language.text(english);
        let mut past = Vec::new();
        for (object, title, filter, columns, order) in [
            (
                &objects::SESSION,
                t("Sessions"),
                format!("vm_id={id}"),
                &["started_at", "client", "host", "router", "duration", "end_reason"][..],
                "started_at",
            ),
            (
                &objects::LOG,
                t("Log"),
                format!("qvd_object=vm,object_id={id}"),
                &["time", "admin_name", "action", "status"],
                "time",
            ),
        ] {
            if may_list(&visitor.who, object.name) {
                past.push(recent(acting, visitor, (object, title), &filter, columns, order).await?);
            }
        }
        let watch = visitor.who.can(SPY_ACL) && state == Some("running");
        Ok(Self {
            why: acting.vm_why(id).await?,
            console: visitor.who.can(CONSOLE_ACL),
            watch,
            take_over: watch && visitor.who.can(TAKE_OVER_ACL),
            past,
        })
    }
}

async fn recent(
    acting: &Acting,
    visitor: &Visitor,
    (object, title): (&Object, &'static str),
    filter: &str,
    columns: &[&str],
    order: &str,
) -> Result<Past, Problem> {
    let query = db::Query {
        filter: object.resolve(words::filter(filter).map_err(|_| Problem::Missing)?),
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
        order: vec![(order.to_owned(), true)],
        limit: Some(RECENT),
        offset: 0,
    };
    let found: Vec<_> = acting.list(object.name).await?.rows(&query).await?.try_collect().await?;
    let cell = |row: &tokio_postgres::Row, at: usize| {
        let value = row.get::<_, Option<&str>>(at).unwrap_or_default();
        Cell::new(columns[at], value, None, visitor.language)
    };
    let query = serde_urlencoded::to_string([("filter", filter)]).unwrap_or_default();
    Ok(Past {
        title,
        columns: columns.iter().map(|column| visitor.language.field(column)).collect(),
        rows: found.iter().map(|row| (0..columns.len()).map(|at| cell(row, at)).collect()).collect(),
        href: format!("/{}?{query}", object.name),
    })
}

#[derive(Template)]
#[template(path = "console.html")]
struct ConsolePage {
    page: Page,
    id: i32,
    console: Console,
}

#[derive(Template)]
#[template(path = "console_more.html")]
struct More {
    page: Page,
    console: Console,
}

pub async fn console(State(wat): State<Arc<Wat>>, visitor: Visitor, Path(id): Path<i32>) -> Response {
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        let known = Known::of(&acting, &objects::VM, id).await?;
        let console = acting.vm_console(id, 0).await?;
        acting.finish().await?;
        let called = known.value("vm").unwrap_or_else(|| id.to_string());
        let title = format!("{} {called}", visitor.language.field("console"));
        Ok(ConsolePage { page: Page::new(&visitor, title, objects::VM.name), id, console })
    };
    show(&visitor, made.await)
}

/// What a page has.
#[derive(Deserialize)]
pub struct Seen {
    last: i64,
}

pub async fn console_more(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(id): Path<i32>,
    Query(Seen { last }): Query<Seen>,
) -> Response {
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        let console = acting.vm_console(id, last).await?;
        acting.finish().await?;
        Ok(More { page: Page::new(&visitor, "", objects::VM.name), console })
    };
    show(&visitor, made.await)
}
