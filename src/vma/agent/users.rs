//! The account in which the X session runs: found by the image's own name service, or added with the image's own
//! programs. What a node asks for comes as parameters; what it leaves open follows the owner of an existing home, so
//! that files stay their user's when the rest of the VM is fresh.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    command::{self, CommandError, QUICK, find, is_executable},
    config::Settings,
    home::{self, HomeError},
    hooks::{HookError, Hooks, Provisioning},
    parameters::Parameters,
};

/// An account as the name service gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Ids of all groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// Why there is no account to run a session in.
#[derive(Debug, Error)]
pub enum UserError {
    /// A parameter is no legal name, number or path.
    #[error("invalid characters in parameter {0}")]
    Parameter(&'static str),
    /// The name service failed, or gave nonsense.
    #[error("cannot look up user {name}: {problem}")]
    Lookup {
        /// Whom.
        name: String,
        /// What went wrong.
        problem: String,
    },
    /// useradd failed.
    #[error("cannot add user {name}")]
    Add {
        /// Whom.
        name: String,
        /// Why.
        #[source]
        source: CommandError,
    },
    /// Nobody made the user, though nothing failed.
    #[error("user {0} is still unknown after it was added")]
    StillUnknown(String),
    /// The session would run with all rights.
    #[error("user {0} is root; desktops do not run as root")]
    Root(String),
    /// A hook refused.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The home cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// The account that a node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    name: String,
    uid: Option<u32>,
    gid: Option<u32>,
    group: String,
    groups: Vec<String>,
    home: PathBuf,
}

impl Wanted {
    fn read(parameters: &Parameters, settings: &Settings) -> Result<Self, UserError> {
        let name = parameters.get("qvd.vm.user.name").unwrap_or(&settings.user_name);
        let name = checked(name, "qvd.vm.user.name", is_name)?;
        let number = |key: &'static str| {
            let parse = |text: &str| text.parse().map_err(|_| UserError::Parameter(key));
            parameters.get(key).map(parse).transpose()
        };
        let group = parameters.get("qvd.vm.user.group").unwrap_or(&name);
        let groups = match parameters.get("qvd.vm.user.groups") {
            Some(list) => list.split(',').map(|group| group.replace(char::is_whitespace, "")).collect(),
            None => settings.user_groups.clone(),
        };
        if !groups.iter().all(|group| group.is_empty() || is_name(group)) {
            return Err(UserError::Parameter("qvd.vm.user.groups"));
        }
        let home = match parameters.get("qvd.vm.user.home") {
            Some(home) => PathBuf::from(checked(home, "qvd.vm.user.home", is_home)?),
            None => settings.home_path.join(&name),
        };
        Ok(Self {
            uid: number("qvd.vm.user.uid")?,
            gid: number("qvd.vm.user.gid")?,
            group: checked(group, "qvd.vm.user.group", is_name)?,
            groups: groups.into_iter().filter(|group| !group.is_empty()).collect(),
            home,
            name,
        })
    }
}

fn checked(text: &str, key: &'static str, is_legal: fn(&str) -> bool) -> Result<String, UserError> {
    if is_legal(text) { Ok(text.to_owned()) } else { Err(UserError::Parameter(key)) }
}

/// Names as directories have them too (`DOMAIN\user`, `user@realm`), but none that is an option, a path or a list.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['-', '.'])
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || ":,/".contains(c))
}

fn is_home(path: &str) -> bool {
    path.starts_with('/') && path != "/" && !path.contains(|c: char| c.is_control() || c == ':')
}

/// Finds or makes the account and its home. `busy` is called when that is more than a look.
pub fn provision(
    parameters: &Parameters,
    settings: &Settings,
    hooks: &Hooks,
    busy: &dyn Fn(),
) -> Result<Account, UserError> {
    let wanted = Wanted::read(parameters, settings)?;
    let known = lookup(&wanted.name)?;
    let home = known.as_ref().map_or(&wanted.home, |account| &account.home);
    if !home.exists() {
        busy();
        if !hooks.provisioning(Provisioning::MountHome, parameters.pairs())? {
            home::mount_drive(settings)?;
        }
    }
    let account = match known {
        Some(account) => account,
        None => {
            busy();
            if !hooks.provisioning(Provisioning::AddUser, parameters.pairs())? {
                add(&wanted, settings)?;
            }
            let account = lookup(&wanted.name)?.ok_or_else(|| UserError::StillUnknown(wanted.name.clone()))?;
            tracing::info!(user = account.name, uid = account.uid, home = %account.home.display(), "user added");
            hooks.provisioning(Provisioning::AfterAddUser, parameters.pairs())?;
            account
        }
    };
    if account.uid == 0 {
        return Err(UserError::Root(account.name));
    }
    home::settle(&account)?;
    home::try_out(&account)?;
    Ok(account)
}

