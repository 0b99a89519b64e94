//! The pages. Each is one transaction in the name of the administrator; what the database refuses is shown in its words.

mod act;
mod cell;
mod dashboard;
mod form;
mod image;
mod image_import;
mod image_rollout;
mod image_staging;
mod list;
mod object;
mod profile;
mod role;
mod settings;
mod spy;
mod verb;
mod vm;

use askama::Template;
use axum::{
    extract::Path,
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};

use crate::{
    admin::objects::{self, Object},
    db::{Acting, Administrator, DbError, ListError},
};

use super::{server::Wat, text::Language, visitor::Visitor};

pub use act::act;
pub use dashboard::dashboard;
pub use form::{blank, create};
pub use image::routes as image_routes;
pub use list::list;
pub use object::{change, object};
pub use profile::{change_profile, profile};
pub use role::{change_role, role};
pub use settings::{set, settings};
pub use spy::{spy, spy_begin};
pub use vm::{console, console_more};

/// What every page has.
pub struct Page {
    pub language: Language,
    pub title: String,
    pub who: std::sync::Arc<Administrator>,
    /// What had been heard of changes before it was made.
    pub heard: u64,
    /// The kind of objects that it is about.
    kind: &'static str,
}

/// A way to other pages.
pub struct Section {
    pub title: &'static str,
    pub href: &'static str,
    pub current: bool,
}

impl Page {
    fn new(visitor: &Visitor, title: impl Into<String>, kind: &'static str) -> Self {
        Self { language: visitor.language, title: title.into(), who: visitor.who.clone(), heard: visitor.heard, kind }
    }

    /// Of a section, with its title.
    fn of(visitor: &Visitor, kind: &'static str) -> Self {
        let page = Self::new(visitor, visitor.language.field(kind), kind);
        let title = page.sections().into_iter().find(|section| section.current).map(|section| section.title.to_owned());
        Self { title: title.unwrap_or_else(|| page.title.clone()), ..page }
    }

    pub fn t<'a>(&self, english: &'a str) -> &'a str {
        self.language.text(english)
    }

    /// Where the administrator may go.
    pub fn sections(&self) -> Vec<Section> {
        let t = |english| self.language.text(english);
        [
            ("", t("Overview"), "/"),
            ("user", t("Users"), "/user"),
            ("vm", t("VMs"), "/vm"),
            ("host", t("Nodes"), "/host"),
            ("osf", t("OSFs"), "/osf"),
            ("di", t("Images"), "/di"),
            ("staging", t("Files"), "/staging"),
            ("session", t("Sessions"), "/session"),
            ("tenant", t("Tenants"), "/tenant"),
            ("administrator", t("Administrators"), "/administrator"),
            ("role", t("Roles"), "/role"),
            ("property", t("Properties"), "/property"),
            ("config", t("Settings"), "/config"),
            ("log", t("Log"), "/log"),
        ]
        .into_iter()
        .filter(|(kind, ..)| may_list(&self.who, kind))
        .map(|(kind, title, href)| Section { title, href, current: kind == self.kind })
        .collect()
    }
}

/// Whether a list would be refused or empty for certain.
fn may_list(who: &Administrator, kind: &str) -> bool {
    match kind {
        "" => true,
        "session" => who.can("vm.see.user-state."),
        "staging" => who.can("di.create."),
        "config" => who.can("config.qvd.") || who.can("config.wat."),
        kind => who.can(&format!("{kind}.see-main.")),
    }
}

/// The kind of objects that a column names.
fn leads_to(column: &str) -> Option<&'static Object> {
    Object::called(column.trim_end_matches("_in_use"))
}

/// The page of the object that a column names.
fn address(column: &str, id: &str) -> Option<String> {
    leads_to(column).filter(|_| !id.is_empty()).map(|object| format!("/{}/{id}", object.name))
}

/// A page that cannot be shown.
pub enum Problem {
    /// There is no such page or object.
    Missing,
    /// The database refuses, or is not there.
    Refused(DbError),
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        Self::Refused(error)
    }
}

impl From<ListError> for Problem {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Db(error) => Self::Refused(error),
            ListError::NoField { .. } | ListError::NoOrder { .. } | ListError::NoValue(_) => Self::Missing,
        }
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    page: Page,
    problem: String,
}

/// Shows a page, or why there is none.
fn show<T: Template>(visitor: &Visitor, made: Result<T, Problem>) -> Response {
    let problem = match made {
        Ok(template) => match template.render() {
            Ok(html) => return Html(html).into_response(),
            Err(error) => {
                tracing::error!(%error, "a page cannot be written");
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
        },
        Err(problem) => problem,
    };
    let t = |english| visitor.language.text(english);
    let (status, problem) = match problem {
        Problem::Missing => (StatusCode::NOT_FOUND, t("There is no such page, or it is not yours.").to_owned()),
        Problem::Refused(error) => (status(&error), sentence(&error)),
    };
    let page = Page::new(visitor, t("This does not work"), "-");
    match (ProblemPage { page, problem }).render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(_) => status.into_response(),
    }
}

/// What HTTP calls it.
pub fn status(error: &DbError) -> StatusCode {
    match error.sqlstate() {
        Some("QV010") => StatusCode::NOT_FOUND,
        Some("QV040" | "42501") => StatusCode::FORBIDDEN,
        Some(code) if code.starts_with("QV") || code.starts_with("22") || code.starts_with("23") => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// What the database says, and what it says to do. What is not meant for people is for the log.
pub fn sentence(error: &DbError) -> String {
    match status(error) {
        StatusCode::SERVICE_UNAVAILABLE => {
            tracing::error!(%error, "the database cannot answer");
            "The database cannot answer now.".to_owned()
        }
        _ => error.to_string(),
    }
}

fn kind(name: &str) -> Result<&'static Object, Problem> {
    objects::Object::called(name).ok_or(Problem::Missing)
}

/// Acts in the name of the visitor.
pub async fn acting(wat: &Wat, visitor: &Visitor) -> Result<Acting, DbError> {
    wat.database.acting_as(visitor.who.id, visitor.address, "WAT").await
}

type Kind = Path<String>;
