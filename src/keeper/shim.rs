//! The shim: parent of everything that one VM is, from its start to the death of its last process.
//!
//! ```text
//!             command ended                      no child left, volumes unmounted
//!  Running ───────────────────► Ending ────────────────────────► end recorded, locks
//!     │   kill, SIGTERM, fence    ▲                              released, process exits
//!     └───────────────────────────┘
//! ```
//!
//! The shim is subreaper and its command dies with it (parent death signal), so "no child left" means that no process
//! of the VM lives, and a shim that is killed takes its VM with it. Its socket speaks lines: `status` answers one line
//! of JSON, `kill` answers `ok`, `wait` answers with the end once it has come. When to kill is not decided here, but for one case: when the node's deadline passes
//! (`fence`), other nodes may start the VM, so the shim kills it with nobody's help, and restarts the machine if it may and
//! the VM does not die.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_child_subreaper,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, umask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpid},
};
use thiserror::Error;

use super::{
    Ended, Open, Phase, Readiness, ShimDir, ShimSpec, ShimStatus,
    claim::{Claim, lock},
    deadline::Deadline,
    outlet::Outlet,
    priority, process_table,
    spawn::spawn,
    volume::Volumes,
};
use crate::model::in_one_line;

/// Why a shim did not start its VM.
#[derive(Debug, Error)]
pub enum ShimError {
    /// `shim.json` cannot be read.
    #[error("cannot read {}", .path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory has a shim, or another VM or node holds the home or the overlay.
    #[error("{} is locked by another process; the VM, or another one with its home, still runs somewhere", .path.display())]
    Locked {
        /// The lock's file.
        path: PathBuf,
    },
    /// The lock is free, but somebody else wrote that the VM is his, and nobody found out whether he lives.
    #[error("{} names {owner} as the owner of the VM", .path.display())]
    Owned {
        /// The lock's file.
        path: PathBuf,
        /// What is written there.
        owner: String,
    },
    /// A file of the shim's cannot be made.
    #[error("cannot make {}", .path.display())]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VM's root file system cannot be mounted.
    #[error("cannot mount the root file system of the VM")]
    Root(#[source] io::Error),
    /// What the VM writes to cannot be mounted.
    #[error("cannot mount the volume")]
    Volume(#[source] io::Error),
    /// The command cannot be started.
    #[error("cannot run {program}")]
    Spawn {
        /// First word of the command.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// What the command is to find open cannot be opened.
    #[error("cannot open {what}")]
    Open {
        /// What it is.
        what: Open,
        /// Why.
        source: io::Error,
    },
    /// The machine refused what a shim cannot be without.
    #[error("cannot supervise processes")]
    Supervise(#[from] io::Error),
}

/// Pause between two rounds of killing what the dead left behind.
const REAP_PAUSE: u16 = 10;

/// Longest line that a client may send.
const LINE_LIMIT: usize = 256;

/// Runs the shim of `dir` to the end of its VM. The starter is told when the VM runs or cannot.
pub fn run(dir: &ShimDir, readiness: Readiness) -> Result<Ended, ShimError> {
    match Shim::start(dir) {
        Ok(shim) => {
            readiness.ready();
            Ok(shim.supervise()?)
        }
        Err(error) => {
            readiness.failed(&in_one_line(&error));
            Err(error)
        }
    }
}

struct Shim {
    dir: ShimDir,
    own_lock: File,
    claims: Vec<Claim>,
    volumes: Volumes,
    signals: SignalFd,
    listener: UnixListener,
    outlet: Outlet,
    console: Option<Outlet>,
    deadline: Option<Deadline>,
    status: ShimStatus,
    ended: Option<Ended>,
    clients: Vec<Client>,
}

impl Shim {
    fn start(dir: &ShimDir) -> Result<Self, ShimError> {
        umask(Mode::from_bits_truncate(0o077));
        let spec = read_spec(&dir.spec())?;
        let own_lock = lock(dir.lock())?;
        let owner = spec.owner.as_ref();
        let alone = spec.locks.iter().map(|path| Claim::take(path, owner));
        let claims = alone.chain(spec.shared.iter().map(|path| Claim::share(path, owner))).collect::<Result<_, _>>()?;
        let make = |path: PathBuf| move |source| ShimError::Make { path, source };

        forget(&dir.exit()).map_err(make(dir.exit()))?;
        forget(&dir.socket()).map_err(make(dir.socket()))?;
        let listener = UnixListener::bind(dir.socket()).map_err(make(dir.socket()))?;
        listener.set_nonblocking(true)?;
        let (mut outlet, output) = Outlet::open(&spec.output).map_err(make(spec.output.clone()))?;
        let console =
            spec.console.map(|file| Outlet::open_named(&dir.console(), &file).map_err(make(file))).transpose()?;

        let volumes = Volumes::mount(&spec.volumes).map_err(ShimError::Volume)?;
        if let Some(root) = &spec.root {
            root.mount().map_err(ShimError::Root)?;
        }
        let mut watched = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            watched.add(signal);
        }
        watched.thread_block().map_err(io::Error::from)?;
        let signals =
            SignalFd::with_flags(&watched, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(io::Error::from)?;
        set_child_subreaper(true).map_err(io::Error::from)?;
        if let Err(refused) = priority::shield_from_oom_killer() {
            outlet.note(&refused);
        }
        for cgroup in &spec.cgroups {
            if let Err(error) = enter_cgroup(cgroup) {
                outlet.note(&format!("{}: {error}", cgroup.display()));
            }
        }

        // Asked before the VM begins to live: a deadline that passes from here on is meant for it.
        let deadline = spec.fence.map(|fence| Deadline::new(&fence).map_err(make(fence.file.clone()))).transpose()?;
        let boot_id = process_table::boot_id()?;
        let open = |what: Open| what.open().map_err(|source| ShimError::Open { what, source });
        let files = spec.open.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        // Ours is for our files; the VM's programs would inherit it.
        umask(Mode::from_bits_truncate(0o022));
        let pid = spawn(&spec.argv, output, spec.account, &files)
            .map_err(|source| ShimError::Spawn { program: spec.argv.first().cloned().unwrap_or_default(), source })?
            .as_raw();
        // The child is not reaped yet, so its entry is there even if it ended already.
        let start_time = process_table::start_time(pid)?;
        let status = ShimStatus { shim: getpid().as_raw(), pid, start_time, boot_id, phase: Phase::Running };
        let dir = dir.clone();
        Ok(Self {
            dir,
            own_lock,
            claims,
            volumes,
            signals,
            listener,
            outlet,
            console,
            deadline,
            status,
            ended: None,
            clients: Vec::new(),
        })
    }

    fn supervise(mut self) -> io::Result<Ended> {
        loop {
            let (signalled, printed, called, spoken) = self.wait_for_events()?;
            if signalled {
                self.take_signals();
            }
            if printed {
                self.outlet.drain();
            }
            // Rather than asked whether there is something.
            if let Some(console) = &mut self.console {
                console.drain();
            }
            if called {
                while let Ok((stream, _)) = self.listener.accept() {
                    self.clients.extend(Client::new(stream));
                }
            }
            self.serve(&spoken);
            self.obey_fence()?;
            if self.reap()
                && let Some(written) = self.volumes.are_written()
            {
                if let Err(error) = written {
                    self.outlet.note(&format!("cannot unmount what the VM wrote to: {error}"));
                }
                return Ok(self.finish());
            }
            self.despair()?;
        }
    }

    /// Kills the VM when the node's deadline has passed.
    fn obey_fence(&mut self) -> io::Result<()> {
        let Some(deadline) = &mut self.deadline else { return Ok(()) };
        if !deadline.has_passed()? {
            return Ok(());
        }
        if self.status.phase == Phase::Running {
            let quarantined = deadline.quarantine();
            self.outlet
                .note("the node could give no sign of life for too long; others may start this VM, so it ends here");
            self.kill_vm();
            if let Err(error) = quarantined {
                self.outlet.note(&format!("the node is not kept from its storage: {error}"));
            }
        }
        self.volumes.forsake();
        Ok(())
    }

    /// Restarts the machine when what must be dead does not die and that is allowed.
    fn despair(&mut self) -> io::Result<()> {
        match &mut self.deadline {
            Some(deadline) if deadline.is_desperate()? => {
                self.outlet.note("what must be dead does not die; restarting the machine");
                deadline.restart_machine()
            }
            _ => Ok(()),
        }
    }

    /// Sleeps until something happened: a signal, output, a new client, and which of the known clients spoke.
    fn wait_for_events(&self) -> io::Result<(bool, bool, bool, Vec<bool>)> {
        let fixed: [BorrowedFd<'_>; 3] = [self.signals.as_fd(), self.outlet.as_fd(), self.listener.as_fd()];
        let clients = self.clients.iter().map(|client| client.stream.as_fd());
        let deadline = self.deadline.as_ref().map(|deadline| deadline.as_fd());
        let console = self.console.as_ref().map(|console| console.as_fd());
        let mut fds: Vec<_> = fixed
            .into_iter()
            .chain(clients)
            .chain(deadline)
            .chain(console)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        // Nobody tells a subreaper of an adoption, so while the VM ends we look.
        let timeout = match self.status.phase {
            Phase::Running => PollTimeout::NONE,
            Phase::Ending => PollTimeout::from(REAP_PAUSE),
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        Ok((happened[0], happened[1], happened[2], happened[3..3 + self.clients.len()].to_vec()))
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if [Signal::SIGTERM, Signal::SIGINT].iter().any(|end| *end as u32 == signal.ssi_signo) {
                self.kill_vm();
            }
        }
    }

    fn serve(&mut self, spoken: &[bool]) {
        let mut clients = std::mem::take(&mut self.clients);
        let mut spoken = spoken.iter();
        clients.retain_mut(|client| {
            // A client accepted in this round was not polled yet.
            if !spoken.next().copied().unwrap_or(false) {
                return true;
            }
            client.receive() && client.take_lines().into_iter().all(|line| self.answer(client, &line))
        });
        self.clients = clients;
    }

    /// Answers one line; whether to keep the client.
    fn answer(&mut self, client: &mut Client, line: &str) -> bool {
        match line {
            "status" => client.send(&json(&self.status)),
            "kill" => {
                self.kill_vm();
                client.send("ok")
            }
            "wait" => {
                client.waits = true;
                true
            }
            other => client.send(&format!("error: {other:?} is no command")),
        }
    }

    fn kill_vm(&mut self) {
        self.status.phase = Phase::Ending;
        if self.ended.is_none() {
            // Not reaped, so the number is still its own.
            let _ = kill(Pid::from_raw(self.status.pid), Signal::SIGKILL);
        }
    }

    /// Takes note of the dead and kills who must follow them. Whether nobody is left.
    fn reap(&mut self) -> bool {
        loop {
            let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, Ended::Status(status)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Ended::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => break,
                Err(Errno::ECHILD) => return true,
                Ok(_) | Err(_) => continue,
            };
            if ended.0.as_raw() == self.status.pid {
                self.ended = Some(ended.1);
                self.status.phase = Phase::Ending;
            }
        }
        if self.status.phase == Phase::Ending {
            for orphan in process_table::children(self.status.shim) {
                let _ = kill(Pid::from_raw(orphan), Signal::SIGKILL);
            }
        }
        false
    }

    fn finish(mut self) -> Ended {
        let fenced = self.deadline.as_ref().is_some_and(Deadline::struck).then_some(Ended::Fenced);
        let ended = fenced.or(self.ended).unwrap_or(Ended::Signal(Signal::SIGKILL as i32));
        self.outlet.drain();
        if let Some(console) = &mut self.console {
            console.drain();
        }
        if let Err(error) = self.dir.record(ended) {
            self.outlet.note(&format!("cannot record the end: {error}"));
        }
        for claim in &mut self.claims {
            // A storage that hangs, which is why the VM was killed, would keep the news back; hkd does it later.
            if ended == Ended::Fenced {
                claim.keep();
            } else if let Err(error) = claim.give_up() {
                self.outlet.note(&format!("cannot give the VM up: {error}"));
            }
        }
        // In this order: whoever hears of the end may start the VM again at once.
        let _ = forget(&self.dir.socket());
        self.claims.clear();
        drop(self.own_lock);
        for client in self.clients.iter_mut().filter(|client| client.waits) {
            client.send(&json(&ended));
        }
        ended
    }
}

/// A connection to the socket. Answers are short, so one that does not take them is dropped rather than waited for.
struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    waits: bool,
}

impl Client {
    fn new(stream: UnixStream) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        Some(Self { stream, received: Vec::new(), waits: false })
    }

    /// Reads what is there; whether the client is still worth keeping.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; LINE_LIMIT];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                self.received.len() <= LINE_LIMIT
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    fn take_lines(&mut self) -> Vec<String> {
        let Some(end) = self.received.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let complete: Vec<u8> = self.received.drain(..=end).collect();
        String::from_utf8_lossy(&complete).lines().map(|line| line.trim().to_owned()).collect()
    }

    fn send(&mut self, line: &str) -> bool {
        self.stream.write_all(format!("{line}\n").as_bytes()).is_ok()
    }
}

fn read_spec(path: &Path) -> Result<ShimSpec, ShimError> {
    let read = || Ok(serde_json::from_slice(&std::fs::read(path)?)?);
    read().map_err(|source| ShimError::Spec { path: path.to_owned(), source })
}

fn enter_cgroup(cgroup: &Path) -> io::Result<()> {
    std::fs::create_dir_all(cgroup)?;
    std::fs::write(cgroup.join("cgroup.procs"), "0")
}

fn forget(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
