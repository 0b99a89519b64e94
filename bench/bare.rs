//! A container of ours as plain LXC runs it, without anything of ours around it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use qvd::keeper::{Bind, RootSpec, ShimDir, ShimSpec, Tree};
use tokio::process::{Child, Command};

use crate::site::BenchSite;

/// The container of ours as plain LXC runs it: same image, same agent, same limits, but LXC mounts its root, with the ids of
/// the node. Its network is its own, so the agent is asked from inside the container's namespace.
pub struct Bare {
    directory: PathBuf,
    config: PathBuf,
    name: String,
}

impl Bare {
    /// Of the container of a VM that runs. Like ours it has its layer on the storage, and everything else beside ours.
    pub fn copy(bench: &BenchSite, vm: i32) -> anyhow::Result<Self> {
        let run = &bench.site.run_directory().join("vm").join(vm.to_string());
        let directory = bench.site.run_directory().join("bare").join(vm.to_string());
        // LXC keeps what it needs for the layer beside it.
        let layer = bench.directory.path().join("bare").join(vm.to_string());
        let (name, upper) = (format!("qvd-bench-bare-{vm}"), layer.join("upper"));
        for old in [&directory, &layer] {
            let _ = std::fs::remove_dir_all(old);
        }
        std::fs::create_dir_all(directory.join(&name))?;
        std::fs::create_dir_all(&upper)?;
        let (guest, forbidden) = (directory.join("guest"), directory.join("forbidden"));
        copy_tree(&run.join("guest"), &guest)?;
        std::fs::copy(run.join("forbidden"), &forbidden)?;
        let spec: ShimSpec = serde_json::from_slice(&std::fs::read(ShimDir::new(run).spec())?)?;
        let root = spec.root.context("the container has no root of its own")?;
        let Tree::Layers { image, .. } = &root.tree else { anyhow::bail!("the container has a copy of its image") };
        let image = format!("overlay:{}:{}", image.display(), upper.display());
        let mut text = String::new();
        // The group for the end is named after our container, whose next start would find it.
        let theirs = |line: &&str| !line.starts_with("lxc.idmap") && !line.starts_with("lxc.cgroup.dir.monitor.pivot");
        for line in std::fs::read_to_string(run.join("config"))?.lines().filter(theirs) {
            let line = line.replace(&format!("dir:{}", RootSpec::path().display()), &image);
            text += &format!("{}\n", line.replace(&path(&run.join("forbidden")), &path(&forbidden)));
        }
        for Bind { from, to, read_only, .. } in &root.binds {
            let from = path(from).replace(&path(&run.join("guest")), &path(&guest));
            let create = if Path::new(&from).is_dir() { ",create=dir" } else { "" };
            let access = if *read_only { "ro" } else { "rw" };
            text += &format!("lxc.mount.entry = {from} {} none bind,{access}{create} 0 0\n", to.display());
        }
        let config = directory.join("config");
        std::fs::write(&config, text)?;
        Ok(Self { directory, config, name })
    }

    /// Starts it; how long until its agent listens.
    pub async fn start(&self) -> anyhow::Result<(Duration, Running<'_>)> {
        let began = Instant::now();
        let monitor = Command::new("lxc-start")
            .args(["-F", "-n", &self.name, "-P"])
            .arg(&self.directory)
            .arg("-f")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("lxc-start cannot be run")?;
        let mut running = Running { bare: self, monitor };
        let answered = self.wait_for_agent(&mut running.monitor).await;
        let took = began.elapsed();
        match answered {
            Ok(()) => Ok((took, running)),
            Err(error) => {
                running.kill().await?;
                Err(error)
            }
        }
    }

    /// The agent listens when the kernel says so in the namespace of the container's first process.
    async fn wait_for_agent(&self, container: &mut Child) -> anyhow::Result<()> {
        let began = Instant::now();
        let monitor = container.id().context("lxc-start has ended")?;
        loop {
            anyhow::ensure!(container.try_wait()?.is_none(), "the bare container ended at once");
            anyhow::ensure!(began.elapsed() < Duration::from_secs(30), "the bare container's agent does not listen");
            let children = std::fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children"));
            for child in children.unwrap_or_default().split_whitespace() {
                let sockets = std::fs::read_to_string(format!("/proc/{child}/net/tcp")).unwrap_or_default()
                    + &std::fs::read_to_string(format!("/proc/{child}/net/tcp6")).unwrap_or_default();
                // Port 3030, listening.
                if sockets.lines().any(|line| line.contains(":0BD6 ") && line.contains(" 0A ")) {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
}

/// It runs.
pub struct Running<'a> {
    bare: &'a Bare,
    monitor: Child,
}

impl Running<'_> {
    /// Ends all of its processes; how long until LXC has freed what it held.
    pub async fn kill(mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let _ =
            Command::new("lxc-stop").args(["-k", "-n", &self.bare.name, "-P"]).arg(&self.bare.directory).status().await;
        self.monitor.wait().await?;
        Ok(began.elapsed())
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
