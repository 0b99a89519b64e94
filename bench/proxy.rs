//! The proxies that are measured beside each other: ours and those that people would put in its place, from their
//! Debian packages, with the same certificate and cipher and all on one processor. They end with the value that stands
//! for them, or with this program.

use std::{
    ffi::OsStr,
    fmt, fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};
use qvd::demo::site::free_port;
use tempfile::TempDir;

/// The processor of all proxies; everything else that is measured runs on the others. In a guest it is the one whose time
/// is not sampled, which cannot be the first.
fn processor() -> usize {
    usize::from(std::env::var_os("QVD_GUEST").is_some())
}

const PATIENCE: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ours,
    /// The same with keys in the kernel.
    Ktls,
    /// Copies in this project's language and runtime.
    Copy,
    HaProxy,
    Nginx,
    Stunnel,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Ktls => "ktls",
            Self::Copy => "copy",
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Stunnel => "stunnel",
        })
    }
}

/// Certificate and key for every proxy, and their configurations.
pub struct Workshop {
    directory: TempDir,
    connections: usize,
}

impl Workshop {
    /// For proxies that will have so many connections at once, or as many as the limit of this machine lets them have.
    pub fn open(connections: usize) -> anyhow::Result<Self> {
        let connections = raise_descriptor_limit(connections + 100)?;
        let directory = tempfile::Builder::new().prefix("qvdproxy").tempdir()?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = made.signing_key.serialize_pem();
        fs::write(directory.path().join("both.pem"), format!("{}{key}", made.cert.pem()))?;
        Ok(Self { directory, connections })
    }

    /// For how many tunnels at once its proxies are made.
    pub fn sessions(&self) -> usize {
        self.connections - 100
    }

    fn pem(&self) -> PathBuf {
        self.directory.path().join("both.pem")
    }

    /// Starts a proxy in front of a port.
    pub fn start(&self, kind: Kind, far: u16, tls: bool) -> anyhow::Result<Proxy> {
        self.start_by(&[], kind, far, tls)
    }

    /// Starts one for TLS by means of another program, which becomes it.
    pub fn start_by(&self, by: &[&OsStr], kind: Kind, far: u16, tls: bool) -> anyhow::Result<Proxy> {
        let near = free_port()?;
        let directory = self.directory.path();
        let file = directory.join(format!("{kind}-{near}.conf"));
        let pem = self.pem();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &processor().to_string()]);
        command.args(by);
        match kind {
            Kind::Ours | Kind::Ktls | Kind::Copy => {
                command.arg(std::env::current_exe()?).arg("relay");
                command.args(["--listen", &near.to_string(), "--connect", &far.to_string()]);
                if tls {
                    command.arg("--pem").arg(&pem);
                }
                match kind {
                    Kind::Copy => drop(command.arg("--copy")),
                    Kind::Ktls => drop(command.arg("--ktls")),
                    _ => {}
                }
            }
            Kind::HaProxy => {
                fs::write(&file, haproxy(near, far, tls.then_some(pem.as_path()), self.connections))?;
                command.args(["/usr/sbin/haproxy", "-db", "-f"]).arg(&file);
            }
            Kind::Nginx => {
                fs::write(&file, nginx(near, far, tls.then_some(pem.as_path()), self))?;
                command.args(["/usr/sbin/nginx", "-e", "stderr", "-p"]).arg(directory).arg("-c").arg(&file);
            }
            Kind::Stunnel => {
                fs::write(&file, stunnel(near, far, &pem))?;
                command.arg("/usr/bin/stunnel4").arg(&file);
            }
        }
        let log = directory.join(format!("{kind}-{near}.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let child = command.spawn().with_context(|| format!("{kind} cannot be run"))?;
        let mut proxy = Proxy { kind, port: near, child };
        proxy.wait(&log)?;
        Ok(proxy)
    }
}

