//! VMs that are LXC containers: an image under a writable layer, our agent as first process, a port of the bridge.
//!
//! Everything about a container can be found again by its name and its directory below `path.run`, so nothing is kept
//! in memory. `lxc-start -F` runs under a shim; killing it kills the container, because LXC ties the container's
//! first process to it.

mod cgroup;
mod confinement;
mod ids;
mod layer;
mod lxc;
mod metadata;
mod mounts;
mod watchers;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{
    Epochs, Exit, Found, Hypervisor, HypervisorError, dhcp, guest,
    shims::{Shims, exit, failed, last_line, program, to_the_end},
};
use crate::{
    keeper::{Bind, Ids, RootSpec, ShimSpec, Tree, Volume, client, process_table},
    model::{
        Owner, VmId, VmSpec,
        config::{Config, keys},
    },
    network::{Network, Plug},
    process::blocking,
    storage::{ImageName, Layer, Room, Storage, StorageLock, Unpacked},
};
use cgroup::Memory;
pub use cgroup::{CgroupStanding, Cgroups};
use confinement::FORBIDDEN;
use ids::IdRanges;
pub use ids::may_map;
use lxc::{ContainerConfig, GUEST_DIR, HOME_DIR};
use metadata::Hook;

/// How long LXC may take until the first process of a container runs. It needs some 15 ms.
const SETUP_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked whether the first process runs; nobody tells.
const SETUP_PAUSE: Duration = Duration::from_millis(1);

/// Containers of one node.
#[derive(Clone, Debug)]
pub struct Container {
    node: String,
    shims: Shims,
    storage: Storage,
    network: Network,
    keep_overlays: bool,
    /// In MB; 0: none.
    overlay_limit: u32,
    limits_homes: bool,
    homes_per_user: bool,
    name_servers: Vec<String>,
    agent_options: String,
    cgroups: Cgroups,
    memory: Memory,
    ids: IdRanges,
    no_new_privs: bool,
    heeds_metadata: bool,
    extra: String,
}

/// What takes what a container writes of its root file system.
enum Written {
    /// A layer over the image.
    Layer(Room),
    /// The container's own root file system.
    Copy(PathBuf),
}

impl Container {
    /// Containers as the configuration describes them, for the node `node` with address `host`.
    pub fn new(config: &Config, node: &str, host: IpAddr) -> Result<Self, HypervisorError> {
        let cgroups = Cgroups::of_this_machine();
        Ok(Self {
            // No hyphen: it parts the node from the VM.
            node: node.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect(),
            shims: Shims::new(config)?,
            storage: Storage::new(config),
            network: Network::new(config, host)?,
            keep_overlays: config.get(&keys::VM_OVERLAY_PERSISTENT),
            overlay_limit: config.get(&keys::VM_LXC_OVERLAY_SIZE),
            limits_homes: config.get(&keys::VM_LXC_HOME_LIMIT),
            homes_per_user: config.get(&keys::VM_LXC_HOME_PER_USER),
            name_servers: guest::name_servers(config),
            agent_options: guest::agent_options(config),
            memory: cgroups.memory(),
            cgroups,
            ids: IdRanges::new(config),
            no_new_privs: config.get(&keys::VM_LXC_NO_NEW_PRIVS),
            heeds_metadata: config.get(&keys::VM_LXC_HOOKS),
            extra: config.get(&keys::VM_LXC_EXTRA),
        })
    }

    /// The same in the name of `owner`: what it uses of the storage says so to other nodes, and what theirs say is minded.
    pub fn in_the_name_of(self, owner: Owner, epochs: Arc<dyn Epochs>) -> Self {
        Self { shims: self.shims.in_the_name_of(owner, epochs), ..self }
    }

