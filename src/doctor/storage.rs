//! The storage: whether it is the right one, takes what is written, honours locks, carries layers, and has room.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::statvfs::statvfs;

use crate::{
    hypervisor::may_map,
    keeper::Quarantine,
    model::{
        StorageId,
        config::{Config, UnionKind, keys},
        in_one_line,
    },
    process::aside,
    storage::{Storage, StorageError, StorageLock},
};

use super::{
    finding::{Finding, Grade, Subject},
    kernel::late,
    trial,
};

/// A storage whose server is gone answers never.
const LIMIT: Duration = Duration::from_secs(8);
/// Parts of it that are to be free.
const LITTLE: f64 = 0.1;
const NOTHING: f64 = 0.01;

const ROOT: Subject = Subject { name: "root", why: "Disk images, homes and what VMs write are there." };
const IDENTITY: Subject = Subject {
    name: "identity",
    why: "A share that is not mounted looks like an empty directory, and every desktop would start with an empty home.",
};
const WRITING: Subject =
    Subject { name: "writing", why: "A node whose sign of life the storage does not take gets no VMs." };
const LOCKS: Subject =
    Subject { name: "locks", why: "They keep a home from being used by two VMs at once, on this node or on two." };
const LAYERS: Subject =
    Subject { name: "layers", why: "What a VM writes lies on the storage, as a layer over its image." };
const OWNERS: Subject = Subject {
    name: "idmapped mounts",
    why: "They make the root user of a container nobody on the node. Without, one that breaks out of it is root here.",
};
const ROOM: Subject = Subject { name: "room", why: "VMs stop working when they cannot write." };
const REMOUNT: Subject = Subject {
    name: "remounting",
    why: "After VMs had to end because no sign of life was possible, the storage is mounted anew before it is used.",
};

/// What was found of a storage that answers.
#[derive(Clone, Debug)]
pub struct There {
    pub mount: Mount,
    pub identity: Result<Option<StorageId>, String>,
    /// A file was written, flushed, linked, renamed and read.
    pub written: Result<(), String>,
    /// A lock was taken once and refused to a second.
    pub locked: Result<(), String>,
    pub layer: Result<(), String>,
    /// Whether what VMs write can be a copy of the image that shares its blocks.
    pub shares_blocks: bool,
    /// Directories of it were mounted with other owners; `None`: nobody wants that.
    pub owners: Option<Result<(), String>>,
    /// The mark of shims that had to end VMs; the storage is not used before it was mounted anew.
    pub quarantine: Option<PathBuf>,
    /// Parts of blocks and files that are free.
    pub free: (f64, f64),
}

/// The mount that a directory lies on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    pub kind: String,
    /// Those of the mount and of the file system.
    pub options: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug)]
pub enum Facts {
    Missing,
    /// It does not say what it holds.
    Refused(String),
    There(Box<There>),
}

/// Looks at the storage. `bin` is where our programs are.
pub async fn look(config: &Config, bin: &Path) -> Facts {
    let (storage, layers) = (Storage::new(config), config.get(&keys::PATH_STORAGE_OVERLAYFS));
    let run = config.get(&keys::PATH_RUN);
    let examined = aside(move || examine(&storage, &layers, &run), LIMIT).await;
    let mut facts = examined.unwrap_or_else(|| Facts::Refused(late()));
    let wanted = config.get(&keys::VM_HYPERVISOR) == "lxc" && config.get(&keys::VM_LXC_IDS) > 0;
    if let Facts::There(there) = &mut facts
        && wanted
    {
        let storage = Storage::new(config);
        let made: Vec<PathBuf> = storage.mapped().into_iter().filter(|dir| dir.is_dir()).collect();
        let dirs = if made.is_empty() { vec![storage.root().to_owned()] } else { made };
        there.owners = Some(may_map(&bin.join("qvd-keeper"), &dirs).await);
    }
    facts
}

