//! The keeper as a process.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use qvd::{
    keeper::{
        Orders,
        fence::{BootTime, Fence, Verdict},
    },
    model::StorageId,
};

use super::{printed, read, shim::KEEPER, signal, wait_until};

struct Keeper(Child);

/// What hkd leaves for keeper: signs of life belong on the storage with this root.
fn order(root: &Path, run: &Path) {
    let storage: StorageId = "8d2f6a34-5f0b-4c1e-9a7d-1f2e3d4c5b6a".parse().unwrap();
    std::fs::write(root.join(StorageId::FILE), storage.as_str()).unwrap();
    Orders { root: root.to_owned(), storage, limit_ms: 60_000 }.write(run).unwrap();
}

impl Keeper {
    /// With its orders in the directory of the heartbeats, too, unless that is not there.
    fn start(hosts: &Path) -> Self {
        if hosts.is_dir() {
            order(hosts, hosts);
        }
        Self::start_without_orders(hosts, hosts)
    }

    fn start_without_orders(hosts: &Path, run: &Path) -> Self {
        let child = Command::new(KEEPER)
            .args(["keeper", "--hosts-dir"])
            .arg(hosts)
            .arg("--run")
            .arg(run)
            .args(["--name", "node1", "--interval", "0.02"])
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    fn end(mut self) -> bool {
        signal(self.0.id() as i32, "TERM");
        self.0.wait().unwrap().success()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn counter(hosts: &Path) -> u64 {
    read(hosts.join("node1.beat")).split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[test]
fn the_counter_advances_and_goes_on_after_a_restart() {
    let hosts = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(hosts.path());
    wait_until("it beats", || counter(hosts.path()) >= 3);
    assert!(keeper.end(), "SIGTERM ends it in order");
    let last = counter(hosts.path());
    let keeper = Keeper::start(hosts.path());
    wait_until("it beats again", || counter(hosts.path()) > last);
    assert!(keeper.end());
}

#[test]
fn a_full_disk_and_a_missing_directory_do_not_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    let run = tempfile::tempdir().unwrap();
    let mut keeper = Keeper::start_without_orders(&hosts, run.path());
    let log = BufReader::new(keeper.0.stderr.take().unwrap());
    assert!(log.lines().any(|line| line.unwrap().contains("waiting for the storage")), "it says what it needs");
    std::fs::create_dir(&hosts).unwrap();
    order(dir.path(), run.path());
    wait_until("it beats in the directory that came late", || counter(&hosts) >= 1);

    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&hosts).status().unwrap();
    assert!(mounted.success());
    let filled =
        Command::new("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}/ballast", hosts.display())).output();
    assert!(!filled.unwrap().status.success(), "the disk is full");
    let stuck = counter(&hosts);
    std::fs::remove_file(hosts.join("ballast")).unwrap();
    wait_until("it beats once there is room", || counter(&hosts) > stuck);
    let ended = keeper.end();
    assert!(printed(&format!("umount -l {}", hosts.display())).is_empty());
    assert!(ended);
}

#[test]
fn it_beats_on_no_storage_but_the_right_one_and_the_deadline_stands_meanwhile() {
    let (root, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let hosts = root.path().join("hosts");
    std::fs::create_dir(&hosts).unwrap();
    order(root.path(), run.path());
    let keeper = Keeper::start_without_orders(&hosts, run.path());
    wait_until("it beats", || counter(&hosts) >= 3);
    let fence = Fence::watch(&Fence::path(run.path()).unwrap()).unwrap();
    let born = fence.lapses();
    let deadline = || match fence.verdict(born, BootTime::now().unwrap()) {
        Verdict::LiveUntil(Some(deadline)) => deadline,
        other => panic!("{other:?}"),
    };
    let first = deadline();
    wait_until("the deadline moves with the beats", || deadline() > first);

    let id = std::fs::read(root.path().join(StorageId::FILE)).unwrap();
    std::fs::remove_file(root.path().join(StorageId::FILE)).unwrap();
    let mut seen = (0, deadline());
    // Ten looks in a row that show the same: it beats every 20 ms, and each look takes longer than that.
    let mut same = 0;
    wait_until("it beats no more", || {
        printed("sleep 0.05");
        let now = (counter(&hosts), deadline());
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
        same == 10
    });
    std::fs::write(root.path().join(StorageId::FILE), id).unwrap();
    wait_until("it beats again", || counter(&hosts) > seen.0 && deadline() > seen.1);
    assert!(keeper.end());
}
