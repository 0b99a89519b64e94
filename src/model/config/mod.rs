//! Configuration: every key in one place, with its type, default, unit and meaning.
//!
//! Sources, the later winning: built-in default, configuration file, rows of table `configs`. A value may refer to
//! another key as `${key}`; references are expanded when a value is read. A value is checked when it is set, so
//! reading one cannot fail. Where the values come from is not known here.

pub mod keys;
pub mod properties;
mod value;

use std::collections::HashMap;

use thiserror::Error;

pub use keys::KEYS;
pub use value::{ConfigValue, CongestionControl, NetworkMode, UnionKind, Unit};

/// One configuration key whose value has type `T`.
pub struct Key<T> {
    /// As written in files and in `configs`.
    pub name: &'static str,
    /// Value when nobody sets it, in the form a file would have.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    pub(crate) parse: fn(&str) -> Result<T, String>,
}

/// What `qvd config list` shows of a key.
pub struct KeyInfo {
    /// As written in files and in `configs`.
    pub name: &'static str,
    /// Value when nobody sets it.
    pub default: &'static str,
    /// Unit of the value.
    pub unit: Unit,
    /// What it does.
    pub meaning: &'static str,
    check: fn(&str) -> Result<(), String>,
}

impl KeyInfo {
    /// Whether a change takes effect only when the daemons start again.
    pub fn needs_restart(&self) -> bool {
        keys::READ_AT_START.contains(&self.name)
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File {
        /// Name of the file.
        file: String,
        /// Line from 1.
        line: usize,
    },
    /// A row of table `configs`.
    Database,
    /// Set by the program itself (demo, tests, command line).
    Program,
}

/// A setting that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file is not in `key = value` form.
    #[error("{file}: {error}")]
    Syntax {
        /// Name of the file.
        file: String,
        /// Line and problem.
        error: properties::SyntaxError,
    },
    /// The value is not of the key's type.
    #[error("{place}{key} = {value:?}: {problem}")]
    Value {
        /// `file:line: ` or empty.
        place: String,
        /// The key.
        key: String,
        /// The value as written.
        value: String,
        /// What was expected.
        problem: String,
    },
    /// A command that a node runs is not for those to choose who may write the database.
    #[error("{key} is only read from the configuration file")]
    OnlyInFile {
        /// The key.
        key: String,
    },
    /// A reference that leads back to itself.
    #[error("{key}: the reference ${{{reference}}} leads back to itself or nowhere")]
    Reference {
        /// The key being read.
        key: String,
        /// The reference that cannot be followed.
        reference: String,
    },
}

/// A set of values. Cheap to build, so that a reload makes a new one.
#[derive(Clone, Debug, Default)]
pub struct Config {
    values: HashMap<String, (String, Origin)>,
}

impl Config {
    /// Adds the settings of a file. Returns warnings about keys nobody knows.
    pub fn add_file(&mut self, file: &str, text: &str) -> Result<Vec<String>, ConfigError> {
        let read = properties::parse(text).map_err(|error| ConfigError::Syntax { file: file.to_owned(), error })?;
        let mut warnings = Vec::new();
        for property in read {
            let origin = Origin::File { file: file.to_owned(), line: property.line };
            if let Some(warning) = unknown_key(&property.key) {
                warnings.push(format!("{file}:{}: {warning}", property.line));
            }
            self.values.insert(property.key, (property.value, origin));
        }
        self.check()?;
        Ok(warnings)
    }

    /// Adds rows of `configs`. A row with a bad value is left out and returned as an error, so that one mistake in
    /// the database cannot stop every node.
    pub fn add_rows(&mut self, rows: impl IntoIterator<Item = (String, String)>) -> Vec<ConfigError> {
        let mut refused = Vec::new();
        for (key, value) in rows {
            if key == keys::FENCE_REMOUNT.name {
                refused.push(ConfigError::OnlyInFile { key });
                continue;
            }
            let before = self.values.insert(key.clone(), (value, Origin::Database));
            if let Err(error) = self.check() {
                refused.push(error);
                match before {
                    Some(before) => self.values.insert(key, before),
                    None => self.values.remove(&key),
                };
            }
        }
        refused
    }

