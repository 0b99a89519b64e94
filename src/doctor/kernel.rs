//! What the kernel must be able to do. It is tried where that changes nothing; what is tried with a network or on the
//! storage belongs to those.

use std::{fs, path::Path, time::Duration};

use crate::{
    hypervisor::{CgroupStanding, Cgroups, processor_runs_guests},
    process::aside,
    tunnel::Kernel as KernelTls,
};

use super::{
    finding::{Finding, Subject, sysctl},
    trial,
};

const LIMIT: Duration = Duration::from_secs(5);

const ROOT: Subject = Subject {
    name: "account",
    why: "Containers, bridges and packet filters are made by root; without, half of this page cannot be looked at.",
};
const NAMESPACES: Subject =
    Subject { name: "namespaces", why: "A container is a set of namespaces: mounts, processes, network, host name." };
const USER_NAMESPACES: Subject = Subject {
    name: "user namespaces",
    why: "Browsers in desktops lock themselves into user namespaces, and show nothing or less safely without.",
};
const OVERLAY: Subject =
    Subject { name: "overlayfs", why: "The root of a container is its disk image with a writable layer above." };
const CGROUPS: Subject = Subject {
    name: "control groups",
    why: "They limit the memory and the processes of a VM, and say what devices it has.",
};
const KVM: Subject =
    Subject { name: "KVM", why: "KVM guests are emulated without it, ten times slower. Containers need none." };
const LOOP_DEVICES: Subject = Subject {
    name: "loop devices",
    why: "Homes and layers that have a limit are files with a file system in them, mounted through these.",
};
const KERNEL_TLS: Subject = Subject {
    name: "kernel TLS",
    why: "The router encrypts sessions itself where the kernel does not, with more processor time.",
};

/// What was found of the kernel.
#[derive(Clone, Debug)]
pub struct Facts {
    pub root: bool,
    pub release: String,
    /// Kinds that are missing.
    pub missing_namespaces: Vec<&'static str>,
    /// Whether some could be made.
    pub namespaces: Result<(), String>,
    /// How many user namespaces there may be; `None`: the kernel has none.
    pub user_namespaces: Option<u64>,
    pub overlay: Result<(), String>,
    pub cgroups: CgroupStanding,
    /// Whether the processor runs a guest; `None`: nobody wants it to.
    pub kvm: Option<Result<(), String>>,
    /// Whether loop devices are to be had; `None`: nobody wants them.
    pub loop_devices: Option<Result<(), String>>,
    pub kernel_tls: Result<(), String>,
}

/// Looks at the kernel. `kvm`: VMs are guests that the processor should run; `volumes`: what containers write has a limit.
pub async fn look(kvm: bool, volumes: bool) -> Facts {
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let made = |done: Option<Result<(), String>>| done.unwrap_or_else(|| Err(late()));
    // That /dev/kvm opens says little, see `hypervisor`.
    let guest = async { if kvm { Some(processor_runs_guests(LIMIT).await) } else { None } };
    let (namespaces, overlay, kernel_tls, kvm) = tokio::join!(
        aside(|| trial::namespaces().map_err(|error| error.to_string()), LIMIT),
        aside(|| trial::overlay().map_err(|error| error.to_string()), LIMIT),
        aside(|| KernelTls::probe().map(drop).map_err(|error| error.to_string()), LIMIT),
        guest,
    );
    Facts {
        root: nix::unistd::geteuid().is_root(),
        release: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
        missing_namespaces: kinds.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect(),
        namespaces: made(namespaces),
        user_namespaces: text("/proc/sys/user/max_user_namespaces").and_then(|limit| limit.parse().ok()),
        overlay: made(overlay),
        cgroups: Cgroups::of_this_machine().standing(),
        kvm,
        loop_devices: volumes.then(|| trial::loop_devices().map_err(|error| error.to_string())),
        kernel_tls: made(kernel_tls),
    }
}

