//! The shim with ordinary processes in place of a VM.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::Path,
    process::Command,
    time::Duration,
};

use qvd::keeper::{
    Ended, ShimDir, ShimSpec, ShimStatus, Volume, client,
    fence::{BootTime, Fence, FenceSpec, Signer},
};
use qvd::model::{HostId, Owner};

use super::{PATIENCE, lives, read, signal, wait_until};

pub const KEEPER: &str = env!("CARGO_BIN_EXE_qvd-keeper");

struct Vm {
    dir: tempfile::TempDir,
    shim: ShimDir,
}

impl Vm {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shim = ShimDir::new(dir.path());
        Self { dir, shim }
    }

    fn spec(&self, script: &str) -> ShimSpec {
        ShimSpec {
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            output: self.dir.path().join("output.log"),
            locks: vec![self.dir.path().join("home.lock")],
            ..ShimSpec::default()
        }
    }

    async fn start(&self, script: &str) -> ShimStatus {
        client::start(Path::new(KEEPER), &self.shim, &self.spec(script)).await.unwrap();
        client::status(&self.shim).await.unwrap().unwrap()
    }

    /// The process ids that the script printed, one a line.
    fn printed_pids(&self, count: usize) -> Vec<i32> {
        let pids =
            || read(self.dir.path().join("output.log")).lines().filter_map(|l| l.parse().ok()).collect::<Vec<_>>();
        wait_until("the processes run", || pids().len() == count);
        pids()
    }

    fn locked(&self) -> bool {
        fs::File::open(self.dir.path().join("home.lock")).unwrap().try_lock().is_err()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // To the end of the connection, so that the directory is not removed under a living shim.
        if let Ok(mut shim) = UnixStream::connect(self.shim.socket()) {
            let _ = shim.write_all(b"wait\nkill\n");
            let _ = shim.read_to_end(&mut Vec::new());
        }
    }
}

#[tokio::test]
async fn the_end_of_the_command_is_recorded_and_told() {
    let vm = Vm::new();
    let status = vm.start("exec sleep 1000").await;
    assert!(status.is_current() && vm.locked());
    let other_boot = ShimStatus { boot_id: "another".into(), ..status.clone() };
    let other_process = ShimStatus { start_time: status.start_time + 1, ..status.clone() };
    assert!(!other_boot.is_current() && !other_process.is_current());
    let (shim, waiter) = (vm.shim.clone(), vm.shim.clone());
    let waiter = tokio::spawn(async move { client::wait(&waiter).await });
    signal(status.pid, "USR1");
    assert_eq!(waiter.await.unwrap(), Some(Ended::Signal(10)));
    assert_eq!(client::wait(&shim).await, Some(Ended::Signal(10)), "whoever asks later is told the same");
    assert!(!vm.locked());
}

#[tokio::test]
async fn kill_leaves_no_process_of_the_vm_whatever_it_did_to_get_away() {
    let vm = Vm::new();
    // A child in a session of its own whose parent is gone, and one that ignores what it can.
    let status = vm.start("setsid sh -c 'setsid sleep 1001 & echo $!; exit' & (trap '' TERM HUP; echo $(exec sh -c 'echo $PPID'); exec sleep 1002) & wait; exec sleep 1003").await;
    let pids = vm.printed_pids(2);
    assert!(client::kill(&vm.shim).await.unwrap());
    assert_eq!(client::wait(&vm.shim).await, Some(Ended::Signal(9)));
    assert!(pids.iter().chain([&status.pid]).all(|pid| !lives(*pid)), "{pids:?}");
    assert!(!vm.locked());
    assert!(!client::kill(&vm.shim).await.unwrap(), "there is nobody left to kill");
}

#[tokio::test]
async fn what_the_command_leaves_behind_ends_with_it() {
    let vm = Vm::new();
    // It may be over before anyone could ask for its status.
    client::start(Path::new(KEEPER), &vm.shim, &vm.spec("setsid sleep 1004 & echo $!; exit 3")).await.unwrap();
    assert_eq!(client::wait(&vm.shim).await, Some(Ended::Status(3)));
    assert!(vm.printed_pids(1).iter().all(|pid| !lives(*pid)));
}

