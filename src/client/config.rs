//! What the client is to do, from four sources that all set the same keys: arguments, environment, the user's file
//! and the system's file, the earlier winning. Keys of other clients in the same files are left alone.

use std::{
    collections::HashMap,
    env, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use thiserror::Error;

use super::{ClientArgs, transport::Transport};
use crate::model::config::properties::{self, SyntaxError};

const SYSTEM_FILE: &str = "/etc/qvd/client.conf";

/// Environment variables that set keys.
const VARIABLES: &[(&str, &str)] = &[
    ("QVDHOST", "client.host.name"),
    ("QVDPORT", "client.host.port"),
    ("QVDLOGIN", "client.user.name"),
    ("QVDPASSWORD", "client.user.password"),
    ("QVDBEARERTOKEN", "client.token"),
    ("QVDSSLERRORS", "client.ssl.errors"),
];

/// A setting that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file that was asked for, or is there, cannot be read.
    #[error("cannot read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not in `key = value` form.
    #[error("configuration file {} cannot be understood", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line and problem.
        source: SyntaxError,
    },
    /// A value makes no sense.
    #[error("{place}: {value:?} will not do: {expected}")]
    Value {
        /// File and line, variable or argument.
        place: String,
        /// As written.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// No server is named anywhere.
    #[error("no server to connect to; use --host, QVDHOST or client.host.name in ~/.qvd/client.conf")]
    NoHost,
}

/// What is around the client: variables and files.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Environment variables.
    pub variables: HashMap<String, String>,
    /// Configuration for all users.
    pub system_file: PathBuf,
}

impl Environment {
    /// That of this process. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self { variables: env::vars_os().filter_map(readable).collect(), system_file: SYSTEM_FILE.into() }
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Where the user's files are (`~/.qvd`); `None` for a user without a home.
    pub fn directory(&self) -> Option<PathBuf> {
        self.variable("HOME").map(|home| Path::new(home).join(".qvd"))
    }
}

/// What to do with a certificate that cannot be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslErrors {
    /// Ask the user, where there is a terminal.
    Ask,
    /// Go on with a warning.
    Continue,
    /// Give up.
    Abort,
}

impl FromStr for SslErrors {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "ask" => Ok(Self::Ask),
            "continue" => Ok(Self::Continue),
            "abort" => Ok(Self::Abort),
            _ => Err(()),
        }
    }
}

/// Everything the client was told.
#[derive(Clone)]
pub struct Settings {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// How the server is reached.
    pub transport: Transport,
    /// Login, when it is known.
    pub user: Option<String>,
    /// Password, when it is known.
    pub password: Option<String>,
    /// Token to log in with; wins over login and password.
    pub token: Option<String>,
    /// Name or id of the desktop.
    pub vm: Option<String>,
    /// Kind of network.
    pub link: String,
    /// Size of the desktop, `WxH`.
    pub geometry: String,
    /// `model/layout`.
    pub keyboard: String,
    /// Whole screen.
    pub fullscreen: bool,
    /// What to do with doubtful certificates.
    pub ssl_errors: SslErrors,
    /// Files with further trusted certificates.
    pub authorities: Vec<PathBuf>,
    /// The user's files.
    pub directory: Option<PathBuf>,
    /// The program.
    pub nxproxy: PathBuf,
    /// Arguments before its `-S`.
    pub nxproxy_args: Vec<String>,
    /// Options for nxagent in the VM.
    pub nxagent_args: Option<String>,
    /// Parameters `custom.*` for hooks in the VM.
    pub custom: Vec<(String, String)>,
    /// Pause before the second attempt to reach a server; doubles each time.
    pub retry_pause: Duration,
}

