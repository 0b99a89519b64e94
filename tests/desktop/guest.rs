//! The processes of a running VM, and programs run inside it.

use std::{
    fs::File,
    process::{Command, Output},
    thread,
};

use nix::sched::{CloneFlags, setns};
use qvd::keeper::{RootSpec, ShimDir, client};

use super::{desk::Desk, eventually, holds, processes::Process};

/// A running VM as the machine sees it.
pub struct Guest {
    /// Its parent, which outlives the daemons.
    pub shim: Process,
    /// LXC's monitor.
    pub lxc: Process,
    container: String,
}

impl Guest {
    /// The VM of a desk.
    pub async fn of(desk: &Desk) -> Self {
        let path = desk.at.run_directory().join("vm");
        let status = client::status(&ShimDir::new(path.join(desk.vm.to_string()))).await.unwrap().unwrap();
        Self {
            shim: Process::of(status.shim).unwrap(),
            lxc: Process::of(status.pid).unwrap(),
            container: desk.at.container(desk.vm),
        }
    }

    /// The first process, as the node sees it.
    pub fn init(&self) -> Process {
        self.find("its first process", |process| process.words().get(1).is_some_and(|word| word == "init"))
    }

    /// The agent.
    pub fn agent(&self) -> Option<Process> {
        self.processes().into_iter().find(|process| process.words().get(1).is_some_and(|word| word == "agent"))
    }

    /// The X server of the session.
    pub fn nxagent(&self) -> Process {
        self.find("nxagent", |process| process.program() == "nxagent")
    }

    /// What the X session consists of.
    pub async fn session(&self) -> [Process; 2] {
        let manager = eventually("the window manager runs", async || {
            self.processes().into_iter().find(|process| process.program() == "jwm").ok_or_else(|| self.names())
        });
        [manager.await, self.nxagent()]
    }

    /// Those of its processes that last: from its shim to its X session.
    pub async fn lasting(&self) -> Vec<Process> {
        let [manager, nxagent] = self.session().await;
        vec![self.shim, self.lxc, self.init(), self.agent().unwrap(), nxagent, manager]
    }

    /// All its processes with shim and monitor.
    pub fn processes(&self) -> Vec<Process> {
        let mut all = vec![self.shim];
        all.extend(self.shim.descendants());
        all
    }

    /// Does something with sockets in the VM's network.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.init().pid)).unwrap();
        // A thread of its own, which never comes back.
        let enter = move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    /// Runs a script as root inside, under the VM's limits.
    pub fn run(&self, script: &str) -> Output {
        let mut command = Command::new("lxc-attach");
        command.arg("-P").arg(RootSpec::directory());
        command.args(["-n", &self.container, "--clear-env", "--", "/bin/bash", "-c", script]);
        command.output().unwrap()
    }

    fn find(&self, what: &str, wanted: impl Fn(&Process) -> bool) -> Process {
        let processes = self.processes();
        let found = processes.iter().find(|process| wanted(process)).copied();
        found.unwrap_or_else(|| panic!("the VM has {} but not {what}", self.names()))
    }

    fn names(&self) -> String {
        format!("{:?}", self.processes().iter().map(Process::program).collect::<Vec<_>>())
    }
}

/// Makes sure that all of a VM's processes are dead, the first of which is its shim: that one tells so before it ends itself.
pub async fn all_dead(processes: &[Process]) {
    let (shim, held) = processes.split_first().unwrap();
    assert_eq!(held.iter().filter(|process| process.lives()).count(), 0);
    eventually("the shim has ended", async || holds(!shim.lives())).await;
}
