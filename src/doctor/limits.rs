//! How much the machine lets a node have. The limits of processes are those of who asks, which a service manager may set
//! otherwise.

use nix::sys::resource::{Resource, getrlimit};

use crate::tunnel::udp;

use super::{
    finding::{Finding, Grade, Subject, sysctl},
    kernel::text,
};

/// A tunnel takes two files, and two more while much is on its way.
const FILES: u64 = 65_536;
const FEW_FILES: u64 = 1_024;
/// What the router wants of a pipe, and of all of an account's in pages of 4 KiB.
const PIPE: u64 = 1024 * 1024;
const PIPE_PAGES: u64 = 16_384;
/// A desktop has a hundred processes and threads, and more with a browser.
const TASKS: u64 = 65_536;
/// Each desktop has some, and accounts of the same number share them whatever the VM.
const WATCHERS: u64 = 1_024;
const UDP_BUFFER: u64 = 8 * 1024 * 1024;

const OPEN_FILES: Subject =
    Subject { name: "open files", why: "The router has two to four for each user who is connected." };
const PIPES: Subject =
    Subject { name: "pipes", why: "Sessions pass through pipes inside the kernel; small ones cost processor time." };
const UDP: Subject = Subject {
    name: "UDP buffers",
    why: "All clients of QUIC share one socket; without room packets are lost in bursts.",
};
const PROCESSES: Subject =
    Subject { name: "processes", why: "All VMs of a node share its numbers of processes and threads." };
const INOTIFY: Subject = Subject {
    name: "inotify",
    why: "Desktops watch files; users of the same number share one allowance across all VMs of a node.",
};
const ROUTER_ACCOUNT: Subject = Subject {
    name: "router's account",
    why: "The router becomes it once its ports are bound, and does not start without.",
};

/// What there may be.
#[derive(Clone, Debug)]
pub struct Facts {
    pub open_files: u64,
    pub pipe_size: Option<u64>,
    /// Of an account that is not root's; 0 for any number.
    pub pipe_pages: Option<u64>,
    /// What a socket of a router gets.
    pub udp: Result<udp::Facilities, String>,
    pub pids: Option<u64>,
    pub threads: Option<u64>,
    pub watchers: Option<u64>,
    /// `l7r.as_user`, and whether it exists.
    pub router_account: (String, bool),
}

/// Looks at the limits.
pub fn look(router_account: String) -> Facts {
    let number = |name: &str| text(&format!("/proc/sys/{name}")).and_then(|text| text.parse().ok());
    let socket = udp::bind(([127, 0, 0, 1], 0).into()).and_then(udp::adopt);
    let exists = matches!(nix::unistd::User::from_name(&router_account), Ok(Some(_)));
    Facts {
        open_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard),
        pipe_size: number("fs/pipe-max-size"),
        pipe_pages: number("fs/pipe-user-pages-soft"),
        udp: socket.map(|(_, facilities)| facilities).map_err(|error| error.to_string()),
        pids: number("kernel/pid_max"),
        threads: number("kernel/threads-max"),
        watchers: number("fs/inotify/max_user_instances"),
        router_account: (router_account, exists),
    }
}

/// Judges them.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let files = match facts.open_files {
        few if few < FEW_FILES => Grade::Bad,
        some if some < FILES => Grade::Tolerable,
        _ => Grade::Good,
    };
    let mut findings = vec![OPEN_FILES.graded(
        files,
        format!("up to {} for a process", facts.open_files),
        format!("ulimit -Hn {}  # or LimitNOFILE= of the service", FILES * 8),
    )];
    findings.push(pipes(facts.pipe_size, facts.pipe_pages));
    findings.push(match &facts.udp {
        Ok(udp) => UDP.graded(
            if udp.poor() { Grade::Tolerable } else { Grade::Good },
            format!("{} KiB in, {} KiB out", udp.receive_buffer / 1024, udp.send_buffer / 1024),
            sysctl("net.core.rmem_max", UDP_BUFFER),
        ),
        Err(why) => UDP.tolerable(format!("no socket: {why}"), "qvd config list l7r.quic"),
    });
    let (pids, threads) = (facts.pids.unwrap_or(u64::MAX), facts.threads.unwrap_or(u64::MAX));
    let (least, parameter) = if pids <= threads { (pids, "kernel.pid_max") } else { (threads, "kernel.threads-max") };
    findings.push(PROCESSES.graded(
        if least < TASKS { Grade::Tolerable } else { Grade::Good },
        format!("up to {least}"),
        sysctl(parameter, TASKS * 16),
    ));
    if let Some(watchers) = facts.watchers {
        findings.push(INOTIFY.graded(
            if watchers < WATCHERS { Grade::Tolerable } else { Grade::Good },
            format!("{watchers} watchers for a user"),
            sysctl("fs.inotify.max_user_instances", WATCHERS * 8),
        ));
    }
    findings.push(match &facts.router_account {
        (name, true) => ROUTER_ACCOUNT.good(name),
        (name, false) => {
            ROUTER_ACCOUNT.bad(format!("there is no {name}"), format!("useradd --system --no-create-home {name}"))
        }
    });
    findings
}

