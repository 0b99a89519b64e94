//! The keeper as a process.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{printed, read, shim::KEEPER, signal, wait_until};

struct Keeper(Child);

impl Keeper {
    fn start(hosts: &Path) -> Self {
        let child = Command::new(KEEPER)
            .args(["keeper", "--hosts-dir"])
            .arg(hosts)
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
    let mut keeper = Keeper::start(&hosts);
    let log = BufReader::new(keeper.0.stderr.take().unwrap());
    assert!(log.lines().any(|line| line.unwrap().contains("waiting for the storage")), "it says what it needs");
    std::fs::create_dir(&hosts).unwrap();
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
