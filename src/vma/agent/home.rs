//! The directory in which homes live, and the user's own home in it: mounted from the home disk where there is one,
//! made when missing, given to its user, and tried before a session relies on it. An existing home is kept as it is.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use thiserror::Error;

use super::{
    command::{self, CommandError, QUICK, find},
    config::Settings,
    users::Account,
};

/// A home that a session cannot use.
#[derive(Debug, Error)]
pub enum HomeError {
    /// Something could not be done to it.
    #[error("cannot {what} {}", .path.display())]
    Step {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There is no file system on it, but something is.
    #[error("the home disk {} is damaged: it has no partition and is not empty, so nothing is made there", .drive.display())]
    NotBlank {
        /// The disk.
        drive: PathBuf,
    },
    /// A program of the image is missing.
    #[error("cannot prepare the home disk: the image has no {0}")]
    NoProgram(String),
    /// A program of the image failed.
    #[error("cannot prepare the home of the user")]
    Program(#[from] CommandError),
    /// The user cannot write into it.
    #[error("the home {} is not writable for user {user}", .home.display())]
    NotWritable {
        /// The home.
        home: PathBuf,
        /// Its user.
        user: String,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

/// Every file system of Linux has written something before this.
const BEGINNING: usize = 1 << 20;

/// Making a file system may take long on a slow disk.
const MKFS_LIMIT: Duration = Duration::from_secs(600);

/// Mounts the home disk when there is one and homes have no file system of their own yet.
pub fn mount_drive(settings: &Settings) -> Result<(), HomeError> {
    let Settings { home_drive: drive, home_path: path, home_fs: kind, .. } = settings;
    if !drive.exists() || !is_on_root(path)? {
        return Ok(());
    }
    let partition = PathBuf::from(format!("{}1", drive.display()));
    if !partition.exists() {
        if !is_blank(drive)? {
            return Err(HomeError::NotBlank { drive: drive.clone() });
        }
        program("sfdisk")?;
        command::run(&program("sh")?, &["-c", "echo , | sfdisk -q \"$1\"", "sfdisk", &drive.to_string_lossy()], QUICK)?;
    }
    // Also when the machine was stopped before it came to this.
    if is_blank(&partition)? {
        let mkfs = program(&format!("mkfs.{kind}"))?;
        command::run(&mkfs, &["-q".as_ref(), partition.as_os_str()], MKFS_LIMIT)?;
    }
    mount(Some(&partition), path, Some(kind.as_str()), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None::<&str>)
        .map_err(|error| HomeError::Step { what: "mount the home disk at", path: path.clone(), source: error.into() })
}

/// Whether nothing was ever written to where partition tables and file systems begin.
fn is_blank(device: &Path) -> Result<bool, HomeError> {
    let mut beginning = vec![0; BEGINNING];
    let read = File::open(device).and_then(|mut device| device.read_exact(&mut beginning));
    read.map_err(|source| HomeError::Step { what: "read", path: device.to_owned(), source })?;
    Ok(beginning.iter().all(|byte| *byte == 0))
}

fn program(name: &str) -> Result<PathBuf, HomeError> {
    find(name).ok_or_else(|| HomeError::NoProgram(name.to_owned()))
}

fn is_on_root(path: &Path) -> Result<bool, HomeError> {
    let fail = |source| HomeError::Step { what: "find", path: path.to_owned(), source };
    Ok(fs::metadata(path).map_err(fail)?.dev() == fs::metadata("/").map_err(fail)?.dev())
}

/// Makes a home that is missing, and gives one that is root's, as nodes and disks make them, to its user.
pub fn settle(account: &Account) -> Result<(), HomeError> {
    let home = &account.home;
    let fail = |what, source| HomeError::Step { what, path: home.clone(), source };
    if !home.exists() {
        DirBuilder::new().recursive(true).mode(0o755).create(home).map_err(|source| fail("make the home", source))?;
    }
    let owner = fs::metadata(home).map_err(|source| fail("find the home", source))?.uid();
    if owner == account.uid {
        return Ok(());
    }
    let mut entries = fs::read_dir(home).map_err(|source| fail("read the home", source))?;
    if owner == 0 && entries.next().is_none() {
        furnish(account)?;
    } else {
        tracing::warn!(home = %home.display(), owner, uid = account.uid, "the home was somebody else's");
    }
    chown(home, Some(account.uid), Some(account.gid)).map_err(|source| fail("give its user the home", source))
}

/// Copies what new homes start with into an empty one.
fn furnish(account: &Account) -> Result<(), HomeError> {
    let skeleton = Path::new("/etc/skel");
    let (Some(cp), Some(chown), true) = (find("cp"), find("chown"), skeleton.is_dir()) else { return Ok(()) };
    let home = account.home.to_string_lossy();
    command::run(&cp, &["-a", "/etc/skel/.", &home], QUICK)?;
    command::run(&chown, &["-R", &format!("{}:{}", account.uid, account.gid), &home], QUICK)?;
    Ok(())
}

/// Writes into the home as its user, since no mode or mount flag tells whether a network file system will let him.
pub fn try_out(account: &Account) -> Result<(), HomeError> {
    let probe = account.home.join(format!(".qvd-probe-{}", std::process::id()));
    let attempt = || {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe)?;
        drop(file);
        fs::remove_file(&probe)
    };
    let result = {
        let _user = ActAs::new(account);
        attempt()
    };
    result.map_err(|source| HomeError::NotWritable { home: account.home.clone(), user: account.name.clone(), source })
}

/// Files are reached as a user until this is dropped. Holds for this thread only.
struct ActAs {
    uid: Uid,
    gid: Gid,
}

impl ActAs {
    fn new(account: &Account) -> Self {
        let gid = setfsgid(Gid::from_raw(account.gid));
        let uid = setfsuid(Uid::from_raw(account.uid));
        Self { uid, gid }
    }
}

impl Drop for ActAs {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("qvd-vma-home-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn ours(home: PathBuf) -> Account {
        let (uid, gid) = (Uid::current().as_raw(), Gid::current().as_raw());
        Account { name: "u".into(), uid, gid, groups: Vec::new(), home, shell: "/bin/sh".into() }
    }

    #[test]
    fn a_missing_home_is_made_and_can_be_written() {
        let scratch = Scratch::new("made");
        let account = ours(scratch.0.join("deep/home"));
        settle(&account).unwrap();
        try_out(&account).unwrap();
        assert_eq!(fs::read_dir(&account.home).unwrap().count(), 0);
    }

    #[test]
    fn a_home_that_cannot_be_written_is_named() {
        let error = try_out(&ours("/proc/self".into())).unwrap_err();
        assert_eq!(error.to_string(), "the home /proc/self is not writable for user u");
    }

    #[test]
    fn a_disk_that_holds_anything_is_not_taken_for_a_new_one() {
        let scratch = Scratch::new("blank");
        let disk = scratch.0.join("disk");
        fs::write(&disk, vec![0; BEGINNING * 2]).unwrap();
        assert!(is_blank(&disk).unwrap());
        // Where btrfs begins.
        let mut bytes = vec![0; BEGINNING * 2];
        bytes[64 * 1024 + 64] = b'_';
        fs::write(&disk, bytes).unwrap();
        assert!(!is_blank(&disk).unwrap());
        fs::write(&disk, "short").unwrap();
        assert!(is_blank(&disk).is_err());
    }

    #[test]
    fn a_home_disk_that_is_not_there_is_no_failure() {
        let settings = Settings::from_text("vma.user.home.drive = /nonexistent").unwrap();
        mount_drive(&settings).unwrap();
    }
}
