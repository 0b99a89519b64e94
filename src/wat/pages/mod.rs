//! The pages. Each is one transaction in the name of the administrator; what the database refuses is shown in its words.

mod act;
mod cell;
mod charts;
mod columns;
mod dashboard;
mod form;
mod image;
mod image_download;
mod image_import;
mod image_rollout;
mod image_staging;
mod list;
mod log;
mod log_entry;
mod log_export;
mod object;
mod overview;
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
pub use columns::choose;
pub use dashboard::dashboard;
pub use form::{blank, create};
pub use image::routes as image_routes;
pub use list::{ids, list};
pub use log::{Wanted as WantedLog, log};
pub use log_entry::entry as log_entry;
pub use log_export::{Export, ExportError, Format as ExportFormat, csv as log_csv, json as log_json};
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
    /// What was typed means nothing.
    Misunderstood(String),
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
    match made {
        Ok(template) => match template.render() {
            Ok(html) => Html(html).into_response(),
            Err(error) => {
                tracing::error!(%error, "a page cannot be written");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        },
        Err(problem) => show_problem(visitor, problem),
    }
}

fn show_problem(visitor: &Visitor, problem: Problem) -> Response {
    let t = |english| visitor.language.text(english);
    let (status, problem) = match problem {
        Problem::Missing => (StatusCode::NOT_FOUND, t("There is no such page, or it is not yours.").to_owned()),
        Problem::Refused(error) => (status(&error), sentence(&error)),
        Problem::Misunderstood(why) => (StatusCode::BAD_REQUEST, why),
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
        Some(code) if is_of(code, &["QV", "22", "23"]) => StatusCode::UNPROCESSABLE_ENTITY,
        _ if error.is_passing() => StatusCode::SERVICE_UNAVAILABLE,
        // Connections, conflicts, what the server lacks or was told, limits.
        Some(code) if is_of(code, &["08", "40", "53", "54", "55", "57", "58"]) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whether a SQLSTATE is of one of these classes.
fn is_of(code: &str, classes: &[&str]) -> bool {
    classes.iter().any(|class| code.starts_with(class))
}

/// What the database says, and what it says to do. What is not meant for people is for the log.
pub fn sentence(error: &DbError) -> String {
    match status(error) {
        StatusCode::SERVICE_UNAVAILABLE => {
            tracing::error!(%error, "the database cannot answer");
            "The database cannot answer now.".to_owned()
        }
        StatusCode::INTERNAL_SERVER_ERROR => {
            tracing::error!(%error, "nobody planned for this");
            "This went wrong for a reason that nobody planned for. It is in the log of the web tool.".to_owned()
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

/// Looks in the name of the visitor; all that is read is of one moment.
async fn looking(wat: &Wat, visitor: &Visitor) -> Result<Acting, DbError> {
    wat.database.looking_as(visitor.who.id, visitor.address, "WAT").await
}

type Kind = Path<String>;
