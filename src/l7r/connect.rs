//! Carries out what the connect flow decides, stage by stage: `takeover`, `start`, `x`, `tunnel`. Here the client is told
//! and watched: one that vanishes is noticed at once. Every way out ends the session in the database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    auth::Visit,
    db::{self, Acquired, DbError, SessionVm, Terms},
    events::{Channel, Hub, Watch},
    model::{SessionId, VmId, VmSecret, VmState, config::keys},
    tunnel::{Conn, Inner, Way},
};

use super::{
    flow::{Event, Flow, Limits, Next, Operation, Step},
    http::{Dialogue, DialogueError, Request},
    metrics::End,
    nodes::Road,
    requests::{Connection, Served, not_available, unavailable},
    router::{Registered, Router, count},
    tokens::{random, random_token},
    tunnel::finish,
};

/// With this header a client asks for a token to come back with.
const WANTS_RESUME: &str = "X-QVD-Resume";

/// One client on its way to its VM.
pub(super) struct Attempt {
    pub(super) router: Arc<Router>,
    pub(super) vm: VmId,
    /// On which the VM is asked for.
    pub(super) terms: Terms,
    pub(super) visit: Visit,
    pub(super) client: std::net::IpAddr,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) slave_key: String,
    /// How the bytes will be moved.
    pub(super) way: Way,
    pub(super) token: String,
    /// The client wants to be able to come back.
    pub(super) wants_resume: bool,
    /// What it may come back with.
    pub(super) resume: Option<String>,
    pub(super) session: Option<(SessionId, Registered)>,
    pub(super) acquired: Option<Acquired>,
    pub(super) seen: Option<SessionVm>,
    /// What the next look would see, as far as we know.
    pub(super) fresh: Option<SessionVm>,
    pub(super) inner: Option<Inner>,
    /// To the VM as it was seen last, where that may be on another node.
    pub(super) road: Option<Arc<Road>>,
    /// Before the next question to an agent that cannot report changes, once it is known to be such a one.
    pub(super) pause: Option<Duration>,
}

/// Why a client does not come to its VM.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unable {
    /// The VM is not to be had on these terms. Nothing was done, and the client was told nothing.
    #[error("the client has to be checked first")]
    Unfit,
    #[error("the service cannot reach its database")]
    Database(#[from] DbError),
    #[error("{0}")]
    Because(String),
}

/// Brings a client, which asked for it when it `began`, and its VM together. Mostly the client may have it, so it is taken at once
/// on that condition; only when it may not be had is the client checked step by step, for the answer of the first that fails.
pub async fn connect(
    connection: &Connection,
    mut dialogue: Dialogue<Conn>,
    request: &Request,
    vm: VmId,
    visit: Visit,
    began: Instant,
) -> Result<Served, DialogueError> {
    let router = connection.router.clone();
    let parameters = request.query.iter().map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned()));
    let mut attempt = Attempt {
        vm,
        terms: Terms::Unchecked,
        visit,
        client: connection.client,
        parameters: parameters.filter(|(name, _)| name != "id").collect(),
        slave_key: random(64),
        way: dialogue.stream().way(),
        token: random_token(),
        wants_resume: request.header(WANTS_RESUME).is_some(),
        resume: None,
        session: None,
        acquired: None,
        seen: None,
        fresh: None,
        inner: None,
        road: None,
        pause: None,
        router,
    };
    let mut outcome = db::in_order(began, attempt.drive(&mut dialogue)).await;
    if let Ok(Err(Unable::Unfit)) = outcome {
        if let Err(answer) = db::in_order(began, connection.may_connect(&mut attempt.visit, vm)).await {
            dialogue.answer(&answer).await?;
            return Ok(Served::Open(dialogue));
        }
        attempt.admitted();
        outcome = db::in_order(began, attempt.drive(&mut dialogue)).await;
    }
    match outcome {
        Ok(Ok(())) => {}
        // Not even whether it may be connected is known.
        Ok(Err(Unable::Database(error))) if attempt.terms == Terms::Unchecked => {
            dialogue.answer(&unavailable(error)).await?;
            return Ok(Served::Open(dialogue));
        }
        Ok(Err(unable)) => {
            if let Unable::Database(error) = &unable {
                tracing::warn!(%vm, error = error as &dyn std::error::Error, "cannot connect");
            }
            let reason = unable.to_string();
            tracing::info!(%vm, user = %attempt.visit.user.user, reason, "not connected");
            attempt.end(End::NotConnected, &reason).await;
            dialogue.answer(&not_available(&reason)).await?;
            return Ok(Served::Open(dialogue));
        }
        Err(error) => {
            attempt.end(End::ClientLeftEarly, "the client left while it was connecting").await;
            return Err(error);
        }
    }
    let took_ms = began.elapsed().as_millis() as u64;
    tracing::info!(%vm, user = %attempt.visit.user.user, way = %attempt.way, took_ms, "connected");
    count(&attempt.router.counts.nx_ok);
    attempt.tunnel(dialogue, began).await
}

impl Attempt {
    /// The VM is this client's to have: from now on it is an attempt.
    pub(super) fn admitted(&mut self) {
        self.terms = Terms::Checked;
        count(&self.router.counts.nx_attempts);
    }

