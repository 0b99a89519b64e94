//! A connection on loan from the pool, and how its borrower asks through it: for how long an answer is waited for, what
//! is asked again, and what becomes of the connection afterwards.
//!
//! A statement is a transaction of its own. So one that the server undid because it met another (a deadlock, a
//! serialization failure) is repeated here, for everybody. When the borrower is dropped in the middle of a statement,
//! the connection is given back only after the answer has come: the next borrower would wait behind it.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Row, Statement, error::SqlState, types::ToSql};

use super::{
    Connector, DbError,
    servers::{Link, Origin, silent},
    turns::Turn,
};

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How often a statement is repeated that the server undid.
const REPEATS: u32 = 6;
/// Before the first repetition, on average; twice as much before each further one.
const PAUSE: Duration = Duration::from_millis(8);
/// Who has waited for so long wonders whether the server is still the right one.
const DOUBT: Duration = Duration::from_secs(3);
/// What a server may take to say that it cancelled a statement.
const GRACE: Duration = Duration::from_secs(5);

/// Makes the connections of a pool.
pub(super) struct Manager {
    pub connector: Connector,
}

/// A connection of a pool.
pub(super) struct Pooled {
    link: Link,
    statements: Mutex<HashMap<String, Statement>>,
    /// Nobody is to borrow it again.
    broken: AtomicBool,
}

impl Pooled {
    fn statements(&self) -> std::sync::MutexGuard<'_, HashMap<String, Statement>> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl managed::Manager for Manager {
    type Type = Pooled;
    type Error = DbError;

    async fn create(&self) -> Result<Pooled, DbError> {
        let link = self.connector.servers().open(None).await?;
        Ok(Pooled { link, statements: Mutex::default(), broken: AtomicBool::new(false) })
    }

    async fn recycle(&self, connection: &mut Pooled, _: &Metrics) -> RecycleResult<DbError> {
        if connection.link.client.is_closed() || connection.broken.load(Relaxed) {
            return Err(RecycleError::message("it is broken"));
        }
        if !self.connector.servers().is_current(connection.link.generation) {
            return Err(RecycleError::message("the database is another server now"));
        }
        Ok(())
    }
}

/// A statement whose parameters are known.
pub(super) enum Prepared {
    /// The session remembers it.
    Named(Statement),
    /// The session remembers nothing; text and types are sent each time.
    Typed(String),
}

/// What can be asked.
pub(super) enum Question<'a> {
    Text(&'a str),
    Prepared(&'a Prepared),
}

impl<'a> From<&'a str> for Question<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Question<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Prepared> for Question<'a> {
    fn from(prepared: &'a Prepared) -> Self {
        Self::Prepared(prepared)
    }
}

/// Given back to the pool before somebody is called who wants one.
struct Borrowed {
    connection: Object<Manager>,
    _turn: Turn,
}

impl Deref for Borrowed {
    type Target = Pooled;

    fn deref(&self) -> &Pooled {
        &self.connection
    }
}

/// A borrowed connection.
pub(super) struct Lease {
    connector: Connector,
    connection: Arc<Borrowed>,
    /// The answer to a statement is still to come.
    asking: AtomicBool,
}

impl Lease {
    pub fn new(connection: Object<Manager>, turn: Turn, connector: Connector) -> Self {
        let connection = Arc::new(Borrowed { connection, _turn: turn });
        Self { connector, connection, asking: AtomicBool::new(false) }
    }

    /// Stands for the connection and the server at its other end.
    pub fn source(&self) -> String {
        format!("{:?} {} ", Object::metrics(&self.connection.connection).created, self.connection.link.identity)
    }

    /// Gives the connection back; it is known as the one that something was committed over.
    pub fn into_origin(self) -> Origin {
        self.connection.link.origin()
    }

    /// The connection itself, for a transaction. Nobody is to borrow it again until `returned` says that it is over.
    pub fn taken(&self) -> &Client {
        self.connection.broken.store(true, Relaxed);
        &self.connection.link.client
    }

    /// The transaction is over.
    pub fn returned(&self) {
        self.connection.broken.store(false, Relaxed);
    }

