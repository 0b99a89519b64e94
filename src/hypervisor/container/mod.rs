//! VMs that are LXC containers: an image under a writable layer, our agent as first process, a port of the bridge.
//!
//! Everything about a container can be found again by its name and its directory below `path.run`, so nothing is kept
//! in memory. `lxc-start -F` runs under a shim; killing it kills the container, because LXC ties the container's
//! first process to it.

mod cgroup;
mod claims;
mod guest;
mod lxc;
mod mounts;

use std::{
    env, fs, io,
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{Epochs, Exit, Found, Hypervisor, HypervisorError};
use crate::{
    keeper::{
        Ended, ShimDir, ShimSpec,
        client::{self, ShimClientError},
        fence::{Fence, FenceSpec},
        process_table,
    },
    model::{
        Owner, VmId, VmSpec,
        config::{Config, keys},
    },
    network::{Network, NetworkError},
    storage::{ImageName, Storage, StorageError, StorageLock},
};
use cgroup::{Cgroups, Memory};
use claims::Claims;
use lxc::ContainerConfig;

/// How long LXC may take until the first process of a container runs. It needs some 15 ms.
const SETUP_LIMIT: Duration = Duration::from_secs(30);

/// How long the storage may take to note that a VM is nobody's.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(3);

/// How often it is looked whether the first process runs; nobody tells.
const SETUP_PAUSE: Duration = Duration::from_millis(1);

/// Containers of one node.
#[derive(Clone, Debug)]
pub struct Container {
    node: String,
    run: PathBuf,
    bin: PathBuf,
    storage: Storage,
    network: Network,
    keep_overlays: bool,
    name_servers: Vec<String>,
    agent_options: String,
    cgroups: Cgroups,
    memory: Memory,
    /// `None`: the storage is this node's own, and nobody takes its VMs over.
    fence: Option<FenceSpec>,
    claims: Option<Claims>,
}

impl Container {
    /// Containers as the configuration describes them, for the node `node` with address `host`.
    pub fn new(config: &Config, node: &str, host: Ipv4Addr) -> Result<Self, HypervisorError> {
        let bin = match config.get(&keys::PATH_QVD_BIN) {
            beside if beside.is_empty() => env::current_exe()
                .map_err(|source| failed("cannot find the running program's own directory", None, Some(source)))?
                .parent()
                .map(Path::to_owned)
                .unwrap_or_default(),
            bin => bin.into(),
        };
        let cgroups = Cgroups::of_this_machine();
        Ok(Self {
            // No hyphen: it parts the node from the VM.
            node: node.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect(),
            run: config.get(&keys::PATH_RUN).join("vm"),
            bin,
            storage: Storage::new(config),
            network: Network::new(config, host)?,
            keep_overlays: config.get(&keys::VM_OVERLAY_PERSISTENT),
            name_servers: guest::name_servers(config),
            agent_options: guest::agent_options(config),
            memory: cgroups.memory(),
            cgroups,
            fence: fence(config)?,
            claims: None,
        })
    }

    /// The same in the name of `owner`: what it uses of the storage says so to other nodes, and what theirs say is minded.
    pub fn in_the_name_of(self, owner: Owner, epochs: Arc<dyn Epochs>) -> Self {
        Self { claims: Some(Claims { owner, epochs }), ..self }
    }

    async fn start_on(&self, spec: &VmSpec) -> Result<(), HypervisorError> {
        let lxc_start = program("lxc-start")?;
        let keeper = self.own_program("qvd-keeper")?;
        let agent = self.own_program("qvd-vma")?;
        let image = ImageName::parse(&spec.di_path)?;
        self.free(spec.vm).await?;
        let lower = self.storage.unpacked(&image).await?;

        let begun = self.begin(spec, lower, agent, &lxc_start, &keeper).await;
        if begun.is_err()
            && let Err(error) = self.free(spec.vm).await
        {
            warn!(vm = %spec.vm, %error, "a container that failed to start left something behind");
        }
        begun
    }

    async fn begin(
        &self,
        spec: &VmSpec,
        lower: PathBuf,
        agent: PathBuf,
        lxc_start: &Path,
        keeper: &Path,
    ) -> Result<(), HypervisorError> {
        let vm = spec.vm;
        let dir = self.dir(vm);
        let home_lock = spec.has_home().then(|| self.storage.home_lock(vm));
        let locks: Vec<PathBuf> = home_lock.into_iter().chain([self.storage.overlay_lock(vm)]).collect();
        // Held here while home and layer are made ready, then by the shim. Who comes between finds the shim's lock.
        let paths = locks.clone();
        let take = move || paths.iter().map(|path| StorageLock::take(path)).collect::<Result<Vec<_>, _>>();
        let held = blocking(take).await?;
        if let Some(claims) = &self.claims {
            for lock in &held {
                claims.settle(vm, lock).await?;
            }
        }
        let (upper, home, held) = self.furnish(spec, &lower, held).await?;
        let config = ContainerConfig {
            name: self.name(vm),
            host_name: lxc::host_name(&spec.name),
            lower,
            upper,
            guest: dir.join("guest"),
            agent,
            home,
            plug: self.network.plan(vm, spec.address)?,
            memory_mb: spec.memory_mb,
            memory: self.memory,
        };
        config.check()?;
        let path = dir.join("config");
        fs::write(&path, config.render())
            .map_err(|e| failed(format!("cannot write {}", path.display()), None, Some(e)))?;

        let text = |path: &Path| path.display().to_string();
        let argv = [
            text(lxc_start),
            "-F".to_owned(),
            "-P".to_owned(),
            text(&self.run),
            "-n".to_owned(),
            config.name.clone(),
            "-f".to_owned(),
            text(&path),
            "-o".to_owned(),
            text(&dir.join("lxc.log")),
            "-l".to_owned(),
            "ERROR".to_owned(),
        ];
        let shim = ShimSpec {
            argv: argv.to_vec(),
            output: dir.join("output.log"),
            locks,
            owner: self.claims.as_ref().map(|claims| claims.owner.clone()),
            cgroups: self.cgroups.for_shim(&config.name),
            fence: self.fence.clone(),
        };
        drop(held);
        client::start(keeper, &self.shim(vm), &shim).await.map_err(|error| not_started(vm, error))?;
        self.first_process(vm).await?;
        Ok(self.network.plug(&config.plug).await?)
    }

    /// Makes the container's directory, its layer and its home. When the start is given up meanwhile, the locks are held
    /// until that has ended all the same.
    async fn furnish(
        &self,
        spec: &VmSpec,
        lower: &Path,
        held: Vec<StorageLock>,
    ) -> Result<(PathBuf, Option<PathBuf>, Vec<StorageLock>), HypervisorError> {
        let (this, spec, lower) = (self.clone(), spec.clone(), lower.to_owned());
        let furnish = move || {
            let dir = this.dir(spec.vm);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .and_then(|()| fs::write(dir.join("address"), spec.address.to_string()))
                .and_then(|()| guest::write_directory(&dir.join("guest"), spec.secret.as_ref(), &this.agent_options))
                .map_err(|e| failed(format!("cannot fill the directory {}", dir.display()), None, Some(e)))?;
            let overlay = this.storage.overlay(spec.vm, spec.di, this.keep_overlays)?;
            guest::personalise(&overlay, &lower, &lxc::host_name(&spec.name), &this.name_servers)?;
            let home = spec.has_home().then(|| this.storage.home(spec.vm)).transpose()?;
            Ok((overlay.upper(), home, held))
        };
        blocking(furnish).await
    }

    /// Waits until the container's first process runs, which is when LXC has done its part.
    async fn first_process(&self, vm: VmId) -> Result<(), HypervisorError> {
        let shim = self.shim(vm);
        let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let begin = Instant::now();
        let monitor = client::status(&shim).await.map_err(|error| not_started(vm, error))?;
        while let Some(monitor) = monitor.as_ref().filter(|_| shim.ended().is_none()) {
            let lxc = program(monitor.pid);
            // Until LXC has set it up, the child runs LXC's own program.
            let runs = |child: i32| program(child).is_some_and(|program| Some(program) != lxc);
            if lxc.is_some() && process_table::children(monitor.pid).into_iter().any(runs) {
                debug!(vm = %vm, milliseconds = begin.elapsed().as_millis() as u64, "the first process runs");
                return Ok(());
            }
            if begin.elapsed() > SETUP_LIMIT {
                return Err(failed(format!("LXC does not get VM {vm} started"), None, None));
            }
            sleep(SETUP_PAUSE).await;
        }
        Err(self.died_at_once(vm))
    }

    fn died_at_once(&self, vm: VmId) -> HypervisorError {
        let read = |file: &str| fs::read_to_string(self.dir(vm).join(file)).unwrap_or_default();
        let (log, output) = (read("lxc.log"), read("output.log"));
        warn!(vm = %vm, log, output, "a container ended while it was being started");
        let said =
            |output: &str| output.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned());
        match lxc::first_error(&log).or_else(|| said(&output)) {
            Some(reason) => {
                failed(format!("the container of VM {vm} ended while it was being started: {reason}"), None, None)
            }
            None => failed(
                format!("the container of VM {vm} ended at once without saying why"),
                Some("check the disk image"),
                None,
            ),
        }
    }

    /// Removes every trace of a container from the node. Its home and layer stay.
    async fn free(&self, vm: VmId) -> Result<(), HypervisorError> {
        let (name, dir) = (self.name(vm), self.dir(vm));
        self.end(vm).await?;
        self.give_up(vm).await;
        self.network.unplug(vm, self.address(vm)).await?;
        let in_groups = |source| failed(format!("cannot remove the control groups of VM {vm}"), None, Some(source));
        self.cgroups.remove(&name).await.map_err(in_groups)?;
        let in_dir = |source| failed(format!("cannot remove {}", dir.display()), None, Some(source));
        mounts::unmount_below(&dir).map_err(in_dir)?;
        // Made by LXC beside its run directory, whatever the path of the container.
        let _ = fs::remove_file(lxc_lock(&self.run, &name));
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(in_dir(error)),
            _ => Ok(()),
        }
    }

    /// Lets other nodes have a VM whose shim died, or had no time, before it could say that they may. A storage that does
    /// not answer holds nothing up: the record is ours, so the VM starts here again, and elsewhere when our epoch is over.
    async fn give_up(&self, vm: VmId) {
        let shim = self.shim(vm);
        let said = shim.ended().is_some_and(|ended| ended != Ended::Fenced);
        let Some(claims) = self.claims.clone().filter(|_| shim.spec().exists() && !said) else { return };
        let locks = [self.storage.home_lock(vm), self.storage.overlay_lock(vm)];
        let forget = tokio::task::spawn_blocking(move || claims.forget(&locks));
        match tokio::time::timeout(GIVE_UP_LIMIT, forget).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => warn!(vm = %vm, %error, "other nodes may take this VM for ours"),
            Ok(Err(_)) | Err(_) => {
                warn!(vm = %vm, "the storage does not answer; other nodes may take this VM for ours")
            }
        }
    }

    /// Kills whatever lives of a container and waits until it is dead.
    async fn end(&self, vm: VmId) -> Result<(), HypervisorError> {
        let shim = self.shim(vm);
        if client::kill(&shim).await.map_err(|error| not_started(vm, error))? {
            client::wait(&shim).await;
        }
        let name = self.name(vm);
        let in_groups = |source| failed(format!("cannot kill the processes of VM {vm}"), None, Some(source));
        self.cgroups.kill(&name).await.map_err(in_groups)
    }

    async fn find_all(&self) -> Result<Vec<Found>, HypervisorError> {
        let mut vms = self.network.plugged().await?;
        let prefix = self.name_prefix();
        let of_group = |name: &String| name[prefix.len()..].split('-').next().and_then(|vm| vm.parse().ok()).map(VmId);
        vms.extend(self.cgroups.names(&prefix).iter().filter_map(of_group));
        match fs::read_dir(&self.run) {
            Ok(entries) => {
                let of_dir = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().map(VmId);
                vms.extend(entries.flatten().filter_map(of_dir));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(format!("cannot read {}", self.run.display()), None, Some(error))),
        }
        vms.sort_unstable();
        vms.dedup();
        let mut found = Vec::with_capacity(vms.len());
        for vm in vms {
            let status = client::status(&self.shim(vm)).await.map_err(|error| not_started(vm, error))?;
            let alive = status.is_some_and(|status| status.is_current());
            if alive && let Some(address) = self.address(vm) {
                // A daemon that died between start and plug left a VM without a network.
                match self.network.plan(vm, address) {
                    Ok(plug) => self.network.plug(&plug).await,
                    Err(error) => Err(error),
                }
                .unwrap_or_else(|error| warn!(vm = %vm, %error, "a VM that runs cannot be plugged into the bridge"));
            }
            found.push(Found { vm, alive });
        }
        Ok(found)
    }

    fn name_prefix(&self) -> String {
        format!("qvd-{}-", self.node)
    }

    fn name(&self, vm: VmId) -> String {
        format!("{}{vm}", self.name_prefix())
    }

    fn dir(&self, vm: VmId) -> PathBuf {
        self.run.join(vm.to_string())
    }

    /// The address that a VM was started with.
    fn address(&self, vm: VmId) -> Option<Ipv4Addr> {
        fs::read_to_string(self.dir(vm).join("address")).ok()?.trim().parse().ok()
    }

    fn shim(&self, vm: VmId) -> ShimDir {
        ShimDir::new(self.dir(vm))
    }

    fn own_program(&self, name: &str) -> Result<PathBuf, HypervisorError> {
        let path = self.bin.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(failed(format!("{} does not exist", path.display()), Some("install it there or set path.qvd.bin"), None))
    }
}

