//! What must differ from container to container of one image. The image is never touched: files go into the writable
//! layer, secrets into a directory under `path.run`.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use nix::unistd::{Gid, Uid, chown};

use super::lxc::GUEST_DIR;
use crate::{
    hypervisor::guest,
    model::VmSecret,
    storage::{Layer, StorageError},
};

/// Writes the directory that becomes `/.qvd`, readable by the container's root user alone, who is `owner` out here.
pub fn write_directory(dir: &Path, owner: u32, secret: Option<&VmSecret>, options: &str) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    // The agent is mounted over this.
    guest::write(&dir.join("qvd-vma"), "", 0o500)?;
    guest::write_files(dir, secret, options)?;
    let give = |path: &Path| chown(path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
    for entry in fs::read_dir(dir)? {
        give(&entry?.path())?;
    }
    Ok(give(dir)?)
}

/// Puts into the writable layer what must differ from container to container.
pub fn personalise(layer: &Layer, lower: &Path, host_name: &str, name_servers: &[String]) -> Result<(), StorageError> {
    layer.make_mount_point(GUEST_DIR)?;
    layer.put("etc", "hostname", &format!("{host_name}\n"))?;
    layer.put("etc", "hosts", &hosts(&image_hosts(lower), host_name))?;
    layer.put(
        "etc",
        "resolv.conf",
        &name_servers.iter().map(|server| format!("nameserver {server}\n")).collect::<String>(),
    )
}

fn image_hosts(lower: &Path) -> String {
    // Not through a link, which would lead to a file of the node.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(lower.join("etc/hosts"));
    file.and_then(io::read_to_string).unwrap_or_default()
}

/// The image's table with the container's own name added. Without it programs would ask a name server that may be far
/// or absent, each time they wonder who they are.
fn hosts(image: &str, host_name: &str) -> String {
    let table = if image.contains("localhost") { image } else { "127.0.0.1 localhost\n::1 localhost\n" };
    format!("127.0.1.1 {host_name}\n{table}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_knows_its_own_name() {
        assert_eq!(hosts("", "desk"), "127.0.1.1 desk\n127.0.0.1 localhost\n::1 localhost\n");
        assert_eq!(hosts("127.0.0.1 localhost\n192.0.2.9 printer\n", "desk").lines().count(), 3);
    }
}
