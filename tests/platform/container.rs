//! Real LXC containers, from start to the last trace.

use std::{
    fs,
    io::{ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use qvd::{
    db::Database,
    hypervisor::{Container, Epochs, Exit, Found, Hypervisor, HypervisorError},
    keeper::{RootSpec, ShimDir, ShimStatus, client, process_table},
    model::{
        Agent, Census, CensusImage, DiId, Epoch, HostId, OsfId, Owner, TenantId, UserId, VmId, VmSecret, VmSpec,
        config::{Config, keys},
        in_one_line,
    },
    storage::{CheckOptions, Storage, StorageError},
};

use crate::cluster::promotion::{pair, promote};

use super::{image, lives, printed, read, signal, wait_until};

const VM: VmId = VmId(1);

/// The address of a node's network that ends so.
fn address(config: &Config, last: u8) -> IpAddr {
    match config.get(&keys::VM_IP_START) {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() & !0xff | u32::from(last)).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() & !0xff | u128::from(last)).into(),
    }
}

/// A node with storage, bridge and names of its own. All goes when it is dropped.
struct Node {
    number: u8,
    dir: tempfile::TempDir,
    config: Config,
    hypervisor: Container,
}

impl Node {
    async fn new(number: u8) -> Self {
        Self::with(number, None, &[]).await
    }

    async fn with(number: u8, agent: Option<&str>, settings: &[(&str, &str)]) -> Self {
        Self::claiming(number, agent, settings, None).await
    }

