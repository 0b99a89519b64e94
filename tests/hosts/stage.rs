//! Nodes under load, taken away with the test however it ends.

use std::{
    process,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use qvd::{
    demo::{
        hosts::{Hosts, HostsOptions, Life, Node, Witness},
        postgres::Durability,
    },
    model::{VmId, config::NetworkMode},
    network::Family,
};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use super::load::{Administrator, User};

/// How long both signs of life must stand still, in seconds.
pub const LAPSE: u64 = 3;
/// How often signs are given, in seconds.
const RENEW: f64 = 0.5;

/// Desktops that users work on, and those that an administrator starts and stops.
const USERS: usize = 4;
const OTHERS: usize = 3;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three nodes and their desktops, shared by the tests that run at the same time, each of which keeps the others out.
struct Installation {
    hosts: Arc<Hosts>,
    vms: Vec<VmId>,
    // Last: files go when nobody writes any.
    _directory: TempDir,
}

/// Nodes under load.
pub struct Stage {
    witness: Witness,
    pub users: Vec<User>,
    administrator: Administrator,
    traveller: VmId,
    pub hosts: Arc<Hosts>,
    began: Instant,
    _installation: Arc<Installation>,
    _turn: MutexGuard<'static, ()>,
}

impl Installation {
    async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Installation>> = Mutex::const_new(Weak::new());
        let mut slot = SHARED.lock().await;
        if let Some(installation) = slot.upgrade() {
            return installation;
        }
        let installation = Arc::new(Self::open().await);
        *slot = Arc::downgrade(&installation);
        installation
    }

    async fn open() -> Self {
        // In memory: when a disk stands still for longer than the lapse, as others make it do, nodes rightly give up.
        let directory = tempfile::Builder::new().prefix("qvd-hosts-").tempdir_in("/dev/shm").unwrap();
        let number = process::id() as usize % (36 * 36 * 36);
        let options = HostsOptions {
            directory: directory.path().to_owned(),
            program: env!("CARGO_BIN_EXE_qvd").into(),
            name: format!("h{}", base36(number)),
            network: (200 + u8::try_from(number / 256 % 50).unwrap(), u8::try_from(number % 256).unwrap()),
            family: Family::V4,
            mode: NetworkMode::Flat,
            count: 3,
            durability: Durability::Volatile,
            settings: [
                ("internal.hkd.lease.lapse", LAPSE.to_string().as_str()),
                ("internal.hkd.lease.renew", RENEW.to_string().as_str()),
                ("fence.margin", "1"),
                ("internal.hkd.poll.urgent", "0.3"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec(),
        };
        let hosts = Arc::new(Hosts::open(options).await.unwrap());
        let vms = hosts.desktops(USERS + OTHERS + 1).await.unwrap();
        Self { hosts, vms, _directory: directory }
    }

    /// Mends what a test that failed may have left.
    async fn mend(&self) {
        self.hosts.cluster().start().await.unwrap();
        for node in self.hosts.nodes() {
            node.freeze(false);
            node.cut_off(false).unwrap();
            if node.daemons("node").is_empty() {
                node.start().unwrap();
            }
            self.hosts.wait_node(node).await.unwrap();
        }
    }
}

impl Stage {
    /// Every user is connected.
    pub async fn open() -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        // First who waits holds on to it, so that it is not made anew for each.
        let installation = Installation::shared().await;
        let turn = TURN.lock().await;
        installation.mend().await;
        let (hosts, vms) = (installation.hosts.clone(), &installation.vms);
        let witness = hosts.witness().await.unwrap();
        let users = vms[..USERS].iter().enumerate().map(|(number, vm)| User::begin(hosts.clone(), number + 1, *vm));
        let stage = Self {
            witness,
            users: users.collect(),
            administrator: Administrator::begin(hosts.clone(), vms[USERS..USERS + OTHERS].to_vec()),
            traveller: vms[USERS + OTHERS],
            hosts,
            began: Instant::now(),
            _installation: installation,
            _turn: turn,
        };
        stage.everybody_works().await;
        // Nobody takes a node over whose heart was not seen to beat.
        stage.renewals(&stage.nodes(), 0.5).await;
        stage
    }

    /// Tells what is done, and when.
    pub fn tell(&self, what: &str) {
        println!("{:6.2} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// The nodes, the one that most users' desktops live on first.
    pub fn nodes(&self) -> Vec<&Node> {
        let desktops = |node: &Node| self.users.iter().filter(|user| self.lives_on(user.vm, node)).count();
        let mut nodes: Vec<_> = self.hosts.nodes().iter().collect();
        nodes.sort_by_key(|node| std::cmp::Reverse(desktops(node)));
        nodes
    }

    pub fn lives_on(&self, vm: VmId, node: &Node) -> bool {
        self.witness.place(vm).as_deref() == Some(node.name())
    }

    /// The present life of each user's desktop.
    pub fn lives(&self) -> Vec<Option<Life>> {
        self.users.iter().map(|user| self.witness.lives(user.vm).pop()).collect()
    }

    /// Waits until something is so, looking again and again. What is seen instead is told when it never comes.
    pub async fn until(&self, what: &str, mut look: impl AsyncFnMut() -> Result<(), String>) {
        let begin = Instant::now();
        let mut clock = tokio::time::interval(Duration::from_millis(20));
        while let Err(seen) = look().await {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}; instead: {seen}");
            clock.tick().await;
        }
    }

    /// Waits until each user has got an answer from the desktop after this moment.
    pub async fn everybody_works(&self) {
        let now = Instant::now();
        self.until("every user works", async || {
            let idle = self.users.iter().find(|user| user.last_answer().is_none_or(|at| at < now));
            idle.map_or(Ok(()), |user| {
                Err(format!(
                    "the user of VM {} on {:?} does not: {}",
                    user.vm,
                    self.witness.place(user.vm),
                    user.troubles().pop().map(|(_, trouble)| trouble).unwrap_or_default()
                ))
            })
        })
        .await;
    }

    /// Kills everything on the node under a desktop that nobody else uses, and waits until its user has it elsewhere.
    pub async fn fail_over(&self) -> &Node {
        let number = USERS + OTHERS + 1;
        let (outage, victim) = self.hosts.fail_over(&self.witness, number, self.traveller).await.unwrap();
        self.tell(&format!(
            "everything on {} was killed; a user had the desktop elsewhere {:.2} s after the last sign of life",
            victim.name(),
            outage.since_sign.as_secs_f64()
        ));
        victim
    }

    /// Waits until a node is in this state for the database.
    pub async fn host_state(&self, node: &Node, state: &str) {
        let query = format!("select state from host_list where host = '{}'", node.name());
        self.hosts.wait_for(&format!("{} is not {state}", node.name()), &query, state).await.unwrap();
    }

    /// Waits until these nodes have renewed their leases in the database as often as in so many times the lapse.
    pub async fn renewals(&self, nodes: &[&Node], times: f64) {
        for node in nodes {
            let query =
                format!("select lease from host_runtimes join hosts on id = host_id where name = '{}'", node.name());
            let lease = async || self.hosts.sql(&query).await.ok().flatten()?.parse::<u64>().ok();
            self.advance("a node renews its lease", times, lease).await;
        }
    }

    /// Waits until the hearts of these nodes have beaten as often as in so many times the lapse.
    pub async fn heartbeats(&self, nodes: &[&Node], times: f64) {
        for node in nodes {
            let file = self.hosts.storage("hosts").join(format!("{}.beat", node.name()));
            let beat = async || std::fs::read_to_string(&file).ok()?.split(' ').next()?.parse().ok();
            self.advance("a node's heart beats", times, beat).await;
        }
    }

    /// For several nodes, one after the other: what comes before the turn of one is not counted.
    async fn advance(&self, what: &str, times: f64, look: impl AsyncFn() -> Option<u64>) {
        let enough = (LAPSE as f64 * times / RENEW) as u64;
        let mut first = None;
        self.until(what, async || {
            let now = look().await.ok_or("not to be seen")?;
            let first = *first.get_or_insert(now);
            if now >= first + enough { Ok(()) } else { Err(format!("{} of {enough} times", now - first)) }
        })
        .await;
    }

    /// The desktops that have another life than before lived on this node.
    pub fn only_those_of(&self, node: &Node, before: &[Option<Life>]) {
        for (user, (before, now)) in self.users.iter().zip(before.iter().zip(self.lives())) {
            let moved = now.as_ref().map(|life| life.group) != before.as_ref().map(|life| life.group);
            let of_node = before.as_ref().is_some_and(|life| life.node == node.name());
            assert_eq!(moved, of_node, "VM {} lived as {before:?} and lives as {now:?}", user.vm);
        }
    }

    /// The node whose router a user is connected through.
    pub fn node_of_router(&self, user: &User) -> &Node {
        self.hosts.nodes().iter().find(|node| node.name() == user.router()).unwrap()
    }

    /// The users that are connected through the router of this node.
    pub fn users_of_router(&self, node: &Node) -> Vec<usize> {
        let through = |(place, user): (usize, &User)| (user.router() == node.name()).then_some(place);
        self.users.iter().enumerate().filter_map(through).collect()
    }

    /// How often each node was given up or booted, in the order of their names.
    pub async fn epochs(&self) -> String {
        let epochs = self.hosts.sql("select string_agg(epoch::text, ' ' order by host) from host_list").await;
        epochs.unwrap().unwrap_or_default()
    }

    /// How often the users were cut off so far.
    pub fn cuts(&self) -> Vec<u32> {
        self.users.iter().map(User::cuts).collect()
    }

    /// Ends the load and holds what must hold after whatever was done. Tells for how long users had to wait.
    pub async fn close(self) {
        self.everybody_works().await;
        self.administrator.end().await;
        let transient =
            "select string_agg(vm || ' ' || state || coalesce(' told to ' || command, ''), ', ') from vm_list
                         where state not in ('running', 'stopped') or command is not null";
        self.until("no VM is between two states", async || match self.hosts.sql(transient).await {
            Ok(None) => Ok(()),
            Ok(Some(seen)) => Err(seen),
            Err(error) => Err(error.to_string()),
        })
        .await;
        for user in &self.users {
            for (at, trouble) in user.troubles() {
                println!("{:6.2} s    VM {}: {trouble}", (at - self.began).as_secs_f64(), user.vm);
            }
            let longest = user.longest_wait();
            self.tell(&format!(
                "the user of VM {} was without the desktop for {:.2} s, and was cut off {} times",
                user.vm,
                longest.as_secs_f64(),
                user.cuts()
            ));
        }
        self.tell(&format!(
            "{} commands were carried out, {} refused",
            self.administrator.done(),
            self.administrator.refused()
        ));
        assert_eq!(self.witness.double_runs(), [""; 0]);
        assert_eq!(self.witness.strange_owners(), [""; 0]);
        assert_eq!(self.administrator.complaints(), [""; 0]);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for user in &self.users {
            user.end();
        }
        self.administrator.abort();
        if thread::panicking() || std::env::var_os("QVD_NODE_LOG").is_some() {
            for node in self.hosts.nodes() {
                let said = node.said();
                let lines: Vec<_> = said.lines().collect();
                eprintln!("{} said last:\n{}", node.name(), lines[lines.len().saturating_sub(150)..].join("\n"));
            }
        }
    }
}

fn base36(number: usize) -> String {
    let digit = |value: usize| char::from_digit(u32::try_from(value % 36).unwrap(), 36).unwrap();
    [number / 36 / 36, number / 36, number].map(digit).iter().collect()
}
