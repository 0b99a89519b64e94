//! PID 1 of a container whose image has no agent of its own: mounts what is missing, keeps the agent running, reaps
//! whoever is left without a parent, and ends everything when it is told to. It knows nothing of the X session.
//!
//! ```text
//!  prepare ──► running ──TERM, INT, PWR──► ending: TERM to all ──nobody is left who hears it, or too late──► KILL, exit 0
//!                │ ▲
//!   agent ended  ▼ │ pause (none after a long life)
//!              pausing
//! ```

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{self, SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{command::SYSTEM_PATH, ourselves};

/// How long processes may take to end. nxagent needs about a second.
const GRACE: Duration = Duration::from_secs(2);

/// How often they are asked. nxagent forgets the first time, since it then has nobody to write to.
const ROUND: Duration = Duration::from_millis(250);

/// After a life of this length the agent is restarted at once.
const LONG_LIFE: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Runs until told to end.
pub fn run() -> io::Result<()> {
    prepare();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR, Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGPIPE] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    keep_running(&signals);
    end_all(&signals);
    Ok(())
}

/// The agent and its next start.
enum AgentLife {
    Running { pid: Pid, since: Instant, pause: Duration },
    Pausing { until: Instant, pause: Duration },
}

fn keep_running(signals: &SignalFd) {
    let mut life = AgentLife::Pausing { until: Instant::now(), pause: Duration::ZERO };
    loop {
        if let AgentLife::Pausing { until, pause } = life
            && Instant::now() >= until
        {
            life = start(pause);
        }
        let wake = match life {
            AgentLife::Running { .. } => None,
            AgentLife::Pausing { until, .. } => Some(until),
        };
        if wait_for_end(signals, wake) {
            return;
        }
        while let Reaped::Process(process) = reap() {
            if let AgentLife::Running { pid, since, pause } = life
                && pid == process
            {
                let pause = next_pause(since.elapsed(), pause);
                tracing::warn!(?pause, "the agent ended, it is restarted");
                life = AgentLife::Pausing { until: Instant::now() + pause, pause };
            }
        }
    }
}

fn start(pause: Duration) -> AgentLife {
    match Command::new(ourselves()).arg("agent").env("PATH", path()).spawn() {
        Ok(child) => AgentLife::Running { pid: Pid::from_raw(child.id().cast_signed()), since: Instant::now(), pause },
        Err(error) => {
            let pause = next_pause(Duration::ZERO, pause);
            tracing::error!(%error, ?pause, "cannot start the agent");
            AgentLife::Pausing { until: Instant::now() + pause, pause }
        }
    }
}

fn path() -> String {
    std::env::var("PATH").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| SYSTEM_PATH.to_owned())
}

/// How long to wait before the next start of an agent that lived this long, after a pause of this length.
fn next_pause(lived: Duration, last: Duration) -> Duration {
    if lived >= LONG_LIFE { Duration::ZERO } else { (last * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) }
}

/// Waits for a signal or a moment; true when the signal means the end.
fn wait_for_end(signals: &SignalFd, wake: Option<Instant>) -> bool {
    let timeout = wake.map_or(PollTimeout::NONE, |wake| {
        let rest = wake.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX)
    });
    if let Err(error) = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout)
        && error != Errno::EINTR
    {
        tracing::warn!(%error, "cannot wait for signals");
    }
    let mut end = false;
    while let Ok(Some(signal)) = signals.read_signal() {
        let number = signal.ssi_signo.cast_signed();
        end |= [Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR].iter().any(|signal| *signal as i32 == number);
    }
    end
}

enum Reaped {
    Process(Pid),
    /// Nobody has ended.
    Nobody,
    /// There are no children.
    Alone,
}

fn reap() -> Reaped {
    loop {
        return match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => Reaped::Nobody,
            Ok(status) => status.pid().map_or(Reaped::Nobody, Reaped::Process),
            Err(Errno::EINTR) => continue,
            Err(_) => Reaped::Alone,
        };
    }
}

fn end_all(signals: &SignalFd) {
    tracing::info!("ending all processes");
    let everybody = Pid::from_raw(-1);
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        // Asked again, since programs that end start others that then nobody ends. Who is stopped hears nothing.
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            let _ = signal::kill(everybody, signal);
        }
        let round = deadline.min(Instant::now() + ROUND);
        while Instant::now() < round {
            match reap() {
                Reaped::Process(_) => {}
                Reaped::Alone => return,
                Reaped::Nobody if others().iter().all(|other| other.is_deaf) => return kill_all(),
                Reaped::Nobody => drop(wait_for_end(signals, Some(round))),
            }
        }
    }
    kill_all();
}

fn kill_all() {
    let left: Vec<_> = others().into_iter().map(|other| other.name).collect();
    tracing::info!(?left, "killing who did not end");
    let _ = signal::kill(Pid::from_raw(-1), Signal::SIGKILL);
}

/// A process that is left.
struct Other {
    name: String,
    /// It ignores TERM, so that waiting for it is in vain: a shell, or a session manager that lost its display.
    is_deaf: bool,
}

fn others() -> Vec<Other> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        (pid != std::process::id()).then_some(entry.path())
    });
    processes.filter_map(|process| parse_other(&fs::read_to_string(process.join("status")).ok()?)).collect()
}

