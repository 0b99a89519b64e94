//! The words that LXC understands: the configuration of one container, and what its log means.
//! Nothing here touches the machine.

use std::path::PathBuf;

use super::{cgroup::Memory, confinement};
use crate::{
    keeper::RootSpec,
    network::{Address, Plug},
};

/// Where the agent's things are inside a container.
pub const GUEST_DIR: &str = ".qvd";
/// Where homes are inside a container.
pub const HOME_DIR: &str = "home";

/// Our agent as first process, as seen from inside.
const OUR_INIT: &str = "/.qvd/qvd-vma init";
/// The first process of images that bring an agent.
const OWN_INIT: &str = "/sbin/init";

/// Tasks that a container may have: far above what a desktop needs, far below what would choke the node.
const TASKS: u32 = 8192;

/// In microseconds: over which time its processors are counted.
const PERIOD: u64 = 100_000;

/// Where programs are, for the agent.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One container, ready to be written down.
#[derive(Clone, Debug)]
pub struct ContainerConfig {
    /// Name of the container, unique on the machine.
    pub name: String,
    /// Host name inside.
    pub host_name: String,
    /// What it sees as its root.
    pub root: RootSpec,
    /// Its interface.
    pub plug: Plug,
    /// Memory limit in MB.
    pub memory_mb: u32,
    /// Processors; `None`: all of the node's.
    pub cpus: Option<u32>,
    /// Boots the image's own init instead of our agent.
    pub boots_itself: bool,
    /// Programs get no more privileges than those that run them.
    pub no_new_privs: bool,
    /// System calls that it may not use, in a file.
    pub forbidden: PathBuf,
    /// How the machine limits memory.
    pub memory: Memory,
    /// Further lines, whatever they say.
    pub extra: String,
}

impl ContainerConfig {
    /// The configuration file.
    pub fn render(&self) -> String {
        let mut lines = vec![
            format!("lxc.uts.name = {}", self.host_name),
            format!("lxc.rootfs.path = dir:{}", RootSpec::path().display()),
            format!("lxc.init.cmd = {}", if self.boots_itself { OWN_INIT } else { OUR_INIT }),
            "lxc.signal.halt = SIGTERM".to_owned(),
            format!(
                "lxc.mount.entry = tmpfs dev/shm tmpfs nosuid,nodev,mode=1777,size={}m,create=dir 0 0",
                self.memory_mb.div_ceil(2)
            ),
            "lxc.autodev = 1".to_owned(),
            "lxc.pty.max = 1024".to_owned(),
            "lxc.tty.max = 0".to_owned(),
            "lxc.console.path = none".to_owned(),
            format!("lxc.environment = PATH={PATH}"),
            format!("lxc.seccomp.profile = {}", self.forbidden.display()),
            // Its own, or every container of the machine would share one that nobody may remove.
            format!("lxc.cgroup.dir.monitor.pivot = lxc.pivot.{}", self.name),
        ];
        lines.extend(confinement::settings(self.root.ids, self.no_new_privs));
        lines.extend(self.interface());
        // What the VM asks before it is plugged in is lost; the kernel would ask again only after a second.
        lines.push("lxc.sysctl.net.ipv4.neigh.eth0.retrans_time_ms = 20".to_owned());
        if self.plug.addresses.iter().any(|address| address.ip.is_ipv6()) {
            lines.push("lxc.sysctl.net.ipv6.conf.eth0.accept_ra = 0".to_owned());
            lines.push("lxc.sysctl.net.ipv6.neigh.eth0.retrans_time_ms = 20".to_owned());
        }
        lines.extend(self.limits());
        lines.push(self.extra.clone());
        lines.join("\n") + "\n"
    }

    fn interface(&self) -> Vec<String> {
        let plug = &self.plug;
        let mut settings = vec![
            // Without `link`: it becomes a port of the bridge only when it can be made an isolated one.
            "type = veth".to_owned(),
            format!("veth.pair = {}", plug.host_end),
            format!("hwaddr = {}", plug.mac),
            "name = eth0".to_owned(),
            "flags = up".to_owned(),
        ];
        // Those of IPv6 come with the first process.
        for Address { ip, prefix, gateway } in plug.addresses.iter().filter(|address| address.ip.is_ipv4()) {
            settings.push(format!("ipv4.address = {ip}/{prefix}"));
            settings.push(format!("ipv4.gateway = {gateway}"));
        }
        settings.into_iter().map(|setting| format!("lxc.net.0.{setting}")).collect()
    }

