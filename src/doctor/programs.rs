//! The programs that a node runs, and those of its own that lie beside it.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;

use crate::{
    hypervisor,
    process::{ProcessError, Program},
};

use super::finding::{Finding, Subject};

const LIMIT: Duration = Duration::from_secs(5);

/// One that a node cannot do without.
#[derive(Clone, Copy, Debug)]
struct Needed {
    subject: Subject,
    /// Its file.
    program: &'static str,
    /// The Debian package that it is in.
    package: &'static str,
}

const LXC: Needed = Needed {
    subject: Subject { name: "lxc-start", why: "It makes the containers that VMs are." },
    program: "lxc-start",
    package: "lxc",
};
const QEMU: Needed = Needed {
    subject: Subject { name: "QEMU", why: "It runs the guests that VMs are." },
    program: hypervisor::QEMU.0,
    package: hypervisor::QEMU.1,
};
const NFT: Needed = Needed {
    subject: Subject {
        name: "nft",
        why: "It loads the packet filter that parts VMs from each other and from the node.",
    },
    program: "nft",
    package: "nftables",
};
const TAR: Needed = Needed {
    subject: Subject { name: "tar", why: "It unpacks and checks disk images." },
    program: "tar",
    package: "tar",
};
const DNSMASQ: Needed = Needed {
    subject: Subject { name: "dnsmasq", why: "It tells VMs that ask by DHCP their address." },
    program: "dnsmasq",
    package: "dnsmasq-base",
};
const LXC_SINCE: u32 = 4;

/// What `tar` calls, with their Debian packages.
const UNPACKERS: [(&str, &str); 4] = [("gzip", "gzip"), ("bzip2", "bzip2"), ("xz", "xz-utils"), ("zstd", "zstd")];
const UNPACKING: Subject = Subject { name: "unpackers", why: "tar calls them for images that are packed so." };

/// What makes, checks and enlarges volumes, all in one package.
const VOLUME_PROGRAMS: [&str; 3] = ["mkfs.ext4", "e2fsck", "resize2fs"];
const VOLUMES: Subject =
    Subject { name: "mkfs.ext4", why: "It makes the file systems in which homes and layers have a limit." };

const QEMU_IMG: Subject =
    Subject { name: "qemu-img", why: "It checks disk images for KVM guests; only their heads are looked at without." };

/// Ours.
const OWN: [Subject; 2] = [
    Subject { name: "qvd-keeper", why: "It gives the node's sign of life and holds every VM." },
    Subject { name: "qvd-vma", why: "It is the agent inside every VM, whatever C library the image has." },
];

/// A program of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreign {
    Missing,
    /// The first line of what it says of its version.
    There(String),
    /// It does not run.
    Broken(String),
}

/// A program of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    Missing,
    NotExecutable,
    /// It needs a loader, which images may not have.
    Dynamic,
    Static,
}

/// What is there.
#[derive(Clone, Debug)]
pub struct Facts {
    needed: Vec<(Needed, Foreign)>,
    /// Packages of those that are missing.
    pub missing_unpackers: Vec<(&'static str, &'static str)>,
    /// Those of volumes that are missing; `None`: nobody wants volumes.
    pub missing_of_volumes: Option<Vec<&'static str>>,
    pub qemu_img: Foreign,
    pub bin: PathBuf,
    pub own: [Own; 2],
}

/// Looks at the programs. `bin` is where ours are; `guests`: VMs are KVM guests; `dhcp`: they are answered; `volumes`: what they
/// write has a limit.
pub async fn look(bin: PathBuf, guests: bool, dhcp: bool, volumes: bool) -> Facts {
    let wanted = [if guests { QEMU } else { LXC }, NFT, TAR].into_iter().chain(dhcp.then_some(DNSMASQ));
    let needed = join_all(wanted.map(async |needed| (needed, version(needed.program).await)));
    let (needed, qemu_img) = tokio::join!(needed, version(QEMU_IMG.name));
    Facts {
        needed,
        missing_unpackers: UNPACKERS.into_iter().filter(|(name, _)| !is_in_path(name)).collect(),
        missing_of_volumes: volumes.then(|| VOLUME_PROGRAMS.into_iter().filter(|name| !is_in_path(name)).collect()),
        qemu_img,
        own: OWN.map(|subject| own(&bin.join(subject.name))),
        bin,
    }
}

