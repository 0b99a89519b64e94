//! Keys in the kernel beside the same tunnel in user space, in a virtual machine whose kernel takes them. It is emulated,
//! so what is measured is what emulation does not change: whether payload enters the process at all, seen from outside
//! at every system call that could bring it in, and how much is left to be done outside the kernel. Where this machine's
//! own kernel has TLS the same is done here, and then processor time says something, too.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use qvd::{
    demo::guest::{Guest, TLS},
    tunnel::Kernel,
};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    ends::{Dialler, Far},
    pairs::Rounds,
    proxy::{Kind, Proxy, Workshop, stand_aside},
    report::Report,
    tunnel::{Case, GIB, transfer},
};

/// Both, in the order in which a round begins.
const KINDS: [Kind; 2] = [Kind::Ktls, Kind::Ours];
/// Of each kind in each round: up and down.
const CASES: [Case; 2] = [Case { down: true, connections: 1 }, Case { down: false, connections: 1 }];
/// Each case moves so many bytes; both together are what `user_mode_ratio` is about.
const BYTES: u64 = 32 << 20;
/// What is echoed through the tunnel in user space, to see that whoever looks for payload would find it.
const CONTROL: u64 = 8;
/// System calls that bring bytes into a process, and the one that gives keys away.
const WATCHED: &str = "trace=read,readv,pread64,preadv,preadv2,recvfrom,recvmsg,recvmmsg,setsockopt";
/// How long the machine may last; and what it may need for each MiB that goes through a tunnel there.
const LIMIT: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(4));
/// Makes the kernel take the time whenever a process on the proxies' processor enters or leaves it. Otherwise it looks
/// every four milliseconds who is running, which does not see what is short.
const EXACT: &str = "nohz_full=1";
/// For one who was asked to end, and for one byte.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the line with the figures begins with.
const FIGURES: &str = "FIGURES ";

/// Starts the machine with this program inside, and reports what that says.
pub fn run(repetitions: usize, mib: u64) -> anyhow::Result<Report> {
    let moved = mib + CONTROL + (repetitions as u64 + 1) * 4 * (BYTES >> 20);
    let guest = Guest {
        limit: LIMIT.0 + LIMIT.1 * moved as u32,
        tools: &["setpriv", "taskset", "strace"],
        modules: TLS,
        parameters: EXACT,
    };
    let mut command = guest.command(&std::env::current_exe()?);
    command.args(["inside", "--repetitions", &repetitions.to_string(), "--mib", &mib.to_string()]);
    let began = Instant::now();
    let output = command.stderr(Stdio::inherit()).output().context("the guest cannot be started")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let figures = said.lines().find_map(|line| line.strip_prefix(FIGURES));
    let (true, Some(figures)) = (output.status.success(), figures) else {
        bail!("the guest failed ({}):\n{said}", output.status);
    };
    let mut report = Report { scenario: "tunnel --in-guest", repetitions, ..Report::default() };
    report.adopt(&serde_json::from_str(figures)?)?;
    report.figure("guest_s", began.elapsed().as_secs_f64());
    match Kernel::probe() {
        Ok(_) => {
            let here = measured(repetitions, mib)?;
            report.figure("cpu_per_gib_ratio", here.figures["emulated_cpu_per_gib_ratio"]);
        }
        Err(error) => {
            eprintln!("this machine's own kernel has no TLS ({error}), so nothing is said about processor time")
        }
    }
    Ok(report)
}

/// What is done in the machine.
pub fn inside(repetitions: usize, mib: u64) -> anyhow::Result<Report> {
    let exact = std::fs::read_to_string("/sys/devices/system/cpu/nohz_full")?;
    ensure!(exact.trim() == "1", "the guest's kernel only samples the time of processes");
    let report = measured(repetitions, mib)?;
    println!("{FIGURES}{}", report.to_json());
    Ok(report)
}

