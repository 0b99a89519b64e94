//! What lies in the staging directories, as nodes report it, to be made images of.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};

use crate::db::StagedView;

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting,
    image::{bytes, done},
    image_download::{self, Typed},
    show,
};

#[derive(Template)]
#[template(path = "image_staging.html")]
struct StagingPage {
    page: Page,
    files: Vec<Item>,
    problems: Vec<String>,
    /// Where the web tool would put what is uploaded.
    directory: String,
    takes_uploads: bool,
    downloads: Vec<image_download::Item>,
    typed: Typed,
}

impl StagingPage {
    fn runs(&self) -> bool {
        image_download::runs(&self.downloads)
    }
}

struct Item {
    name: String,
    size: String,
    kind: String,
    modified: String,
    hosts: String,
    /// Where it becomes an image.
    import: String,
}

pub async fn staging(State(wat): State<Arc<Wat>>, visitor: Visitor) -> Response {
    with(&wat, &visitor, Typed::default()).await
}

/// The page, with what was typed and refused.
pub async fn with(wat: &Arc<Wat>, visitor: &Visitor, typed: Typed) -> Response {
    let made = look(wat, visitor, typed).await;
    show(visitor, made)
}

/// Has nodes look again.
pub async fn refresh(State(wat): State<Arc<Wat>>, visitor: Visitor) -> Response {
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        acting.staging_refresh().await?;
        Ok(acting.finish().await?)
    };
    done(&visitor, made.await, "/staging")
}

async fn look(wat: &Arc<Wat>, visitor: &Visitor, typed: Typed) -> Result<StagingPage, Problem> {
    if !visitor.who.can("di.create.") {
        return Err(Problem::Missing);
    }
    let acting = acting(wat, visitor).await?;
    let staged = acting.staged().await?;
    acting.finish().await?;
    let item = |staged: &StagedView| {
        let name = staged.file.clone()?;
        let query = serde_urlencoded::to_string([("file", &name)]).unwrap_or_default();
        Some(Item {
            size: bytes(staged.size.unwrap_or_default().unsigned_abs(), visitor.language),
            kind: staged.kind.clone().unwrap_or_default(),
            modified: staged.modified.clone().unwrap_or_default(),
            hosts: staged.hosts.clone(),
            import: format!("/di/new?{query}"),
            name,
        })
    };
    let mut problems: Vec<String> = staged
        .iter()
        .filter_map(|staged| staged.problem.as_ref().map(|problem| format!("{}: {problem}", staged.hosts)))
        .collect();
    problems.dedup();
    Ok(StagingPage {
        page: Page::new(visitor, visitor.language.text("Files that can become images"), "staging"),
        files: staged.iter().filter_map(item).collect(),
        problems,
        directory: wat.staging.directory().display().to_string(),
        takes_uploads: wat.staging.is_there(),
        // What cannot be read of the directory is in the log; the rest of the page is there.
        downloads: image_download::items(wat, visitor).await.unwrap_or_default(),
        typed,
    })
}
