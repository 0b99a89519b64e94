//! The node's configuration file, and the rows of `configs` over it.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use crate::model::config::{Config, keys};

use super::finding::{Finding, Subject};

const FILE: Subject =
    Subject { name: "file", why: "It says who this node is, where its database and its storage are." };
const KEYS: Subject = Subject { name: "keys", why: "What nobody knows does nothing." };
const PASSWORDS: Subject =
    Subject { name: "passwords", why: "The file holds those of this node, which nobody else on the machine needs." };
const ROWS: Subject = Subject { name: "table configs", why: "A row that cannot be used is ignored by all nodes." };

/// Makes a machine a node; see `--help` for the rest of it.
pub const JOIN: &str = "qvd node join --database 'host=…' --address …";

/// What is there of a file.
#[derive(Debug)]
pub enum Facts {
    Missing,
    /// Why it cannot be read.
    Unreadable(String),
    /// What is wrong in it, with its line.
    Wrong(String),
    Read {
        config: Box<Config>,
        /// Keys that nobody knows.
        warnings: Vec<String>,
        /// Whether others than its owner may read it.
        open: bool,
    },
}

/// Reads the file.
pub fn look(path: &Path) -> Facts {
    let file = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Facts::Missing,
        Err(error) => return Facts::Unreadable(error.to_string()),
    };
    let open = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0);
    let mut config = Config::default();
    match config.add_file(&file, &text) {
        Ok(warnings) => Facts::Read { config: Box::new(config), warnings, open },
        Err(error) => Facts::Wrong(error.to_string()),
    }
}

/// Judges it.
pub fn judge(facts: &Facts, path: &Path) -> Vec<Finding> {
    let file = path.display();
    let edit = || format!("editor {file}");
    let (config, warnings, open) = match facts {
        Facts::Missing => return vec![FILE.bad(format!("there is no {file}"), JOIN)],
        Facts::Unreadable(why) => return vec![FILE.bad(format!("{file} cannot be read: {why}"), "sudo qvd doctor")],
        Facts::Wrong(what) => return vec![FILE.bad(what, edit())],
        Facts::Read { config, warnings, open } => (config, warnings, *open),
    };
    let mut findings = vec![match config.get(&keys::NODENAME) {
        none if none.is_empty() => {
            FILE.bad(format!("{file} does not set nodename"), format!("echo 'nodename = …' >> {file}"))
        }
        name => FILE.good(format!("{file}, of node {name}")),
    }];
    if !warnings.is_empty() {
        findings.push(KEYS.tolerable(warnings.join("; "), edit()));
    }
    if open && has_password(config) {
        findings.push(PASSWORDS.tolerable("others may read the file", format!("chmod 600 {file}")));
    }
    findings
}

/// Judges the rows that were `refused`, of `count`.
pub fn judge_rows(count: usize, refused: &[String]) -> Finding {
    match refused {
        [] => ROWS.good(format!("{count} rows")),
        refused => ROWS.tolerable(refused.join("; "), "psql qvd -c \"select config_reset('…')\""),
    }
}

fn has_password(config: &Config) -> bool {
    [&keys::DATABASE_PASSWORD, &keys::DATABASE_L7R_PASSWORD].into_iter().any(|key| !config.get(key).is_empty())
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Grade, *};

    fn judged(text: &str, mode: u32) -> Vec<(Grade, String)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.conf");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        judge(&look(&path), &path).into_iter().map(|finding| (finding.grade, finding.found)).collect()
    }

    #[test]
    fn a_file_that_cannot_be_used_is_bad_with_its_line() {
        assert_eq!(judged("nodename = n1\n", 0o644)[0].0, Grade::Good);
        assert_eq!(judged("l7r.port = 1\n", 0o644)[0].0, Grade::Bad, "no name");
        let wrong = judged("nodename = n1\nl7r.port = many\n", 0o600);
        assert!(wrong[0].0 == Grade::Bad && wrong[0].1.contains("node.conf:2"), "{wrong:?}");
        assert_eq!(judge(&Facts::Missing, Path::new("/none"))[0].grade, Grade::Bad);
    }

    #[test]
    fn passwords_that_others_read_and_keys_that_nobody_knows_are_tolerable() {
        let text = "nodename = n1\ndatabase.password = open sesame\nl7r.prot = 1\n";
        let private = judged(text, 0o600);
        assert!(
            private.len() == 2 && private[1].0 == Grade::Tolerable && private[1].1.contains("l7r.port"),
            "{private:?}"
        );
        let open = judged(text, 0o640);
        assert_eq!((open.len(), open[2].0), (3, Grade::Tolerable));
    }
}
