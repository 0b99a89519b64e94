//! The requests of one connection, one after the other. Each check is made in the order of the classic protocol, and
//! nothing is written before access is known to be allowed.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use serde::Serialize;

use crate::{
    auth::{Authenticated, Login, LoginAttempt, LoginRules, Purpose, Rates, Rejection, Visit},
    db::{self, DbError, HostStatus, ListedVm, VmCheck},
    model::{
        HostState, SessionId, UserId, VmId,
        config::{Config, keys},
    },
    tunnel::Conn,
};

use super::{
    connect,
    http::{Answer, Credentials, Dialogue, DialogueError, Patience, Request, Status},
    limits::Stranger,
    router::{Router, count},
    stop,
};

/// What a request came to.
pub enum Served {
    /// The next one may come.
    Open(Dialogue<Conn>),
    /// The connection has become a tunnel and has ended, or the client is gone.
    Closed,
}

/// What is remembered between the requests of one connection.
pub struct Connection {
    pub router: Arc<Router>,
    pub client: IpAddr,
    /// Until it has logged in, it is one of those who may not be too many or too slow.
    stranger: Option<Stranger>,
    /// The last credentials that were accepted, and for whom.
    pub(super) accepted: Option<(Credentials, Authenticated)>,
}

/// The text for somebody who wants what is another's.
const FOREIGN: &str = "You are not allowed to access requested virtual machine";
/// The text when the database is away.
const NO_DATABASE: &str = "The service is not available at the moment, retry later.";

impl Connection {
    /// A connection from `client`.
    pub fn new(router: Arc<Router>, client: IpAddr, stranger: Stranger) -> Self {
        Self { router, client, stranger: Some(stranger), accepted: None }
    }

    /// Serves requests until the client leaves or becomes a tunnel.
    pub async fn serve(mut self, conn: Conn) -> Result<(), DialogueError> {
        let limit = self.router.config.load().get(&keys::L7R_HEAD_LIMIT) as usize;
        let way = conn.way();
        let mut dialogue = Dialogue::new(conn, limit);
        loop {
            let head = self.router.config.load().get(&keys::L7R_TIMEOUT_HEAD);
            dialogue.limit_time(Patience { head, before: self.stranger.is_some() });
            let request = tokio::select! {
                request = dialogue.next_request() => request,
                () = self.router.stop.cancelled() => Ok(None),
                () = self.router.moves(way) => Ok(None),
            };
            if let Err(DialogueError::TooSlow) = &request {
                count(&self.router.refused.slow);
            }
            let request = request?;
            let Some(request) = request else { return Ok(()) };
            match self.request(dialogue, request).await? {
                Served::Open(again) => dialogue = again,
                Served::Closed => return Ok(()),
            }
        }
    }

    async fn request(&mut self, mut dialogue: Dialogue<Conn>, request: Request) -> Result<Served, DialogueError> {
        tracing::debug!(client = %self.client, path = request.path, "request");
        let began = Instant::now();
        let answer = if request.method != "GET" {
            Answer::from(Status::NotFound)
        } else {
            match request.path.as_str() {
                "/qvd/ping" => self.ping().await,
                "/qvd/list_of_vm" => self.list(&request, false).await,
                "/qvd/list_of_applications" => self.list(&request, true).await,
                "/qvd/authenticate_user" => self.authenticate_user(&request).await,
                "/qvd/create_auth_token" => self.create_auth_token(&request).await,
                "/qvd/session_end" => self.session_end(&request).await,
                "/qvd/connect_to_vm" => match db::in_order(began, self.wants_vm(&request)).await {
                    Ok((vm, visit)) => return connect::connect(self, dialogue, &request, vm, visit, began).await,
                    Err(answer) => answer,
                },
                "/qvd/stop_vm" => match self.may_stop(&request).await {
                    Ok(vm) => return stop::stop(self, dialogue, vm).await,
                    Err(answer) => answer,
                },
                _ => Answer::from(Status::NotFound),
            }
        };
        dialogue.answer(&answer).await?;
        Ok(Served::Open(dialogue))
    }