    async fn start_on(&self, spec: &VmSpec) -> Result<(), HypervisorError> {
        let lxc_start = program("lxc-start", "lxc")?;
        let keeper = self.shims.own_program("qvd-keeper")?;
        let agent = self.shims.own_program("qvd-vma")?;
        let image = ImageName::parse(&spec.di_path)?;
        if self.has_traces(spec.vm).await {
            self.free(spec.vm).await?;
        }
        let image = self.storage.unpacked(&image).await?;

        let begun = self.begin(spec, image, agent, &lxc_start, &keeper).await;
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
        image: Unpacked,
        agent: PathBuf,
        lxc_start: &Path,
        keeper: &Path,
    ) -> Result<(), HypervisorError> {
        let vm = spec.vm;
        let dir = self.shims.dir(vm);
        let boots_itself = image.boots_itself(spec.agent)?;
        let plug = self.network.plan(vm, spec.address)?;
        let (locks, shared) = self.locks(spec).await?;
        let held = self.shims.take(vm, &locks).await?;
        for lock in &shared {
            self.shims.join(vm, lock.clone()).await?;
        }
        let ids = self.ids.of(vm);
        let (written, home, held) = self.furnish(spec, &image, ids, held).await?;
        let (written, home, held) = self.limit(spec, written, home, !shared.is_empty(), held).await?;
        let mut volumes = Vec::new();
        let mut place = |room, name| match room {
            Room::Directory(path) => path,
            Room::Volume(file) => {
                let at = dir.join(name);
                volumes.push(Volume { file, at: at.clone() });
                at
            }
        };
        let tree = match written {
            Written::Layer(room) => {
                let [upper, work] = Layer::parts(&place(room, "layer"));
                Tree::Layers { image: image.root, upper, work }
            }
            Written::Copy(root) => Tree::Copy(root),
        };
        let home = home.map(|home| place(home, "home"));
        let ours = |from: PathBuf, to: &str| Bind { from, to: to.into(), read_only: true, mapped: false };
        let binds = [ours(dir.join("guest"), GUEST_DIR), ours(agent, &format!("{GUEST_DIR}/qvd-vma"))];
        let home = home.map(|from| Bind { from, to: HOME_DIR.into(), read_only: false, mapped: true });
        let extra = self.extra(spec, image.metadata.as_deref(), &plug, tree.written())?;
        let root = RootSpec { tree, binds: binds.into_iter().chain(home).collect(), ids };
        let config = ContainerConfig {
            name: self.name(vm),
            host_name: guest::host_name(&spec.name),
            root,
            plug,
            memory_mb: spec.memory_mb,
            cpus: spec.cpus,
            boots_itself,
            no_new_privs: self.no_new_privs,
            forbidden: dir.join("forbidden"),
            memory: self.memory,
            extra,
        };
        config.check()?;
        let path = dir.join("config");
        for (path, text) in [(&path, config.render().as_str()), (&config.forbidden, FORBIDDEN)] {
            fs::write(path, text).map_err(|error| cannot_write(path, error))?;
        }

        let text = |path: &Path| path.display().to_string();
        let argv = [
            text(lxc_start),
            "-F".to_owned(),
            "-P".to_owned(),
            text(RootSpec::directory()),
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
            shared,
            cgroups: self.cgroups.for_shim(&config.name),
            root: Some(config.root),
            volumes,
            ..ShimSpec::default()
        };
        drop(held);
        self.shims.start(keeper, vm, shim).await?;
        self.first_process(vm).await?;
        self.plug_in(vm, &config.plug).await?;
        self.run(Hook::Poststart, vm).await;
        Ok(())
    }

    /// The locks of what it uses of the storage: those that it has alone, and those that other containers of this node may have
    /// as well.
    async fn locks(&self, spec: &VmSpec) -> Result<(Vec<PathBuf>, Vec<PathBuf>), HypervisorError> {
        let layer = self.storage.overlay_lock(spec.vm);
        let Some(home) = spec.home(self.homes_per_user) else { return Ok((vec![layer], vec![])) };
        let (storage, limited) = (self.storage.clone(), self.limits_homes);
        let is_shared = blocking(move || storage.can_be_shared(home, limited)).await?;
        let home = self.storage.home_lock(home);
        Ok(if is_shared { (vec![layer], vec![home]) } else { (vec![home, layer], vec![]) })
    }

    /// Completes the network of a container whose first process runs.
    async fn plug_in(&self, vm: VmId, plug: &Plug) -> Result<(), HypervisorError> {
        if plug.addresses.iter().any(|address| address.ip.is_ipv6()) {
            self.network.settle_inside(plug, self.first_process(vm).await?).await?;
        }
        Ok(self.network.plug(plug).await?)
    }

