//! A long-lived child that must not outlive us and must not end at the terminal's Ctrl-C.
//!
//! It has a process group of its own, so the terminal's signals pass it by, and a parent-death signal, so that even
//! `kill -9` of us ends it. The kernel sends that signal when the *thread* that forked ends; therefore every child has
//! a thread of its own, which forks, waits and lives exactly as long as the child. Restarting is not done here.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::{Gid, Pid, Uid, User},
};
use tokio::sync::watch;

/// How long a dropped child may take to end by its own signal before it is killed.
const DROP_PATIENCE: Duration = Duration::from_secs(5);

/// A user of the operating system that a child runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// Numeric user id.
    pub uid: Uid,
    /// Numeric id of the primary group.
    pub gid: Gid,
}

impl Account {
    /// The account of that name, `None` when the machine has none.
    pub fn named(name: &str) -> io::Result<Option<Self>> {
        Ok(User::from_name(name)?.map(Self::from))
    }

    /// The account we run as.
    pub fn own() -> io::Result<Self> {
        let uid = Uid::effective();
        let user = User::from_uid(uid)?.ok_or_else(|| io::Error::other(format!("user id {uid} has no name")))?;
        Ok(user.into())
    }
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Self { name: user.name, uid: user.uid, gid: user.gid }
    }
}

/// Goes on only if the parent that asked for the signal still lives, so that none is lost between fork and request.
const GO_ON: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

/// A command that runs `program` as `account` (as ourselves when that is who we are), gets `signal` when the thread
/// that starts it ends, and knows nothing of our environment but the search path.
pub fn attached_command(program: impl AsRef<std::ffi::OsStr>, account: &Account, signal: Signal) -> Command {
    let mut command = Command::new("setpriv");
    if account.uid != Uid::effective() {
        command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid)).arg("--init-groups");
    }
    command.arg("--pdeathsig").arg(signal_name(signal)).args(["--", "sh", "-c", GO_ON]);
    command.arg(std::process::id().to_string()).arg(program);
    command.env_clear().env("LC_ALL", "C.UTF-8").current_dir("/").process_group(0);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// A running child. Dropping it sends its closing signal and waits for a few seconds, then kills.
#[derive(Debug)]
pub struct Attached {
    closing: Signal,
    /// `None` as soon as the process id may belong to somebody else.
    pid: Arc<Mutex<Option<Pid>>>,
    status: watch::Receiver<Option<ExitStatus>>,
    /// Never carries anything: it is closed when the child's thread ends.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Attached {
    /// Starts `command`, made by [`attached_command`] with the same `closing` signal.
    pub fn start(mut command: Command, closing: Signal) -> io::Result<Self> {
        let pid = Arc::new(Mutex::new(None));
        let (status_out, status) = watch::channel(None);
        let (started_out, started) = mpsc::sync_channel(1);
        let (ending, ended) = mpsc::sync_channel::<()>(1);
        let slot = Arc::clone(&pid);
        thread::Builder::new().name("attached".to_owned()).spawn(move || {
            let _ending = ending;
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(started_out.send(Err(error))),
            };
            // What the command holds of our ends of pipes would keep them open.
            drop(command);
            let own = Pid::from_raw(child.id().cast_signed());
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
            drop(started_out.send(Ok(())));
            // The first wait leaves the zombie, so that until the slot is empty a signal cannot hit a stranger.
            while waitid(Id::Pid(own), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            *slot = None;
            status_out.send_replace(child.wait().ok());
        })?;
        started.recv().map_err(io::Error::other)??;
        Ok(Self { closing, pid, status, ended: Mutex::new(ended) })
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<Pid> {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a signal; a child that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        let pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = *pid {
            // ESRCH cannot happen before it is reaped, and EPERM would mean that it is not ours any more.
            let _ = kill(pid, signal);
        }
    }

    /// Resolves when the child has ended; `None` when nobody could learn how.
    pub async fn exited(&self) -> Option<ExitStatus> {
        let mut status = self.status.clone();
        // An error means that the thread is gone, and with it the child.
        status.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let patience = [(self.closing, DROP_PATIENCE), (Signal::SIGKILL, DROP_PATIENCE)];
        for (signal, patience) in patience {
            self.signal(signal);
            let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
            if ended.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }
}

/// The name as `setpriv` wants it.
fn signal_name(signal: Signal) -> &'static str {
    signal.as_str().trim_start_matches("SIG")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::Stdio,
        time::Instant,
    };

    use super::*;

    fn sleeper() -> Attached {
        let mut command = attached_command("sleep", &Account::own().unwrap(), Signal::SIGTERM);
        command.arg("600");
        Attached::start(command, Signal::SIGTERM).unwrap()
    }

    #[tokio::test]
    async fn a_signal_ends_it_and_the_end_is_seen() {
        let child = sleeper();
        child.signal(Signal::SIGKILL);
        let status = child.exited().await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        assert_eq!(child.pid(), None);
    }

    #[test]
    fn dropping_it_ends_it() {
        let child = sleeper();
        let pid = child.pid().unwrap();
        drop(child);
        assert_eq!(kill(pid, None), Err(Errno::ESRCH));
    }

    #[test]
    fn the_terminal_does_not_reach_it() {
        let child = sleeper();
        let pid = child.pid().unwrap();
        assert_eq!(nix::unistd::getpgid(Some(pid)).unwrap(), pid);
    }

    #[test]
    fn killing_us_ends_it() {
        let mut us = Command::new(std::env::current_exe().unwrap());
        us.args(["--exact", "demo::attached::tests::holds_a_child_until_it_is_killed", "--ignored", "--nocapture"]);
        let mut us = us.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(us.stdout.take().unwrap()).lines();
        let pid = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("child=")?.1.to_owned())).unwrap();
        let child = Pid::from_raw(pid.parse().unwrap());
        assert!(kill(child, None).is_ok());
        us.kill().unwrap();
        us.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_running(child) {
            assert!(Instant::now() < deadline, "process {child} outlived us");
            thread::yield_now();
        }
    }

    #[test]
    #[ignore = "a part of killing_us_ends_it, which runs it as a process of its own"]
    fn holds_a_child_until_it_is_killed() {
        let child = sleeper();
        println!("child={}", child.pid().unwrap());
        let _ = std::io::stdin().read_line(&mut String::new());
    }

    /// An orphan may stay a zombie for as long as the machine's first process likes.
    fn is_running(pid: Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn a_program_that_is_not_there_is_an_end_with_status_127() {
        let mut command = attached_command("/nonexistent/program", &Account::own().unwrap(), Signal::SIGTERM);
        command.stderr(Stdio::null());
        let child = Attached::start(command, Signal::SIGTERM).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(child.exited()).and_then(|status| status.code()), Some(127));
    }
}
