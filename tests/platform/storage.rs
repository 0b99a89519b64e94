//! Storage that is limited, full, silent or broken under containers.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use qvd::{
    hypervisor::{Container, Exit, Hypervisor},
    model::{Census, CensusImage, VmId, VmSpec, in_one_line},
    storage::{CheckOptions, Storage, StorageError},
};

use super::{
    lives,
    node::{Node, VM, address, as_root_of},
    printed, read, signal, wait_until,
};

/// The files of a container, as its root user has them.
struct Inside(i32);

impl Inside {
    fn path(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root/{path}", self.0).into()
    }

    fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    fn read(&self, path: &str) -> String {
        read(self.path(path))
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
        as_root_of(self.0, || fs::write(self.path(path), content))
    }

    fn flush(&self, path: &str) {
        fs::File::open(self.path(path)).and_then(|file| file.sync_all()).unwrap();
    }

    fn remove(&self, path: &str) {
        as_root_of(self.0, || fs::remove_file(self.path(path))).unwrap();
    }

    /// Writes into a file until there is no room; how much there was, and what was said.
    fn fill(&self, path: &str) -> (u64, ErrorKind) {
        as_root_of(self.0, || {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path(path)).unwrap();
            loop {
                // Past what is merely promised.
                if let Err(error) = file.write_all(&[7; 1 << 18]).and_then(|()| file.sync_data()) {
                    return (file.metadata().unwrap().len(), error.kind());
                }
            }
        })
    }
}

const LIMITED: [(&str, &str); 2] = [("vm.lxc.home.limit", "1"), ("vm.lxc.overlay.size", "12")];

#[tokio::test]
async fn a_vm_that_fills_its_home_and_its_system_harms_neither_the_node_nor_its_neighbour() {
    let node = Node::with(51, None, &LIMITED).await;
    let spec = |vm| VmSpec { user_storage_mb: 8, ..node.spec(VmId(vm)) };
    for vm in [1, 2] {
        node.hypervisor.start(&spec(vm)).await.unwrap();
    }
    let (first, second) = (Inside(node.first_process(VmId(1)).await), Inside(node.first_process(VmId(2)).await));
    for (path, limit) in [("home/large", 8 << 20), ("large", 12 << 20)] {
        let (written, why) = first.fill(path);
        assert_eq!(why, ErrorKind::StorageFull, "{path}");
        assert!(written > limit / 4 && written < limit, "{path}: {written}");
        second.write(path, vec![7; 1 << 20]).unwrap();
    }
    let taken =
        printed(&format!("du -sm {} {}", node.storage("homefs").display(), node.storage("overlayfs").display()));
    let taken: u32 = taken.lines().map(|line| line.split_whitespace().next().unwrap().parse::<u32>().unwrap()).sum();
    assert!(taken <= 2 * (8 + 12), "{taken} MiB");
    first.remove("home/large");
    first.write("home/letter", "dear").unwrap();
    for vm in [1, 2] {
        node.stop(VmId(vm)).await;
        wait_until("nothing is left", || node.traces(VmId(vm)).is_empty());
    }

    // Its home is kept, and larger when its OSF says so; the rest is thrown away.
    node.hypervisor.start(&VmSpec { user_storage_mb: 24, ..spec(1) }).await.unwrap();
    let first = Inside(node.first_process(VM).await);
    assert_eq!(first.read("home/letter"), "dear");
    assert!(!first.has("large") && !first.has("home/lost+found"));
    let (written, _) = first.fill("home/large");
    assert!(written > 12 << 20, "{written}");
    node.stop(VM).await;
}

/// A file system of a few megabytes, for a storage that can be filled, frozen and damaged.
struct Share(PathBuf);

impl Share {
    fn in_memory(path: PathBuf) -> Self {
        Self::mounted(&["-t", "tmpfs", "-o", "size=24m,mode=755", "share"], path)
    }

    fn in_file(file: &Path, path: PathBuf) -> Self {
        fs::File::create(file).unwrap().set_len(64 << 20).unwrap();
        assert!(Command::new("mkfs.ext4").arg("-q").arg(file).status().unwrap().success());
        Self::mounted(&["-o", "loop,errors=remount-ro", file.to_str().unwrap()], path)
    }

