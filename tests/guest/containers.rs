//! Containers where control groups are of one version alone, which those of the build machine are not: each limit is really
//! applied, and after the end nothing is left.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qvd::{
    hypervisor::{Cgroups, Container, Exit, Hypervisor},
    keeper::{RootSpec, ShimDir, client},
    model::{
        Agent, DiId, OsfId, TenantId, UserId, VmId, VmSpec,
        config::{Config, keys},
    },
};

use super::stage::soon;

/// Programs of this machine that a node is made of.
pub const TOOLS: &[&str] = &["env", "lxc-attach", "lxc-start", "mkfs.ext4", "mount", "nft", "qvd-keeper", "tar"];
/// Modules of the kernel that it needs.
pub const MODULES: &[&str] = &["loop", "veth", "bridge", "overlay", "nf_tables"];
/// What leaves all controllers to version 2.
pub const ONLY_V2: &str = "cgroup_no_v1=all";

const GROUPS: &str = "/sys/fs/cgroup";
const V1: [&str; 8] = ["blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"];
const NODE: &str = "n1";
const VM: VmId = VmId(1);
const MEMORY_MB: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(60);
const ATTEMPT: Duration = Duration::from_millis(50);

/// In place of the agent.
const INIT: &str = "#!/bin/sh\nwhile :; do sleep 1000; done\n";
/// Names under which the image has busybox.
const APPLETS: [&str; 5] = ["sh", "dd", "mknod", "seq", "sleep"];
/// Where LXC wants to find a directory.
const MOUNT: &str = "/usr/lib/x86_64-linux-gnu/lxc/rootfs";

/// What control groups are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// All of it, in order.
pub async fn all(version: Version) {
    version.mount();
    let standing = Cgroups::of_this_machine().standing();
    assert_eq!((standing.unified, standing.missing), (version == Version::V2, vec![]));
    assert!(standing.writable);
    let node = Node::open(version).await;
    let mut began = Instant::now();
    let mut said = |what: &str| {
        println!("guest: {what}: {} ms", began.elapsed().as_millis());
        began = Instant::now();
    };
    let vm = node.start("1000000000").await;
    said("a container starts");
    vm.is_held_to_its_memory();
    said("it has no more memory than it may have");
    vm.is_held_to_its_tasks();
    said("nor tasks");
    vm.is_held_to_its_processors().await;
    said("nor processors");
    vm.stop().await;
    said("it stops, and nothing is left");
    // One with ids of its own could not even make a device.
    let vm = node.start("0").await;
    vm.is_held_to_its_devices();
    said("nor devices");
    vm.die().await;
    said("it dies with its shim, and nothing is left");
}

impl Version {
    fn mount(self) {
        let mount = |kind: &str, options: &str, at: &str| run("mount", &["-t", kind, "-o", options, "none", at]);
        match self {
            Self::V1 => {
                mount("tmpfs", "rw", GROUPS);
                let own = ("systemd", "none,name=systemd");
                for (name, options) in V1.map(|controller| (controller, controller)).into_iter().chain([own]) {
                    let dir = format!("{GROUPS}/{name}");
                    fs::create_dir(&dir).unwrap();
                    mount("cgroup", options, &dir);
                }
            }
            Self::V2 => mount("cgroup2", "rw", GROUPS),
        }
    }
}

/// A node whose storage is an ext4 file system: the initial one takes neither layers nor other owners.
struct Node {
    version: Version,
    config: Config,
}

/// Its container.
struct Vm<'a> {
    node: &'a Node,
    hypervisor: Container,
}

