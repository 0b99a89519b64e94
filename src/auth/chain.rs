//! Leads logins and tokens through the authenticators that the configuration names: head, the tenant's own, tail.
//!
//! ```text
//!  typed ──find tenant──► tenant's chain ──split──► each: password ──► second factor ──► after ──► account? ──► in
//!                                                     ▲      │ no            │ no          │ fails     │ none
//!                                                     └──────┴─ next one     ▼ out         ▼ out       └─ next one
//! ```
//! How often somebody may try is not decided here.

use std::{collections::BTreeMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use thiserror::Error;

use crate::{
    db::{Database, DbError},
    model::{
        TenantId, UserId, VmId,
        config::{Config, Key, keys},
    },
};

use super::{
    Attempt, Authenticator, Hashing, LoginRules, Refusal, auto, ldap, local::Local, pool, settings::Settings, tester,
    totp,
};

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
    /// What the client sent along for authenticators, with this request or an earlier one of its connection.
    pub variables: Vec<(String, String)>,
    /// The tenant whose chain let the user in; for tokens everybody's (0).
    pub chain: TenantId,
    /// The only VM that this proof opens; `None`: all that the user may open.
    pub bound_to: Option<VmId>,
    /// The authenticator that accepted.
    pub by: &'static str,
}

impl Authenticated {
    /// The agent shall know this, whatever it was told before.
    pub fn learn(&mut self, name: &str, value: impl Into<String>) {
        put(&mut self.parameters, name, value.into());
    }

    /// The client has sent something for authenticators.
    pub fn send_along(&mut self, variables: Vec<(String, String)>) {
        for (name, value) in variables {
            put(&mut self.variables, &name, value);
        }
    }
}

fn put(pairs: &mut Vec<(String, String)>, name: &str, value: String) {
    match pairs.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => pairs.push((name.to_owned(), value)),
    }
}

/// Why a login failed, or what a known user asks for; for the log, never for the client.
#[derive(Debug, Error)]
pub enum Rejection {
    /// Not even a login.
    #[error("the login is empty or holds what none may hold")]
    Malformed,
    /// Nobody can tell the tenant.
    #[error("no authenticator knows the tenant of the login")]
    NoTenant,
    /// No such tenant.
    #[error("there is no tenant {0:?}")]
    UnknownTenant(String),
    /// The tenant is out of service.
    #[error("the tenant {0:?} is blocked")]
    BlockedTenant(String),
    /// The user is out of service.
    #[error("the user or the tenant is blocked")]
    BlockedUser,
    /// Every authenticator refuses.
    #[error("nobody accepts it ({0})")]
    Nobody(Reasons),
    /// The password is right, what follows is not.
    #[error("the second factor is not accepted ({0})")]
    SecondFactor(Reasons),
    /// The chain cannot be built; without one of its links it might be weaker than it was meant to be.
    #[error("there is no authenticator {0:?}, so nobody can log in; look at l7r.auth.plugins")]
    UnknownAuthenticator(String),
    /// What an authenticator must do besides cannot be done.
    #[error("{by} fails {hook}")]
    Hook {
        /// Which authenticator.
        by: &'static str,
        /// When.
        hook: &'static str,
        /// Why.
        source: Refusal,
    },
    /// Nobody can say.
    #[error("the login could not be checked")]
    Db(#[from] DbError),
}

impl Rejection {
    /// Whether it is ours to mend and not the client's.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::UnknownAuthenticator(_) | Self::Hook { .. } | Self::Db(_))
    }
}