    async fn ping(&self) -> Answer {
        match self.host_serves().await {
            Ok(()) => Answer::text(Status::Ok, "I am alive!\r\n"),
            Err(answer) => answer,
        }
    }

    async fn list(&mut self, request: &Request, applications: bool) -> Answer {
        match self.listed(request, applications).await {
            Ok(answer) | Err(answer) => answer,
        }
    }

    async fn listed(&mut self, request: &Request, applications: bool) -> Result<Answer, Answer> {
        let user = self.admit(request).await?;
        // One question for the node and the list: a client that keeps its connection asks no other.
        let (host, mut vms) = self.own_vms(user.user, applications).await?;
        serves(host)?;
        let mut visit = self.visit(user, request);
        let chain = &self.router.authenticators;
        let acted = chain.before_list(&mut visit).await.map_err(hook_failed)?;
        match chain.list(&mut visit, applications).await.map_err(hook_failed)? {
            Some(others) => vms = others,
            None if acted => (_, vms) = self.own_vms(visit.user.user, applications).await?,
            None => {}
        }
        self.remember(visit.user);
        let list: Vec<Listed> = vms.iter().map(Listed::from).collect();
        Answer::json(&list).map_err(|_| Answer::from(Status::Internal))
    }

    /// The node, and a user's VMs.
    async fn own_vms(&self, user: UserId, applications: bool) -> Result<(HostStatus, Vec<ListedVm>), Answer> {
        let listed = self.router.database.l7r_list(self.router.host, user, applications).await;
        listed.map_err(unavailable)?.ok_or_else(not_on_record)
    }

