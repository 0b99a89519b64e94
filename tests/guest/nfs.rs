//! What nodes ask of a storage that they share, asked of NFS: a server, and two nodes with a network, a host name and a mount
//! each. VMs are shims with the root file systems and volumes that containers have, and a shell in place of LXC.

use std::{
    fs::{self, File},
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use qvd::{
    keeper::{Bind, Ended, RootSpec, ShimDir, ShimSpec, Tree, Volume, client},
    model::{DiId, HomeOf, HostId, Owner, UserId, VmId, config::Config, in_one_line},
    storage::{Course, ImageName, Import, Layer, Room, Storage, StorageError, StorageLock},
};

use super::stage::soon;

/// Programs of this machine that the nodes and the server are made of.
pub const TOOLS: &[&str] = &[
    "cp",
    "e2fsck",
    "exportfs",
    "ip",
    "mkfs.ext4",
    "mount",
    "nsenter",
    "qvd-keeper",
    "resize2fs",
    "rpc.mountd",
    "rpc.nfsd",
    "tar",
    "umount",
    "unshare",
];
/// Modules of the kernel that they need.
pub const MODULES: &[&str] = &["loop", "veth", "overlay", "nfsd", "nfsv4"];

const KEEPER: &str = "/bin/qvd-keeper";
const EXPORT: &str = "/export";
/// What is there in its place when it is not.
const OTHER: &str = "/run/other";
/// In seconds, the least that the server takes: for so long it keeps the locks of one that is not heard of.
const LEASE: &str = "10";
/// For what waits for a lease to end.
const PATIENCE: Duration = Duration::from_secs(60);
const ATTEMPT: Duration = Duration::from_millis(100);

/// Lets a script wait without a program, which would have to come from the storage.
const PATIENT: &str =
    "/bin/busybox mkfifo /home/pipe; exec 3<>/home/pipe; wait_a_second() { read -t 1 -r nothing <&3; }";

/// All of it, in order.
pub async fn all() {
    let server = Server::start();
    let [one, two] = [Node::mount(1), Node::mount(2)];
    server.end_grace();
    let mut began = Instant::now();
    let mut said = |what: &str| {
        println!("guest: {what}: {} ms", began.elapsed().as_millis());
        began = Instant::now();
    };
    locks_and_names(&one, &two).await;
    said("locks, links and renames are seen by the other node");
    a_wait(&one, &two).await;
    said("what was made during a wait for a lock is seen after it");
    let image = image(&one, &two).await;
    said("an image is imported by one node and unpacked once for both");
    homes_of_users(&one, &two, &image).await;
    said("a home of a user is shared by VMs of one node");
    cut_off(&one, &two, &image).await;
    said("what a node that was cut off for longer than its lease writes late harms nobody");
    server_gone(&server, &one, &two, &image).await;
    said("while the server is gone what runs goes on and what starts waits");
    stale(&server, &one, &image).await;
    said("a stale handle is named, and harms nobody");
}

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Tries again until it is so.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        // Nobody tells.
        tokio::time::sleep(ATTEMPT).await;
    }
}

struct Server;

