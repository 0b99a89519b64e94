//! Which server answers: all that are configured are tried until one is writable, and everybody who holds a connection
//! hears when it is another one than before. A server is known by its system identifier, timeline and start.
//!
//! A promotion begins a new timeline. So a primary that was cut off and comes back, still writable, is known by its lower
//! number and refused. Statements and pools are not known here.

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    future::poll_fn,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinHandle},
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage, types::Type};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{DbError, Notification};

/// A server that has not answered for so long is no longer waited for alone.
const STAGGER: Duration = Duration::from_millis(300);

const WHO: &str =
    "select current_setting('transaction_read_only'), (select system_identifier from pg_control_system()),
    case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_lsn()), 8) end,
    pg_postmaster_start_time(), pg_backend_pid()";

/// One of the servers that are configured.
#[derive(Clone)]
pub(super) struct Server {
    /// Name, address or directory of the socket.
    pub host: String,
    /// Of this server alone.
    pub config: tokio_postgres::Config,
    /// The same without settings of the session.
    pub plain: tokio_postgres::Config,
}

/// A run of a writable server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Made with the data directory, the same on all its standbys.
    system: String,
    /// Raised by every promotion.
    timeline: u32,
    started: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {} since {}", self.system, self.timeline, self.started)
    }
}

/// A connection. It ends with this value.
pub(super) struct Link {
    pub client: Client,
    /// The server at its other end.
    pub identity: Identity,
    /// How often the server had been another one when it was made.
    pub generation: u64,
    task: Task,
}

/// Speaks for the client; ended with its holder.
struct Task(Option<JoinHandle<()>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.take().inspect(JoinHandle::abort);
    }
}

/// The connection that something was committed over.
pub(super) struct Origin {
    generation: u64,
    driver: Option<AbortHandle>,
}

impl Link {
    /// Stands for the connection when somebody else uses it.
    pub fn origin(&self) -> Origin {
        Origin { generation: self.generation, driver: self.task.0.as_ref().map(JoinHandle::abort_handle) }
    }

    /// The client alone, for those who use it once. The connection ends with it, when all that was said has been sent.
    pub fn into_client(mut self) -> Client {
        self.task.0 = None;
        self.client
    }
}

#[derive(Clone, Debug, Default)]
struct Known {
    identity: Option<Identity>,
    generation: u64,
}

/// The servers, and what this process knows of them.
pub(super) struct Servers {
    list: Vec<Server>,
    tls: MakeRustlsConnect,
    /// For one server to be connected to and to say who it is.
    limit: Duration,
    /// Whether what stands before the server, and a backup behind it, is looked out for.
    wary: bool,
    known: watch::Sender<Known>,
    /// The one that was writable last is asked first.
    last: AtomicUsize,
    /// Something before the server does not take settings of sessions.
    plain: AtomicBool,
    /// Something before the server gives every transaction another session.
    pub pooled: AtomicBool,
    /// Types of the parameters of statements, for sessions that remember none.
    pub types: Mutex<HashMap<String, Vec<Type>>>,
    probing: AtomicBool,
}

/// No server is writable.
#[derive(Debug)]
struct NoServer(Vec<(String, DbError)>);

