//! Why something is not done, as RFC 9457 has it, with what the database says and what it says to do.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::db::{DbError, ListError, Refused};

use super::pages;

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
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], self.json().to_string()).into_response()
    }
}
