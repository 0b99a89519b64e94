//! One node: its network, its configuration, its processes, and what can be done to them.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    HostsOptions, PORT,
    namespace::{INNER_BRIDGE, Namespace},
    witness,
};
use crate::{
    demo::{
        attached::{Account, Attached, attached_command},
        postgres::PORT as DATABASE_PORT,
    },
    model::config::{Config, ConfigError, NetworkMode},
};

/// How long what was killed may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

/// One node.
pub struct Node {
    name: String,
    address: IpAddr,
    database: IpAddr,
    program: PathBuf,
    directory: PathBuf,
    config: String,
    process: Mutex<Option<Attached>>,
    namespace: Namespace,
}

impl Node {
    pub(super) fn make(options: &HostsOptions, number: u8, bridge: &str) -> io::Result<Self> {
        let name = format!("{}{number}", options.name);
        let directory = options.directory.join(&name);
        fs::create_dir_all(&directory)?;
        let (address, database, prefix) = (options.address(number), options.database(), options.prefix());
        let first_vm = options.first_vm();
        let (own, all) = (directory.display(), options.directory.display());
        let mut config = format!(
            "nodename = {name}\n\
             database.host = {database}\n\
             path.run = {own}/run\n\
             path.storage.root = {all}/storage\n\
             fence.reboot = 0\n\
             fence.remount = true\n\
             path.l7r.ssl = {own}/l7r\n\
             l7r.port = {PORT}\n\
             l7r.use_ssl = 0\n\
             vm.hypervisor = lxc\n\
             vm.network.bridge = {INNER_BRIDGE}\n\
             internal.vm.network.device.prefix = {name}v\n\
             vm.network.ip.start = {first_vm}\n\
             vm.network.netmask = {prefix}\n"
        );
        if options.mode == NetworkMode::Routed {
            config.push_str("vm.network.mode = routed\n");
        }
        for (key, value) in &options.settings {
            config.push_str(&format!("{key} = {value}\n"));
        }
        fs::write(directory.join("node.conf"), &config)?;
        Ok(Self {
            namespace: match options.mode {
                NetworkMode::Flat => Namespace::joined(&name, bridge, address, prefix)?,
                NetworkMode::Routed => Namespace::routed(&name, database, address)?,
            },
            name,
            address,
            database,
            program: options.program.clone(),
            directory,
            config,
            process: Mutex::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where users connect, on [`super::PORT`].
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its configuration.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        config.add_file(&self.directory.join("node.conf").display().to_string(), &self.config)?;
        Ok(config)
    }

    /// Runs a program in its network.
    pub fn run(&self, program: &str, arguments: &[&str]) -> io::Result<std::process::Output> {
        let mut inside = std::process::Command::new("nsenter");
        inside.arg(format!("--net={}", self.namespace.path().display())).arg(program).args(arguments).output()
    }

    /// What its processes said.
    pub fn said(&self) -> String {
        fs::read_to_string(self.directory.join("node.log")).unwrap_or_default()
    }

    /// Its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts its processes; after [`Node::power_off`] as a machine that was switched on again.
    pub fn start(&self) -> io::Result<()> {
        self.namespace.plug(true)?;
        let account = Account::own()?;
        let log = fs::File::options().create(true).append(true).open(self.directory.join("node.log"))?;
        let mut command = attached_command("nsenter", &account, Signal::SIGKILL);
        command.arg(format!("--net={}", self.namespace.path().display())).arg(&self.program);
        command.arg("node").arg("--config").arg(self.directory.join("node.conf"));
        command.env("QVD_LOG", std::env::var("QVD_NODE_LOG").unwrap_or_else(|_| "info".to_owned()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *self.process() = Some(Attached::start(command, Signal::SIGKILL)?);
        Ok(())
    }

    /// As when its machine loses power: its cable is dead, and everything that lived on it.
    pub fn power_off(&self) -> io::Result<()> {
        self.namespace.plug(false)?;
        self.kill_all();
        Ok(())
    }

    /// Kills all its processes but those in containers, which are not asked whether they die with their shims.
    pub fn kill_all(&self) {
        let begin = Instant::now();
        loop {
            let processes = self.namespace.processes();
            if processes.is_empty() || begin.elapsed() > DEATH {
                break;
            }
            signal_all(&processes, Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(self.process().take());
    }

    /// Stops all its processes and those in its containers, as when its machine freezes; or lets them go on.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        signal_all(&self.namespace.processes(), signal);
        signal_all(&witness::container_processes(&self.name), signal);
    }

    /// Sends a signal to one of its daemons: `node`, `hkd`, `l7r` or `keeper`. Whether there was one.
    pub fn signal(&self, daemon: &str, signal: Signal) -> bool {
        let found = self.daemons(daemon);
        signal_all(&found, signal);
        !found.is_empty()
    }

    /// The processes of one of its daemons.
    pub fn daemons(&self, daemon: &str) -> Vec<i32> {
        let is = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(daemon.as_bytes())
        };
        self.namespace.processes().into_iter().filter(is).collect()
    }

    /// Pulls its cable, or puts it back.
    pub fn plug(&self, plugged: bool) -> io::Result<()> {
        self.namespace.plug(plugged)
    }

    /// Cuts it off from the database, and from nothing else; or joins it again.
    pub fn cut_off(&self, cut: bool) -> io::Result<()> {
        self.namespace.block(self.database, DATABASE_PORT, cut)
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Attached>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal_all(processes: &[i32], signal: Signal) {
    for pid in processes {
        // Who is gone need not be told.
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}
