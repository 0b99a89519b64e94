//! Every setting of the agent: key, type and default in one place.
//! Files are read in order, the later winning: that of the image, then that of the node that started the VM, which is a
//! mounted file in containers and a file of QEMU's firmware interface in KVM guests. Names and
//! defaults are classic unless their comment says otherwise. Nothing is reloaded: a new agent reads anew.

use std::{collections::HashMap, fs, io, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::model::config::{ConfigValue, Unit, properties};

/// The files, the later winning.
const FILES: [&str; 3] =
    ["/etc/qvd/vma.conf", "/.qvd/vma.conf", "/sys/firmware/qemu_fw_cfg/by_name/opt/com.theqvd/vma.conf/raw"];

/// Prefix of the keys that stand in for a connection parameter nobody sent.
const DEFAULT_PREFIX: &str = "vma.default.";

macro_rules! settings {
    ($($(#[$doc:meta])+ $field:ident: $type:ty = $key:literal, $default:literal;)+) => {
        /// The values of all settings.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $($(#[$doc])+ pub $field: $type,)+
            parameter_defaults: HashMap<String, String>,
        }

        const DEFAULTS: &[(&str, &str)] = &[$(($key, $default),)+];

        impl Settings {
            fn from_values(values: &Values) -> Result<Self, SettingsError> {
                Ok(Self {
                    $($field: values.read::<$type>($key)?,)+
                    parameter_defaults: values.below(DEFAULT_PREFIX),
                })
            }
        }
    };
}

settings! {
    /// Directory for state, pid and options of the X session. Classic: below /var/run.
    run_dir: PathBuf = "path.run", "/run/qvd";
    /// Directory for the logs of the X session and the hooks.
    log_dir: PathBuf = "path.log", "/var/log/qvd";
    /// Port on which nodes call.
    port: u16 = "internal.vm.port.vma", "3030";
    /// Root-only file with the secret that callers must know; while it does not exist none is asked for. Ours.
    secret_file: PathBuf = "vma.secret.file", "/.qvd/secret";

    /// Hardware address of the interface that nodes reach, where the agent is to set it up. Ours, as all of these.
    network_mac: String = "vma.network.mac", "";
    /// Its address and the length of the network's prefix; empty where the image or the container sees to it.
    network_address: Vec<String> = "vma.network.address", "";
    /// The gateway; empty for none.
    network_gateway: Vec<String> = "vma.network.gateway", "";
    /// Name servers; empty to leave what the image has.
    network_dns: Vec<String> = "vma.network.dns", "";
    /// Name of the machine; empty to leave it.
    host_name: String = "vma.host.name", "";

    /// Display number of nxagent, which waits for its proxy on port 4000 above it.
    display: u32 = "internal.nxagent.display", "100";
    /// How long a session may take until nxagent shows its first sign of life.
    initiating_limit: Duration = "internal.nxagent.timeout.initiating", "20";
    /// How long a new session may take until its proxy has come.
    listening_limit: Duration = "internal.nxagent.timeout.listening", "10";
    /// How long nxagent may take to let go of its proxy.
    suspending_limit: Duration = "internal.nxagent.timeout.suspending", "20";
    /// How long nxagent may take to end.
    stopping_limit: Duration = "internal.nxagent.timeout.stopping", "20";

    /// Options of nxagent, written at every start and resume.
    options_file: PathBuf = "internal.vma.nxagent.config", "${path.run}/nxagent.conf";
    /// Key of the slave channel, written at every start and resume.
    slave_key_file: PathBuf = "internal.vma.slave.config", "${path.run}/slave.conf";
    /// How strict nxagent compares its display with the one it resumes on.
    tolerance_checks: String = "internal.vma.nxagent.tolerancechecks", "risky";

    /// The X session.
    x_session: PathBuf = "command.x-session", "/etc/X11/Xsession";
    /// Further arguments of the X session.
    x_session_args: Words = "command.x-session.args.extra", "";
    /// nxagent.
    nxagent: PathBuf = "command.nxagent", "/usr/bin/nxagent";
    /// Further arguments of nxagent.
    nxagent_args: Words = "command.nxagent.args.extra", "";
    /// xinit.
    xinit: PathBuf = "command.xinit", "/usr/bin/xinit";
    /// x11vnc, which shows the session to administrators.
    x11vnc: PathBuf = "command.x11vnc", "/usr/bin/x11vnc";
    /// Further arguments of x11vnc.
    x11vnc_args: Words = "vma.x11vnc.extra_args", "";
    /// Whether the user is asked before the session is shown.
    x11vnc_confirm: bool = "vma.x11vnc.confirm.enabled", "1";
    /// What asks the user, as x11vnc knows it: a command whose success means yes, or x11vnc's own window. Classic: a program.
    x11vnc_confirm_command: String = "vma.x11vnc.confirm.command", "popup";
    /// useradd.
    useradd: PathBuf = "command.useradd", "/usr/sbin/useradd";
    /// userdel.
    userdel: PathBuf = "command.userdel", "/usr/sbin/userdel";
    /// groupadd.
    groupadd: PathBuf = "command.groupadd", "/usr/sbin/groupadd";
    /// groupdel.
    groupdel: PathBuf = "command.groupdel", "/usr/sbin/groupdel";

    /// Disk of the homes, used where homes have no file system of their own.
    home_drive: PathBuf = "vma.user.home.drive", "/dev/vdb";
    /// File system made on a new home disk.
    home_fs: String = "vma.user.home.fs", "ext4";
    /// Directory of the homes.
    home_path: PathBuf = "vma.user.home.path", "/home";
    /// User when the node names none.
    user_name: String = "vma.user.default.name", "qvd";
    /// Supplementary groups of a new user when the node names none.
    user_groups: Vec<String> = "vma.user.default.groups", "qvduser";
    /// Shell of a new user.
    user_shell: PathBuf = "vma.user.shell", "/bin/bash";
    /// File mode mask of the session.
    umask: Octal = "vma.user.umask", "0022";
    /// Language of the session where the image sets none.
    lang: String = "vma.default.lang", "en_US.UTF-8";

    /// Hook: a session is about to start or resume.
    on_pre_connect: Option<PathBuf> = "vma.on_action.pre-connect", "";
    /// Hook: the session starts or resumes now.
    on_connect: Option<PathBuf> = "vma.on_action.connect", "";
    /// Hook: somebody ends the session.
    on_stop: Option<PathBuf> = "vma.on_action.stop", "";
    /// Hook: somebody suspends the session.
    on_suspend: Option<PathBuf> = "vma.on_action.suspend", "";
    /// Hook: the VM is about to shut down.
    on_poweroff: Option<PathBuf> = "vma.on_action.poweroff", "";
    /// Hook: the VM will be stopped soon.
    on_expire: Option<PathBuf> = "vma.on_action.expire", "";
    /// Hook: a proxy is connected.
    on_connected: Option<PathBuf> = "vma.on_state.connected", "";
    /// Hook: the session lives without a proxy.
    on_suspended: Option<PathBuf> = "vma.on_state.suspended", "";
    /// Hook: there is no session any more.
    on_disconnected: Option<PathBuf> = "vma.on_state.disconnected", "";
    /// Hook: replaces what we do to mount homes.
    on_mount_home: Option<PathBuf> = "vma.on_provisioning.mount_home", "";
    /// Hook: replaces what we do to add the user.
    on_add_user: Option<PathBuf> = "vma.on_provisioning.add_user", "";
    /// Hook: the user was added.
    on_after_add_user: Option<PathBuf> = "vma.on_provisioning.after_add_user", "";
}

/// Settings that cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A file is there and cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// The file.
        file: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not in `key = value` form.
    #[error("{file}: {error}")]
    Syntax {
        /// The file.
        file: String,
        /// Line and problem.
        error: properties::SyntaxError,
    },
    /// A value is not of its key's type.
    #[error("{place}{key} = {value:?}: {problem}")]
    Value {
        /// `file:line: `, empty for a default.
        place: String,
        /// The key.
        key: String,
        /// The value, references expanded.
        value: String,
        /// What was expected.
        problem: String,
    },
}

impl Settings {
    /// Reads the files of the machine; what is missing has its default. Keys nobody knows are logged.
    pub fn load() -> Result<Self, SettingsError> {
        let mut values = Values::default();
        for file in FILES {
            match fs::read_to_string(file) {
                Ok(text) => values.add(file, &text)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(SettingsError::Read { file, source }),
            }
        }
        for key in values.unknown() {
            tracing::debug!(key, "this setting has no effect");
        }
        Self::from_values(&values)
    }

    /// What stands in for the connection parameter `name` when nobody sends it.
    pub fn parameter_default(&self, name: &str) -> Option<&str> {
        self.parameter_defaults.get(name).map(String::as_str)
    }

    /// Settings for tests: defaults, and over them one file.
    #[cfg(test)]
    pub fn from_text(text: &str) -> Result<Self, SettingsError> {
        let mut values = Values::default();
        values.add("vma.conf", text)?;
        Self::from_values(&values)
    }
}

/// Texts of keys and where they were set.
#[derive(Default)]
struct Values(HashMap<String, (String, String)>);

impl Values {
    fn add(&mut self, file: &str, text: &str) -> Result<(), SettingsError> {
        let read = properties::parse(text).map_err(|error| SettingsError::Syntax { file: file.to_owned(), error })?;
        for property in read {
            self.0.insert(property.key, (property.value, format!("{file}:{}: ", property.line)));
        }
        Ok(())
    }

    fn read<T: ConfigValue>(&self, key: &str) -> Result<T, SettingsError> {
        let fail = |value: String, problem| {
            let place = self.0.get(key).map(|(_, place)| place.clone()).unwrap_or_default();
            SettingsError::Value { place, key: key.to_owned(), value, problem }
        };
        let text =
            self.expand(key, 0).map_err(|problem| fail(self.raw(key).unwrap_or_default().to_owned(), problem))?;
        T::parse(&text).map_err(|problem| fail(text, problem))
    }

    fn raw(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some((value, _)) => Some(value),
            None => DEFAULTS.iter().find(|(name, _)| *name == key).map(|(_, default)| *default),
        }
    }

    fn expand(&self, key: &str, depth: usize) -> Result<String, String> {
        let lost = || format!("the reference to {key} leads back to itself or nowhere");
        let mut rest = self.raw(key).filter(|_| depth < 8).ok_or_else(lost)?;
        let mut out = String::new();
        while let Some((before, reference, after)) = next_reference(rest) {
            out.push_str(before);
            out.push_str(&self.expand(reference, depth + 1)?);
            rest = after;
        }
        Ok(out + rest)
    }

    fn below(&self, prefix: &str) -> HashMap<String, String> {
        let below =
            |(key, (value, _)): (&String, &(String, String))| Some((key.strip_prefix(prefix)?.into(), value.clone()));
        self.0.iter().filter_map(below).collect()
    }

    fn unknown(&self) -> impl Iterator<Item = &str> {
        let known = |key: &str| key.starts_with(DEFAULT_PREFIX) || DEFAULTS.iter().any(|(name, _)| *name == key);
        self.0.keys().map(String::as_str).filter(move |key| !known(key))
    }
}

