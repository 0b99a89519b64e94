//! A node with guests.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use qvd::{
    hypervisor::{Hypervisor, Kvm},
    model::{VmSpec, config::keys},
};

use crate::platform::{
    KEEPER,
    lab::{Lab, address, configured},
};

use super::disk::empty_disk;

pub use crate::platform::lab::VM;

pub const IMAGE: &str = "desk.qcow2";

pub type Node = Lab<Kvm>;

impl Node {
    /// With an image that has no system.
    pub async fn new(number: u8, settings: &[(&str, &str)]) -> Self {
        let node = Self::bare(number, settings).await;
        empty_disk(&node.image(IMAGE));
        node
    }

    /// Without images.
    pub async fn bare(number: u8, settings: &[(&str, &str)]) -> Self {
        let bin = Path::new(KEEPER).parent().unwrap().display().to_string();
        let common = [("path.qvd.bin", bin.as_str()), ("vm.kvm.acceleration", "tcg"), ("vm.kvm.cpus", "1")];
        let (dir, config) = configured("hkv", 203, number, &[&common[..], settings].concat());
        let hypervisor = Kvm::new(&config, address(&config, 1)).unwrap();
        hypervisor.prepare_node().await.unwrap();
        Self { number, dir, config, hypervisor }
    }

    /// The same node as another daemon would see it, with some settings changed.
    pub fn seen_with(&self, settings: &[(&str, &str)]) -> Kvm {
        let mut config = self.config.clone();
        for (key, value) in settings {
            config.set(key, *value).unwrap();
        }
        Kvm::new(&config, address(&config, 1)).unwrap()
    }

    pub fn image(&self, name: &str) -> PathBuf {
        self.config.get(&keys::PATH_STORAGE_IMAGES).join(name)
    }

    pub fn spec(&self) -> VmSpec {
        VmSpec { memory_mb: 256, user_storage_mb: 64, ..self.vm(VM, IMAGE) }
    }

    /// Frees what is left of a guest, and makes sure that it was all.
    pub async fn nothing_is_left(&self) {
        self.hypervisor.clean(VM).await.unwrap();
        assert_eq!(self.traces(), Vec::<String>::new());
    }

    /// What a stopped guest must not leave.
    pub fn traces(&self) -> Vec<String> {
        let mut traces = self.common_traces(VM);
        let locks = ["homes", "overlays"].map(|dir| self.storage(dir).join(format!("lock.{VM}")));
        let taken = |lock: &PathBuf| File::open(lock).is_ok_and(|file| file.try_lock().is_err());
        traces.extend(locks.iter().filter(|lock| taken(lock)).map(|lock| lock.display().to_string()));
        traces
    }
}
