//! The data directory and the way to it: who may enter which directory, who may log in as whom.
//! A data directory is complete or absent: it is made under another name and renamed.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;

use super::{Access, Binaries, ClusterError, ClusterOptions, Durability, PORT, PROGRAM_LIMIT, beside, prepare};
use crate::{
    demo::attached::{Account, attached_command},
    process::Program,
};

/// The longest path that fits into the kernel's address of a unix socket.
const MAX_SOCKET_PATH: usize = 107;

/// Roles that root may log in as.
const ROLES_OF_ROOT: [&str; 6] = ["postgres", "qvd_node", "qvd_l7r", "qvd_admin", "qvd_readonly", "qvd_wat"];
/// Whom the router runs as, and its role.
const ROUTER: (&str, &str) = ("nobody", "qvd_l7r");

/// Makes everything above the data directory and the socket, and checks that those who must can get there.
pub fn prepare_parents(options: &ClusterOptions, account: &Account) -> Result<(), ClusterError> {
    let socket = options.socket_dir.join(format!(".s.PGSQL.{PORT}"));
    if socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
        return Err(ClusterError::SocketPath { path: socket });
    }
    if let Some(parent) = options.data_dir.parent() {
        fs::create_dir_all(parent).map_err(prepare(parent))?;
    }
    let sockets = &options.socket_dir;
    fs::create_dir_all(sockets).map_err(prepare(sockets))?;
    chown(sockets, Some(account.uid.as_raw()), Some(account.gid.as_raw())).map_err(prepare(sockets))?;
    fs::set_permissions(sockets, fs::Permissions::from_mode(0o755)).map_err(prepare(sockets))?;

    let mut ways = vec![(&options.data_dir, account.clone()), (sockets, account.clone())];
    ways.extend(Account::named(ROUTER.0).map_err(prepare(sockets))?.map(|router| (sockets, router)));
    for (path, account) in ways {
        if let Some(closed) = closed_to(path, &account).map_err(prepare(path))? {
            return Err(ClusterError::Unreachable { path: closed, user: account.name });
        }
    }
    Ok(())
}

/// Whether the data directory is still to be made.
pub fn is_missing(data_dir: &Path) -> Result<bool, ClusterError> {
    if data_dir.join("PG_VERSION").is_file() {
        return Ok(false);
    }
    match fs::read_dir(data_dir).map(Iterator::count) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(prepare(data_dir)(source)),
        Ok(0) => Ok(true),
        Ok(_) => Err(ClusterError::NotACluster { path: data_dir.to_owned() }),
    }
}

/// Makes the data directory, complete or not at all.
pub async fn initialise(options: &ClusterOptions, binaries: &Binaries, account: &Account) -> Result<(), ClusterError> {
    let new = beside(&options.data_dir, "new");
    make_empty(&new, account)?;
    let mut command = attached_command(binaries.path("initdb"), account, Signal::SIGKILL);
    command.args(["--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres", "--auth=peer", "--no-instructions"]);
    command.arg("--pgdata").arg(&new);
    if options.durability == Durability::Volatile {
        command.arg("--no-sync");
    }
    Program::from(command).limit(PROGRAM_LIMIT).run().await.map_err(|source| ClusterError::Program {
        what: format!("make the data directory {}", options.data_dir.display()),
        source,
    })?;
    // An empty directory of that name is replaced, anything else was refused before.
    fs::rename(&new, &options.data_dir).map_err(prepare(&options.data_dir))
}

/// A new directory for the account of the server, in place of what may be left there.
pub fn make_empty(directory: &Path, account: &Account) -> Result<(), ClusterError> {
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(prepare(directory))?;
    }
    fs::DirBuilder::new().mode(0o700).create(directory).map_err(prepare(directory))?;
    chown(directory, Some(account.uid.as_raw()), Some(account.gid.as_raw())).map_err(prepare(directory))
}

