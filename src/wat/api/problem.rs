//! Why something is not done, as RFC 9457 has it, with what the database says and what it says to do.

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::db::{DbError, ListError, Refused};

use super::super::pages;

const KIND: &str = "application/problem+json";
/// Nobody says more in one.
const SENTENCE: usize = 1 << 16;

/// A request that is refused.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// SQLSTATE.
    code: Option<String>,
    hint: Option<String>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), code: None, hint: None }
    }

    pub fn missing(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// The members, without those that there is nothing to say about.
    pub fn json(&self) -> Value {
        let mut members = Map::new();
        members.insert("status".to_owned(), json!(self.status.as_u16()));
        members.insert("title".to_owned(), json!(self.status.canonical_reason()));
        members.insert("detail".to_owned(), json!(self.detail));
        for (name, text) in [("code", &self.code), ("hint", &self.hint)] {
            if let Some(text) = text {
                members.insert(name.to_owned(), json!(text));
            }
        }
        Value::Object(members)
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        let status = pages::status(&error);
        let code = error.sqlstate().filter(|_| !status.is_server_error()).map(str::to_owned);
        match error {
            DbError::Refused { message, hint, .. } => Self { status, detail: message, code, hint },
            error => Self { status, detail: pages::sentence(&error), code, hint: None },
        }
    }
}

impl From<Refused> for Problem {
    fn from(Refused { code, message, hint }: Refused) -> Self {
        DbError::Refused { code, message, hint }.into()
    }
}

impl From<ListError> for Problem {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Db(error) => error.into(),
            error => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, [(header::CONTENT_TYPE, KIND)], self.json().to_string()).into_response()
    }
}

/// Gives every refusal under `/api` the form that programs expect, whoever refused.
pub async fn speak(request: Request, next: Next) -> Response {
    let is_ours = request.uri().path().starts_with("/api/");
    let response = next.run(request).await;
    let is_refused = response.status().is_client_error() || response.status().is_server_error();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == KIND);
    if !is_ours || !is_refused || is_problem {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let said = to_bytes(body, SENTENCE).await.unwrap_or_default();
    let detail = match String::from_utf8_lossy(&said).trim() {
        "" if parts.status == StatusCode::METHOD_NOT_ALLOWED => "nothing is done here with this method".to_owned(),
        "" => parts.status.canonical_reason().unwrap_or("this is refused").to_owned(),
        said => said.to_owned(),
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(KIND));
    let problem = Problem::new(parts.status, detail).json().to_string();
    Response::from_parts(parts, Body::from(problem))
}