impl Hypervisor for Container {
    fn prepare_node(&self) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async {
            program("lxc-start")?;
            self.storage.prepare()?;
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.run);
            made.map_err(|error| failed(format!("cannot make {}", self.run.display()), None, Some(error)))?;
            Ok(self.network.prepare().await?)
        })
    }

    fn release_node(&self) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async { Ok(self.network.remove().await?) })
    }

    fn prepare<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async { Ok(self.storage.unpacked(&ImageName::parse(&spec.di_path)?).await.map(drop)?) })
    }

    fn start<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(self.start_on(spec))
    }

    fn exited(&self, vm: VmId) -> BoxFuture<'static, Exit> {
        let (shim, cgroups, name) = (self.shim(vm), self.cgroups.clone(), self.name(vm));
        Box::pin(async move {
            match client::wait(&shim).await {
                Some(Ended::Status(status)) => Exit::Status(status),
                Some(Ended::Signal(signal)) => Exit::Signal(signal),
                Some(Ended::Fenced) => Exit::Fenced,
                None => {
                    // A shim that died took its VM with it; the kernel may need a moment, so it is made sure.
                    while let Err(error) = cgroups.kill(&name).await {
                        warn!(vm = %vm, %error, "what a dead shim left does not die");
                    }
                    Exit::Unseen
                }
            }
        })
    }

    fn kill(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async move {
            if client::kill(&self.shim(vm)).await.map_err(|error| not_started(vm, error))? {
                Ok(())
            } else {
                self.end(vm).await
            }
        })
    }

    fn clean(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(self.free(vm))
    }

    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, HypervisorError>> {
        Box::pin(self.find_all())
    }

    fn has_agent(&self) -> bool {
        true
    }
}

