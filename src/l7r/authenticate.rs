//! Who sends a request. What a connection has proved once it need not prove again as long as it presents the same, so
//! that a token for a single use serves all requests of a connection. The log tells why somebody was refused, the
//! client only that it was.

use std::time::Instant;

use crate::auth::{Authenticated, Rejection};

use super::{
    http::{Answer, Credentials, Request, Status},
    requests::{Connection, unavailable},
    router::count,
};

/// The text of refused credentials.
const REJECTED: &str = "Authentication failed";

impl Connection {
    /// The user who sends a request, or the answer that refuses it.
    pub(super) async fn authenticate(&mut self, request: &Request) -> Result<Authenticated, Answer> {
        let rejected = || Answer::text(Status::Unauthorized, REJECTED);
        let credentials = request.credentials().map_err(|error| {
            tracing::info!(client = %self.client, reason = %error, "rejected");
            rejected()
        })?;
        if let Some((accepted, user)) = &mut self.accepted
            && *accepted == credentials
        {
            user.send_along(request.auth_variables());
            return Ok(user.clone());
        }
        self.accepted = None;
        count(&self.router.counts.auth_attempts);
        let login = match &credentials {
            Credentials::Password { login, .. } => login.as_str(),
            Credentials::Token(_) => "(token)",
        };
        // A token that is none is nobody's failure but that of its address.
        let account = match &credentials {
            Credentials::Password { login, .. } => login,
            Credentials::Token(token) => token,
        };
        let attempt = self.attempt(account, &self.router.config.load())?;
        let chain = &self.router.authenticators;
        let outcome = match &credentials {
            Credentials::Password { login, password } => {
                chain.password(login, password, request.auth_variables()).await
            }
            Credentials::Token(token) => chain.token(token).await,
        };
        match outcome {
            Ok(mut user) => {
                user.send_along(request.auth_variables());
                count(&self.router.counts.auth_ok);
                tracing::info!(client = %self.client, login, user = %user.user, tenant = %user.tenant, by = user.by, "authenticated");
                self.accepted = Some((credentials, user.clone()));
                self.is_known_now();
                Ok(user)
            }
            Err(Rejection::Db(error)) => {
                tracing::info!(client = %self.client, login, "neither authenticated nor rejected");
                Err(unavailable(error))
            }
            Err(fault) if fault.is_fault() => {
                tracing::error!(client = %self.client, login, error = &fault as &dyn std::error::Error, "not authenticated");
                Err(Status::Internal.into())
            }
            Err(reason) => {
                attempt.failed(Instant::now());
                tracing::info!(client = %self.client, login, %reason, "rejected");
                Err(rejected())
            }
        }
    }
}
