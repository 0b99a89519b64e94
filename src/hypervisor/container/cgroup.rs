//! Control groups of containers: which version the machine has, and what a container leaves in them.
//! LXC makes a group of the same name in every hierarchy, with a number appended when the name is taken by leftovers,
//! so a container's groups are recognised by name and never assumed.

use std::{
    fs, io,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{AccessFlags, Pid, access},
};
use tokio::time::{Instant, sleep};

/// How long the dead may take to leave their groups.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

/// The machine's control groups.
#[derive(Clone, Debug)]
pub struct Cgroups {
    root: PathBuf,
}

/// What a machine's control groups can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupStanding {
    /// Whether there is one hierarchy for all (version 2); otherwise one per controller, or nothing.
    pub unified: bool,
    /// Controllers that VMs are limited by and that are not there.
    pub missing: Vec<&'static str>,
    /// Whether groups can be made.
    pub writable: bool,
}

/// Which names a memory limit has here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// One hierarchy per controller; `swap` when memory and swap can be limited together.
    V1 {
        /// `memory.memsw.limit_in_bytes` exists.
        swap: bool,
    },
    /// One hierarchy for all; `swap` when swap can be limited.
    V2 {
        /// `memory.swap.max` exists.
        swap: bool,
    },
}

impl Cgroups {
    /// Where every system mounts them.
    pub fn of_this_machine() -> Self {
        Self { root: PathBuf::from("/sys/fs/cgroup") }
    }

    /// How memory is limited; chosen by looking, because LXC ignores limits that are written for the other version.
    pub fn memory(&self) -> Memory {
        let v1 = self.root.join("memory");
        if v1.join("memory.limit_in_bytes").exists() {
            return Memory::V1 { swap: v1.join("memory.memsw.limit_in_bytes").exists() };
        }
        // The root group itself has no limits, so a child is asked.
        let swap = subdirectories(&self.root).iter().any(|group| group.join("memory.swap.max").exists());
        Memory::V2 { swap }
    }

    /// What they can do.
    pub fn standing(&self) -> CgroupStanding {
        let list = fs::read_to_string(self.root.join("cgroup.controllers")).ok();
        let unified = list.is_some();
        let has = |controller: &str| match &list {
            Some(list) => list.split_whitespace().any(|name| name == controller),
            None => self.root.join(controller).join("cgroup.procs").exists(),
        };
        // Version 2 has no controller for devices: programs in the kernel do that.
        let wanted = ["memory", "pids", "devices"].into_iter().filter(|name| !(unified && *name == "devices"));
        let writable = |dir: &PathBuf| access(dir, AccessFlags::W_OK).is_ok();
        CgroupStanding {
            unified,
            missing: wanted.filter(|name| !has(name)).collect(),
            writable: self.hierarchies().iter().any(writable),
        }
    }