impl Server {
    /// With an ext4 file system behind the export.
    fn start() -> Self {
        for dir in [EXPORT, "/run", "/var/lib/nfs/v4recovery", "/etc"] {
            fs::create_dir_all(dir).unwrap();
        }
        // Layers of the nodes' own lie here.
        run("mount", &["-t", "tmpfs", "none", "/run"]);
        for dir in ["/run/netns", OTHER] {
            fs::create_dir_all(dir).unwrap();
        }
        File::create("/disk").unwrap().set_len(300 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", "/disk"]);
        run("mount", &["-t", "ext4", "-o", "loop", "/disk", "/export"]);
        run("mount", &["-t", "nfsd", "nfsd", "/proc/fs/nfsd"]);
        for table in ["etab", "rmtab"] {
            File::create(Path::new("/var/lib/nfs").join(table)).unwrap();
        }
        fs::write("/etc/services", "nfs 2049/tcp\n").unwrap();
        let server = Self;
        for period in ["nfsv4leasetime", "nfsv4gracetime"] {
            server.set(period, LEASE);
        }
        server.export(EXPORT);
        run("rpc.mountd", &["-N", "2", "-N", "3"]);
        run("rpc.nfsd", &["-N", "3", "-V", "4.2", "4"]);
        server
    }

    fn set(&self, what: &str, value: &str) {
        fs::write(Path::new("/proc/fs/nfsd").join(what), value).unwrap();
    }

    fn export(&self, what: &str) {
        run("exportfs", &["-i", "-o", "rw,no_root_squash,fsid=0,insecure,no_subtree_check,sync", &format!("*:{what}")]);
    }

    /// Has something else where the export was, which does not know the files that clients have open.
    fn replace(&self, what: &str, by: &str) {
        run("exportfs", &["-u", &format!("*:{what}")]);
        self.export(by);
    }

    /// Nobody has locks from before that he might claim.
    fn end_grace(&self) {
        self.set("v4_end_grace", "Y");
    }
}

/// A node as the storage sees it.
#[derive(Clone)]
struct Node {
    number: i32,
    root: PathBuf,
    storage: Storage,
}

struct Vm(ShimDir);

impl Node {
    fn mount(number: i32) -> Self {
        let (name, veth, root) = (format!("n{number}"), format!("v{number}"), format!("/n{number}"));
        let [server, client] = [1, 2].map(|last| Ipv4Addr::new(10, 1, number as u8, last));
        run("ip", &["netns", "add", &name]);
        run("ip", &["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &name]);
        run("ip", &["addr", "add", &format!("{server}/24"), "dev", &veth]);
        run("ip", &["link", "set", &veth, "up"]);
        run("ip", &["-n", &name, "addr", "add", &format!("{client}/24"), "dev", "eth0"]);
        run("ip", &["-n", &name, "link", "set", "eth0", "up"]);
        fs::create_dir(&root).unwrap();
        let mount = format!(
            "/bin/busybox hostname node{number}; \
             exec /bin/busybox mount -t nfs4 -o vers=4.2,addr={server},clientaddr={client} {server}:/ {root}"
        );
        run("nsenter", &[&format!("--net=/run/netns/{name}"), "unshare", "--uts", "/bin/sh", "-c", &mount]);
        let mut config = Config::default();
        config.set("path.storage.root", &root).unwrap();
        let storage = Storage::new(&config);
        storage.prepare().unwrap();
        Self { number, root: root.into(), storage }
    }

    fn link(&self, state: &str) {
        run("ip", &["link", "set", &format!("v{}", self.number), state]);
    }

    fn owner(&self) -> Owner {
        Owner { host: HostId(self.number), epoch: 1, boot_id: "boot".to_owned() }
    }

    /// Starts a VM whose layer and, unless it is a user's, home are volumes on the storage.
    async fn start(&self, vm: i32, of: HomeOf, image: &Path, script: &str) -> Result<Vm, String> {
        let (id, said) = (VmId(vm), |error: StorageError| in_one_line(&error));
        let shared = self.storage.can_be_shared(of, false).map_err(said)?;
        let (home_lock, layer_lock) = (self.storage.home_lock(of), self.storage.overlay_lock(id));
        let held: Result<Vec<_>, _> = std::iter::once(&layer_lock)
            .chain((!shared).then_some(&home_lock))
            .map(|lock| StorageLock::take(lock))
            .collect();
        let held = held.map_err(said)?;
        let name = ImageName::parse("5-desk.tar").unwrap();
        let unpacked = self.storage.unpacked(&name).await.map_err(said)?;
        assert_eq!(unpacked.root.strip_prefix(&self.root), image.strip_prefix("/n1"));
        let layer = self.storage.overlay((id, DiId(5)), &unpacked, false, 0, true).await.map_err(said)?;
        layer.make_mount_point("home").map_err(said)?;
        let layer = Room::Directory(layer.over_image().expect("NFS over ext4 has no copies").to_owned());
        let layer = self.storage.limited(layer, 8, false).await.map_err(said)?;
        let home = self.storage.home(of).map_err(said)?;
        let home = if shared { home } else { self.storage.limited(home, 16, true).await.map_err(said)? };
        drop(held);

        let dir = PathBuf::from(format!("/run/node{}/{vm}", self.number));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let mut volumes = Vec::new();
        let mut place = |room, name| match room {
            Room::Directory(path) => path,
            Room::Volume(file) => {
                volumes.push(Volume { file, at: dir.join(name) });
                dir.join(name)
            }
        };
        let [upper, work] = Layer::parts(&place(layer, "layer"));
        let home = Bind { from: place(home, "home"), to: "home".into(), read_only: false, mapped: true };
        let root = RootSpec { tree: Tree::Layers { image: unpacked.root, upper, work }, binds: vec![home], ids: None };
        let at = RootSpec::path().display().to_string();
        let (locks, shared) =
            if shared { (vec![layer_lock], vec![home_lock]) } else { (vec![home_lock, layer_lock], vec![]) };
        let shim = ShimSpec {
            argv: ["/bin/busybox", "chroot", &at, "/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            output: dir.join("output.log"),
            locks,
            shared,
            owner: Some(self.owner()),
            volumes,
            root: Some(root),
            ..ShimSpec::default()
        };
        let dir = ShimDir::new(dir);
        match client::start(Path::new(KEEPER), &dir, &shim).await {
            Ok(()) => Ok(Vm(dir)),
            Err(error) => Err(in_one_line(&error)),
        }
    }
}

impl Vm {
    fn said(&self) -> String {
        fs::read_to_string(self.0.path().join("output.log")).unwrap_or_default()
    }

    async fn says(&self, word: &str) {
        until(&format!("{word:?} is said"), async || self.said().contains(word)).await;
    }

    /// Waits until it has said this some more times.
    async fn goes_on(&self, word: &str) {
        let count = || self.said().matches(word).count();
        let so_far = count();
        until(&format!("{word:?} is said again"), async || count() > so_far + 2).await;
    }

    async fn stop(&self) -> Option<Ended> {
        client::kill(&self.0).await.unwrap();
        soon("the end of a shim", client::wait(&self.0)).await
    }
}

async fn locks_and_names(one: &Node, two: &Node) {
    let id = one.storage.identify(None).unwrap();
    assert_eq!(two.storage.identify(None).unwrap(), id);
    let (here, there) = (one.root.join("lock"), two.root.join("lock"));
    let held = StorageLock::take(&here).unwrap();
    assert!(matches!(StorageLock::take(&there), Err(StorageError::InUse { .. })));
    drop(held);
    drop(StorageLock::take(&there).unwrap());
    fs::write(&here, one.owner().record()).unwrap();
    assert_eq!(StorageLock::recorded(&there).unwrap(), Some(one.owner()), "what was closed is seen");
    StorageLock::take(&there).unwrap().disown(&one.owner()).unwrap();
    assert_eq!(StorageLock::recorded(&here).unwrap(), None);
    fs::hard_link(&here, one.root.join("linked")).unwrap();
    let again = fs::hard_link(&there, two.root.join("linked")).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    fs::rename(&here, one.root.join("renamed")).unwrap();
    assert!(two.root.join("renamed").exists());
    // That there is no such name is believed for half a minute, but not by one who has just had a lock in that directory: else
    // there would be a second home in place of the first.
    let [here, there] = [one, two].map(|node| node.root.join("homefs/9-fs.ext4"));
    assert!(!there.exists());
    fs::write(&here, "").unwrap();
    let of = HomeOf::Vm(VmId(9));
    let held = StorageLock::take(&two.storage.home_lock(of)).unwrap();
    assert_eq!(two.storage.home(of).unwrap(), Room::Volume(there.clone()));
    drop(held);
    fs::remove_file(&here).unwrap();
}

/// Who waits for a lock knows what was made meanwhile beside it, whatever he knew when the wait began.
async fn a_wait(one: &Node, two: &Node) {
    let [here, there] = [one, two].map(|node| node.root.join("basefs/lock.late"));
    let held = StorageLock::wait(&there).unwrap();
    let (wanted, path) = (here.with_file_name("late"), here.clone());
    let waiting = thread::spawn(move || {
        let _held = StorageLock::wait(&path).unwrap();
        wanted.is_dir()
    });
    let is_open = || {
        let mut files = fs::read_dir("/proc/self/fd").unwrap();
        files.any(|file| fs::read_link(file.unwrap().path()).is_ok_and(|file| file == here))
    };
    until("the lock is open", async || is_open()).await;
    assert!(!here.with_file_name("late").exists());
    fs::create_dir(there.with_file_name("late")).unwrap();
    drop(held);
    assert!(waiting.join().unwrap());
    fs::remove_dir(there.with_file_name("late")).unwrap();
}

/// Imported by one, unpacked by whoever comes first.
async fn image(one: &Node, two: &Node) -> PathBuf {
    let tree = Path::new("/tree");
    for dir in ["bin", "usr", "home", "etc", "dev"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    // What the shell puts into the background reads from it.
    fs::write(tree.join("dev/null"), "").unwrap();
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh")).unwrap();
    run("tar", &["-cf", "/n1/staging/desk.tar", "-C", "/tree", "."]);
    let name = |name| ImageName::parse(name).unwrap();
    let import = Import { di: DiId(5), source: name("desk.tar"), target: name("5-desk.tar"), moves: true };
    let mut brought = two.storage.bring(&import, &Course::default()).unwrap();
    assert!(matches!(one.storage.bring(&import, &Course::default()), Err(StorageError::InUse { .. })));
    brought.place().unwrap();
    brought.remove_source().unwrap();
    assert!(!Path::new("/n2/staging/desk.tar").exists());
    let image = name("5-desk.tar");
    let (here, there) = tokio::join!(one.storage.unpacked(&image), two.storage.unpacked(&image));
    assert_eq!(there.unwrap().root, Path::new("/n2/basefs/5-desk"));
    here.unwrap().root
}

async fn homes_of_users(one: &Node, two: &Node, image: &Path) {
    let of = HomeOf::User(UserId(1));
    let script = |number: i32| format!("echo dear >/home/letter{number}; echo ready; exec /bin/busybox sleep 1000");
    let first = one.start(11, of, image, &script(1)).await.unwrap();
    let second = one.start(12, of, image, &script(2)).await.unwrap();
    for vm in [&first, &second] {
        vm.says("ready").await;
    }
    first.stop().await;
    let refused = two.start(13, of, image, "true").await.err().unwrap();
    assert!(refused.contains("names") && refused.contains("as the owner"), "{refused}");
    second.stop().await;
    let script = "/bin/busybox cat /home/letter1 /home/letter2; echo read; exec /bin/busybox sleep 1000";
    let third = two.start(13, of, image, script).await.unwrap();
    third.says("dear\ndear\nread").await;
    third.stop().await;
}

/// Longer than the server keeps its locks. The other has learned that its time is over.
async fn cut_off(one: &Node, two: &Node, image: &Path) {
    let of = HomeOf::Vm(VmId(1));
    // Whatever it wrote last is still in memory when it is cut off.
    let script = "echo one >/home/letter; /bin/busybox sync; echo written
        while true; do /bin/busybox dd if=/dev/urandom of=/home/data bs=64k count=16 || echo FAILED; /bin/busybox sleep 1; done";
    let first = one.start(1, of, image, script).await.unwrap();
    first.says("written").await;
    let refused = two.start(1, of, image, "true").await.err().unwrap();
    assert!(refused.contains("is locked"), "{refused}");
    one.link("down");
    let lock = two.storage.home_lock(of);
    let layer = two.storage.overlay_lock(VmId(1));
    for lock in [&lock, &layer] {
        until("the server forgets the lock", async || StorageLock::take(lock).is_ok()).await;
        let taken = StorageLock::take(lock).unwrap();
        assert_eq!(taken.owner().unwrap(), Some(one.owner()), "nothing rests on the lock alone");
        drop(taken);
    }
    let refused = two.start(1, of, image, "true").await.err().unwrap();
    assert!(refused.contains("as the owner") || refused.contains("still writes"), "{refused}");
    for lock in [&lock, &layer] {
        StorageLock::take(lock).unwrap().disown(&one.owner()).unwrap();
    }
    let script = "/bin/busybox cat /home/letter; echo two >/home/letter; /bin/busybox sync; echo written
        while true; do echo tock >>/home/log; /bin/busybox sync; /bin/busybox sleep 1; done";
    let second = two.start(1, of, image, script).await.unwrap();
    second.says("one\nwritten").await;
    one.link("up");
    first.says("FAILED").await;
    first.stop().await;
    assert_eq!(StorageLock::recorded(&lock).unwrap(), Some(two.owner()), "what is another's by now stays his");
    assert!(!second.said().contains("I/O error"), "{}", second.said());
    second.stop().await;
    whole(two, "homefs/1-fs.ext4").await;
    let third = two.start(1, of, image, "/bin/busybox cat /home/letter; exec /bin/busybox sleep 1000").await.unwrap();
    third.says("two").await;
    third.stop().await;
}

/// Whether a volume that nobody uses any more has no faults.
async fn whole(node: &Node, volume: &str) {
    let file = node.root.join(volume);
    // Over NFS only what can be written can be locked.
    let lock = async || File::options().write(true).open(&file).unwrap().try_lock().is_ok();
    until("it is unmounted", lock).await;
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(&file).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

/// It forgets everything and comes back; until then nothing is answered.
async fn server_gone(server: &Server, one: &Node, two: &Node, image: &Path) {
    let (of, other) = (HomeOf::Vm(VmId(2)), HomeOf::Vm(VmId(3)));
    // Who writes waits in the end.
    let script = format!(
        "{PATIENT}; (while true; do echo tick >>/home/log; echo tick; wait_a_second; done) & echo ready
        while true; do echo lives; wait_a_second; done"
    );
    let vm = one.start(2, of, image, &script).await.unwrap();
    vm.says("ready").await;
    server.set("threads", "0");
    let (node, at) = (two.clone(), image.to_owned());
    // On a thread of its own, which the storage holds.
    let starts = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(node.start(3, other, &at, "echo ready; exec /bin/busybox sleep 1000"))
    });
    vm.goes_on("lives").await;
    assert!(!starts.is_finished(), "there is nobody to say whether it may");
    server.set("threads", "4");
    until("it has started", async || starts.is_finished()).await;
    let second = starts.join().unwrap().unwrap();
    second.says("ready").await;
    vm.goes_on("tick").await;
    let refused = two.start(2, of, image, "true").await.err().unwrap();
    assert!(refused.contains("is locked"), "the lock was claimed again: {refused}");
    for vm in [&vm, &second] {
        vm.stop().await;
    }
    assert!(!vm.said().contains("error"), "{}", vm.said());
    whole(two, "homefs/2-fs.ext4").await;
}

async fn stale(server: &Server, one: &Node, image: &Path) {
    let (of, other) = (HomeOf::Vm(VmId(4)), HomeOf::Vm(VmId(5)));
    let script = format!(
        "{PATIENT}; echo dear >/home/letter; /bin/busybox sync; echo ready
        while true; do echo lives; wait_a_second; done"
    );
    let vm = one.start(4, of, image, &script).await.unwrap();
    vm.says("ready").await;
    let id = one.storage.identify(None).unwrap();
    let mut open = File::options().write(true).open(one.root.join("renamed")).unwrap();
    server.replace(EXPORT, OTHER);
    until("the handles are stale", async || fs::read_dir(one.root.join("staging")).is_err()).await;
    let refused = one.start(5, other, image, "true").await.err().unwrap();
    // By its name it is looked up once more, in what is there now.
    assert!(refused.contains("cannot lock /n1/overlayfs/lock.5"), "{refused}");
    assert!(matches!(one.storage.identify(Some(&id)), Err(StorageError::Identity { found: None, .. })));
    let stale = open.write_all(b"late").and_then(|()| open.sync_all()).unwrap_err();
    assert_eq!(stale.kind(), std::io::ErrorKind::StaleNetworkFileHandle);
    vm.goes_on("lives").await;
    server.replace(OTHER, EXPORT);
    until("the export is back", async || fs::read_dir(one.root.join("staging")).is_ok()).await;
    vm.stop().await;
    whole(one, "homefs/4-fs.ext4").await;
    for (vm, of) in [(5, other), (4, of)] {
        let again = one.start(vm, of, image, "echo ready; /bin/busybox cat /home/letter; exec /bin/busybox sleep 1000");
        let again = again.await.unwrap();
        again.says(if vm == 4 { "ready\ndear" } else { "ready" }).await;
        again.stop().await;
    }
}