#[tokio::test]
async fn a_shim_that_is_killed_takes_its_vm_with_it() {
    let vm = Vm::new();
    let status = vm.start("exec sleep 1005").await;
    signal(status.shim, "KILL");
    assert_eq!(client::wait(&vm.shim).await, None, "nobody saw the end");
    wait_until("the command is dead", || !lives(status.pid));
    assert!(!vm.locked());
    assert!(vm.start("exec sleep 1006").await.is_current(), "its directory can be used again");
}

#[tokio::test]
async fn a_directory_has_one_shim_and_a_home_one_vm() {
    let vm = Vm::new();
    let status = vm.start("exec sleep 1007").await;
    let again = client::start(Path::new(KEEPER), &vm.shim, &vm.spec("exit 1")).await.unwrap_err();
    assert!(format!("{:?}", again).contains("shim.lock is locked by another process"), "{again:?}");
    assert!(lives(status.pid));

    let other = Vm::new();
    let spec = ShimSpec { locks: vec![vm.dir.path().join("home.lock")], ..other.spec("exit 1") };
    let refused = client::start(Path::new(KEEPER), &other.shim, &spec).await.unwrap_err();
    assert!(format!("{:?}", refused).contains("home.lock is locked"), "{refused:?}");
}

#[tokio::test]
async fn a_command_that_cannot_run_is_named() {
    let vm = Vm::new();
    let spec = ShimSpec { argv: vec!["/no/such/program".into()], ..vm.spec("") };
    let error = client::start(Path::new(KEEPER), &vm.shim, &spec).await.unwrap_err();
    assert!(format!("{error:?}").contains("cannot run /no/such/program: No such file"), "{error:?}");
    assert!(client::status(&vm.shim).await.unwrap().is_none());
    assert!(!vm.locked());
}

#[tokio::test]
async fn the_death_of_the_daemon_and_of_its_process_group_reaches_no_vm() {
    let vm = Vm::new();
    let spec = serde_json::to_vec(&vm.spec("exec sleep 1008")).unwrap();
    fs::write(vm.shim.spec(), spec).unwrap();
    let script = format!("{KEEPER} shim --detach {}; echo started; exec sleep 1009", vm.dir.path().display());
    let mut daemon = Command::new("sh").args(["-c", &script]).process_group(0).spawn().unwrap();
    // Its socket is there a moment before it listens.
    wait_until("the shim answers", || UnixStream::connect(vm.shim.socket()).is_ok());
    let status = client::status(&vm.shim).await.unwrap().unwrap();
    signal(-(daemon.id() as i32), "KILL");
    daemon.wait().unwrap();
    assert_eq!(client::status(&vm.shim).await.unwrap(), Some(status.clone()));
    assert!(status.is_current());
    signal(status.shim, "TERM");
    assert_eq!(client::wait(&vm.shim).await, Some(Ended::Signal(9)), "SIGTERM to a shim ends its VM in order");
}

#[tokio::test]
async fn a_client_that_says_nonsense_or_nothing_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let vm = Vm::new();
    vm.start("exec sleep 1010").await;
    let silent = tokio::net::UnixStream::connect(vm.shim.socket()).await.unwrap();
    let mut chatty = tokio::net::UnixStream::connect(vm.shim.socket()).await.unwrap();
    chatty.write_all(b"dance\nstat").await.unwrap();
    let mut answer = [0; 32];
    let length = chatty.read(&mut answer).await.unwrap();
    assert_eq!(&answer[..length], b"error: \"dance\" is no command\n");
    chatty.write_all(b"us\n").await.unwrap();
    assert!(chatty.read(&mut answer).await.unwrap() > 0, "a line may come in pieces");
    let _ = chatty.write_all(&[b'x'; 4096]).await;
    assert!(client::status(&vm.shim).await.unwrap().is_some());
    drop(silent);
}

