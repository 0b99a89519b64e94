//! A node with many small containers.

use std::{path::Path, process::Command};

use anyhow::Context;

/// Programs that a shell in a container needs.
const PROGRAMS: [&str; 3] = ["/bin/sh", "/bin/sleep", "/usr/bin/getent"];

/// A disk image with little more than a shell: containers of it run the agent and nothing else.
pub fn pack(archive: &Path) -> anyhow::Result<()> {
    let tree = tempfile::tempdir()?;
    for program in PROGRAMS {
        let listed =
            Command::new("ldd").arg(program).output().with_context(|| format!("cannot ask what {program} needs"))?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for file in listed.split_whitespace().filter(|word| word.starts_with('/')).chain([program]) {
            let target = tree.path().join(file.trim_start_matches('/'));
            std::fs::create_dir_all(target.parent().unwrap_or(tree.path()))?;
            std::fs::copy(file, target)?;
        }
    }
    for directory in ["dev", "etc", "home", "proc", "run", "sys", "tmp", "usr/bin"] {
        std::fs::create_dir_all(tree.path().join(directory))?;
    }
    for desktop in ["usr/bin/nxagent", "usr/bin/xinit"] {
        std::fs::write(tree.path().join(desktop), "")?;
    }
    std::fs::write(tree.path().join("etc/hosts"), "127.0.0.1 localhost\n")?;
    let packed = Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(tree.path()).arg(".").status()?;
    anyhow::ensure!(packed.success(), "the disk image cannot be packed");
    Ok(())
}
