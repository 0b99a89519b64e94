//! A connection on loan from the pool. When its borrower is dropped in the middle of a statement, it is given back only
//! after the answer has come: the next borrower would wait behind it, and for a lock that may be long.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use deadpool_postgres::Object;
use tokio_postgres::{Error, Row, Statement, ToStatement, types::ToSql};

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A borrowed connection.
pub(super) struct Lease {
    connection: Arc<Object>,
    /// The answer to a statement is still to come.
    asking: AtomicBool,
}

impl From<Object> for Lease {
    fn from(connection: Object) -> Self {
        Self { connection: Arc::new(connection), asking: AtomicBool::new(false) }
    }
}

impl Lease {
    /// When the connection was made.
    pub fn made(&self) -> std::time::Instant {
        Object::metrics(&self.connection).created
    }

    pub async fn prepare_cached(&self, query: &str) -> Result<Statement, Error> {
        self.whole(self.connection.prepare_cached(query)).await
    }

    pub async fn query<S: ?Sized + ToStatement>(&self, what: &S, with: Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.whole(self.connection.query(what, with)).await
    }

    pub async fn query_one<S: ?Sized + ToStatement>(&self, what: &S, with: Parameters<'_>) -> Result<Row, Error> {
        self.whole(self.connection.query_one(what, with)).await
    }

    pub async fn query_opt<S: ?Sized + ToStatement>(
        &self,
        what: &S,
        with: Parameters<'_>,
    ) -> Result<Option<Row>, Error> {
        self.whole(self.connection.query_opt(what, with)).await
    }

    pub async fn execute<S: ?Sized + ToStatement>(&self, what: &S, with: Parameters<'_>) -> Result<u64, Error> {
        self.whole(self.connection.execute(what, with)).await
    }

    async fn whole<T>(&self, exchange: impl Future<Output = T>) -> T {
        self.asking.store(true, Relaxed);
        let answer = exchange.await;
        self.asking.store(false, Relaxed);
        answer
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.asking.load(Relaxed) {
            return;
        }
        let connection = self.connection.clone();
        // Without a runtime nobody borrows anything any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Answers come in order, so this one comes behind the one that nobody waits for.
                let _ = connection.simple_query("").await;
            });
        }
    }
}