impl Node {
    async fn open(version: Version) -> Self {
        for dir in ["/etc", "/node", "/run", "/usr/bin", MOUNT] {
            fs::create_dir_all(dir).unwrap();
        }
        File::create("/disk").unwrap().set_len(300 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", "/disk"]);
        run("mount", &["-t", "ext4", "-o", "loop", "/disk", "/node"]);
        run("mount", &["-t", "tmpfs", "none", "/run"]);
        symlink("/bin/env", "/usr/bin/env").unwrap();
        symlink("/bin/qvd-keeper", "/node/qvd-keeper").unwrap();
        executable("/node/qvd-vma".as_ref(), INIT);
        let mut config = Config::default();
        for (key, value) in [
            ("path.run", "/run/qvd"),
            ("path.storage.root", "/node/storage"),
            ("path.qvd.bin", "/node"),
            // There is no hkd that would give it a deadline.
            ("storage.local", "1"),
            ("vm.network.ip.start", "10.1.1.100"),
            ("vm.network.netmask", "24"),
            // It has nothing to do with control groups.
            ("internal.vm.network.firewall.enable", "0"),
        ] {
            config.set(key, value).unwrap();
        }
        let node = Self { version, config };
        soon("a node", node.hypervisor("0").prepare_node()).await.unwrap();
        pack(&node.config.get(&keys::PATH_STORAGE_IMAGES).join("desk.tar"));
        node
    }

    fn hypervisor(&self, ids: &str) -> Container {
        let mut config = self.config.clone();
        config.set("vm.lxc.ids", ids).unwrap();
        Container::new(&config, NODE, Ipv4Addr::new(10, 1, 1, 1).into()).unwrap()
    }

    async fn start(&self, ids: &str) -> Vm<'_> {
        let hypervisor = self.hypervisor(ids);
        let spec = VmSpec {
            vm: VM,
            name: "Desk Top".into(),
            tenant: TenantId(1),
            user: UserId(1),
            login: "alice".into(),
            osf: OsfId(1),
            memory_mb: MEMORY_MB,
            user_storage_mb: 1,
            cpus: Some(1),
            di: DiId(1),
            di_path: "desk.tar".into(),
            agent: Agent::Auto,
            address: Ipv4Addr::new(10, 1, 1, 101).into(),
            secret: None,
        };
        soon("its preparation", hypervisor.prepare(&spec)).await.unwrap();
        soon("a start", hypervisor.start(&spec)).await.unwrap();
        Vm { node: self, hypervisor }
    }

    fn shim(&self) -> ShimDir {
        ShimDir::new(self.config.get(&keys::PATH_RUN).join(format!("vm/{VM}")))
    }

    /// What is there of the container.
    fn traces(&self) -> Vec<String> {
        let (container, dir) = (format!("qvd-{NODE}-{VM}"), self.shim().path().display().to_string());
        let mut traces: Vec<String> = directories(GROUPS.as_ref()).filter(|group| group.contains(&container)).collect();
        let ours = |line: &&str| line.contains(&dir) || line.contains(&container);
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        traces.extend(mounts.lines().filter(ours).map(str::to_owned));
        let interface = format!("{}{VM}", self.config.get(&keys::VM_DEVICE_PREFIX));
        traces.extend(Path::new("/sys/class/net").join(&interface).exists().then_some(interface));
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            traces.extend(Some(String::from_utf8_lossy(&words).into_owned()).filter(|words| ours(&words.as_str())));
        }
        traces.extend(Path::new(&dir).exists().then_some(dir));
        traces
    }
}