fn measured(repetitions: usize, mib: u64) -> anyhow::Result<Report> {
    stand_aside()?;
    let workshop = Workshop::open(8)?;
    let dialler = Dialler::new(true)?;
    let mut report = Report { scenario: "tunnel --in-guest", repetitions, ..Report::default() };

    let echo = echoed(&workshop, &dialler, Kind::Ktls, mib << 20)?;
    report.figure("payload_bytes_in_user", echo.entered as f64);
    report.figure("proc_io_bytes", echo.read as f64);
    report.figure("echo_mib", (echo.bytes >> 20) as f64);
    report.figure("echo_s", echo.took.as_secs_f64());
    let control = echoed(&workshop, &dialler, Kind::Ours, CONTROL << 20)?;
    report.peer("user space", "payload_bytes_in_user", control.entered as f64);
    report.peer("user space", "proc_io_bytes", control.read as f64);
    report.peer("user space", "echo_mib", (control.bytes >> 20) as f64);
    ensure!(control.entered >= 2 * control.bytes, "whoever looks for payload does not see it in user space either");

    let far = Far::open()?;
    let proxies = KINDS.into_iter().map(|kind| workshop.start(kind, far.port, true)).collect::<Result<Vec<_>, _>>()?;
    let (mut user, mut cost) = (Rounds::default(), Rounds::default());
    // The first round warms caches and is not counted.
    for round in 0..=repetitions {
        for turn in 0..proxies.len() {
            let proxy = &proxies[(round + turn) % proxies.len()];
            let before = proxy.user_cpu()?;
            let mut all = Duration::ZERO;
            for case in CASES {
                let (_, cpu) = transfer(proxy, &dialler, &far, case, BYTES)
                    .with_context(|| format!("{} through {}", case.name(), proxy.kind))?;
                all += cpu;
            }
            if round > 0 {
                let gib = (BYTES * CASES.len() as u64) as f64 / GIB;
                user.add(proxy.kind, (proxy.user_cpu()? - before).as_secs_f64() / gib);
                cost.add(proxy.kind, all.as_secs_f64() / gib);
            }
        }
    }
    ensure!(KINDS.into_iter().all(|kind| user.spread(kind)[0] > 0.0), "no time outside the kernel was counted");
    report.figure("user_mode_ratio", user.ratio_of(Kind::Ktls, Kind::Ours));
    report.figure("emulated_cpu_per_gib_ratio", cost.ratio_of(Kind::Ktls, Kind::Ours));
    report.figure("measured_mib", ((BYTES * CASES.len() as u64) >> 20) as f64);
    report.figure("user_mode_s_per_gib", user.median(Kind::Ktls));
    report.figure("cpu_s_per_gib", cost.median(Kind::Ktls));
    report.peer("user space", "user_mode_s_per_gib", user.median(Kind::Ours));
    report.peer("user space", "cpu_s_per_gib", cost.median(Kind::Ours));
    report.spread.insert("user_mode_s_per_gib".to_owned(), user.spread(Kind::Ktls).into_iter().collect());
    let theirs = user.spread(Kind::Ours).into_iter().collect();
    report.spread.insert("user space: user_mode_s_per_gib".to_owned(), theirs);
    report.spread.insert("cpu_s_per_gib".to_owned(), cost.spread(Kind::Ktls).into_iter().collect());
    Ok(report)
}

struct Echo {
    bytes: u64,
    took: Duration,
    /// Bytes that system calls brought into the process after it gave its keys away, or ever if it did not.
    entered: u64,
    /// The same by the kernel's own count, which knows `read` but not `recv`.
    read: u64,
}

/// Sends bytes through a tunnel whose far end sends them back, compares, and counts what the process got to see.
fn echoed(workshop: &Workshop, dialler: &Dialler, kind: Kind, bytes: u64) -> anyhow::Result<Echo> {
    let trace = tempfile::NamedTempFile::new()?;
    let far = echo_server()?;
    let by = ["strace", "-D", "-f", "-q", "--seccomp-bpf", "-e", WATCHED, "-o"].map(OsStr::new);
    let by = [&by[..], &[trace.path().as_os_str()]].concat();
    let proxy = workshop.start_by(&by, kind, far, true)?;
    let tls = dialler.tls().context("no TLS")?;
    let (took, read) = tokio::runtime::Handle::current().block_on(there_and_back(&proxy, tls.into(), bytes))?;
    drop(proxy);
    Ok(Echo { bytes, took, entered: entered(&finished(trace.path())?)?, read })
}

