//! What a VM finds that no image brings: the agent's secret and options, its own name, name servers.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::model::VmSecret;
use crate::model::config::{Config, keys};

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

/// Writes the files `secret` and `vma.conf` into `dir`, as far as there is something for them.
pub fn write_files(dir: &Path, secret: Option<&VmSecret>, options: &str) -> io::Result<()> {
    if let Some(secret) = secret {
        write(&dir.join("secret"), &secret.to_hex(), 0o400)?;
    }
    if !options.is_empty() {
        write(&dir.join("vma.conf"), options, 0o444)?;
    }
    Ok(())
}

/// A host name made of the name of a VM, which may contain anything.
pub fn host_name(name: &str) -> String {
    let label: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(63).collect();
    match label.trim_matches('-') {
        "" => "desktop".to_owned(),
        label => label.to_owned(),
    }
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
    // One with a scope is behind an interface of the node.
    let reachable = |server: &&str| server.parse::<std::net::IpAddr>().is_ok_and(|address| !address.is_loopback());
    servers.map(str::trim).filter(reachable).map(str::to_owned).collect()
}

/// Makes a file that is not there yet.
pub fn write(path: &Path, content: &str, mode: u32) -> io::Result<()> {
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
    fn any_name_becomes_a_host_name() {
        for (name, host) in
            [("Desk Top", "desk-top"), ("-x-", "x"), ("día", "d-a"), ("…", "desktop"), ("a\nb = c", "a-b---c")]
        {
            assert_eq!(host_name(name), host);
        }
        assert_eq!(host_name(&"x".repeat(100)).len(), 63);
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
