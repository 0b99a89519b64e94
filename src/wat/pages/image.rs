//! Images on the page of one and of their OSF: how far each is, what is said of it, and its tags, which come and go by a click.

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};

use crate::db::{Acting, ImageView};

use super::{
    super::{server::Wat, text::Language, visitor::Visitor},
    Problem, ProblemPage, acting, image_download, image_import, image_rollout, image_staging, show,
};

/// Tags that mean something to everybody, offered where they are not.
const OFFERED: [&str; 2] = ["default", "head"];

/// What is asked for of images beside what every object has.
pub fn routes() -> Router<Arc<Wat>> {
    Router::new()
        .route("/staging", get(image_staging::staging).post(image_staging::refresh))
        .route("/staging/downloads", get(image_download::standing).post(image_download::change))
        .route("/di/new", get(image_import::blank).post(image_import::import))
        .route("/di/{id}/tags", post(tag))
        .route("/di/{id}/retry", post(retry))
        .route("/di/{id}/publish", get(image_rollout::confirm).post(image_rollout::publish))
}

/// Images as a page shows them.
pub struct Section {
    /// The page.
    pub(super) here: String,
    /// The one that it is about; none: those of an OSF.
    pub(super) only: Option<i32>,
    pub(super) images: Vec<Item>,
    /// Where a new version is made.
    pub(super) new: Option<String>,
}

pub(super) struct Item {
    pub(super) id: i32,
    pub(super) title: String,
    pub(super) state: String,
    pub(super) class: &'static str,
    pub(super) percent: Option<u32>,
    pub(super) message: Option<String>,
    pub(super) blocked: bool,
    pub(super) tags: Vec<Tag>,
    pub(super) offered: Vec<&'static str>,
    pub(super) may_tag: bool,
    pub(super) may_publish: bool,
    pub(super) may_retry: bool,
    pub(super) may_cancel: bool,
}

pub(super) struct Tag {
    pub(super) name: String,
    /// Whether a click takes it away.
    pub(super) goes: bool,
}

impl Item {
    fn new(image: ImageView, visitor: &Visitor) -> Self {
        let who = &visitor.who;
        let may = |tag: &str| who.can(if tag == "default" { "di.update.default." } else { "di.update.tags." });
        let (published, failed) = (image.state == "published", image.state == "fail");
        let tag = |name: &String| Tag {
            goes: may(name) && image.version.as_ref() != Some(name) && !(published && OFFERED.contains(&name.as_str())),
            name: name.clone(),
        };
        Self {
            id: image.id,
            title: image.version.clone().unwrap_or_else(|| image.path.clone()),
            state: visitor.language.agreed(&image.state, "di", true).to_owned(),
            class: match image.state.as_str() {
                "published" => "good",
                "fail" => "bad",
                "ready" | "retired" => "",
                _ => "busy",
            },
            percent: image.is_on_its_way().then_some(image.percent as u32),
            offered: OFFERED
                .into_iter()
                .filter(|offered| may(offered) && !image.tags.iter().any(|tag| tag == offered))
                .collect(),
            tags: image.tags.iter().map(tag).collect(),
            may_tag: who.can("di.update.tags."),
            may_publish: who.can("di.update.publish.") && (published || image.state == "ready"),
            may_retry: failed && who.can("di.create."),
            may_cancel: image.is_on_its_way() && who.can("di.delete."),
            blocked: image.blocked,
            message: image.message,
        }
    }
}

/// For the page of an image.
pub async fn of_image(acting: &Acting, visitor: &Visitor, id: i32) -> Result<Option<Section>, Problem> {
    let image = acting.image(id).await?.ok_or(Problem::Missing)?;
    let images = vec![Item::new(image, visitor)];
    Ok(Some(Section { here: format!("/di/{id}"), only: Some(id), images, new: None }))
}

/// For the page of an OSF.
pub async fn of_osf(
    acting: &Acting,
    visitor: &Visitor,
    id: i32,
    name: &str,
    tenant: &str,
) -> Result<Option<Section>, Problem> {
    if !visitor.who.can("osf.see.di-list.") {
        return Ok(None);
    }
    let images = acting.images_of(id).await?;
    let query = serde_urlencoded::to_string([("osf", format!("{name}@{tenant}"))]).unwrap_or_default();
    Ok(Some(Section {
        here: format!("/osf/{id}"),
        only: None,
        images: images.into_iter().map(|image| Item::new(image, visitor)).collect(),
        new: visitor.who.can("di.create.").then(|| format!("/di/new?{query}")),
    }))
}

/// Gives an image a tag, or takes one away.
async fn tag(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(id): Path<i32>,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Response {
    let back = pairs.iter().find(|(name, _)| name == "back").map(|(_, back)| back.clone());
    let back = back.filter(|back| back.starts_with('/') && !back.starts_with("//"));
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        for (name, tag) in &pairs {
            match name.as_str() {
                "add" => acting.di_mark(id, tag.trim(), true).await?,
                "remove" => acting.di_mark(id, tag, false).await?,
                _ => {}
            }
        }
        Ok(acting.finish().await?)
    };
    done(&visitor, made.await, &back.unwrap_or_else(|| format!("/di/{id}")))
}

/// Makes an image that failed once more.
async fn retry(State(wat): State<Arc<Wat>>, visitor: Visitor, Path(id): Path<i32>) -> Response {
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        acting.di_retry(id).await?;
        Ok(acting.finish().await?)
    };
    done(&visitor, made.await, &format!("/di/{id}"))
}

/// Shows what there is now, or why it is as it was.
pub fn done(visitor: &Visitor, made: Result<(), Problem>, back: &str) -> Response {
    match made {
        Ok(()) => Redirect::to(back).into_response(),
        Err(problem) => show::<ProblemPage>(visitor, Err(problem)),
    }
}

/// Bytes for people.
pub fn bytes(count: u64, language: Language) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut shown = count as f64;
    while shown >= 1024.0 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    let text = if unit == 0 { count.to_string() } else { format!("{shown:.1}") };
    let text = if language == Language::Spanish { text.replace('.', ",") } else { text };
    format!("{text} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_at_a_glance() {
        for (count, english, spanish) in [
            (0, "0 B", "0 B"),
            (1023, "1023 B", "1023 B"),
            (1536, "1.5 KiB", "1,5 KiB"),
            (5 << 30, "5.0 GiB", "5,0 GiB"),
            (u64::MAX, "16777216.0 TiB", "16777216,0 TiB"),
        ] {
            assert_eq!(bytes(count, Language::English), english);
            assert_eq!(bytes(count, Language::Spanish), spanish);
        }
    }
}
