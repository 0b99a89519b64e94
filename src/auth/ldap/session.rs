//! One login with one server, over a connection of its own that ends with it.

use std::sync::Arc;

use ldap3::{LdapConnAsync, LdapConnSettings, LdapError, LdapResult, SearchEntry, SearchOptions};
use rustls::ClientConfig;
use thiserror::Error;
use tokio::task::AbortHandle;

use crate::auth::Refusal;

use super::options::{Options, Server};

/// What the directory knows of a user who has given the right password.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub uid: Option<String>,
    pub uid_number: Option<String>,
    pub gid_number: Option<String>,
    pub home: Option<String>,
    /// With what the password was refused and the user let in all the same.
    pub racf_error: Option<String>,
}

/// Why there is no entry.
#[derive(Debug, Error)]
pub enum Denied {
    /// The server has decided.
    #[error(transparent)]
    No(#[from] Refusal),
    /// Another server may know more.
    #[error("it does not answer")]
    Away(#[from] LdapError),
}

const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const NO_SUCH_OBJECT: u32 = 32;
const INVALID_CREDENTIALS: u32 = 49;
const BUSY: u32 = 51;
const UNAVAILABLE: u32 = 52;

/// A connection. It is driven by a task, which ends with it even when the server does not answer.
struct Session {
    ldap: ldap3::Ldap,
    driver: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Lets a server check a password, which is not empty.
pub async fn ask(server: &Server, options: &Options, tls: Arc<ClientConfig>, password: &str) -> Result<Entry, Denied> {
    let mut session = Session::connect(server, options, tls).await?;
    if let Some(dn) = &options.user_dn
        && session.bind(dn, password).await?.rc == SUCCESS
    {
        return Ok(Entry::default());
    }
    let (dn, bind_password) = match &options.bind_dn {
        Some(dn) => (dn.as_str(), options.bind_password.as_deref().unwrap_or(password)),
        None => ("", ""),
    };
    let searcher = session.bind(dn, bind_password).await?;
    if searcher.rc != SUCCESS {
        return Err(directory("the bind before the search was refused", &searcher).into());
    }
    let found = session.find(options).await?;
    // A bind without a name is anonymous and proves nothing.
    if found.dn.is_empty() {
        return Err(Refusal::UnknownUser.into());
    }
    let bound = session.bind(&found.dn, password).await?;
    let mut entry = Entry::from(found);
    match bound.rc {
        SUCCESS => {}
        INVALID_CREDENTIALS if options.racf_allow.as_ref().is_some_and(|allowed| allowed.is_match(&bound.text)) => {
            entry.racf_error = Some(bound.text);
        }
        INVALID_CREDENTIALS => return Err(Refusal::WrongPassword.into()),
        _ => return Err(directory("the bind as the user was refused", &bound).into()),
    }
    Ok(entry)
}

impl Session {
    async fn connect(server: &Server, options: &Options, tls: Arc<ClientConfig>) -> Result<Self, Denied> {
        let settings = LdapConnSettings::new().set_config(tls).set_starttls(options.starttls);
        let (connection, ldap) = LdapConnAsync::with_settings(settings, &server.url).await?;
        // What goes wrong on the connection is seen by whoever waits for an answer.
        let driver = tokio::spawn(async move { connection.drive().await.unwrap_or_default() }).abort_handle();
        Ok(Self { ldap, driver })
    }

    /// A bind that was answered, one way or the other.
    async fn bind(&mut self, dn: &str, password: &str) -> Result<LdapResult, Denied> {
        answered(self.ldap.simple_bind(dn, password).await?)
    }

    /// The one entry that is the user's. References to other servers are no entries and are not followed.
    async fn find(&mut self, options: &Options) -> Result<SearchEntry, Denied> {
        let limits = SearchOptions::new().deref(options.deref).sizelimit(2);
        self.ldap.with_search_options(limits);
        let attributes = ["uid", "uidNumber", "gidNumber", "homeDirectory"];
        let mut stream =
            self.ldap.streaming_search(&options.base, options.scope, &options.filter, attributes).await.map_err(
                |error| match error {
                    LdapError::FilterParsing => {
                        Denied::No(Refusal::Setting { key: "auth.ldap.filter", problem: "is no filter" })
                    }
                    error => Denied::Away(error),
                },
            )?;
        let mut found = None;
        while let Some(item) = stream.next().await? {
            if item.is_ref() || item.is_intermediate() {
                continue;
            }
            if found.is_some() {
                return Err(Refusal::SeveralUsers.into());
            }
            found = Some(SearchEntry::construct(item));
        }
        let result = answered(stream.finish().await)?;
        match (result.rc, found) {
            (SUCCESS, Some(found)) => Ok(found),
            (SUCCESS | NO_SUCH_OBJECT, None) => Err(Refusal::UnknownUser.into()),
            (SIZE_LIMIT_EXCEEDED, _) => Err(Refusal::SeveralUsers.into()),
            _ => Err(directory("the search failed", &result).into()),
        }
    }
}

impl From<SearchEntry> for Entry {
    fn from(found: SearchEntry) -> Self {
        let first = |wanted: &str| {
            let attribute = found.attrs.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            attribute.and_then(|(_, values)| values.first().cloned())
        };
        Self {
            uid: first("uid"),
            uid_number: first("uidNumber"),
            gid_number: first("gidNumber"),
            home: first("homeDirectory"),
            racf_error: None,
        }
    }
}

/// Sorts out the answers of a server that works no more or not now.
fn answered(result: LdapResult) -> Result<LdapResult, Denied> {
    match result.rc {
        BUSY | UNAVAILABLE => Err(Denied::Away(LdapError::from(result))),
        _ => Ok(result),
    }
}

fn directory(what: &str, result: &LdapResult) -> Refusal {
    Refusal::Directory(format!("{what}: {result}"))
}
