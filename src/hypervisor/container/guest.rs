//! What a container finds that no image brings: the agent's secret and options, its own name, name servers.
//! The image is never touched: files go into the writable layer, secrets into a directory under `path.run`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use super::lxc::GUEST_DIR;
use crate::model::VmSecret;
use crate::model::config::{Config, keys};
use crate::storage::{Overlay, StorageError};

/// Beginnings of the keys that an agent understands; the node passes those it was given on.
const AGENT_KEYS: [&str; 5] = ["vma.", "internal.vma.", "internal.vm.port.vma", "internal.nxagent.", "command."];

/// The options file for agents: every key that is set and meant for them. Empty when there is none.
pub fn agent_options(config: &Config) -> String {
    let mut lines: Vec<String> = config
        .set_keys()
        .filter(|(key, _)| AGENT_KEYS.iter().any(|beginning| key.starts_with(beginning)))
        .filter_map(|(key, _)| Some(format!("{key} = {}\n", config.text(key)?)))
        .collect();
    lines.sort_unstable();
    lines.concat()
}

/// Writes the directory that becomes `/.qvd`, readable by root alone.
pub fn write_directory(dir: &Path, secret: Option<&VmSecret>, options: &str) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    // The agent is mounted over this.
    write(&dir.join("qvd-vma"), "", 0o500)?;
    if let Some(secret) = secret {
        write(&dir.join("secret"), &secret.to_hex(), 0o400)?;
    }
    if !options.is_empty() {
        write(&dir.join("vma.conf"), options, 0o444)?;
    }
    Ok(())
}

/// Puts into the writable layer what must differ from container to container.
pub fn personalise(
    overlay: &Overlay,
    lower: &Path,
    host_name: &str,
    name_servers: &[String],
) -> Result<(), StorageError> {
    overlay.make_mount_point(GUEST_DIR)?;
    overlay.put("etc", "hostname", &format!("{host_name}\n"))?;
    overlay.put("etc", "hosts", &hosts(&image_hosts(lower), host_name))?;
    overlay.put(
        "etc",
        "resolv.conf",
        &name_servers.iter().map(|server| format!("nameserver {server}\n")).collect::<String>(),
    )
}

/// The name servers of VMs: the configured ones, else those of the node that can be reached from elsewhere.
pub fn name_servers(config: &Config) -> Vec<String> {
    let configured = config.get(&keys::VM_DNS);
    if !configured.is_empty() {
        return configured;
    }
    reachable_servers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn reachable_servers(resolv_conf: &str) -> Vec<String> {
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let reachable = |server: &&str| server.parse::<std::net::Ipv4Addr>().is_ok_and(|address| !address.is_loopback());
    servers.map(str::trim).filter(reachable).map(str::to_owned).collect()
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

fn write(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(content.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_name_servers_that_a_vm_can_reach_are_passed_on() {
        let text =
            "search x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n#nameserver 1.1.1.1\n";
        assert_eq!(reachable_servers(text), ["192.0.2.1"]);
    }

    #[test]
    fn a_container_knows_its_own_name() {
        assert_eq!(hosts("", "desk"), "127.0.1.1 desk\n127.0.0.1 localhost\n::1 localhost\n");
        assert_eq!(hosts("127.0.0.1 localhost\n192.0.2.9 printer\n", "desk").lines().count(), 3);
    }

    #[test]
    fn options_of_agents_and_nothing_else_are_passed_on() {
        let mut config = Config::default();
        for (key, value) in [("vma.x", "1"), ("database.password", "hidden"), ("internal.vm.port.vma", "3031")] {
            config.set(key, value).unwrap();
        }
        assert_eq!(agent_options(&config), "internal.vm.port.vma = 3031\nvma.x = 1\n");
    }
}
