//! The page on which an administrator sees the desktop of a VM. Looking begins with a form, which no other site's page can
//! send; whoever comes by a link chooses first.

use std::sync::Arc;

use askama::Template;
use axum::{
    Form,
    extract::{Path, State},
    http::{HeaderValue, header},
    response::Response,
};
use serde::Deserialize;

use crate::admin::objects;

use super::{
    super::{
        guard,
        server::Wat,
        spy::{Ending, Look, Mode},
        visitor::Visitor,
    },
    Page, Problem, acting,
    object::Known,
    show,
    vm::TAKE_OVER_ACL,
};

#[derive(Template)]
#[template(path = "spy.html")]
struct SpyPage {
    page: Page,
    id: i32,
    take_over: bool,
    shown: Shown,
}

/// What there is to be seen.
enum Shown {
    /// Nothing yet.
    Choice,
    /// Nothing: noVNC is not in this directory.
    NoViewer(String),
    Desktop {
        ticket: String,
        interactive: bool,
    },
}

impl SpyPage {
    fn endings(&self) -> impl Iterator<Item = (u16, &str)> {
        Ending::TOLD.iter().map(|(_, code, text)| (*code, self.page.t(text)))
    }
}

pub async fn spy(State(wat): State<Arc<Wat>>, visitor: Visitor, Path(id): Path<i32>) -> Response {
    let made = page(&wat, &visitor, id, None).await;
    show(&visitor, made)
}

/// What the buttons send.
#[derive(Deserialize)]
pub struct Wanted {
    mode: Mode,
}

pub async fn spy_begin(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(id): Path<i32>,
    Form(Wanted { mode }): Form<Wanted>,
) -> Response {
    let made = page(&wat, &visitor, id, Some(mode)).await;
    let mut response = show(&visitor, made);
    let policy = HeaderValue::from_static(guard::POLICY_WITH_PICTURES);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

async fn page(wat: &Wat, visitor: &Visitor, id: i32, mode: Option<Mode>) -> Result<SpyPage, Problem> {
    let acting = acting(wat, visitor).await?;
    let known = Known::of(&acting, &objects::VM, id).await?;
    acting.vm_spy_check(id, mode == Some(Mode::Interactive)).await?;
    acting.finish().await?;
    let shown = match mode {
        None => Shown::Choice,
        Some(mode) => {
            let look = Look { who: visitor.who.clone(), address: visitor.address, vm: id, mode };
            match wat.spying.ticket(look).await {
                Some(ticket) => Shown::Desktop { ticket, interactive: mode == Mode::Interactive },
                None => Shown::NoViewer(wat.spying.novnc()),
            }
        }
    };
    let called = known.value("vm").unwrap_or_else(|| id.to_string());
    let title = format!("{} {called}", visitor.language.text("Desktop"));
    let take_over = visitor.who.can(TAKE_OVER_ACL);
    Ok(SpyPage { page: Page::new(visitor, title, objects::VM.name), id, take_over, shown })
}
