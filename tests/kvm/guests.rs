//! Guests without a system: what holds them, and what keeps them apart.

use std::{
    fs,
    io::Read,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use qvd::{
    hypervisor::{Exit, Found, Hypervisor},
    keeper::fence::{BootTime, Fence, Signer},
    model::{VmId, VmSpec},
};

use crate::platform::{PATIENCE, lives, printed, read, signal};

use super::node::{IMAGE, Node, VM};

#[tokio::test]
async fn a_guest_is_held_by_its_shim_plugged_in_guarded_and_leaves_nothing() {
    let node = Node::new(21, &[("vm.vnc.redirect", "1")]).await;
    let spec = node.spec();
    node.hypervisor.prepare(&spec).await.unwrap();
    node.hypervisor.start(&spec).await.unwrap();
    let status = node.status(VM).await;
    let command_line = read(format!("/proc/{}/cmdline", status.pid));
    assert!(command_line.starts_with("/usr/bin/qemu-system-x86_64"), "{command_line}");
    assert!(!command_line.contains(&"07".repeat(32)), "everybody can read that");
    let who = read(format!("/proc/{}/status", status.pid));
    for line in ["Uid:\t1000065536\t1000065536\t1000065536\t1000065536", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]
    {
        assert!(who.lines().any(|found| found == line), "{line}: {who}");
    }
    let environment = read(format!("/proc/{}/environ", status.pid));
    assert!(!environment.contains("CARGO"), "the daemon's environment stays outside: {environment}");
    let port = printed(&format!("bridge -d link show dev {}", node.interface(VM)));
    assert!(port.contains("master hkvbr21") && port.contains("isolated on") && port.contains("locked on"), "{port}");
    let mut screen = UnixStream::connect(node.shim(VM).path().join("qemu/vnc.sock")).unwrap();
    let mut greeting = [0; 4];
    screen.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"RFB ");

    // Another daemon of the node finds it.
    let other = node.seen_with(&[]);
    assert_eq!(other.found().await.unwrap(), [Found { vm: VM, alive: true }]);
    let exited = other.exited(VM);
    other.kill(VM).await.unwrap();
    assert_eq!(exited.await, Exit::Status(0), "QEMU had the time to write its disks out");
    node.nothing_is_left().await;
    let home = node.storage("homes/1-data.qcow2");
    assert!(Command::new("qemu-img").args(["check", "-q"]).arg(home).status().unwrap().success(), "the home stays");
}

#[tokio::test]
async fn a_guest_that_is_killed_is_gone_at_once_and_tells_why() {
    let node = Node::new(22, &[]).await;
    for (victim, exit) in [("QEMU", Exit::Signal(9)), ("its shim", Exit::Unseen)] {
        node.hypervisor.start(&node.spec()).await.unwrap();
        let status = node.status(VM).await;
        let exited = node.hypervisor.exited(VM);
        let began = Instant::now();
        signal(if victim == "QEMU" { status.pid } else { status.shim }, "KILL");
        assert_eq!(exited.await, exit, "{victim}");
        println!("measured: {victim} killed until it is known: {} ms", began.elapsed().as_millis());
        node.nothing_is_left().await;
        assert!(!lives(status.pid), "{victim}");
    }
}

#[tokio::test]
async fn a_qemu_that_does_not_listen_is_killed_all_the_same() {
    let node = Node::new(23, &[]).await;
    node.hypervisor.start(&node.spec()).await.unwrap();
    signal(node.status(VM).await.pid, "STOP");
    let exited = node.hypervisor.exited(VM);
    node.hypervisor.kill(VM).await.unwrap();
    assert_eq!(exited.await, Exit::Signal(9));
    node.nothing_is_left().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why_and_leaves_nothing() {
    let node = Node::new(24, &[]).await;
    let refused = async |spec: VmSpec, why: &str| {
        let error = node.hypervisor.start(&spec).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(node.traces(), Vec::<String>::new(), "{why}");
    };
    refused(VmSpec { di_path: "none.qcow2".into(), ..node.spec() }, "none.qcow2 does not exist; copy the image").await;
    fs::write(node.image("desk.tar"), [1; 10240]).unwrap();
    refused(VmSpec { di_path: "desk.tar".into(), ..node.spec() }, "desk.tar cannot be used: it is no qcow2 disk").await;
    refused(VmSpec { memory_mb: 1 << 30, ..node.spec() }, "the QEMU of VM 1 ended at once: ").await;

    let home = node.storage("homes/1-data.qcow2");
    assert!(home.exists(), "it was made before QEMU refused");
    let whole = fs::read(&home).unwrap();
    // A size that no disk can have is found by QEMU alone.
    let mut damaged = whole.clone();
    damaged[24..32].copy_from_slice(&[0x7f; 8]);
    for (bytes, why) in [
        (b"garbage".to_vec(), "1-data.qcow2 cannot be used: it is no qcow2 disk"),
        (damaged, "disk home: Image is too big"),
    ] {
        fs::write(&home, &bytes).unwrap();
        refused(node.spec(), why).await;
        assert_eq!(fs::read(&home).unwrap(), bytes, "nothing is put in the place of a damaged home");
    }
    fs::write(&home, whole).unwrap();
    node.hypervisor.start(&node.spec()).await.unwrap();
}

#[tokio::test]
async fn two_qemus_never_write_one_disk_even_where_the_locks_beside_it_are_lost() {
    let (one, other) = (Node::new(25, &[]).await, Node::bare(26, &[]).await);
    one.hypervisor.start(&one.spec()).await.unwrap();
    let storage = one.storage("").display().to_string();
    let same = ("path.storage.root", storage.as_str());
    let spec = VmSpec { address: other.spec().address, ..one.spec() };
    let error = other.seen_with(&[same]).start(&spec).await.unwrap_err().to_string();
    assert!(error.contains("still runs on this node or another"), "{error}");
    for lock in ["homes/lock.1", "overlays/lock.1"] {
        fs::remove_file(one.storage(lock)).unwrap();
    }
    for keep in ["1", "0"] {
        let error =
            other.seen_with(&[same, ("vm.overlay.persistent", keep)]).start(&spec).await.unwrap_err().to_string();
        assert!(error.contains("Failed to get \"write\" lock"), "{error}");
    }
    assert!(lives(one.status(VM).await.pid));
    assert_eq!(other.traces(), Vec::<String>::new());
}

/// The flags with which a process has opened a file.
fn flags(pid: i32, file: &Path) -> i32 {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let of_file = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == file));
    let number = of_file.last().expect("it is open").file_name().into_string().unwrap();
    let info = read(format!("/proc/{pid}/fdinfo/{number}"));
    i32::from_str_radix(info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim(), 8).unwrap()
}