impl Settings {
    /// Puts all sources together.
    ///
    /// # Errors
    /// When a file cannot be read, a value makes no sense, or no server is named. The error says where.
    pub fn gather(args: &ClientArgs, environment: &Environment) -> Result<Self, ConfigError> {
        let mut values = Values::default();
        values.add_file(&environment.system_file, false)?;
        let named = args.config.clone().or_else(|| environment.variable("QVDCLIENTCONFIG").map(PathBuf::from));
        match (named, environment.directory()) {
            (Some(file), _) => values.add_file(&file, true)?,
            (None, Some(directory)) => values.add_file(&directory.join("client.conf"), false)?,
            (None, None) => {}
        }
        for (variable, key) in VARIABLES {
            if let Some(value) = environment.variable(variable) {
                values.set(key, value, (*variable).to_owned());
            }
        }
        values.add_arguments(args);
        let text = |key: &str| values.text(key).map(str::to_owned);
        Ok(Self {
            host: text("client.host.name").ok_or(ConfigError::NoHost)?,
            port: values
                .read("client.host.port", "a port number from 1 to 65535", |text| {
                    text.parse().ok().filter(|port| *port > 0)
                })?
                .unwrap_or(8443),
            tls: values.switch("client.use_ssl")?.unwrap_or(true),
            transport: values
                .read("client.transport", "auto, tls or quic", |text| text.parse().ok())?
                .unwrap_or(Transport::Auto),
            user: text("client.user.name"),
            password: text("client.user.password"),
            token: text("client.token"),
            vm: text("client.auto_connect.vm_id"),
            link: values
                .read("client.link", "modem, isdn, adsl, wan, lan, local, or a bandwidth such as 512k", link)?
                .unwrap_or_else(|| "adsl".to_owned()),
            geometry: values
                .read("client.geometry", "a size such as 1280x800", geometry)?
                .unwrap_or_else(|| "1024x768".to_owned()),
            keyboard: text("client.keyboard").unwrap_or_else(|| "pc105/us".to_owned()),
            fullscreen: values.switch("client.fullscreen")?.unwrap_or(false),
            ssl_errors: values
                .read("client.ssl.errors", "ask, continue or abort", |text| text.parse().ok())?
                .unwrap_or(SslErrors::Ask),
            authorities: args.ca.clone(),
            directory: environment.directory(),
            nxproxy: text("command.nxproxy").unwrap_or_else(|| "nxproxy".to_owned()).into(),
            nxproxy_args: values
                .text("client.nxproxy.extra_args")
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            nxagent_args: text("client.nxagent.extra_args"),
            custom: values.custom(),
            retry_pause: Duration::from_millis(200),
        })
    }
}

/// Values by key, with the place each was set.
#[derive(Default)]
struct Values(HashMap<String, (String, String)>);

impl Values {
    fn set(&mut self, key: &str, value: &str, place: String) {
        self.0.insert(key.to_owned(), (value.to_owned(), place));
    }

    fn add_file(&mut self, path: &Path, must_exist: bool) -> Result<(), ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(()),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        let read = properties::parse(&text).map_err(|source| ConfigError::Syntax { path: path.to_owned(), source })?;
        for property in read {
            self.set(&property.key, &property.value, format!("{}:{}: {}", path.display(), property.line, property.key));
        }
        Ok(())
    }

    fn add_arguments(&mut self, args: &ClientArgs) {
        // Who gives one way to log in on the command line does not mean another that a file happens to hold.
        if args.user.is_some() || args.password.is_some() {
            self.0.remove("client.token");
        }
        if args.user.is_some() && args.password.is_none() {
            self.forget_password_of_another(args.user.as_deref());
        }
        let port = args.port.map(|port| port.to_string());
        for (argument, key, value) in [
            ("--host", "client.host.name", args.host.as_deref()),
            ("--port", "client.host.port", port.as_deref()),
            ("--user", "client.user.name", args.user.as_deref()),
            ("--password", "client.user.password", args.password.as_deref()),
            ("--token", "client.token", args.token.as_deref()),
            ("--vm", "client.auto_connect.vm_id", args.vm.as_deref()),
            ("--no-ssl", "client.use_ssl", args.no_ssl.then_some("0")),
            ("--transport", "client.transport", args.transport.as_deref()),
            ("--ssl-errors", "client.ssl.errors", args.ssl_errors.as_deref()),
            ("--geometry", "client.geometry", args.geometry.as_deref()),
            ("--link", "client.link", args.link.as_deref()),
            ("--keyboard", "client.keyboard", args.keyboard.as_deref()),
            ("--fullscreen", "client.fullscreen", args.fullscreen.then_some("1")),
        ] {
            if let Some(value) = value {
                self.set(key, value, argument.to_owned());
            }
        }
    }

    /// A password in a file belongs to the login beside it; one in the environment to whoever is named.
    fn forget_password_of_another(&mut self, user: Option<&str>) {
        let from_file = self.0.get("client.user.password").is_some_and(|(_, place)| place != "QVDPASSWORD");
        if from_file && self.text("client.user.name") != user {
            self.0.remove("client.user.password");
        }
    }

    /// A value that is not empty.
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|(value, _)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((value, place)) = self.0.get(key).filter(|(value, _)| !value.is_empty()) else { return Ok(None) };
        match parse(value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(ConfigError::Value { place: place.clone(), value: value.clone(), expected }),
        }
    }

    fn switch(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.read(key, "0 or 1", |text| match text.to_ascii_lowercase().as_str() {
            "1" | "yes" | "true" | "on" => Some(true),
            "0" | "no" | "false" | "off" => Some(false),
            _ => None,
        })
    }

    fn custom(&self) -> Vec<(String, String)> {
        let custom = self.0.iter().filter(|(key, _)| key.starts_with("custom."));
        let mut custom: Vec<_> = custom.map(|(key, (value, _))| (key.clone(), value.clone())).collect();
        custom.sort();
        custom
    }
}