fn examine(storage: &Storage, layers: &Path, run: &Path) -> Facts {
    let root = storage.root();
    match fs::metadata(root) {
        Ok(file) if file.is_dir() => {}
        Ok(_) => return Facts::Refused("it is no directory".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Facts::Missing,
        Err(error) => return Facts::Refused(error.to_string()),
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let place = if layers.is_dir() { layers } else { root };
    let free = statvfs(root).map_or((1.0, 1.0), |stat| {
        let part = |free: u64, all: u64| if all == 0 { 1.0 } else { free as f64 / all as f64 };
        (part(stat.blocks_available(), stat.blocks()), part(stat.files_available(), stat.files()))
    });
    Facts::There(Box::new(There {
        mount: mount_of(&mounts, &root.canonicalize().unwrap_or_else(|_| root.to_owned())),
        identity: storage.identity().map_err(|error| in_one_line(&error)),
        written: write_in(root).map_err(|error| error.to_string()),
        locked: lock_in(root),
        quarantine: Quarantine::of_node(run).ok().filter(Quarantine::is_imposed).map(|mark| mark.path().to_owned()),
        free,
        owners: None,
        shares_blocks: storage.shares_blocks(),
        // The last: it takes the thread into namespaces of its own.
        layer: trial::overlay_in(place).map_err(|error| error.to_string()),
    }))
}

fn write_in(root: &Path) -> io::Result<()> {
    let scratch = tempfile::Builder::new().prefix(".qvd-doctor-").tempdir_in(root)?;
    let [new, linked, renamed] = ["new", "linked", "renamed"].map(|name| scratch.path().join(name));
    let mut file = File::create(&new)?;
    file.write_all(b"a sign of life")?;
    file.sync_all()?;
    fs::hard_link(&new, &linked)?;
    fs::rename(&new, &renamed)?;
    match fs::read(&renamed)?.as_slice() {
        b"a sign of life" => Ok(()),
        _ => Err(io::Error::other("what was read is not what was written")),
    }
}

fn lock_in(root: &Path) -> Result<(), String> {
    let scratch =
        tempfile::Builder::new().prefix(".qvd-doctor-").tempdir_in(root).map_err(|error| error.to_string())?;
    let path = scratch.path().join("lock");
    let _held = StorageLock::take(&path).map_err(|error| in_one_line(&error))?;
    match StorageLock::take(&path) {
        Err(StorageError::InUse { .. }) => Ok(()),
        Err(error) => Err(in_one_line(&error)),
        Ok(_) => Err("a lock was given twice".to_owned()),
    }
}

/// The mount that `path` lies on, by the lines of `mountinfo` (proc(5)); the last one is on top.
fn mount_of(mountinfo: &str, path: &Path) -> Mount {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (ours, of_system) = line.split_once(" - ")?;
        let (mut ours, mut of_system) = (ours.split(' ').skip(4), of_system.split(' '));
        let (point, options) = (ours.next()?, ours.next()?);
        let (kind, _source, more) = (of_system.next()?, of_system.next()?, of_system.next().unwrap_or_default());
        let options = options.split(',').chain(more.split(',')).filter(|option| !option.is_empty());
        let point = PathBuf::from(point.replace("\\040", " "));
        Some(Mount { point, kind: kind.to_owned(), options: options.map(str::to_owned).collect() })
    });
    mounts
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.as_os_str().len())
        .unwrap_or_default()
}

/// What the judgement depends on beside the facts.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The configuration file.
    pub file: PathBuf,
    pub root: PathBuf,
    /// Whether it is shared with other nodes.
    pub shared: bool,
    /// How VMs shall write into what looks like their image, and whether that has a limit.
    pub union: (UnionKind, bool),
    /// Which it was; the outer `None`: the database did not say.
    pub recorded: Option<Option<StorageId>>,
    pub node: String,
    /// Whether a command is configured that mounts it anew, and whether the machine may restart instead.
    pub remount: (bool, bool),
}

impl Wanted {
    pub fn new(config: &Config, file: &Path, recorded: Option<Option<StorageId>>) -> Self {
        Self {
            file: file.to_owned(),
            root: config.get(&keys::PATH_STORAGE_ROOT),
            shared: !config.get(&keys::STORAGE_LOCAL),
            union: (config.get(&keys::VM_LXC_UNIONFS), config.get(&keys::VM_LXC_OVERLAY_SIZE) > 0),
            recorded,
            node: config.get(&keys::NODENAME),
            remount: (!config.get(&keys::FENCE_REMOUNT).is_empty(), config.get(&keys::FENCE_REBOOT)),
        }
    }
}