#[tokio::test]
async fn a_command_hears_the_signals_that_its_shim_waits_for() {
    let vm = Vm::new();
    let status = vm.start("exec sleep 1017").await;
    assert!(read(format!("/proc/{}/status", status.pid)).contains("SigBlk:\t0000000000000000\n"));
    signal(status.pid, "TERM");
    assert_eq!(client::wait(&vm.shim).await, Some(Ended::Signal(15)));
}

#[tokio::test]
async fn what_comes_through_the_console_is_kept_apart_whoever_opens_and_closes_it() {
    let vm = Vm::new();
    let console = vm.shim.console().display().to_string();
    let kept = vm.dir.path().join("console.log");
    let script = format!("echo one >{console}; echo two >{console}; head -c 300000 /dev/zero >{console}; echo end");
    let spec = ShimSpec { console: Some(kept.clone()), ..vm.spec(&script) };
    client::start(Path::new(KEEPER), &vm.shim, &spec).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, client::wait(&vm.shim)).await.expect("nobody waits for a reader");
    assert_eq!(ended, Some(Ended::Status(0)));
    let before = read(vm.dir.path().join("console.log.old"));
    assert!(before.starts_with("one\ntwo\n"), "{:?}", before.chars().take(20).collect::<String>());
    let sizes = [kept.clone(), vm.dir.path().join("console.log.old")].map(|file| fs::metadata(file).unwrap().len());
    assert_eq!(sizes.iter().sum::<u64>(), 300_008);
    assert!(sizes.iter().all(|size| *size <= 256 * 1024), "{sizes:?}");
    assert!(read(vm.dir.path().join("output.log")).ends_with("end\n"));
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(kept).unwrap().permissions()) & 0o777, 0o600);
}

/// A node's fence, and a VM that obeys it.
struct Fenced {
    vm: Vm,
    fence: Fence,
}

impl Fenced {
    fn new() -> Self {
        let vm = Vm::new();
        let fence = Fence::of_node(vm.dir.path()).unwrap();
        Self { vm, fence }
    }

    fn sign(&self, milliseconds: u64) {
        self.fence.signed(Signer::Keeper, BootTime::now().unwrap(), Duration::from_millis(milliseconds)).unwrap();
    }