#[tokio::test]
async fn an_image_may_be_a_raw_disk_and_is_never_written() {
    let node = Node::bare(30, &[]).await;
    let mut disk = vec![0; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(node.image(IMAGE), &disk).unwrap();
    node.hypervisor.prepare(&node.spec()).await.unwrap();
    node.hypervisor.start(&node.spec()).await.unwrap();
    let layer = node.storage("overlays/1-1-overlay.qcow2").display().to_string();
    let told = printed(&format!("qemu-img info --force-share {layer}"));
    assert!(told.contains("backing file format: raw") && told.contains("virtual size: 1 MiB"), "{told}");
    node.hypervisor.kill(VM).await.unwrap();
    node.nothing_is_left().await;
    assert!(fs::read(node.image(IMAGE)).unwrap() == disk);
    fs::write(node.image(IMAGE), &disk[..1000]).unwrap();
    let error = node.hypervisor.prepare(&node.spec()).await.unwrap_err().to_string();
    assert!(error.contains("it is cut off: its size is no multiple of 512 bytes"), "{error}");
}

#[tokio::test]
async fn the_home_of_a_user_is_had_by_one_guest_at_a_time() {
    let node = Node::new(29, &[("vm.kvm.home.per.user", "1")]).await;
    node.hypervisor.start(&node.spec()).await.unwrap();
    let second = VmSpec { vm: VmId(2), ..node.spec() };
    let error = node.hypervisor.start(&second).await.unwrap_err().to_string();
    assert!(error.contains("lock.user-1 is locked: another VM has this home of their user"), "{error}");
    node.hypervisor.kill(VM).await.unwrap();
    node.nothing_is_left().await;
    node.hypervisor.start(&second).await.unwrap();
    node.hypervisor.kill(VmId(2)).await.unwrap();
    node.hypervisor.clean(VmId(2)).await.unwrap();
    assert!(node.storage("homes/user-1-data.qcow2").is_file(), "it outlives each VM");
}

#[tokio::test]
async fn what_guests_of_shared_storage_write_goes_past_the_page_cache() {
    let node = Node::new(27, &[]).await;
    // What keeper does.
    let fence = Fence::of_node(&node.dir.path().join("run")).unwrap();
    fence.signed(Signer::Keeper, BootTime::now().unwrap(), Duration::from_secs(600)).unwrap();
    node.seen_with(&[("storage.local", "0")]).start(&node.spec()).await.unwrap();
    let pid = node.status(VM).await.pid;
    let direct = |file: &Path| flags(pid, file) & nix::libc::O_DIRECT != 0;
    for disk in ["overlays/1-1-overlay.qcow2", "homes/1-data.qcow2"] {
        assert!(direct(&node.storage(disk)), "{disk}");
    }
    assert!(!direct(&node.image(IMAGE)), "an image does not change");
}

/// What QEMU answers to a command.
async fn asked(node: &Node, command: &str) -> String {
    let monitor = node.shim(VM).path().join("qemu/qmp.sock").display().to_string();
    let words = format!("'{{\"execute\":\"qmp_capabilities\"}}' '{{\"execute\":\"{command}\"}}'");
    let script = format!("printf '%s\\n' {words} | socat -t 5 - UNIX-CONNECT:{monitor}");
    let output = tokio::process::Command::new("sh").args(["-c", &script]).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_daemon_makes_the_bridge_again_and_lets_a_guest_run_that_waits() {
    let node = Node::new(28, &[]).await;
    assert!(Command::new("ip").args(["link", "del", "hkvbr28"]).status().unwrap().success());
    node.hypervisor.start(&node.spec()).await.unwrap();
    assert!(printed("ip -br link").contains("hkvbr28"));
    let ask = async |command| asked(&node, command).await;
    assert!(ask("query-status").await.contains("\"status\": \"running\""));
    // As a daemon leaves it that dies between the two.
    fs::remove_file(node.shim(VM).path().join("has-run")).unwrap();
    ask("stop").await;
    ask("system_reset").await;
    assert!(ask("query-status").await.contains("\"status\": \"prelaunch\""), "{}", ask("query-status").await);
    assert_eq!(node.seen_with(&[]).found().await.unwrap(), [Found { vm: VM, alive: true }]);
    let began = Instant::now();
    while !ask("query-status").await.contains("\"status\": \"running\"") {
        assert!(lives(node.status(VM).await.pid) && began.elapsed() < PATIENCE, "it is let run");
    }
}
