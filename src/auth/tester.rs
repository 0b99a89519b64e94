//! `authTester`: lets nobody in and writes into the log what an authenticator is asked, never a password. For those who
//! set up a chain, or write an authenticator, and want to see what reaches it.

use crate::{
    db::ListedVm,
    model::{VmId, config::Config},
};

use super::{Attempt, Authenticator, FoundTenant, Purpose, Refusal, Verdict, Visit};

/// Watches.
pub struct Tester;

/// Says it, and nothing more.
macro_rules! said {
    ($hook:literal, $($field:tt)*) => {{
        tracing::info!(hook = $hook, $($field)*, "authTester is asked");
        Box::pin(std::future::ready(Err(Refusal::Silent)))
    }};
}

impl Authenticator for Tester {
    fn find_tenant(&self, typed: &str, _: &Config) -> Option<FoundTenant> {
        tracing::info!(hook = "find_tenant", typed, "authTester is asked");
        None
    }

    fn authenticate<'a>(&'a self, attempt: &'a mut Attempt, password: &'a str) -> Verdict<'a> {
        let (login, tenant, variables) = (&attempt.login, &attempt.tenant_name, &attempt.variables);
        said!("authenticate", login, tenant, password_length = password.chars().count(), ?variables)
    }

    fn second_factor<'a>(&'a self, attempt: &'a Attempt, token: &'a str) -> Verdict<'a> {
        said!("second_factor", login = attempt.login, token_length = token.chars().count())
    }

    fn after_authenticate<'a>(&'a self, attempt: &'a mut Attempt) -> Verdict<'a> {
        said!("after_authenticate", login = attempt.login, parameters = ?attempt.parameters)
    }

    fn before_list<'a>(&'a self, visit: &'a mut Visit) -> Verdict<'a> {
        said!("before_list", user = %visit.user.user, query = ?visit.query, variables = ?visit.user.variables)
    }

    fn list<'a>(&'a self, visit: &'a mut Visit, applications: bool) -> Verdict<'a, Vec<ListedVm>> {
        said!("list", user = %visit.user.user, applications, query = ?visit.query)
    }

    fn allow<'a>(&'a self, visit: &'a mut Visit, vm: VmId, purpose: Purpose) -> Verdict<'a> {
        said!("allow", user = %visit.user.user, %vm, ?purpose)
    }

    fn before_connect<'a>(&'a self, visit: &'a mut Visit, vm: VmId) -> Verdict<'a> {
        said!("before_connect", user = %visit.user.user, %vm, parameters = ?visit.user.parameters)
    }
}