    /// What the administrator and, where it may, the image add to the settings of a container. Its hooks are made ready.
    fn extra(
        &self,
        spec: &VmSpec,
        metadata: Option<&Path>,
        plug: &Plug,
        written: &Path,
    ) -> Result<String, HypervisorError> {
        let Some(metadata) = metadata.filter(|_| self.heeds_metadata) else { return Ok(self.extra.clone()) };
        let told = [
            ("id", spec.vm.to_string()),
            ("use_overlay", "1".to_owned()),
            ("mac", plug.mac.to_string()),
            ("name", spec.name.clone()),
            ("ip", spec.address.to_string()),
            ("os_rootfs", RootSpec::path().display().to_string()),
            ("os_overlayfs", written.display().to_string()),
            ("lxc_name", self.name(spec.vm)),
        ];
        let dir = self.shims.dir(spec.vm);
        let adopted = metadata::adopt(metadata, &dir, &told).map_err(|error| cannot_write(&dir, error))?;
        Ok(format!("{}\n{adopted}", self.extra))
    }

    async fn run(&self, hook: Hook, vm: VmId) {
        if let Err(error) = hook.run(&self.shims.dir(vm)).await {
            warn!(vm = %vm, ?hook, %error, "a hook of the disk image failed");
        }
    }

    /// Makes the container's directory, its layer and its home. When the start is given up meanwhile, the locks are held
    /// until that has ended all the same.
    async fn furnish(
        &self,
        spec: &VmSpec,
        image: &Unpacked,
        ids: Option<Ids>,
        held: Vec<StorageLock>,
    ) -> Result<(Written, Option<Room>, Vec<StorageLock>), HypervisorError> {
        let (this, spec, image) = (self.clone(), spec.clone(), image.clone());
        to_the_end(async move {
            let (that, of, owner) = (this.clone(), spec.clone(), ids.map_or(0, |ids| ids.first));
            let (kept, home) = blocking(move || {
                let dir = that.shims.dir(of.vm);
                that.shims
                    .make_dir(of.vm, of.address)
                    .and_then(|dir| {
                        layer::write_directory(&dir.join("guest"), owner, of.secret.as_ref(), &that.agent_options)
                    })
                    .map_err(|e| failed(format!("cannot fill the directory {}", dir.display()), None, Some(e)))?;
                let home = of.home(that.homes_per_user).map(|home| that.storage.home(home)).transpose()?;
                Ok::<_, HypervisorError>((that.storage.kept_layer(of.vm, of.di).filter(|_| that.keep_overlays), home))
            })
            .await?;
            // One that was kept in a volume is as it was made.
            if let Some(volume) = kept {
                return Ok((Written::Layer(Room::Volume(volume)), home, held));
            }
            let limited = this.overlay_limit > 0;
            let layer = this.storage.overlay((spec.vm, spec.di), &image, this.keep_overlays, owner, limited).await?;
            blocking(move || {
                layer::personalise(&layer, &image.root, &guest::host_name(&spec.name), &this.name_servers)?;
                if home.is_some() {
                    layer.make_mount_point(HOME_DIR)?;
                }
                let written = match layer.over_image() {
                    Some(dir) => Written::Layer(Room::Directory(dir.to_owned())),
                    None => Written::Copy(layer.root()),
                };
                Ok((written, home, held))
            })
            .await
        })
        .await
    }

    /// Holds layer and home to their sizes, as far as they have any. When the start is given up meanwhile, that goes on to
    /// its end, with the locks held.
    async fn limit(
        &self,
        spec: &VmSpec,
        mut written: Written,
        mut home: Option<Room>,
        is_shared: bool,
        held: Vec<StorageLock>,
    ) -> Result<(Written, Option<Room>, Vec<StorageLock>), HypervisorError> {
        let (storage, vm, home_limit) = (self.storage.clone(), spec.vm, spec.user_storage_mb);
        let (layer_limit, limits_homes, keeps) = (self.overlay_limit, self.limits_homes, self.keep_overlays);
        to_the_end(async move {
            if layer_limit > 0
                && let Written::Layer(room) = written
            {
                written = Written::Layer(storage.limited(room, layer_limit, keeps).await?);
            }
            if let Some(room) = home.take_if(|_| limits_homes) {
                home = Some(match room {
                    // What others use must stay as it is.
                    Room::Directory(dir) if is_shared || !is_empty(dir.clone()).await => {
                        warn!(vm = %vm, home = %dir.display(), "this home has no limit: it is a directory with files in it");
                        Room::Directory(dir)
                    }
                    room => storage.limited(room, home_limit, true).await?,
                });
            }
            Ok((written, home, held))
        })
        .await
    }