    /// A user with a request, for the authenticators.
    fn visit(&self, user: Authenticated, request: &Request) -> Visit {
        let query = request.query.iter().map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned()));
        self.router.authenticators.visit(user, query.collect())
    }

    /// What authenticators said of the user holds for the connection.
    fn remember(&mut self, user: Authenticated) {
        if let Some((_, accepted)) = &mut self.accepted {
            *accepted = user;
        }
    }

    /// Who asks for something that stands for the user, once the authenticators have had their say.
    pub(super) async fn admit_for_others(&mut self, request: &Request) -> Result<Authenticated, Answer> {
        let user = self.admit(request).await?;
        self.host_serves().await?;
        let mut visit = self.visit(user, request);
        self.router.authenticators.before_list(&mut visit).await.map_err(hook_failed)?;
        self.remember(visit.user.clone());
        Ok(visit.user)
    }

    /// Why a session of the user ended: an extension that classic clients do not know, so that a user whose desktop
    /// was taken over can be told.
    async fn session_end(&mut self, request: &Request) -> Answer {
        let ended = async {
            let user = self.authenticate(request).await?;
            let id = request.query.get("id").and_then(|id| id.parse().ok());
            let id = id.ok_or_else(|| Answer::text(Status::Unprocessable, "parameter id is missing"))?;
            let reason = self.router.database.l7r_session_end(SessionId(id), user.user).await.map_err(unavailable)?;
            Answer::json(&serde_json::json!({ "reason": reason })).map_err(|_| Status::Internal.into())
        };
        ended.await.unwrap_or_else(|answer: Answer| answer)
    }

    /// Who wants to be connected to which VM. Whether that may be shows when it is taken.
    async fn wants_vm(&mut self, request: &Request) -> Result<(VmId, Visit), Answer> {
        let user = self.admit(request).await?;
        match vm_to_connect(request, &user) {
            Ok(Some(vm)) => Ok((vm, self.visit(user, request))),
            refused => {
                self.host_serves().await?;
                refused.and(Err(no_such_vm()))
            }
        }
    }

    /// Whether the node serves users, and whether this one may be connected to the VM.
    pub(super) async fn may_connect(&self, visit: &mut Visit, vm: VmId) -> Result<(), Answer> {
        let check = self.look(Some(vm)).await?.ok_or_else(no_such_vm)?;
        if check.blocked {
            return Err(Answer::text(Status::Forbidden, "The requested virtual machine is offline for maintenance"));
        }
        match self.may_have(visit, vm, check.owner, Purpose::Connect).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_available(FOREIGN)),
            Err(Rejection::Db(error)) => Err(unavailable(error)),
            Err(error) => {
                tracing::error!(%vm, error = &error as &dyn std::error::Error, "cannot tell whose VM it is");
                Err(not_available("the connection could not be prepared"))
            }
        }
    }

    async fn may_stop(&mut self, request: &Request) -> Result<VmId, Answer> {
        let user = self.admit(request).await?;
        let check = self.look(wanted_id(request).ok().flatten()).await?;
        bound(request, user.bound_to)?;
        let (vm, check) = wanted_id(request)?.zip(check).ok_or_else(no_such_vm)?;
        let mut visit = self.visit(user, request);
        match self.may_have(&mut visit, vm, check.owner, Purpose::Stop).await.map_err(hook_failed)? {
            true => Ok(vm),
            false => Err(Answer::text(Status::Forbidden, FOREIGN)),
        }
    }

    /// A VM, if there is one, once it is known that the node serves users.
    async fn look(&self, vm: Option<VmId>) -> Result<Option<VmCheck>, Answer> {
        let found = self.router.database.l7r_vm(self.router.host, vm).await.map_err(unavailable)?;
        let (host, vm) = found.ok_or_else(not_on_record)?;
        serves(host)?;
        Ok(vm)
    }

    /// Whether a user may have a VM: the own ones, and what an authenticator allows.
    async fn may_have(&self, visit: &mut Visit, vm: VmId, owner: UserId, purpose: Purpose) -> Result<bool, Rejection> {
        if owner == visit.user.user || self.router.authenticators.allow(visit, vm, purpose).await? {
            return Ok(true);
        }
        tracing::warn!(user = %visit.user.user, %vm, client = %self.client, "access to a foreign VM refused");
        Ok(false)
    }

    /// Who asks, once it is known that the node is on record at all. Whether it serves users is asked after that.
    pub(super) async fn admit(&mut self, request: &Request) -> Result<Authenticated, Answer> {
        if self.router.outdated.load(Relaxed) {
            return Err(Answer::text(Status::Unavailable, "Server is being upgraded"));
        }
        // For those who are known already the node is asked about once, by whatever comes next.
        if !self.knows(request) {
            self.host().await?;
        }
        count(&self.router.counts.requests);
        self.authenticate(request).await
    }

    pub(super) async fn host_serves(&self) -> Result<(), Answer> {
        serves(self.host().await?)
    }

    async fn host(&self) -> Result<HostStatus, Answer> {
        self.router.database.l7r_host(self.router.host).await.map_err(unavailable)?.ok_or_else(not_on_record)
    }

    /// Whether the credentials of a request are the ones that were accepted last.
    fn knows(&self, request: &Request) -> bool {
        self.accepted.as_ref().is_some_and(|(accepted, _)| request.credentials().as_ref() == Ok(accepted))
    }

    /// It has logged in: nobody has to be protected from it any more.
    pub(super) fn is_known_now(&mut self) {
        self.stranger = None;
    }

    /// Lets a login be checked, unless too many have failed lately.
    pub(super) fn attempt(&self, typed: &str, config: &Config) -> Result<LoginAttempt, Answer> {
        // However it is written, it is one account.
        let Login { login, tenant } = LoginRules::from_config(config).parse(typed);
        let account = format!("{login}\0{tenant}");
        let allowed = self.router.limits.allow(Instant::now(), Rates::from_config(config), &account, self.client);
        allowed.map_err(|wait| {
            count(&self.router.refused.limited);
            tracing::debug!(client = %self.client, wait_ms = wait.as_millis() as u64, "login not checked");
            Answer::from(Status::TooManyRequests).retry_after(wait)
        })
    }
}

fn not_on_record() -> Answer {
    Answer::text(Status::Unavailable, "Host is not registered in the database")
}

fn serves(host: HostStatus) -> Result<(), Answer> {
    if host.blocked {
        Err(Answer::text(Status::Unavailable, "Server is blocked"))
    } else if host.state != HostState::Running {
        Err(Answer::text(Status::Unavailable, format!("Server is {}", host.state)))
    } else {
        Ok(())
    }
}