impl Vm<'_> {
    /// A file of the control group that its processes are in.
    fn file(&self, controller: &str, file: &str) -> PathBuf {
        let hierarchy = match self.node.version {
            Version::V1 => Path::new(GROUPS).join(controller),
            Version::V2 => GROUPS.into(),
        };
        hierarchy.join(format!("lxc.payload.qvd-{NODE}-{VM}")).join(file)
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let path = self.file(controller, file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim().to_owned()
    }

    /// A line of such a file: how often something happened.
    fn count(&self, controller: &str, file: &str, what: &str) -> u64 {
        let text = self.read(controller, file);
        let line = text.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_else(|| panic!("{what} in {text}"));
        line.trim().parse().unwrap()
    }

    fn attach(&self, script: &str) -> Command {
        let mut attach = Command::new("lxc-attach");
        attach.arg("-P").arg(RootSpec::directory()).args(["-n", &format!("qvd-{NODE}-{VM}")]);
        attach.args(["--clear-env", "--", "/bin/sh", "-c", script]);
        attach
    }

    /// Whether a script inside succeeds.
    fn can(&self, script: &str) -> Result<(), Output> {
        let ran = self.attach(script).output().unwrap();
        if ran.status.success() { Ok(()) } else { Err(ran) }
    }

    fn is_held_to_its_memory(&self) {
        let name = if self.node.version == Version::V1 { "memory.limit_in_bytes" } else { "memory.max" };
        assert_eq!(self.read("memory", name), (u64::from(MEMORY_MB) << 20).to_string());
        self.can("exec dd if=/dev/zero of=/dev/null bs=8M count=1").unwrap();
        self.can("exec dd if=/dev/zero of=/dev/null bs=200M count=1").unwrap_err();
        self.can("exit 0").expect("it outlives its hog");
    }

    fn is_held_to_its_tasks(&self) {
        // Who waits for the script's output would else wait for theirs.
        let many = "for number in $(seq 20); do sleep 1000 >/dev/null 2>&1 & done";
        self.can(many).unwrap();
        assert_eq!(self.read("pids", "pids.max"), "8192");
        let now: u64 = self.read("pids", "pids.current").parse().unwrap();
        assert!(now > 20, "{now}");
        // So many that it would take emulation long to get there.
        let limit = self.file("pids", "pids.max");
        fs::write(&limit, (now + 10).to_string()).unwrap();
        self.can(many).unwrap_err();
        assert!(self.count("pids", "pids.events", "max ") > 0);
        fs::write(&limit, "8192").unwrap();
    }

    /// Of the two that the machine has it may use one.
    async fn is_held_to_its_processors(&self) {
        let throttled = || self.count("cpu", "cpu.stat", "nr_throttled ");
        let before = throttled();
        let mut busy: Vec<Child> = (0..2).map(|_| self.attach("while :; do :; done").spawn().unwrap()).collect();
        let begin = Instant::now();
        while throttled() < before + 3 {
            assert!(begin.elapsed() < PATIENCE, "{}", self.read("cpu", "cpu.stat"));
            // Nobody tells.
            tokio::time::sleep(ATTEMPT).await;
        }
        for busy in &mut busy {
            busy.kill().unwrap();
            busy.wait().unwrap();
        }
    }

    fn is_held_to_its_devices(&self) {
        self.can("mknod /dev/own-zero c 1 5 && exec dd if=/dev/own-zero of=/dev/null count=1").unwrap();
        let disk = "mknod /dev/disk b 7 0 && exec dd if=/dev/disk of=/dev/null count=1";
        let refused = self.can(disk).unwrap_err();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("/dev/disk': Operation not permitted"), "{said}");
    }

    async fn stop(self) {
        let exited = self.hypervisor.exited(VM);
        self.hypervisor.kill(VM).await.unwrap();
        assert_eq!(soon("the end", exited).await, Exit::Signal(9));
        self.leaves_nothing().await;
    }

    /// As when memory is short and the kernel chooses the shim.
    async fn die(self) {
        let exited = self.hypervisor.exited(VM);
        let status = client::status(&self.node.shim()).await.unwrap().unwrap();
        kill(Pid::from_raw(status.shim), Signal::SIGKILL).unwrap();
        assert_eq!(soon("the end", exited).await, Exit::Unseen);
        self.leaves_nothing().await;
    }

    async fn leaves_nothing(self) {
        soon("it is cleaned", self.hypervisor.clean(VM)).await.unwrap();
        assert_eq!(self.node.traces(), [""; 0]);
    }
}

/// An image that is hardly more than a shell.
fn pack(archive: &Path) {
    let root = Path::new("/tree");
    for dir in ["bin", "dev", "etc", "home", "proc", "run", "sys", "tmp", "usr/bin"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    for desktop in ["usr/bin/nxagent", "usr/bin/xinit"] {
        executable(&root.join(desktop), "");
    }
    run("tar", &["-cf", archive.to_str().unwrap(), "-C", "/tree", "."]);
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn directories(below: &Path) -> Box<dyn Iterator<Item = String>> {
    let dirs = fs::read_dir(below).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let paths: Vec<PathBuf> = dirs.map(|entry| entry.path()).collect();
    Box::new(paths.into_iter().flat_map(|path| {
        let own = path.display().to_string();
        std::iter::once(own).chain(directories(&path))
    }))
}

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
