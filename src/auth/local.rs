//! `default`: users whose passwords are kept in the database, tenants named in logins, and tokens.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    db::{Database, TokenOwner},
    model::{
        UserId,
        config::{Config, keys},
    },
};

use super::{Attempt, Authenticator, Check, FoundTenant, LoginRules, PasswordKind, Refusal, Verdict, check, hash};

/// Checks logins and tokens against the database.
#[derive(Clone)]
pub struct Local {
    database: Database,
    /// Hashes under way: more than processors would only make everybody wait longer and starve the tunnels.
    slots: Arc<Semaphore>,
    /// Checked when there is no account, so that the time of an answer does not tell whether a user exists.
    decoy: String,
}

impl Local {
    /// At most `slots` passwords are hashed at the same time.
    pub fn new(database: Database, slots: usize) -> Self {
        let decoy = hash("nobody has this password").unwrap_or_default();
        Self { database, slots: Arc::new(Semaphore::new(slots.max(1))), decoy }
    }

    /// Takes as long as the check of a password that somebody has.
    pub async fn check_in_vain(&self, password: &str) {
        self.check(self.decoy.clone(), password.to_owned(), String::new()).await;
    }

    async fn password(&self, attempt: &mut Attempt, password: &str) -> Result<(), Refusal> {
        let account = self.database.l7r_user(&attempt.login, &attempt.tenant_name).await?;
        let stored = account.as_ref().and_then(|account| account.password.clone());
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.clone());
        let salt = attempt.global.get(&keys::L7R_SALT);
        let outcome = self.check(stored.clone(), password.to_owned(), salt).await;
        let account = account.ok_or(Refusal::UnknownUser)?;
        if !known {
            return Err(Refusal::NoPassword);
        }
        let Check::Right(kind) = outcome else {
            return Err(if password.is_empty() { Refusal::EmptyPassword } else { Refusal::WrongPassword });
        };
        if kind != PasswordKind::Argon2id && !account.blocked {
            self.upgrade(account.user, stored, password.to_owned());
        }
        attempt.account = Some(account);
        Ok(())
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

impl Authenticator for Local {
    fn find_tenant(&self, typed: &str, config: &Config) -> Option<FoundTenant> {
        Some(LoginRules::from_config(config).split(typed))
    }

    fn authenticate<'a>(&'a self, attempt: &'a mut Attempt, password: &'a str) -> Verdict<'a> {
        Box::pin(self.password(attempt, password))
    }

    fn bearer<'a>(&'a self, token: &'a str) -> Verdict<'a, TokenOwner> {
        Box::pin(async move { self.database.l7r_token_use(token).await?.ok_or(Refusal::UnknownToken) })
    }
}
