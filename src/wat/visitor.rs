//! Who asks. Browsers send name and password with every request, so a password that was right is remembered for a few
//! minutes, as a keyed digest, and forgotten at once when an administrator, a role or a tenant changes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{
    auth::{self, Check, FailedLogins, Hashing, PasswordKind, Rates},
    db::{Administrator, Database, DbError},
};

use super::{door::Peer, server::Wat, text::Language};

/// For so long a password is not hashed again.
const REMEMBERED: Duration = Duration::from_secs(300);
/// More are not remembered; whoever comes then is hashed each time.
const MOST: usize = 4096;

/// Where a name without a tenant is looked for: above all tenants, then where there is but one.
const UNSAID: [&str; 2] = ["*", "default"];

/// An administrator at a browser or a program.
#[derive(Clone)]
pub struct Visitor {
    pub who: Arc<Administrator>,
    pub address: IpAddr,
    pub language: Language,
    /// What had been heard of changes before anything was read.
    pub heard: u64,
}

/// Why somebody is not let in.
pub enum Refusal {
    /// Nobody said who they are, or it was wrong. Which is for the log alone.
    Unknown,
    /// Too many were wrong lately.
    Wait(Duration),
    /// The database cannot say.
    Database(DbError),
}

/// Passwords that were right.
pub struct Logins {
    key: hmac::Key,
    known: Mutex<HashMap<Vec<u8>, Known>>,
    hashing: Hashing,
    failures: Arc<FailedLogins>,
    rates: Rates,
    accepted: AtomicU64,
    rejected: AtomicU64,
    limited: AtomicU64,
    /// A hash of nothing that anybody types, so that names that do not exist take as long as those that do.
    nobody: String,
}

struct Known {
    who: Arc<Administrator>,
    until: Instant,
}