/// A VM in the list. Some clients take numbers for the flags and nothing else.
#[derive(Serialize)]
struct Listed<'a> {
    id: i32,
    state: &'static str,
    name: &'a str,
    blocked: u8,
    is_application: u8,
}

impl<'a> From<&'a ListedVm> for Listed<'a> {
    fn from(vm: &'a ListedVm) -> Self {
        Self {
            id: vm.vm.0,
            state: vm.state.as_str(),
            name: &vm.name,
            blocked: vm.blocked.into(),
            is_application: vm.is_application.into(),
        }
    }
}

fn no_such_vm() -> Answer {
    Answer::text(Status::NotFound, "The requested virtual machine does not exist")
}

/// The VM that a request to connect is about: `None` when there can be none of that `id`.
fn vm_to_connect(request: &Request, user: &Authenticated) -> Result<Option<VmId>, Answer> {
    if !request.wants_tunnel() {
        return Err(Status::UpgradeRequired.into());
    }
    bound(request, user.bound_to)?;
    let vm = wanted_id(request)?;
    let forbidden: Vec<&str> = request
        .query
        .iter()
        .map(|(name, _)| name)
        .filter(|name| *name != "id" && !name.starts_with("qvd.client.") && !name.starts_with("custom."))
        .collect();
    if !forbidden.is_empty() {
        return Err(Answer::text(Status::Forbidden, format!("Invalid parameters {}", forbidden.join(", "))));
    }
    Ok(vm)
}

/// Whether a request is about the VM that its token is bound to, if it is bound. One without `id` is not.
fn bound(request: &Request, bound_to: Option<VmId>) -> Result<(), Answer> {
    let Some(VmId(bound_to)) = bound_to else { return Ok(()) };
    let id = request.query.get("id").and_then(|id| id.parse().ok());
    if id == Some(bound_to) {
        return Ok(());
    }
    Err(Answer::text(Status::Forbidden, "vm_id does not match with provided token"))
}

/// The `id` of a request: an error when it is missing, `None` when no VM can have it.
fn wanted_id(request: &Request) -> Result<Option<VmId>, Answer> {
    let id = request.query.get("id");
    let id = id.ok_or_else(|| Answer::text(Status::Unprocessable, "parameter id is missing"))?;
    Ok(id.parse().ok().map(VmId))
}

/// The classic text of every failure to bring client and VM together.
pub fn not_available(reason: &str) -> Answer {
    Answer::text(Status::Unavailable, format!("The requested virtual machine is not available: {reason}, retry later."))
}

/// What the client reads when the database is away or refuses; the details go to the log.
pub fn unavailable(error: DbError) -> Answer {
    tracing::warn!(error = &error as &dyn std::error::Error, "the database could not answer");
    Answer::text(Status::Unavailable, NO_DATABASE)
}

/// What the client reads when an authenticator cannot do what it must; the log says which and why.
pub(super) fn hook_failed(error: Rejection) -> Answer {
    match error {
        Rejection::Db(error) => unavailable(error),
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "a request could not be served");
            Status::Internal.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::http::{Parsed, parse},
        *,
    };

    fn request(query: &str) -> Request {
        match parse(format!("GET /qvd/connect_to_vm{query} HTTP/1.1\r\n\r\n").as_bytes(), 4096).unwrap() {
            Parsed::Complete { request, .. } => request,
            Parsed::Incomplete => panic!("incomplete"),
        }
    }

    #[test]
    fn a_token_that_is_bound_to_a_vm_opens_no_other() {
        for query in ["?id=8", "?id=", "?id", "", "?id=7x"] {
            let refused = bound(&request(query), Some(VmId(7))).unwrap_err();
            assert_eq!(refused.status(), Status::Forbidden, "{query}");
            assert_eq!(refused.body(), b"vm_id does not match with provided token");
            assert_eq!(bound(&request(query), None), Ok(()));
        }
        assert_eq!(bound(&request("?id=7"), Some(VmId(7))), Ok(()));
    }
}
