//! What an administrator has configured about the directory, read once per login, and the login put into its texts.

use std::time::Duration;

use ldap3::{DerefAliases, Scope, dn_escape, ldap_escape};
use regex::Regex;

use crate::{
    auth::Refusal,
    model::config::{Config, Key, keys},
};

/// Stands for the login.
const LOGIN: &str = "%u";

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// `ldap://` or `ldaps://` with host and, when it is not the usual one, port.
    pub url: String,
}

/// How users of a directory are found and let in.
pub struct Options {
    /// In the order in which they are asked.
    pub servers: Vec<Server>,
    pub base: String,
    pub filter: String,
    pub scope: Scope,
    pub deref: DerefAliases,
    /// Who searches; `None` for nobody.
    pub bind_dn: Option<String>,
    /// `None` for the user's own password.
    pub bind_password: Option<String>,
    /// The name of the user's entry, when it follows from the login.
    pub user_dn: Option<String>,
    pub racf_allow: Option<Regex>,
    pub normalise_name: bool,
    pub set_home: bool,
    pub starttls: bool,
    /// File with authorities; `None` for the system's.
    pub ca: Option<String>,
    /// For one login with one server.
    pub limit: Duration,
    /// At the same time, for the whole tenant; at least 1.
    pub connections: usize,
}

impl Options {
    /// For the login of one user.
    pub fn new(config: &Config, login: &str) -> Result<Self, Refusal> {
        let hosts = config.get(&keys::LDAP_HOST);
        if hosts.is_empty() {
            return Err(Refusal::Setting { key: keys::LDAP_HOST.name, problem: "is not set" });
        }
        let servers = hosts.iter().map(|host| server(host)).collect::<Option<Vec<_>>>();
        let problem = "names no server as host, host:port, ldap:// or ldaps:// address";
        let servers = servers.ok_or(Refusal::Setting { key: keys::LDAP_HOST.name, problem })?;
        let base = set(config, &keys::LDAP_BASE);
        let base = base.ok_or(Refusal::Setting { key: keys::LDAP_BASE.name, problem: "is not set" })?;
        Ok(Self {
            servers,
            base,
            filter: personal(&keys::LDAP_FILTER, config.get(&keys::LDAP_FILTER), &ldap_escape(login))?,
            scope: scope(&config.get(&keys::LDAP_SCOPE)),
            deref: deref(&config.get(&keys::LDAP_DEREF)),
            bind_dn: set(config, &keys::LDAP_BINDDN).map(|dn| dn.replace(LOGIN, &dn_escape(login))),
            bind_password: set(config, &keys::LDAP_BINDPASS),
            user_dn: set(config, &keys::LDAP_USERBINDPATTERN)
                .map(|pattern| personal(&keys::LDAP_USERBINDPATTERN, pattern, &dn_escape(login)))
                .transpose()?,
            racf_allow: set(config, &keys::LDAP_RACF_ALLOW).map(|text| Regex::new(&text)).transpose().map_err(
                |_| Refusal::Setting { key: keys::LDAP_RACF_ALLOW.name, problem: "is no regular expression" },
            )?,
            normalise_name: config.get(&keys::LDAP_NAME_NORMALIZE) || config.get(&keys::LDAP_NORMALIZE_NAME),
            set_home: config.get(&keys::LDAP_HOME_SET),
            starttls: config.get(&keys::LDAP_STARTTLS),
            ca: set(config, &keys::LDAP_CA),
            limit: config.get(&keys::LDAP_TIMEOUT),
            connections: config.get(&keys::LDAP_CONNECTIONS).max(1) as usize,
        })
    }
}

fn set(config: &Config, key: &Key<String>) -> Option<String> {
    Some(config.get(key)).filter(|value| !value.is_empty())
}

/// A text that names the user. Without the login it would let everybody in with one user's password.
fn personal(key: &Key<String>, pattern: String, login: &str) -> Result<String, Refusal> {
    if pattern.contains(LOGIN) {
        Ok(pattern.replace(LOGIN, login))
    } else {
        Err(Refusal::Setting { key: key.name, problem: "has no %u, so it says nothing about the login" })
    }
}

fn server(written: &str) -> Option<Server> {
    let (scheme, authority) = match written.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest.strip_suffix('/').unwrap_or(rest)),
        None => ("ldap".to_owned(), written),
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => port.parse::<u16>().ok().map(|_| host)?,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_address = bare.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    let known = matches!(scheme.as_str(), "ldap" | "ldaps");
    (known && (is_address || is_name)).then(|| Server { url: format!("{scheme}://{authority}") })
}

fn scope(written: &str) -> Scope {
    match written {
        "base" => Scope::Base,
        "one" => Scope::OneLevel,
        "sub" => Scope::Subtree,
        other => {
            tracing::warn!("auth.ldap.scope is {other:?}, none of base, one, sub; taken for base");
            Scope::Base
        }
    }
}

fn deref(written: &str) -> DerefAliases {
    match written {
        "never" => DerefAliases::Never,
        "search" => DerefAliases::Searching,
        "find" => DerefAliases::Finding,
        "always" => DerefAliases::Always,
        other => {
            tracing::warn!("auth.ldap.deref is {other:?}, none of never, search, find, always; taken for never");
            DerefAliases::Never
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(rows: &[(&str, &str)], login: &str) -> Result<Options, Refusal> {
        let mut config = Config::default();
        for (key, value) in [("auth.ldap.host", "ldap.example"), ("auth.ldap.base", "dc=x")].iter().chain(rows) {
            config.set(key, *value).unwrap();
        }
        Options::new(&config, login)
    }

    #[test]
    fn servers_are_written_in_several_ways() {
        let hosts = " a, b:1389 ,ldaps://c,LDAP://10.0.0.1:389/,[::1]:389,ldap://[::1]";
        let servers = options(&[("auth.ldap.host", hosts)], "x").unwrap().servers;
        let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
        assert_eq!(
            urls,
            ["ldap://a", "ldap://b:1389", "ldaps://c", "ldap://10.0.0.1:389", "ldap://[::1]:389", "ldap://[::1]"]
        );
        for bad in ["http://a", "a:b", "a:99999", "ldap://", "a b", "ldapi://%2frun", "u@h", "a/b"] {
            assert!(options(&[("auth.ldap.host", bad)], "x").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_login_cannot_reach_beyond_its_place() {
        let rows = [
            ("auth.ldap.filter", "(&(objectClass=person)(|(uid=%u)(mail=%u)))"),
            ("auth.ldap.binddn", "cn=%u,o=y"),
            ("auth.ldap.userbindpattern", "uid=%u,dc=x"),
        ];
        let options = options(&rows, "a)(uid=*,o=z\\%u").unwrap();
        let escaped = r"a\29\28uid=\2a,o=z\5c%u";
        assert_eq!(options.filter, format!("(&(objectClass=person)(|(uid={escaped})(mail={escaped})))"));
        let escaped = r"a)(uid\3d*\2co\3dz\5c%u";
        assert_eq!(options.bind_dn, Some(format!("cn={escaped},o=y")));
        assert_eq!(options.user_dn, Some(format!("uid={escaped},dc=x")));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (key, value) in [
            ("auth.ldap.host", ""),
            ("auth.ldap.base", ""),
            ("auth.ldap.filter", "(objectClass=person)"),
            ("auth.ldap.userbindpattern", "uid=alice,dc=x"),
            ("auth.ldap.racf_allowregex", "("),
        ] {
            let refused = options(&[(key, value)], "x").err();
            assert!(matches!(refused, Some(Refusal::Setting { key: named, .. }) if named == key), "{key}");
        }
    }
}