/// Asks the image's name service; `None` when it does not know the name.
pub fn lookup(name: &str) -> Result<Option<Account>, UserError> {
    let fail = |problem: String| UserError::Lookup { name: name.to_owned(), problem };
    let Some(entry) = entry("passwd", name).map_err(|error| fail(error.to_string()))? else { return Ok(None) };
    let mut account = parse_passwd(&entry).ok_or_else(|| fail(format!("strange entry {entry:?}")))?;
    // A name of nothing but digits is looked up as a number as well.
    if account.name != name {
        return Ok(None);
    }
    account.groups = groups_of(&account);
    Ok(Some(account))
}

/// One entry of a database of the name service. Without `getent` there are only the files.
fn entry(database: &str, key: &str) -> Result<Option<String>, CommandError> {
    let Some(getent) = find("getent") else {
        return Ok(entry_of_file(Path::new("/etc").join(database).as_path(), key));
    };
    match command::run(&getent, &[database, key], QUICK) {
        Ok(text) => Ok(text.lines().next().map(str::to_owned)),
        // "one or more keys could not be found"
        Err(CommandError::Failed { status, .. }) if status.code() == Some(2) => Ok(None),
        Err(error) => Err(error),
    }
}

fn entry_of_file(file: &Path, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let matches = |line: &&str| line.split(':').next() == Some(key) || line.split(':').nth(2) == Some(key);
    text.lines().find(matches).map(str::to_owned)
}

fn parse_passwd(entry: &str) -> Option<Account> {
    let fields: Vec<_> = entry.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    Some(Account { name: name.to_owned(), uid, gid, groups: vec![gid], home: home.into(), shell: shell.into() })
}

fn groups_of(account: &Account) -> Vec<u32> {
    let ids = find("id").and_then(|id| command::run(&id, &["-G", &account.name], QUICK).ok());
    let mut groups: Vec<u32> = ids.iter().flat_map(|ids| ids.split_whitespace()).flat_map(str::parse).collect();
    if !groups.contains(&account.gid) {
        groups.push(account.gid);
    }
    groups
}

fn is_taken(database: &str, key: &str) -> bool {
    entry(database, key).is_ok_and(|entry| entry.is_some())
}

fn add(wanted: &Wanted, settings: &Settings) -> Result<(), UserError> {
    let owner = fs::metadata(&wanted.home).ok().map(|home| (home.uid(), home.gid()));
    let free = |database, id: u32| Some(id).filter(|id| *id != 0 && !is_taken(database, &id.to_string()));
    let uid = wanted.uid.or_else(|| free("passwd", owner?.0));
    let gid = wanted.gid.or_else(|| free("group", owner?.1));
    let had_group = is_taken("group", &wanted.group);
    if !had_group {
        let gid = gid.map(|gid| gid.to_string());
        let mut arguments = Vec::from_iter(gid.iter().flat_map(|gid| ["-g", gid]));
        arguments.push(&wanted.group);
        if let Err(error) = command::run(&settings.groupadd, &arguments, QUICK) {
            tracing::warn!(group = wanted.group, error = %super::Chain(&error), "cannot add group");
        }
    }
    let (groups, missing): (Vec<_>, Vec<_>) = wanted.groups.iter().partition(|group| is_taken("group", group));
    if !missing.is_empty() {
        tracing::info!(user = wanted.name, ?missing, "left out groups that the image does not have");
    }
    let arguments = useradd(wanted, owner.is_some(), &shell(settings), &groups, uid);
    command::run(&settings.useradd, &arguments, QUICK).map(drop).map_err(|source| {
        // What it may have done so far would be in the way of the next attempt. The home is only undone when it is new.
        let flags = if owner.is_some() { "-f" } else { "-rf" };
        let _ = command::run(&settings.userdel, &[flags, &wanted.name], QUICK);
        if !had_group {
            let _ = command::run(&settings.groupdel, &[&wanted.group], QUICK);
        }
        UserError::Add { name: wanted.name.clone(), source }
    })
}

