//! The last stage: a connection to nxagent, the 101, and bytes until an end closes. It always ends with the end of the
//! session in the database.

use std::time::{Duration, Instant};

use crate::{
    db::{AbortCause, DbError},
    model::{
        SessionId,
        config::{Config, keys},
    },
    tunnel::{self, Conn, Inner},
};

use super::{
    connect::Attempt,
    flow::Event,
    http::{Dialogue, DialogueError},
    metrics::End,
    nodes::direct,
    requests::Served,
    router::{Held, Router, count},
    tokens::random_token,
};

/// A classic agent says "listening" a little before nxagent listens.
const DIAL_RETRY: Duration = Duration::from_millis(20);

/// Names the session, so that the client can ask later why it ended. Classic clients do not look at it.
const SESSION_HEADER: &str = "X-QVD-Session-Id";

/// Lets a client that asked for it come back when this router is gone, without the credentials it came with: they may
/// have been good for once.
const RESUME_HEADER: &str = "X-QVD-Resume-Token";

impl Attempt {
    /// Connects to nxagent.
    pub(super) async fn dial(&mut self) -> Result<(), String> {
        let Some(address) = self.seen.as_ref().and_then(|seen| seen.x) else {
            return Err("its address is not known".to_owned());
        };
        let limit = self.router.config.load().get(&keys::L7R_TIMEOUT_X_START);
        let deadline = Instant::now() + limit;
        loop {
            let dialled = match &self.road {
                Some(road) => road.connect(address, deadline).await,
                None => direct(address, deadline).await.map(Inner::Tcp),
            };
            match dialled {
                Ok(inner) => {
                    self.way = inner.way(self.way);
                    self.inner = Some(inner);
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                    tokio::time::sleep(DIAL_RETRY).await;
                }
                Err(error) => {
                    tracing::warn!(vm = %self.vm, %address, %error, "cannot connect to nxagent");
                    return Err(match self.road {
                        Some(_) => format!("nxagent does not answer: {error}"),
                        None => "nxagent does not answer".to_owned(),
                    });
                }
            }
        }
    }

    /// Publishes that bytes are about to flow, if they still may.
    pub(super) async fn confirm(&mut self) -> Result<Event, DbError> {
        let Some((session, _)) = &self.session else {
            return Ok(Event::Aborted(None));
        };
        // It is found by the session that it names.
        self.resume = self.wants_resume.then(|| format!("{session}.{}", random_token()));
        let resume = self.resume.as_deref().map(|token| (token, self.visit.user.parameters.as_slice()));
        Ok(Event::Confirmed(self.router.database.l7r_connected(*session, self.way.as_str(), resume).await?))
    }

