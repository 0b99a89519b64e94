//! `default`: users whose passwords are kept in the database, tenants named in logins, and tokens.

use crate::{
    db::{Database, TokenOwner},
    model::{
        UserId,
        config::{Config, keys},
    },
};

use super::{
    Attempt, Authenticator, Check, FoundTenant, Hashing, LoginRules, PasswordKind, Refusal, Verdict, check, hash,
};

/// Checks logins and tokens against the database.
#[derive(Clone)]
pub struct Local {
    database: Database,
    hashing: Hashing,
    /// Checked when there is no account, so that the time of an answer does not tell whether a user exists.
    decoy: String,
}

impl Local {
    /// Passwords are hashed by `hashing`.
    pub fn new(database: Database, hashing: Hashing) -> Self {
        let decoy = hash("nobody has this password").unwrap_or_default();
        Self { database, hashing, decoy }
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
        self.hashing.run(move || check(&stored, &password, &salt)).await.unwrap_or(Check::Unknown)
    }

    /// The user does not wait for it.
    fn upgrade(&self, user: UserId, was: String, password: String) {
        let (database, hashing) = (self.database.clone(), self.hashing.clone());
        tokio::spawn(async move {
            let Some(Ok(becomes)) = hashing.run(move || hash(&password)).await else { return };
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