fn useradd(wanted: &Wanted, has_home: bool, shell: &str, groups: &[&String], uid: Option<u32>) -> Vec<String> {
    let home = wanted.home.to_string_lossy();
    let make = if has_home { "-M" } else { "-m" };
    let mut arguments = [make, "-d", &home, "-g", &wanted.group, "-s", shell].map(str::to_owned).to_vec();
    if !groups.is_empty() {
        let list = groups.iter().map(|group| group.as_str()).collect::<Vec<_>>().join(",");
        arguments.extend(["-G".to_owned(), list]);
    }
    arguments.extend(uid.iter().flat_map(|uid| ["-u".to_owned(), uid.to_string()]));
    arguments.push(wanted.name.clone());
    arguments
}

fn shell(settings: &Settings) -> String {
    let shell = &settings.user_shell;
    if is_executable(shell) { shell.display().to_string() } else { "/bin/sh".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pairs: &[(&str, &str)]) -> Result<Wanted, UserError> {
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Wanted::read(&Parameters::new(pairs), &Settings::from_text("").unwrap())
    }

    #[test]
    fn what_the_node_leaves_open_has_defaults() {
        let wanted = wanted(&[("qvd.vm.user.name", "alice")]).unwrap();
        assert_eq!((wanted.group.as_str(), wanted.home.to_str()), ("alice", Some("/home/alice")));
        assert_eq!((wanted.uid, wanted.groups), (None, vec!["qvduser".to_owned()]));
    }

    #[test]
    fn everything_can_be_asked_for() {
        let wanted = wanted(&[
            ("qvd.vm.user.name", "bob"),
            ("qvd.vm.user.uid", "2001"),
            ("qvd.vm.user.gid", "2002"),
            ("qvd.vm.user.group", "staff"),
            ("qvd.vm.user.groups", "a, b ,,c"),
            ("qvd.vm.user.home", "/srv/bob"),
        ])
        .unwrap();
        let arguments = useradd(&wanted, false, "/bin/sh", &wanted.groups.iter().collect::<Vec<_>>(), wanted.uid);
        assert_eq!(arguments.join(" "), "-m -d /srv/bob -g staff -s /bin/sh -G a,b,c -u 2001 bob");
        assert_eq!(wanted.gid, Some(2002));
    }

    #[test]
    fn a_home_that_exists_is_not_made() {
        let wanted = wanted(&[]).unwrap();
        let arguments = useradd(&wanted, true, "/bin/bash", &[], Some(1000));
        assert_eq!(arguments.join(" "), "-M -d /home/qvd -g qvd -s /bin/bash -u 1000 qvd");
    }

    #[test]
    fn names_that_would_be_options_paths_or_lists_are_refused() {
        for name in ["-o", "a b", "a:b", "../x", "a/b", "a\nb", "."] {
            assert!(wanted(&[("qvd.vm.user.name", name)]).is_err(), "{name}");
        }
        for (key, value) in [("uid", "x"), ("gid", "-1"), ("groups", "a,-b"), ("home", "home"), ("home", "/")] {
            assert!(wanted(&[(&format!("qvd.vm.user.{key}"), value)]).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn an_entry_of_the_name_service_is_read() {
        let account = parse_passwd("alice:x:1000:1001:Alice,,,:/home/alice:/bin/bash").unwrap();
        assert_eq!((account.uid, account.gid, account.home.to_str()), (1000, 1001, Some("/home/alice")));
        assert_eq!(parse_passwd("alice:x:many:1:::"), None);
    }

    #[test]
    fn root_is_known_and_a_stranger_is_not() {
        assert_eq!(lookup("root").unwrap().unwrap().uid, 0);
        assert_eq!(lookup("no-such-user-here").unwrap(), None);
        assert_eq!(lookup("0").unwrap(), None, "a number is no name");
    }
}
