//! Real LXC containers, from start to the last trace.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command, sync::Arc, time::Instant};

use futures_util::future::BoxFuture;
use qvd::{
    db::Database,
    hypervisor::{Container, Epochs, Exit, Found, Hypervisor, HypervisorError},
    model::{Agent, Epoch, HostId, Owner, VmId, VmSpec},
};

use crate::cluster::promotion::{pair, promote};

use super::{
    image, lives,
    node::{Node, VM, address},
    printed, read, signal, wait_until,
};

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
    let monitor = node.status(VM).await.pid;
    assert_eq!(read(format!("/proc/{monitor}/environ")), "", "LXC finds no program by itself, such as newuidmap");
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
async fn each_single_thing_that_a_run_left_is_freed_before_the_next() {
    let node = Node::new(57).await;
    let spec = node.spec(VM);
    let hierarchy = if Path::new("/sys/fs/cgroup/pids").exists() { "/sys/fs/cgroup/pids" } else { "/sys/fs/cgroup" };
    let old = node.shim(VM).path().join("old");
    for left in ["group", "interface", "directory"] {
        match left {
            "group" => fs::create_dir(format!("{hierarchy}/lxc.payload.{}", node.container(VM))).unwrap(),
            "interface" => assert!(printed("ip link add hpl57v1 type veth peer name hpl57v1c").is_empty()),
            _ => fs::create_dir_all(&old).unwrap(),
        }
        node.hypervisor.start(&spec).await.unwrap_or_else(|error| panic!("a {left} was left: {error}"));
        assert!(
            node.groups(VM).iter().all(|group| !group.ends_with("-1-1")),
            "a {left} was left: names are free again"
        );
        assert!(!old.exists(), "a {left} was left");
        node.stop(VM).await;
        assert_eq!(node.traces(VM), [""; 0], "a {left} was left");
    }
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
    for (name, number) in [("n1", 54), ("n2", 55)] {
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
