//! A tiny disk image made of the machine's own shell, with stand-ins for the desktop and the agent.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

/// First process of a test's container: says that it runs, has a child, ends on request of its file `/end`.
const AGENT: &str = "#!/bin/sh
echo agent runs as $$ with argument $1
sleep 100000 &
while [ ! -e /end ]; do sleep 0.05; done
exit 0
";

/// Programs of the image.
const PROGRAMS: [&str; 4] = ["/bin/sh", "/bin/sleep", "/bin/cat", "/bin/dd"];

/// Packs the image into `archive`.
pub fn pack(archive: &Path) {
    let tree = tempfile::tempdir().unwrap();
    furnish(tree.path());
    for desktop in ["usr/bin/nxagent", "usr/bin/xinit"] {
        fs::write(tree.path().join(desktop), "").unwrap();
    }
    tar(archive, tree.path());
}

/// The same in the classic shape: *extended*, with an init, an agent, hooks and settings of its own. The hooks note in the
/// file `heard` that they ran; the first leaves a file in the container.
pub fn pack_classic(archive: &Path, heard: &Path) {
    let tree = tempfile::tempdir().unwrap();
    furnish(&tree.path().join("rootfs"));
    let hook = format!(
        "#!/bin/sh -e
while [ $# -gt 0 ]; do eval \"$1=\\$2\"; shift 2; done
echo $hook $state $lxc_name >>{}
[ $hook != prestart ] || echo for $ip >$os_rootfs/etc/hooked
",
        heard.display()
    );
    let agent = "#!/bin/sh\necho the agent of the image runs\nwhile :; do sleep 1; done\n";
    for (file, text) in [
        ("rootfs/sbin/init", "#!/bin/sh\n/usr/lib/qvd/bin/qvd-vma\n"),
        ("rootfs/usr/lib/qvd/bin/qvd-vma", agent),
        ("rootfs/usr/bin/nxagent", ""),
        ("rootfs/usr/bin/xinit", ""),
        ("hooks/prestart", &hook),
        ("hooks/poststart", &hook),
        ("hooks/poststop", &hook),
        ("lxc/config-extra", "lxc.environment = EXTRA=yes\n"),
    ] {
        let file = tree.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    tar(archive, tree.path());
}

fn furnish(root: &Path) {
    let files: BTreeSet<String> = PROGRAMS.iter().flat_map(|program| with_libraries(program)).collect();
    for file in files {
        let target = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
    for directory in ["dev", "etc", "home", "proc", "sys", "tmp", "usr/bin"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n192.0.2.9 printer\n").unwrap();
    std::os::unix::fs::symlink("../run/resolver", root.join("etc/resolv.conf")).unwrap();
}

fn tar(archive: &Path, tree: &Path) {
    let packed = Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(tree).arg(".").status();
    assert!(packed.unwrap().success());
}

/// A directory of programs as a node has one: the keeper, and a stand-in for the agent.
pub fn programs(dir: &Path, agent: Option<&str>) {
    fs::create_dir(dir).unwrap();
    std::os::unix::fs::symlink(super::shim::KEEPER, dir.join("qvd-keeper")).unwrap();
    fs::write(dir.join("qvd-vma"), agent.unwrap_or(AGENT)).unwrap();
    fs::set_permissions(dir.join("qvd-vma"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn with_libraries(program: &str) -> Vec<String> {
    let list = super::printed(&format!("ldd {program}"));
    let libraries = list.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
    libraries.chain([program.to_owned()]).collect()
}
