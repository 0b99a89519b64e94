//! What the root user inside a container tries in vain, and what it can do to nobody but itself. What it reaches of the
//! network is in `isolation`.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qvd::model::config::keys;

use super::{desk::Desk, installation::Installation, processes::Process};

/// What must fail, as scripts.
const REFUSED: [(&str, &str); 15] = [
    ("makes a device of the node's disk", "mknod /tmp/disk b 254 0"),
    ("mounts a disk", "mount -t ext4 /dev/vda /mnt"),
    ("mounts the node's files anew", "mount -o remount,rw /sys && echo 1 >/sys/kernel/mm/ksm/run"),
    ("has a program called by the kernel", "echo '|/tmp/evil' >/proc/sys/kernel/core_pattern"),
    ("presses the magic key", "echo h >/proc/sysrq-trigger"),
    ("sets the time", "date -s 2001-01-01"),
    ("writes the agent's secret", "echo x >/.qvd/secret"),
    ("replaces the agent", "echo x >/.qvd/qvd-vma"),
    ("reads memory of the machine", "head -c 1 /dev/mem"),
    ("sees a process of the node", "grep -l '[q]vd-keeper' /proc/[0-9]*/cmdline"),
    ("fills the memory with files", "head -c 400M /dev/zero >/dev/shm/x; status=$?; rm /dev/shm/x; exit $status"),
    ("takes more memory than it has", "perl -e '$x = \"x\" x 800e6'"),
    ("raises its limit", "mount -t cgroup -o memory c /mnt && echo -1 >/mnt/memory.limit_in_bytes"),
    ("raises its limit", "mount -t cgroup2 c /mnt && echo max >/mnt/memory.max"),
    (
        "gets more devices",
        "mkdir /mnt/devices && mount -t cgroup -o devices c /mnt/devices && echo a >/mnt/devices/devices.allow",
    ),
];

/// System calls that must be refused, by their numbers on x86-64, as arguments of Perl's `syscall`.
const REFUSED_CALLS: [(&str, &str); 9] = [
    ("loads a module", "175, 0, 0, 0"),
    ("loads a module from a file", "313, 0, 0, 0"),
    ("replaces the kernel", "246, 0, 0, 0, 0"),
    ("opens a file behind mounts", "304, 3, $memory, 0"),
    ("reads the kernel's log", "103, 3, $memory, 64"),
    ("loads a program into the kernel", "321, 5, $memory, 128"),
    ("adds a key to a ring", "248, $memory, $memory, $memory, 1, -4"),
    ("watches the machine's processors", "298, $memory, -1, 0, -1, 0"),
    ("uses the ports of the machine", "172, 3"),
];

/// Whose processes may do less than root: bits of capabilities(7).
const DROPPED: [(&str, u32); 7] = [
    ("sys_module", 16),
    ("sys_rawio", 17),
    ("sys_time", 25),
    ("mac_override", 32),
    ("mac_admin", 33),
    ("syslog", 34),
    ("wake_alarm", 35),
];