/// Reads the `status` of a process; `None` when it has ended.
fn parse_other(status: &str) -> Option<Other> {
    let field = |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()));
    if field("State")?.starts_with(['Z', 'X']) {
        return None;
    }
    let ignored = u64::from_str_radix(field("SigIgn")?, 16).ok()?;
    Some(Other { name: field("Name")?.to_owned(), is_deaf: ignored >> (Signal::SIGTERM as u32 - 1) & 1 == 1 })
}

/// Makes the root file system usable. What fails is logged: the desktop may work without it.
fn prepare() {
    const NO: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
    const SHARED: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // What else is mounted, this one tells.
    mount_unless_there(&mounts(), ("/proc", "proc", NO, ""));
    let mounts = mounts();
    for wanted in [
        ("/sys", "sysfs", NO, ""),
        ("/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755"),
        (
            "/dev/pts",
            "devpts",
            MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
            "newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        ("/dev/shm", "tmpfs", SHARED, "mode=1777"),
        ("/run", "tmpfs", SHARED, "mode=0755"),
    ] {
        mount_unless_there(&mounts, wanted);
    }
    for dir in ["/tmp", "/tmp/.X11-unix", "/tmp/.ICE-unix"] {
        if let Err(error) = make_open(Path::new(dir)) {
            tracing::warn!(dir, %error, "cannot make directory");
        }
    }
    if let Err(error) = identify_machine(Path::new("/etc/machine-id")) {
        tracing::warn!(%error, "cannot write the machine id");
    }
}

/// Mounts a file system of a kind, unless something is mounted there.
fn mount_unless_there(mountinfo: &str, (target, kind, flags, data): (&str, &str, MsFlags, &str)) {
    if mounts_at_or_below(mountinfo, target) {
        return;
    }
    let result =
        fs::create_dir_all(target).and_then(|()| Ok(mount(Some(kind), target, Some(kind), flags, Some(data))?));
    if let Err(error) = result {
        tracing::warn!(target, %error, "cannot mount");
    }
}

/// Makes a directory in which everybody may make what nobody else may remove. One that is so already is left alone: to change
/// what comes from the image, even to what it is, copies it.
fn make_open(dir: &Path) -> io::Result<()> {
    const OPEN: u32 = 0o1777;
    fs::create_dir_all(dir)?;
    match fs::metadata(dir)?.permissions().mode() & 0o7777 {
        OPEN => Ok(()),
        _ => fs::set_permissions(dir, fs::Permissions::from_mode(OPEN)),
    }
}

/// Whether something is mounted at a path or, so that it would be hidden, below it.
fn mounts_at_or_below(mountinfo: &str, path: &str) -> bool {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|point| point.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Gives the machine the identity that D-Bus wants; images are delivered with an empty file or none.
fn identify_machine(file: &Path) -> io::Result<()> {
    if fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(());
    }
    let mut random = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o444).open(file)?;
    writeln!(file, "{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_keeps_failing_is_restarted_ever_more_slowly() {
        let mut pause = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            pause = next_pause(Duration::from_millis(5), pause);
            pauses.push(pause);
        }
        assert!(pauses.is_sorted() && pauses[0] == FIRST_PAUSE && pauses[9] == LONGEST_PAUSE, "{pauses:?}");
        assert_eq!(next_pause(LONG_LIFE, LONGEST_PAUSE), Duration::ZERO);
    }

    #[test]
    fn who_ignores_term_is_not_waited_for_and_the_dead_do_not_count() {
        let status = |state, ignored| format!("Name:\ticewm\nState:\t{state}\nSigBlk:\t0\nSigIgn:\t{ignored}\n");
        assert!(parse_other(&status("S (sleeping)", "0000000080004002")).is_some_and(|other| other.is_deaf));
        assert!(parse_other(&status("S (sleeping)", "0000000080300000")).is_some_and(|other| !other.is_deaf));
        assert!(parse_other(&status("Z (zombie)", "0000000000000000")).is_none());
    }

    #[test]
    fn a_mount_is_found_at_its_point_and_where_it_would_be_hidden() {
        let mountinfo = "20 1 0:20 / / rw - overlay o rw\n21 20 0:21 / /proc rw - proc proc rw\n\
                         22 20 0:22 / /run/qvd rw - tmpfs tmpfs rw\n23 20 0:23 / /devices rw - tmpfs t rw\n";
        let mounted = ["/proc", "/run", "/dev", "/sys"].map(|path| mounts_at_or_below(mountinfo, path));
        assert_eq!(mounted, [true, true, false, false]);
    }

    #[test]
    fn a_directory_is_opened_to_everybody_and_left_alone_when_it_is() {
        use std::os::unix::fs::MetadataExt;
        let dir = std::env::temp_dir().join(format!("qvd-vma-open-{}", std::process::id()));
        let seen = || fs::metadata(&dir).map(|dir| (dir.mode() & 0o7777, dir.ctime(), dir.ctime_nsec())).unwrap();
        make_open(&dir).unwrap();
        let made = seen();
        assert_eq!(made.0, 0o1777);
        make_open(&dir).unwrap();
        assert_eq!(seen(), made, "its change would show");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        make_open(&dir).unwrap();
        assert_eq!(seen().0, 0o1777);
        fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn a_machine_keeps_its_identity() {
        let file = std::env::temp_dir().join(format!("qvd-vma-machine-id-{}", std::process::id()));
        fs::write(&file, "").unwrap();
        identify_machine(&file).unwrap();
        let id = fs::read_to_string(&file).unwrap();
        assert_eq!(id.trim().len(), 32);
        identify_machine(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), id);
        fs::remove_file(&file).unwrap();
    }
}
