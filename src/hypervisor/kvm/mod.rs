//! VMs that are QEMU guests: a disk image under a qcow2 layer, a disk for the home, a tap on the bridge. The image brings its
//! own system and starts our agent as a service; what the agent must know it finds in the firmware interface.
//!
//! QEMU runs under a shim as containers do, as nobody in particular: its disks and its end of the cable are handed to it open.
//! Everything about a guest can be found again by its directory below `path.run`. Commands go to QEMU's monitor (QMP); that it
//! has ended the shim knows.

mod acceleration;
mod account;
mod command;
mod qmp;

use std::{
    fs::{self, Permissions},
    io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    Epochs, Exit, Found, Hypervisor, HypervisorError, Memory, dhcp, guest,
    shims::{Shims, exit, failed, last_line, program, to_the_end},
};
use crate::{
    keeper::{Ended, ShimSpec, client},
    model::{
        Owner, VmId, VmSpec,
        config::{Config, keys},
    },
    network::{Address, Network, Plug},
    storage::{Disk, ImageName, Storage, StorageLock},
};
pub use acceleration::processor_runs_guests;
use acceleration::{Acceleration, Wish};
use command::GuestConfig;
use qmp::{Qmp, RunState};

/// The program that runs guests, and its Debian package.
pub const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// How long QEMU may take until it listens. It needs some 200 ms.
const SETUP_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether it does; nobody tells.
const SETUP_PAUSE: Duration = Duration::from_millis(5);
/// How long QEMU may take to end by itself when it is told to, before it is killed.
const QUIT_LIMIT: Duration = Duration::from_secs(3);
/// How long QEMU may take to tell what memory its guest has; somebody looks at figures meanwhile.
const MEMORY_LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked whether a QEMU has died whose shim is dead.
const DEATH_PAUSE: Duration = Duration::from_millis(2);

/// Where the agent finds its secret; see `command`.
const SECRET_IN_GUEST: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/com.theqvd/secret/raw";

/// Guests of one node.
#[derive(Clone, Debug)]
pub struct Kvm {
    shims: Shims,
    storage: Storage,
    network: Network,
    /// `path.run`.
    run: PathBuf,
    wish: Wish,
    acceleration: Arc<OnceCell<Acceleration>>,
    /// The first of guests' accounts; 0: root.
    ids: u32,
    cpus: u32,
    ballooning: bool,
    keep_layers: bool,
    homes_per_user: bool,
    direct: bool,
    /// Where the serial port is recorded.
    captures: Option<PathBuf>,
    vnc: Option<String>,
    name_servers: Vec<String>,
    agent_options: String,
}

/// The disks of a guest.
struct Disks {
    image: Disk,
    layer: Disk,
    home: Option<Disk>,
}

impl Kvm {
    /// Guests as the configuration describes them, for the node with address `host`.
    pub fn new(config: &Config, host: IpAddr) -> Result<Self, HypervisorError> {
        Ok(Self {
            shims: Shims::new(config)?,
            storage: Storage::new(config),
            network: Network::new(config, host)?,
            run: config.get(&keys::PATH_RUN),
            wish: Wish::of(config)?,
            acceleration: Arc::default(),
            ids: config.get(&keys::VM_KVM_IDS),
            cpus: config.get(&keys::VM_KVM_CPUS),
            ballooning: config.get(&keys::VM_KVM_BALLOONING),
            keep_layers: config.get(&keys::VM_OVERLAY_PERSISTENT),
            homes_per_user: config.get(&keys::VM_KVM_HOME_PER_USER),
            direct: !config.get(&keys::STORAGE_LOCAL),
            captures: config.get(&keys::VM_SERIAL_CAPTURE).then(|| config.get(&keys::PATH_SERIAL_CAPTURES)),
            vnc: config.get(&keys::VM_VNC).then(|| config.get(&keys::VM_VNC_OPTS)),
            name_servers: guest::name_servers(config),
            agent_options: guest::agent_options(config),
        })
    }

    /// The same in the name of `owner`: what it uses of the storage says so to other nodes, and what theirs say is minded.
    pub fn in_the_name_of(self, owner: Owner, epochs: Arc<dyn Epochs>) -> Self {
        Self { shims: self.shims.in_the_name_of(owner, epochs), ..self }
    }

    /// Where the serial port of a guest is recorded.
    fn serial(&self, vm: VmId) -> Option<PathBuf> {
        Some(self.captures.as_ref()?.join(format!("serial-{vm}.log")))
    }

    async fn acceleration(&self) -> Result<Acceleration, HypervisorError> {
        let qemu = qemu()?;
        self.acceleration.get_or_try_init(|| self.wish.settle(&qemu, &self.run)).await.copied()
    }