    /// Answers 101 and moves bytes until an end closes.
    pub(super) async fn tunnel(mut self, dialogue: Dialogue<Conn>, began: Instant) -> Result<Served, DialogueError> {
        let (Some((session, registered)), Some(inner)) = (self.session.take(), self.inner.take()) else {
            return Ok(Served::Closed);
        };
        let router = self.router.clone();
        let name = session.to_string();
        let mut headers = vec![("X-QVD-Slave-Key", self.slave_key.as_str()), (SESSION_HEADER, &name)];
        headers.extend(self.resume.as_deref().map(|token| (RESUME_HEADER, token)));
        let (outer, leftover) = match dialogue.switch(&headers).await {
            Ok(switched) => switched,
            Err(error) => {
                router.metrics.end(End::ClientLeftEarly);
                finish(&router, session, "the client left while it was connecting", (0, 0), false).await;
                return Err(error);
            }
        };
        let held = registered.held.clone();
        let stopped = router.stop.clone();
        let guard = held.abort.clone();
        let link = tokio::spawn(async move {
            stopped.cancelled().await;
            guard.cancel();
        });
        let last_call = router.moves(self.way);
        let settled = tunnel::Settled::new(outer, inner);
        let announced = std::mem::replace(&mut self.way, settled.way());
        router.metrics.tunnel(self.way);
        let limits = limits(&router.authenticators.config(self.visit.user.tenant));
        router.sessions.tunnel(session, self.way, limits);
        let correction = async {
            if announced != self.way {
                tracing::info!(vm = %self.vm, %session, %announced, way = %self.way, "the tunnel goes another way");
                if let Err(error) = router.database.l7r_way(session, self.way.as_str()).await {
                    tracing::warn!(%session, %error, "the way of the tunnel could not be written");
                }
            }
        };
        let relay = settled.relay(leftover, &held.counters, &held.abort, last_call);
        let (ended, ()) = tokio::join!(relay, correction);
        link.abort();
        let (end, reason) = match &ended.reason {
            tunnel::Reason::InnerClosed | tunnel::Reason::OuterFailed(_) if router.has_moved(self.way) => {
                (End::RouterReplaced, "the router was replaced, and the client told to connect again".to_owned())
            }
            reason => why(reason, &held, router.stop.is_cancelled()),
        };
        router.metrics.end(end);
        let lasted = began.elapsed();
        if lasted < router.config.load().get(&keys::L7R_SHORT_SESSION) {
            count(&router.counts.short_sessions);
        }
        tracing::info!(
            vm = %self.vm, %session, way = %self.way, up = ended.up, down = ended.down, seconds = lasted.as_secs(), reason, "disconnected"
        );
        finish(&router, session, &reason, (ended.up, ended.down), end == End::RouterReplaced).await;
        Ok(Served::Closed)
    }
}

/// How long a tunnel may last, as its tenant has it; zero is for ever.
fn limits(config: &Config) -> tunnel::Limits {
    let limit = |key| Some(config.get(key)).filter(|limit: &Duration| !limit.is_zero());
    tunnel::Limits { idle: limit(&keys::L7R_SESSION_IDLE_LIMIT), total: limit(&keys::L7R_SESSION_LIMIT) }
}

/// Why a tunnel ended: as it is counted, and in full.
fn why(reason: &tunnel::Reason, held: &Held, stopping: bool) -> (End, String) {
    match reason {
        tunnel::Reason::OuterClosed | tunnel::Reason::OuterCut => (End::ClientLeft, "the client left".to_owned()),
        tunnel::Reason::InnerClosed => (End::DesktopEnded, "the desktop ended the connection".to_owned()),
        tunnel::Reason::Cancelled if stopping => (End::RouterStopped, "the router was stopped".to_owned()),
        tunnel::Reason::Cancelled => match (held.limit.get(), held.cause()) {
            (Some(limit), _) => (End::Limit, limit.to_string()),
            (None, Some(cause)) => (caused(cause), cause.to_string()),
            (None, None) => (End::Administrator, "disconnected".to_owned()),
        },
        tunnel::Reason::OuterFailed(error) => {
            (End::ClientFailed, format!("the connection to the client failed: {error}"))
        }
        tunnel::Reason::InnerFailed(error) => {
            (End::DesktopFailed, format!("the connection to the desktop failed: {error}"))
        }
    }
}

fn caused(cause: AbortCause) -> End {
    match cause {
        AbortCause::Contender(_) => End::TakenOver,
        AbortCause::Stopped => End::DesktopStopped,
        AbortCause::Administrator => End::Administrator,
    }
}

/// Ends a session in the database, however long that takes: until then nobody else gets the VM.
pub(super) async fn finish(router: &Router, session: SessionId, reason: &str, (up, down): (u64, u64), resumable: bool) {
    let mut pause = Duration::from_millis(50);
    loop {
        match router.database.l7r_end(session, reason, up, down, resumable).await {
            Ok(()) => return,
            Err(error) if error.is_passing() && !router.stop.is_cancelled() => {
                tracing::debug!(%session, %error, "cannot end the session yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            Err(error) => {
                tracing::warn!(%session, %error, "the end of the session could not be written");
                return;
            }
        }
    }
}