impl Logins {
    /// Nobody is known yet.
    ///
    /// # Errors
    /// The system gives no thread or no randomness.
    pub fn new(rates: Rates) -> anyhow::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new())
            .map_err(|_| anyhow::anyhow!("there is no randomness"))?;
        let hashing = Hashing::new(std::thread::available_parallelism().map_or(1, usize::from))?;
        let nobody = auth::hash(&format!("{:032x}", rand::random::<u128>()))?;
        Ok(Self {
            key,
            known: Mutex::default(),
            hashing,
            failures: Arc::default(),
            rates,
            accepted: AtomicU64::default(),
            rejected: AtomicU64::default(),
            limited: AtomicU64::default(),
            nobody,
        })
    }

    /// Everybody is asked again.
    pub fn forget(&self) {
        self.known().clear();
    }

    /// How many were checked, by what came of it.
    pub fn counted(&self) -> [(&'static str, u64); 3] {
        [("accepted", &self.accepted), ("rejected", &self.rejected), ("limited", &self.limited)]
            .map(|(outcome, logins)| (outcome, logins.load(Relaxed)))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom this `Authorization` stands for.
    async fn check(
        &self,
        database: &Database,
        authorization: &[u8],
        address: IpAddr,
    ) -> Result<Arc<Administrator>, Refusal> {
        let digest = hmac::sign(&self.key, authorization).as_ref().to_vec();
        let now = Instant::now();
        if let Some(known) = self.known().get(&digest).filter(|known| known.until > now) {
            return Ok(known.who.clone());
        }
        let (typed, password) = credentials(authorization).ok_or(Refusal::Unknown)?;
        let attempt = self.failures.allow(now, self.rates, &typed, address).map_err(|wait| {
            self.limited.fetch_add(1, Relaxed);
            Refusal::Wait(wait)
        })?;
        let (name, tenants) = match typed.rsplit_once('@') {
            Some((name, tenant)) => (name, vec![tenant]),
            None => (typed.as_str(), UNSAID.to_vec()),
        };
        let mut found = None;
        for tenant in &tenants {
            found = database.wat_account(name, tenant).await.map_err(Refusal::Database)?;
            if found.is_some() {
                break;
            }
        }
        let stored = found.as_ref().map_or(&self.nobody, |account| &account.password).clone();
        let (typed_password, checked) = (password.clone(), stored.clone());
        let checked = self.hashing.run(move || auth::check(&checked, &typed_password, "")).await;
        let tenant = found.as_ref().map_or(tenants[0], |account| &account.administrator.tenant).to_owned();
        let (Some(account), Some(Check::Right(kind))) = (found, checked) else {
            attempt.failed(Instant::now());
            self.rejected.fetch_add(1, Relaxed);
            tracing::warn!(login = typed, %address, "an administrator's login was rejected");
            database.wat_login_log(name, &tenant, address, false).await.map_err(Refusal::Database)?;
            return Err(Refusal::Unknown);
        };
        let mut who = account.administrator;
        let acting = match database.acting_as(who.id, address, "WAT").await {
            Err(DbError::Refused { message, .. }) => {
                tracing::warn!(login = typed, %address, message, "an administrator may not enter");
                return Err(Refusal::Unknown);
            }
            acting => acting.map_err(Refusal::Database)?,
        };
        who.acls = acting.acls(who.id).await.map_err(Refusal::Database)?;
        acting.finish().await.map_err(Refusal::Database)?;
        database.wat_login_log(name, &tenant, address, true).await.map_err(Refusal::Database)?;
        self.accepted.fetch_add(1, Relaxed);
        tracing::info!(administrator = who.id, %address, "logged in");
        if kind != PasswordKind::Argon2id
            && let Some(Ok(better)) = self.hashing.run(move || auth::hash(&password)).await
            && let Err(error) = database.wat_password_upgrade(who.id, &stored, &better).await
        {
            tracing::warn!(administrator = who.id, %error, "the password's hash stays as it was");
        }
        let who = Arc::new(who);
        let mut known = self.known();
        if known.len() >= MOST {
            known.retain(|_, known| known.until > now);
        }
        if known.len() < MOST {
            known.insert(digest, Known { who: who.clone(), until: now + REMEMBERED });
        }
        Ok(who)
    }

    /// Whether this is the password of who asks. Wrong ones count as failed logins.
    pub async fn knows(&self, database: &Database, visitor: &Visitor, password: String) -> Result<bool, Refusal> {
        let who = &visitor.who;
        let login = format!("{}@{}", who.name, who.tenant);
        let allowed = self.failures.allow(Instant::now(), self.rates, &login, visitor.address);
        let attempt = allowed.map_err(Refusal::Wait)?;
        let account = database.wat_account(&who.name, &who.tenant).await.map_err(Refusal::Database)?;
        let stored = account.ok_or(Refusal::Unknown)?.password;
        let right =
            matches!(self.hashing.run(move || auth::check(&stored, &password, "")).await, Some(Check::Right(_)));
        if !right {
            attempt.failed(Instant::now());
        }
        Ok(right)
    }
}

/// Name and password of RFC 7617.
fn credentials(authorization: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(authorization).ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

impl FromRequestParts<Arc<Wat>> for Visitor {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, wat: &Arc<Wat>) -> Result<Self, Refusal> {
        let address = parts
            .extensions
            .get::<ConnectInfo<Peer>>()
            .map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(Peer(address))| address.ip().to_canonical());
        let authorization = parts.headers.get(header::AUTHORIZATION).ok_or(Refusal::Unknown)?;
        let who = wat.logins.check(&wat.database, authorization.as_bytes(), address).await?;
        let language = Language::choose(Some(&who.language), accepted(&parts.headers));
        Ok(Self { who, address, language, heard: wat.live.heard() })
    }
}

fn accepted(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown => (
                StatusCode::UNAUTHORIZED,
                [(header::WWW_AUTHENTICATE, "Basic realm=\"QVD\", charset=\"UTF-8\"")],
                "Log in as an administrator: name, or name@tenant.\n",
            )
                .into_response(),
            Self::Wait(wait) => (
                StatusCode::TOO_MANY_REQUESTS,
                [(header::RETRY_AFTER, wait.as_secs().max(1).to_string())],
                "Too many logins failed. Try again later.\n",
            )
                .into_response(),
            Self::Database(error) => {
                tracing::error!(%error, "nobody can log in");
                (StatusCode::SERVICE_UNAVAILABLE, "The database cannot be reached.\n").into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_of_basic_and_nothing_else() {
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text)).into_bytes();
        assert_eq!(credentials(&basic("ann@school:a:b")), Some(("ann@school".to_owned(), "a:b".to_owned())));
        assert_eq!(credentials(&basic("ann")), None);
        for wrong in [&b"Basic ***"[..], b"Bearer abc", b"", b"Basic", &[0xff, 0x20, 0x41]] {
            assert_eq!(credentials(wrong), None, "{wrong:?}");
        }
    }
}
