//! Carries out what the connect flow decides: asks database and agent, tells the client, and turns the connection
//! into a tunnel. Every way out ends the session in the database; a client that vanishes is noticed at once.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, distr::Alphanumeric};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Authenticated,
    db::{Acquired, DbError, SessionVm, StartAsked},
    events::{Channel, Watch},
    model::{SessionId, VmId, XState, config::keys},
    tunnel::{self, Conn},
    vma::client::{AgentClient, AgentError},
};

use super::{
    flow::{Event, Flow, Limits, Next, Operation, Seen, Step},
    http::{Dialogue, DialogueError, Request},
    requests::{Connection, Served, not_available},
    router::{Registered, Router, Sessions, count},
};

/// How long one question for the X state may wait at the agent. Shorter than the interval in which a client is told
/// that it still waits.
const X_WAIT: Duration = Duration::from_millis(1900);
/// A classic agent says "listening" a little before nxagent listens.
const DIAL_RETRY: Duration = Duration::from_millis(20);

/// Names the session, so that the client can ask later why it ended. Classic clients do not look at it.
const SESSION_HEADER: &str = "X-QVD-Session-Id";

/// One client on its way to its VM.
struct Attempt {
    router: Arc<Router>,
    vm: VmId,
    user: Authenticated,
    client: std::net::IpAddr,
    parameters: Vec<(String, String)>,
    slave_key: String,
    /// How the bytes will be moved.
    way: &'static str,
    token: String,
    watch: Watch,
    session: Option<(SessionId, Registered)>,
    acquired: Option<Acquired>,
    seen: Option<SessionVm>,
    inner: Option<TcpStream>,
    /// Ping-pong of an agent that cannot report changes.
    poll_pause: Duration,
}

/// Brings a client and its VM together.
pub async fn connect(
    connection: &Connection,
    mut dialogue: Dialogue<Conn>,
    request: &Request,
    vm: VmId,
    user: Authenticated,
) -> Result<Served, DialogueError> {
    let router = connection.router.clone();
    count(&router.counts.nx_attempts);
    let began = Instant::now();
    // Listening comes before the first look, so that no change after it can be missed.
    let watch = router.hub.watch(Channel::Vm(vm)).await;
    let parameters = request.query.iter().map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned()));
    let mut attempt = Attempt {
        vm,
        user,
        client: connection.client,
        parameters: parameters.filter(|(name, _)| name != "id").collect(),
        slave_key: random(64),
        way: dialogue.stream().way(),
        token: random(43),
        watch,
        session: None,
        acquired: None,
        seen: None,
        inner: None,
        poll_pause: Duration::from_millis(10),
        router,
    };
    let outcome = attempt.drive(&mut dialogue).await;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => {
            tracing::info!(%vm, user = %attempt.user.user, reason, "not connected");
            attempt.end(&reason).await;
            dialogue.answer(&not_available(&reason)).await?;
            return Ok(Served::Open(dialogue));
        }
        Err(error) => {
            attempt.end("the client left while it was connecting").await;
            return Err(error);
        }
    }
    let took_ms = began.elapsed().as_millis() as u64;
    tracing::info!(%vm, user = %attempt.user.user, way = attempt.way, took_ms, "connected");
    count(&attempt.router.counts.nx_ok);
    attempt.tunnel(dialogue, began).await
}

impl Attempt {
    /// `Ok(Err(reason))`: it cannot be done; `Err`: the client is gone.
    async fn drive(&mut self, dialogue: &mut Dialogue<Conn>) -> Result<Result<(), String>, DialogueError> {
        let (mut flow, mut step) = Flow::new(self.vm, limits(&self.router), Instant::now());
        loop {
            let Step { tell, next } = step;
            for text in tell {
                dialogue.interim(&text).await?;
            }
            let router = self.router.clone();
            let abort = self.session.as_ref().map(|(_, session)| session.held.abort.clone()).unwrap_or_default();
            let outcome = match next {
                Next::Switch => return Ok(Ok(())),
                Next::Fail(why) => return Ok(Err(why)),
                // Not to be interrupted: what the database gives without anybody knowing would stay taken.
                Next::Do(Operation::Acquire) => Ok(self.perform(Operation::Acquire).await),
                Next::Do(operation) => unless_ended(&router, &abort, dialogue, self.perform(operation)).await,
                Next::Wait(until) => unless_ended(&router, &abort, dialogue, self.wait(until)).await,
            };
            let event = match outcome {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => {
                    tracing::warn!(vm = %self.vm, error = &error as &dyn std::error::Error, "cannot connect");
                    return Ok(Err("the service cannot reach its database".to_owned()));
                }
                Err(Ended::Aborted) => Event::Aborted,
                Err(Ended::Stopping) => return Ok(Err("Server is stopping".to_owned())),
                Err(Ended::Vanished) => return Err(DialogueError::Vanished),
            };
            step = flow.step(event, Instant::now());
        }
    }