/// What each authenticator that had something to say said.
#[derive(Debug, Default)]
pub struct Reasons(Vec<(&'static str, Refusal)>);

impl Reasons {
    /// The database being away ends everything; the rest is noted.
    pub(super) fn note(&mut self, by: &'static str, refusal: Refusal) -> Result<(), DbError> {
        match refusal {
            Refusal::Silent => {}
            Refusal::Db(error) => return Err(error),
            refusal => self.0.push((by, refusal)),
        }
        Ok(())
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody was asked");
        }
        for (number, (by, refusal)) in self.0.iter().enumerate() {
            write!(f, "{}{by}: {refusal}", if number == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

pub(super) type Link = (&'static str, Arc<dyn Authenticator>);

/// All authenticators, and which of them each tenant wants.
pub struct Chain {
    database: Database,
    local: Local,
    known: Vec<Link>,
    pub(super) settings: ArcSwap<Settings>,
}

impl Chain {
    /// Passwords are hashed by `hashing`. Nothing is configured yet but what is for everybody.
    pub fn new(database: Database, hashing: Hashing, config: &Config) -> Self {
        let local = Local::new(database.clone(), hashing);
        let (settings, _) = Settings::new(Arc::new(config.clone()), Vec::new());
        // By the name of the module in classic QVD. A new authenticator is a module and a line here.
        let known: Vec<Link> = vec![
            ("Default", Arc::new(local.clone())),
            ("Ldap", Arc::new(ldap::Ldap::default())),
            ("Auto", Arc::new(auto::Auto::new(database.clone()))),
            ("TOTP", Arc::new(totp::TotpAuthenticator::new(database.clone()))),
            ("VMPoolAppServerAuthenticator", Arc::new(pool::Pool::new(database.clone()))),
            ("AuthTester", Arc::new(tester::Tester)),
        ];
        Self { database, local, known, settings: ArcSwap::from_pointee(settings) }
    }

    /// Knows one more authenticator, under a name whose first letter is a capital.
    pub fn with(mut self, name: &'static str, authenticator: Arc<dyn Authenticator>) -> Self {
        self.known.push((name, authenticator));
        self
    }

    /// Takes what is configured from now on, for everybody and per tenant.
    pub fn configure(&self, config: &Config, rows: Vec<(TenantId, String, String)>) {
        let (settings, refused) = Settings::new(Arc::new(config.clone()), rows);
        for (tenant, error) in refused {
            tracing::warn!(%tenant, "{error}; ignored");
        }
        self.settings.store(Arc::new(settings));
    }

    /// What is configured for a tenant.
    pub fn config(&self, tenant: TenantId) -> Arc<Config> {
        self.settings.load().of(tenant).clone()
    }

    /// Who presents this login and password, and this along with them.
    pub async fn password(
        &self,
        typed: &str,
        password: &str,
        variables: Vec<(String, String)>,
    ) -> Result<Authenticated, Rejection> {
        // PostgreSQL takes no such text, and who knows what a directory makes of it.
        if typed.contains('\0') || password.contains('\0') {
            return Err(Rejection::Malformed);
        }
        let settings = self.settings.load_full();
        let first = self.links(&settings, TenantId(0))?;
        let found = first.iter().find_map(|(_, link)| link.find_tenant(typed, settings.global()));
        let found = found.ok_or(Rejection::NoTenant)?;
        let rules = LoginRules::from_config(settings.global());
        let tenant_name = first
            .iter()
            .fold(rules.normalise(&found.tenant), |tenant, (_, link)| link.normalise_tenant(tenant, settings.global()));
        let login = rules.normalise(&found.login);
        if login.is_empty() {
            return Err(Rejection::Malformed);
        }
        let tenant = match self.database.l7r_tenant(&tenant_name).await? {
            Some(tenant) if !tenant.blocked => tenant.tenant,
            other => {
                self.local.check_in_vain(password).await;
                return Err(match other {
                    Some(_) => Rejection::BlockedTenant(tenant_name),
                    None => Rejection::UnknownTenant(tenant_name),
                });
            }
        };
        let links = self.links(&settings, tenant)?;
        let attempt = Attempt {
            login: links.iter().fold(login, |login, (_, link)| link.normalise_login(login, settings.of(tenant))),
            tenant,
            tenant_name,
            config: settings.of(tenant).clone(),
            global: settings.global().clone(),
            variables: variables.into(),
            parameters: BTreeMap::new(),
            account: None,
        };
        self.attempt(&links, attempt, password, &rules).await
    }

    async fn attempt(
        &self,
        links: &[Link],
        attempt: Attempt,
        typed: &str,
        rules: &LoginRules,
    ) -> Result<Authenticated, Rejection> {
        let split = links.iter().find_map(|(_, link)| link.split_second_factor(typed, &attempt.config));
        let (password, token) = match &split {
            Some(split) => (split.password.as_str(), Some(split.token.as_str())),
            None => (typed, None),
        };
        let mut reasons = Reasons::default();
        // A second factor is used up when it is accepted, so each login is asked for it once.
        let mut proved: Option<String> = None;
        for (by, link) in links {
            let mut attempt = attempt.clone();
            if let Err(refusal) = link.authenticate(&mut attempt, password).await {
                reasons.note(by, refusal)?;
                continue;
            }
            attempt.login = rules.normalise(&attempt.login);
            attempt.parameters.insert("qvd.vm.user.name".to_owned(), attempt.login.clone());
            if let Some(token) = token
                && proved.as_ref() != Some(&attempt.login)
            {
                second_factor(links, &attempt, token).await?;
                proved = Some(attempt.login.clone());
            }
            after(links, &mut attempt).await?;
            let account = match attempt.account.take() {
                Some(account) if account.login == attempt.login => Some(account),
                _ => self.database.l7r_user(&attempt.login, &attempt.tenant_name).await?,
            };
            match account {
                Some(account) if account.blocked => return Err(Rejection::BlockedUser),
                Some(account) => {
                    return Ok(Authenticated {
                        user: account.user,
                        tenant: account.tenant,
                        login: account.login,
                        parameters: attempt.parameters.into_iter().collect(),
                        variables: attempt.variables.to_vec(),
                        chain: account.tenant,
                        bound_to: None,
                        by,
                    });
                }
                None => reasons.note(by, Refusal::NoAccount)?,
            }
        }
        Err(Rejection::Nobody(reasons))
    }

    /// Whom this token, decoded, stands for.
    pub async fn token(&self, token: &str) -> Result<Authenticated, Rejection> {
        if token.is_empty() || token.contains('\0') {
            return Err(Rejection::Malformed);
        }
        let mut reasons = Reasons::default();
        for (by, link) in self.links(&self.settings.load_full(), TenantId(0))? {
            match link.bearer(token).await {
                Ok(owner) if owner.blocked => return Err(Rejection::BlockedUser),
                Ok(owner) => {
                    return Ok(Authenticated {
                        user: owner.user,
                        tenant: owner.tenant,
                        login: owner.login,
                        parameters: owner.parameters,
                        variables: Vec::new(),
                        chain: TenantId(0),
                        bound_to: owner.vm.filter(|_| !owner.multi_use),
                        by,
                    });
                }
                Err(refusal) => reasons.note(by, refusal)?,
            }
        }
        Err(Rejection::Nobody(reasons))
    }

    /// The authenticators that a tenant's logins pass, in order, each once.
    pub(super) fn links(&self, settings: &Settings, tenant: TenantId) -> Result<Vec<Link>, Rejection> {
        let mut links: Vec<Link> = Vec::new();
        for name in names(settings.global(), settings.of(tenant)) {
            let link = self.known.iter().find(|(known, _)| *known == name);
            let (known, link) = link.ok_or(Rejection::UnknownAuthenticator(name))?;
            if !links.iter().any(|(linked, _)| linked == known) {
                links.push((known, link.clone()));
            }
        }
        Ok(links)
    }
}

/// Head and tail are everybody's. The first letter of a name may be small, no other.
fn names(global: &Config, tenant: &Config) -> Vec<String> {
    let list = |config: &Config, key: &Key<Vec<String>>| config.get(key);
    let written =
        [list(global, &keys::L7R_AUTH_HEAD), list(tenant, &keys::L7R_AUTH), list(global, &keys::L7R_AUTH_TAIL)];
    written
        .into_iter()
        .flatten()
        .map(|name| {
            let mut rest = name.chars();
            rest.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(rest).collect()
        })
        .collect()
}

async fn second_factor(links: &[Link], attempt: &Attempt, token: &str) -> Result<(), Rejection> {
    let mut reasons = Reasons::default();
    for (by, link) in links {
        match link.second_factor(attempt, token).await {
            Ok(()) => return Ok(()),
            Err(refusal) => reasons.note(by, refusal)?,
        }
    }
    Err(Rejection::SecondFactor(reasons))
}

async fn after(links: &[Link], attempt: &mut Attempt) -> Result<(), Rejection> {
    for (by, link) in links {
        match link.after_authenticate(attempt).await {
            Ok(()) | Err(Refusal::Silent) => {}
            Err(Refusal::Db(error)) if error.is_passing() => return Err(error.into()),
            Err(source) => return Err(Rejection::Hook { by, hook: "after the password was accepted", source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(rows: &[(&str, &str)]) -> Config {
        let mut config = Config::default();
        for (key, value) in rows {
            config.set(key, *value).unwrap();
        }
        config
    }

    #[test]
    fn head_and_tail_are_everybodys_and_only_the_first_letter_may_be_small() {
        let global = configured(&[("l7r.auth.plugins.head", " TOTP ,"), ("l7r.auth.plugins", "ldap")]);
        assert_eq!(names(&global, &global), ["TOTP", "Ldap", "Default"]);
        let tenant = configured(&[
            ("l7r.auth.plugins", "auto, totp"),
            ("l7r.auth.plugins.head", ""),
            ("l7r.auth.plugins.tail", "ldap"),
        ]);
        assert_eq!(names(&global, &tenant), ["TOTP", "Auto", "Totp", "Default"]);
    }

    #[test]
    fn the_log_reads_who_said_what_and_silence_is_left_out() {
        let mut reasons = Reasons::default();
        reasons.note("Auto", Refusal::Silent).unwrap();
        assert_eq!(reasons.to_string(), "nobody was asked");
        reasons.note("Ldap", Refusal::WrongPassword).unwrap();
        reasons.note("Default", Refusal::UnknownUser).unwrap();
        assert_eq!(reasons.to_string(), "Ldap: the password is wrong; Default: there is no such user");
        assert!(reasons.note("Default", Refusal::Db(DbError::Busy)).is_err());
    }
}
