//! A node of guests with storage, bridge and names of its own.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use qvd::{
    hypervisor::{Hypervisor, Kvm},
    keeper::{ShimDir, ShimStatus, client},
    model::{
        Agent, DiId, OsfId, TenantId, UserId, VmId, VmSecret, VmSpec,
        config::{Config, keys},
    },
};

use crate::platform::{KEEPER, printed, read};

use super::disk::empty_disk;

pub const VM: VmId = VmId(1);
pub const IMAGE: &str = "desk.qcow2";

/// All of it goes when it is dropped.
pub struct Node {
    number: u8,
    pub dir: tempfile::TempDir,
    pub config: Config,
    pub hypervisor: Kvm,
}

impl Node {
    /// With an image that has no system.
    pub async fn new(number: u8, settings: &[(&str, &str)]) -> Self {
        let node = Self::bare(number, settings).await;
        empty_disk(&node.image(IMAGE));
        node
    }

    /// Without images.
    pub async fn bare(number: u8, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let below = |name: &str| dir.path().join(name).display().to_string();
        for (key, value) in [
            ("path.run", below("run")),
            ("path.log", below("log")),
            ("path.storage.root", below("storage")),
            // There is no hkd that would give it a deadline.
            ("storage.local", "1".to_owned()),
            ("path.qvd.bin", Path::new(KEEPER).parent().unwrap().display().to_string()),
            ("vm.kvm.acceleration", "tcg".to_owned()),
            ("vm.kvm.cpus", "1".to_owned()),
            ("vm.network.bridge", format!("hkvbr{number}")),
            ("internal.vm.network.device.prefix", format!("hkv{number}v")),
            ("vm.network.ip.start", format!("10.203.{number}.100")),
            ("vm.network.netmask", "24".to_owned()),
            ("vm.network.dns", "192.0.2.53".to_owned()),
        ] {
            config.set(key, value).unwrap();
        }
        for (key, value) in settings {
            config.set(key, *value).unwrap();
        }
        let hypervisor = Kvm::new(&config, Self::host(number)).unwrap();
        hypervisor.prepare_node().await.unwrap();
        Self { number, dir, config, hypervisor }
    }

    fn host(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 203, number, 1).into()
    }

    /// The same node as another daemon would see it, with some settings changed.
    pub fn seen_with(&self, settings: &[(&str, &str)]) -> Kvm {
        let mut config = self.config.clone();
        for (key, value) in settings {
            config.set(key, *value).unwrap();
        }
        Kvm::new(&config, Self::host(self.number)).unwrap()
    }

    pub fn image(&self, name: &str) -> PathBuf {
        self.config.get(&keys::PATH_STORAGE_IMAGES).join(name)
    }

    pub fn storage(&self, path: &str) -> PathBuf {
        self.config.get(&keys::PATH_STORAGE_ROOT).join(path)
    }

    pub fn spec(&self) -> VmSpec {
        VmSpec {
            vm: VM,
            name: "Desk Top".into(),
            tenant: TenantId(1),
            user: UserId(1),
            login: "alice".into(),
            osf: OsfId(1),
            memory_mb: 256,
            user_storage_mb: 64,
            cpus: None,
            di: DiId(1),
            di_path: IMAGE.into(),
            agent: Agent::Auto,
            address: Ipv4Addr::new(10, 203, self.number, 101).into(),
            secret: Some(VmSecret::new([7; 32])),
        }
    }

    pub fn shim(&self) -> ShimDir {
        ShimDir::new(self.config.get(&keys::PATH_RUN).join(format!("vm/{VM}")))
    }

    pub async fn status(&self) -> ShimStatus {
        client::status(&self.shim()).await.unwrap().unwrap()
    }

    pub fn interface(&self) -> String {
        format!("hkv{}v{VM}", self.number)
    }

    /// Frees what is left of a guest, and makes sure that it was all.
    pub async fn nothing_is_left(&self) {
        self.hypervisor.clean(VM).await.unwrap();
        assert_eq!(self.traces(), Vec::<String>::new());
    }

    /// What a stopped guest must not leave.
    pub fn traces(&self) -> Vec<String> {
        let interface = self.interface();
        let mut traces: Vec<String> =
            printed("ip -br link").lines().filter(|line| line.starts_with(&interface)).map(str::to_owned).collect();
        let dir = self.shim().path().display().to_string();
        traces.extend(printed(&format!("pgrep -af {dir}")).lines().map(str::to_owned));
        traces.extend(self.shim().path().exists().then(|| "its directory".to_owned()));
        let locks = ["homes", "overlays"].map(|dir| self.storage(dir).join(format!("lock.{VM}")));
        let taken = |lock: &PathBuf| File::open(lock).is_ok_and(|file| file.try_lock().is_err());
        traces.extend(locks.iter().filter(|lock| taken(lock)).map(|lock| lock.display().to_string()));
        traces
    }

    /// What QEMU said, and the guest on its serial port.
    pub fn said(&self) -> String {
        let captures = self.config.get(&keys::PATH_SERIAL_CAPTURES);
        read(self.shim().path().join("output.log")) + &read(captures.join(format!("serial-{VM}.log")))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the guest said: {}", self.said());
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