/// Splits a text at its first `${key}` into what is before, the key, and what is after.
fn next_reference(text: &str) -> Option<(&str, &str, &str)> {
    let (before, from) = text.split_once("${")?;
    let (reference, after) = from.split_once('}')?;
    Some((before, reference, after))
}

/// A list of words in the form of a shell: blanks part them; quotes and backslashes keep blanks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

/// A number written in octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Octal(pub u32);

impl ConfigValue for Words {
    const UNIT: Unit = Unit::Text;
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
                (None, c) if c.is_whitespace() => words.extend(word.take()),
                (_, c) => word.get_or_insert_default().push(c),
            }
        }
        if quote.is_some() {
            return Err("expected the end of a quoted word".to_owned());
        }
        words.extend(word);
        Ok(Self(words))
    }
}

impl ConfigValue for Octal {
    const UNIT: Unit = Unit::Text;
    fn parse(text: &str) -> Result<Self, String> {
        u32::from_str_radix(text, 8).ok().filter(|mask| *mask <= 0o777).map(Self).ok_or("expected an octal mask".into())
    }
}

impl ConfigValue for Option<PathBuf> {
    const UNIT: Unit = Unit::Path;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Some(text).filter(|text| !text.is_empty()).map(PathBuf::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_and_references_follow_what_is_set() {
        let settings = Settings::from_text("path.run = /x").unwrap();
        assert_eq!(settings.options_file, PathBuf::from("/x/nxagent.conf"));
        assert_eq!((settings.port, settings.umask), (3030, Octal(0o22)));
        assert_eq!(settings.on_connect, None);
    }

    #[test]
    fn the_later_file_wins() {
        let mut values = Values::default();
        values.add("a", "internal.vm.port.vma = 1\nvma.user.shell = /bin/sh").unwrap();
        values.add("b", "internal.vm.port.vma = 2").unwrap();
        let settings = Settings::from_values(&values).unwrap();
        assert_eq!((settings.port, settings.user_shell), (2, PathBuf::from("/bin/sh")));
    }

    #[test]
    fn a_bad_value_names_its_file_and_line() {
        let error = Settings::from_text("\ninternal.vm.port.vma = many").unwrap_err();
        let text = "vma.conf:2: internal.vm.port.vma = \"many\": expected a port number from 1 to 65535";
        assert_eq!(error.to_string(), text);
        assert!(Settings::from_text("path.run = ${path.run}").is_err());
        assert!(Settings::from_text("path.run = ${none}").is_err());
    }

    #[test]
    fn a_default_stands_in_for_a_parameter() {
        let settings = Settings::from_text("vma.default.qvd.client.keyboard = pc105/es").unwrap();
        assert_eq!(settings.parameter_default("qvd.client.keyboard"), Some("pc105/es"));
        assert_eq!(settings.parameter_default("qvd.client.link"), None);
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        let words = |text: &str| Words::parse(text).map(|words| words.0);
        assert_eq!(words(r#" a 'b  c' "d\" e"f g\ h '' "#).unwrap(), ["a", "b  c", "d\" ef", "g h", ""]);
        assert!(words("'a").is_err());
    }
}
