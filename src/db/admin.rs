//! What the command line asks of the database with the rights of whoever runs it: any statement, any list.

use serde_json::Value;
use thiserror::Error;

use super::{Connector, DbError};

/// The answer to a query, every value as text.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows; `None` is null.
    pub rows: Vec<Vec<Option<String>>>,
}

/// A question that cannot be asked.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The list does not exist.
    #[error("there is no list of {0}")]
    NoList(String),
    /// The database could not answer.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Connector {
    /// A view of `sql/views/lists.sql`: `vm`, `host`, `session`, `user` or `di`.
    pub async fn list(&self, what: &str) -> Result<Table, AdminError> {
        if !["vm", "host", "session", "user", "di"].contains(&what) {
            return Err(AdminError::NoList(what.to_owned()));
        }
        let client = self.client().await?;
        let rows = client
            .query(&format!("select to_json(l)::text from qvd.{what}_list l"), &[])
            .await
            .map_err(DbError::from)?;
        let mut table = Table::default();
        for row in rows {
            let object: Value = serde_json::from_str(row.get(0)).map_err(|error| DbError::Shape(error.to_string()))?;
            let object = object.as_object().cloned().unwrap_or_default();
            if table.columns.is_empty() {
                table.columns = object.keys().cloned().collect();
            }
            table.rows.push(object.into_iter().map(|(_, value)| shown(value)).collect());
        }
        Ok(table)
    }

    /// Runs statements for their effect.
    pub async fn execute(&self, statements: &str) -> Result<(), DbError> {
        Ok(self.client().await?.batch_execute(statements).await?)
    }

    /// The first column of the first row as text; `None` when there is no row or it is null.
    pub async fn value(&self, query: &str) -> Result<Option<String>, DbError> {
        let client = self.client().await?;
        let messages = client.simple_query(query).await?;
        Ok(messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }
}

fn shown(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}
