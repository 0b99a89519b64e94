//! Things done once to see whether they can be done. Namespaces are those of the calling thread, which must end afterwards;
//! mounts and files are gone with it.

use std::{fs, io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Enters new namespaces of the kinds that a container has.
pub fn namespaces() -> io::Result<()> {
    let kinds = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWPID;
    Ok(unshare(kinds)?)
}

/// Mounts a writable layer over a directory and writes through it, all in memory.
pub fn overlay() -> io::Result<()> {
    own_mounts()?;
    let place = std::env::temp_dir();
    mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), Some("size=1m"))?;
    layer_in(&place)
}

/// The same with both in `place`.
pub fn overlay_in(place: &Path) -> io::Result<()> {
    own_mounts()?;
    layer_in(place)
}

/// Opens what gives loop devices, which loads the module that makes them.
pub fn loop_devices() -> io::Result<()> {
    fs::File::options().read(true).write(true).open("/dev/loop-control").map(drop)
}

/// What is mounted from now on nobody else sees.
fn own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?)
}

fn layer_in(place: &Path) -> io::Result<()> {
    let scratch = tempfile::Builder::new().prefix(".qvd-doctor-").tempdir_in(place)?;
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| scratch.path().join(name));
    for directory in [&lower, &upper, &work, &merged] {
        fs::create_dir(directory)?;
    }
    fs::write(lower.join("file"), "image")?;
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    let tried = fs::write(merged.join("file"), "changed").and_then(|()| fs::remove_file(merged.join("file")));
    nix::mount::umount(&merged)?;
    tried.and_then(|()| scratch.close())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_was_tried_leaves_neither_mount_nor_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().to_owned();
        std::thread::spawn(move || overlay_in(&path)).join().unwrap().unwrap();
        std::thread::spawn(overlay).join().unwrap().unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&place.path().display().to_string()), "{mounts}");
    }
}
