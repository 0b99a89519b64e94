//! An installation with the demo's desktop image, shared by the tests that run at the same time, and taken away with
//! the last of them, however that one ends.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use qvd::{
    demo::{
        image::{CACHE, desktop_image},
        postgres::Durability,
        site::{Site, SiteOptions},
    },
    model::config::keys,
};
use tokio::sync::Mutex;

use crate::kvm::desktop_disk;

use super::{eventually, processes::Process};

/// Name of the image among those of the installation.
pub const IMAGE: &str = "desktop.tar.zst";

/// A running installation.
pub struct Installation {
    site: Site,
    node: String,
    directory: tempfile::TempDir,
}

impl Installation {
    /// One for every test that leaves the node in peace.
    pub async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Installation>> = Mutex::const_new(Weak::new());
        Self::upgraded(&SHARED).await
    }

    /// One for the tests that end processes of the node, each of which keeps the others out.
    pub async fn to_be_broken() -> (Arc<Self>, tokio::sync::MutexGuard<'static, ()>) {
        static BROKEN: Mutex<Weak<Installation>> = Mutex::const_new(Weak::new());
        static TURN: Mutex<()> = Mutex::const_new(());
        // First who waits holds on to it, so that it is not made anew for each.
        let installation = Self::upgraded(&BROKEN).await;
        let turn = TURN.lock().await;
        if installation.process("node").is_none() {
            // A test that failed left it so.
            installation.start_node().await.unwrap();
        }
        (installation, turn)
    }

    async fn upgraded(slot: &Mutex<Weak<Self>>) -> Arc<Self> {
        let mut slot = slot.lock().await;
        if let Some(installation) = slot.upgrade() {
            return installation;
        }
        let installation = Arc::new(Self::open().await);
        *slot = Arc::downgrade(&installation);
        installation
    }

    /// One of its own, with a deadline for its desktops that is not reached while the machine is busy.
    pub async fn open() -> Self {
        Self::open_with_patience(120).await
    }

    /// One of its own whose desktops have addresses of IPv6 and no others.
    pub async fn of_ipv6() -> Self {
        let image = desktop_image(CACHE.as_ref(), |_| {}).await.unwrap();
        let first = format!("fd00:{:x}::100", unique_number());
        let settings = [
            ("internal.hkd.lease.lapse", "120"),
            ("vm.network.ip.start", first.as_str()),
            ("vm.network.netmask", "64"),
        ];
        Self::of_kind("lxc", &image, &settings).await
    }

    /// One of its own whose desktops others could start after so many seconds without a sign of life.
    pub async fn open_with_patience(patience: u32) -> Self {
        let image = desktop_image(CACHE.as_ref(), |_| {}).await.unwrap();
        Self::of_kind("lxc", &image, &[("internal.hkd.lease.lapse", &patience.to_string())]).await
    }

    /// One of its own whose desktops are emulated QEMU guests.
    pub async fn of_guests() -> Self {
        let image = desktop_disk().await;
        // What a processor does at once takes an emulated one a while, the more so beside other tests.
        let settings = [
            ("internal.hkd.lease.lapse", "120"),
            ("vm.kvm.acceleration", "tcg"),
            ("vm.kvm.cpus", "1"),
            ("internal.l7r.timeout.x_start", "60"),
            ("internal.l7r.timeout.vma", "30"),
            ("internal.nxagent.timeout.initiating", "60"),
            ("internal.nxagent.timeout.listening", "60"),
        ];
        Self::of_kind("kvm", &image, &settings).await
    }

    /// One of its own with these settings.
    pub async fn open_with(settings: &[(&str, &str)]) -> Self {
        let image = desktop_image(CACHE.as_ref(), |_| {}).await.unwrap();
        Self::of_kind("lxc", &image, &[&[("internal.hkd.lease.lapse", "120")][..], settings].concat()).await
    }

    async fn of_kind(hypervisor: &'static str, image: &Path, settings: &[(&str, &str)]) -> Self {
        let number = unique_number();
        let node = format!("d{}", base36(number));
        let directory = tempfile::Builder::new().prefix("qvd-desk-").tempdir().unwrap();
        let options = SiteOptions {
            directory: directory.path().to_owned(),
            program: env!("CARGO_BIN_EXE_qvd").into(),
            node: node.clone(),
            network: (100 + u8::try_from(number / 256 % 100).unwrap(), u8::try_from(number % 256).unwrap()),
            hypervisor,
            durability: Durability::Volatile,
            port: None,
            settings: [("storage.local", "0")]
                .iter()
                .chain(settings)
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let site = Site::open(options).await.unwrap();
        let installation = Self { site, node, directory };
        installation.add_image(image, IMAGE).unwrap();
        installation.start_node().await.unwrap();
        installation
            .sql(&format!(
                "select osf_create('desktop', memory => 512, user_storage => 100), di_create('desktop', '{IMAGE}')"
            ))
            .await
            .unwrap();
        installation
    }

    /// The first value that a statement gives; it must give one.
    pub async fn value(&self, statement: &str) -> String {
        self.sql(statement).await.unwrap().unwrap_or_else(|| panic!("no value: {statement}"))
    }

    /// Where everything lies.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// What everything of a container is named after.
    pub fn container(&self, vm: i32) -> String {
        format!("qvd-{}-{vm}", self.node)
    }

    /// The port of the bridge that a VM is plugged into.
    pub fn interface(&self, vm: i32) -> String {
        format!("{}{vm}", self.config().unwrap().get(&keys::VM_DEVICE_PREFIX))
    }

    /// Where a file of the storage lies.
    pub fn storage(&self, path: &str) -> PathBuf {
        self.directory.path().join("storage").join(path)
    }

    /// A process of the node: `node`, `hkd`, `l7r` or `keeper`.
    pub fn process(&self, name: &str) -> Option<Process> {
        let directory = self.directory.path().display().to_string();
        let ours = |words: Vec<String>| {
            words.get(1).is_some_and(|word| word == name) && words.iter().any(|word| word.starts_with(&directory))
        };
        Process::all().find(|process| ours(process.words()) && process.lives())
    }

    /// Waits until the node has another process in the place of one that died.
    pub async fn successor(&self, name: &str, of: Process) -> Process {
        eventually(&format!("there is another {name}"), async || {
            self.process(name).filter(|process| *process != of).ok_or_else(|| "there is none".to_owned())
        })
        .await
    }

    async fn take_away(&self) -> Result<(), Box<dyn std::error::Error>> {
        self.stop_node().await;
        let vms = self.hypervisor()?.ok_or("its VMs are simulated")?;
        // The machine is asked, not the database, because a test may have failed with anything in it.
        for found in vms.found().await? {
            vms.kill(found.vm).await?;
            vms.exited(found.vm).await;
            vms.clean(found.vm).await?;
        }
        vms.release_node().await?;
        self.cluster().stop().await;
        Ok(())
    }
}

impl Deref for Installation {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the node said last:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        let taken_away = thread::scope(|scope| {
            let work = || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
                runtime.block_on(self.take_away()).map_err(|error| std::io::Error::other(error.to_string()))
            };
            scope.spawn(work).join()
        });
        match taken_away {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("an installation could not be taken away: {error}"),
            Err(_) => eprintln!("an installation could not be taken away"),
        }
    }
}

/// Different for every installation of this process and, as good as always, from those of others on this machine.
fn unique_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    (process::id() as usize * 16 + NEXT.fetch_add(1, Ordering::Relaxed)) % LIMIT
}

/// What can be said in three letters and digits.
const LIMIT: usize = 36 * 36 * 36;

fn base36(number: usize) -> String {
    let digit = |value: usize| char::from_digit(u32::try_from(value % 36).unwrap(), 36).unwrap();
    [number / 36 / 36, number / 36, number].map(digit).iter().collect()
}