    /// `Ok(Err(unable))`: it cannot be done; `Err`: the client is gone.
    async fn drive(&mut self, dialogue: &mut Dialogue<Conn>) -> Result<Result<(), Unable>, DialogueError> {
        let mut changes = Changes { hub: self.router.hub.clone(), vm: self.vm, watch: None };
        let (mut flow, mut step) = Flow::new(self.vm, limits(&self.router), Instant::now());
        loop {
            let Step { tell, next } = step;
            for text in tell {
                dialogue.interim(&text).await?;
            }
            let router = self.router.clone();
            let held = self.session.as_ref().map(|(_, session)| session.held.clone()).unwrap_or_default();
            let abort = &held.abort;
            let talk = flow.needs_vm().then(|| self.talk()).flatten();
            let outcome = match (next, talk) {
                (Next::Switch, _) => return Ok(Ok(())),
                (Next::Fail(why), _) => return Ok(Err(Unable::Because(why))),
                // Not to be interrupted: what the database gives without anybody knowing would stay taken.
                (Next::Do(Operation::Acquire), _) => Ok(self.perform(Operation::Acquire).await),
                (Next::Do(operation), None) => unless_ended(&router, abort, dialogue, self.perform(operation)).await,
                (Next::Do(operation), Some(talk)) => {
                    let unless_lost = async {
                        tokio::select! {
                            done = self.perform(operation) => done,
                            event = talk.ended(&mut changes) => Ok(event),
                        }
                    };
                    unless_ended(&router, abort, dialogue, unless_lost).await
                }
                (Next::Wait(until), None) => {
                    let woken = async {
                        let _ = tokio::time::timeout_at(until.into(), changes.next()).await;
                        Ok(Event::Woken)
                    };
                    unless_ended(&router, abort, dialogue, woken).await
                }
                (Next::Wait(until), Some(talk)) => {
                    let unless_lost = tokio::time::timeout_at(until.into(), talk.ended(&mut changes));
                    let waited = async { Ok(unless_lost.await.unwrap_or(Event::Woken)) };
                    unless_ended(&router, abort, dialogue, waited).await
                }
            };
            let event = match outcome {
                Ok(Ok(event)) => event,
                Ok(Err(unable)) => return Ok(Err(unable)),
                Err(Ended::Aborted) => Event::Aborted(held.cause()),
                Err(Ended::Stopping) => return Ok(Err(Unable::Because("Server is stopping".to_owned()))),
                Err(Ended::Vanished) => return Err(DialogueError::Vanished),
            };
            step = flow.step(event, Instant::now());
        }
    }

    async fn perform(&mut self, operation: Operation) -> Result<Event, Unable> {
        Ok(match operation {
            Operation::Acquire => self.acquire().await?,
            Operation::Prepare => self.prepare().await,
            Operation::Look => self.look().await?,
            Operation::StartVm => self.start_vm().await?,
            Operation::StartX => self.start_x().await,
            Operation::AskX(seen) => Event::X(self.ask_x(seen).await.map_err(|error| self.explain(&error))),
            Operation::Dial => Event::Dialled(self.dial().await),
            Operation::Confirm => self.confirm().await?,
        })
    }

    /// The talk with the VM as it was seen last.
    fn talk(&self) -> Option<Talk> {
        let (session, secret) = (self.session.as_ref()?.0, self.seen.as_ref()?.secret.clone());
        Some(Talk { router: self.router.clone(), session, secret })
    }

    async fn end(&mut self, end: End, reason: &str) {
        if let Some((session, _registered)) = self.session.take() {
            self.router.metrics.end(end);
            finish(&self.router, session, reason, (0, 0), false).await;
        }
    }
}

/// Changes of a VM. Most clients find theirs running and wait for none, so it is listened to when the first wait begins.
struct Changes {
    hub: Hub,
    vm: VmId,
    watch: Option<Watch>,
}

impl Changes {
    /// Returns when the VM has to be looked at again. The first time that is at once: what changed before nobody heard.
    async fn next(&mut self) {
        match &mut self.watch {
            Some(watch) => {
                watch.changed().await;
            }
            None => self.watch = Some(self.hub.watch(Channel::Vm(self.vm)).await),
        }
    }
}

/// Before it is looked whether a VM that says nothing is still there. Mostly it has answered by then.
const SILENCE: Duration = Duration::from_millis(200);

/// What is said to a VM that may be gone: with its node, no answer would come.
struct Talk {
    router: Arc<Router>,
    session: SessionId,
    /// Each run of a VM has another.
    secret: Option<VmSecret>,
}

impl Talk {
    /// Resolves when the VM stopped, or runs elsewhere.
    async fn ended(self, changes: &mut Changes) -> Event {
        tokio::time::sleep(SILENCE).await;
        loop {
            changes.next().await;
            match self.router.database.l7r_session(self.session).await {
                Ok(Some(vm)) if vm.state == VmState::Running && vm.secret == self.secret => {}
                Ok(Some(_)) => return Event::Lost,
                Ok(None) => return Event::Aborted(None),
                // A VM does not need the database.
                Err(_) => {}
            }
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