    async fn start_on(&self, spec: &VmSpec) -> Result<(), HypervisorError> {
        let qemu = qemu()?;
        let keeper = self.shims.own_program("qvd-keeper")?;
        self.free(spec.vm).await?;
        let begun = self.begin(spec, &qemu, &keeper).await;
        if begun.is_err()
            && let Err(error) = self.free(spec.vm).await
        {
            warn!(vm = %spec.vm, %error, "a guest that failed to start left something behind");
        }
        begun
    }

    async fn begin(&self, spec: &VmSpec, qemu: &Path, keeper: &Path) -> Result<(), HypervisorError> {
        let vm = spec.vm;
        let home_lock = spec.home(self.homes_per_user).map(|of| self.storage.disk_home_lock(of));
        let locks: Vec<PathBuf> = home_lock.into_iter().chain([self.storage.disk_layer_lock(vm)]).collect();
        let held = self.shims.take(vm, &locks).await?;
        let (Disks { image, layer, home }, held) = self.furnish(spec, held).await?;
        for disk in [&layer].into_iter().chain(&home).filter(|disk| self.direct && !disk.takes_direct_io) {
            warn!(vm = %vm, disk = %disk.path.display(), "this storage cannot be written past the node's memory; what a \
                guest that was fenced wrote may reach it late");
        }
        let plug = self.network.plan(vm, spec.address)?;
        let options = self.options(spec, &plug);
        let acceleration = self.acceleration().await?;
        let account = account::of(self.ids, vm, acceleration);
        let furnished = self.shims.make_dir(vm, spec.address).and_then(|dir| {
            let (of_qemu, guest) = (GuestConfig::of_qemu(&dir), dir.join("guest"));
            fs::DirBuilder::new().mode(0o700).create(&of_qemu)?;
            fs::create_dir(&guest)?;
            guest::write_files(&guest, spec.secret.as_ref(), &options)?;
            if let Some(account) = &account {
                self.shims.let_through()?;
                fs::set_permissions(&dir, Permissions::from_mode(0o710))?;
                account::let_through(&dir, account)?;
                for own in [Some(of_qemu), spec.secret.is_some().then(|| guest.join("secret"))].into_iter().flatten() {
                    account::give(&own, account)?;
                }
            }
            Ok(dir)
        });
        let dir = furnished.map_err(|e| {
            failed(format!("cannot fill the directory {}", self.shims.dir(vm).display()), None, Some(e))
        })?;
        let config = GuestConfig {
            name: format!("qvd/{vm}/{}", guest::host_name(&spec.name)),
            acceleration,
            cpus: spec.cpus.unwrap_or(self.cpus),
            memory_mb: spec.memory_mb,
            ballooning: self.ballooning,
            image,
            layer,
            home,
            direct: self.direct,
            plug,
            console: self.captures.is_some().then(|| self.shims.shim(vm).console()),
            vnc: self.vnc.clone(),
            secret: spec.secret.is_some(),
            dir: dir.clone(),
        };
        let (argv, open) = config.command(qemu);
        let shim = ShimSpec {
            argv,
            output: dir.join("output.log"),
            console: self.serial(vm),
            locks,
            account,
            open,
            ..ShimSpec::default()
        };
        drop(held);
        self.shims.start(keeper, vm, shim).await?;
        self.let_run(vm, &config.plug).await
    }

    /// Makes the guest's disks. When the start is given up meanwhile, the locks are held until that has ended all the same.
    async fn furnish(
        &self,
        spec: &VmSpec,
        held: Vec<StorageLock>,
    ) -> Result<(Disks, Vec<StorageLock>), HypervisorError> {
        let (storage, spec, keep, per_user) =
            (self.storage.clone(), spec.clone(), self.keep_layers, self.homes_per_user);
        to_the_end(async move {
            let image = storage.disk_image(&ImageName::parse(&spec.di_path)?).await?;
            let layer = storage.disk_layer(spec.vm, spec.di, &image, keep).await?;
            let home = match spec.home(per_user) {
                Some(of) => Some(storage.disk_home(of, spec.user_storage_mb).await?),
                None => None,
            };
            Ok((Disks { image, layer, home }, held))
        })
        .await
    }