    fn mounted(what: &[&str], path: PathBuf) -> Self {
        assert!(Command::new("mount").args(what).arg(&path).status().unwrap().success());
        Self(path)
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        assert!(Command::new(program).args(arguments).arg(&self.0).status().unwrap().success(), "{program}");
    }

    /// Lets the kernel find it damaged, so that it takes no more writes.
    fn damage(&self) {
        let device = printed(&format!("findmnt -no SOURCE {}", self.0.display()));
        let device = device.trim().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Without volumes, so that the VM feels the storage itself.
#[tokio::test]
async fn on_a_full_or_read_only_storage_what_runs_goes_on_and_what_starts_says_why() {
    let node = Node::new(38).await;
    let layers = Share::in_memory(node.storage("overlayfs"));
    let homes = Share::in_file(&node.dir.path().join("homes"), node.storage("homefs"));
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
    let init = node.first_process(VM).await;
    let inside = Inside(init);
    for path in ["letter", "home/letter"] {
        inside.write(path, "dear").unwrap();
    }
    assert_eq!(inside.fill("large").1, ErrorKind::StorageFull);
    // The last bytes, too.
    while fs::write(layers.0.join(format!("{:x}", rand::random::<u64>())), [7; 4096]).is_ok() {}
    let refused = async || {
        let error = in_one_line(&node.hypervisor.start(&node.spec(VmId(2))).await.unwrap_err());
        assert!(!node.shim(VmId(2)).path().exists() && node.groups(VmId(2)).is_empty(), "it left something");
        assert!(lives(init) && inside.read("home/letter") == "dear");
        error
    };
    let error = refused().await;
    assert!(error.contains("No space left on device") && error.contains("make room on the storage"), "{error}");
    inside.remove("large");
    node.hypervisor.start(&node.spec(VmId(2))).await.unwrap();
    node.stop(VmId(2)).await;

    homes.damage();
    assert_eq!(inside.write("home/other", "x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    let error = refused().await;
    assert!(error.contains("Read-only file system"), "{error}");
    inside.write("letter", "what is not on it").unwrap();
    node.stop(VM).await;
    drop((layers, homes));
    assert_eq!(node.traces(VM), [""; 0]);
}

/// As a share whose server is gone for a while.
#[tokio::test]
async fn while_the_storage_does_not_answer_what_runs_goes_on_and_what_starts_waits_for_it() {
    let node = Node::with(53, None, &LIMITED).await;
    let homes = Share::in_file(&node.dir.path().join("homes"), node.storage("homefs"));
    let spec = |vm| VmSpec { user_storage_mb: 8, ..node.spec(VmId(vm)) };
    node.hypervisor.start(&spec(1)).await.unwrap();
    let init = node.first_process(VM).await;
    let inside = Inside(init);
    inside.write("home/letter", "dear").unwrap();
    homes.run("fsfreeze", &["-f"]);
    inside.write("home/letter", "dearest").unwrap();
    assert_eq!(inside.read("home/letter"), "dearest", "it is in memory");
    let second = spec(2);
    let mut starts = std::pin::pin!(node.hypervisor.start(&second));
    // Given a hundred chances it does not get on, nor does it fail.
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut starts).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(lives(init));
    homes.run("fsfreeze", &["-u"]);
    starts.await.unwrap();
    for vm in [1, 2] {
        node.stop(VmId(vm)).await;
        wait_until("it is unmounted", || node.loop_devices(VmId(vm)).is_empty());
        let volume = homes.0.join(format!("{vm}-fs.ext4"));
        let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(volume).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }
    node.hypervisor.start(&spec(1)).await.unwrap();
    assert_eq!(Inside(node.first_process(VM).await).read("home/letter"), "dearest");
    node.stop(VM).await;
    wait_until("it is unmounted", || node.loop_devices(VM).is_empty());
}

/// A volume promises more than its storage may have.
#[tokio::test]
async fn a_volume_whose_storage_is_full_is_whole_when_there_is_room_again() {
    let node = Node::with(39, None, &LIMITED).await;
    let share = Share::in_memory(node.storage("homefs"));
    let spec = |vm| VmSpec { user_storage_mb: 40, ..node.spec(VmId(vm)) };
    node.hypervisor.start(&spec(1)).await.unwrap();
    let init = node.first_process(VM).await;
    let inside = Inside(init);
    inside.write("home/letter", "dear").unwrap();
    inside.flush("home/letter");
    let (written, _) = inside.fill("home/large");
    assert!(written < 24 << 20, "{written}");
    let error = node.hypervisor.start(&spec(2)).await.unwrap_err().to_string();
    assert!(error.contains("No space left") || error.contains("cannot be made so large"), "{error}");
    assert!(lives(init) && inside.read("home/letter") == "dear");
    node.stop(VM).await;
    share.run("mount", &["-o", "remount,size=96m"]);
    node.hypervisor.start(&spec(1)).await.unwrap();
    let inside = Inside(node.first_process(VM).await);
    assert_eq!(inside.read("home/letter"), "dear");
    inside.remove("home/large");
    inside.write("home/large", vec![7; 16 << 20]).unwrap();
    node.stop(VM).await;
    let volume = node.storage("homefs/1-fs.ext4");
    wait_until("it is unmounted", || node.loop_devices(VM).is_empty());
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(&volume).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    drop(share);
}

#[tokio::test]
async fn a_volume_outlives_its_shim_and_is_not_mounted_twice() {
    let node = Node::with(52, None, &LIMITED).await;
    let spec = VmSpec { user_storage_mb: 8, ..node.spec(VM) };
    node.hypervisor.start(&spec).await.unwrap();
    Inside(node.first_process(VM).await).write("home/letter", "dear").unwrap();
    let exited = node.hypervisor.exited(VM);
    signal(node.status(VM).await.shim, "KILL");
    assert_eq!(exited.await, Exit::Unseen);
    node.hypervisor.start(&spec).await.unwrap();
    assert_eq!(Inside(node.first_process(VM).await).read("home/letter"), "dear");

    let volume = fs::File::open(node.storage("homefs/1-fs.ext4")).unwrap();
    assert!(matches!(volume.try_lock(), Err(fs::TryLockError::WouldBlock)), "it is locked as long as it is mounted");
    node.stop(VM).await;
    volume.try_lock().unwrap();
    let error = node.hypervisor.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains("1-fs.ext4: somebody still writes to it"), "{error}");
    // The kernel frees a device when it has the time.
    wait_until("nothing is left", || node.traces(VM).is_empty());
}

#[tokio::test]
async fn a_home_that_cannot_be_limited_or_mounted_is_named_and_left_as_it_is() {
    let node = Node::with(37, None, &LIMITED).await;
    let spec = |vm| VmSpec { user_storage_mb: 8, ..node.spec(VmId(vm)) };
    let garbage = vec![7; 8 << 20];
    fs::write(node.storage("homefs/1-fs.ext4"), &garbage).unwrap();
    let error = node.hypervisor.start(&spec(1)).await.unwrap_err().to_string();
    assert!(error.contains("cannot mount the volume") && error.contains("1-fs.ext4"), "{error}");
    assert!(error.contains("see what e2fsck -n says"), "{error}");
    assert!(fs::read(node.storage("homefs/1-fs.ext4")).unwrap() == garbage);
    wait_until("nothing is left", || node.traces(VmId(1)).is_empty());

    fs::create_dir(node.storage("homefs/2-fs")).unwrap();
    fs::write(node.storage("homefs/2-fs/letter"), "dear").unwrap();
    node.hypervisor.start(&spec(2)).await.unwrap();
    assert_eq!(read(node.storage("homefs/2-fs/letter")), "dear", "what is in a directory stays there");
    node.stop(VmId(2)).await;
}

/// The database knows that it starts; whoever looks through the storage meanwhile neither touches it nor stands in its way.
#[tokio::test]
async fn a_check_that_repairs_leaves_a_vm_alone_that_starts_and_runs_and_one_that_the_database_has_forgotten() {
    let node = Node::new(50).await;
    let spec = node.spec(VM);
    let image = |is_used| CensusImage {
        di: spec.di,
        path: spec.di_path.clone(),
        is_ready: true,
        is_coming: false,
        is_used,
        size: None,
        sha256: None,
    };
    let knows = Census { vms: [(VM, true)].into(), images: vec![image(true)], one_storage: true, ..Census::default() };
    let options =
        CheckOptions { repair: true, checksums: false, keeps_layers: false, keeps_trees: Duration::from_secs(3600) };
    let storage = Storage::new(&node.config);
    let check = move |storage: &Storage, census: &Census| {
        storage.check::<StorageError>(options, || Ok(census.clone()), &mut |_, _| {}).unwrap()
    };
    let ends = Arc::new(AtomicBool::new(false));
    let looks = {
        let (storage, knows, ends) = (storage.clone(), knows.clone(), ends.clone());
        std::thread::spawn(move || {
            let mut found = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                found.extend(check(&storage, &knows));
            }
            found
        })
    };
    for _ in 0..5 {
        node.hypervisor.start(&spec).await.unwrap();
        node.stop(VM).await;
    }
    node.hypervisor.start(&spec).await.unwrap();
    ends.store(true, Ordering::Relaxed);
    let found = looks.join().unwrap();
    assert!(found.is_empty(), "{found:?}");

    let forgets = Census { one_storage: true, ..Census::default() };
    let findings = check(&storage, &forgets);
    let mended = findings.iter().filter(|finding| finding.is_mended()).count();
    assert_eq!((findings.len(), mended), (4, 0), "image, its tree, home and layer: {findings:#?}");
    Inside(node.first_process(VM).await).write("home/letter", "dear").unwrap();
    assert_eq!(read(node.storage("homefs/1-fs/letter")), "dear");
    node.stop(VM).await;
    let findings = check(&storage, &forgets);
    let mended = findings.iter().filter(|finding| finding.is_mended()).count();
    assert_eq!((findings.len(), mended), (4, 3), "the image is left: {findings:#?}");
}

/// Where the file systems have such files, a VM writes into a copy of its image.
#[tokio::test]
async fn a_vm_that_has_a_copy_of_its_image_is_as_one_that_has_a_layer_over_it() {
    for (number, kind, union) in [(46, "btrfs", "auto"), (47, "xfs", "reflink")] {
        let outside = tempfile::tempdir().unwrap();
        fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (file, at) = (outside.path().join("disk"), outside.path().join("at"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&file).unwrap().set_len(512 << 20).unwrap();
        assert!(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&file).status().unwrap().success());
        let share = Share::mounted(&["-o", "loop", file.to_str().unwrap()], at);
        let below = |name: &str| share.0.join(name).display().to_string();
        let (basefs, layers, homes) = (below("basefs"), below("layers"), below("homes"));
        let node = Node::with(
            number,
            None,
            &[
                ("path.storage.basefs", &basefs),
                ("path.storage.overlayfs", &layers),
                ("path.storage.homefs", &homes),
                ("vm.lxc.unionfs.type", union),
            ],
        )
        .await;
        for vm in [1, 2] {
            node.hypervisor.start(&node.spec(VmId(vm))).await.unwrap();
        }
        let (first, second) = (Inside(node.first_process(VmId(1)).await), Inside(node.first_process(VmId(2)).await));
        first.write("scratch", "mine").unwrap();
        first.write("etc/hosts", "changed").unwrap();
        first.write("home/letter", "dear").unwrap();
        assert!(second.read("etc/hosts").contains("printer") && !second.has("scratch"), "{kind}");
        assert!(read(format!("{basefs}/desk/etc/hosts")).contains("printer"), "the image is as it was");
        let scratch = Path::new(&layers).join("1-1-rootfs/scratch");
        assert_eq!(fs::metadata(&scratch).unwrap().uid(), 0, "root inside is root on the disk, and nobody here");
        assert!(node.attach(VmId(1), &["/bin/sh", "-c", "test -O /scratch"]));
        let subvolume = fs::metadata(scratch.with_file_name("")).unwrap().ino() == 256;
        assert_eq!(subvolume, kind == "btrfs", "a snapshot");
        for vm in [1, 2] {
            node.stop(VmId(vm)).await;
            assert_eq!(node.traces(VmId(vm)), [""; 0]);
        }
        node.hypervisor.start(&node.spec(VM)).await.unwrap();
        let first = Inside(node.first_process(VM).await);
        assert!(!first.has("scratch") && first.read("home/letter") == "dear", "{kind}");
        node.stop(VM).await;

        let mut config = node.config.clone();
        config.set("vm.lxc.overlay.size", "12").unwrap();
        config.set("vm.lxc.unionfs.type", "reflink").unwrap();
        let limiting = Container::new(&config, &Node::name(number), address(&config, 1)).unwrap();
        let refused = limiting.start(&node.spec(VM)).await.unwrap_err().to_string();
        assert!(refused.contains("cannot be held to a size") && refused.contains("vm.lxc.unionfs.type"), "{refused}");
        assert_eq!(node.traces(VM), [""; 0]);
    }
}