async fn version(name: &str) -> Foreign {
    match Program::new(name).args(["--version"]).limit(LIMIT).run().await {
        Ok(output) => Foreign::There(without_remark(output.stdout.lines().next().unwrap_or_default().trim())),
        Err(error) if error.is_missing() => Foreign::Missing,
        Err(ProcessError::Start { source, .. }) => Foreign::Broken(source.to_string()),
        Err(error) => Foreign::Broken(error.to_string()),
    }
}

/// Packagers write theirs in parentheses at the end.
fn without_remark(version: &str) -> String {
    match version.rsplit_once(" (") {
        Some((version, remark)) if remark.ends_with(')') => version.to_owned(),
        _ => version.to_owned(),
    }
}

fn is_in_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

fn own(path: &Path) -> Own {
    match fs::metadata(path) {
        Err(_) => Own::Missing,
        Ok(file) if file.permissions().mode() & 0o111 == 0 => Own::NotExecutable,
        Ok(_) => match fs::read(path).map(|program| needs_loader(&program)) {
            Ok(true) => Own::Dynamic,
            Ok(false) => Own::Static,
            Err(_) => Own::Missing,
        },
    }
}

/// Whether an ELF file of 64 bits names a loader (segment `PT_INTERP`).
fn needs_loader(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = elf.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (Some(table), Some(size), Some(count)) = (number(0x20, 8), number(0x36, 2), number(0x38, 2)) else {
        return false;
    };
    (0..count).any(|n| elf.get(table.saturating_add(n * size)..).is_some_and(|segment| segment.starts_with(&PT_INTERP)))
}

/// Judges them.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts.needed.iter().map(|(needed, found)| needed.judge(found)).collect();
    findings.push(match facts.missing_unpackers.as_slice() {
        [] => UNPACKING.good(UNPACKERS.map(|(name, _)| name).join(", ")),
        missing => {
            let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
            let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
            UNPACKING
                .tolerable(format!("no {}", names.join(", no ")), format!("apt-get install {}", packages.join(" ")))
        }
    });
    findings.extend(facts.missing_of_volumes.as_deref().map(|missing| match missing {
        [] => VOLUMES.good(VOLUME_PROGRAMS.join(", ")),
        missing => VOLUMES.bad(format!("no {}", missing.join(", no ")), "apt-get install e2fsprogs"),
    }));
    findings.push(match &facts.qemu_img {
        Foreign::There(version) => QEMU_IMG.good(version),
        Foreign::Missing => QEMU_IMG.tolerable("not installed", "apt-get install qemu-utils"),
        Foreign::Broken(why) => {
            QEMU_IMG.tolerable(format!("does not run: {why}"), "apt-get install --reinstall qemu-utils")
        }
    });
    findings.extend(OWN.iter().zip(facts.own).map(|(subject, found)| {
        let path = facts.bin.join(subject.name);
        let path = path.display();
        let install = format!("make release && install target/release/{} {}", subject.name, facts.bin.display());
        match found {
            Own::Static => subject.good("static"),
            Own::Missing => subject.bad(format!("{path} does not exist"), install),
            Own::NotExecutable => subject.bad(format!("{path} cannot be executed"), format!("chmod +x {path}")),
            Own::Dynamic => subject.bad(format!("{path} needs a loader, which images may not have"), install),
        }
    }));
    findings
}

