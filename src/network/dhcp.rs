//! What a DHCP server (`dnsmasq`) reads so that it tells VMs of this node the addresses that they have anyway, of IPv4 and of
//! IPv6: its configuration and a file for each port. To run it is not done here; see `hypervisor`.

use std::{
    fs::{self, Permissions},
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::model::config::{Config, keys};

use super::{Family, Local, NetworkError, Plug};

/// More than a node has VMs.
const MOST_LEASES: u32 = 50_000;
/// The shortest prefix of IPv6 that the server takes. Addresses of VMs differ only behind it.
const SHORTEST: u8 = 64;

#[derive(Clone, Debug)]
pub struct Dhcp {
    dir: PathBuf,
    file: PathBuf,
    text: String,
}

impl Dhcp {
    pub fn new(config: &Config, bridge: &str, subnets: &[Local]) -> Self {
        let dir = config.get(&keys::PATH_RUN).join("dhcp");
        let mut lines = vec![
            "port=0".to_owned(),
            format!("interface={bridge}"),
            // The bridge may be made anew.
            "bind-dynamic".to_owned(),
            "no-hosts".to_owned(),
            "no-resolv".to_owned(),
            "no-ping".to_owned(),
            "dhcp-authoritative".to_owned(),
            format!("dhcp-lease-max={MOST_LEASES}"),
            // Whose an address is stands in the files below, so there is nothing to remember.
            "leasefile-ro".to_owned(),
            format!("dhcp-hostsdir={}", dir.join("hosts").display()),
        ];
        let domain = config.get(&keys::VM_DOMAIN);
        for local in subnets {
            lines.extend(range(local, bridge));
            if !domain.is_empty() {
                lines.push(match local.subnet.family() {
                    Family::V4 => format!("dhcp-option=option:domain-name,{domain}"),
                    Family::V6 => format!("dhcp-option=option6:domain-search,{domain}"),
                });
            }
        }
        Self { file: dir.join("dnsmasq.conf"), dir, text: lines.join("\n") + "\n" }
    }

    /// The configuration.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Writes everything that is not so yet. The server watches the directory, so that stays.
    pub fn prepare<'a>(&self, plugs: impl Iterator<Item = &'a Plug> + Clone) -> Result<(), NetworkError> {
        let hosts = self.dir.join("hosts");
        let failed = |source| NetworkError::Dhcp { path: hosts.clone(), source };
        fs::create_dir_all(&hosts).map_err(failed)?;
        // The server has no rights of its own.
        for open in [&self.dir, &hosts] {
            fs::set_permissions(open, Permissions::from_mode(0o755)).map_err(failed)?;
        }
        for known in fs::read_dir(&hosts).map_err(failed)?.flatten() {
            if !plugs.clone().any(|plug| known.file_name() == plug.host_end.as_str()) {
                fs::remove_file(known.path()).map_err(failed)?;
            }
        }
        for plug in plugs {
            self.know(plug)?;
        }
        write(&self.file, &self.text)
    }

    /// The server hears by itself of files that come.
    pub fn know(&self, plug: &Plug) -> Result<(), NetworkError> {
        let addresses = plug.addresses.iter().map(|address| match address.ip {
            IpAddr::V4(ip) => format!(",{ip}"),
            IpAddr::V6(ip) => format!(",[{ip}]"),
        });
        write(&self.host(plug), &format!("{}{}\n", plug.mac, addresses.collect::<String>()))
    }

    /// What it goes on believing of a port that is gone harms nobody: the address belongs to the same hardware address for ever.
    pub fn forget(&self, plug: &Plug) {
        let _ = fs::remove_file(self.host(plug));
    }

    fn host(&self, plug: &Plug) -> PathBuf {
        self.dir.join("hosts").join(&plug.host_end)
    }
}

/// A network whose addresses are told to those alone that have them.
fn range(local: &Local, bridge: &str) -> Vec<String> {
    let Local { subnet, host, gateway } = local;
    let first = *subnet.vms().start();
    match subnet.family() {
        Family::V4 => vec![
            format!("dhcp-range={first},static,{}", subnet.netmask()),
            format!("dhcp-option=option:router,{gateway}"),
        ],
        Family::V6 => {
            let mut lines = vec![
                format!("dhcp-range={first},static,{}", subnet.prefix().max(SHORTEST)),
                // DHCP names no gateway there; and who hears no router does not even ask for an address.
                "enable-ra".to_owned(),
            ];
            if host != gateway {
                // This node is none: seconds between what it says, and for how long it is one.
                lines.push(format!("ra-param={bridge},0,0"));
            }
            lines
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), NetworkError> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(|source| NetworkError::Dhcp { path: path.to_owned(), source })
}
