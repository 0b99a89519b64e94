//! What people type as a login, taken apart: `login@tenant`.

use crate::model::config::{Config, keys};

use super::FoundTenant;

/// A login and its tenant, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Name of the user.
    pub login: String,
    /// Name of the tenant.
    pub tenant: String,
}

/// How logins are written in this installation.
#[derive(Clone, Debug)]
pub struct LoginRules {
    separators: String,
    default_tenant: String,
    case_sensitive: bool,
}

impl LoginRules {
    /// From the configuration.
    pub fn from_config(config: &Config) -> Self {
        Self {
            separators: config.get(&keys::L7R_SEPARATORS),
            default_tenant: config.get(&keys::L7R_TENANT),
            case_sensitive: config.get(&keys::LOGIN_CASE_SENSITIVE),
        }
    }

    /// Splits once at the first separator; without one the default tenant is meant.
    pub fn split(&self, typed: &str) -> FoundTenant {
        let (login, tenant) = match typed.find(|c| self.separators.contains(c)) {
            Some(at) => {
                let (login, rest) = typed.split_at(at);
                let mut rest = rest.chars();
                rest.next();
                (login, rest.as_str())
            }
            None => (typed, self.default_tenant.as_str()),
        };
        FoundTenant { login: login.to_owned(), tenant: tenant.to_owned() }
    }

    /// Without surrounding white space and, unless case matters, in lower case.
    pub fn normalise(&self, text: &str) -> String {
        if self.case_sensitive { text.trim().to_owned() } else { text.trim().to_lowercase() }
    }

    /// Splits and normalises.
    pub fn parse(&self, typed: &str) -> Login {
        let found = self.split(typed);
        Login { login: self.normalise(&found.login), tenant: self.normalise(&found.tenant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(typed: &str) -> (String, String) {
        let login = LoginRules::from_config(&Config::default()).parse(typed);
        (login.login, login.tenant)
    }

    #[test]
    fn the_first_separator_parts_login_and_tenant() {
        for (typed, login, tenant) in [
            ("alice", "alice", "default"),
            ("Alice@ACME", "alice", "acme"),
            ("alice#acme@x", "alice", "acme@x"),
            (" alice @ acme ", "alice", "acme"),
            ("@acme", "", "acme"),
        ] {
            assert_eq!(parse(typed), (login.to_owned(), tenant.to_owned()), "{typed}");
        }
    }
}
