//! Disks of guests: one with the demo's desktop, made once and kept in cargo's directory for tests, and one of nothing.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use qvd::demo::{
    guest::KERNEL,
    image::{CACHE, desktop_image},
};
use sha2::{Digest, Sha256};

use crate::desktop::{ANIMATION, SESSION};

const MAKE: &str = include_str!("make-disk");
const AGENT: &str = env!("CARGO_BIN_EXE_qvd-vma");

/// Where a guest has the program by which its kernel panics.
pub const PANIC: &str = "/usr/lib/qvd/panic";

/// Files of a guest, besides the demo's desktop. New users have an animated window, and count their sessions.
fn files() -> [(&'static str, String, u32); 3] {
    [
        ("/etc/skel/.jwmrc", SESSION.to_owned(), 0o644),
        ("/etc/skel/animation", format!("echo session >>~/sessions\n{ANIMATION}"), 0o644),
        (PANIC, "#!/bin/sh\necho c >/proc/sysrq-trigger\n".to_owned(), 0o755),
    ]
}

/// A disk with a desktop.
pub async fn desktop_disk() -> PathBuf {
    let archive = desktop_image(CACHE.as_ref(), |_| {}).await.unwrap();
    let mut hash = Sha256::new();
    hash.update(MAKE);
    hash.update(archive.display().to_string());
    hash.update(fs::read(AGENT).unwrap());
    hash.update(format!("{:?}", files()));
    let hash: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let disk = cache.join(format!("guest-{hash}.qcow2"));
    let made = move || {
        let lock = File::create(cache.join("guest.lock")).unwrap();
        lock.lock().unwrap();
        if !disk.exists() {
            make(&archive, cache, &disk);
        }
        disk
    };
    tokio::task::spawn_blocking(made).await.unwrap()
}

fn make(archive: &Path, cache: &Path, disk: &Path) {
    // Those of before, also what a maker left that was killed.
    for entry in fs::read_dir(cache).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("guest-") {
            fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path())).unwrap();
        }
    }
    let more = tempfile::tempdir().unwrap();
    for (path, text, mode) in files() {
        let path = more.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{KERNEL}\n{MAKE}"), "make-disk"]).arg(archive).arg(AGENT).arg(more.path()).arg(disk);
    let began = Instant::now();
    assert!(command.status().unwrap().success(), "a disk can be made");
    println!("measured: a guest's disk made: {} ms", began.elapsed().as_millis());
}

/// A disk without a system: a guest finds nothing to boot from, and waits.
pub fn empty_disk(disk: &Path) {
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(disk).arg("64M").status();
    assert!(made.unwrap().success());
}
