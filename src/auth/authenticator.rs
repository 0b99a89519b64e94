//! What an authenticator is: the points at which it may have a say, in a login and in what a known user asks for. Each
//! has a default that says nothing, so that a new one writes only what it is about. How what several of them say is
//! combined is the business of `chain` and `hooks`.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::BoxFuture;
use thiserror::Error;

use crate::{
    db::{Account, DbError, ListedVm, TokenOwner},
    model::{TenantId, VmId, config::Config},
};

use super::Authenticated;

/// A login under way, as far as it has come.
#[derive(Clone)]
pub struct Attempt {
    /// The login, normalised. An authenticator that knows its true name may replace it.
    pub login: String,
    /// The tenant.
    pub tenant: TenantId,
    /// Name of the tenant, normalised.
    pub tenant_name: String,
    /// What is configured for the tenant, over what is configured for everybody.
    pub config: Arc<Config>,
    /// What is configured for everybody.
    pub global: Arc<Config>,
    /// What the client sent along for authenticators.
    pub variables: Arc<[(String, String)]>,
    /// What the agent shall know of the user, overriding everything else.
    pub parameters: BTreeMap<String, String>,
    /// The account, when an authenticator had to read it anyway.
    pub account: Option<Account>,
}

/// A login of which it is known whose tenant it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTenant {
    /// The tenant, as typed.
    pub tenant: String,
    /// The rest of the login, as typed.
    pub login: String,
}

/// A password with a second factor behind it.
#[derive(Clone, PartialEq, Eq)]
pub struct SplitPassword {
    /// What the first factor is.
    pub password: String,
    /// The second.
    pub token: String,
}

/// A user who is known, and what this user asks for.
pub struct Visit {
    /// Who it is. Parameters that are added reach the agent when this connection becomes a tunnel.
    pub user: Authenticated,
    /// What is configured for those whose chain let the user in.
    pub config: Arc<Config>,
    /// Parameters of the request, decoded.
    pub query: Vec<(String, String)>,
}

/// What a user wants a VM for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To use it.
    Connect,
    /// To have it stopped.
    Stop,
}

/// Why an authenticator does not accept; for the log, never for the client.
#[derive(Debug, Error)]
pub enum Refusal {
    /// This is not what it is about.
    #[error("it has nothing to say")]
    Silent,
    /// No such user.
    #[error("there is no such user")]
    UnknownUser,
    /// More than one.
    #[error("there are several such users")]
    SeveralUsers,
    /// The password is another.
    #[error("the password is wrong")]
    WrongPassword,
    /// An empty password is never right.
    #[error("the password is empty")]
    EmptyPassword,
    /// The account has no password here.
    #[error("the account has no password")]
    NoPassword,
    /// Right, but of no use.
    #[error("it accepts, but there is no such account here")]
    NoAccount,
    /// The user has no second factor.
    #[error("the user has no secret for one-time passwords")]
    NoSecret,
    /// The second factor is another.
    #[error("the one-time password is wrong")]
    WrongCode,
    /// The second factor was right, but not for the first time.
    #[error("the one-time password was used before")]
    UsedCode,
    /// No such token, or no longer.
    #[error("there is no such token, or its time is over")]
    UnknownToken,
    /// A directory refuses or cannot be asked.
    #[error("{0}")]
    Directory(String),
    /// The VM is somebody else's, or nobody's whom it may be taken from.
    #[error("the VM is not there for this user")]
    NotYours,
    /// The configuration makes no sense.
    #[error("{key} {problem}")]
    Setting {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The database cannot say, which ends the whole login.
    #[error("the database cannot say")]
    Db(#[from] DbError),
}

/// What a step of an authenticator comes to.
pub type Verdict<'a, T = ()> = BoxFuture<'a, Result<T, Refusal>>;

/// One way to prove who one is. An authenticator that refuses leaves the attempt as it was.
pub trait Authenticator: Send + Sync {
    /// Which tenant a login, as typed, belongs to. The first answer counts.
    fn find_tenant(&self, _typed: &str, _config: &Config) -> Option<FoundTenant> {
        None
    }

    /// Writes the name of a tenant as it is on record. Each is given what the one before made of it.
    fn normalise_tenant(&self, tenant: String, _config: &Config) -> String {
        tenant
    }

    /// Writes a login as it is on record, likewise.
    fn normalise_login(&self, login: String, _config: &Config) -> String {
        login
    }

    /// Takes the second factor off the password. The first answer counts, and then a second factor is needed.
    fn split_second_factor(&self, _password: &str, _config: &Config) -> Option<SplitPassword> {
        None
    }

    /// Checks the password. The first success counts.
    fn authenticate<'a>(&'a self, _attempt: &'a mut Attempt, _password: &'a str) -> Verdict<'a> {
        silent()
    }

    /// Checks the second factor, once the password is known to be right. The first success counts.
    fn second_factor<'a>(&'a self, _attempt: &'a Attempt, _token: &'a str) -> Verdict<'a> {
        silent()
    }

    /// Finds out whom a token stands for. The first success counts.
    fn bearer<'a>(&'a self, _token: &'a str) -> Verdict<'a, TokenOwner> {
        silent()
    }

    /// Does what is to be done once a password was right, whoever said so. Failing ends the login.
    fn after_authenticate<'a>(&'a self, _attempt: &'a mut Attempt) -> Verdict<'a> {
        silent()
    }

    /// Does what is to be done before a user's VMs are listed, or something is made that stands for the user (token,
    /// parameters). All are asked; failing ends the request.
    fn before_list<'a>(&'a self, _visit: &'a mut Visit) -> Verdict<'a> {
        silent()
    }

    /// Lists other VMs than those that are the user's own. The first answer counts.
    fn list<'a>(&'a self, _visit: &'a mut Visit, _applications: bool) -> Verdict<'a, Vec<ListedVm>> {
        silent()
    }

    /// Lets a user have a VM that is somebody else's. The first success counts.
    fn allow<'a>(&'a self, _visit: &'a mut Visit, _vm: VmId, _purpose: Purpose) -> Verdict<'a> {
        silent()
    }

    /// Does what is to be done before a VM that the user now has is started or shown. All are asked; failing ends the
    /// attempt.
    fn before_connect<'a>(&'a self, _visit: &'a mut Visit, _vm: VmId) -> Verdict<'a> {
        silent()
    }
}

fn silent<'a, T: Send + 'a>() -> Verdict<'a, T> {
    Box::pin(std::future::ready(Err(Refusal::Silent)))
}