#[tokio::test]
async fn the_root_user_of_a_container_gets_nowhere() {
    let at = Installation::shared().await;
    let mallory = Desk::new(&at, "mallory").await;
    let guest = mallory.start().await;
    let printed = |script: &str| String::from_utf8(guest.run(script).stdout).unwrap().trim().to_owned();
    assert_eq!(printed("id -u"), "0", "nothing works at all");

    let done: Vec<_> = REFUSED.iter().filter(|(_, script)| guest.run(script).status.success()).collect();
    assert!(done.is_empty(), "it {done:#?}");
    let returned =
        |call: &str| printed(&format!("perl -e '$memory = \"\\0\" x 128; print syscall({call}), \" \", $! + 0'"));
    let done = REFUSED_CALLS.map(|(what, call)| (what, returned(call)));
    let done: Vec<_> = done.iter().filter(|(_, returned)| returned != "-1 1").collect();
    assert!(done.is_empty(), "it {done:#?}");
    // Though it knows what to look for.
    let hkd = at.process("hkd").unwrap().pid;
    assert!(!guest.run(&format!("kill -0 {hkd}")).status.success(), "it reaches the node's processes");
    assert_eq!(printed(&format!("perl -e 'print syscall(101, 16, {hkd}, 0, 0)'")), "-1", "it traces them");
    for path in [at.directory(), at.run_directory(), at.config_file()] {
        assert!(path.exists());
        let script = format!("ls -d {0} /proc/[0-9]*/root{0}", path.display());
        assert_eq!(printed(&script), "", "it sees files and sockets of the node");
    }

    let init = guest.init();
    let status = fs::read_to_string(format!("/proc/{}/status", init.pid)).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    let bounds = u64::from_str_radix(&field("CapBnd:"), 16).unwrap();
    for (name, bit) in DROPPED {
        assert_eq!(bounds >> bit & 1, 0, "{name} can be had");
    }
    assert_eq!(
        printed("cat /proc/kcore /proc/keys /proc/timer_list; ls -A /sys/firmware /proc/acpi /proc/scsi | grep -v :"),
        ""
    );
    assert_eq!(printed("awk '$2 == \"/proc/sys\" || $2 == \"/sys\" {print substr($4, 1, 2)}' /proc/mounts"), "ro\nro");
    let of_node = |device: &&str| device.starts_with("pt") || Path::new("/dev").join(device).exists();
    let devices = ["full", "fuse", "net/tun", "null", "ptmx", "pts/ptmx", "random", "tty", "urandom", "zero"];
    let devices: Vec<&str> = devices.into_iter().filter(of_node).collect();
    let there = "cd /dev; for file in $(find * -not -type l); do [ -c $file -o -b $file ] && echo $file; done | sort";
    assert_eq!(printed(there).lines().collect::<Vec<_>>(), devices);
    assert_eq!(printed("df --output=size -BM /dev/shm | tail -1"), "256M");

    let first: u32 = at.config().unwrap().get(&keys::VM_LXC_IDS);
    for process in init.descendants().into_iter().chain([init]) {
        let Ok(status) = fs::read_to_string(format!("/proc/{}/status", process.pid)) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert!(ids.iter().all(|id| *id >= first), "{:?} has the ids {ids:?}", process.words());
    }
    assert!(guest.run("install -m 4755 /bin/bash /var/root-shell && touch /home/own").status.success());
    let layers = fs::read_dir(at.storage("overlayfs")).unwrap().map(|entry| entry.unwrap().path());
    let shell = layers.map(|layer| layer.join("upper/var/root-shell")).find(|file| file.exists()).unwrap();
    assert!(shell.metadata().unwrap().uid() >= first, "whoever finds it on the storage becomes nobody by it");
    // What is kept belongs to whom it belonged before there were ids of containers, so nobody else may find it.
    assert_eq!(mallory.home().with_file_name("own").metadata().unwrap().uid(), 0);
    for directory in ["basefs", "overlayfs", "homefs"] {
        assert_eq!(at.storage(directory).metadata().unwrap().permissions().mode() & 0o007, 0, "{directory}");
    }
    mallory.stop().await;
}

/// Forks until that is refused, without haste for the sake of other tests. Its children keep nothing open.
const BOMB: &str = "nice -n 19 perl -e 'my $children = 0;
    for (1 .. 10000) {
        my $child = fork;
        last unless defined $child;
        if (!$child) { close STDOUT; close STDERR; sleep 1000; exit }
        $children++;
    }
    print $children'";

#[tokio::test]
async fn a_container_that_forks_without_end_harms_itself_alone() {
    let at = Installation::shared().await;
    at.sql("select osf_create('roomy', memory => 4096), di_create('roomy', 'desktop.tar.zst')").await.unwrap();
    let (bomber, neighbour) = (Desk::of(&at, "bomber", "roomy").await, Desk::new(&at, "bystander").await);
    let (guest, other) = tokio::join!(bomber.start(), neighbour.start());
    let children: u32 = String::from_utf8(guest.run(BOMB).stdout).unwrap().parse().unwrap();
    assert!((4000..8192).contains(&children), "{children} children");
    assert!(other.run("true").status.success(), "its neighbour cannot begin a process");
    assert!(Command::new("true").status().unwrap().success(), "nor can the node");
    assert_eq!(neighbour.column("state").await.as_deref(), Some("running"));

    // Its agent needs a process to shut down.
    let children: Vec<Process> = guest.processes().into_iter().filter(|process| process.program() == "perl").collect();
    for child in children {
        let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
    }
    tokio::join!(bomber.stop(), neighbour.stop());
}
