//! A container from an image of the classic shape: it brings an init, which starts an agent of its own that knows nothing of
//! secrets.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use qvd::storage::{ImageName, Storage};

use super::{
    desk::Desk,
    installation::{IMAGE, Installation},
    viewer::Viewer,
};

const AGENT: &str = "usr/lib/qvd/bin/qvd-vma";

/// Files of such an image: busybox sees to services and shuts down.
const FILES: [(&str, &str); 3] = [
    ("usr/sbin/init", "#!/bin/sh\n[ $$ != 1 ] || exec /usr/lib/busybox/init\nexec /usr/lib/busybox/busybox poweroff\n"),
    (
        "etc/inittab",
        "::sysinit:/bin/mkdir -m 1777 -p /tmp/.X11-unix\n::respawn:/usr/lib/qvd/bin/qvd-vma agent\n::shutdown:/bin/touch /home/shut-down\n",
    ),
    ("etc/qvd/vma.conf", "vma.secret.file = /nowhere\n"),
];

#[tokio::test]
async fn a_desktop_whose_image_boots_its_own_agent_is_seen_and_shuts_down() {
    let at = Installation::shared().await;
    let demo = Storage::new(&at.config().unwrap()).unpacked(&ImageName::parse(IMAGE).unwrap()).await.unwrap();
    furnish(&demo.root, &at.storage("basefs/classic/rootfs"));
    at.sql("select osf_create('classic', memory => 512, user_storage => 100), di_create('classic', 'classic.tar')")
        .await
        .unwrap();
    let walter = Desk::of(&at, "walter", "classic").await;
    walter.animate();
    let guest = walter.start().await;
    let words = |process: &super::processes::Process| process.words().join(" ");
    let all: Vec<String> = guest.processes().iter().map(words).collect();
    assert!(all.iter().any(|words| words.starts_with(&format!("/{AGENT} agent"))), "{all:?}");
    assert!(!all.iter().any(|words| words.contains("/.qvd/")), "the node's agent has no part in it: {all:?}");
    let viewer = Viewer::connect(&walter).await;
    viewer.sees_motion("the desktop of an image that boots itself").await;
    walter.stop().await;
    assert!(walter.home().with_file_name("shut-down").exists(), "it was killed");
}

/// Makes the image of the demo's, as another node would have unpacked it.
fn furnish(demo: &Path, root: &Path) {
    fs::create_dir_all(root.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-al").arg(demo).arg(root).status().unwrap().success());
    for (file, text) in FILES {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (program, place) in [(env!("CARGO_BIN_EXE_qvd-vma"), AGENT), ("/bin/busybox", "usr/lib/busybox/busybox")] {
        fs::create_dir_all(root.join(place).parent().unwrap()).unwrap();
        fs::copy(program, root.join(place)).unwrap();
    }
    symlink("busybox", root.join("usr/lib/busybox/init")).unwrap();
}
