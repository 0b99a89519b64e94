//! A node with containers.

use std::{fs, process::Command, sync::Arc};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use qvd::{
    hypervisor::{Container, Epochs, Exit, Hypervisor},
    keeper::{RootSpec, process_table},
    model::{Owner, VmId, VmSpec, config::keys},
};

use super::{
    image,
    lab::{Lab, configured},
    printed, read,
};

pub use super::lab::{VM, address};

pub type Node = Lab<Container>;

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
        let (dir, config) = configured("hpl", 202, number, settings);
        image::programs(&dir.path().join("bin"), agent);
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
        self.vm(vm, "desk.tar")
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
        let mut traces = self.common_traces(vm);
        traces.extend(self.groups(vm));
        let dir = self.dir.path().display().to_string();
        traces.extend(read("/proc/mounts").lines().filter(|line| line.contains(&dir)).map(str::to_owned));
        traces.extend(self.loop_devices(vm));
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