    /// Undoes the transaction unless it is over, and says then that it is: at once, for others may wait for what it holds.
    pub fn undone(&self) {
        if !self.connection.broken.load(Relaxed) {
            return;
        }
        let (connection, limit) = (self.connection.clone(), self.connector.statement_limit() + GRACE);
        // Without a runtime nobody borrows anything any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // A statement that nobody waits for any more is answered before.
                if matches!(timeout(limit, connection.link.client.batch_execute("rollback")).await, Ok(Ok(()))) {
                    connection.broken.store(false, Relaxed);
                }
            });
        }
    }

    /// Prepares a statement, once for each connection.
    pub async fn prepare_cached(&self, query: &str) -> Result<Prepared, DbError> {
        let pooled: &Pooled = &self.connection;
        if self.connector.servers().pooled.load(Relaxed) {
            self.learn(query).await?;
            return Ok(Prepared::Typed(query.to_owned()));
        }
        let known = pooled.statements().get(query).cloned();
        if let Some(statement) = known {
            return Ok(Prepared::Named(statement));
        }
        let statement = self.ask(|| pooled.link.client.prepare(query)).await?;
        pooled.statements().insert(query.to_owned(), statement.clone());
        Ok(Prepared::Named(statement))
    }

    pub async fn query<'q>(&self, what: impl Into<Question<'q>>, with: Parameters<'_>) -> Result<Vec<Row>, DbError> {
        let client = &self.connection.link.client;
        let text = match what.into() {
            Question::Prepared(Prepared::Named(statement)) => {
                return self.ask(|| client.query(statement, with)).await;
            }
            Question::Text(text) if !self.connector.servers().pooled.load(Relaxed) => {
                return self.ask(|| client.query(text, with)).await;
            }
            Question::Text(text) => {
                self.learn(text).await?;
                text
            }
            Question::Prepared(Prepared::Typed(text)) => text,
        };
        let types = self.connector.servers().types().get(text).cloned().unwrap_or_default();
        let typed: Vec<_> = with.iter().copied().zip(types).collect();
        self.ask(|| client.query_typed(text, &typed)).await
    }

    /// Exactly one row.
    pub async fn query_one<'q>(&self, what: impl Into<Question<'q>>, with: Parameters<'_>) -> Result<Row, DbError> {
        self.query_opt(what, with).await?.ok_or_else(|| DbError::Shape("there is no row in it".to_owned()))
    }

    /// The first row, if there is one.
    pub async fn query_opt<'q>(
        &self,
        what: impl Into<Question<'q>>,
        with: Parameters<'_>,
    ) -> Result<Option<Row>, DbError> {
        Ok(self.query(what, with).await?.into_iter().next())
    }

    pub async fn execute<'q>(&self, what: impl Into<Question<'q>>, with: Parameters<'_>) -> Result<(), DbError> {
        self.query(what, with).await.map(drop)
    }

    /// Finds out the types of a statement's parameters where sessions are shared: within one transaction, which has one
    /// session, and so that nothing is left in it.
    async fn learn(&self, query: &str) -> Result<(), DbError> {
        if self.connector.servers().types().contains_key(query) {
            return Ok(());
        }
        let client = &self.connection.link.client;
        // Whoever is dropped half-way leaves a transaction behind.
        self.connection.broken.store(true, Relaxed);
        self.wait_for(client.batch_execute("begin")).await?;
        let types = {
            let statement = self.wait_for(client.prepare(query)).await?;
            statement.params().to_vec()
        };
        self.wait_for(client.batch_execute("commit")).await?;
        self.connection.broken.store(false, Relaxed);
        self.connector.servers().types().insert(query.to_owned(), types);
        Ok(())
    }

    /// Asks until the answer is not that the statement met another one and was undone.
    async fn ask<T, F>(&self, mut exchange: impl FnMut() -> F) -> Result<T, DbError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let mut pause = PAUSE;
        for _ in 0..REPEATS {
            match self.wait_for(exchange()).await {
                Err(DbError::Undone { message }) => {
                    tracing::debug!(message, "undone; asking again");
                    sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
                    pause *= 2;
                }
                answer => return answer,
            }
        }
        self.wait_for(exchange()).await
    }

    /// Waits for an answer as long as one may come.
    async fn wait_for<T>(
        &self,
        exchange: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DbError> {
        let (servers, generation) = (self.connector.servers(), self.connection.link.generation);
        let limit = self.connector.statement_limit() + GRACE;
        self.asking.store(true, Relaxed);
        let answer = tokio::select! {
            biased;
            answer = exchange => answer.map_err(DbError::from),
            () = servers.moved(generation) => Err(DbError::Unreachable("its server was replaced".into())),
            never = wonder(&self.connector) => match never {},
            () = sleep(limit) => Err(silent(limit)),
        };
        self.asking.store(false, Relaxed);
        match &answer {
            Err(DbError::Unreachable(_)) => self.connection.broken.store(true, Relaxed),
            Err(error) if error.code().is_some_and(is_of_another_session) => {
                servers.take_for_pooled();
                self.connection.broken.store(true, Relaxed);
                return Err(DbError::Unreachable("a pooler gave the statement another session".into()));
            }
            _ => {}
        }
        answer
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.asking.load(Relaxed) {
            return;
        }
        let (connection, limit) = (self.connection.clone(), self.connector.statement_limit() + GRACE);
        // Without a runtime nobody borrows anything any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Answers come in order, so this one comes behind the one that nobody waits for.
                if !matches!(timeout(limit, connection.link.client.simple_query("")).await, Ok(Ok(_))) {
                    connection.broken.store(true, Relaxed);
                }
            });
        }
    }
}

/// Looks again and again whether the server is another one, which all who wait for the old one then hear.
async fn wonder(connector: &Connector) -> std::convert::Infallible {
    loop {
        sleep(DOUBT).await;
        connector.servers().look_again().await;
    }
}

/// What a server says of statements that it has never heard of, or has heard of before, against what we know.
fn is_of_another_session(code: &SqlState) -> bool {
    *code == SqlState::INVALID_SQL_STATEMENT_NAME || *code == SqlState::DUPLICATE_PSTATEMENT
}