fn link(text: &str) -> Option<String> {
    let named = ["modem", "isdn", "adsl", "wan", "lan", "local"].contains(&text);
    let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    let bandwidth =
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= digits.len() + 1;
    (named || bandwidth).then(|| text.to_owned())
}

fn geometry(text: &str) -> Option<String> {
    let (width, height) = text.split_once('x')?;
    let fits = |side: &str| side.parse::<u16>().is_ok_and(|pixels| pixels > 0);
    (fits(width) && fits(height)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Setup {
        scratch: tempfile::TempDir,
        environment: Environment,
    }

    fn setup(system: &str, user: &str, variables: &[(&str, &str)]) -> Setup {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join(".qvd")).unwrap();
        fs::write(scratch.path().join("system.conf"), system).unwrap();
        fs::write(scratch.path().join(".qvd/client.conf"), user).unwrap();
        let mut all: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.insert("HOME".to_owned(), scratch.path().display().to_string());
        let environment = Environment { variables: all, system_file: scratch.path().join("system.conf") };
        Setup { scratch, environment }
    }

    #[test]
    fn arguments_win_over_environment_over_user_over_system() {
        let system = "client.host.name=a\nclient.host.port=1\nclient.link=lan\nclient.geometry=1x1\n";
        let user = "client.host.name=b\nclient.host.port=2\nclient.link=wan\n";
        let setup = setup(system, user, &[("QVDHOST", "c"), ("QVDPORT", "3")]);
        let args = ClientArgs { host: Some("d".into()), ..ClientArgs::default() };
        let settings = Settings::gather(&args, &setup.environment).unwrap();
        assert_eq!((settings.host.as_str(), settings.port), ("d", 3));
        assert_eq!((settings.link.as_str(), settings.geometry.as_str()), ("wan", "1x1"));
    }

    #[test]
    fn a_named_file_replaces_the_users_and_must_exist() {
        let setup = setup("", "client.host.name=user\n", &[]);
        let file = setup.scratch.path().join("other.conf");
        fs::write(&file, "client.host.name=other\n").unwrap();
        let args = ClientArgs { config: Some(file.clone()), ..ClientArgs::default() };
        assert_eq!(Settings::gather(&args, &setup.environment).unwrap().host, "other");
        fs::remove_file(file).unwrap();
        assert!(matches!(Settings::gather(&args, &setup.environment), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn a_value_that_will_not_do_names_its_place() {
        let setup = setup("", "client.host.name=x\n\nclient.geometry = big\n", &[]);
        let text = Settings::gather(&ClientArgs::default(), &setup.environment).err().unwrap().to_string();
        assert!(
            text.ends_with("client.conf:3: client.geometry: \"big\" will not do: a size such as 1280x800"),
            "{text}"
        );
        let args = ClientArgs { geometry: Some("2x2".into()), link: Some("fast".into()), ..ClientArgs::default() };
        let text = Settings::gather(&args, &setup.environment).err().unwrap().to_string();
        assert!(text.starts_with("--link: \"fast\""), "{text}");
    }

    #[test]
    fn without_a_server_the_user_is_told_how_to_name_one() {
        let setup = setup("", "", &[]);
        assert!(matches!(Settings::gather(&ClientArgs::default(), &setup.environment), Err(ConfigError::NoHost)));
    }

    #[test]
    fn a_password_in_a_file_is_not_sent_for_another_login() {
        let setup = setup("", "client.host.name=x\nclient.user.name=alice\nclient.user.password=secret\n", &[]);
        let gather = |user: &str| {
            Settings::gather(&ClientArgs { user: Some(user.into()), ..ClientArgs::default() }, &setup.environment)
                .unwrap()
        };
        assert_eq!(gather("alice").password.as_deref(), Some("secret"));
        assert_eq!(gather("bob").password, None);
    }

    #[test]
    fn links_are_names_or_bandwidths() {
        for good in ["lan", "56k", "1m", "100M", "2048"] {
            assert!(link(good).is_some(), "{good}");
        }
        for bad in ["", "k", "56kk", "fast", "1.5m"] {
            assert!(link(bad).is_none(), "{bad}");
        }
    }
}