impl ContainerConfig {
    /// LXC parts paths at colons and blanks and has no way to quote them.
    fn check(&self) -> Result<(), HypervisorError> {
        let paths = [&self.lower, &self.upper, &self.guest, &self.agent].into_iter().chain(&self.home);
        let refused =
            |path: &&PathBuf| path.to_str().is_none_or(|path| path.contains([':', ',', '\\', ' ', '\t', '\n']));
        match paths.into_iter().find(refused) {
            Some(path) => Err(failed(
                format!("LXC cannot use the path {}", path.display()),
                Some("choose directories without blanks, colons, commas and backslashes"),
                None,
            )),
            None => Ok(()),
        }
    }
}

/// Storage may be slow, so not on the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// By when VMs must be dead. They get half of the margin to die; the rest is for a machine that must be restarted.
fn fence(config: &Config) -> Result<Option<FenceSpec>, HypervisorError> {
    if config.get(&keys::STORAGE_LOCAL) {
        return Ok(None);
    }
    let file = Fence::path(&config.get(&keys::PATH_RUN))
        .map_err(|source| failed("cannot tell this boot of the machine from others", None, Some(source)))?;
    let half = config.get(&keys::FENCE_MARGIN) / 2;
    Ok(Some(FenceSpec {
        file,
        sysrq: config.get(&keys::FENCE_REBOOT).then(|| PathBuf::from("/proc/sysrq-trigger")),
        dead_within_ms: u64::try_from(half.as_millis()).unwrap_or(u64::MAX),
    }))
}