/// Judges it.
pub fn judge(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let root = wanted.root.display();
    let there = match facts {
        Facts::There(there) => there,
        Facts::Missing if matches!(wanted.recorded, Some(Some(_))) => {
            return vec![ROOT.bad(format!("{root} does not exist"), format!("mount {root}"))];
        }
        Facts::Missing => {
            return vec![ROOT.tolerable(
                format!("{root} does not exist; it is made at the first start"),
                format!("mkdir -p {root}"),
            )];
        }
        Facts::Refused(why) => {
            return vec![ROOT.bad(format!("{root}: {why}"), format!("umount -f {root}; mount {root}"))];
        }
    };
    let Mount { point, kind, .. } = &there.mount;
    let mut findings = vec![ROOT.good(format!("{root}, {kind} mounted on {}", point.display()))];
    if wanted.shared {
        findings.push(identity(there.identity.as_ref(), wanted));
    }
    findings.push(match &there.written {
        Ok(()) => WRITING.good("a file was written, flushed, linked and renamed"),
        Err(why) => WRITING.bad(why, format!("mount -o remount,rw {}", point.display())),
    });
    findings.push(locks(there, wanted));
    findings.push(layers(there, wanted));
    findings.extend(there.owners.as_ref().map(|owners| match owners {
        Ok(()) => OWNERS.good("directories were mounted with other owners"),
        Err(why) => OWNERS.tolerable(
            why,
            format!(
                "echo 'path.storage.root = …' >> {}  # on ext4, xfs or btrfs, with Linux 5.19 or newer",
                wanted.file.display()
            ),
        ),
    }));
    let (blocks, files) = there.free;
    let least = blocks.min(files);
    findings.push(ROOM.graded(
        if least < NOTHING {
            Grade::Bad
        } else if least < LITTLE {
            Grade::Tolerable
        } else {
            Grade::Good
        },
        format!("{:.0} % of bytes and {:.0} % of files free", blocks * 100.0, files * 100.0),
        format!("du -xsh {root}/*"),
    ));
    if wanted.shared {
        findings.push(match (&there.quarantine, wanted.remount) {
            (Some(mark), _) => REMOUNT
                .bad("due: VMs had to end here", format!("umount -f {root} && mount {root} && rm {}", mark.display())),
            (None, (true, _)) => REMOUNT.good("by fence.remount"),
            (None, (false, true)) => REMOUNT.good("by restarting the machine; fence.remount would do with less"),
            (None, (false, false)) => REMOUNT.tolerable(
                "waits for an administrator",
                format!("echo 'fence.remount = umount -f {root} && mount {root}' >> {}", wanted.file.display()),
            ),
        });
    }
    findings
}

fn layers(there: &There, wanted: &Wanted) -> Finding {
    let (kind, file) = (&there.mount.kind, wanted.file.display());
    match (wanted.union, &there.layer, there.shares_blocks) {
        ((UnionKind::Btrfs | UnionKind::Reflink, true), ..) => LAYERS.bad(
            "copies of images, which cannot have a limit, but vm.lxc.overlay.size is set",
            format!("echo 'vm.lxc.unionfs.type = overlayfs' >> {file}"),
        ),
        ((UnionKind::Btrfs | UnionKind::Reflink, false), _, true) => LAYERS.good("copies of images share their blocks"),
        ((UnionKind::Btrfs | UnionKind::Reflink, false), _, false) => LAYERS.bad(
            format!("{kind} has no files that share blocks"),
            format!("echo 'vm.lxc.unionfs.type = auto' >> {file}"),
        ),
        ((_, true), ..) => LAYERS.good("in files with a file system of their own"),
        (_, Ok(()), _) => LAYERS.good("a layer was mounted and written"),
        ((UnionKind::Auto, false), Err(why), true) => {
            LAYERS.good(format!("copies of images share their blocks, since {kind} carries no layer: {why}"))
        }
        (_, Err(why), _) => LAYERS.bad(
            format!("{kind} carries no layer: {why}"),
            format!(
                "echo 'vm.lxc.overlay.size = 1024' >> {file}  # in MB; or path.storage.overlayfs = … on ext4, xfs or btrfs"
            ),
        ),
    }
}

