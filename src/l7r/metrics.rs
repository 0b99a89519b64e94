//! What is added up here and written to the database now and then: how bytes were moved, and why sessions ended. Nothing
//! on the way to a tunnel waits for it. Counters of requests and of strangers are the router's own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    db::{DbError, TunnelCount},
    tunnel::Way,
};

use super::router::{Router, count};

/// Why a session ended, in the words that are counted; the session itself has more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its client left.
    ClientLeft,
    /// Its client left before it was connected.
    ClientLeftEarly,
    /// Its client could not be connected.
    NotConnected,
    /// The X session closed the connection.
    DesktopEnded,
    /// The VM was stopped.
    DesktopStopped,
    /// Another client of the user came.
    TakenOver,
    /// An administrator did not want it any more.
    Administrator,
    /// A limit of its tenant.
    Limit,
    /// The network on the client's side.
    ClientFailed,
    /// The network on the VM's side.
    DesktopFailed,
    /// This process was told to end.
    RouterStopped,
    /// Another process took this one's place, and the client was told to come there.
    RouterReplaced,
    /// Its client never got it.
    Lost,
}

impl End {
    const ALL: [Self; 13] = [
        Self::ClientLeft,
        Self::ClientLeftEarly,
        Self::NotConnected,
        Self::DesktopEnded,
        Self::DesktopStopped,
        Self::TakenOver,
        Self::Administrator,
        Self::Limit,
        Self::ClientFailed,
        Self::DesktopFailed,
        Self::RouterStopped,
        Self::RouterReplaced,
        Self::Lost,
    ];

    /// The words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientLeft => "client left",
            Self::ClientLeftEarly => "client left while connecting",
            Self::NotConnected => "not connected",
            Self::DesktopEnded => "desktop ended the connection",
            Self::DesktopStopped => "desktop stopped",
            Self::TakenOver => "taken over",
            Self::Administrator => "disconnected by an administrator",
            Self::Limit => "limit reached",
            Self::ClientFailed => "connection to the client failed",
            Self::DesktopFailed => "connection to the desktop failed",
            Self::RouterStopped => "router stopped",
            Self::RouterReplaced => "router replaced",
            Self::Lost => "lost on the way from the database",
        }
    }
}

const WAYS: [Way; 5] = [Way::Splice, Way::Ktls, Way::User, Way::Quic, Way::Node];

#[derive(Default)]
struct Moved {
    tunnels: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

/// What was added up since it was written last.
#[derive(Default)]
pub struct Metrics {
    /// By `Way`.
    moved: [Moved; WAYS.len()],
    /// By `End`.
    ends: [AtomicU64; End::ALL.len()],
}

impl Metrics {
    /// A tunnel begins.
    pub fn tunnel(&self, way: Way) {
        count(&self.moved[way as usize].tunnels);
    }

    /// A tunnel has moved so many more bytes.
    pub fn moved(&self, way: Way, up: u64, down: u64) {
        self.moved[way as usize].up.fetch_add(up, Relaxed);
        self.moved[way as usize].down.fetch_add(down, Relaxed);
    }

    /// A session ends.
    pub fn end(&self, end: End) {
        count(&self.ends[end as usize]);
    }

    fn take(&self) -> (Vec<TunnelCount>, Vec<(End, u64)>) {
        let taken = |counter: &AtomicU64| counter.swap(0, Relaxed);
        let tunnels = WAYS.map(|way| {
            let Moved { tunnels, up, down } = &self.moved[way as usize];
            TunnelCount { way: way.as_str(), tunnels: taken(tunnels), up: taken(up), down: taken(down) }
        });
        let ends = End::ALL.map(|end| (end, taken(&self.ends[end as usize])));
        let any = |count: &TunnelCount| count.tunnels | count.up | count.down != 0;
        (tunnels.into_iter().filter(any).collect(), ends.into_iter().filter(|(_, ended)| *ended != 0).collect())
    }
}

impl Router {
    /// Writes what was added up.
    pub(super) async fn write_metrics(&self) {
        let (tunnels, ends) = self.metrics.take();
        if let Err(error) = self.write(&tunnels, &ends).await {
            tracing::debug!(%error, "cannot write the counters");
            for count in tunnels {
                if let Some(way) = WAYS.into_iter().find(|way| way.as_str() == count.way) {
                    self.metrics.moved[way as usize].tunnels.fetch_add(count.tunnels, Relaxed);
                    self.metrics.moved(way, count.up, count.down);
                }
            }
            for (end, ended) in ends {
                self.metrics.ends[end as usize].fetch_add(ended, Relaxed);
            }
        }
    }

    /// Both or, as far as it can be known, none.
    async fn write(&self, tunnels: &[TunnelCount], ends: &[(End, u64)]) -> Result<(), DbError> {
        if tunnels.is_empty() && ends.is_empty() {
            return Ok(());
        }
        let ends: Vec<(&str, u64)> = ends.iter().map(|(end, ended)| (end.as_str(), *ended)).collect();
        self.database.l7r_count_sessions(self.host, tunnels, &ends).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_in_its_place_and_given_away_once() {
        assert!(End::ALL.iter().enumerate().all(|(at, end)| *end as usize == at));
        assert!(WAYS.iter().enumerate().all(|(at, way)| *way as usize == at));
        let metrics = Metrics::default();
        for way in [Way::Quic, Way::Quic, Way::Splice] {
            metrics.tunnel(way);
        }
        metrics.moved(Way::Quic, 3, 4);
        metrics.moved(Way::Quic, 30, 40);
        metrics.end(End::Limit);
        let (tunnels, ends) = metrics.take();
        let tunnels: Vec<_> = tunnels.iter().map(|moved| (moved.way, moved.tunnels, moved.up, moved.down)).collect();
        assert_eq!(tunnels, [("splice", 1, 0, 0), ("quic", 2, 33, 44)]);
        assert_eq!(ends, [(End::Limit, 1)]);
        let (tunnels, ends) = metrics.take();
        assert!(tunnels.is_empty() && ends.is_empty());
    }
}
