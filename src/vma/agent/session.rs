//! The X session as the agent sees it: reads what the monitor wrote, lets `state` judge, does what follows, and wakes
//! whoever waits for a change. One thread watches the run directory, so that nobody polls and every limit is kept
//! although nobody asks. The desktop itself belongs to the monitor; the agent can die and come back.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        signal::Signal,
    },
    unistd::Pid,
};
use thiserror::Error;

use super::{
    Chain,
    command::{self, find},
    config::Settings,
    hooks::{Action, Entered, HookError, Hooks},
    monitor::{self, MonitorError},
    options::{self, InvalidCharacters},
    parameters::Parameters,
    rundir::{RunDir, is_alive, send},
    state::{Act, Found, Limits, NxState, StartStep, hup_suspends, judge, on_start},
};
use crate::model::XState;

/// Why a session was not started, made for the user's eyes.
#[derive(Debug, Error)]
pub enum StartError {
    /// A proxy would not go.
    #[error("Can't connect to X session in state connected, suspending it, retry later")]
    Connected,
    /// The session is between two states for too long.
    #[error("Unable to start/resume X session in state {0}, try again in a few minutes")]
    Busy(XState),
    /// The options of nxagent cannot be made.
    #[error(transparent)]
    Options(#[from] InvalidCharacters),
    /// A hook refused.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A file could not be written.
    #[error(transparent)]
    Files(#[from] MonitorError),
    /// nxagent ended just now.
    #[error("The X session ended while it was being resumed, try again")]
    Gone,
    /// There is no monitor.
    #[error("Unable to start the X session")]
    Spawn(#[source] io::Error),
    /// The monitor says why there is no session.
    #[error("Unable to start the X session: {0}")]
    Failed(String),
}

/// How long an `x_start` may wait for an old connection to go; its caller waits four seconds.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How long a node's old connection to nxagent, which it has just closed, takes to be noticed.
const GRACE: Duration = Duration::from_millis(600);

/// How long an `x_start` waits for nxagent's first words, from its beginning.
const FIRST_WORDS: Duration = Duration::from_millis(3300);

/// The X session of this VM.
pub struct Session {
    run: RunDir,
    settings: Arc<Settings>,
    hooks: Hooks,
    seen: Mutex<Seen>,
    changed: Condvar,
    /// Held by the one `x_start` that may act.
    start: Mutex<()>,
}

struct Seen {
    /// What stood in the state file, and since when by our clock: the one in the file may be set at any time.
    line: String,
    since: Instant,
    reported: XState,
}

impl Session {
    /// Takes over a session that runs, and removes what one that ended left.
    pub fn adopt(settings: Arc<Settings>, hooks: Hooks) -> io::Result<Arc<Self>> {
        let run = RunDir::new(&settings.run_dir);
        run.create()?;
        if run.monitor().is_none() && run.state().is_none() {
            hooks.entered(Entered::Stopped);
        }
        let seen = Seen { line: String::new(), since: Instant::now(), reported: XState::Stopped };
        let session =
            Self { run, settings, hooks, seen: Mutex::new(seen), changed: Condvar::new(), start: Mutex::new(()) };
        session.state();
        Ok(Arc::new(session))
    }

    /// The state, looked up now. What follows from it is done.
    pub fn state(&self) -> XState {
        self.look().0
    }

    /// The state as soon as it is another than `seen`, at the latest at the deadline.
    pub fn wait(&self, seen: XState, deadline: Instant) -> XState {
        let now = self.state();
        if now != seen {
            return now;
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        let unchanged = |state: &mut Seen| state.reported == seen;
        let waited = self.changed.wait_timeout_while(self.seen(), rest, unchanged);
        waited.unwrap_or_else(PoisonError::into_inner).0.reported
    }

    /// Starts or resumes the session, whatever it takes within a few seconds.
    pub fn start(self: &Arc<Self>, parameters: &Parameters) -> Result<(), StartError> {
        let begin = Instant::now();
        options::render(parameters, &self.settings)?;
        let _only = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        let mut interrupted = false;
        loop {
            let state = self.state();
            let over = begin.elapsed() >= PATIENCE;
            match on_start(state) {
                StartStep::Join => return Ok(()),
                StartStep::Start => return self.launch(parameters, begin),
                StartStep::Resume => return self.resume(parameters),
                StartStep::Interrupt if interrupted && over => return Err(StartError::Connected),
                StartStep::Await if over => return Err(StartError::Busy(state)),
                // HUP takes seconds while the old link lives; one that was cut suspends the session by itself, and
                // a HUP on top of that could wake it again.
                StartStep::Interrupt if !interrupted => {
                    interrupted = self.wait(state, begin + GRACE) == state;
                    if interrupted {
                        self.suspend_now();
                    }
                }
                StartStep::Interrupt | StartStep::Await => drop(self.wait(state, begin + PATIENCE)),
            }
        }
    }

    /// Makes nxagent let go of its proxy; false when there is nothing to suspend.
    pub fn suspend(&self) -> Result<bool, HookError> {
        self.hooks.action(Action::Suspend, &[], self.state().as_str())?;
        Ok(self.suspend_now())
    }

    /// Ends the session; false when there is none.
    pub fn stop(&self) -> Result<bool, HookError> {
        let state = self.state();
        self.hooks.action(Action::Stop, &[], state.as_str())?;
        if matches!(state, XState::Stopped | XState::Provisioning) {
            return Ok(false);
        }
        self.signal(Signal::SIGTERM);
        Ok(true)
    }

    /// nxagent, while it lives.
    pub fn nxagent(&self) -> Option<Pid> {
        self.run.nxagent().filter(|pid| self.is_nxagent(*pid))
    }

    /// Watches the session until the process ends.
    pub fn watch(self: &Arc<Self>) -> io::Result<()> {
        // All VMs of a node may share one allowance of these, and it may be used up.
        let inotify = self.changes_of_files().inspect_err(|error| {
            tracing::warn!(%error, "changes of the X session cannot be watched for; looking twice a second instead");
        });
        let session = Arc::clone(self);
        thread::Builder::new().name("watch".into()).spawn(move || session.watch_with(inotify.ok().as_ref()))?;
        Ok(())
    }

    fn changes_of_files(&self) -> io::Result<Inotify> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // States arrive by rename; the end of a monitor, however it ends, closes the file that it holds locked.
        let events = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_CLOSE_WRITE;
        inotify.add_watch(self.run.path(), events)?;
        Ok(inotify)
    }

    fn watch_with(&self, inotify: Option<&Inotify>) {
        let mut settle = false;
        loop {
            let (_, again) = self.look();
            // The lock of a monitor is released a moment after its file is closed.
            let longest = if settle { Some(SETTLE) } else { inotify.is_none().then_some(UNSEEN) };
            let timeout = again.into_iter().chain(longest).min().map_or(PollTimeout::NONE, |pause| {
                PollTimeout::try_from(pause + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            });
            let mut files: Vec<_> =
                inotify.iter().map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut files, timeout) {
                Ok(events) => settle = events > 0,
                Err(Errno::EINTR) => {}
                Err(error) => tracing::warn!(%error, "cannot wait for changes of the X session"),
            }
            while inotify.is_some_and(|inotify| inotify.read_events().is_ok_and(|events| !events.is_empty())) {}
        }
    }

    fn look(&self) -> (XState, Option<Duration>) {
        let mut seen = self.seen();
        let (state, line) = self.run.state().unzip();
        let line = line.unwrap_or_default();
        if line != seen.line {
            seen.line = line;
            seen.since = Instant::now();
        }
        let found = Found {
            state,
            age: seen.since.elapsed(),
            monitor: self.run.monitor().is_some(),
            nxagent: self.run.nxagent().map(|pid| self.is_nxagent(pid)),
        };
        let verdict = judge(&found, &Limits::of(&self.settings));
        match verdict.act {
            Some(Act::Terminate) => self.signal(Signal::SIGTERM),
            Some(Act::Kill) => self.signal(Signal::SIGKILL),
            Some(Act::Clear) => {
                self.run.clear();
                self.hooks.entered(Entered::Stopped);
            }
            None => {}
        }
        if verdict.reported != seen.reported {
            tracing::debug!(state = %verdict.reported, "X session");
            seen.reported = verdict.reported;
            self.changed.notify_all();
        }
        (verdict.reported, verdict.again)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signals nxagent, or the monitor while there is no nxagent yet; what the monitor started ends with it.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.nxagent().or_else(|| self.run.monitor()) {
            send(pid, signal);
        }
    }

    /// Whether a process lives and is the one that serves our display: a file that an earlier run of the VM left may
    /// name a process that is somebody else's by now.
    fn is_nxagent(&self, pid: Pid) -> bool {
        is_alive(pid)
            && serves_display(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(), self.settings.display)
    }

    fn suspend_now(&self) -> bool {
        let suspendable = self.run.state().is_some_and(|(state, _)| hup_suspends(state));
        let nxagent = self.run.nxagent().filter(|pid| suspendable && self.is_nxagent(*pid));
        nxagent.inspect(|pid| send(*pid, Signal::SIGHUP)).is_some()
    }

    fn launch(&self, parameters: &Parameters, begin: Instant) -> Result<(), StartError> {
        self.hooks.action(Action::PreConnect, parameters.pairs(), XState::Stopped.as_str())?;
        set_timezone(parameters);
        let mut child = monitor::spawn(parameters).map_err(StartError::Spawn)?;
        let (sender, answer) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            if let Some(output) = child.stdout.take() {
                let _ = BufReader::new(output).read_line(&mut line);
            }
            let _ = sender.send(line);
            child.wait()
        });
        match answer.recv_timeout((begin + FIRST_WORDS).saturating_duration_since(Instant::now())) {
            Ok(line) if line.trim() == monitor::READY => Ok(()),
            Ok(line) if line.is_empty() => Err(StartError::Failed("its monitor died".to_owned())),
            Ok(line) => Err(StartError::Failed(line.trim().to_owned())),
            // It takes its time, which its state tells.
            Err(_) => Ok(()),
        }
    }

    fn resume(&self, parameters: &Parameters) -> Result<(), StartError> {
        let state = XState::Suspended.as_str();
        self.hooks.action(Action::PreConnect, parameters.pairs(), state)?;
        set_timezone(parameters);
        let nxagent = self.run.nxagent().ok_or(StartError::Gone)?;
        monitor::write_connection(parameters, &self.settings, owner(nxagent)?)?;
        self.run
            .write_state(NxState::Resuming)
            .map_err(|source| MonitorError::RunDir { dir: self.run.path().display().to_string(), source })?;
        send(nxagent, Signal::SIGHUP);
        self.state();
        Ok(self.hooks.action(Action::Connect, parameters.pairs(), state)?)
    }
}

/// See `watch_with`.
const SETTLE: Duration = Duration::from_millis(20);
/// How often files are looked at whose changes are not told.
const UNSEEN: Duration = Duration::from_millis(500);

fn serves_display(cmdline: &[u8], display: u32) -> bool {
    let display = format!(":{display}");
    cmdline.split(|byte| *byte == 0).any(|argument| argument == display.as_bytes())
}

fn owner(process: Pid) -> Result<(u32, u32), StartError> {
    let metadata = fs::metadata(format!("/proc/{process}")).map_err(|_| StartError::Gone)?;
    Ok((metadata.uid(), metadata.gid()))
}

/// A wrong clock is no reason to have no desktop.
fn set_timezone(parameters: &Parameters) {
    let Some(zone) = parameters.get("qvd.client.timezone") else { return };
    let Some(timedatectl) = find("timedatectl") else { return };
    let result = match options::is_plain(zone) {
        true => command::run(&timedatectl, &["set-timezone", zone], Duration::from_secs(1)).map(drop),
        false => return tracing::warn!(zone, "this is no time zone"),
    };
    if let Err(error) = result {
        tracing::warn!(zone, error = %Chain(&error), "cannot set the time zone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_serves_our_display_is_our_nxagent() {
        assert!(serves_display(b"/usr/bin/nxagent\0:100\0-ac\0", 100));
        assert!(!serves_display(b"/usr/bin/nxagent\0:1000\0-ac\0", 100));
        assert!(!serves_display(b"", 100));
    }
}