    /// Waits until the container's first process runs, which is when LXC has done its part.
    async fn first_process(&self, vm: VmId) -> Result<i32, HypervisorError> {
        let shim = self.shims.shim(vm);
        let link = |pid: i32, name: &str| fs::read_link(format!("/proc/{pid}/{name}")).ok();
        let program = |pid: i32| link(pid, "exe");
        let begin = Instant::now();
        let monitor = self.shims.status(vm).await?;
        while let Some(monitor) = monitor.as_ref().filter(|_| shim.ended().is_none()) {
            let lxc = program(monitor.pid);
            // Until LXC has set it up, the child runs LXC's own program. A hook has no processes of its own.
            let runs = |child: i32| {
                program(child).is_some_and(|program| Some(program) != lxc)
                    && link(child, "ns/pid") != link(monitor.pid, "ns/pid")
            };
            let first = process_table::children(monitor.pid).into_iter().find(|child| runs(*child));
            if let Some(first) = first.filter(|_| lxc.is_some()) {
                debug!(vm = %vm, milliseconds = begin.elapsed().as_millis() as u64, "the first process runs");
                return Ok(first);
            }
            if begin.elapsed() > SETUP_LIMIT {
                return Err(failed(format!("LXC does not get VM {vm} started"), None, None));
            }
            sleep(SETUP_PAUSE).await;
        }
        Err(self.died_at_once(vm))
    }

