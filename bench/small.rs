//! A node with many small containers, and which of its processes does what.

use std::{fs::read, path::Path, process::Command};

use anyhow::Context;

use crate::{
    cpu::{self, processes},
    site::BenchSite,
};

/// Programs that a shell in a container needs.
const PROGRAMS: [&str; 3] = ["/bin/sh", "/bin/sleep", "/usr/bin/getent"];

/// Addresses of a node's network.
const ROOM: usize = 230;

/// A node that runs, and so many VMs of a small image, which do not.
pub async fn open(name: &str, network: u8, vms: usize, settings: &[(&str, &str)]) -> anyhow::Result<BenchSite> {
    anyhow::ensure!(vms <= ROOM, "the network of a benchmark has room for {ROOM} VMs");
    let first = format!("10.250.{network}.20");
    let settings = [settings, &[("vm.network.ip.start", &first)]].concat();
    let bench = BenchSite::open(name, network, "lxc", &settings).await?;
    let image = bench.directory.path().join("small.tar");
    pack(&image)?;
    bench.site.add_image(&image, "small.tar")?;
    bench.site.sql(&format!("select config_set('vm.network.ip.start', '{first}')")).await?;
    bench.site.sql("select osf_create('small', 64), user_create('u'); select di_create('small', 'small.tar')").await?;
    bench.site.sql(&format!("select vm_create('u', 'v' || n, 'small') from generate_series(1, {vms}) n")).await?;
    bench.site.start_node().await?;
    Ok(bench)
}

/// Starts VMs until so many run.
pub async fn start(bench: &BenchSite, vms: usize) -> anyhow::Result<()> {
    let stopped = "select id from vms join vm_runtimes on vm_id = id where vm_state = 'stopped' order by id";
    bench.site.sql(&format!(
        "select vm_start(id) from ({stopped} limit {vms} - (select count(*) from vm_runtimes where vm_state <> 'stopped')) v"
    ))
    .await?;
    let running = format!("select count(*) >= {vms} from vm_runtimes where vm_state = 'running'");
    for _ in 0..5 {
        if bench.site.wait_for("not all VMs run", &running, "t").await.is_ok() {
            return Ok(());
        }
    }
    Ok(bench.site.wait_for("not all VMs run", &running, "t").await?)
}

/// What a process of an installation is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// PostgreSQL's first process.
    Database,
    /// LXC's monitor of a container.
    Monitor,
    /// Inside a container.
    Inside,
    Shim,
    Hkd,
    L7r,
    Keeper,
    /// What starts the others.
    Node,
    Other,
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Self::Database => "postgres",
            Self::Monitor => "lxc",
            Self::Inside => "inside",
            Self::Shim => "shim",
            Self::Hkd => "hkd",
            Self::L7r => "l7r",
            Self::Keeper => "keeper",
            Self::Node => "node",
            Self::Other => "other",
        }
    }
}

/// The processes of an installation.
pub fn parts(bench: &BenchSite) -> anyhow::Result<Vec<(Part, i32)>> {
    let mut found = Vec::new();
    for pid in processes()? {
        let line = read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into()).collect();
        if !words.iter().any(|word| bench.owns(word)) {
            continue;
        }
        let has = |wanted: &str| words.iter().any(|word| word == wanted);
        let part = match words[0].rsplit('/').next().unwrap_or_default() {
            "postgres" => Part::Database,
            // It has renamed itself. What it started is the first process of the VM and its kin.
            name if name.contains("lxc") => {
                found.extend(cpu::descendants(pid)?.into_iter().map(|inside| (Part::Inside, inside)));
                Part::Monitor
            }
            _ if has("shim") => Part::Shim,
            _ if has("hkd") => Part::Hkd,
            _ if has("l7r") => Part::L7r,
            _ if has("keeper") => Part::Keeper,
            _ if has("node") => Part::Node,
            _ => Part::Other,
        };
        found.push((part, pid));
    }
    Ok(found)
}

/// A disk image with little more than a shell: containers of it run the agent and nothing else.
fn pack(archive: &Path) -> anyhow::Result<()> {
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