impl fmt::Display for NoServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, error)) in self.0.iter().enumerate() {
            let cause = error.to_string();
            let cause = cause.strip_prefix("the database cannot be reached: ").unwrap_or(&cause);
            write!(f, "{}{name}: {cause}", if n > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl Error for NoServer {}

impl Servers {
    pub fn new(list: Vec<Server>, tls: MakeRustlsConnect, limit: Duration, wary: bool) -> Self {
        Self {
            list,
            tls,
            limit,
            wary,
            known: watch::Sender::default(),
            last: AtomicUsize::new(0),
            plain: AtomicBool::new(false),
            pooled: AtomicBool::new(false),
            types: Mutex::default(),
            probing: AtomicBool::new(false),
        }
    }

    /// All that are configured.
    pub fn list(&self) -> &[Server] {
        &self.list
    }

    /// For all servers together: they are asked almost at once.
    pub fn limit(&self) -> Duration {
        self.limit + STAGGER * u32::try_from(self.list.len()).unwrap_or(u32::MAX)
    }

    /// Connects to the writable server. What it notifies goes to `heard`.
    pub async fn open(&self, heard: Option<mpsc::UnboundedSender<Notification>>) -> Result<Link, DbError> {
        let first = self.last.load(Relaxed);
        let mut waiting = (0..self.list.len()).map(|n| (first + n) % self.list.len());
        let (mut attempts, mut failed) = (FuturesUnordered::new(), Vec::new());
        let mut next = waiting.next();
        loop {
            if let Some(at) = next.take() {
                let heard = heard.clone();
                attempts.push(async move { (at, self.attempt(&self.list[at], heard).await) });
            }
            let patience = async {
                match waiting.len() {
                    0 => std::future::pending().await,
                    _ => sleep(STAGGER).await,
                }
            };
            tokio::select! {
                done = attempts.next() => match done {
                    Some((at, Ok(link))) => {
                        self.last.store(at, Relaxed);
                        return Ok(link);
                    }
                    Some((at, Err(error))) => {
                        failed.push((self.list[at].host.clone(), error));
                        next = waiting.next();
                    }
                    None => break,
                },
                () = patience => next = waiting.next(),
            }
        }
        match failed.pop() {
            Some((_, error)) if failed.is_empty() => Err(error),
            Some(last) => {
                failed.push(last);
                Err(DbError::Unreachable(Box::new(NoServer(failed))))
            }
            None => Err(DbError::Setup("no server is named in database.host".to_owned())),
        }
    }

    async fn attempt(
        &self,
        server: &Server,
        heard: Option<mpsc::UnboundedSender<Notification>>,
    ) -> Result<Link, DbError> {
        let attempt = async {
            let (client, task) = self.connect(server, heard).await?;
            let (identity, pid) = who(&client).await?;
            let generation = self.settle(server, &client, &identity, pid).await?;
            Ok(Link { client, identity, generation, task })
        };
        timeout(self.limit, attempt).await.map_err(|_| silent(self.limit))?
    }

    async fn connect(
        &self,
        server: &Server,
        heard: Option<mpsc::UnboundedSender<Notification>>,
    ) -> Result<(Client, Task), DbError> {
        let config = if self.plain.load(Relaxed) { &server.plain } else { &server.config };
        let connected = match config.connect(self.tls.clone()).await {
            Err(error) if takes_no_settings(&error) => {
                if !self.plain.swap(true, Relaxed) {
                    tracing::warn!(
                        server = server.host,
                        "a pooler that takes no settings of sessions stands before the database; its time limits are those \
                         of the role (alter role ... set statement_timeout, lock_timeout), if it is not to pass them: \
                         ignore_startup_parameters = options"
                    );
                }
                server.plain.connect(self.tls.clone()).await
            }
            connected => connected,
        };
        let (client, connection) = connected?;
        Ok((client, Task(Some(tokio::spawn(drive(connection, heard))))))
    }

    /// Takes note of the server that answered; the generation of connections to it.
    async fn settle(&self, server: &Server, client: &Client, found: &Identity, pid: i64) -> Result<u64, DbError> {
        let known = self.known.borrow().clone();
        if known.identity.as_ref() == Some(found) {
            return Ok(known.generation);
        }
        if let Some(before) = &known.identity
            && before.system == found.system
            && found.timeline < before.timeline
        {
            return Err(refused(format!(
                "it is on timeline {}, and another server was promoted to {}; make it a standby of that one",
                found.timeline, before.timeline
            )));
        }
        if self.wary {
            self.not_restored(client, found).await?;
            if !self.pooled.load(Relaxed) && self.is_pooled(server, client, pid).await {
                self.take_for_pooled();
            }
        }
        if known.identity.is_some() {
            tracing::warn!(server = server.host, timeline = found.timeline, "the database is another server now");
        }
        let mut generation = 0;
        self.known.send_if_modified(|known| {
            let changed = known.identity.as_ref() != Some(found);
            if changed {
                *known = Known { identity: Some(found.clone()), generation: known.generation + 1 };
            }
            generation = known.generation;
            changed
        });
        Ok(generation)
    }

    /// A copy of the database, restored elsewhere, may not know what happened since. Whoever restored it says so.
    async fn not_restored(&self, client: &Client, found: &Identity) -> Result<(), DbError> {
        let Ok(messages) = client.simple_query("select version from qvd.versions where component = 'server'").await
        else {
            return Ok(()); // There is no schema, about which others complain.
        };
        match rows(&messages).next() {
            Some(row) if row.get(0).is_some_and(|server| server != found.system) => Err(refused(
                "this database was restored from a backup or copied; run `qvd db restored` as its owner before nodes use it"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Two connections that share a session, or one whose session changes, do not reach a server itself.
    async fn is_pooled(&self, server: &Server, first: &Client, pid: i64) -> bool {
        let Ok((second, _task)) = self.connect(server, None).await else { return false };
        let Ok((_, other)) = who(&second).await else { return false };
        for _ in 0..3 {
            let (Ok((_, a)), Ok((_, b))) = (who(first).await, who(&second).await) else { return false };
            if a != pid || b != other || a == b {
                return true;
            }
        }
        false
    }

    /// Sessions are shared from now on, so nothing is left in them.
    pub fn take_for_pooled(&self) {
        if !self.pooled.swap(true, Relaxed) {
            tracing::warn!(
                "a pooler in transaction mode stands before the database: notifications do not come through and statements \
                 take longer; let database.host name the server itself, or set pool_mode = session"
            );
        }
    }

    /// Ends when the server is another one than that of `generation`.
    pub async fn moved(&self, generation: u64) {
        // The sender lives as long as this value.
        let _ = self.known.subscribe().wait_for(|known| known.generation != generation).await;
    }

    /// Whether the server is still that of `generation`.
    pub fn is_current(&self, generation: u64) -> bool {
        self.known.borrow().generation == generation
    }

    /// Whether the server still runs that the connection was made to. A server that crashes and recovers ends all of its
    /// connections, though its identity stays.
    pub fn has_run_on(&self, origin: &Origin) -> bool {
        self.is_current(origin.generation) && origin.driver.as_ref().is_some_and(|driver| !driver.is_finished())
    }

    /// Finds out whether the server has moved, for somebody who has waited for long.
    pub async fn look_again(&self) {
        if !self.probing.swap(true, Relaxed) {
            let _probing = Probing(&self.probing);
            let _ = self.open(None).await;
        }
    }

    pub fn types(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Type>>> {
        self.types.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Probing<'a>(&'a AtomicBool);

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// The server behind a connection, and its process there.
async fn who(client: &Client) -> Result<(Identity, i64), DbError> {
    let messages = client.simple_query(WHO).await?;
    let row = rows(&messages).next().ok_or_else(|| DbError::Shape("it does not say who it is".to_owned()))?;
    let field = |at: usize| row.get(at).unwrap_or_default().to_owned();
    match u32::from_str_radix(&field(2), 16) {
        Ok(timeline) if row.get(0) == Some("off") => {
            Ok((Identity { system: field(1), timeline, started: field(3) }, field(4).parse().unwrap_or_default()))
        }
        _ => Err(refused("it is read-only (a standby?)".to_owned())),
    }
}

fn rows(messages: &[SimpleQueryMessage]) -> impl Iterator<Item = &tokio_postgres::SimpleQueryRow> {
    messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// For a server that answers and will not do.
fn refused(why: String) -> DbError {
    DbError::Unreachable(why.into())
}

/// For a server that does not answer.
pub(super) fn silent(limit: Duration) -> DbError {
    refused(format!("no answer within {} s", limit.as_secs_f32()))
}

/// What PgBouncer before 1.20 says of the settings that we send along.
fn takes_no_settings(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| error.message().contains("startup parameter"))
}

/// Awaiting the connection would discard notifications, so its messages are polled. The end and an error are final.
async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    heard: Option<mpsc::UnboundedSender<Notification>>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                let Some(heard) = &heard else { continue };
                let notification = Notification {
                    channel: notification.channel().to_owned(),
                    payload: notification.payload().to_owned(),
                };
                if heard.send(notification).is_err() {
                    return;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "a database connection failed");
                return;
            }
            None => return,
        }
    }
}
