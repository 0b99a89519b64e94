//! The REST API of the web tool, call by call, as an administrator with a name and a password. What it refuses it refuses in the words of
//! the database, and so does this.

mod events;
mod http;

use std::path::PathBuf;

use hyper::Method;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::mpsc;
use url::form_urlencoded;

use crate::db::{Outcome, Query, Refused};

use super::{objects::Object, words};
use http::{Ask, Place};

/// Rows of a page, as many as there may be.
const PAGE: i64 = 1000;
/// Of one request to do something.
const AT_ONCE: usize = 20_000;

/// Why something was not done, or it is not known.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// Nobody is asked there.
    #[error("{0} is not asked: {1}")]
    Address(String, &'static str),
    /// The file of authorities cannot be used.
    #[error("{}: {why}", file.display())]
    Authorities {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No connection, or no answer.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// It may be somebody else.
    #[error("the certificate of {0} will not do: {1} (--ca names the file of the authorities to trust)")]
    Untrusted(String, String),
    /// No such administrator, or another password.
    #[error("{0} knows no administrator of this name and password (QVD_ADMIN_USER is name or name@tenant)")]
    Unknown(String),
    /// Refused in words for people.
    #[error("{}{}", .0.message, .0.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
    Refused(Refused),
    /// An answer that this version does not expect.
    #[error("{0}")]
    Shape(String),
}

impl RemoteError {
    /// What RFC 9457 calls a problem.
    fn of_problem(problem: &Value) -> Option<Self> {
        refused(problem).map(Self::Refused)
    }

    pub(super) fn of_answer(answer: &Value) -> Self {
        Self::Shape(format!("the web tool gave an unexpected answer: {answer}"))
    }
}

fn refused(problem: &Value) -> Option<Refused> {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).map(str::to_owned);
    let code = text("code").or_else(|| Some(problem.get("status")?.to_string()))?;
    Some(Refused { code, message: text("detail")?, hint: text("hint") })
}

/// A web tool that is asked.
pub struct Client {
    place: Place,
}

impl Client {
    /// Asks there from now on.
    ///
    /// # Errors
    /// It is no address of a web tool, or the file of authorities cannot be used.
    pub fn new(url: &str, authorities: Option<PathBuf>, name: &str, password: &str) -> Result<Self, RemoteError> {
        Ok(Self { place: Place::new(http::address(url)?, authorities, name, password)? })
    }

    /// Whether this is an address that can be asked, before anybody is asked for a password.
    ///
    /// # Errors
    /// It is none.
    pub fn check(url: &str) -> Result<(), RemoteError> {
        http::address(url).map(drop)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, RemoteError> {
        self.place.json(Ask { method, path, body }).await
    }

    /// Looks.
    pub(super) async fn get(&self, path: &str) -> Result<Value, RemoteError> {
        self.ask(Method::GET, path, None).await
    }

    /// Does something.
    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, RemoteError> {
        self.ask(Method::POST, path, body).await
    }

    pub(super) async fn put(&self, path: &str, body: Option<&Value>) -> Result<Value, RemoteError> {
        self.ask(Method::PUT, path, body).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, RemoteError> {
        self.ask(Method::DELETE, path, None).await
    }

    /// One page of a list, from a cursor on.
    pub(super) async fn page(
        &self,
        object: &Object,
        wanted: &Wanted<'_>,
        cursor: Option<&str>,
    ) -> Result<Page, RemoteError> {
        let page = self.get(&wanted.address(object, cursor)).await?;
        let Some(items) = page.get("items").and_then(Value::as_array) else {
            return Err(RemoteError::of_answer(&page));
        };
        let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
        Ok(Page { items: items.clone(), next, count: page.get("count").and_then(Value::as_i64) })
    }

    /// The columns of a list, as they are described.
    pub(super) async fn columns(&self, object: &Object) -> Result<Vec<String>, RemoteError> {
        let description = self.get("/openapi.json").await?;
        let known = &description["components"]["schemas"][object.name]["properties"];
        Ok(known.as_object().ok_or_else(|| RemoteError::of_answer(known))?.keys().cloned().collect())
    }

    /// The object of that name.
    pub(super) async fn named(&self, kind: &str, name: &str) -> Result<i32, RemoteError> {
        id(&self.get(&format!("/{kind}/named?name={}", part(name))).await?)
    }

    pub(super) async fn create(&self, kind: &str, fields: &Value) -> Result<i32, RemoteError> {
        id(&self.post(&format!("/{kind}"), Some(fields)).await?)
    }

    /// Does with those what a verb says, each for itself.
    pub(super) async fn act(
        &self,
        kind: &str,
        verb: &str,
        ids: &[i32],
        arguments: &Value,
    ) -> Result<Vec<Outcome>, RemoteError> {
        let mut outcomes = Vec::new();
        for ids in ids.chunks(AT_ONCE) {
            let body = json!({ "verb": verb, "ids": ids, "arguments": arguments });
            let answer = self.post(&format!("/{kind}/actions"), Some(&body)).await?;
            let Some(results) = answer["results"].as_array() else { return Err(RemoteError::of_answer(&answer)) };
            for result in results {
                let name = result["name"].as_str().map(str::to_owned);
                outcomes.push(Outcome { id: id(result)?, name, refused: refused(&result["problem"]) });
            }
        }
        Ok(outcomes)
    }

    /// What happens from now on. Ends with the connection.
    pub(super) async fn changes(&self) -> Result<mpsc::UnboundedReceiver<String>, RemoteError> {
        let body = self.place.stream("/changes").await?;
        let (told, changes) = mpsc::unbounded_channel();
        tokio::spawn(events::pass_on(body, told));
        Ok(changes)
    }
}

/// What a list is asked for.
pub(super) struct Wanted<'a> {
    pub query: &'a Query,
    /// Of this page.
    pub limit: Option<i64>,
    /// As people read it.
    pub text: bool,
    pub count: bool,
}

impl Wanted<'_> {
    fn address(&self, object: &Object, cursor: Option<&str>) -> String {
        let order = self.query.order.iter().map(|(field, last)| format!("{}{field}", if *last { "-" } else { "" }));
        let mut address = form_urlencoded::Serializer::new(format!("/{}?", object.name));
        address.append_pair("filter", &words::text(&self.query.filter));
        address.append_pair("order", &order.collect::<Vec<_>>().join(","));
        address.append_pair("columns", &self.query.columns.join(","));
        address.append_pair("limit", &self.limit.unwrap_or(PAGE).clamp(1, PAGE).to_string());
        address.append_pair("text", if self.text { "true" } else { "false" });
        address.append_pair("count", if self.count { "true" } else { "false" });
        if let Some(cursor) = cursor {
            address.append_pair("cursor", cursor);
        }
        address.finish()
    }
}

/// A page of a list.
pub(super) struct Page {
    pub items: Vec<Value>,
    pub next: Option<String>,
    pub count: Option<i64>,
}

fn id(answer: &Value) -> Result<i32, RemoteError> {
    let id = answer.get("id").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
    id.ok_or_else(|| RemoteError::of_answer(answer))
}

/// A part of a path or a query.
pub(super) fn part(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
