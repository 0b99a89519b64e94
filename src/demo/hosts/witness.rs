//! What really runs where, seen from outside: the control groups of containers and the owners written beside homes, looked
//! at many times a second. Neither the database nor any daemon is asked.
//!
//! A look is no moment: what is wrong counts only when what was seen first is still so after what was seen last.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::model::{Epoch, HostId, Owner, VmId};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// A container that has living processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Whose it is.
    pub vm: VmId,
    /// The node that it lives on.
    pub node: String,
    /// Tells it from others of the same name.
    pub group: u64,
}

/// One run of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Where.
    pub node: String,
    /// Tells it from others of the same name.
    pub group: u64,
    /// First seen.
    pub from: Instant,
    /// First seen no more.
    pub until: Option<Instant>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
struct Book {
    lives: BTreeMap<VmId, Vec<Life>>,
    double_runs: Vec<String>,
    strange_owners: Vec<String>,
}

/// Looks until it is dropped.
pub struct Witness {
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    pub(super) fn begin(nodes: Vec<(String, i32)>, homes: PathBuf) -> io::Result<Self> {
        let (book, stop) = (Arc::<Mutex<Book>>::default(), Arc::<AtomicBool>::default());
        let eyes = Eyes { nodes, homes, book: book.clone() };
        let stopped = stop.clone();
        let looks = move || {
            while !stopped.load(SeqCst) {
                eyes.look();
                thread::sleep(PAUSE);
            }
        };
        let thread = thread::Builder::new().name("witness".to_owned()).spawn(looks)?;
        Ok(Self { book, stop, thread: Some(thread) })
    }

    /// The runs of a VM, the latest last.
    pub fn lives(&self, vm: VmId) -> Vec<Life> {
        lock(&self.book).lives.get(&vm).cloned().unwrap_or_default()
    }

    /// Where a VM lives now.
    pub fn place(&self, vm: VmId) -> Option<String> {
        self.lives(vm).into_iter().rfind(|life| life.until.is_none()).map(|life| life.node)
    }

    /// Each VM that was seen living on two nodes at once.
    pub fn double_runs(&self) -> Vec<String> {
        lock(&self.book).double_runs.clone()
    }

    /// Each VM whose home named another node than the one it was seen living on.
    pub fn strange_owners(&self) -> Vec<String> {
        lock(&self.book).strange_owners.clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// Takes note of all that lives at a moment.
    fn note(&mut self, now: Instant, alive: &[Sighting]) {
        for (vm, lives) in &mut self.lives {
            for life in lives.iter_mut().filter(|life| life.until.is_none()) {
                if !alive.iter().any(|seen| seen.vm == *vm && seen.node == life.node && seen.group == life.group) {
                    life.until = Some(now);
                }
            }
        }
        for seen in alive {
            let lives = self.lives.entry(seen.vm).or_default();
            if !lives.iter().any(|life| life.node == seen.node && life.group == seen.group) {
                lives.push(Life { node: seen.node.clone(), group: seen.group, from: now, until: None });
            }
        }
    }
}

/// Who looks.
struct Eyes {
    /// Names and ids.
    nodes: Vec<(String, i32)>,
    homes: PathBuf,
    book: Arc<Mutex<Book>>,
}

impl Eyes {
    fn look(&self) {
        let before = self.owners();
        let alive: Vec<Sighting> = self.nodes.iter().flat_map(|(node, _)| containers(node)).collect();
        let after = self.owners();
        let (mut double, mut strange) = (Vec::new(), Vec::new());
        for (place, first) in alive.iter().enumerate() {
            for second in alive[place + 1..].iter().filter(|second| second.vm == first.vm) {
                if containers(&first.node).contains(first) {
                    double.push(format!("VM {} lives on {} and on {}", first.vm, first.node, second.node));
                }
            }
            let named = (before.get(&first.vm), after.get(&first.vm));
            if let (Some(owner), Some(later)) = named
                && owner == later
                && owner.map(|(host, _)| host) != self.id(&first.node)
                && containers(&first.node).contains(first)
            {
                strange.push(format!("VM {} lives on {} and its home is that of {owner:?}", first.vm, first.node));
            }
        }
        let mut book = lock(&self.book);
        book.note(Instant::now(), &alive);
        book.double_runs.extend(double);
        book.strange_owners.extend(strange);
    }

    fn id(&self, node: &str) -> Option<HostId> {
        self.nodes.iter().find(|(name, _)| name == node).map(|(_, id)| HostId(*id))
    }

    /// Who is written beside each home; nothing for a record that is just being written.
    fn owners(&self) -> BTreeMap<VmId, Option<(HostId, Epoch)>> {
        let entries = fs::read_dir(&self.homes).into_iter().flatten().flatten();
        let owner = |entry: fs::DirEntry| {
            let vm = VmId(entry.file_name().to_str()?.strip_prefix("lock.")?.parse().ok()?);
            let owner = Owner::read(&fs::read_to_string(entry.path()).ok()?).ok()?;
            Some((vm, owner.map(|owner| (owner.host, owner.epoch))))
        };
        entries.filter_map(owner).collect()
    }
}

/// The hierarchy of control groups that is looked at.
fn hierarchy() -> &'static Path {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    if v1.join("cgroup.procs").exists() { v1 } else { Path::new("/sys/fs/cgroup") }
}

/// The groups of a node's containers, and the VMs they belong to.
fn groups(node: &str) -> Vec<(VmId, PathBuf)> {
    let prefix = format!("lxc.payload.qvd-{node}-");
    let entries = fs::read_dir(hierarchy()).into_iter().flatten().flatten();
    let group = |entry: fs::DirEntry| {
        let name = entry.file_name();
        // A number follows where the name was taken by leftovers.
        let vm = name.to_str()?.strip_prefix(&prefix)?.split('-').next()?.parse().ok()?;
        Some((VmId(vm), entry.path()))
    };
    entries.filter_map(group).collect()
}

/// The containers of a node that live.
fn containers(node: &str) -> Vec<Sighting> {
    let living = |(vm, path): (VmId, PathBuf)| {
        let group = fs::metadata(&path).ok()?.ino();
        let processes = fs::read_to_string(path.join("cgroup.procs")).ok()?;
        (!processes.trim().is_empty()).then(|| Sighting { vm, node: node.to_owned(), group })
    };
    groups(node).into_iter().filter_map(living).collect()
}

/// The processes in the containers of a node.
pub(super) fn container_processes(node: &str) -> Vec<i32> {
    let processes = groups(node).into_iter().filter_map(|(_, path)| fs::read_to_string(path.join("cgroup.procs")).ok());
    processes.flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_lasts_from_where_it_is_first_seen_to_where_it_is_not() {
        let zero = Instant::now();
        let at = |seconds| zero + Duration::from_secs(seconds);
        let seen = |node: &str, group| Sighting { vm: VmId(1), node: node.to_owned(), group };
        let mut book = Book::default();
        book.note(at(1), &[seen("a", 7)]);
        book.note(at(2), &[seen("a", 7)]);
        book.note(at(3), &[]);
        book.note(at(4), &[seen("b", 8)]);
        book.note(at(5), &[seen("b", 9)]);
        let lives: Vec<_> = book.lives[&VmId(1)].iter().map(|life| (&*life.node, life.from, life.until)).collect();
        assert_eq!(
            lives,
            [("a", at(1), Some(at(3))), ("b", at(4), Some(at(5))), ("b", at(5), None)],
            "another group is another life"
        );
    }
}