    /// The same, which writes into homes whose they are.
    async fn claiming(
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

    fn name(number: u8) -> String {
        format!("hpl-{number}")
    }

    /// The container's name on the machine.
    fn container(&self, vm: VmId) -> String {
        format!("qvd-hpl_{}-{vm}", self.number)
    }

    fn spec(&self, vm: VmId) -> VmSpec {
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

    fn storage(&self, path: &str) -> PathBuf {
        self.dir.path().join("storage").join(path)
    }

    fn shim(&self, vm: VmId) -> ShimDir {
        ShimDir::new(self.dir.path().join(format!("run/vm/{vm}")))
    }

    async fn status(&self, vm: VmId) -> ShimStatus {
        client::status(&self.shim(vm)).await.unwrap().unwrap()
    }

    /// The container's first process, as the node numbers it.
    async fn first_process(&self, vm: VmId) -> i32 {
        process_table::children(self.status(vm).await.pid)[0]
    }

    /// Runs a program inside; whether it succeeded.
    fn attach(&self, vm: VmId, words: &[&str]) -> bool {
        let mut attach = Command::new("lxc-attach");
        attach.arg("-P").arg(RootSpec::directory()).args(["-n", &self.container(vm), "--"]).args(words);
        attach.output().unwrap().status.success()
    }

    fn groups(&self, vm: VmId) -> Vec<String> {
        let found = printed(&format!("find /sys/fs/cgroup -maxdepth 2 -name *.{}*", self.container(vm)));
        found.lines().map(str::to_owned).collect()
    }

    /// What a stopped VM must not leave.
    fn traces(&self, vm: VmId) -> Vec<String> {
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
    fn loop_devices(&self, vm: VmId) -> Vec<String> {
        let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path().join("loop/backing_file"));
        let of_vm = [format!("homefs/{vm}-fs"), format!("overlayfs/1-{vm}-overlayfs")].map(|name| self.storage(&name));
        devices.map(read).filter(|file| of_vm.iter().any(|dir| file.starts_with(dir.to_str().unwrap()))).collect()
    }

    async fn stop(&self, vm: VmId) -> Exit {
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

/// The value of a file in the memory group of a container.
fn memory_group(group: &str, file: &str) -> String {
    read(Path::new(group).join(file)).trim().to_owned()
}

#[tokio::test]
async fn a_container_has_all_it_needs_and_leaves_nothing() {
    let node = Node::with(21, None, &[("vma.greeting", "hello")]).await;
    let spec = node.spec(VM);
    node.hypervisor.prepare(&spec).await.unwrap();
    node.hypervisor.start(&spec).await.unwrap();
    let init = node.first_process(VM).await;
    let inside = |path: &str| format!("/proc/{init}/root/{path}");

    wait_until("the agent speaks", || {
        read(node.shim(VM).path().join("output.log")).contains("agent runs as 1 with argument init")
    });
    assert_eq!(read(inside(".qvd/secret")), "07".repeat(32));
    let mode = |path: &str| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(inside(path)).unwrap().permissions()) & 0o777
    };
    assert_eq!((mode(".qvd/secret"), mode(".qvd")), (0o400, 0o700));
    assert_eq!(read(inside(".qvd/vma.conf")), "vma.greeting = hello\n");
    // By its root user, whose id nobody has outside.
    let write = |path: &str| {
        let script = format!("printf dear > {}", inside(path));
        let enter = ["-t", &init.to_string(), "-U", "-S", "0", "-G", "0", "sh", "-c", &script];
        Command::new("nsenter").args(enter).status().unwrap().success()
    };
    assert!(!write(".qvd/qvd-vma"), "the agent is read-only");
    assert!(!write(".qvd/more"), "and so is what lies beside it");
    assert_eq!(read(inside("etc/resolv.conf")), "nameserver 192.0.2.53\n", "in place of the image's dangling link");
    assert_eq!(read(inside("etc/hosts")), "127.0.1.1 desk-top\n127.0.0.1 localhost\n192.0.2.9 printer\n");
    assert_eq!(printed(&format!("nsenter -t {init} -u hostname")).trim(), "desk-top");
    let environment = read(format!("/proc/{init}/environ"));
    assert!(!environment.contains("CARGO"), "the daemon's environment stays outside: {environment}");
    let address = printed(&format!("nsenter -t {init} -n ip -br addr show eth0"));
    assert!(address.contains("10.202.21.101/24"), "{address}");
    assert!(printed(&format!("nsenter -t {init} -n ip route")).contains("default via 10.202.21.1"));
    assert!(printed("ip -d link show hpl21v1").contains("isolated on"));

    let image = node.storage("basefs/desk");
    assert!(fs::symlink_metadata(image.join("etc/resolv.conf")).unwrap().is_symlink(), "the image is untouched");
    assert!(write("home/letter") && write("scratch"));
    assert_eq!(node.hypervisor.found().await.unwrap(), [Found { vm: VM, alive: true }]);

    assert_eq!(node.stop(VM).await, Exit::Signal(9));
    assert_eq!(node.traces(VM), [""; 0]);
    node.hypervisor.clean(VM).await.unwrap();
    assert!(node.hypervisor.found().await.unwrap().is_empty());

    node.hypervisor.start(&spec).await.unwrap();
    let init = node.first_process(VM).await;
    assert_eq!(read(format!("/proc/{init}/root/home/letter")), "dear", "the home is kept");
    assert!(!Path::new(&format!("/proc/{init}/root/scratch")).exists(), "the rest is not");
}

#[tokio::test]
async fn the_memory_limit_is_really_applied() {
    let node = Node::new(22).await;
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
    let groups = node.groups(VM);
    let payload =
        |hierarchy: &str| groups.iter().find(|g| g.contains(hierarchy) && g.contains("lxc.payload.")).unwrap();
    let limit = if Path::new("/sys/fs/cgroup/memory").exists() {
        memory_group(payload("/memory/"), "memory.limit_in_bytes")
    } else {
        memory_group(payload("/cgroup/"), "memory.max")
    };
    assert_eq!(limit, (64 << 20).to_string());
    let init = node.first_process(VM).await;
    assert!(
        groups
            .iter()
            .filter(|g| g.contains("lxc.payload."))
            .any(|g| { read(Path::new(g).join("cgroup.procs")).lines().any(|pid| pid == init.to_string()) })
    );
    let copy = |megabytes: &str| {
        node.attach(VM, &["/bin/dd", "if=/dev/zero", "of=/dev/null", &format!("bs={megabytes}M"), "count=1"])
    };
    assert!(copy("8"), "nothing can be had");
    assert!(!copy("200"), "more than the limit cannot be had");
    assert!(lives(init), "the container outlives its hog");
}

#[tokio::test]
async fn a_layer_that_is_kept_is_its_vms_whatever_ids_that_has() {
    let node = Node::with(36, None, &[("vm.lxc.ids", "0"), ("vm.overlay.persistent", "1")]).await;
    let mut config = node.config.clone();
    config.set("vm.lxc.ids", "1000000000").unwrap();
    let mapping = Container::new(&config, &Node::name(36), address(&config, 1)).unwrap();
    mapping.prepare_node().await.unwrap();
    let owner = |path: String| fs::metadata(path).unwrap().uid();
    for (hypervisor, root) in [(&node.hypervisor, 0), (&mapping, 1_000_065_536), (&node.hypervisor, 0)] {
        hypervisor.start(&node.spec(VM)).await.unwrap();
        let init = node.first_process(VM).await;
        assert_eq!(owner(format!("/proc/{init}")), root, "who is root inside");
        assert!(node.attach(VM, &["/bin/sh", "-c", "echo x >>/scratch && echo x >>/home/letter"]));
        assert_eq!(owner(format!("/proc/{init}/root/scratch")), root);
        assert_eq!(owner(node.storage("homefs/1-fs/letter").display().to_string()), 0, "homes keep their owners");
        node.stop(VM).await;
    }
    assert_eq!(read(node.storage("homefs/1-fs/letter")), "x\nx\nx\n");
}

#[tokio::test]
async fn a_vm_reaches_neither_its_neighbour_nor_the_node() {
    let node = Node::new(23).await;
    let (a, b) = (VmId(1), VmId(2));
    for vm in [a, b] {
        node.hypervisor.start(&node.spec(vm)).await.unwrap();
    }
    let (from, to) = (node.first_process(a).await, node.first_process(b).await);
    let _agent = listen(to);
    let on_node = std::net::TcpListener::bind("10.202.23.1:0").unwrap();
    assert!(connects(None, "10.202.23.102:3030"));
    assert!(!connects(Some(from), "10.202.23.102:3030"));
    assert!(!connects(Some(from), &on_node.local_addr().unwrap().to_string()));
}

#[tokio::test]
async fn a_vm_is_reached_by_ipv6_alone_and_beside_ipv4_at_once() {
    let alone = [("vm.network.ip.start", "fd00:202:40::64"), ("vm.network.netmask", "64")];
    let beside = [("vm.network.ip6.prefix", "fd00:202:41::/64")];
    for (number, settings, addresses) in [
        (40, &alone[..], &["[fd00:202:40::65]:3030"][..]),
        (41, &beside, &["[fd00:202:41::aca:2965]:3030", "10.202.41.101:3030"]),
    ] {
        let node = Node::with(number, None, settings).await;
        node.hypervisor.start(&node.spec(VM)).await.unwrap();
        let first_process = node.first_process(VM).await;
        let _agent = listen(first_process);
        for address in addresses {
            assert!(connects(None, address), "{address}: {}", inside(first_process, "ip address"));
        }
        let routes = inside(first_process, "ip -6 route");
        assert!(routes.contains("default via fd00:202:4") && routes.contains("dev eth0"), "{routes}");
        node.stop(VM).await;
    }
}

#[tokio::test]
async fn a_vm_that_asks_by_dhcp_is_told_its_own_address_also_after_the_server_died() {
    let node = Node::with(42, None, &[("vm.network.use_dhcp", "1"), ("vm.network.domain", "desks.example")]).await;
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
    let first_process = node.first_process(VM).await;
    let tell = node.dir.path().join("tell");
    fs::write(
        &tell,
        "#!/bin/sh\nprintf 'ip=%s\\nrouter=%s\\nsubnet=%s\\ndomain=%s\\ndns=%s\\n' $ip $router $subnet $domain $dns\n",
    )
    .unwrap();
    fs::set_permissions(&tell, fs::Permissions::from_mode(0o755)).unwrap();
    let ask = || inside(first_process, &format!("busybox udhcpc -i eth0 -f -q -n -t 20 -T 1 -s {}", tell.display()));
    let told = ask();
    for line in
        ["ip=10.202.42.101", "router=10.202.42.1", "subnet=255.255.255.0", "domain=desks.example", "dns=192.0.2.53"]
    {
        let log = || read(node.dir.path().join("run/dhcp/dnsmasq.log"));
        assert!(told.lines().any(|told| told == line), "{line}: {told}{}", log());
    }

    let server = ShimDir::new(node.dir.path().join("run/dhcp"));
    let dead = client::status(&server).await.unwrap().unwrap();
    let guarded = node.hypervisor.clone();
    let guard = tokio::spawn(async move { guarded.guard_node().await });
    signal(dead.pid, "KILL");
    loop {
        let status = client::status(&server).await.unwrap();
        if status.is_some_and(|status| status.is_current() && status.pid != dead.pid) {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(ask().lines().any(|told| told == "ip=10.202.42.101"));

    let lives = client::status(&server).await.unwrap().unwrap();
    let next = Container::new(&node.config, &Node::name(42), address(&node.config, 1)).unwrap();
    next.prepare_node().await.unwrap();
    assert_eq!(client::status(&server).await.unwrap(), Some(lives), "the next daemon uses the one that runs");
    node.stop(VM).await;
    node.hypervisor.release_node().await.unwrap();
    assert_eq!(client::status(&server).await.unwrap(), None);
    guard.abort();
    next.release_node().await.unwrap();
}

/// What a program prints in the network of a VM.
fn inside(first_process: i32, command: &str) -> String {
    printed(&format!("nsenter -t {first_process} -n {command}"))
}

/// Listens on the agent's port of a VM until it is dropped.
fn listen(first_process: i32) -> Listening {
    let socat = ["socat", "-u", "TCP6-LISTEN:3030,fork,reuseaddr,ipv6only=0", "OPEN:/dev/null"];
    let listening =
        Listening(Command::new("nsenter").args(["-t", &first_process.to_string(), "-n"]).args(socat).spawn().unwrap());
    wait_until("it listens", || inside(first_process, "ss -Hltn").contains(":3030"));
    listening
}

struct Listening(std::process::Child);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a connection from a VM, or from the node, is accepted.
fn connects(from: Option<i32>, to: &str) -> bool {
    let enter: Vec<String> =
        from.map(|pid| vec!["nsenter".into(), "-t".into(), pid.to_string(), "-n".into()]).unwrap_or_default();
    let socat = ["socat".into(), "-u".into(), "OPEN:/dev/null".into(), format!("TCP:{to},connect-timeout=0.4")];
    let words: Vec<String> = enter.into_iter().chain(socat).collect();
    Command::new(&words[0]).args(&words[1..]).output().unwrap().status.success()
}

#[tokio::test]
async fn a_shim_that_dies_takes_its_container_with_it() {
    let node = Node::new(24).await;
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
    let (status, init) = (node.status(VM).await, node.first_process(VM).await);
    let exited = node.hypervisor.exited(VM);
    let begin = Instant::now();
    signal(status.shim, "KILL");
    assert_eq!(exited.await, Exit::Unseen);
    assert!(!lives(status.pid) && !lives(init), "dead when `exited` says so");
    println!("shim killed → container dead: {:?}", begin.elapsed());
    assert_eq!(node.hypervisor.found().await.unwrap(), [Found { vm: VM, alive: false }]);
    node.hypervisor.clean(VM).await.unwrap();
    assert_eq!(node.traces(VM), [""; 0]);
}

#[tokio::test]
async fn a_container_whose_monitor_dies_ends_and_can_be_started_again_at_once() {
    let node = Node::new(25).await;
    let spec = node.spec(VM);
    node.hypervisor.start(&spec).await.unwrap();
    let (status, init) = (node.status(VM).await, node.first_process(VM).await);
    let exited = node.hypervisor.exited(VM);
    signal(status.pid, "KILL");
    assert_eq!(exited.await, Exit::Signal(9));
    assert!(!lives(init));
    node.hypervisor.start(&spec).await.unwrap();
    assert!(lives(node.first_process(VM).await));
}

#[tokio::test]
async fn a_new_daemon_finds_what_runs_and_what_was_left() {
    let node = Node::new(26).await;
    for vm in [1, 2, 3] {
        node.hypervisor.start(&node.spec(VmId(vm))).await.unwrap();
    }
    signal(node.status(VmId(2)).await.shim, "KILL");
    node.hypervisor.exited(VmId(2)).await;
    let exited = node.hypervisor.exited(VmId(3));
    node.hypervisor.kill(VmId(3)).await.unwrap();
    exited.await;
    fs::remove_dir_all(node.shim(VmId(3)).path()).unwrap();

    let again = Container::new(&node.config, &Node::name(26), address(&node.config, 1)).unwrap();
    let found = again.found().await.unwrap();
    let expected = [(1, true), (2, false), (3, false)].map(|(vm, alive)| Found { vm: VmId(vm), alive });
    assert_eq!(found, expected, "groups and interfaces betray a VM whose directory is gone");
    let exited = again.exited(VmId(1));
    again.kill(VmId(1)).await.unwrap();
    assert_eq!(exited.await, Exit::Signal(9));
}

#[tokio::test]
async fn leftovers_of_a_crash_do_not_keep_a_vm_from_starting() {
    let node = Node::new(27).await;
    let spec = node.spec(VM);
    let dir = node.shim(VM);
    fs::create_dir_all(dir.path().join("mnt")).unwrap();
    fs::write(dir.exit(), "{\"status\":0}").unwrap();
    let precious = node.dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    let mounted = Command::new("mount").arg("--bind").arg(&precious).arg(dir.path().join("mnt")).status().unwrap();
    assert!(mounted.success());
    for name in ["lxc.monitor", "lxc.payload"] {
        for suffix in ["", "-1"] {
            let hierarchy =
                if Path::new("/sys/fs/cgroup/pids").exists() { "/sys/fs/cgroup/pids" } else { "/sys/fs/cgroup" };
            fs::create_dir(format!("{hierarchy}/{name}.{}{suffix}", node.container(VM))).unwrap();
        }
    }
    assert!(printed("ip link add hpl27v1 type veth peer name hpl27v1c").is_empty());

    node.hypervisor.start(&spec).await.unwrap();
    assert!(precious.join("file").exists(), "what was mounted there is not removed with it");
    assert!(node.groups(VM).iter().all(|group| !group.ends_with("-1-1")), "names are free again");
    node.hypervisor.start(&spec).await.unwrap();
    assert!(node.status(VM).await.is_current(), "a second start replaces the first");
    node.stop(VM).await;
    assert_eq!(node.traces(VM), [""; 0]);
}

#[tokio::test]
async fn a_vm_that_runs_elsewhere_is_not_started() {
    let node = Node::new(28).await;
    fs::create_dir_all(node.storage("homefs")).unwrap();
    let elsewhere = fs::File::create(node.storage("homefs/lock.1")).unwrap();
    elsewhere.lock().unwrap();
    let error = node.hypervisor.start(&node.spec(VM)).await.unwrap_err().to_string();
    assert!(error.contains("lock.1 is locked: the VM still runs") && error.ends_with("stop it there first"), "{error}");
    assert_eq!(node.traces(VM), [""; 0]);
    elsewhere.unlock().unwrap();
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_started_says_why_in_one_sentence_and_leaves_nothing() {
    let node = Node::new(29).await;
    let spec = |change: fn(&mut VmSpec)| {
        let mut spec = node.spec(VM);
        change(&mut spec);
        spec
    };
    let images = node.storage("images");
    fs::write(images.join("junk.tar.gz"), "this is no archive").unwrap();
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir_all(empty.path().join("usr/bin")).unwrap();
    assert!(
        Command::new("tar")
            .arg("-cf")
            .arg(images.join("bare.tar"))
            .arg("-C")
            .arg(empty.path())
            .arg(".")
            .status()
            .unwrap()
            .success()
    );
    fs::write(node.storage("homefs/4-fs"), "a file").unwrap();

    for (spec, said) in [
        (spec(|s| s.di_path = "gone.tar".into()), "gone.tar does not exist; copy the image there"),
        (spec(|s| s.di_path = "junk.tar.gz".into()), "disk image junk.tar.gz cannot be unpacked: "),
        (spec(|s| s.di_path = "bare.tar".into()), "disk image bare.tar has no usr/bin/nxagent; install it"),
        (spec(|s| s.di_path = "../desk.tar".into()), "cannot be the file name of a disk image; rename the file"),
        (spec(|s| s.vm = VmId(4)), "homefs/4-fs cannot be written; make it a directory"),
    ] {
        let error = node.hypervisor.start(&spec).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert_eq!(node.traces(spec.vm), [""; 0]);
    }

    fs::remove_file(node.dir.path().join("bin/qvd-vma")).unwrap();
    let error = node.hypervisor.start(&node.spec(VM)).await.unwrap_err().to_string();
    assert!(error.contains("qvd-vma does not exist; install it there"), "{error}");
}

#[tokio::test]
async fn a_container_that_dies_at_once_says_what_it_said_last() {
    let node = Node::with(30, Some("#!/no/such/interpreter\n"), &[]).await;
    let error = node.hypervisor.start(&node.spec(VM)).await.unwrap_err().to_string();
    println!("{error}");
    assert!(error.starts_with("the container of VM 1 ended while it was being started: "), "{error}");
    assert!(error.contains("No such file or directory"), "{error}");
    assert_eq!(node.traces(VM), [""; 0]);
}

#[tokio::test]
async fn a_container_that_shuts_down_by_itself_is_told_from_one_that_is_killed() {
    let node = Node::new(31).await;
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
    let init = node.first_process(VM).await;
    let exited = node.hypervisor.exited(VM);
    fs::write(format!("/proc/{init}/root/end"), "").unwrap();
    assert_eq!(exited.await, Exit::Status(0));
    node.hypervisor.clean(VM).await.unwrap();
    assert_eq!(node.traces(VM), [""; 0]);
}

#[tokio::test]
async fn an_image_of_the_classic_shape_boots_its_own_init_and_its_hooks_run_only_where_they_may() {
    let node = Node::with(34, None, &[("vm.lxc.hooks.allow", "1")]).await;
    let heard = node.dir.path().join("heard");
    image::pack_classic(&node.storage("images/classic.tar"), &heard);
    let spec = VmSpec { di_path: "classic.tar".into(), ..node.spec(VM) };
    let output = || read(node.shim(VM).path().join("output.log"));

    node.hypervisor.start(&spec).await.unwrap();
    wait_until("the image's agent speaks", || output().contains("the agent of the image runs"));
    let init = node.first_process(VM).await;
    assert_eq!(read(format!("/proc/{init}/root/etc/hooked")), "for 10.202.34.101\n");
    assert!(read(format!("/proc/{init}/environ")).contains("EXTRA=yes"));
    node.stop(VM).await;
    let name = node.container(VM);
    let lines = ["prestart starting", "poststart starting", "poststop stopping"].map(|line| format!("{line} {name}\n"));
    assert_eq!(read(&heard), lines.concat());
    assert_eq!(node.traces(VM), [""; 0]);

    fs::remove_file(&heard).unwrap();
    let mut config = node.config.clone();
    config.set("vm.lxc.hooks.allow", "0").unwrap();
    let strict = Container::new(&config, &Node::name(34), address(&config, 1)).unwrap();
    strict.start(&VmSpec { agent: Agent::Ours, ..spec }).await.unwrap();
    wait_until("our agent speaks", || output().contains("agent runs as 1 with argument init"));
    let init = node.first_process(VM).await;
    assert!(!read(format!("/proc/{init}/environ")).contains("EXTRA"));
    node.stop(VM).await;
    assert_eq!(read(&heard), "");
}

#[tokio::test]
async fn a_hook_that_fails_keeps_its_container_from_starting() {
    let node = Node::with(35, None, &[("vm.lxc.hooks.allow", "1")]).await;
    image::pack_classic(&node.storage("images/classic.tar"), Path::new("/no/such/directory"));
    let spec = VmSpec { di_path: "classic.tar".into(), ..node.spec(VM) };
    let error = node.hypervisor.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains("the hook prestart of its disk image failed: "), "{error}");
    assert!(error.contains("/no/such/directory"), "{error}");
    assert_eq!(node.traces(VM), [""; 0]);
}

#[tokio::test]
async fn a_bridge_that_vanished_is_made_again() {
    let node = Node::new(32).await;
    assert!(printed("ip link del hplbr32").is_empty());
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
    assert!(printed("ip -d link show hpl32v1").contains("master hplbr32"));
}

/// Writes into a file until there is no room; how much there was, and what was said.
fn fill(path: String) -> (u64, ErrorKind) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    loop {
        // Past what is merely promised.
        if let Err(error) = file.write_all(&[7; 1 << 18]).and_then(|()| file.sync_data()) {
            return (file.metadata().unwrap().len(), error.kind());
        }
    }
}

const LIMITED: [(&str, &str); 2] = [("vm.lxc.home.limit", "1"), ("vm.lxc.overlay.size", "12")];

#[tokio::test]
async fn a_vm_that_fills_its_home_and_its_system_harms_neither_the_node_nor_its_neighbour() {
    let node = Node::with(35, None, &LIMITED).await;
    let spec = |vm| VmSpec { user_storage_mb: 8, ..node.spec(VmId(vm)) };
    for vm in [1, 2] {
        node.hypervisor.start(&spec(vm)).await.unwrap();
    }
    let (first, second) = (node.first_process(VmId(1)).await, node.first_process(VmId(2)).await);
    let inside = |init: i32, path: &str| format!("/proc/{init}/root/{path}");
    for (path, limit) in [("home/large", 8 << 20), ("large", 12 << 20)] {
        let (written, why) = fill(inside(first, path));
        assert_eq!(why, ErrorKind::StorageFull, "{path}");
        assert!(written > limit / 4 && written < limit, "{path}: {written}");
        fs::write(inside(second, path), [7; 1 << 20]).unwrap();
    }
    let taken =
        printed(&format!("du -sm {} {}", node.storage("homefs").display(), node.storage("overlayfs").display()));
    let taken: u32 = taken.lines().map(|line| line.split_whitespace().next().unwrap().parse::<u32>().unwrap()).sum();
    assert!(taken <= 2 * (8 + 12), "{taken} MiB");
    fs::remove_file(inside(first, "home/large")).unwrap();
    fs::write(inside(first, "home/letter"), "dear").unwrap();
    for vm in [1, 2] {
        node.stop(VmId(vm)).await;
        wait_until("nothing is left", || node.traces(VmId(vm)).is_empty());
    }

    // Its home is kept, and larger when its OSF says so; the rest is thrown away.
    node.hypervisor.start(&VmSpec { user_storage_mb: 24, ..spec(1) }).await.unwrap();
    let init = node.first_process(VM).await;
    assert_eq!(read(inside(init, "home/letter")), "dear");
    assert!(!Path::new(&inside(init, "large")).exists() && !Path::new(&inside(init, "home/lost+found")).exists());
    let (written, _) = fill(inside(init, "home/large"));
    assert!(written > 12 << 20, "{written}");
    node.stop(VM).await;
}

/// A file system of a few megabytes, for a storage that can be filled, frozen and damaged.
struct Share(PathBuf);

impl Share {
    fn in_memory(path: PathBuf) -> Self {
        Self::mounted(&["-t", "tmpfs", "-o", "size=24m,mode=755", "share"], path)
    }

    fn in_file(file: &Path, path: PathBuf) -> Self {
        fs::File::create(file).unwrap().set_len(64 << 20).unwrap();
        assert!(Command::new("mkfs.ext4").arg("-q").arg(file).status().unwrap().success());
        Self::mounted(&["-o", "loop,errors=remount-ro", file.to_str().unwrap()], path)
    }

    fn mounted(what: &[&str], path: PathBuf) -> Self {
        assert!(Command::new("mount").args(what).arg(&path).status().unwrap().success());
        Self(path)
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        assert!(Command::new(program).args(arguments).arg(&self.0).status().unwrap().success(), "{program}");
    }

    /// Lets the kernel find it damaged, so that it takes no more writes.
    fn damage(&self) {
        let device = printed(&format!("findmnt -no SOURCE {}", self.0.display()));
        let device = device.trim().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Without volumes, so that the VM feels the storage itself.
#[tokio::test]
async fn on_a_full_or_read_only_storage_what_runs_goes_on_and_what_starts_says_why() {
    let node = Node::new(38).await;
    let layers = Share::in_memory(node.storage("overlayfs"));
    let homes = Share::in_file(&node.dir.path().join("homes"), node.storage("homefs"));
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
    let init = node.first_process(VM).await;
    let inside = |path: &str| format!("/proc/{init}/root/{path}");
    for path in ["letter", "home/letter"] {
        fs::write(inside(path), "dear").unwrap();
    }
    assert_eq!(fill(inside("large")).1, ErrorKind::StorageFull);
    // The last bytes, too.
    while fs::write(layers.0.join(format!("{:x}", rand::random::<u64>())), [7; 4096]).is_ok() {}
    let refused = async || {
        let error = in_one_line(&node.hypervisor.start(&node.spec(VmId(2))).await.unwrap_err());
        assert!(!node.shim(VmId(2)).path().exists() && node.groups(VmId(2)).is_empty(), "it left something");
        assert!(lives(init) && read(inside("home/letter")) == "dear");
        error
    };
    let error = refused().await;
    assert!(error.contains("No space left on device") && error.contains("make room on the storage"), "{error}");
    fs::remove_file(inside("large")).unwrap();
    node.hypervisor.start(&node.spec(VmId(2))).await.unwrap();
    node.stop(VmId(2)).await;

    homes.damage();
    assert_eq!(fs::write(inside("home/other"), "x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    let error = refused().await;
    assert!(error.contains("Read-only file system"), "{error}");
    fs::write(inside("letter"), "what is not on it").unwrap();
    node.stop(VM).await;
    drop((layers, homes));
    assert_eq!(node.traces(VM), [""; 0]);
}

/// As a share whose server is gone for a while.
#[tokio::test]
async fn while_the_storage_does_not_answer_what_runs_goes_on_and_what_starts_waits_for_it() {
    let node = Node::with(40, None, &LIMITED).await;
    let homes = Share::in_file(&node.dir.path().join("homes"), node.storage("homefs"));
    let spec = |vm| VmSpec { user_storage_mb: 8, ..node.spec(VmId(vm)) };
    node.hypervisor.start(&spec(1)).await.unwrap();
    let init = node.first_process(VM).await;
    let inside = |path: &str| format!("/proc/{init}/root/home/{path}");
    fs::write(inside("letter"), "dear").unwrap();
    homes.run("fsfreeze", &["-f"]);
    fs::write(inside("letter"), "dearest").unwrap();
    assert_eq!(read(inside("letter")), "dearest", "it is in memory");
    let second = spec(2);
    let mut starts = std::pin::pin!(node.hypervisor.start(&second));
    // Given a hundred chances it does not get on, nor does it fail.
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut starts).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(lives(init));
    homes.run("fsfreeze", &["-u"]);
    starts.await.unwrap();
    for vm in [1, 2] {
        node.stop(VmId(vm)).await;
        wait_until("it is unmounted", || node.loop_devices(VmId(vm)).is_empty());
        let volume = homes.0.join(format!("{vm}-fs.ext4"));
        let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(volume).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }
    node.hypervisor.start(&spec(1)).await.unwrap();
    assert_eq!(read(format!("/proc/{}/root/home/letter", node.first_process(VM).await)), "dearest");
    node.stop(VM).await;
    wait_until("it is unmounted", || node.loop_devices(VM).is_empty());
}

/// A volume promises more than its storage may have.
#[tokio::test]
async fn a_volume_whose_storage_is_full_is_whole_when_there_is_room_again() {
    let node = Node::with(39, None, &LIMITED).await;
    let share = Share::in_memory(node.storage("homefs"));
    let spec = |vm| VmSpec { user_storage_mb: 40, ..node.spec(VmId(vm)) };
    node.hypervisor.start(&spec(1)).await.unwrap();
    let init = node.first_process(VM).await;
    let inside = |init: i32, path: &str| format!("/proc/{init}/root/home/{path}");
    fs::File::create(inside(init, "letter"))
        .and_then(|mut file| file.write_all(b"dear").and_then(|()| file.sync_all()))
        .unwrap();
    let (written, _) = fill(inside(init, "large"));
    assert!(written < 24 << 20, "{written}");
    let error = node.hypervisor.start(&spec(2)).await.unwrap_err().to_string();
    assert!(error.contains("No space left") || error.contains("cannot be made so large"), "{error}");
    assert!(lives(init) && read(inside(init, "letter")) == "dear");
    node.stop(VM).await;
    share.run("mount", &["-o", "remount,size=96m"]);
    node.hypervisor.start(&spec(1)).await.unwrap();
    let init = node.first_process(VM).await;
    assert_eq!(read(inside(init, "letter")), "dear");
    fs::remove_file(inside(init, "large")).unwrap();
    fs::write(inside(init, "large"), vec![7; 16 << 20]).unwrap();
    node.stop(VM).await;
    let volume = node.storage("homefs/1-fs.ext4");
    wait_until("it is unmounted", || node.loop_devices(VM).is_empty());
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(&volume).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    drop(share);
}

#[tokio::test]
async fn a_volume_outlives_its_shim_and_is_not_mounted_twice() {
    let node = Node::with(36, None, &LIMITED).await;
    let spec = VmSpec { user_storage_mb: 8, ..node.spec(VM) };
    node.hypervisor.start(&spec).await.unwrap();
    fs::write(format!("/proc/{}/root/home/letter", node.first_process(VM).await), "dear").unwrap();
    let exited = node.hypervisor.exited(VM);
    signal(node.status(VM).await.shim, "KILL");
    assert_eq!(exited.await, Exit::Unseen);
    node.hypervisor.start(&spec).await.unwrap();
    assert_eq!(read(format!("/proc/{}/root/home/letter", node.first_process(VM).await)), "dear");

    let volume = fs::File::open(node.storage("homefs/1-fs.ext4")).unwrap();
    assert!(matches!(volume.try_lock(), Err(fs::TryLockError::WouldBlock)), "it is locked as long as it is mounted");
    node.stop(VM).await;
    volume.try_lock().unwrap();
    let error = node.hypervisor.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains("1-fs.ext4: somebody still writes to it"), "{error}");
    // The kernel frees a device when it has the time.
    wait_until("nothing is left", || node.traces(VM).is_empty());
}

#[tokio::test]
async fn a_home_that_cannot_be_limited_or_mounted_is_named_and_left_as_it_is() {
    let node = Node::with(37, None, &LIMITED).await;
    let spec = |vm| VmSpec { user_storage_mb: 8, ..node.spec(VmId(vm)) };
    let garbage = vec![7; 8 << 20];
    fs::write(node.storage("homefs/1-fs.ext4"), &garbage).unwrap();
    let error = node.hypervisor.start(&spec(1)).await.unwrap_err().to_string();
    assert!(error.contains("cannot mount the volume") && error.contains("1-fs.ext4"), "{error}");
    assert!(error.contains("see what e2fsck -n says"), "{error}");
    assert!(fs::read(node.storage("homefs/1-fs.ext4")).unwrap() == garbage);
    wait_until("nothing is left", || node.traces(VmId(1)).is_empty());

    fs::create_dir(node.storage("homefs/2-fs")).unwrap();
    fs::write(node.storage("homefs/2-fs/letter"), "dear").unwrap();
    node.hypervisor.start(&spec(2)).await.unwrap();
    assert_eq!(read(node.storage("homefs/2-fs/letter")), "dear", "what is in a directory stays there");
    node.stop(VmId(2)).await;
}

/// The database knows that it starts; whoever looks through the storage meanwhile neither touches it nor stands in its way.
#[tokio::test]
async fn a_check_that_repairs_leaves_a_vm_alone_that_starts_and_runs_and_one_that_the_database_has_forgotten() {
    let node = Node::new(34).await;
    let spec = node.spec(VM);
    let image = |is_used| CensusImage {
        di: spec.di,
        path: spec.di_path.clone(),
        is_ready: true,
        is_coming: false,
        is_used,
        size: None,
        sha256: None,
    };
    let knows = Census { vms: [(VM, true)].into(), images: vec![image(true)], one_storage: true, ..Census::default() };
    let options =
        CheckOptions { repair: true, checksums: false, keeps_layers: false, keeps_trees: Duration::from_secs(3600) };
    let storage = Storage::new(&node.config);
    let check = move |storage: &Storage, census: &Census| {
        storage.check::<StorageError>(options, || Ok(census.clone()), &mut |_, _| {}).unwrap()
    };
    let ends = Arc::new(AtomicBool::new(false));
    let looks = {
        let (storage, knows, ends) = (storage.clone(), knows.clone(), ends.clone());
        std::thread::spawn(move || {
            let mut found = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                found.extend(check(&storage, &knows));
            }
            found
        })
    };
    for _ in 0..5 {
        node.hypervisor.start(&spec).await.unwrap();
        node.stop(VM).await;
    }
    node.hypervisor.start(&spec).await.unwrap();
    ends.store(true, Ordering::Relaxed);
    let found = looks.join().unwrap();
    assert!(found.is_empty(), "{found:?}");

    let forgets = Census { one_storage: true, ..Census::default() };
    let findings = check(&storage, &forgets);
    let mended = findings.iter().filter(|finding| finding.is_mended()).count();
    assert_eq!((findings.len(), mended), (4, 0), "image, its tree, home and layer: {findings:#?}");
    fs::write(format!("/proc/{}/root/home/letter", node.first_process(VM).await), "dear").unwrap();
    assert_eq!(read(node.storage("homefs/1-fs/letter")), "dear");
    node.stop(VM).await;
    let findings = check(&storage, &forgets);
    let mended = findings.iter().filter(|finding| finding.is_mended()).count();
    assert_eq!((findings.len(), mended), (4, 3), "the image is left: {findings:#?}");
}

/// The epochs of nodes as a database has them.
struct Recorded(Database);

impl Epochs for Recorded {
    fn is_over(&self, host: HostId, epoch: Epoch) -> BoxFuture<'_, Result<bool, HypervisorError>> {
        Box::pin(async move { Ok(self.0.epoch_is_over(host, epoch).await.unwrap()) })
    }
}

/// The standby was behind: what it knows nothing of goes on all the same, and its home is not given to another.
#[tokio::test]
async fn a_desktop_whose_start_was_lost_with_the_primary_does_not_run_twice() {
    let (primary, standby) = pair(1, false).await;
    let mut nodes = Vec::new();
    let shared = tempfile::tempdir().unwrap();
    let root = shared.path().display().to_string();
    for (name, number) in [("n1", 31), ("n2", 32)] {
        primary
            .sql(&format!("select host_create('{name}', '10.9.0.{number}') where not exists (select from hosts where name = '{name}')"))
            .await;
        let life = format!("select node || ', ' || node_epoch from node_start('{name}', gen_random_uuid(), 1)");
        let life = primary.sql(&life).await.unwrap();
        primary.sql(&format!("select node_state({life}, 'running')")).await;
        nodes.push((number, life));
    }
    let written = primary.sql("select pg_current_wal_flush_lsn()").await.unwrap();
    primary.wait_for(&format!("select replay_lsn >= '{written}' from pg_stat_replication"), "t").await;
    standby.sql("alter system set primary_conninfo = ''").await;
    standby.sql("select pg_reload_conf()").await;
    primary.wait_for("select count(*) from pg_stat_replication", "0").await;

    let vm = VmId(primary.sql("select vm_id('alice/d1')").await.unwrap().parse().unwrap());
    let node = async |which: usize, database: Database| {
        let (number, life) = &nodes[which];
        let (host, epoch) = life.split_once(", ").unwrap();
        let owner =
            Owner { host: HostId(host.parse().unwrap()), epoch: epoch.parse().unwrap(), boot_id: "b".to_owned() };
        let claims: (Owner, Arc<dyn Epochs>) = (owner, Arc::new(Recorded(database)));
        Node::claiming(*number, None, &[("path.storage.root", &root)], Some(claims)).await
    };
    let database = |db: &crate::cluster::database::Db| Database::new(&db.connector(), 1).unwrap();
    primary.sql("select host_block('n2'), vm_start('alice/d1')").await;
    assert_ne!(primary.sql(&format!("select vm_id from node_claim({}, 3030, 4100)", nodes[0].1)).await, None);
    let first = node(0, database(&primary)).await;
    let spec = first.spec(vm);
    first.hypervisor.prepare(&spec).await.unwrap();
    first.hypervisor.start(&spec).await.unwrap();

    primary.cluster().kill().await;
    promote(&standby).await;
    let state = "select vm_state || ' ' || coalesce(host_id, 0) from vm_runtimes";
    assert_eq!(standby.sql(state).await.unwrap(), "stopped 0", "the start is lost");
    standby.sql("select host_block('n1'), host_block('n2', false), vm_start('alice/d1')").await;
    assert_ne!(standby.sql(&format!("select vm_id from node_claim({}, 3030, 4100)", nodes[1].1)).await, None);
    let second = node(1, database(&standby)).await;
    let theirs = second.spec(vm);
    second.hypervisor.prepare(&theirs).await.unwrap();
    let refused = second.hypervisor.start(&theirs).await.unwrap_err().to_string();
    assert!(refused.contains("lock"), "{refused}");
    let init = first.first_process(vm).await;
    assert!(lives(init));
    assert!(second.hypervisor.found().await.unwrap().iter().all(|found| !found.alive));

    first.stop(vm).await;
    second.hypervisor.start(&theirs).await.unwrap();
    second.stop(vm).await;
}
