//! The environment of the X session: nothing of ours, what the image's environment files say, what the user's own file
//! says, and what every program expects. Shell start-up files are read by the session itself, not here.

use std::{fs, os::unix::fs::OpenOptionsExt, path::Path};

use nix::libc;

use super::{command::SYSTEM_PATH, users::Account};

const FILES: [&str; 3] = ["/etc/locale.conf", "/etc/default/locale", "/etc/environment"];

/// Name of the user's own file, in the home.
const USER_FILE: &str = ".qvd_environment";

/// More than this no environment file is long.
const FILE_LIMIT: u64 = 256 * 1024;

/// The variables of a session of `account`; `lang` holds where no file sets a language.
pub fn of_session(account: &Account, lang: &str) -> Vec<(String, String)> {
    let mut variables = vec![
        ("PATH".to_owned(), SYSTEM_PATH.to_owned()),
        ("LANG".to_owned(), lang.to_owned()),
        ("SHELL".to_owned(), account.shell.display().to_string()),
    ];
    let users = account.home.join(USER_FILE);
    for file in FILES.iter().map(Path::new).chain([users.as_path()]) {
        if let Some(text) = read(file) {
            variables.extend(parse(&text));
        }
    }
    variables.extend([
        ("HOME".to_owned(), account.home.display().to_string()),
        ("LOGNAME".to_owned(), account.name.clone()),
        ("USER".to_owned(), account.name.clone()),
        ("MAIL".to_owned(), format!("/var/mail/{}", account.name)),
    ]);
    variables
}

/// Reads a file that may be the user's: root must neither follow it elsewhere nor wait for it.
fn read(file: &Path) -> Option<String> {
    let flags = if file.ends_with(USER_FILE) { libc::O_NOFOLLOW | libc::O_NONBLOCK } else { 0 };
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(file).ok()?;
    let metadata = opened.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > FILE_LIMIT {
        tracing::warn!(file = %file.display(), "is no environment file");
        return None;
    }
    std::io::read_to_string(opened).ok()
}

/// Reads `K=V` lines; `#` starts a comment, `export` before a name and one pair of quotes around a value are dropped.
fn parse(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let name = name.trim();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.bytes().all(is_name) {
            return None;
        }
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        Some((name.to_owned(), quoted.unwrap_or(value).replace('\0', "")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_and_everything_else_is_skipped() {
        let text = "# A=1\nA=2\n\nexport B = 'c d'\nE=\"\nnot a variable\n1X=2\nC=x=y # z\nD=\"q\"\n=5";
        let read: Vec<_> = parse(text).collect();
        let expected = [("A", "2"), ("B", "c d"), ("E", "\""), ("C", "x=y # z"), ("D", "q")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
