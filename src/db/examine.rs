//! What a connection finds out about the server, about the way there and about its own login, for somebody who looks
//! whether a node could work with them. Judging it is not done here.

use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;

use super::{Connector, Database, DbError, Listener, lease::Lease};

/// A machine that is busy at this moment is no long way; the fastest answer tells.
const ROUND_TRIPS: u32 = 5;

/// A login, and the server as it shows itself to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The role.
    pub role: String,
    /// Whether it may do everything.
    pub superuser: bool,
    /// Whether it has the rights of `qvd_node`.
    pub is_node: bool,
    /// Whether it has the rights of `qvd_l7r`.
    pub is_l7r: bool,
    /// Version of the server as a number: 150014 for 15.14.
    pub version: i32,
    /// How the connection runs.
    pub way: Way,
    /// How long the server takes to answer.
    pub round_trip: Duration,
    /// By how many seconds the server's clock is ahead of ours, give or take the round trip.
    pub clock_ahead: f64,
    /// Connections that the server has left for roles like this one.
    pub connections_left: i64,
}

/// How a connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Within the machine.
    Socket,
    /// Over the network, encrypted.
    Encrypted,
    /// Over the network, for everybody to read.
    Plain,
}

const STANDING: &str = "select current_user::text,
    (select rolsuper from pg_roles where rolname = current_user),
    exists (select from pg_roles where rolname = 'qvd_node' and pg_has_role(oid, 'usage')),
    exists (select from pg_roles where rolname = 'qvd_l7r' and pg_has_role(oid, 'usage')),
    current_setting('server_version_num')::integer,
    inet_client_addr() is null,
    coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false),
    current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
        - (select sum(numbackends)::bigint from pg_stat_database)";

impl Connector {
    /// Whether something before the database gives every transaction another session, as far as connections that were made
    /// have shown.
    pub fn is_pooled(&self) -> bool {
        self.servers().pooled.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Database {
    /// Logs in and looks around.
    pub async fn standing(&self) -> Result<Standing, DbError> {
        let connection = self.connection().await?;
        let row = connection.query_one(STANDING, &[]).await?;
        let (mut round_trip, mut clock_ahead) = clock(&connection).await?;
        for _ in 1..ROUND_TRIPS {
            let (took, ahead) = clock(&connection).await?;
            if took < round_trip {
                (round_trip, clock_ahead) = (took, ahead);
            }
        }
        Ok(Standing {
            role: row.get(0),
            superuser: row.get(1),
            is_node: row.get(2),
            is_l7r: row.get(3),
            version: row.get(4),
            way: match (row.get(5), row.get(6)) {
                (true, _) => Way::Socket,
                (false, true) => Way::Encrypted,
                (false, false) => Way::Plain,
            },
            round_trip,
            clock_ahead,
            connections_left: row.get(7),
        })
    }

    /// How long a notification takes from a connection to another; `None` when it does not arrive within `limit`. Nobody
    /// else listens to it.
    pub async fn echo_on(&self, channel: &str, limit: Duration) -> Result<Option<Duration>, DbError> {
        let mut listen = Listener::connect(&self.connector).await?;
        listen.listener.listen([channel]).await?;
        let connection = self.connection().await?;
        let sent = Instant::now();
        connection.execute("select pg_notify($1, '')", &[&channel]).await?;
        let heard = timeout(limit, listen.notifications.recv()).await;
        Ok(heard.ok().flatten().map(|_| sent.elapsed()))
    }
}

/// How long the server takes to say what time it is, and how many seconds its clock is ahead.
async fn clock(connection: &Lease) -> Result<(Duration, f64), DbError> {
    let statement = connection.prepare_cached("select extract(epoch from clock_timestamp())::float8").await?;
    let (asked, asked_at) = (SystemTime::now(), Instant::now());
    let theirs: f64 = connection.query_one(&statement, &[]).await?.get(0);
    let round_trip = asked_at.elapsed();
    let ours = asked.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + round_trip / 2;
    Ok((round_trip, theirs - ours.as_secs_f64()))
}