    async fn wait(&mut self, until: Instant) -> Result<Event, DbError> {
        let until = tokio::time::Instant::from_std(until);
        let _ = tokio::time::timeout_at(until, self.watch.changed()).await;
        Ok(Event::Woken)
    }

    async fn perform(&mut self, operation: Operation) -> Result<Event, DbError> {
        let database = &self.router.database;
        Ok(match operation {
            Operation::Acquire => {
                let instance = self.router.instance;
                let acquired = database.l7r_acquire(instance, self.vm, self.user.user, self.client, &self.token).await;
                let acquired = acquired.inspect_err(|_| self.router.sessions.doubt())?;
                if let Some(acquired) = &acquired {
                    self.session = Some((acquired.session, Sessions::register(&self.router, acquired.session)));
                }
                self.acquired = acquired;
                Event::Acquired(self.acquired.is_some())
            }
            Operation::Look => {
                let seen = match &self.session {
                    Some((session, _)) => database.l7r_session(*session).await?,
                    None => None,
                };
                self.seen = seen;
                match &self.seen {
                    Some(seen) => Event::Vm(Seen {
                        state: seen.state,
                        commanded: seen.commanded,
                        placed: seen.placed,
                        aborted: seen.aborted,
                    }),
                    None => Event::Aborted,
                }
            }
            Operation::StartVm => match &self.session {
                Some((session, _)) => match database.l7r_vm_start(*session).await? {
                    StartAsked::Accepted => Event::StartAsked(Ok(())),
                    StartAsked::NoHost => Event::StartAsked(Err("no host available".to_owned())),
                    StartAsked::Refused => {
                        Event::StartAsked(Err(format!("Failed to start virtual machine {}", self.vm)))
                    }
                },
                None => Event::Aborted,
            },
            Operation::StartX => {
                let outcome = match self.agent() {
                    Some(agent) => agent.x_start(&self.x_parameters()).await,
                    None => Err(AgentError::Protocol("its address is not known".to_owned())),
                };
                Event::XStarted(outcome.map_err(|error| self.explain(&error)))
            }
            Operation::AskX(seen) => Event::X(self.ask_x(seen).await.map_err(|error| self.explain(&error))),
            Operation::Dial => Event::Dialled(self.dial().await),
            Operation::Confirm => match &self.session {
                Some((session, _)) => Event::Confirmed(database.l7r_connected(*session, self.way).await?),
                None => Event::Aborted,
            },
        })
    }

    fn agent(&self) -> Option<AgentClient> {
        let seen = self.seen.as_ref()?;
        let limit = self.router.config.load().get(&keys::L7R_TIMEOUT_VMA);
        Some(AgentClient::new(seen.vma?, seen.secret.clone(), limit))
    }

