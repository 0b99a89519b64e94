//! What nodes of tests have in common, whatever their VMs are: a storage, a bridge and names of their own, on this machine beside
//! others, and that nothing of them stays.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Mutex,
    thread,
};

use qvd::{
    hypervisor::Hypervisor,
    keeper::{ShimDir, ShimStatus, client},
    model::{
        Agent, DiId, OsfId, TenantId, UserId, VmId, VmSecret, VmSpec,
        config::{Config, keys},
    },
};

use super::{printed, read};

/// Which test has which number: two that run at once would have containers, bridges and addresses of the same name.
static NUMBERS: Mutex<BTreeMap<(String, u8), String>> = Mutex::new(BTreeMap::new());

pub const VM: VmId = VmId(1);

/// A node. All of it goes when it is dropped.
pub struct Lab<H: Hypervisor> {
    pub number: u8,
    pub dir: tempfile::TempDir,
    pub config: Config,
    pub hypervisor: H,
}

/// A directory for a node, and its configuration: names begin with `name`, addresses with `10.network.number`, unless settings
/// say otherwise.
pub fn configured(name: &str, network: u8, number: u8, settings: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    let owner = NUMBERS.lock().unwrap().entry((name.to_owned(), number)).or_insert_with(|| test.clone()).clone();
    assert_eq!(owner, test, "both have the number {number}");
    let dir = tempfile::tempdir().unwrap();
    // As hkd makes it, for everybody to pass through.
    fs::create_dir(dir.path().join("run")).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = Config::default();
    let below = |name: &str| dir.path().join(name).display().to_string();
    for (key, value) in [
        ("path.run", below("run")),
        ("path.log", below("log")),
        ("path.storage.root", below("storage")),
        // There is no hkd that would give it a deadline.
        ("storage.local", "1".to_owned()),
        ("path.qvd.bin", below("bin")),
        ("vm.network.bridge", format!("{name}br{number}")),
        ("internal.vm.network.device.prefix", format!("{name}{number}v")),
        ("vm.network.ip.start", format!("10.{network}.{number}.100")),
        ("vm.network.netmask", "24".to_owned()),
        ("vm.network.dns", "192.0.2.53".to_owned()),
    ] {
        config.set(key, value).unwrap();
    }
    for (key, value) in settings {
        config.set(key, *value).unwrap();
    }
    (dir, config)
}

/// The address of a node's network that ends so.
pub fn address(config: &Config, last: u8) -> IpAddr {
    match config.get(&keys::VM_IP_START) {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() & !0xff | u32::from(last)).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() & !0xff | u128::from(last)).into(),
    }
}

impl<H: Hypervisor> Lab<H> {
    /// A VM, small enough for what has no system.
    pub fn vm(&self, vm: VmId, image: &str) -> VmSpec {
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
            di_path: image.into(),
            agent: Agent::Auto,
            address: address(&self.config, 100 + vm.0 as u8),
            secret: Some(VmSecret::new([7; 32])),
        }
    }

    pub fn storage(&self, path: &str) -> PathBuf {
        self.config.get(&keys::PATH_STORAGE_ROOT).join(path)
    }

    pub fn shim(&self, vm: VmId) -> ShimDir {
        ShimDir::new(self.config.get(&keys::PATH_RUN).join(format!("vm/{vm}")))
    }

    pub async fn status(&self, vm: VmId) -> ShimStatus {
        client::status(&self.shim(vm)).await.unwrap().unwrap()
    }

    /// The node's end of a VM's cable.
    pub fn interface(&self, vm: VmId) -> String {
        format!("{}{vm}", self.config.get(&keys::VM_DEVICE_PREFIX))
    }

    /// What was printed for a VM, and what it said on its console.
    pub fn said(&self, vm: VmId) -> String {
        let printed = self.shim(vm).path().join("output.log");
        let console = self.hypervisor.console(vm).filter(|console| *console != printed).map(read).unwrap_or_default();
        read(printed) + &console
    }

    /// What a stopped VM must not leave, whatever it is.
    pub fn common_traces(&self, vm: VmId) -> Vec<String> {
        let interface = self.interface(vm);
        let links = printed("ip -br link");
        let mut traces: Vec<String> =
            links.lines().filter(|line| line.starts_with(&interface)).map(str::to_owned).collect();
        let dir = self.shim(vm).path().to_owned();
        traces.extend(printed(&format!("pgrep -af {}", dir.display())).lines().map(str::to_owned));
        traces.extend(dir.exists().then(|| "its directory".to_owned()));
        traces
    }
}

impl<H: Hypervisor> Drop for Lab<H> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("VM {VM} said: {}", self.said(VM));
        }
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
