//! A node with containers, on this machine beside others.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    sync::Arc,
};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use qvd::{
    hypervisor::{Container, Epochs, Exit, Hypervisor},
    keeper::{RootSpec, ShimDir, ShimStatus, client, process_table},
    model::{
        Agent, DiId, OsfId, Owner, TenantId, UserId, VmId, VmSecret, VmSpec,
        config::{Config, keys},
    },
};

use super::{image, printed, read};

pub const VM: VmId = VmId(1);

/// Works with files as the root user inside a container does, whose id is nobody's outside. Only this thread does.
pub fn as_root_of<T>(init: i32, work: impl FnOnce() -> T) -> T {
    let first = |map: &str| read(format!("/proc/{init}/{map}")).split_whitespace().nth(1).unwrap().parse().unwrap();
    let take_ids = |uid, gid| {
        // In this order, as long as it is allowed.
        setfsgid(Gid::from_raw(gid));
        setfsuid(Uid::from_raw(uid));
    };
    take_ids(first("uid_map"), first("gid_map"));
    let done = work();
    take_ids(0, 0);
    done
}

/// The address of a node's network that ends so.
pub fn address(config: &Config, last: u8) -> IpAddr {
    match config.get(&keys::VM_IP_START) {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() & !0xff | u32::from(last)).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() & !0xff | u128::from(last)).into(),
    }
}

/// A node with storage, bridge and names of its own. All goes when it is dropped.
pub struct Node {
    pub number: u8,
    pub dir: tempfile::TempDir,
    pub config: Config,
    pub hypervisor: Container,
}

impl Node {
    pub async fn new(number: u8) -> Self {
        Self::with(number, None, &[]).await
    }

    pub async fn with(number: u8, agent: Option<&str>, settings: &[(&str, &str)]) -> Self {
        Self::claiming(number, agent, settings, None).await
    }

    /// The same, which writes into homes whose they are.
    pub async fn claiming(
        number: u8,
        agent: Option<&str>,
        settings: &[(&str, &str)],
        claims: Option<(Owner, Arc<dyn Epochs>)>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // As hkd makes it, for everybody to see.
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        image::programs(&dir.path().join("bin"), agent);
        let mut config = Config::default();
        let below = |name: &str| dir.path().join(name).display().to_string();
        for (key, value) in [
            ("path.run", below("run")),
            ("path.storage.root", below("storage")),
            // There is no hkd that would give it a deadline.
            ("storage.local", "1".to_owned()),
            ("path.qvd.bin", below("bin")),
            ("vm.network.bridge", format!("hplbr{number}")),
            ("internal.vm.network.device.prefix", format!("hpl{number}v")),
            ("vm.network.ip.start", format!("10.202.{number}.100")),
            ("vm.network.netmask", "24".to_owned()),
            ("vm.network.dns", "192.0.2.53".to_owned()),
        ] {
            config.set(key, value).unwrap();
        }
        for (key, value) in settings {
            config.set(key, *value).unwrap();
        }
        let hypervisor = Container::new(&config, &Self::name(number), address(&config, 1)).unwrap();
        let hypervisor = match claims {
            Some((owner, epochs)) => hypervisor.in_the_name_of(owner, epochs),
            None => hypervisor,
        };
        hypervisor.prepare_node().await.unwrap();
        image::pack(&config.get(&keys::PATH_STORAGE_IMAGES).join("desk.tar"));
        Self { number, dir, config, hypervisor }
    }

    pub fn name(number: u8) -> String {
        format!("hpl-{number}")
    }

    /// The container's name on the machine.
    pub fn container(&self, vm: VmId) -> String {
        format!("qvd-hpl_{}-{vm}", self.number)
    }

    pub fn spec(&self, vm: VmId) -> VmSpec {
        VmSpec {
            vm,
            name: "Desk Top".into(),
            tenant: TenantId(1),
            user: UserId(1),
            login: "alice".into(),
            osf: OsfId(1),
            memory_mb: 64,
            user_storage_mb: 1,
            cpus: None,
            di: DiId(1),
            di_path: "desk.tar".into(),
            agent: Agent::Auto,
            address: address(&self.config, 100 + vm.0 as u8),
            secret: Some(VmSecret::new([7; 32])),
        }
    }

    pub fn storage(&self, path: &str) -> PathBuf {
        self.dir.path().join("storage").join(path)
    }

    pub fn shim(&self, vm: VmId) -> ShimDir {
        ShimDir::new(self.dir.path().join(format!("run/vm/{vm}")))
    }

    pub async fn status(&self, vm: VmId) -> ShimStatus {
        client::status(&self.shim(vm)).await.unwrap().unwrap()
    }

    /// The container's first process, as the node numbers it.
    pub async fn first_process(&self, vm: VmId) -> i32 {
        process_table::children(self.status(vm).await.pid)[0]
    }

    /// Runs a program inside; whether it succeeded.
    pub fn attach(&self, vm: VmId, words: &[&str]) -> bool {
        let mut attach = Command::new("lxc-attach");
        attach.arg("-P").arg(RootSpec::directory()).args(["-n", &self.container(vm), "--"]).args(words);
        attach.output().unwrap().status.success()
    }

    pub fn groups(&self, vm: VmId) -> Vec<String> {
        let found = printed(&format!("find /sys/fs/cgroup -maxdepth 2 -name *.{}*", self.container(vm)));
        found.lines().map(str::to_owned).collect()
    }

    /// What a stopped VM must not leave.
    pub fn traces(&self, vm: VmId) -> Vec<String> {
        let mut traces = self.groups(vm);
        let interface = format!("hpl{}v{vm}", self.number);
        traces.extend(printed("ip -br link").lines().filter(|line| line.starts_with(&interface)).map(str::to_owned));
        let dir = self.dir.path().display().to_string();
        traces.extend(read("/proc/mounts").lines().filter(|line| line.contains(&dir)).map(str::to_owned));
        traces.extend(self.loop_devices(vm));
        traces.extend(printed(&format!("pgrep -af {dir}/run/vm/{vm}")).lines().map(str::to_owned));
        traces.extend(self.shim(vm).path().exists().then(|| "its directory".to_owned()));
        traces
    }

    /// Volumes of a VM that are mounted.
    pub fn loop_devices(&self, vm: VmId) -> Vec<String> {
        let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path().join("loop/backing_file"));
        let of_vm = [format!("homefs/{vm}-fs"), format!("overlayfs/1-{vm}-overlayfs")].map(|name| self.storage(&name));
        devices.map(read).filter(|file| of_vm.iter().any(|dir| file.starts_with(dir.to_str().unwrap()))).collect()
    }

    pub async fn stop(&self, vm: VmId) -> Exit {
        let exited = self.hypervisor.exited(vm);
        self.hypervisor.kill(vm).await.unwrap();
        let exit = exited.await;
        self.hypervisor.clean(vm).await.unwrap();
        exit
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let release = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for found in self.hypervisor.found().await.unwrap() {
                    self.hypervisor.clean(found.vm).await.unwrap();
                }
                self.hypervisor.release_node().await.unwrap();
            });
        };
        std::thread::scope(|scope| scope.spawn(release).join().unwrap());
    }
}
