//! `ldap`: lets a directory check the password. The user's entry is found by a search, or its name follows from the
//! login; then a bind with the user's password decides. Every login has a connection of its own, so nobody is let in
//! by another's bind. Groups are not looked at, and nothing that a server said is remembered but its silence.

mod options;
mod session;
mod slots;
mod tls;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Attempt, Authenticator, Refusal, Verdict};

use options::{Options, Server};
use session::{Denied, Entry};
use slots::Slots;

/// A server that did not answer is asked last for so long.
const DISTRUST: Duration = Duration::from_secs(30);

/// Asks directories.
#[derive(Default)]
pub struct Ldap {
    silent: Mutex<HashMap<Server, Instant>>,
    slots: Slots,
    tls: tls::Configurations,
}

impl Ldap {
    async fn password(&self, attempt: &mut Attempt, password: &str) -> Result<(), Refusal> {
        // Servers take a bind without a password for anonymous and accept it, whoever is named.
        if password.is_empty() {
            return Err(Refusal::EmptyPassword);
        }
        let options = Options::new(&attempt.config, &attempt.login).inspect_err(|problem| {
            tracing::warn!(tenant = %attempt.tenant, "LDAP cannot be asked: {problem}");
        })?;
        let tls = self.tls.get(options.ca.as_deref()).await?;
        let waited = tokio::time::timeout(options.limit, self.slots.get(attempt.tenant, options.connections)).await;
        let Ok(_slot) = waited else {
            tracing::warn!(tenant = %attempt.tenant, "more logins than connections to LDAP servers are allowed");
            return Err(Refusal::Directory("too many wait for a server".to_owned()));
        };
        for server in self.order(&options.servers) {
            let asked = tokio::time::timeout(options.limit, session::ask(&server, &options, tls.clone(), password));
            match asked.await {
                Ok(Ok(entry)) => {
                    self.heard(&server);
                    adopt(entry, &options, attempt);
                    return Ok(());
                }
                Ok(Err(Denied::No(refusal))) => {
                    self.heard(&server);
                    return Err(refusal);
                }
                Ok(Err(Denied::Away(error))) => self.not_heard(server, &error),
                Err(_) => self.not_heard(server, &format_args!("no answer within {:?}", options.limit)),
            }
        }
        Err(Refusal::Directory("no server answers".to_owned()))
    }

    /// As configured, but those that were silent of late behind the others.
    fn order(&self, servers: &[Server]) -> Vec<Server> {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|_, since| since.elapsed() < DISTRUST);
        let mut order = servers.to_vec();
        order.sort_by_key(|server| silent.contains_key(server));
        order
    }

    fn heard(&self, server: &Server) {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).remove(server);
    }

    fn not_heard(&self, server: Server, why: &dyn std::fmt::Display) {
        tracing::warn!(server = server.url, "an LDAP server does not answer: {why}");
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).insert(server, Instant::now());
    }
}

/// Takes over what the directory knows.
fn adopt(entry: Entry, options: &Options, attempt: &mut Attempt) {
    if options.normalise_name
        && let Some(uid) = entry.uid.as_ref().filter(|uid| !uid.trim().is_empty())
    {
        attempt.login.clone_from(uid);
    }
    let home = entry.home.clone().filter(|_| options.set_home);
    for (name, value) in [
        ("qvd.vm.user.uid", entry.uid_number),
        ("qvd.vm.user.gid", entry.gid_number),
        ("qvd.vm.user.ldap.name", entry.uid),
        ("qvd.vm.user.ldap.home", entry.home),
        ("qvd.vm.user.home", home),
        ("qvd.auth.ldap.racf_detailed_error", entry.racf_error),
    ] {
        if let Some(value) = value {
            attempt.parameters.insert(name.to_owned(), value);
        }
    }
}

impl Authenticator for Ldap {
    fn authenticate<'a>(&'a self, attempt: &'a mut Attempt, password: &'a str) -> Verdict<'a> {
        Box::pin(self.password(attempt, password))
    }
}
