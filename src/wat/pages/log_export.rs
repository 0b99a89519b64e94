//! The log as one long answer, for spreadsheets and programs. Entries are fetched in pieces, each in a transaction of its own:
//! who reads slowly holds no connection and no old version of any row, and memory does not grow with the log. The first piece
//! comes before the answer begins, so that what is refused is not a file.

use std::{io, pin::pin, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use thiserror::Error;

use crate::{
    admin::csv::{line, without_formula},
    db::{self, DbError, List, ListError},
    model::filter::{Comparison, Condition, Filter},
};

use super::{
    super::{server::Wat, visitor::Visitor},
    Problem, acting,
    log::Wanted,
    show_problem,
};

/// Entries of a piece.
const PIECE: i64 = 1000;
/// Whoever may look at the log may export it.
const ACL: &str = "log.see-main.";

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A header, and a line for each entry; no field is a formula.
    Csv,
    /// An array with an object for each entry.
    Json,
}

/// An export as far as it is.
pub struct Export {
    wat: Arc<Wat>,
    visitor: Visitor,
    filter: Filter,
    format: Format,
    /// The last entry that was fetched.
    last: Option<i64>,
    ended: bool,
}

/// Why there is no export, or no more of it.
#[derive(Debug, Error)]
pub enum ExportError {
    #[error("who asks may not look at the log")]
    Forbidden,
    #[error(transparent)]
    List(#[from] ListError),
}

impl From<DbError> for ExportError {
    fn from(error: DbError) -> Self {
        Self::List(error.into())
    }
}

impl From<ExportError> for Problem {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Forbidden => Self::Missing,
            ExportError::List(ListError::Db(error)) => error.into(),
            ExportError::List(error) => Self::Misunderstood(error.to_string()),
        }
    }
}

/// Of an entry in JSON.
#[derive(Deserialize)]
struct Numbered {
    id: i64,
}

pub async fn csv(wat: State<Arc<Wat>>, visitor: Visitor, wanted: Query<Wanted>) -> Response {
    export(wat, visitor, wanted, Format::Csv).await
}

pub async fn json(wat: State<Arc<Wat>>, visitor: Visitor, wanted: Query<Wanted>) -> Response {
    export(wat, visitor, wanted, Format::Json).await
}

async fn export(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Query(wanted): Query<Wanted>,
    format: Format,
) -> Response {
    let begun = match wanted.filter() {
        Ok(filter) => Export::new(wat, visitor.clone(), filter, format).begin().await.map_err(Problem::from),
        Err(error) => Err(Problem::Misunderstood(visitor.language.text(&error.to_string()).to_owned())),
    };
    begun.unwrap_or_else(|problem| show_problem(&visitor, problem))
}

impl Export {
    /// Of what the filter chooses.
    pub fn new(wat: Arc<Wat>, visitor: Visitor, filter: Filter, format: Format) -> Self {
        Self { wat, visitor, filter, format, last: None, ended: false }
    }

    /// Fetches the first piece and answers with it and all that follow.
    ///
    /// # Errors
    /// Nothing was answered yet.
    pub async fn begin(mut self) -> Result<Response, ExportError> {
        let (format, first) = (self.format, self.piece().await?);
        let rest = stream::unfold(self, async |mut export| {
            if export.ended {
                return None;
            }
            let piece = export.piece().await.map_err(|error| {
                // An answer that ends before its end is seen to be none.
                export.ended = true;
                tracing::warn!(administrator = export.visitor.who.id, %error, "an export of the log ends early");
                io::Error::other(error)
            });
            Some((piece, export))
        });
        let (kind, disposition) = match format {
            Format::Csv => ("text/csv; charset=utf-8; header=present", "attachment; filename=\"log.csv\""),
            Format::Json => ("application/json", "attachment; filename=\"log.json\""),
        };
        let body = Body::from_stream(stream::iter([Ok(first)]).chain(rest));
        Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, disposition)], body).into_response())
    }

    /// The next entries, and what stands before the first and behind the last.
    async fn piece(&mut self) -> Result<Bytes, ExportError> {
        let acting = acting(&self.wat, &self.visitor).await?;
        // Without it the list would be empty, which would look like the end.
        if !acting.may(ACL).await? {
            return Err(ExportError::Forbidden);
        }
        let list = acting.list("log").await?;
        let older = self.last.map(|id| Filter::Field("id".to_owned(), Condition::Is(Comparison::Less, id.to_string())));
        let query = db::Query {
            filter: Filter::All([Some(self.filter.clone()), older].into_iter().flatten().collect()),
            columns: list.columns().map(str::to_owned).collect(),
            order: vec![("id".to_owned(), true)],
            limit: Some(PIECE),
            offset: 0,
        };
        let mut out = Vec::new();
        let entries = match self.format {
            Format::Csv => self.lines(&list, &query, &mut out).await?,
            Format::Json => self.items(&list, &query, &mut out).await?,
        };
        acting.finish().await?;
        self.ended = entries < PIECE;
        Ok(out.into())
    }

    async fn lines(&mut self, list: &List<'_>, query: &db::Query, out: &mut Vec<u8>) -> Result<i64, ListError> {
        let written = |line: io::Result<()>| line.map_err(|error| DbError::Shape(error.to_string()));
        if self.last.is_none() {
            written(line(out, query.columns.iter().map(String::as_str)))?;
        }
        let id = query.columns.iter().position(|column| column == "id").unwrap_or(0);
        let mut rows = pin!(list.rows(query).await?);
        let mut entries = 0;
        while let Some(row) = rows.try_next().await? {
            let text = |at: usize| row.get::<_, Option<&str>>(at).unwrap_or_default();
            let fields: Vec<_> = (0..query.columns.len()).map(|at| without_formula(text(at))).collect();
            written(line(out, fields.iter().map(AsRef::as_ref)))?;
            self.last = text(id).parse().ok();
            entries += 1;
        }
        Ok(entries)
    }

    async fn items(&mut self, list: &List<'_>, query: &db::Query, out: &mut Vec<u8>) -> Result<i64, ListError> {
        let mut rows = pin!(list.objects(query).await?);
        let mut entries = 0;
        let mut first = self.last.is_none();
        let mut newest = String::new();
        while let Some(row) = rows.try_next().await? {
            out.extend_from_slice(if first { b"[\n" } else { b",\n" });
            first = false;
            newest.clear();
            newest.push_str(row.get(0));
            out.extend_from_slice(newest.as_bytes());
            entries += 1;
        }
        if entries > 0 {
            let entry: Numbered = serde_json::from_str(&newest).map_err(|error| DbError::Shape(error.to_string()))?;
            self.last = Some(entry.id);
        }
        if entries < PIECE {
            out.extend_from_slice(if first { b"[]\n" } else { b"\n]\n" });
        }
        Ok(entries)
    }
}
