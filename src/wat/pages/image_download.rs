//! Files that the web tool fetches to the staging directory for somebody who is at its page: how far each is, and what can be
//! done with it. While one runs that part of the page is shown anew each second.

use std::sync::Arc;

use askama::Template;
use axum::{
    Form,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};

use super::{
    super::{
        downloads::{self, Download, Refused, Wanted},
        server::Wat,
        visitor::Visitor,
    },
    Page,
    image::bytes,
    image_staging, show,
};

#[derive(Template)]
#[template(path = "image_downloads.html")]
struct DownloadsPart {
    page: Page,
    downloads: Vec<Item>,
}

impl DownloadsPart {
    fn runs(&self) -> bool {
        runs(&self.downloads)
    }
}

/// Whether it will be another one soon.
pub fn runs(downloads: &[Item]) -> bool {
    downloads.iter().any(|download| download.running)
}

/// A download as the page shows it.
pub struct Item {
    pub id: String,
    pub name: String,
    pub from: String,
    pub state: &'static str,
    pub class: &'static str,
    pub percent: u64,
    /// So much of so much.
    pub far: String,
    pub problem: Option<String>,
    pub running: bool,
    pub failed: bool,
}

/// What was typed, to be typed on when it was refused.
#[derive(Default)]
pub struct Typed {
    pub url: String,
    pub name: String,
    pub sha256: String,
    pub overwrite: bool,
    /// Why.
    pub problem: Option<String>,
}

impl Item {
    fn new(download: Download, visitor: &Visitor) -> Self {
        let t = |english| visitor.language.text(english);
        let (state, class) = match download.state {
            downloads::State::Running => (t("downloading"), "busy"),
            downloads::State::Complete => (t("complete"), "good"),
            downloads::State::Failed => (t("failed"), "bad"),
        };
        let size = |count| bytes(count, visitor.language);
        Self {
            percent: download.offset.saturating_mul(100).checked_div(download.length).unwrap_or(0),
            far: format!("{} / {}", size(download.offset), size(download.length)),
            running: download.state == downloads::State::Running,
            failed: download.state == downloads::State::Failed,
            // What is behind the question mark may be a secret.
            from: download.url.split(['?', '#']).next().unwrap_or_default().to_owned(),
            id: download.id,
            name: download.name,
            state,
            class,
            problem: download.problem,
        }
    }
}

/// Those of the visitor; none where there is no directory for them.
pub async fn items(wat: &Arc<Wat>, visitor: &Visitor) -> Result<Vec<Item>, Refused> {
    Ok(downloads::own(wat, visitor).await?.into_iter().map(|download| Item::new(download, visitor)).collect())
}

/// How far they are, as a part of the page.
pub async fn standing(State(wat): State<Arc<Wat>>, visitor: Visitor) -> Response {
    match items(&wat, &visitor).await {
        Ok(downloads) => show(&visitor, Ok(DownloadsPart { page: Page::new(&visitor, "", "staging"), downloads })),
        Err(refused) => refused.into_response(),
    }
}

/// Begins one, tries one again or gives one up.
pub async fn change(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Response {
    let said = |wanted: &str| pairs.iter().rfind(|(name, _)| name == wanted).map(|(_, value)| value.trim().to_owned());
    let mut typed = Typed::default();
    let done = if let Some(id) = said("again") {
        downloads::again(&wat, &visitor, id).await
    } else if let Some(id) = said("give_up") {
        downloads::give_up(&wat, &visitor, id).await
    } else {
        typed = Typed {
            url: said("url").unwrap_or_default(),
            name: said("name").unwrap_or_default(),
            sha256: said("sha256").unwrap_or_default(),
            overwrite: said("overwrite").is_some(),
            problem: None,
        };
        let wanted = Wanted {
            url: typed.url.clone(),
            name: Some(typed.name.clone()),
            sha256: Some(typed.sha256.clone()),
            overwrite: typed.overwrite,
        };
        downloads::begin(&wat, &visitor, wanted).await
    };
    match done {
        Ok(()) => Redirect::to("/staging").into_response(),
        Err(refused) => {
            let (status, problem) = refused.said();
            let page = image_staging::with(&wat, &visitor, Typed { problem: Some(problem), ..typed }).await;
            // Who may not see the page is told that there is none.
            let found = page.status() == StatusCode::OK;
            if found { (status, page).into_response() } else { page }
        }
    }
}
