//! What a shim is told, what it tells, and which files of its directory carry it.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Volume, fence::FenceSpec, process_table, root::RootSpec, tap};
use crate::model::Owner;

/// What a shim runs; the content of `shim.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimSpec {
    /// The command that is the VM and its arguments.
    pub argv: Vec<String>,
    /// File that receives what the command and its descendants print; kept short by rotation.
    pub output: PathBuf,
    /// File that receives, in the same way, what the command writes into the pipe `console` of the directory.
    #[serde(default)]
    pub console: Option<PathBuf>,
    /// Files whose locks are held while any process of the VM lives. Made when missing.
    #[serde(default)]
    pub locks: Vec<PathBuf>,
    /// The same of files whose locks other shims of this node may have as well.
    #[serde(default)]
    pub shared: Vec<PathBuf>,
    /// Written into those files while the VM lives; `None`: nobody else uses the storage.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// Control groups of the shim itself, made and entered before the command starts. Failure is only noted.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// Mounted before the command starts, in this order, where nobody else sees them.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Mounted before the command starts, where nobody else sees it; `None`: the command mounts what it needs.
    #[serde(default)]
    pub root: Option<RootSpec>,
    /// By when the VM must be dead; `None`: nobody takes it over.
    #[serde(default)]
    pub fence: Option<FenceSpec>,
    /// Who the command runs as; `None`: root.
    #[serde(default)]
    pub account: Option<Account>,
    /// What the command finds open, numbered from [`FIRST_FILE`] on, whether or not its account could open it.
    #[serde(default)]
    pub open: Vec<Open>,
}

/// The number of the first thing that a command finds open: above all that the shim has open itself.
pub const FIRST_FILE: i32 = 100;

/// Who a command runs as: one user and group of that number, which need not be on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Of the user, and of the group.
    pub id: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// What a command finds open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Open {
    /// A file, which must be there.
    File {
        /// Where it is.
        path: PathBuf,
        /// What may be done with it.
        access: Access,
    },
    /// A network interface that is made for it, and goes with it.
    Tap {
        /// What it is called.
        name: String,
    },
}

/// What may be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Both.
    Both,
}

impl Open {
    pub(super) fn open(&self) -> io::Result<File> {
        match self {
            Self::File { path, access } => {
                File::options().read(*access != Access::Write).write(*access != Access::Read).open(path)
            }
            Self::Tap { name } => tap::open(name),
        }
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => path.display().fmt(f),
            Self::Tap { name } => write!(f, "the network interface {name}"),
        }
    }
}

/// How the command of a shim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It exited with this status.
    Status(i32),
    /// This signal killed it.
    Signal(i32),
    /// The shim killed it, because the node could give no sign of life for too long.
    Fenced,
}

/// How far a VM is, as its shim sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The command lives.
    Running,
    /// The VM was killed or its command ended, and some process may still have to die.
    Ending,
}

/// What a shim says of its VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimStatus {
    /// The shim.
    pub shim: i32,
    /// The command.
    pub pid: i32,
    /// When the command was started, in clock ticks since boot; tells it from a later process of the same number.
    pub start_time: u64,
    /// The boot of the machine that all this belongs to.
    pub boot_id: String,
    /// How far the VM is.
    pub phase: Phase,
}

impl ShimStatus {
    /// Whether the process that the status speaks of is there now.
    pub fn is_current(&self) -> bool {
        process_table::boot_id().is_ok_and(|boot| boot == self.boot_id)
            && process_table::start_time(self.pid).is_ok_and(|start| start == self.start_time)
    }
}

/// The directory through which a shim and the daemons meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimDir(PathBuf);

impl ShimDir {
    /// The directory at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the shim is to run.
    pub fn spec(&self) -> PathBuf {
        self.0.join("shim.json")
    }

    /// Held by the one shim of this directory.
    pub fn lock(&self) -> PathBuf {
        self.0.join("shim.lock")
    }

    /// Where the shim answers.
    pub fn socket(&self) -> PathBuf {
        self.0.join("shim.sock")
    }

    /// The pipe for the VM's console, when it is wanted.
    pub fn console(&self) -> PathBuf {
        self.0.join("console")
    }

    /// How the command ended; written once no process of the VM lives.
    pub fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }

    /// The recorded end, when there is one.
    pub fn ended(&self) -> Option<Ended> {
        serde_json::from_slice(&std::fs::read(self.exit()).ok()?).ok()
    }

    pub(super) fn record(&self, ended: Ended) -> io::Result<()> {
        let unfinished = self.0.join("exit.json.new");
        std::fs::write(&unfinished, serde_json::to_vec(&ended)?)?;
        std::fs::rename(unfinished, self.exit())
    }
}
