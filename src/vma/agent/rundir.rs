//! The files by which agent and monitor know of each other and of nxagent, in the run directory.
//! State and pid are replaced whole, so that a reader never sees half of one. Whether a monitor lives is told by a
//! lock that dies with it, since a pid in a file may have become somebody else's. Nothing is decided here.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, chown},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::Pid,
};

use super::state::NxState;

/// The run directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    dir: PathBuf,
}

/// Held by the monitor of the X session while it lives.
pub struct MonitorLock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl RunDir {
    /// Names the directory.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes it.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The state that was written last, and the line it stands in, which differs whenever the state was written anew
    /// in another second. An unknown word is logged and counts as stopped, as in classic.
    pub fn state(&self) -> Option<(NxState, String)> {
        let line = fs::read_to_string(self.state_file()).ok().filter(|line| !line.trim().is_empty())?;
        let word = line.split(':').next().unwrap_or_default().trim();
        let state = NxState::parse(word).unwrap_or_else(|| {
            tracing::warn!(word, "unknown state of the X session");
            NxState::Stopped
        });
        Some((state, line))
    }

    /// Writes the state down.
    pub fn write_state(&self, state: NxState) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        replace_file(&self.state_file(), format!("{}:{now}\n", state.as_str()).as_bytes(), 0o644, None)
    }

    /// nxagent's process, while it is known.
    pub fn nxagent(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        Some(Pid::from_raw(pid))
    }

    /// Writes nxagent's process down.
    pub fn write_nxagent(&self, pid: i32) -> io::Result<()> {
        replace_file(&self.pid_file(), format!("{pid}\n").as_bytes(), 0o644, None)
    }

    /// Removes what tells of a session.
    pub fn clear(&self) {
        for file in [self.state_file(), self.pid_file()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(file = %file.display(), %error, "cannot remove");
                }
                _ => {}
            }
        }
    }

    /// Takes the place of the monitor; waits until the one before has ended.
    pub fn lock_monitor(&self) -> io::Result<MonitorLock> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(self.lock_file())?;
        file.lock()?;
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(MonitorLock(file))
    }

    /// The process of the monitor when one lives.
    pub fn monitor(&self) -> Option<Pid> {
        let file = File::open(self.lock_file()).ok()?;
        match file.try_lock_shared() {
            Ok(()) => None,
            Err(_) => fs::read_to_string(self.lock_file()).ok()?.trim().parse().ok().map(Pid::from_raw),
        }
    }

    fn state_file(&self) -> PathBuf {
        self.dir.join("nxagent.state")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("nxagent.pid")
    }

    /// Whoever watches the directory sees this file closed when a monitor ends, however it ends.
    fn lock_file(&self) -> PathBuf {
        self.dir.join("monitor.pid")
    }
}

/// Whether a process lives, zombies not counted.
pub fn is_alive(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything, blanks and parentheses included.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Signals a process; that it is gone already is no failure.
pub fn send(pid: Pid, signal: Signal) {
    match signal::kill(pid, signal) {
        Ok(()) => tracing::info!(%pid, %signal, "signalled"),
        Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(%pid, %signal, %error, "cannot signal"),
    }
}

/// Puts a file in the place of another without a moment in which there is none or half of one.
/// `owner` is a uid and gid, when it shall be another than ours.
pub fn replace_file(path: &Path, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(name);
    let write = || {
        // A draft left by a process that died would keep its old mode and owner.
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(contents)?;
        if let Some((uid, gid)) = owner {
            chown(&draft, Some(uid), Some(gid))?;
        }
        fs::rename(&draft, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&draft)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A run directory that is gone after the test.
    struct Scratch(RunDir);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("qvd-vma-{}-{name}", std::process::id()));
            let run = RunDir::new(&dir);
            run.create().unwrap();
            Self(run)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.path());
        }
    }

    #[test]
    fn what_is_written_reads_back_until_it_is_cleared() {
        let scratch = Scratch::new("state");
        let run = &scratch.0;
        assert!(run.state().is_none() && run.nxagent().is_none());
        run.write_state(NxState::Suspended).unwrap();
        run.write_nxagent(4711).unwrap();
        assert_eq!(run.state().unwrap().0, NxState::Suspended);
        assert_eq!(run.nxagent(), Some(Pid::from_raw(4711)));
        run.clear();
        assert!(run.state().is_none() && run.nxagent().is_none());
    }

    #[test]
    fn an_unknown_state_counts_as_stopped_and_an_empty_file_as_none() {
        let scratch = Scratch::new("unknown");
        fs::write(scratch.0.state_file(), "dancing:1\n").unwrap();
        assert_eq!(scratch.0.state().unwrap().0, NxState::Stopped);
        fs::write(scratch.0.state_file(), "").unwrap();
        assert!(scratch.0.state().is_none());
    }

    #[test]
    fn a_monitor_is_seen_while_it_holds_its_lock() {
        let scratch = Scratch::new("lock");
        let run = &scratch.0;
        assert_eq!(run.monitor(), None);
        let lock = run.lock_monitor().unwrap();
        assert_eq!(run.monitor(), Some(Pid::this()));
        drop(lock);
        assert_eq!(run.monitor(), None);
    }

    #[test]
    fn a_replaced_file_has_the_new_mode_and_no_draft_stays() {
        let scratch = Scratch::new("replace");
        let path = scratch.0.path().join("f");
        replace_file(&path, b"a", 0o644, None).unwrap();
        replace_file(&path, b"b", 0o600, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"b");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(scratch.0.path()).unwrap().count(), 1);
    }

    #[test]
    fn we_live_and_no_process_has_the_highest_number() {
        assert!(is_alive(Pid::this()));
        assert!(!is_alive(Pid::from_raw(i32::MAX)));
    }
}