    /// Sets one value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> Result<(), ConfigError> {
        self.values.insert(key.to_owned(), (value.into(), Origin::Program));
        self.check()
    }

    /// The value of a key.
    pub fn get<T: ConfigValue>(&self, key: &Key<T>) -> T {
        let text = self.expand(key.name, 0).unwrap_or_else(|_| key.default.to_owned());
        match (key.parse)(&text).or_else(|_| (key.parse)(key.default)) {
            Ok(value) => value,
            Err(problem) => unreachable!("the default of {} is checked by a test: {problem}", key.name),
        }
    }

    /// The text of any key, with references expanded; `None` when it is unknown and unset.
    pub fn text(&self, key: &str) -> Option<String> {
        self.expand(key, 0).ok()
    }

    /// Where the value of a key came from; `None` for the built-in default.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }

    /// Every key that was set, known or not.
    pub fn set_keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, (value, _))| (key.as_str(), value.as_str()))
    }

    fn check(&self) -> Result<(), ConfigError> {
        for info in KEYS {
            let Some((value, origin)) = self.values.get(info.name) else { continue };
            let expanded = self.expand(info.name, 0)?;
            (info.check)(&expanded).map_err(|problem| ConfigError::Value {
                place: match origin {
                    Origin::File { file, line } => format!("{file}:{line}: "),
                    Origin::Database => "table configs: ".to_owned(),
                    Origin::Program => String::new(),
                },
                key: info.name.to_owned(),
                value: value.clone(),
                problem,
            })?;
        }
        Ok(())
    }

    fn expand(&self, key: &str, depth: usize) -> Result<String, ConfigError> {
        let lost = |reference: &str| ConfigError::Reference { key: key.to_owned(), reference: reference.to_owned() };
        if depth > 16 {
            return Err(lost(key));
        }
        let raw = match self.values.get(key) {
            Some((value, _)) => value.as_str(),
            None => KEYS.iter().find(|info| info.name == key).map(|info| info.default).ok_or_else(|| lost(key))?,
        };
        let mut out = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start..].find('}') else { break };
            out.push_str(&rest[..start]);
            let reference = &rest[start + 2..start + length];
            out.push_str(&self.expand(reference, depth + 1).map_err(|_| lost(reference))?);
            rest = &rest[start + length + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// A warning when nobody knows `key`, with the nearest known one. Keys of other programs that classic files mix in
/// (`vma.`, `client.`, `api.`, …) and free prefixes are not ours to judge.
pub fn unknown_key(key: &str) -> Option<String> {
    const OTHERS: &[&str] = &["api.", "auth.", "client.", "command.", "custom.", "log.", "qa.", "up.", "vma.", "wat."];
    if KEYS.iter().any(|info| info.name == key) || OTHERS.iter().any(|prefix| key.starts_with(prefix)) {
        return None;
    }
    let nearest = KEYS.iter().map(|info| (distance(key, info.name), info.name)).min();
    Some(match nearest {
        Some((distance, name)) if distance <= 1 + name.len() / 3 => {
            format!("unknown key {key}; did you mean {name}?")
        }
        _ => format!("unknown key {key}; `qvd config list` shows those that exist"),
    })
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_key() {
        let config = Config::default();
        for info in KEYS {
            let text = config.text(info.name).unwrap();
            (info.check)(&text).unwrap_or_else(|problem| panic!("{} = {text}: {problem}", info.name));
        }
    }

    #[test]
    fn no_command_comes_from_the_database() {
        let mut config = Config::default();
        config.add_file("node.conf", "fence.remount = mount /srv\n").unwrap();
        let refused = config.add_rows([("fence.remount".to_owned(), "touch /tmp/owned".to_owned())]);
        assert_eq!(refused, [ConfigError::OnlyInFile { key: "fence.remount".to_owned() }]);
        assert_eq!(config.get(&keys::FENCE_REMOUNT), "mount /srv");
    }

    #[test]
    fn what_is_read_at_start_are_keys() {
        for name in keys::READ_AT_START {
            assert!(KEYS.iter().any(|info| info.name == *name), "{name}");
        }
    }

    #[test]
    fn the_database_wins_over_the_file_and_the_file_over_the_default() {
        let mut config = Config::default();
        assert_eq!(config.get(&keys::L7R_PORT), 8443);
        config.add_file("node.conf", "l7r.port = 9443").unwrap();
        assert_eq!(config.get(&keys::L7R_PORT), 9443);
        assert!(config.add_rows([("l7r.port".to_owned(), "10443".to_owned())]).is_empty());
        assert_eq!(config.get(&keys::L7R_PORT), 10443);
    }

    #[test]
    fn a_bad_value_names_its_file_and_line() {
        let error = Config::default().add_file("node.conf", "\nl7r.port = many").unwrap_err();
        assert_eq!(error.to_string(), "node.conf:2: l7r.port = \"many\": expected a port number from 1 to 65535");
    }

    #[test]
    fn a_bad_row_is_left_out_and_reported() {
        let mut config = Config::default();
        let refused = config.add_rows([("l7r.port".into(), "x".into()), ("l7r.use_ssl".into(), "0".into())]);
        assert_eq!(refused.len(), 1);
        assert_eq!(config.get(&keys::L7R_PORT), 8443);
        assert!(!config.get(&keys::L7R_USE_SSL));
    }

    #[test]
    fn references_are_expanded_and_loops_are_errors() {
        let mut config = Config::default();
        config.add_file("f", "path.run = /x\n").unwrap();
        assert_eq!(config.text("internal.hkd.lock.path").unwrap(), "/x/hkd.lock");
        let error = config.add_file("f", "path.run = ${path.log}\npath.log = ${path.run}").unwrap_err();
        assert!(matches!(error, ConfigError::Reference { .. }), "{error}");
    }

    #[test]
    fn an_unknown_key_is_a_warning_that_names_the_nearest_known_one() {
        let warnings = Config::default().add_file("node.conf", "l7r.prot = 1").unwrap();
        assert_eq!(warnings, ["node.conf:1: unknown key l7r.prot; did you mean l7r.port?"]);
    }
}