/// Where LXC locks a container.
fn lxc_lock(lxc_path: &Path, name: &str) -> PathBuf {
    let below = lxc_path.strip_prefix("/").unwrap_or(lxc_path);
    Path::new("/run/lxc/lock").join(below).join(format!(".{name}"))
}

fn program(name: &str) -> Result<PathBuf, HypervisorError> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| failed(format!("{name} is not installed"), Some("install the package lxc"), None))
}

fn not_started(vm: VmId, error: ShimClientError) -> HypervisorError {
    match error {
        ShimClientError::Start { source, .. } if !source.stderr().is_empty() => {
            failed(format!("VM {vm} cannot be started: {}", source.stderr()), None, None)
        }
        error => failed(format!("VM {vm}: {error}"), None, cause(&error)),
    }
}

fn failed(what: impl Into<String>, hint: Option<&str>, source: Option<io::Error>) -> HypervisorError {
    HypervisorError { what: what.into(), hint: hint.map(str::to_owned), source }
}

fn cause(error: &dyn std::error::Error) -> Option<io::Error> {
    error.source().map(|source| io::Error::other(source.to_string()))
}

impl From<StorageError> for HypervisorError {
    fn from(error: StorageError) -> Self {
        // Where the sentence already holds what the program said, the cause would say it again.
        let cause = if matches!(error, StorageError::Unpack { .. }) { None } else { cause(&error) };
        failed(error.to_string(), error.hint(), cause)
    }
}

impl From<NetworkError> for HypervisorError {
    fn from(error: NetworkError) -> Self {
        failed(error.to_string(), error.hint(), cause(&error))
    }
}