impl Needed {
    fn judge(self, found: &Foreign) -> Finding {
        let Self { subject, package, .. } = self;
        let install = format!("apt-get install {package}");
        match found {
            Foreign::Missing => subject.bad("not installed", install),
            Foreign::Broken(why) => {
                subject.bad(format!("does not run: {why}"), format!("apt-get install --reinstall {package}"))
            }
            Foreign::There(version)
                if package == LXC.package && major(version).is_some_and(|major| major < LXC_SINCE) =>
            {
                subject.bad(format!("{version}, which knows no control groups of version 2"), install)
            }
            Foreign::There(version) if package == TAR.package && !version.contains("GNU tar") => {
                subject.bad(format!("{version}, which is not GNU tar"), install)
            }
            Foreign::There(version) => subject.good(version),
        }
    }
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Grade, *};

    fn complete() -> Facts {
        let there = |version: &str| Foreign::There(version.to_owned());
        Facts {
            needed: vec![
                (LXC, there("5.0.2")),
                (NFT, there("nftables v1.0.6")),
                (TAR, there("tar (GNU tar) 1.34")),
                (QEMU, there("QEMU emulator version 7.2.22")),
            ],
            missing_unpackers: vec![],
            missing_of_volumes: Some(vec![]),
            qemu_img: there("qemu-img version 7.2.22"),
            bin: "/usr/lib/qvd".into(),
            own: [Own::Static; 2],
        }
    }

    fn other_than_good(facts: &Facts) -> Vec<(&'static str, Grade, String)> {
        let findings = judge(facts).into_iter().filter(|finding| finding.grade != Grade::Good);
        findings.map(|finding| (finding.name, finding.grade, finding.mend.unwrap())).collect()
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        assert_eq!(other_than_good(&complete()), []);
        let mut facts = complete();
        facts.needed[1].1 = Foreign::Missing;
        facts.needed[3].1 = Foreign::Missing;
        facts.missing_unpackers = vec![UNPACKERS[2], UNPACKERS[3]];
        facts.missing_of_volumes = Some(vec!["resize2fs"]);
        facts.qemu_img = Foreign::Missing;
        facts.needed.push((DNSMASQ, Foreign::Missing));
        let told = |name, grade, mend: &str| (name, grade, mend.to_owned());
        assert_eq!(
            other_than_good(&facts),
            [
                told("nft", Grade::Bad, "apt-get install nftables"),
                told("QEMU", Grade::Bad, "apt-get install qemu-system-x86"),
                told("dnsmasq", Grade::Bad, "apt-get install dnsmasq-base"),
                told("unpackers", Grade::Tolerable, "apt-get install xz-utils zstd"),
                told("mkfs.ext4", Grade::Bad, "apt-get install e2fsprogs"),
                told("qemu-img", Grade::Tolerable, "apt-get install qemu-utils"),
            ]
        );
    }

    #[test]
    fn programs_that_will_not_do_are_bad() {
        for (at, version) in [(0, "3.1.0"), (2, "bsdtar 3.6.2")] {
            let mut facts = complete();
            facts.needed[at].1 = Foreign::There(version.to_owned());
            assert_eq!(other_than_good(&facts).len(), 1, "{version}");
        }
        for own in [Own::Missing, Own::NotExecutable, Own::Dynamic] {
            assert_eq!(other_than_good(&Facts { own: [Own::Static, own], ..complete() })[0].0, "qvd-vma");
        }
    }

    #[test]
    fn a_program_that_needs_a_loader_is_told_from_one_that_does_not() {
        let this = fs::read(env::current_exe().unwrap()).unwrap();
        assert!(needs_loader(&this), "tests are dynamic");
        assert!(!needs_loader(b"\x7fELF") && !needs_loader(b"#!/bin/sh\n"));
    }

    #[test]
    fn the_version_is_told_without_the_packagers_remark() {
        assert_eq!(without_remark("qemu-img version 7.2.22 (Debian 1:7.2)"), "qemu-img version 7.2.22");
        assert_eq!(without_remark("tar (GNU tar) 1.34"), "tar (GNU tar) 1.34");
    }

    #[tokio::test]
    async fn programs_are_asked_and_missing_ones_noticed() {
        assert!(matches!(version("tar").await, Foreign::There(line) if line.contains("GNU tar")));
        assert_eq!(version("no-such-program").await, Foreign::Missing);
        assert!(matches!(version("false").await, Foreign::Broken(_)));
    }
}
