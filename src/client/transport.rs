//! How a server is reached: over QUIC, which survives a change of network, or over TLS, which passes everywhere.
//! Left to choose, the client gives what worked last time a head start and takes whichever answers first. Trust in
//! the server's certificate is the same on both ways.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    pin::pin,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    ClientError,
    quic::{self, Roamer},
    session::{self, Server},
    trust::Trust,
};
use crate::tunnel::Conn;

/// Where is kept what worked, below the user's directory.
const MEMORY_FILE: &str = "transports.json";
/// How long the way that is tried first is alone.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long it is remembered that QUIC did not get through, for the user may have come to another network.
const TLS_REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How long the last words to a server may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// The ways to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Whichever answers first.
    Auto,
    /// TCP, with TLS unless that is switched off.
    Tls,
    /// UDP.
    Quic,
}

impl FromStr for Transport {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "tls" => Ok(Self::Tls),
            "quic" => Ok(Self::Quic),
            _ => Err(()),
        }
    }
}

/// One of the two that `Auto` chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Tls,
    Quic,
}

/// Makes the connections of one client.
pub struct Dialer {
    trust: Option<Arc<Trust>>,
    transport: Transport,
    memory: Option<PathBuf>,
    roamer: Roamer,
}

impl Dialer {
    /// Over `transport`, with `trust` or else in the clear. What worked is remembered in `directory`.
    ///
    /// # Errors
    /// QUIC is never in the clear.
    pub fn new(trust: Option<Arc<Trust>>, transport: Transport, directory: Option<&Path>) -> Result<Self, ClientError> {
        if trust.is_none() && transport == Transport::Quic {
            return Err(ClientError::Usage("QUIC is always encrypted; it cannot be used without SSL".to_owned()));
        }
        let memory = directory.map(|directory| directory.join(MEMORY_FILE));
        Ok(Self { trust, transport, memory, roamer: Roamer::default() })
    }

    /// What is trusted.
    pub fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.as_ref()
    }

    /// What follows the machine from address to address.
    pub fn roamer(&self) -> &Roamer {
        &self.roamer
    }

    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached or its certificate is not accepted.
    pub async fn dial(&self, server: &Server) -> Result<Conn, ClientError> {
        // Each in a box: with two handshakes under way the whole session would be too large for a thread's stack.
        let conn = match (self.transport, &self.trust) {
            (Transport::Tls, _) | (_, None) => Box::pin(session::tcp(server, self.trust.as_ref())).await,
            (Transport::Quic, Some(trust)) => Box::pin(quic::connect(server, trust, &self.roamer)).await,
            (Transport::Auto, Some(trust)) => Box::pin(self.race(server, trust)).await,
        }?;
        tracing::debug!(%server, way = %conn.way(), protection = conn.protection(), "connected");
        Ok(conn)
    }

    /// Waits until the servers have heard the last words. What is left of QUIC connections is given up after that.
    pub async fn farewell(&self) {
        let _ = tokio::time::timeout(FAREWELL, self.roamer.idle()).await;
    }

    async fn race(&self, server: &Server, trust: &Arc<Trust>) -> Result<Conn, ClientError> {
        let mut memory = self.memory.as_deref().map(Memory::load).unwrap_or_default();
        let known = memory.way(server, now());
        let first = known.unwrap_or(Way::Quic);
        let second = if first == Way::Quic { Way::Tls } else { Way::Quic };
        let refused = Notify::new();
        let by = async |way| match way {
            Way::Tls => session::tcp(server, Some(trust)).await.inspect_err(|_| refused.notify_one()),
            Way::Quic => {
                // A server without TCP has no QUIC either.
                let hopeless = async {
                    refused.notified().await;
                    tokio::time::sleep(HEAD_START).await;
                };
                tokio::select! {
                    conn = quic::connect(server, trust, &self.roamer) => conn,
                    () = hopeless => Err(ClientError::Unreachable {
                        server: server.to_string(),
                        source: io::ErrorKind::TimedOut.into(),
                    }),
                }
            }
        };
        let (way, conn) = race((first, by(first)), (second, by(second))).await?;
        if known != Some(way) {
            memory.0.insert(server.to_string(), Remembered { way, at: now() });
            if let Some(path) = &self.memory
                && let Err(error) = memory.save(path)
            {
                tracing::debug!(%error, "cannot remember how the server was reached");
            }
        }
        Ok(conn)
    }
}

/// The first of two that succeeds; the second begins when the first has failed or had its head start. What a person
/// must decide is not worth a second attempt. When both fail, it is TCP that says why.
async fn race<T>(
    first: (Way, impl Future<Output = Result<T, ClientError>>),
    second: (Way, impl Future<Output = Result<T, ClientError>>),
) -> Result<(Way, T), ClientError> {
    let failed = Notify::new();
    let mut lead = pin!(first.1);
    let mut follow = pin!(async {
        let _ = tokio::time::timeout(HEAD_START, failed.notified()).await;
        second.1.await
    });
    let (mut leads, mut follows) = (true, true);
    let mut why = None;
    while leads || follows {
        let (way, result) = tokio::select! {
            result = &mut lead, if leads => {
                leads = false;
                (first.0, result)
            }
            result = &mut follow, if follows => {
                follows = false;
                (second.0, result)
            }
        };
        match result {
            Ok(done) => return Ok((way, done)),
            Err(error) if !error.is_about_connection() => return Err(error),
            Err(error) => {
                tracing::debug!(?way, error = &error as &dyn std::error::Error, "the server was not reached");
                if way == Way::Tls || why.is_none() {
                    why = Some(error);
                }
                failed.notify_one();
            }
        }
    }
    Err(why.unwrap_or_else(|| ClientError::Usage("there is no way to the server".to_owned())))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    way: Way,
    /// Seconds since 1970.
    at: u64,
}

/// What worked, by server.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Memory(BTreeMap<String, Remembered>);

impl Memory {
    /// A file that is not there or cannot be understood is an empty one: it costs a quarter of a second.
    fn load(path: &Path) -> Self {
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&file, self)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    fn way(&self, server: &Server, now: u64) -> Option<Way> {
        let remembered = self.0.get(&server.to_string())?;
        let stale = now.saturating_sub(remembered.at) > TLS_REMEMBERED.as_secs();
        (remembered.way == Way::Quic || !stale).then_some(remembered.way)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