    fn died_at_once(&self, vm: VmId) -> HypervisorError {
        let read = |file: &str| fs::read_to_string(self.shims.dir(vm).join(file)).unwrap_or_default();
        let (log, output) = (read("lxc.log"), read("output.log"));
        warn!(vm = %vm, log, output, "a container ended while it was being started");
        let reason = match (lxc::first_error(&log), last_line(&lxc::of_others(&output))) {
            // LXC knows no more than that a script failed.
            (Some(error), said) if error.starts_with("Script exited") => {
                Some(format!("the hook prestart of its disk image failed: {}", said.unwrap_or(error)))
            }
            (error, said) => error.or(said),
        };
        match reason {
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

    /// Whether there is anything that `free` removes; mounts, locks and claims are known by the directory alone. To look is
    /// cheaper than to remove nothing, and a start mostly finds nothing.
    async fn has_traces(&self, vm: VmId) -> bool {
        self.shims.dir(vm).exists() || self.network.knows(vm).await || self.cgroups.has(&self.name(vm))
    }

    /// Removes every trace of a container from the node. Its home and layer stay.
    async fn free(&self, vm: VmId) -> Result<(), HypervisorError> {
        let (name, dir) = (self.name(vm), self.shims.dir(vm));
        self.end(vm).await?;
        self.run(Hook::Poststop, vm).await;
        self.shims.give_up(vm).await;
        self.network.unplug(vm, self.shims.address(vm)).await?;
        let in_groups = |source| failed(format!("cannot remove the control groups of VM {vm}"), None, Some(source));
        self.cgroups.remove(&name).await.map_err(in_groups)?;
        mounts::unmount_below(&dir)
            .map_err(|source| failed(format!("cannot remove {}", dir.display()), None, Some(source)))?;
        // Made by LXC beside its run directory, whatever the path of the container.
        let _ = fs::remove_file(lxc_lock(RootSpec::directory(), &name));
        self.shims.remove_dir(vm)
    }

    /// Kills whatever lives of a container and waits until it is dead.
    async fn end(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.shims.end(vm).await?;
        let name = self.name(vm);
        let in_groups = |source| failed(format!("cannot kill the processes of VM {vm}"), None, Some(source));
        self.cgroups.kill(&name).await.map_err(in_groups)
    }

    async fn find_all(&self) -> Result<Vec<Found>, HypervisorError> {
        let mut vms = self.network.plugged().await?;
        let prefix = self.name_prefix();
        let of_group = |name: &String| name[prefix.len()..].split('-').next().and_then(|vm| vm.parse().ok()).map(VmId);
        vms.extend(self.cgroups.names(&prefix).iter().filter_map(of_group));
        vms.extend(self.shims.vms()?);
        vms.sort_unstable();
        vms.dedup();
        let mut found = Vec::with_capacity(vms.len());
        for vm in vms {
            let status = self.shims.status(vm).await?;
            let alive = status.is_some_and(|status| status.is_current());
            if alive && let Some(address) = self.shims.address(vm) {
                // A daemon that died between start and plug left a VM without a network.
                match self.network.plan(vm, address) {
                    Ok(plug) => self.plug_in(vm, &plug).await,
                    Err(error) => Err(error.into()),
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
}

impl Hypervisor for Container {
    fn prepare_node(&self) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async {
            program("lxc-start", "lxc")?;
            self.storage.prepare()?;
            self.shims.prepare()?;
            watchers::allow();
            let (keeper, dirs) = (self.shims.own_program("qvd-keeper")?, self.storage.mapped());
            self.ids.examine(&keeper, &dirs).await;
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
        Box::pin(async {
            let image = self.storage.unpacked(&ImageName::parse(&spec.di_path)?).await?;
            Ok(image.boots_itself(spec.agent).map(drop)?)
        })
    }

    fn start<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(self.start_on(spec))
    }

    fn exited(&self, vm: VmId) -> BoxFuture<'static, Exit> {
        let (shim, cgroups, name) = (self.shims.shim(vm), self.cgroups.clone(), self.name(vm));
        Box::pin(async move {
            match exit(client::wait(&shim).await) {
                Some(exit) => exit,
                None => {
                    // A shim that died took its VM with it; the kernel may need a moment, so it is made sure.
                    while let Err(error) = cgroups.kill(&name).await {
                        warn!(vm = %vm, %error, "what a dead shim left does not die");
                    }
                    cgroups.wait_for_dying(&name).await;
                    Exit::Unseen
                }
            }
        })
    }

    fn kill(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(async move { if self.shims.kill(vm).await? { Ok(()) } else { self.end(vm).await } })
    }

    fn clean(&self, vm: VmId) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(self.free(vm))
    }

    fn found(&self) -> BoxFuture<'_, Result<Vec<Found>, HypervisorError>> {
        Box::pin(self.find_all())
    }

    fn console(&self, vm: VmId) -> Option<PathBuf> {
        Some(self.shims.dir(vm).join("output.log"))
    }

    fn has_agent(&self) -> bool {
        true
    }
}

impl ContainerConfig {
    /// Options of mounts are parted at commas, layers at colons, and there is no way to quote them.
    fn check(&self) -> Result<(), HypervisorError> {
        let paths = match &self.root.tree {
            Tree::Layers { image, upper, .. } => vec![image, upper],
            Tree::Copy(_) => vec![],
        };
        let refused = |path: &&PathBuf| path.to_str().is_none_or(|path| path.contains([':', ',', '\\']));
        match paths.into_iter().find(refused) {
            Some(path) => Err(failed(
                format!("layers cannot be mounted from the path {}", path.display()),
                Some("choose directories without colons, commas and backslashes"),
                None,
            )),
            None => Ok(()),
        }
    }
}

fn cannot_write(path: &Path, error: io::Error) -> HypervisorError {
    failed(format!("cannot write {}", path.display()), None, Some(error))
}

async fn is_empty(dir: PathBuf) -> bool {
    blocking(move || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())).await
}

/// Where LXC locks a container.
fn lxc_lock(lxc_path: &Path, name: &str) -> PathBuf {
    let below = lxc_path.strip_prefix("/").unwrap_or(lxc_path);
    Path::new("/run/lxc/lock").join(below).join(format!(".{name}"))
}