fn pipes(size: Option<u64>, pages: Option<u64>) -> Finding {
    let (size, pages) = (size.unwrap_or(PIPE), pages.unwrap_or(PIPE_PAGES));
    let short = match (size, pages) {
        (size, _) if size < PIPE => Some(sysctl("fs.pipe-max-size", PIPE)),
        (_, 1..PIPE_PAGES) => Some(sysctl("fs.pipe-user-pages-soft", PIPE_PAGES)),
        _ => None,
    };
    let altogether = if pages == 0 { "without end".to_owned() } else { format!("{} MiB", pages / 256) };
    let found = format!("{} KiB each, {altogether} for an account", size / 1024);
    match short {
        Some(mend) => PIPES.tolerable(found, mend),
        None => PIPES.good(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plenty() -> Facts {
        Facts {
            open_files: 1 << 20,
            pipe_size: Some(PIPE),
            pipe_pages: Some(PIPE_PAGES),
            udp: Ok(udp::Facilities {
                receive_buffer: UDP_BUFFER as usize,
                send_buffer: UDP_BUFFER as usize,
                send_batch: 64,
                receive_batch: 64,
            }),
            pids: Some(1 << 22),
            threads: Some(1 << 20),
            watchers: Some(8192),
            router_account: ("nobody".to_owned(), true),
        }
    }

    fn grades(change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Grade)> {
        let mut facts = plenty();
        change(&mut facts);
        judge(&facts)
            .into_iter()
            .filter(|finding| finding.grade != Grade::Good)
            .map(|finding| (finding.name, finding.grade))
            .collect()
    }

    #[test]
    fn what_is_short_is_said_and_nothing_else() {
        use Grade::{Bad, Tolerable};
        assert_eq!(grades(|_| {}), []);
        assert_eq!(grades(|facts| facts.open_files = 4096), [("open files", Tolerable)]);
        assert_eq!(grades(|facts| facts.open_files = 256), [("open files", Bad)]);
        assert_eq!(grades(|facts| facts.pipe_pages = Some(1024)), [("pipes", Tolerable)]);
        assert_eq!(grades(|facts| facts.pipe_size = Some(65536)), [("pipes", Tolerable)]);
        assert_eq!(grades(|facts| facts.pipe_pages = Some(0)), [], "any number");
        let small = |facts: &mut Facts| facts.udp.as_mut().unwrap().receive_buffer = 106_496;
        assert_eq!(grades(small), [("UDP buffers", Tolerable)]);
        assert_eq!(grades(|facts| facts.threads = Some(30_000)), [("processes", Tolerable)]);
        assert_eq!(grades(|facts| facts.watchers = Some(128)), [("inotify", Tolerable)]);
        assert_eq!(grades(|facts| facts.router_account.1 = false), [("router's account", Bad)]);
    }

    #[test]
    fn the_parameter_that_is_short_is_the_one_to_be_raised() {
        assert_eq!(
            pipes(Some(4096), None).mend.unwrap(),
            "sysctl -w fs.pipe-max-size=1048576 >> /etc/sysctl.d/qvd.conf"
        );
        let facts = Facts { pids: Some(1 << 22), threads: Some(30_000), ..plenty() };
        let findings = judge(&facts);
        let processes = findings.iter().find(|finding| finding.name == "processes").unwrap();
        assert!(processes.mend.as_ref().unwrap().contains("kernel.threads-max="), "{processes:?}");
    }
}