    /// Later ones override earlier ones: what the client sent, what we add, properties, what authentication found.
    fn x_parameters(&self) -> Vec<(String, String)> {
        let mut merged: Vec<(String, String)> = Vec::new();
        let acquired = self.acquired.as_ref();
        let ours = [
            ("auth_token".to_owned(), self.token.clone()),
            ("host_address".to_owned(), acquired.map(|acquired| acquired.host_address.clone()).unwrap_or_default()),
        ];
        let properties = acquired.map(|acquired| acquired.properties.clone()).unwrap_or_default();
        let key = [("qvd.slave.key".to_owned(), self.slave_key.clone())];
        let all = self.parameters.iter().cloned().chain(ours).chain(properties);
        for (name, value) in all.chain(self.user.parameters.iter().cloned()).chain(key) {
            match merged.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => *old = value,
                None => merged.push((name, value)),
            }
        }
        merged
    }

    /// An agent of ours answers when its state changes; a classic one is asked again and again, fast at first.
    async fn ask_x(&mut self, seen: Option<XState>) -> Result<XState, AgentError> {
        let Some(agent) = self.agent() else {
            return Err(AgentError::Protocol("its address is not known".to_owned()));
        };
        let Some(seen) = seen else { return agent.x_state().await };
        if let Some(state) = agent.x_wait(seen, X_WAIT).await? {
            return Ok(state);
        }
        tokio::time::sleep(self.poll_pause).await;
        let slowest = self.router.config.load().get(&keys::L7R_POLL_X);
        self.poll_pause = (self.poll_pause * 2).min(slowest);
        agent.x_state().await
    }

    async fn dial(&mut self) -> Result<(), String> {
        let Some(address) = self.seen.as_ref().and_then(|seen| seen.x) else {
            return Err("its address is not known".to_owned());
        };
        let limit = self.router.config.load().get(&keys::L7R_TIMEOUT_X_START);
        let deadline = Instant::now() + limit;
        loop {
            match dial_once(address, deadline).await {
                Ok(stream) => {
                    self.inner = Some(stream);
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                    tokio::time::sleep(DIAL_RETRY).await;
                }
                Err(error) => {
                    tracing::warn!(vm = %self.vm, %address, %error, "cannot connect to nxagent");
                    return Err("nxagent does not answer".to_owned());
                }
            }
        }
    }

    /// What the user may read of an agent's failure; the log gets all of it.
    fn explain(&self, error: &AgentError) -> String {
        tracing::info!(vm = %self.vm, error = error as &dyn std::error::Error, "the agent could not do it");
        match error {
            AgentError::Refused(text) => text.clone(),
            other => other.to_string(),
        }
    }

    async fn tunnel(mut self, dialogue: Dialogue<Conn>, began: Instant) -> Result<Served, DialogueError> {
        let (Some((session, registered)), Some(inner)) = (self.session.take(), self.inner.take()) else {
            return Ok(Served::Closed);
        };
        let router = self.router.clone();
        let headers = [("X-QVD-Slave-Key", self.slave_key.as_str()), (SESSION_HEADER, &session.to_string())];
        let (outer, leftover) = match dialogue.switch(&headers).await {
            Ok(switched) => switched,
            Err(error) => {
                finish(&router, session, "the client left while it was connecting", 0, 0).await;
                return Err(error);
            }
        };
        // Nobody needs to be woken for this VM while bytes flow.
        drop(self.watch);
        let held = registered.held.clone();
        let stopped = router.stop.clone();
        let guard = held.abort.clone();
        let link = tokio::spawn(async move {
            stopped.cancelled().await;
            guard.cancel();
        });
        let ended = tunnel::relay(outer, inner, leftover, &held.counters, &held.abort).await;
        link.abort();
        let reason = match &ended.reason {
            tunnel::Reason::OuterClosed | tunnel::Reason::OuterCut => "the client left".to_owned(),
            tunnel::Reason::InnerClosed => "the desktop ended the connection".to_owned(),
            tunnel::Reason::Cancelled if router.stop.is_cancelled() => "the router was stopped".to_owned(),
            tunnel::Reason::Cancelled => "taken over or disconnected".to_owned(),
            tunnel::Reason::OuterFailed(error) => format!("the connection to the client failed: {error}"),
            tunnel::Reason::InnerFailed(error) => format!("the connection to the desktop failed: {error}"),
        };
        let lasted = began.elapsed();
        if lasted < router.config.load().get(&keys::L7R_SHORT_SESSION) {
            count(&router.counts.short_sessions);
        }
        tracing::info!(
            vm = %self.vm, %session, up = ended.up, down = ended.down, seconds = lasted.as_secs(), reason, "disconnected"
        );
        finish(&router, session, &reason, ended.up, ended.down).await;
        Ok(Served::Closed)
    }

    async fn end(&mut self, reason: &str) {
        if let Some((session, _registered)) = self.session.take() {
            finish(&self.router, session, reason, 0, 0).await;
        }
    }
}

/// What ends an attempt from outside.
enum Ended {
    Aborted,
    Stopping,
    Vanished,
}

/// Does `work`, unless the session is aborted, the router stops or the client leaves.
async fn unless_ended<T>(
    router: &Router,
    abort: &CancellationToken,
    dialogue: &mut Dialogue<Conn>,
    work: impl Future<Output = T>,
) -> Result<T, Ended> {
    tokio::select! {
        biased;
        () = router.stop.cancelled() => Err(Ended::Stopping),
        () = abort.cancelled() => Err(Ended::Aborted),
        () = dialogue.closed() => Err(Ended::Vanished),
        done = work => Ok(done),
    }
}

async fn dial_once(address: SocketAddr, deadline: Instant) -> std::io::Result<TcpStream> {
    let connecting = TcpStream::connect(address);
    let stream = tokio::time::timeout_at(tokio::time::Instant::from_std(deadline), connecting)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    tunnel::tune(&stream)?;
    Ok(stream)
}

/// Ends a session in the database, however long that takes: until then nobody else gets the VM.
async fn finish(router: &Router, session: SessionId, reason: &str, up: u64, down: u64) {
    let mut pause = Duration::from_millis(50);
    loop {
        match router.database.l7r_end(session, reason, up, down).await {
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

fn limits(router: &Router) -> Limits {
    let config = router.config.load();
    Limits {
        takeover: config.get(&keys::L7R_TIMEOUT_TAKEOVER),
        vm_start: config.get(&keys::L7R_TIMEOUT_VM_START),
        x_start: config.get(&keys::L7R_TIMEOUT_X_START),
        x_retries: config.get(&keys::L7R_RETRY_X_START),
        tell: config.get(&keys::L7R_POLL_VM),
    }
}

fn random(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}