    async fn start(&self, script: &str) -> ShimStatus {
        let file = Fence::path(self.vm.dir.path()).unwrap();
        let fence = Some(FenceSpec { file, sysrq: None, dead_within_ms: 1000 });
        let spec = ShimSpec { fence, ..self.vm.spec(script) };
        client::start(Path::new(KEEPER), &self.vm.shim, &spec).await.unwrap();
        client::status(&self.vm.shim).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_vm_lives_as_long_as_its_node_gives_signs_and_dies_by_itself_when_it_gives_none() {
    let node = Fenced::new();
    node.sign(1500);
    let status = node.start("setsid sleep 1011 & echo $!; exec sleep 1012").await;
    let began = BootTime::now().unwrap();
    wait_until("three deadlines would have passed", || {
        node.sign(1500);
        BootTime::now().unwrap() > began + Duration::from_millis(4500)
    });
    assert!(lives(status.pid));
    let child = node.vm.printed_pids(1)[0];
    let last = BootTime::now().unwrap();
    assert_eq!(client::wait(&node.vm.shim).await, Some(Ended::Fenced));
    let late = BootTime::now().unwrap().since_boot() - last.since_boot();
    assert!(late < Duration::from_millis(2500), "{late:?}");
    assert!(!lives(status.pid) && !lives(child) && !node.vm.locked());
}

/// Whoever takes the VM over may have mounted its volume by the time that the storage answers again.
#[tokio::test]
async fn what_a_vm_had_not_written_yet_when_its_node_was_given_up_is_never_written() {
    let node = Fenced::new();
    let (file, at) = (node.vm.dir.path().join("home.ext4"), node.vm.dir.path().join("home"));
    fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
    assert!(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file).status().unwrap().success());
    node.sign(1500);
    let script = format!(
        "cd {0} && echo old > letter && sync letter && echo new > letter && echo $$; exec sleep 1016",
        at.display()
    );
    let spec = ShimSpec { volumes: vec![Volume { file: file.clone(), at }], ..node.vm.spec(&script) };
    let fence = Some(FenceSpec { file: Fence::path(node.vm.dir.path()).unwrap(), sysrq: None, dead_within_ms: 1000 });
    client::start(Path::new(KEEPER), &node.vm.shim, &ShimSpec { fence, ..spec }).await.unwrap();
    node.vm.printed_pids(1);
    assert_eq!(client::wait(&node.vm.shim).await, Some(Ended::Fenced));
    let volume = fs::File::open(&file).unwrap();
    wait_until("nobody has it mounted", || volume.try_lock().is_ok());
    let replayed = Command::new("e2fsck").arg("-p").arg(&file).status().unwrap();
    assert!(replayed.code().is_some_and(|code| code <= 1), "{replayed:?}");
    let letter = Command::new("debugfs").args(["-R", "cat /letter"]).arg(&file).output().unwrap();
    let letter = String::from_utf8(letter.stdout).unwrap();
    assert!(!letter.contains("new"), "{letter:?}");
}

#[tokio::test]
async fn a_vm_whose_machine_slept_through_the_deadline_dies_though_signs_come_again() {
    let node = Fenced::new();
    node.sign(1000);
    let status = node.start("exec sleep 1013").await;
    signal(status.shim, "STOP");
    let deadline = BootTime::now().unwrap() + Duration::from_millis(1000);
    wait_until("the deadline has passed", || BootTime::now().unwrap() > deadline);
    assert!(lives(status.pid), "nobody was awake");
    node.sign(600_000);
    signal(status.shim, "CONT");
    assert_eq!(client::wait(&node.vm.shim).await, Some(Ended::Fenced));
    assert!(node.start("exec sleep 1014").await.is_current(), "one that is started since lives");
}

#[tokio::test]
async fn a_vm_goes_on_when_its_node_stops_in_order() {
    let node = Fenced::new();
    node.sign(300);
    let status = node.start("exec sleep 1015").await;
    node.fence.sign_off().unwrap();
    let later = BootTime::now().unwrap() + Duration::from_millis(1500);
    wait_until("several deadlines would have passed", || BootTime::now().unwrap() > later);
    assert!(lives(status.pid));
    assert!(client::kill(&node.vm.shim).await.unwrap());
    assert_eq!(client::wait(&node.vm.shim).await, Some(Ended::Signal(9)));
}

#[tokio::test]
async fn a_vm_says_whose_it_is_until_it_has_ended() {
    let owner = |host| Owner { host: HostId(host), epoch: 3, boot_id: "boot".to_owned() };
    let vm = Vm::new();
    let spec = |host| ShimSpec { owner: Some(owner(host)), ..vm.spec("exec sleep 1016") };
    let record = || Owner::read(&read(vm.dir.path().join("home.lock"))).unwrap();
    client::start(Path::new(KEEPER), &vm.shim, &spec(7)).await.unwrap();
    assert_eq!(record(), Some(owner(7)));
    assert!(client::kill(&vm.shim).await.unwrap());
    client::wait(&vm.shim).await;
    assert_eq!(record(), None);

    client::start(Path::new(KEEPER), &vm.shim, &spec(7)).await.unwrap();
    let status = client::status(&vm.shim).await.unwrap().unwrap();
    signal(status.shim, "KILL");
    assert_eq!(client::wait(&vm.shim).await, None);
    wait_until("its lock is free", || !vm.locked());
    assert_eq!(record(), Some(owner(7)), "a shim that is killed cannot say that it is done");
    let refused = client::start(Path::new(KEEPER), &vm.shim, &spec(8)).await.unwrap_err();
    assert!(format!("{refused:?}").contains("as the owner of the VM"), "{refused:?}");
    client::start(Path::new(KEEPER), &vm.shim, &spec(7)).await.unwrap();
}