/// Judges it.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![match facts.root {
        true => ROOT.good(format!("root, on Linux {}", facts.release)),
        false => ROOT.bad("not root", "sudo qvd doctor"),
    }];
    findings.push(match &facts.namespaces {
        _ if !facts.missing_namespaces.is_empty() => NAMESPACES.bad(
            format!("the kernel has none for {}", facts.missing_namespaces.join(", ")),
            "apt-get install linux-image-amd64 && reboot",
        ),
        Ok(()) => NAMESPACES.good("a process was put into new ones"),
        Err(why) => NAMESPACES.bad(format!("none can be made: {why}"), "sudo qvd doctor"),
    });
    findings.push(match facts.user_namespaces {
        Some(0) => USER_NAMESPACES.tolerable("switched off", sysctl("user.max_user_namespaces", 100_000)),
        Some(limit) => USER_NAMESPACES.good(format!("there, up to {limit}")),
        None => USER_NAMESPACES.tolerable("the kernel has none", "apt-get install linux-image-amd64 && reboot"),
    });
    findings.push(match &facts.overlay {
        Ok(()) => OVERLAY.good("a layer was mounted and written"),
        Err(why) => OVERLAY.bad(format!("no layer can be mounted: {why}"), "modprobe overlay"),
    });
    findings.push(cgroups(&facts.cgroups));
    findings.push(match &facts.kvm {
        None => KVM.good("not needed"),
        Some(Ok(())) => KVM.good("a tiny guest ran"),
        Some(Err(why)) => KVM.tolerable(
            format!("guests are emulated: {why}"),
            "modprobe kvm_intel || modprobe kvm_amd; dmesg | grep -i kvm",
        ),
    });
    findings.extend(facts.loop_devices.as_ref().map(|found| match found {
        Ok(()) => LOOP_DEVICES.good("there are some"),
        Err(why) => LOOP_DEVICES.bad(format!("none: {why}"), "modprobe loop && echo loop >> /etc/modules"),
    }));
    findings.push(match &facts.kernel_tls {
        Ok(()) => KERNEL_TLS.good("the kernel encrypts tunnels"),
        Err(why) => {
            KERNEL_TLS.tolerable(format!("not in this kernel: {why}"), "modprobe tls && echo tls >> /etc/modules")
        }
    });
    findings
}

fn cgroups(standing: &CgroupStanding) -> Finding {
    let version = if standing.unified { "version 2" } else { "version 1" };
    match standing {
        CgroupStanding { missing, unified, .. } if !missing.is_empty() => CGROUPS.bad(
            format!("{version}, without {}", missing.join(" and ")),
            match unified {
                true => format!("echo '+{}' > /sys/fs/cgroup/cgroup.subtree_control", missing.join(" +")),
                false => "systemctl reboot  # with systemd, which mounts /sys/fs/cgroup".to_owned(),
            },
        ),
        CgroupStanding { writable: false, .. } => {
            CGROUPS.bad(format!("{version}, and none can be made"), "mount -o remount,rw /sys/fs/cgroup")
        }
        CgroupStanding { unified: true, .. } => CGROUPS.good("version 2, with memory and pids"),
        CgroupStanding { unified: false, .. } => CGROUPS.good("version 1, with memory, pids and devices"),
    }
}

/// A file of the kernel, without the line's end.
pub fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

pub fn late() -> String {
    "no answer in time".to_owned()
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Grade, *};

    fn fit() -> Facts {
        Facts {
            root: true,
            release: "6.1.0".to_owned(),
            missing_namespaces: vec![],
            namespaces: Ok(()),
            user_namespaces: Some(1000),
            overlay: Ok(()),
            cgroups: CgroupStanding { unified: true, missing: vec![], writable: true },
            kvm: Some(Ok(())),
            loop_devices: Some(Ok(())),
            kernel_tls: Ok(()),
        }
    }

    fn grade(facts: &Facts, name: &str) -> Grade {
        judge(facts).iter().find(|finding| finding.name == name).unwrap().grade
    }

    #[test]
    fn a_kernel_that_can_do_everything_is_good() {
        assert!(judge(&fit()).iter().all(|finding| finding.grade == Grade::Good && finding.mend.is_none()));
    }

    #[test]
    fn what_containers_cannot_be_without_is_bad_and_the_rest_tolerable() {
        let unlike = |change: fn(&mut Facts)| {
            let mut facts = fit();
            change(&mut facts);
            facts
        };
        for (name, change, expected) in [
            ("account", (|facts| facts.root = false) as fn(&mut Facts), Grade::Bad),
            ("namespaces", |facts| facts.missing_namespaces = vec!["net"], Grade::Bad),
            ("namespaces", |facts| facts.namespaces = Err("EPERM".to_owned()), Grade::Bad),
            ("user namespaces", |facts| facts.user_namespaces = Some(0), Grade::Tolerable),
            ("user namespaces", |facts| facts.user_namespaces = None, Grade::Tolerable),
            ("overlayfs", |facts| facts.overlay = Err("ENODEV".to_owned()), Grade::Bad),
            ("control groups", |facts| facts.cgroups.missing = vec!["memory"], Grade::Bad),
            ("control groups", |facts| facts.cgroups.writable = false, Grade::Bad),
            ("KVM", |facts| facts.kvm = Some(Err("it hangs".to_owned())), Grade::Tolerable),
            ("KVM", |facts| facts.kvm = None, Grade::Good),
            ("loop devices", |facts| facts.loop_devices = Some(Err("ENOENT".to_owned())), Grade::Bad),
            ("kernel TLS", |facts| facts.kernel_tls = Err("ENOENT".to_owned()), Grade::Tolerable),
        ] {
            assert_eq!(grade(&unlike(change), name), expected, "{name}");
        }
    }
}