    /// The groups that a container's shim is to enter, so that it no longer counts as part of its daemon. None where
    /// the daemon is in the root group itself and nothing counts it: entering a group costs milliseconds.
    pub fn for_shim(&self, name: &str) -> Vec<PathBuf> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        self.hierarchies_of_services(&own).into_iter().map(|root| root.join(format!("qvd.shim.{name}"))).collect()
    }

    /// The hierarchies in which systemd keeps track of services, as far as `own`, the groups of this process, shows
    /// that it does.
    fn hierarchies_of_services(&self, own: &str) -> Vec<PathBuf> {
        // `number:controllers:group`; controllers are empty for the unified hierarchy.
        let below_root = |controllers: &str| {
            own.lines().any(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                fields.next() == Some(controllers) && fields.next().is_some_and(|group| group != "/")
            })
        };
        let unified =
            if self.root.join("cgroup.procs").exists() { self.root.clone() } else { self.root.join("unified") };
        [("", unified), ("name=systemd", self.root.join("systemd"))]
            .into_iter()
            .filter(|(controllers, root)| below_root(controllers) && root.is_dir())
            .map(|(_, root)| root)
            .collect()
    }

    /// Kills every process in the groups of a container, until none is left.
    pub async fn kill(&self, name: &str) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            let processes = self.processes(name);
            if processes.is_empty() {
                return Ok(());
            }
            for pid in &processes {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            if begin.elapsed() > PATIENCE {
                return Err(io::Error::new(ErrorKind::TimedOut, format!("processes {processes:?} do not die")));
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits for those of a container's processes that are dying. Its groups do not list them any more, but they may still hold
    /// its files, and take down its mounts.
    pub async fn wait_for_dying(&self, name: &str) {
        let begin = Instant::now();
        while is_dying(name) && begin.elapsed() < PATIENCE {
            sleep(PAUSE).await;
        }
    }

    /// Removes the groups of a container, which must be empty of the living.
    pub async fn remove(&self, name: &str) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            match self.groups(name).iter().try_for_each(|group| remove_tree(group)) {
                // The dead stay in their group until their parent takes note.
                Err(error) if error.kind() == ErrorKind::ResourceBusy && begin.elapsed() < PATIENCE => {
                    sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// The processes of a container, its LXC monitor among them; shims are not.
    fn processes(&self, name: &str) -> Vec<i32> {
        let ours =
            |group: &PathBuf| !group.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"qvd."));
        let mut found = Vec::new();
        for group in self.groups(name).iter().filter(|group| ours(group)) {
            collect_processes(group, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The names, without decoration, of all containers whose name begins with `prefix` and that left groups.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let groups = self.hierarchies().into_iter().flat_map(|hierarchy| subdirectories(&hierarchy));
        let names = groups.filter_map(|group| {
            let group = group.file_name()?.to_str()?;
            KINDS.iter().find_map(|kind| group.strip_prefix(kind)).map(str::to_owned)
        });
        let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether a container has any group.
    pub fn has(&self, name: &str) -> bool {
        !self.groups(name).is_empty()
    }

    fn groups(&self, name: &str) -> Vec<PathBuf> {
        let groups = self.hierarchies().into_iter().flat_map(|hierarchy| subdirectories(&hierarchy));
        groups
            .filter(|group| group.file_name().and_then(|file| file.to_str()).is_some_and(|g| belongs(g, name)))
            .collect()
    }

    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.root.join("cgroup.procs").exists() { vec![self.root.clone()] } else { subdirectories(&self.root) }
    }
}

/// How the names of a container's groups begin.
const KINDS: [&str; 4] = ["lxc.payload.", "lxc.monitor.", "lxc.pivot.", "qvd.shim."];

/// Whether `group` is one of the container's, perhaps with a number that LXC appended.
fn belongs(group: &str, container: &str) -> bool {
    let Some(name) = KINDS.iter().find_map(|kind| group.strip_prefix(kind)) else { return false };
    match name.strip_prefix(container) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix('-')
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())),
        None => false,
    }
}

/// Whether a process of the container is there that is not dead. Of one that dies only version 2 knows the group.
fn is_dying(container: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let read = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        let is_dead =
            |stat: &str| stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']));
        read("cgroup").split(['/', '\n']).any(|group| belongs(group, container)) && !is_dead(&read("stat"))
    })
}