fn echo_server() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever sent it notices what does not come back.
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    Ok(port)
}

/// How long it took, and what the process read meanwhile by the kernel's count.
async fn there_and_back(proxy: &Proxy, tls: TlsConnector, bytes: u64) -> anyhow::Result<(Duration, u64)> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).await?;
    tcp.set_nodelay(true)?;
    let mut stream = tls.connect(ServerName::try_from("localhost")?, tcp).await?;
    // Once a byte is back, the tunnel stands.
    stream.write_all(b"!").await?;
    tokio::time::timeout(PATIENCE, stream.read_u8()).await.context("the tunnel does not stand")??;
    let (began, before) = (Instant::now(), proxy.bytes_read()?);
    let (mut from, mut to) = tokio::io::split(stream);
    // As long as a prime, so that a record that is lost or comes twice shows.
    let pattern: Vec<u8> = (0..1_048_573_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sending = async {
        let mut left = bytes as usize;
        while left > 0 {
            let part = &pattern[..pattern.len().min(left)];
            to.write_all(part).await?;
            left -= part.len();
        }
        to.shutdown().await?;
        anyhow::Ok(())
    };
    let hearing = async {
        let mut heard = vec![0; pattern.len()];
        let mut left = bytes as usize;
        while left > 0 {
            let part = pattern.len().min(left);
            from.read_exact(&mut heard[..part]).await.context("the echo ends early")?;
            ensure!(heard[..part] == pattern[..part], "the echo differs");
            left -= part;
        }
        ensure!(from.read(&mut heard).await? == 0, "the echo is too long");
        Ok(())
    };
    tokio::try_join!(sending, hearing)?;
    Ok((began.elapsed(), proxy.bytes_read()? - before))
}

/// The trace of a process that was killed, when it is complete.
fn finished(trace: &Path) -> anyhow::Result<String> {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(trace)?;
        if text.lines().last().is_some_and(|line| line.contains("+++ killed by ")) {
            return Ok(text);
        }
        ensure!(began.elapsed() < PATIENCE, "the trace has no end; it is {} bytes long", text.len());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Adds up what calls brought in since the last key was given away. A goodbye of TLS, which has to be read, is none of
/// the payload.
fn entered(trace: &str) -> anyhow::Result<u64> {
    let given = trace.lines().collect::<Vec<_>>();
    let since = given.iter().rposition(|line| line.contains("SOL_TLS")).map_or(0, |at| at + 1);
    let mut bytes = 0;
    for line in &given[since..] {
        let goodbye = line.contains("recvmsg") && line.contains(r#"iov_base="\1\0""#);
        if goodbye || line.contains("setsockopt") {
            continue;
        }
        let returned = line.rsplit_once(" = ").and_then(|(_, rest)| rest.split(' ').next());
        bytes += returned.and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(bytes)
}

impl Report {
    /// Takes over the figures of a report that was made elsewhere.
    fn adopt(&mut self, other: &Value) -> anyhow::Result<()> {
        self.figures = serde_json::from_value(other["figures"].clone())?;
        self.peers = serde_json::from_value(other["peers"].clone())?;
        self.spread = serde_json::from_value(other["spread"].clone())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_after_the_keys_were_given_away_counts_and_no_goodbye() {
        let trace = "\
1 recvfrom(9, \"\\26\\3\\1\"..., 517, 0, NULL, NULL) = 517
1 setsockopt(9, SOL_TLS, TLS_TX, \"\", 40) = 0
1 setsockopt(9, SOL_TLS, TLS_RX, \"\", 40) = 0
1 recvfrom(9, 0x1, 5, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
1 recvmsg(9, {msg_iov=[{iov_base=\"payload\", iov_len=16384}]}, MSG_DONTWAIT) = 7
1 recvmsg(9, {msg_iov=[{iov_base=\"\\1\\0\", iov_len=16384}]}, MSG_DONTWAIT) = 2
1 +++ killed by SIGKILL +++
";
        assert_eq!(entered(trace).unwrap(), 7);
        assert_eq!(entered(&trace.replace("SOL_TLS", "SOL_TCP")).unwrap(), 517 + 7);
    }
}
