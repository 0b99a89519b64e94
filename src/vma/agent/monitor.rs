//! Watches one run of the X session, from the making of its user to its end, and outlives the agent that started it.
//! What nxagent says becomes the state file; there is nothing else that the agent needs to know. The monitor gets the
//! connection's parameters on its input, and answers on its output with one line: `ready` once nxagent speaks, or why
//! there is no session. It decides nothing about a session that runs: calls are the agent's business.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufRead, BufReader, PipeReader, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use thiserror::Error;

use super::{
    command::is_executable,
    config::Settings,
    environment,
    hooks::{Action, Entered, HookError, Hooks, open_log},
    launch,
    options::{self, InvalidCharacters},
    ourselves,
    output::{self, Heard},
    parameters::Parameters,
    pidfd::PidFd,
    rundir::{RunDir, replace_file, send},
    six,
    state::NxState,
    users::{self, Account, UserError},
};

/// The subcommand.
pub const NAME: &str = "monitor";

/// What the monitor answers when nxagent is up.
pub const READY: &str = "ready";

/// Where nxagent's environment says which run directory is ours.
const RUN_VARIABLE: &str = "QVD_RUN";

/// Why there is no X session, or no longer one that is watched.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// What came on the input is not what an agent sends.
    #[error("cannot read the parameters of the connection")]
    Input(#[from] serde_json::Error),
    /// The files that tell of the session cannot be written.
    #[error("cannot write to the run directory {dir}")]
    RunDir {
        /// The directory.
        dir: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing can be logged.
    #[error("cannot open the log of the X session in {dir}")]
    Log {
        /// The directory.
        dir: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no account to run it in.
    #[error(transparent)]
    User(#[from] UserError),
    /// A hook refused.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The options of nxagent cannot be made.
    #[error(transparent)]
    Options(#[from] InvalidCharacters),
    /// The image lacks a program.
    #[error("the image has no {what}: {} is no program", .path.display())]
    Missing {
        /// What it is.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
    /// The session could not be started or waited for.
    #[error("cannot run the X session")]
    Run(#[source] io::Error),
    /// It came and went.
    #[error("the X session ended before nxagent was up; its last line was: {0}")]
    Short(String),
}

/// Runs one X session to its end. Parameters are read from the standard input.
pub fn run(settings: &Settings) -> Result<(), MonitorError> {
    let parameters: Parameters = serde_json::from_reader(io::stdin())?;
    let run = RunDir::new(&settings.run_dir);
    let hooks = Hooks::new(settings);
    let fail = |source| MonitorError::RunDir { dir: run.path().display().to_string(), source };
    let _lock = run.lock_monitor().map_err(fail)?;
    run.clear();
    run.write_state(NxState::Initiating).map_err(fail)?;
    let result = session(&parameters, settings, &run, &hooks);
    run.clear();
    hooks.entered(Entered::Stopped);
    result
}

fn session(parameters: &Parameters, settings: &Settings, run: &RunDir, hooks: &Hooks) -> Result<(), MonitorError> {
    let fail = |source| MonitorError::RunDir { dir: run.path().display().to_string(), source };
    for (what, path) in [("nxagent", &settings.nxagent), ("xinit", &settings.xinit), ("X session", &settings.x_session)]
    {
        if !is_executable(path) {
            return Err(MonitorError::Missing { what, path: path.clone() });
        }
    }
    let busy = || {
        if let Err(error) = run.write_state(NxState::Provisioning) {
            tracing::warn!(%error, "cannot write the state of the X session");
        }
    };
    let account = users::provision(parameters, settings, hooks, &busy)?;
    run.write_state(NxState::Initiating).map_err(fail)?;
    hooks.action(Action::Connect, parameters.pairs(), NxState::Initiating.reported().as_str())?;
    write_connection(parameters, settings, (account.uid, account.gid))?;
    make_way_for_display(settings.display);
    let port = u16::try_from(settings.display.saturating_add(4000)).unwrap_or(u16::MAX);
    if let Err(error) = six::is_alone().and_then(|alone| if alone { six::pass_on(port) } else { Ok(()) }) {
        tracing::warn!(%error, port, "nxagent cannot be reached by IPv6");
    }

    let log = SessionLog::open(&settings.log_dir)
        .map_err(|source| MonitorError::Log { dir: settings.log_dir.display().to_string(), source })?;
    let (reader, writer) = io::pipe().map_err(MonitorError::Run)?;
    let child = start(&account, settings, writer).map_err(MonitorError::Run)?;
    tracing::info!(user = account.name, "X session started");
    let (pid, nxagent) = mpsc::channel();
    let (run, hooks) = (run.clone(), hooks.clone());
    let ear = Ear { run, hooks, uid: account.uid, log, nxagent: pid, state: None, up: false, last: String::new() };
    let ear = Arc::new(Mutex::new(Some(ear)));
    let drained = listen(reader, Arc::clone(&ear));
    let status = wait(child, nxagent).map_err(MonitorError::Run)?;
    // Programs that the user left running may hold the pipe open for ever.
    let _ = drained.recv_timeout(Duration::from_millis(200));
    let ear = lock(&ear).take();
    tracing::info!(%status, "X session ended");
    match ear {
        Some(ear) if !ear.up => Err(MonitorError::Short(ear.last)),
        _ => Ok(()),
    }
}

/// Writes what nxagent and its helpers read about the connection. `owner` is uid and gid of the session.
pub fn write_connection(parameters: &Parameters, settings: &Settings, owner: (u32, u32)) -> Result<(), MonitorError> {
    let options = options::render(parameters, settings)?;
    let write = |path: &Path, text: &str, mode, owner| {
        replace_file(path, text.as_bytes(), mode, owner)
            .map_err(|source| MonitorError::RunDir { dir: path.display().to_string(), source })
    };
    write(&settings.options_file, &options, 0o644, None)?;
    write(&settings.slave_key_file, parameters.get("qvd.slave.key").unwrap_or_default(), 0o600, Some(owner))
}

/// Removes what a display that died with an earlier run of the VM left: its pid may be somebody else's by now.
fn make_way_for_display(display: u32) {
    let sockets = Path::new("/tmp/.X11-unix");
    if !sockets.exists() && fs::create_dir(sockets).is_ok() {
        let _ = fs::set_permissions(sockets, Permissions::from_mode(0o1777));
    }
    for stale in [PathBuf::from(format!("/tmp/.X{display}-lock")), sockets.join(format!("X{display}"))] {
        let _ = fs::remove_file(stale);
    }
}

fn start(account: &Account, settings: &Settings, output: io::PipeWriter) -> io::Result<Child> {
    let Settings { display, options_file, .. } = settings;
    let link = format!("nx/nx,options={}:{display}", options_file.display());
    let mut command = launch::command(&account.into(), settings.umask.0, &settings.xinit);
    command.arg(&settings.x_session).args(&settings.x_session_args.0).arg("--");
    command.arg(&settings.nxagent).args([&format!(":{display}"), "-ac", "-name", "QVD", "-display", &link]);
    // Without access control the display must not be reachable from outside.
    command.args(["-nolisten", "tcp"]);
    command.args(&settings.nxagent_args.0);
    command.env_clear().envs(environment::of_session(account, &settings.lang));
    command.env("NX_CLIENT", ourselves()).env(RUN_VARIABLE, &settings.run_dir);
    command.current_dir(&account.home);
    command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output).spawn()
}

/// Waits for the end of xinit. Once nxagent has ended there is nothing left to wait for, but xinit, which then tries
/// to end nxagent, may take ten seconds to see it.
fn wait(mut xinit: Child, nxagent: mpsc::Receiver<Pid>) -> io::Result<ExitStatus> {
    let pid = Pid::from_raw(xinit.id().cast_signed());
    let (end, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        let Some(nxagent) = nxagent.recv().ok().and_then(|pid| PidFd::open(pid).ok()) else { return };
        nxagent.wait();
        for (signal, patience) in [(Signal::SIGTERM, Duration::from_millis(300)), (Signal::SIGKILL, Duration::MAX)] {
            send(pid, signal);
            if ended.recv_timeout(patience) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    });
    let status = xinit.wait();
    drop(end);
    status
}

type SharedEar = Arc<Mutex<Option<Ear>>>;

fn lock(ear: &SharedEar) -> MutexGuard<'_, Option<Ear>> {
    ear.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hears every line until the pipe ends or the ear is taken away. The receiver learns of the end.
fn listen(pipe: PipeReader, ear: SharedEar) -> mpsc::Receiver<()> {
    let (end, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        let _end = end;
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            match lock(&ear).as_mut() {
                Some(ear) => ear.line(String::from_utf8_lossy(&line).trim_end()),
                None => break,
            }
            line.clear();
        }
    });
    ended
}

/// Longer lines are heard in pieces.
const LINE_LIMIT: u64 = 8 * 1024;

/// Turns what is heard into files and hooks.
struct Ear {
    run: RunDir,
    hooks: Hooks,
    uid: u32,
    log: SessionLog,
    nxagent: mpsc::Sender<Pid>,
    state: Option<NxState>,
    up: bool,
    last: String,
}

impl Ear {
    fn line(&mut self, line: &str) {
        self.log.write(line);
        if !line.trim().is_empty() {
            line.clone_into(&mut self.last);
        }
        let Some(heard) = output::hear(line) else { return };
        if let Heard::Pid(pid) = heard {
            self.pid(pid);
        }
        if let Some(state) = output::after(self.state, heard) {
            self.enter(state);
        }
    }

    fn enter(&mut self, state: NxState) {
        tracing::info!(state = state.as_str(), "X session");
        self.state = Some(state);
        if let Err(error) = self.run.write_state(state) {
            tracing::warn!(%error, "cannot write the state of the X session");
        }
        match state {
            NxState::Started | NxState::Resumed => self.hooks.entered(Entered::Connected),
            NxState::Suspended => self.hooks.entered(Entered::Suspended),
            _ => {}
        }
        if !std::mem::replace(&mut self.up, true) {
            // The agent that asked may be gone.
            let _ = writeln!(io::stdout(), "{READY}");
        }
    }

    /// Believes only in a process of the user, and in one: it is going to be signalled with all rights.
    fn pid(&mut self, pid: i32) {
        let users = fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == self.uid);
        if !users || self.run.nxagent().is_some() {
            return;
        }
        if let Err(error) = self.run.write_nxagent(pid) {
            tracing::warn!(%error, "cannot write the pid of nxagent");
        }
        let _ = self.nxagent.send(Pid::from_raw(pid));
    }
}

/// What the session prints, limited to two files of this size.
struct SessionLog {
    dir: PathBuf,
    file: File,
    size: u64,
}

const LOG_NAME: &str = "qvd-nxagent.log";
const LOG_LIMIT: u64 = 8 * 1024 * 1024;

impl SessionLog {
    fn open(dir: &Path) -> io::Result<Self> {
        let file = open_log(dir, LOG_NAME)?;
        let size = file.metadata()?.len();
        Ok(Self { dir: dir.to_owned(), file, size })
    }

    /// Losing a line of a log is no reason to lose a desktop.
    fn write(&mut self, line: &str) {
        if self.size > LOG_LIMIT {
            let _ = fs::rename(self.dir.join(LOG_NAME), self.dir.join(format!("{LOG_NAME}.1")));
            if let Ok(fresh) = Self::open(&self.dir) {
                *self = fresh;
            }
        }
        let text = format!("{line}\n");
        let _ = self.file.write_all(text.as_bytes());
        self.size += text.len() as u64;
    }
}

/// Starts a monitor for a session with these parameters. The first line of what it prints says how it went.
pub fn spawn(parameters: &Parameters) -> io::Result<Child> {
    let mut command = Command::new(ourselves());
    // In a group of its own, a signal for the agent's group does not end the session.
    command.arg(NAME).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&serde_json::to_vec(parameters)?)?;
    }
    Ok(child)
}
