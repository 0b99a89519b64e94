//! The network of a KVM guest, which nobody else sets up: in containers LXC does, and there nothing here has an effect. The
//! node says in the settings what is to be set; by the image's own `ip` it is.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::unistd::sethostname;
use thiserror::Error;

use super::{
    Chain,
    command::{self, CommandError, QUICK, find},
    config::Settings,
};

/// Where QEMU's firmware interface appears.
const FIRMWARE: &str = "/sys/firmware/qemu_fw_cfg";
/// Where containers find what their node gives them.
const GUEST_DIR: &str = "/.qvd";
/// Interfaces appear when the kernel has their driver, which another service loads.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// A network that cannot be set up.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The image has no `ip`.
    #[error("the image has no program ip (Debian: package iproute2)")]
    NoProgram,
    /// The interface does not appear.
    #[error("no interface has the hardware address {mac}")]
    NoInterface {
        /// What was looked for.
        mac: String,
    },
    /// A program of the image failed.
    #[error("cannot give the interface its address")]
    Program(#[from] CommandError),
}

/// Makes sure, in a machine of QEMU's, that the kernel shows what the node gives. The agent may start before the service
/// that loads drivers has come to this one.
pub fn meet_firmware() {
    let vendor = fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    // The node of a container may itself be a machine of QEMU's.
    if vendor.trim() != "QEMU" || Path::new(FIRMWARE).exists() || Path::new(GUEST_DIR).exists() {
        return;
    }
    let Some(modprobe) = find("modprobe") else { return };
    if let Err(error) = command::run(&modprobe, &["qemu_fw_cfg"], QUICK) {
        tracing::warn!(error = %Chain(&error), "cannot read what the node gives");
    }
}

/// Sets up what the settings say. Repeatable.
pub fn set_up(settings: &Settings) -> Result<(), NetworkError> {
    if !settings.host_name.is_empty() {
        name_machine(&settings.host_name);
    }
    let (addresses, mac) = (&settings.network_address, &settings.network_mac);
    if addresses.is_empty() {
        return Ok(());
    }
    let ip = find("ip").ok_or(NetworkError::NoProgram)?;
    let interface = wait_for(Path::new("/sys/class/net"), mac, Instant::now() + PATIENCE)
        .ok_or_else(|| NetworkError::NoInterface { mac: mac.clone() })?;
    for arguments in commands(&interface, addresses, &settings.network_gateway) {
        command::run(&ip, &arguments, QUICK)?;
    }
    tracing::info!(interface, ?addresses, "the network is set up");
    if !settings.network_dns.is_empty() {
        let servers: String = settings.network_dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        put("/etc/resolv.conf".into(), &servers);
    }
    Ok(())
}

fn commands<'a>(interface: &'a str, addresses: &'a [String], gateways: &'a [String]) -> Vec<Vec<&'a str>> {
    let mut commands = vec![vec!["link", "set", "lo", "up"]];
    for address in addresses {
        let mut command = vec!["address", "replace", address, "dev", interface];
        if address.contains(':') {
            // Nobody else can have it, and to make sure of that would take a second in which it cannot be used.
            command.push("nodad");
        }
        commands.push(command);
    }
    commands.push(vec!["link", "set", interface, "up"]);
    for gateway in gateways {
        let family = if gateway.contains(':') { "-6" } else { "-4" };
        commands.push(vec![family, "route", "replace", "default", "via", gateway, "dev", interface]);
    }
    commands
}

/// The interface with this hardware address, once it is there.
fn wait_for(interfaces: &Path, mac: &str, deadline: Instant) -> Option<String> {
    loop {
        let found = fs::read_dir(interfaces).into_iter().flatten().flatten().find(|interface| {
            let address = fs::read_to_string(interface.path().join("address")).unwrap_or_default();
            address.trim().eq_ignore_ascii_case(mac)
        });
        match found {
            Some(interface) => return interface.file_name().into_string().ok(),
            None if Instant::now() >= deadline => return None,
            None => thread::sleep(PAUSE),
        }
    }
}

fn name_machine(name: &str) {
    if let Err(error) = sethostname(name) {
        tracing::warn!(%error, name, "cannot name the machine");
    }
    let table = fs::read_to_string("/etc/hosts").unwrap_or_default();
    // Programs that wonder who they are would ask a name server.
    if !table.split_whitespace().any(|word| word == name) {
        put("/etc/hosts".into(), &format!("{table}127.0.1.1 {name}\n"));
    }
}

/// Puts a file in place of what is there, which may be a link to nowhere.
fn put(path: PathBuf, content: &str) {
    let new = path.with_extension("qvd-new");
    if let Err(error) = fs::write(&new, content).and_then(|()| fs::rename(&new, &path)) {
        tracing::warn!(path = %path.display(), %error, "cannot write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_found_by_its_hardware_address() {
        let dir = std::env::temp_dir().join(format!("qvd-vma-net-{}", std::process::id()));
        for (name, mac) in [("lo", "00:00:00:00:00:00"), ("enp0s2", "54:52:00:00:00:c8")] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("address"), format!("{mac}\n")).unwrap();
        }
        let find = |mac| wait_for(&dir, mac, Instant::now());
        assert_eq!(find("54:52:00:00:00:C8").as_deref(), Some("enp0s2"));
        assert_eq!(find("54:52:00:00:00:c9"), None);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn where_nothing_is_said_nothing_is_set() {
        set_up(&Settings::from_text("").unwrap()).unwrap();
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let addresses = words(&["10.0.0.200/16", "fd00:51::a00:c8/64"]);
        assert_eq!(commands("eth0", &addresses[..1], &[]).len(), 3);
        let gateways = words(&["10.0.0.1", "fd00:51::a00:1"]);
        let both: Vec<String> = commands("eth0", &addresses, &gateways).iter().map(|words| words.join(" ")).collect();
        assert_eq!(both[2], "address replace fd00:51::a00:c8/64 dev eth0 nodad");
        assert_eq!(both[4], "-4 route replace default via 10.0.0.1 dev eth0");
        assert_eq!(both[5], "-6 route replace default via fd00:51::a00:1 dev eth0");
    }

    #[test]
    fn a_link_to_nowhere_is_replaced() {
        let dir = std::env::temp_dir().join(format!("qvd-vma-put-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("resolv.conf");
        std::os::unix::fs::symlink("/nonexistent/stub", &file).unwrap();
        put(file.clone(), "nameserver 192.0.2.1\n");
        assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.1\n");
        assert!(!fs::symlink_metadata(&file).unwrap().is_symlink());
        fs::remove_dir_all(&dir).unwrap();
    }
}
