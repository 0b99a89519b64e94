//! Who uses the nodes all the time: users who want nothing but their desktop, and an administrator who starts and stops
//! others.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use qvd::{
    demo::hosts::{Hosts, Tunnel},
    model::VmId,
};
use tokio::{task::JoinHandle, time::timeout};

/// How long a user waits for an answer before the connection counts as dead.
const DEAD: Duration = Duration::from_secs(2);
/// And for a connection, before another router is tried. Longer than a router waits for an agent.
const CONNECT: Duration = Duration::from_secs(6);
/// Between two things that somebody does.
const PACE: Duration = Duration::from_millis(25);
/// In what time an accepted command must be carried out or refused. Longer than any lapse.
const CARRIED_OUT: Duration = Duration::from_secs(30);

/// A user who connects through one router, and when that does not work, through the next.
pub struct User {
    pub vm: VmId,
    story: Arc<Mutex<Story>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Story {
    last_answer: Option<Instant>,
    longest_wait: Duration,
    cuts: u32,
    troubles: Vec<(Instant, String)>,
    router: String,
}

impl User {
    pub fn begin(hosts: Arc<Hosts>, number: usize, vm: VmId) -> Self {
        let story = Arc::<Mutex<Story>>::default();
        let told = story.clone();
        let task = tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            let mut router = number;
            loop {
                let node = &hosts.nodes()[router % hosts.nodes().len()];
                told.lock().unwrap().router = node.name().to_owned();
                match timeout(CONNECT, Tunnel::open(node, hosts.token(number), vm)).await {
                    Ok(Ok(mut tunnel)) => {
                        let end = loop {
                            match tunnel.ping(DEAD).await {
                                Ok(()) => told.lock().unwrap().answered(),
                                Err(error) => break error,
                            }
                            pace.tick().await;
                        };
                        let mut told = told.lock().unwrap();
                        told.cuts += 1;
                        told.in_trouble(format!("its tunnel through {} broke: {end}", node.name()));
                    }
                    Ok(Err(error)) => told.lock().unwrap().in_trouble(format!("through {}: {error}", node.name())),
                    Err(_) => told.lock().unwrap().in_trouble(format!("through {}: no answer", node.name())),
                }
                router += 1;
                pace.tick().await;
            }
        });
        Self { vm, story, task }
    }

    pub fn end(&self) {
        self.task.abort();
    }

    pub fn last_answer(&self) -> Option<Instant> {
        self.story().last_answer
    }

    /// The longest time between two answers.
    pub fn longest_wait(&self) -> Duration {
        self.story().longest_wait
    }

    /// How often a tunnel broke.
    pub fn cuts(&self) -> u32 {
        self.story().cuts
    }

    /// What did not work, and when.
    pub fn troubles(&self) -> Vec<(Instant, String)> {
        self.story().troubles.clone()
    }

    /// The node whose router is used.
    pub fn router(&self) -> String {
        self.story().router.clone()
    }

    fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap()
    }
}

impl Story {
    fn in_trouble(&mut self, trouble: String) {
        self.troubles.push((Instant::now(), trouble));
    }

    fn answered(&mut self) {
        let now = Instant::now();
        if let Some(before) = self.last_answer.replace(now) {
            self.longest_wait = self.longest_wait.max(now - before);
        }
    }
}

/// Starts and stops VMs, one after the other, and sees to it that each command is carried out or refused.
pub struct Administrator {
    report: Arc<Mutex<Report>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Report {
    done: u32,
    refused: u32,
    complaints: Vec<String>,
    retire: bool,
}

impl Administrator {
    pub fn begin(hosts: Arc<Hosts>, vms: Vec<VmId>) -> Self {
        let report = Arc::<Mutex<Report>>::default();
        let told = report.clone();
        let task = tokio::spawn(async move {
            let mut turn = 0;
            while !told.lock().unwrap().retire {
                let vm = vms[turn % vms.len()];
                turn += 1;
                command(&hosts, vm, &told).await;
            }
        });
        Self { report, task }
    }

    /// Waits for the last command to be carried out.
    pub async fn end(&self) {
        self.report.lock().unwrap().retire = true;
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    pub fn abort(&self) {
        self.task.abort();
    }

    pub fn done(&self) -> u32 {
        self.report.lock().unwrap().done
    }

    pub fn refused(&self) -> u32 {
        self.report.lock().unwrap().refused
    }

    /// Commands that were accepted and neither carried out nor refused.
    pub fn complaints(&self) -> Vec<String> {
        self.report.lock().unwrap().complaints.clone()
    }
}

/// Gives one command and waits for what comes of it.
async fn command(hosts: &Hosts, vm: VmId, report: &Mutex<Report>) {
    let mut pace = tokio::time::interval(PACE);
    let look = format!("select vm_state || coalesce(' ' || vm_cmd, '') from vm_runtimes where vm_id = {vm}");
    pace.tick().await;
    pace.tick().await;
    let Ok(Some(state)) = hosts.sql(&look).await else { return };
    let word = if state == "stopped" { "start" } else { "stop" };
    match hosts.sql(&format!("select vm_{word}({vm})")).await {
        Ok(_) => {}
        // A database that is not there has accepted nothing, or nobody knows.
        Err(error) => {
            report.lock().unwrap().refused += u32::from(error.to_string().contains("cannot"));
            return;
        }
    }
    let accepted = Instant::now();
    loop {
        let seen = hosts.sql(&look).await;
        if let Ok(Some(seen)) = &seen
            && (seen == "stopped" || word == "start" && seen == "running")
        {
            report.lock().unwrap().done += 1;
            return;
        }
        if accepted.elapsed() > CARRIED_OUT {
            report.lock().unwrap().complaints.push(format!("VM {vm} was told to {word} and is {seen:?}"));
            return;
        }
        pace.tick().await;
    }
}
