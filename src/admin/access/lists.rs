//! Lists, row by row as they come: from the database in one answer, from the web tool page by page.

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde_json::Value;

use crate::{
    admin::{
        objects::Object,
        remote::{Client, RemoteError, Wanted},
    },
    db::{List, Query},
    model::filter::Filter,
};

use super::AccessError;

/// A list that can be asked.
pub struct Listing<'a> {
    object: &'a Object,
    source: Source<'a>,
}

enum Source<'a> {
    Database(List<'a>),
    Api(&'a Client),
}

/// A row: as texts, field by field, or as one JSON object.
pub enum Row {
    /// Either, as the database sent it.
    Database(tokio_postgres::Row),
    /// Of the web tool, as texts.
    Texts(Vec<Option<String>>),
    /// Of the web tool, as JSON.
    Json(String),
}

impl Row {
    /// A field as people read it; nothing for null.
    pub fn cell(&self, at: usize) -> &str {
        match self {
            Self::Database(row) => row.get::<_, Option<&str>>(at).unwrap_or_default(),
            Self::Texts(cells) => cells.get(at).and_then(Option::as_deref).unwrap_or_default(),
            Self::Json(_) => "",
        }
    }

    /// The object.
    pub fn json(&self) -> &str {
        match self {
            Self::Database(row) => row.get(0),
            Self::Json(object) => object,
            Self::Texts(_) => "null",
        }
    }
}

impl<'a> Listing<'a> {
    pub(super) fn of_database(list: List<'a>, object: &'a Object) -> Self {
        Self { object, source: Source::Database(list) }
    }

    pub(super) fn of_api(client: &'a Client, object: &'a Object) -> Self {
        Self { object, source: Source::Api(client) }
    }

    /// All its columns.
    ///
    /// # Errors
    /// The web tool does not describe them.
    pub async fn columns(&self) -> Result<Vec<String>, AccessError> {
        Ok(match &self.source {
            Source::Database(list) => list.columns().map(str::to_owned).collect(),
            Source::Api(client) => client.columns(self.object).await?,
        })
    }

    /// Rows of texts.
    ///
    /// # Errors
    /// A field does not exist, a value has not its type, or whoever is asked is lost.
    pub async fn rows(
        &self,
        query: &Query,
    ) -> Result<impl Stream<Item = Result<Row, AccessError>> + Send, AccessError> {
        match &self.source {
            Source::Database(list) => {
                let rows = list.rows(&self.resolved(query)).await?;
                Ok(rows.map_ok(Row::Database).map_err(AccessError::from).left_stream())
            }
            Source::Api(client) => {
                let columns = query.columns.clone();
                let texts = move |item: Value| {
                    let cell = |name: &String| item.get(name).and_then(Value::as_str).map(str::to_owned);
                    Row::Texts(columns.iter().map(cell).collect())
                };
                let pages = pages(client, self.object, query.clone(), true).await?;
                Ok(pages.map_ok(texts).map_err(AccessError::from).right_stream())
            }
        }
    }

    /// Rows of JSON objects.
    ///
    /// # Errors
    /// The same.
    pub async fn objects(
        &self,
        query: &Query,
    ) -> Result<impl Stream<Item = Result<Row, AccessError>> + Send, AccessError> {
        match &self.source {
            Source::Database(list) => {
                let rows = list.objects(&self.resolved(query)).await?;
                Ok(rows.map_ok(Row::Database).map_err(AccessError::from).left_stream())
            }
            Source::Api(client) => {
                let pages = pages(client, self.object, query.clone(), false).await?;
                let json = |item: Value| Row::Json(item.to_string());
                Ok(pages.map_ok(json).map_err(AccessError::from).right_stream())
            }
        }
    }

    /// The ids of those that a filter chooses, in order.
    ///
    /// # Errors
    /// The same, or the list has no ids.
    pub async fn ids(&self, filter: &Filter) -> Result<Vec<i32>, AccessError> {
        match &self.source {
            Source::Database(list) => Ok(list.ids(&self.object.resolve(filter.clone())).await?),
            Source::Api(client) => {
                let items = client.objects(self.object, &only(filter, "id")).await?;
                let id = |item: &Value| item["id"].as_i64().and_then(|id| i32::try_from(id).ok());
                Ok(items.iter().filter_map(id).collect())
            }
        }
    }

    /// How many a filter chooses.
    ///
    /// # Errors
    /// The same.
    pub async fn count(&self, filter: &Filter) -> Result<i64, AccessError> {
        match &self.source {
            Source::Database(list) => Ok(list.count(&self.object.resolve(filter.clone())).await?),
            Source::Api(client) => {
                let query = only(filter, self.object.columns.first().copied().unwrap_or("id"));
                let wanted = Wanted { query: &query, limit: Some(1), text: false, count: true };
                let page = client.page(self.object, &wanted, None).await?;
                page.count.ok_or_else(|| RemoteError::Shape("the web tool does not count".to_owned()).into())
            }
        }
    }

    /// The same in the words of the view.
    fn resolved(&self, query: &Query) -> Query {
        Query { filter: self.object.resolve(query.filter.clone()), ..query.clone() }
    }
}

fn only(filter: &Filter, column: &str) -> Query {
    Query { filter: filter.clone(), columns: vec![column.to_owned()], order: Vec::new(), limit: None, offset: 0 }
}

impl Client {
    /// All rows at once.
    pub(super) async fn objects(&self, object: &Object, query: &Query) -> Result<Vec<Value>, RemoteError> {
        pages(self, object, query.clone(), false).await?.try_collect().await
    }
}

/// Rows, of which the first page is there when this returns: what is wrong is said before anything is printed.
async fn pages<'a>(
    client: &'a Client,
    object: &'a Object,
    query: Query,
    text: bool,
) -> Result<impl Stream<Item = Result<Value, RemoteError>> + Send + 'a, RemoteError> {
    let left = query.limit.unwrap_or(i64::MAX);
    let first = client.page(object, &Wanted { query: &query, limit: Some(left), text, count: false }, None).await?;
    let rest = stream::try_unfold(Some((first, query, left)), move |state| async move {
        let Some((page, query, left)) = state else { return Ok(None) };
        let mut items = page.items;
        items.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - items.len() as i64;
        let next = match page.next.filter(|_| left > 0) {
            Some(cursor) => {
                let wanted = Wanted { query: &query, limit: Some(left), text, count: false };
                Some(client.page(object, &wanted, Some(&cursor)).await?)
            }
            None => None,
        };
        Ok(Some((stream::iter(items.into_iter().map(Ok)), next.map(|page| (page, query, left)))))
    });
    Ok(rest.try_flatten())
}