fn haproxy(near: u16, far: u16, pem: Option<&Path>, connections: usize) -> String {
    let bind = pem.map_or(String::new(), |pem| {
        format!(" ssl crt {} ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256", pem.display())
    });
    // With `splice-auto` it would copy most of what is measured here.
    let splice = if pem.is_none() { "option splice-request\n option splice-response" } else { "" };
    format!(
        "global\n nbthread 1\n maxconn {connections}\n\
         defaults\n mode tcp\n maxconn {connections}\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n {splice}\n\
         listen tunnel\n bind 127.0.0.1:{near}{bind} backlog 1024\n server far 127.0.0.1:{far}\n"
    )
}

fn nginx(near: u16, far: u16, pem: Option<&Path>, workshop: &Workshop) -> String {
    let (listen, tls) = pem.map_or((String::new(), String::new()), |pem| {
        let pem = pem.display();
        let tls = format!(
            "ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.3;
             ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;"
        );
        (" ssl".to_owned(), tls)
    });
    format!(
        "daemon off; master_process off; pid {directory}/nginx-{near}.pid; error_log stderr error;
         load_module /usr/lib/nginx/modules/ngx_stream_module.so;
         events {{ worker_connections {}; }}
         stream {{ server {{
             listen 127.0.0.1:{near}{listen} backlog=1024; {tls}
             proxy_pass 127.0.0.1:{far}; proxy_timeout 1h;
         }} }}",
        workshop.connections * 2 + 100,
        directory = workshop.directory.path().display(),
    )
}

fn stunnel(near: u16, far: u16, pem: &Path) -> String {
    format!(
        "foreground = yes\npid =\ndebug = 3\nsyslog = no\nTIMEOUTclose = 0\n\
         socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
         [tunnel]\naccept = 127.0.0.1:{near}\nconnect = 127.0.0.1:{far}\ncert = {}\n\
         sslVersionMin = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\n",
        pem.display()
    )
}

/// A running proxy.
pub struct Proxy {
    pub kind: Kind,
    /// Where it listens.
    pub port: u16,
    child: Child,
}

impl Proxy {
    fn wait(&mut self, log: &Path) -> anyhow::Result<()> {
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                bail!("{} does not run: {}", self.kind, fs::read_to_string(log).unwrap_or_default().trim());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Processor time of all its threads so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let clock = nix::time::clock_getcpuclockid(Pid::from_raw(self.child.id() as i32))?;
        Ok(nix::time::clock_gettime(clock)?.into())
    }

    /// What part of that it spent outside the kernel. Unless the kernel takes the time whenever a process enters or leaves
    /// it (`nohz_full`), this is an estimate from samples, and one that never takes back what was too much.
    pub fn user_cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the program is in parentheses and may contain whatever it likes.
        let ticks: u64 =
            stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(11)).context("no time")?.parse()?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// Bytes that it has read by `read` and its like, as the kernel counts them.
    pub fn bytes_read(&self) -> anyhow::Result<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        Ok(io.lines().find_map(|line| line.strip_prefix("rchar: ")).context("no count")?.parse()?)
    }

    /// Its resident memory in KiB.
    pub fn rss_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no resident memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gives this process, and the proxies that inherit it, descriptors for so many tunnels, and says for how many there are
/// if this machine does not allow that many. A proxy needs two for each; stunnel keeps a few more to itself.
fn raise_descriptor_limit(connections: usize) -> anyhow::Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = connections as u64 * 25 / 12 + 1024;
    let raised = hard.max(wanted);
    if setrlimit(Resource::RLIMIT_NOFILE, raised, raised).is_ok() {
        return Ok(connections);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(connections.min(hard as usize * 12 / 25 - 100))
}

/// Keeps this thread and those that it starts away from the proxies' processor, where there is another.
pub fn stand_aside() -> anyhow::Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    let mut others = nix::sched::CpuSet::new();
    (0..processors).filter(|other| *other != processor()).try_for_each(|other| others.set(other))?;
    if processors > 1 {
        nix::sched::sched_setaffinity(Pid::from_raw(0), &others)?;
    }
    Ok(())
}