    /// What the agent is told: what is meant for all, and who it is.
    fn options(&self, spec: &VmSpec, plug: &Plug) -> String {
        let mut options = self.agent_options.clone();
        let mut add = |key: &str, value: String| options.push_str(&format!("{key} = {value}\n"));
        if spec.secret.is_some() {
            add("vma.secret.file", SECRET_IN_GUEST.to_owned());
        }
        add("vma.network.mac", plug.mac.to_string());
        let each = |word: fn(&Address) -> String| plug.addresses.iter().map(word).collect::<Vec<_>>().join(",");
        add("vma.network.address", each(|address| format!("{}/{}", address.ip, address.prefix)));
        add("vma.network.gateway", each(|address| address.gateway.to_string()));
        add("vma.network.dns", self.name_servers.join(","));
        add("vma.host.name", guest::host_name(&spec.name));
        options
    }

    /// Plugs a guest in that QEMU holds, and lets it run if it does not yet.
    async fn let_run(&self, vm: VmId, plug: &Plug) -> Result<(), HypervisorError> {
        let mut qmp = self.monitor(vm).await?;
        self.network.plug(plug).await?;
        let in_qemu = |source| failed(format!("QEMU does not let VM {vm} run"), None, Some(source));
        if self.ballooning
            && let Err(error) = qmp.watch_memory().await
        {
            debug!(vm = %vm, %error, "it will not be known what memory the guest uses");
        }
        if qmp.run_state().await.map_err(in_qemu)? == RunState::Prelaunch {
            fs::write(self.has_run(vm), "").map_err(in_qemu)?;
            qmp.go_on().await.map_err(in_qemu)?;
        }
        Ok(())
    }

    /// Talks to the QEMU of a guest, once it listens.
    async fn monitor(&self, vm: VmId) -> Result<Qmp, HypervisorError> {
        let (shim, socket) = (self.shims.shim(vm), GuestConfig::monitor(&self.shims.dir(vm)));
        let begin = Instant::now();
        while shim.ended().is_none() {
            match Qmp::connect(&socket).await {
                Ok(qmp) => {
                    debug!(vm = %vm, milliseconds = begin.elapsed().as_millis() as u64, "QEMU listens");
                    return Ok(qmp);
                }
                Err(error) if begin.elapsed() > SETUP_LIMIT => {
                    return Err(failed(format!("the QEMU of VM {vm} does not answer"), None, Some(error)));
                }
                Err(_) => sleep(SETUP_PAUSE).await,
            }
        }
        Err(self.died_at_once(vm))
    }

    fn died_at_once(&self, vm: VmId) -> HypervisorError {
        let output = fs::read_to_string(self.shims.dir(vm).join("output.log")).unwrap_or_default();
        warn!(vm = %vm, output, "QEMU ended while a guest was being started");
        let reason = command::complaint(&output)
            .or_else(|| last_line(&output))
            .unwrap_or_else(|| "it did not say why".to_owned());
        failed(format!("the QEMU of VM {vm} ended at once: {reason}"), None, None)
    }

    /// There once the guest has been let run. What QEMU ends with afterwards is not about its command line.
    fn has_run(&self, vm: VmId) -> PathBuf {
        self.shims.dir(vm).join("has-run")
    }

    /// Tells QEMU to end, which it does without losing what it holds of the disks; kills it if it does not.
    async fn quit(&self, vm: VmId) -> Result<(), HypervisorError> {
        let shim = self.shims.shim(vm);
        let quit = async {
            let mut qmp = Qmp::connect(&GuestConfig::monitor(&self.shims.dir(vm))).await?;
            qmp.quit().await?;
            client::wait(&shim).await;
            io::Result::Ok(())
        };
        if let Ok(Ok(())) = timeout(QUIT_LIMIT, quit).await {
            return Ok(());
        }
        self.end(vm).await
    }

    /// Kills whatever lives of a guest and waits until it is dead.
    async fn end(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.shims.end(vm).await?;
        bury(&self.shims.dir(vm)).await;
        Ok(())
    }

    /// Removes every trace of a guest from the node. Its disks stay.
    async fn free(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.end(vm).await?;
        self.shims.give_up(vm).await;
        self.network.unplug(vm, self.shims.address(vm)).await?;
        self.shims.remove_dir(vm)
    }

