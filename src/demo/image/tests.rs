//! Against the real mirror: the first test that needs the image builds it, the next runs find it in the cache.

use super::*;

#[tokio::test]
async fn the_image_is_a_desktop_and_carries_nothing_of_the_machine_that_built_it() {
    let mut last = None;
    let image = desktop_image(Path::new(CACHE), |progress| {
        if last.replace(progress) != Some(progress) {
            println!("{:3} % {}", progress.percent, progress.stage);
        }
    });
    let image = image.await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut unpack = Command::new("tar");
    unpack.arg("--extract").arg("--zstd").arg("--file").arg(&image).arg("--directory").arg(dir.path());
    unpack.args(["./etc", "./var", "./usr/bin", "./usr/local", "./tmp", "./run"]);
    assert!(unpack.status().unwrap().success());

    for path in ["usr/bin/nxagent", "usr/bin/xinit", "usr/local/bin/desktop-terminal", "etc/X11/Xsession"] {
        assert!(dir.path().join(path).is_file(), "{path}");
    }
    for path in ["etc/hostname", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"] {
        assert!(!dir.path().join(path).exists(), "{path}");
    }
    for path in ["var/log", "var/lib/apt/lists", "var/cache/apt", "etc/apt/sources.list.d", "run"] {
        assert_eq!(fs::read_dir(dir.path().join(path)).unwrap().count(), 0, "{path}");
    }
    for path in ["etc/machine-id", "etc/resolv.conf"] {
        assert_eq!(fs::read_to_string(dir.path().join(path)).unwrap(), "", "{path}");
    }
    let mirror = Mirror::look(&System::look().await.unwrap()).await.unwrap();
    for host in mirror.sources.iter().filter_map(|source| source.split('/').nth(2)) {
        let mut search = Command::new("grep");
        search.args(["--recursive", "--files-with-matches", "--fixed-strings", host]);
        let found = search.arg(dir.path().join("etc")).arg(dir.path().join("var")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{host}");
    }
}

#[tokio::test]
async fn a_build_that_is_dropped_leaves_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let (unpacking, mut reached) = tokio::sync::mpsc::unbounded_channel();
    let build = desktop_image(cache.path(), |progress| {
        if progress.stage == Stage::Unpacking {
            let _ = unpacking.send(());
        }
    });
    tokio::select! {
        result = build => panic!("it was too fast: {result:?}"),
        _ = reached.recv() => {}
    }
    let left: Vec<_> = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*cache.path().to_string_lossy()), "{mounts}");
}

#[tokio::test]
async fn what_a_killed_builder_left_is_removed_by_the_next() {
    let cache = tempfile::tempdir().unwrap();
    let left = cache.path().join("unfinished-abc");
    fs::create_dir_all(left.join("root/etc")).unwrap();
    fs::write(cache.path().join("desktop.tar.zst"), "").unwrap();
    let _lock = lock(cache.path(), || ()).await.unwrap();
    remove_unfinished(cache.path()).unwrap();
    assert!(!left.exists() && cache.path().join("desktop.tar.zst").exists());
}

#[tokio::test]
async fn a_second_builder_waits_and_says_so() {
    let cache = tempfile::tempdir().unwrap();
    let first = lock(cache.path(), || ()).await.unwrap();
    let (waits, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let second = lock(cache.path(), || {
        let _ = waits.send(());
    });
    let release = async {
        waiting.recv().await.unwrap();
        drop(first);
    };
    let (second, ()) = tokio::join!(second, release);
    second.unwrap();
}