fn collect_processes(group: &Path, found: &mut Vec<i32>) {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of a namespace we cannot see.
    found.extend(list.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in subdirectories(group) {
        collect_processes(&child, found);
    }
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for child in subdirectories(group) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_directory).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(files: &[&str]) -> (tempfile::TempDir, Cgroups) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let cgroups = Cgroups { root: dir.path().to_owned() };
        (dir, cgroups)
    }

    #[test]
    fn the_version_is_found_by_looking() {
        let v1 = fake(&["memory/memory.limit_in_bytes", "unified/cgroup.procs"]);
        assert_eq!(v1.1.memory(), Memory::V1 { swap: false });
        let hybrid = fake(&["memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes"]);
        assert_eq!(hybrid.1.memory(), Memory::V1 { swap: true });
        let v2 = fake(&["cgroup.procs", "cgroup.controllers", "system.slice/memory.swap.max"]);
        assert_eq!(v2.1.memory(), Memory::V2 { swap: true });
    }

    #[test]
    fn controllers_that_are_not_there_are_named() {
        let v1 = fake(&["memory/cgroup.procs", "devices/cgroup.procs", "unified/cgroup.procs"]);
        let standing = CgroupStanding { unified: false, missing: vec!["pids"], writable: true };
        assert_eq!(v1.1.standing(), standing);
        let (dir, v2) = fake(&["cgroup.procs"]);
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        assert_eq!(v2.standing(), CgroupStanding { unified: true, missing: vec![], writable: true });
        assert_eq!(fake(&[]).1.standing().missing, ["memory", "pids", "devices"]);
    }

    #[test]
    fn a_shim_leaves_the_group_of_a_service_and_no_other() {
        let v2 = fake(&["cgroup.procs"]);
        assert_eq!(v2.1.hierarchies_of_services("0::/system.slice/qvd-hkd.service"), [v2.0.path().to_owned()]);
        assert!(v2.1.hierarchies_of_services("0::/").is_empty());
        let hybrid = fake(&["unified/cgroup.procs", "systemd/cgroup.procs"]);
        let own = "4:memory:/x\n1:name=systemd:/system.slice/qvd-hkd.service\n0::/";
        assert_eq!(hybrid.1.hierarchies_of_services(own), [hybrid.0.path().join("systemd")]);
    }

    /// As systemd sets them up by default, with `systemd.unified_cgroup_hierarchy=0`, and as older ones did.
    #[tokio::test]
    async fn a_container_is_found_and_freed_in_one_hierarchy_in_many_and_in_both_kinds() {
        let layouts: [(&str, &[&str], &[&str]); 3] = [
            ("version 2", &["cgroup.procs", "cgroup.controllers"], &["."]),
            ("version 1", &[], &["memory", "pids", "devices", "systemd"]),
            ("hybrid", &[], &["memory", "pids", "devices", "systemd", "unified"]),
        ];
        for (layout, files, hierarchies) in layouts {
            let (dir, cgroups) = fake(files);
            for hierarchy in hierarchies {
                let hierarchy = dir.path().join(hierarchy);
                for group in
                    ["lxc.payload.qvd-n-1/init.scope", "lxc.monitor.qvd-n-1", "lxc.payload.qvd-n-2", "system.slice"]
                {
                    fs::create_dir_all(hierarchy.join(group)).unwrap();
                }
                fs::write(hierarchy.join("cgroup.procs"), "").unwrap();
            }
            assert_eq!(cgroups.names("qvd-n-"), ["qvd-n-1", "qvd-n-2"], "{layout}");
            assert_eq!(cgroups.groups("qvd-n-1").len(), 2 * hierarchies.len(), "{layout}");
            let inside = dir.path().join(hierarchies[0]).join("lxc.payload.qvd-n-1/init.scope/cgroup.procs");
            fs::write(&inside, "0\n4711\n").unwrap();
            assert_eq!(cgroups.processes("qvd-n-1"), [4711], "{layout}");
            fs::remove_file(inside).unwrap();
            cgroups.remove("qvd-n-1").await.unwrap();
            assert_eq!(cgroups.names("qvd-n-"), ["qvd-n-2"], "{layout}");
            if hierarchies.contains(&"memory") {
                fs::write(dir.path().join("memory/memory.limit_in_bytes"), "").unwrap();
            }
            assert_eq!(matches!(cgroups.memory(), Memory::V1 { .. }), layout != "version 2");
            assert!(cgroups.standing().writable, "{layout}");
        }
    }

    #[test]
    fn only_groups_of_the_container_are_its_own() {
        for ours in ["lxc.payload.qvd-n-1", "lxc.monitor.qvd-n-1-3", "lxc.pivot.qvd-n-1", "qvd.shim.qvd-n-1"] {
            assert!(belongs(ours, "qvd-n-1"), "{ours}");
        }
        for foreign in ["lxc.pivot", "lxc.payload.qvd-n-10", "lxc.payload.qvd-n-1-", "lxc.payload.qvd-n-1-a", "qvd-n-1"]
        {
            assert!(!belongs(foreign, "qvd-n-1"), "{foreign}");
        }
    }
}