/// Writes who may log in as whom; at every start, so that a newer version of us is not bound by an older one.
pub fn write_access_rules(options: &ClusterOptions, account: &Account) -> Result<(), ClusterError> {
    let files = [("pg_hba.conf", access_file(options.access)), ("pg_ident.conf", &identity_file(&account.name))];
    for (name, text) in files {
        let path = options.data_dir.join(name);
        fs::write(&path, text).map_err(prepare(&path))?;
    }
    Ok(())
}

fn access_file(access: Access) -> &'static str {
    match access {
        Access::Peer => "local all all peer map=qvd\n",
        Access::Network => "local all all trust\nhost all all samenet trust\n",
        Access::Trust => "local all,replication all trust\nhostssl all all all scram-sha-256\n",
    }
}

/// Which user of the operating system may log in as which role.
fn identity_file(account: &str) -> String {
    let mut text = String::new();
    let mut allow = |user: &str, role: &str| {
        let _ = writeln!(text, "qvd {user} {role}");
    };
    let (router, role_of_router) = ROUTER;
    allow(router, role_of_router);
    for role in ROLES_OF_ROOT {
        allow("root", role);
    }
    // Without root there is only one user, who is everybody.
    let roles = if account == "postgres" { &ROLES_OF_ROOT[..1] } else { &ROLES_OF_ROOT[..] };
    for role in roles {
        allow(account, role);
    }
    text
}

/// The first directory above `path` that `account` may not enter.
fn closed_to(path: &Path, account: &Account) -> io::Result<Option<PathBuf>> {
    let path = std::path::absolute(path)?;
    let mut parents: Vec<_> = path.ancestors().skip(1).collect();
    parents.reverse();
    for parent in parents {
        let metadata = fs::metadata(parent)?;
        if !may_enter(metadata.mode(), metadata.uid(), metadata.gid(), account) {
            return Ok(Some(parent.to_owned()));
        }
    }
    Ok(None)
}

/// The search permission of a directory, as the kernel decides it (without access control lists).
fn may_enter(mode: u32, owner: u32, group: u32, account: &Account) -> bool {
    let bit = match () {
        () if account.uid.is_root() => return true,
        () if owner == account.uid.as_raw() => 0o100,
        () if group == account.gid.as_raw() => 0o010,
        () => 0o001,
    };
    mode & bit != 0
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Gid, Uid};

    use super::*;

    fn account(uid: u32, gid: u32) -> Account {
        Account { name: "somebody".to_owned(), uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) }
    }

    #[test]
    fn a_directory_is_entered_by_the_first_of_owner_group_and_others_that_fits() {
        assert!(may_enter(0o700, 7, 70, &account(7, 1)));
        assert!(!may_enter(0o077, 7, 70, &account(7, 70)));
        assert!(may_enter(0o010, 7, 70, &account(8, 70)));
        assert!(!may_enter(0o701, 7, 70, &account(8, 70)));
        assert!(may_enter(0o701, 7, 70, &account(8, 80)));
        assert!(may_enter(0o000, 7, 70, &account(0, 0)));
    }

    #[test]
    fn the_router_is_nobody_but_the_router() {
        let text = identity_file("postgres");
        let nobody: Vec<_> = text.lines().filter(|line| line.contains(" nobody ")).collect();
        assert_eq!(nobody, ["qvd nobody qvd_l7r"]);
        assert!(text.contains("qvd root qvd_admin\n") && text.contains("qvd postgres postgres\n"), "{text}");
        assert!(!text.contains("qvd postgres qvd_"), "{text}");
    }

    #[test]
    fn something_else_is_not_taken_for_a_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_missing(dir.path()).unwrap());
        assert!(is_missing(&dir.path().join("data")).unwrap());
        fs::write(dir.path().join("letter.txt"), "dear database").unwrap();
        assert!(matches!(is_missing(dir.path()), Err(ClusterError::NotACluster { .. })));
    }
}