    /// A daemon that died while it started a guest left it without a network, and waiting. What QEMU says of that is not
    /// waited for: it may hang with its storage.
    async fn take_up(&self, vm: VmId, address: IpAddr) -> Result<(), HypervisorError> {
        let plug = self.network.plan(vm, address)?;
        if self.has_run(vm).exists() {
            self.network.plug(&plug).await?;
        }
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.let_run(vm, &plug).await {
                warn!(vm = %vm, %error, "a guest that lives cannot be taken up");
            }
        });
        Ok(())
    }

    /// What a guest has of its memory; `None`: there is none, or it is not known.
    async fn memory_of(&self, vm: VmId) -> Option<(VmId, Memory)> {
        let asked = async { Qmp::connect(&GuestConfig::monitor(&self.shims.dir(vm))).await?.memory().await };
        Some((vm, timeout(MEMORY_LIMIT, asked).await.ok()?.ok()?))
    }

    async fn find_all(&self) -> Result<Vec<Found>, HypervisorError> {
        let mut vms = self.network.plugged().await?;
        vms.extend(self.shims.vms()?);
        vms.sort_unstable();
        vms.dedup();
        let mut found = Vec::with_capacity(vms.len());
        for vm in vms {
            let alive = self.shims.status(vm).await?.is_some_and(|status| status.is_current());
            if alive && let Some(address) = self.shims.address(vm) {
                self.take_up(vm, address).await.unwrap_or_else(
                    |error| warn!(vm = %vm, %error, "a guest that lives cannot be plugged into the bridge"),
                );
            }
            found.push(Found { vm, alive });
        }
        Ok(found)
    }
}

/// Waits until the QEMU of a directory is dead whose shim is. The kernel kills it with its shim, which may take a moment.
/// Where QEMU is.
fn qemu() -> Result<PathBuf, HypervisorError> {
    program(QEMU.0, QEMU.1)
}

async fn bury(dir: &Path) {
    let Some(pid) = fs::read_to_string(GuestConfig::pid_file(dir)).ok().and_then(|pid| pid.trim().parse().ok()) else {
        return;
    };
    let monitor = GuestConfig::monitor(dir).display().to_string();
    // The number may be another's by now. A process that is dead has no command line.
    let lives = || {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&monitor)
    };
    while lives() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        sleep(DEATH_PAUSE).await;
    }
}

impl Hypervisor for Kvm {
    fn prepare_node(&self) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async {
            qemu()?;
            program("qemu-img", "qemu-utils")?;
            self.storage.prepare()?;
            self.storage.prepare_disks()?;
            self.shims.prepare()?;
            if let Some(captures) = &self.captures {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(captures)
                    .map_err(|error| failed(format!("cannot make {}", captures.display()), None, Some(error)))?;
            }
            self.acceleration().await?;
            self.network.prepare(&self.shims.addresses()?).await?;
            dhcp::start(&self.network, &self.shims, &self.name_servers).await
        })
    }

    fn guard_node(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            tokio::join!(self.network.guard(), dhcp::guard(&self.network, &self.shims, &self.name_servers));
        })
    }

    fn know_nodes(&self, nodes: Vec<IpAddr>) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async { Ok(self.network.know_nodes(nodes).await?) })
    }

    fn release_node(&self) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async {
            self.network.remove().await?;
            dhcp::stop(&self.network).await
        })
    }

    fn prepare<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async { Ok(self.storage.disk_image(&ImageName::parse(&spec.di_path)?).await.map(drop)?) })
    }

    fn start<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(self.start_on(spec))
    }

    fn exited(&self, vm: VmId) -> BoxFuture<'static, Exit> {
        let (shim, has_run) = (self.shims.shim(vm), self.has_run(vm));
        Box::pin(async move {
            match client::wait(&shim).await {
                // With this QEMU ends when the guest says that its kernel has panicked.
                Some(Ended::Status(1)) if has_run.exists() => Exit::Panicked,
                ended => match exit(ended) {
                    Some(exit) => exit,
                    None => {
                        bury(shim.path()).await;
                        Exit::Unseen
                    }
                },
            }
        })
    }

    fn press_power_button(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async move {
            let pressed = async {
                let mut qmp = Qmp::connect(&GuestConfig::monitor(&self.shims.dir(vm))).await?;
                qmp.press_power_button().await
            };
            let fail = |source| failed(format!("cannot press the power button of VM {vm}"), None, Some(source));
            pressed.await.map_err(fail)
        })
    }

    fn kill(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(self.quit(vm))
    }

    fn clean(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(self.free(vm))
    }

    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, HypervisorError>> {
        Box::pin(self.find_all())
    }

    fn memory(&self) -> BoxFuture<'_, Vec<(VmId, Memory)>> {
        Box::pin(async {
            let vms = self.shims.vms().unwrap_or_default();
            join_all(vms.into_iter().map(|vm| self.memory_of(vm))).await.into_iter().flatten().collect()
        })
    }

    fn console(&self, vm: VmId) -> Option<PathBuf> {
        // Without a serial port it is QEMU alone that says something.
        Some(self.serial(vm).unwrap_or_else(|| self.shims.dir(vm).join("output.log")))
    }

    fn has_agent(&self) -> bool {
        true
    }
}
