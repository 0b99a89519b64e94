//! Users whose passwords are kept in the database.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::Semaphore;

use crate::{
    db::{Database, DbError},
    model::{
        TenantId, UserId, VmId,
        config::{Config, keys},
    },
};

use super::{Check, LoginRules, PasswordKind, check, hash};

/// A client that has proved who it is.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// The user.
    pub user: UserId,
    /// The user's tenant.
    pub tenant: TenantId,
    /// The login, normalised.
    pub login: String,
    /// What the agent shall know of the user, overriding everything else.
    pub parameters: Vec<(String, String)>,
    /// The only VM that may be used, when what was presented is bound to one.
    pub bound_to: Option<VmId>,
}

/// Why a login failed; for the log, never for the client.
#[derive(Debug, Error)]
pub enum Rejection {
    /// No such user in that tenant.
    #[error("there is no such user")]
    UnknownUser,
    /// The password is another.
    #[error("the password is wrong")]
    WrongPassword,
    /// The account has no password here.
    #[error("the account has no password")]
    NoPassword,
    /// User or tenant are blocked.
    #[error("the user or the tenant is blocked")]
    Blocked,
    /// Nobody can say.
    #[error("the login could not be checked")]
    Db(#[from] DbError),
}

/// Checks logins against the database.
pub struct LocalAuthenticator {
    database: Database,
    /// Hashes under way: more than processors would only make everybody wait longer and starve the tunnels.
    slots: Arc<Semaphore>,
    /// Checked when there is no account, so that the time of an answer does not tell whether a user exists.
    decoy: String,
}

impl LocalAuthenticator {
    /// At most `slots` passwords are hashed at the same time.
    pub fn new(database: Database, slots: usize) -> Self {
        let decoy = hash("nobody has this password").unwrap_or_default();
        Self { database, slots: Arc::new(Semaphore::new(slots.max(1))), decoy }
    }

    /// Who presents this login and password.
    pub async fn authenticate(&self, typed: &str, password: &str, config: &Config) -> Result<Authenticated, Rejection> {
        let login = LoginRules::from_config(config).parse(typed);
        let account = self.database.l7r_user(&login.login, &login.tenant).await?;
        let stored = account.as_ref().and_then(|account| account.password.clone());
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.clone());
        let outcome = self.check(stored.clone(), password.to_owned(), config.get(&keys::L7R_SALT)).await;
        let account = account.ok_or(Rejection::UnknownUser)?;
        if !known {
            return Err(Rejection::NoPassword);
        }
        let Check::Right(kind) = outcome else { return Err(Rejection::WrongPassword) };
        if account.blocked {
            return Err(Rejection::Blocked);
        }
        if kind != PasswordKind::Argon2id {
            self.upgrade(account.user, stored, password.to_owned());
        }
        Ok(Authenticated {
            user: account.user,
            tenant: account.tenant,
            parameters: vec![("qvd.vm.user.name".to_owned(), account.login.clone())],
            login: account.login,
            bound_to: None,
        })
    }

    async fn check(&self, stored: String, password: String, salt: String) -> Check {
        let Ok(slot) = self.slots.clone().acquire_owned().await else { return Check::Unknown };
        let checked = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            check(&stored, &password, &salt)
        });
        checked.await.unwrap_or(Check::Unknown)
    }

    /// The user does not wait for it.
    fn upgrade(&self, user: UserId, was: String, password: String) {
        let (database, slots) = (self.database.clone(), self.slots.clone());
        tokio::spawn(async move {
            let Ok(slot) = slots.acquire_owned().await else { return };
            let hashed = tokio::task::spawn_blocking(move || {
                let _slot = slot;
                hash(&password)
            });
            let Ok(Ok(becomes)) = hashed.await else { return };
            match database.l7r_password_upgrade(user, &was, &becomes).await {
                Ok(true) => tracing::info!(%user, "password hash upgraded"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%user, %error, "the password hash could not be upgraded"),
            }
        });
    }
}