fn identity(found: Result<&Option<StorageId>, &String>, wanted: &Wanted) -> Finding {
    let root = wanted.root.display();
    let forget = format!(
        "psql qvd -c \"update hosts set storage_id = null where name = '{}'\"  # if it was replaced",
        wanted.node
    );
    match (found, &wanted.recorded) {
        (Err(why), _) => IDENTITY.bad(why, format!("ls -l {root}/{}", StorageId::FILE)),
        (Ok(Some(found)), Some(Some(recorded))) if found == recorded => IDENTITY.good(format!("{found}, as on record")),
        (Ok(Some(found)), Some(Some(recorded))) => {
            IDENTITY.bad(format!("{found}, but {recorded} is on record"), forget)
        }
        (Ok(Some(found)), Some(None)) => IDENTITY.good(format!("{found}, none on record yet")),
        (Ok(Some(found)), None) => IDENTITY.good(format!("{found}; what is on record is not known")),
        (Ok(None), Some(Some(recorded))) => {
            IDENTITY.bad(format!("none, but {recorded} is on record"), format!("mount {root}"))
        }
        (Ok(None), _) => IDENTITY.tolerable(
            "none yet; the first start makes one",
            format!("mount {root}  # if other nodes have a storage already"),
        ),
    }
}

/// Locks that were tried between two of this machine may still not be seen by others.
fn locks(there: &There, wanted: &Wanted) -> Finding {
    let Mount { point, kind, options } = &there.mount;
    let local = ["nolock", "local_lock=all", "local_lock=flock", "nobrl", "localflocks"];
    let kept = options.iter().find(|option| local.contains(&option.as_str()));
    match (&there.locked, kept) {
        (Err(why), _) => LOCKS.bad(why, format!("mount | grep {}", point.display())),
        (Ok(()), Some(option)) if wanted.shared => LOCKS.bad(
            format!("{kind} is mounted with {option}, so other nodes do not see them"),
            format!("editor /etc/fstab  # take {option} out, then: umount {0} && mount {0}", point.display()),
        ),
        (Ok(()), _) if wanted.shared && kind.starts_with("fuse") => LOCKS.tolerable(
            format!("honoured on this machine; whether {kind} tells other nodes of them is not known"),
            format!(
                "flock {}/staging sleep 60  # here; meanwhile the same on another node must wait",
                wanted.root.display()
            ),
        ),
        (Ok(()), _) => LOCKS.good("one was given once and refused to a second"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [&str; 2] = ["11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"];

    fn id(n: usize) -> StorageId {
        ID[n].parse().unwrap()
    }

    fn sound() -> There {
        There {
            mount: Mount { point: "/srv/qvd".into(), kind: "nfs4".to_owned(), options: vec!["rw".to_owned()] },
            identity: Ok(Some(id(0))),
            written: Ok(()),
            locked: Ok(()),
            layer: Ok(()),
            shares_blocks: false,
            owners: Some(Ok(())),
            quarantine: None,
            free: (0.5, 0.5),
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            file: "/etc/qvd/node.conf".into(),
            root: "/srv/qvd".into(),
            shared: true,
            union: (UnionKind::Auto, false),
            recorded: Some(Some(id(0))),
            node: "n1".to_owned(),
            remount: (true, false),
        }
    }

    fn other_than_good(there: There, wanted: &Wanted) -> Vec<(&'static str, Grade)> {
        let findings = judge(&Facts::There(Box::new(there)), wanted).into_iter();
        findings.filter(|finding| finding.grade != Grade::Good).map(|finding| (finding.name, finding.grade)).collect()
    }

    #[test]
    fn a_storage_is_judged_line_by_line() {
        use Grade::{Bad, Tolerable};
        let failed = || Err("no".to_owned());
        assert_eq!(other_than_good(sound(), &wanted()), []);
        assert_eq!(other_than_good(There { written: failed(), ..sound() }, &wanted()), [("writing", Bad)]);
        assert_eq!(other_than_good(There { locked: failed(), ..sound() }, &wanted()), [("locks", Bad)]);
        assert_eq!(other_than_good(There { layer: failed(), ..sound() }, &wanted()), [("layers", Bad)]);
        assert_eq!(other_than_good(There { free: (0.05, 0.5), ..sound() }, &wanted()), [("room", Tolerable)]);
        assert_eq!(other_than_good(There { free: (0.5, 0.001), ..sound() }, &wanted()), [("room", Bad)]);
        let quarantine = Some("/run/qvd/fenced.1".into());
        assert_eq!(other_than_good(There { quarantine, ..sound() }, &wanted()), [("remounting", Bad)]);
        let waits = Wanted { remount: (false, false), ..wanted() };
        assert_eq!(other_than_good(sound(), &waits), [("remounting", Tolerable)]);
    }

    #[test]
    fn what_vms_write_needs_what_was_chosen_for_it() {
        use UnionKind::{Auto, Btrfs, Overlayfs, Reflink};
        let grade = |union, layer: bool, shares_blocks| {
            let there = There { layer: layer.then_some(()).ok_or("no".to_owned()), shares_blocks, ..sound() };
            other_than_good(there, &Wanted { union, ..wanted() }).first().map(|(_, grade)| *grade)
        };
        for union in [Auto, Overlayfs] {
            assert_eq!(grade((union, false), true, false), None);
            assert_eq!(grade((union, false), false, false), Some(Grade::Bad));
            assert_eq!(grade((union, true), false, false), None, "a volume carries layers everywhere");
        }
        assert_eq!(grade((Auto, false), false, true), None);
        assert_eq!(grade((Overlayfs, false), false, true), Some(Grade::Bad));
        for union in [Btrfs, Reflink] {
            assert_eq!(grade((union, false), false, true), None);
            assert_eq!(grade((union, false), true, false), Some(Grade::Bad));
            assert_eq!(grade((union, true), true, true), Some(Grade::Bad), "copies have no limit");
        }
    }

    #[test]
    fn locks_that_other_nodes_do_not_see_are_bad_where_there_are_others() {
        for (kind, option, grade) in [
            ("nfs", "nolock", Some(Grade::Bad)),
            ("nfs4", "local_lock=flock", Some(Grade::Bad)),
            ("nfs4", "local_lock=none", None),
            ("fuse.sshfs", "rw", Some(Grade::Tolerable)),
        ] {
            let mount = Mount { kind: kind.to_owned(), options: vec![option.to_owned()], ..sound().mount };
            let there = There { mount, ..sound() };
            let expected: Vec<_> = grade.into_iter().map(|grade| ("locks", grade)).collect();
            assert_eq!(other_than_good(there.clone(), &wanted()), expected, "{kind} {option}");
            assert_eq!(other_than_good(there, &Wanted { shared: false, ..wanted() }), [], "{kind} {option}");
        }
    }

    #[test]
    fn a_share_that_is_not_mounted_is_not_taken_for_a_new_storage() {
        let grade = |found: Option<usize>, recorded: Option<Option<usize>>| {
            let there = There { identity: Ok(found.map(id)), ..sound() };
            let wanted = Wanted { recorded: recorded.map(|recorded| recorded.map(id)), ..wanted() };
            other_than_good(there, &wanted).first().map(|(_, grade)| *grade)
        };
        assert_eq!(grade(Some(0), Some(Some(0))), None);
        assert_eq!(grade(Some(0), Some(None)), None);
        assert_eq!(grade(None, Some(Some(0))), Some(Grade::Bad));
        assert_eq!(grade(Some(1), Some(Some(0))), Some(Grade::Bad));
        assert_eq!(grade(None, Some(None)), Some(Grade::Tolerable));
        assert_eq!(judge(&Facts::Missing, &wanted())[0].grade, Grade::Bad);
        assert_eq!(judge(&Facts::Missing, &Wanted { recorded: Some(None), ..wanted() })[0].grade, Grade::Tolerable);
    }

    #[test]
    fn a_directory_lies_on_the_nearest_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /srv rw,nosuid shared:1 - nfs4 s:/x rw,local_lock=none\n\
                      3 1 0:6 / /srv/q\\040d rw - tmpfs t rw\n";
        let of = |path: &str| mount_of(mounts, Path::new(path));
        assert_eq!(of("/srv/qvd").options, ["rw", "nosuid", "rw", "local_lock=none"]);
        assert_eq!((of("/home").kind.as_str(), of("/srvx").kind.as_str()), ("ext4", "ext4"));
        assert_eq!(of("/srv/q d/x").kind, "tmpfs");
    }
}