    fn limits(&self) -> Vec<String> {
        let bytes = u64::from(self.memory_mb) * 1024 * 1024;
        let (version, mut limits) = match self.memory {
            Memory::V1 { swap } => {
                let mut limits = vec![format!("memory.limit_in_bytes = {bytes}")];
                if swap {
                    // After the other: it must never be the lower of the two.
                    limits.push(format!("memory.memsw.limit_in_bytes = {bytes}"));
                }
                ("cgroup", limits)
            }
            Memory::V2 { swap } => {
                let mut limits = vec![format!("memory.max = {bytes}")];
                if swap {
                    limits.push("memory.swap.max = 0".to_owned());
                }
                ("cgroup2", limits)
            }
        };
        limits.push(format!("pids.max = {TASKS}"));
        if let Some(cpus) = self.cpus {
            let quota = u64::from(cpus) * PERIOD;
            match self.memory {
                Memory::V1 { .. } => {
                    limits.extend([format!("cpu.cfs_period_us = {PERIOD}"), format!("cpu.cfs_quota_us = {quota}")])
                }
                Memory::V2 { .. } => limits.push(format!("cpu.max = {quota} {PERIOD}")),
            }
        }
        limits.extend(confinement::devices());
        limits.into_iter().map(|limit| format!("lxc.{version}.{limit}")).collect()
    }
}

/// What LXC says is wrong: its first error, because the later ones only say that there was one.
pub fn first_error(log: &str) -> Option<String> {
    let error = log.lines().find(|line| line.contains(" ERROR "))?;
    // `lxc-start NAME TIME ERROR module - file:function:line - message`
    Some(error.splitn(3, " - ").nth(2).unwrap_or(error).trim().to_owned())
}

/// What others than LXC printed. It says there again what is in its log.
pub fn of_others(output: &str) -> String {
    output.lines().filter(|line| !line.starts_with("lxc-start: ")).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        keeper::{Ids, Tree},
        network::Mac,
    };

    fn address(ip: &str, prefix: u8, gateway: &str) -> Address {
        Address { ip: ip.parse().unwrap(), prefix, gateway: gateway.parse().unwrap() }
    }

    fn config(memory: Memory) -> ContainerConfig {
        ContainerConfig {
            name: "qvd-n1-7".into(),
            host_name: "desktop".into(),
            root: RootSpec { tree: Tree::Copy("/s/overlayfs/1-7-rootfs".into()), binds: vec![], ids: None },
            plug: Plug {
                host_end: "qvd7".into(),
                mac: Mac([0x54, 0x52, 0, 0, 0, 200]),
                addresses: vec![address("10.0.0.200", 16, "10.0.0.1")],
            },
            memory_mb: 256,
            cpus: Some(2),
            boots_itself: false,
            no_new_privs: true,
            forbidden: "/run/qvd/vm/7/forbidden".into(),
            memory,
            extra: String::new(),
        }
    }

    #[test]
    fn limits_are_written_for_the_version_of_the_machine() {
        let v1 = config(Memory::V1 { swap: true }).render();
        assert!(v1.contains("lxc.cgroup.memory.memsw.limit_in_bytes = 268435456\n") && !v1.contains("cgroup2"));
        let v2 = config(Memory::V2 { swap: true }).render();
        assert!(v2.contains("lxc.cgroup2.memory.max = 268435456\n") && !v2.contains("lxc.cgroup.memory"));
        assert!(v2.contains("lxc.cgroup2.memory.swap.max = 0\n"));
    }

    #[test]
    fn a_container_has_ids_of_its_own_or_those_of_the_node() {
        let with = |ids| {
            let plain = config(Memory::V2 { swap: true });
            ContainerConfig { root: RootSpec { ids, ..plain.root.clone() }, ..plain }.render()
        };
        let own = with(Some(Ids { first: 1_000_458_752, count: 65536 }));
        for line in [
            "lxc.idmap = u 0 1000458752 65536",
            "lxc.idmap = g 0 1000458752 65536",
            "lxc.cgroup2.cpu.max = 200000 100000",
        ] {
            assert!(own.lines().any(|found| found == line), "{line}\n{own}");
        }
        assert!(!with(None).contains("idmap"));
    }

    #[test]
    fn only_addresses_of_ipv4_are_left_to_lxc() {
        let mut config = config(Memory::V1 { swap: false });
        config.plug.addresses.push(address("fd00:51::a00:c8", 64, "fd00:51::a00:1"));
        let both = config.render();
        assert!(both.contains("lxc.net.0.ipv4.address = 10.0.0.200/16\nlxc.net.0.ipv4.gateway = 10.0.0.1\n"), "{both}");
        assert!(both.contains("ipv6.conf.eth0.accept_ra = 0\n") && !both.contains("fd00"), "{both}");
    }

    #[test]
    fn the_first_error_of_a_log_is_the_reason() {
        let log = "lxc-start qvd-n1-7 20250101120000.000 NOTICE   conf - ../src/lxc/conf.c:f:1 - fine\n\
                   lxc-start qvd-n1-7 20250101120000.001 ERROR    network - ../src/lxc/network.c:g:2 - No such device - \"x\"\n\
                   lxc-start qvd-n1-7 20250101120000.002 ERROR    start - ../src/lxc/start.c:h:3 - Failed\n";
        assert_eq!(first_error(log).unwrap(), "No such device - \"x\"");
        assert_eq!(first_error(""), None);
    }
}
