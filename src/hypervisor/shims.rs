//! What VMs that live under a shim have in common, whatever they are: their directories below `path.run`, the locks of
//! what they keep on the storage and in whose name, by when they must be dead, and how they are ended.
//! What the shim is to run and what it leaves behind beside its directory is not known here.

use std::{
    env, fmt,
    fs::{self, Permissions},
    io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tracing::warn;

use super::{Epochs, Exit, HypervisorError, claims::Claims};
use crate::{
    keeper::{
        Ended, ShimDir, ShimSpec, ShimStatus,
        client::{self, ShimClientError},
        fence::{Fence, FenceSpec},
    },
    model::{
        Owner, VmId,
        config::{Config, keys},
    },
    network::NetworkError,
    process::blocking,
    storage::{StorageError, StorageLock},
};

/// How long the storage may take to note that a VM is nobody's.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(3);

/// The shims of one node.
#[derive(Clone, Debug)]
pub struct Shims {
    run: PathBuf,
    bin: PathBuf,
    /// `None`: the storage is this node's own, and nobody takes its VMs over.
    fence: Option<FenceSpec>,
    claims: Option<Claims>,
}

impl Shims {
    /// As the configuration describes them.
    pub fn new(config: &Config) -> Result<Self, HypervisorError> {
        let bin = match config.get(&keys::PATH_QVD_BIN) {
            beside if beside.is_empty() => env::current_exe()
                .map_err(|source| failed("cannot find the running program's own directory", None, Some(source)))?
                .parent()
                .map(Path::to_owned)
                .unwrap_or_default(),
            bin => bin.into(),
        };
        Ok(Self { run: config.get(&keys::PATH_RUN).join("vm"), bin, fence: fence(config)?, claims: None })
    }

    /// The same in the name of `owner`: what VMs use of the storage says so to other nodes, and what theirs say is minded.
    pub fn in_the_name_of(self, owner: Owner, epochs: Arc<dyn Epochs>) -> Self {
        Self { claims: Some(Claims { owner, epochs }), ..self }
    }

    /// Makes the directory of all VMs.
    pub fn prepare(&self) -> Result<(), HypervisorError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.run);
        made.map_err(|error| failed(format!("cannot make {}", self.run.display()), None, Some(error)))
    }

    /// Lets those through the directory of all VMs whose own directory lets them in.
    pub fn let_through(&self) -> io::Result<()> {
        fs::set_permissions(&self.run, Permissions::from_mode(0o711))
    }

    /// The directory of something else that runs under a shim.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.run.with_file_name(name)
    }

    /// The directory of a VM, gone when the VM holds nothing any more.
    pub fn dir(&self, vm: VmId) -> PathBuf {
        self.run.join(vm.to_string())
    }

    /// Makes the directory of a VM, which remembers its address.
    pub fn make_dir(&self, vm: VmId, address: IpAddr) -> io::Result<PathBuf> {
        let dir = self.dir(vm);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::write(dir.join("address"), address.to_string())?;
        Ok(dir)
    }

    /// The address that a VM was started with.
    pub fn address(&self, vm: VmId) -> Option<IpAddr> {
        fs::read_to_string(self.dir(vm).join("address")).ok()?.trim().parse().ok()
    }

    /// The addresses of all VMs that have a directory.
    pub fn addresses(&self) -> Result<Vec<(VmId, IpAddr)>, HypervisorError> {
        Ok(self.vms()?.into_iter().filter_map(|vm| Some((vm, self.address(vm)?))).collect())
    }

    /// Where a VM's shim is met.
    pub fn shim(&self, vm: VmId) -> ShimDir {
        ShimDir::new(self.dir(vm))
    }

    /// The VMs that have a directory.
    pub fn vms(&self) -> Result<Vec<VmId>, HypervisorError> {
        match fs::read_dir(&self.run) {
            Ok(entries) => {
                let of_dir = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().map(VmId);
                Ok(entries.flatten().filter_map(of_dir).collect())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(format!("cannot read {}", self.run.display()), None, Some(error))),
        }
    }

    /// A program of ours.
    pub fn own_program(&self, name: &str) -> Result<PathBuf, HypervisorError> {
        let path = self.bin.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(failed(format!("{} does not exist", path.display()), Some("install it there or set path.qvd.bin"), None))
    }

    /// Takes the locks of what a VM uses of the storage, while that is made ready; afterwards its shim takes them. Who comes
    /// between finds the shim's lock.
    pub async fn take(&self, vm: VmId, locks: &[PathBuf]) -> Result<Vec<StorageLock>, HypervisorError> {
        let paths = locks.to_vec();
        let take = move || paths.iter().map(|path| StorageLock::take_soon(path)).collect::<Result<Vec<_>, _>>();
        let held = blocking(take).await?;
        if let Some(claims) = &self.claims {
            for lock in &held {
                claims.settle(vm, lock).await?;
            }
        }
        Ok(held)
    }

    /// Makes sure that nobody but other VMs of this node uses what this file guards. Their shims decide once more.
    pub async fn join(&self, vm: VmId, lock: PathBuf) -> Result<(), HypervisorError> {
        match &self.claims {
            Some(claims) => claims.join(vm, lock).await,
            None => Ok(()),
        }
    }

    /// Starts the shim of a VM with the program `keeper`. The spec's owner and deadline are set here.
    pub async fn start(&self, keeper: &Path, vm: VmId, spec: ShimSpec) -> Result<(), HypervisorError> {
        let owner = self.claims.as_ref().map(|claims| claims.owner.clone());
        let spec = ShimSpec { owner, fence: self.fence.clone(), ..spec };
        client::start(keeper, &self.shim(vm), &spec).await.map_err(|error| not_started(format_args!("VM {vm}"), error))
    }

    /// What a VM's shim says; `None` when there is none.
    pub async fn status(&self, vm: VmId) -> Result<Option<ShimStatus>, HypervisorError> {
        client::status(&self.shim(vm)).await.map_err(|error| not_started(format_args!("VM {vm}"), error))
    }

    /// Orders a VM's shim to kill it; whether there was a shim to hear it.
    pub async fn kill(&self, vm: VmId) -> Result<bool, HypervisorError> {
        client::kill(&self.shim(vm)).await.map_err(|error| not_started(format_args!("VM {vm}"), error))
    }

    /// Kills a VM through its shim, and waits until it is dead.
    pub async fn end(&self, vm: VmId) -> Result<(), HypervisorError> {
        if self.kill(vm).await? {
            client::wait(&self.shim(vm)).await;
        }
        Ok(())
    }

    /// Lets other nodes have a VM whose shim died, or had no time, before it could say that they may. A storage that does
    /// not answer holds nothing up: the record is ours, so the VM starts here again, and elsewhere when our epoch is over.
    pub async fn give_up(&self, vm: VmId) {
        let shim = self.shim(vm);
        let said = shim.ended().is_some_and(|ended| ended != Ended::Fenced);
        let (Some(claims), false) = (self.claims.clone(), said) else { return };
        let Ok(spec) = fs::read(shim.spec()) else { return };
        let locks: Vec<PathBuf> = match serde_json::from_slice(&spec) {
            Ok(ShimSpec { locks, shared, .. }) => locks.into_iter().chain(shared).collect(),
            Err(error) => return warn!(vm = %vm, %error, "other nodes may take this VM for ours"),
        };
        let forget = tokio::task::spawn_blocking(move || claims.forget(&locks));
        match tokio::time::timeout(GIVE_UP_LIMIT, forget).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => warn!(vm = %vm, %error, "other nodes may take this VM for ours"),
            Ok(Err(_)) | Err(_) => {
                warn!(vm = %vm, "the storage does not answer; other nodes may take this VM for ours")
            }
        }
    }

    /// Removes the directory of a VM.
    pub fn remove_dir(&self, vm: VmId) -> Result<(), HypervisorError> {
        let dir = self.dir(vm);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(format!("cannot remove {}", dir.display()), None, Some(error)))
            }
            _ => Ok(()),
        }
    }
}

/// How a VM ended, as its shim says; `None`: it said nothing.
pub fn exit(ended: Option<Ended>) -> Option<Exit> {
    Some(match ended? {
        Ended::Status(status) => Exit::Status(status),
        Ended::Signal(signal) => Exit::Signal(signal),
        Ended::Fenced => Exit::Fenced,
    })
}

/// What the last line of a program's output says.
pub fn last_line(output: &str) -> Option<String> {
    output.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}

/// Goes on to its end though nobody waits for it any more.
pub async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// By when VMs must be dead. They get half of the margin to die; the rest is for a machine that must be restarted.
fn fence(config: &Config) -> Result<Option<FenceSpec>, HypervisorError> {
    if config.get(&keys::STORAGE_LOCAL) {
        return Ok(None);
    }
    let file = Fence::path(&config.get(&keys::PATH_RUN))
        .map_err(|source| failed("cannot tell this boot of the machine from others", None, Some(source)))?;
    let half = config.get(&keys::FENCE_MARGIN) / 2;
    Ok(Some(FenceSpec {
        file,
        sysrq: config.get(&keys::FENCE_REBOOT).then(|| PathBuf::from("/proc/sysrq-trigger")),
        dead_within_ms: u64::try_from(half.as_millis()).unwrap_or(u64::MAX),
    }))
}

/// A program of the system, which comes with a Debian package.
pub fn program(name: &str, package: &str) -> Result<PathBuf, HypervisorError> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        failed(format!("{name} is not installed"), Some(&format!("install the package {package}")), None)
    })
}

/// What a shim runs could not be started, or the shim not asked.
pub fn not_started(what: impl fmt::Display, error: ShimClientError) -> HypervisorError {
    match error {
        ShimClientError::Start { source, .. } if !source.stderr().is_empty() => {
            failed(format!("{what} cannot be started: {}", source.stderr()), None, None)
        }
        error => failed(format!("{what}: {error}"), None, cause(&error)),
    }
}

/// A step that failed.
pub fn failed(what: impl Into<String>, hint: Option<&str>, source: Option<io::Error>) -> HypervisorError {
    HypervisorError { what: what.into(), hint: hint.map(str::to_owned), source }
}

fn cause(error: &dyn std::error::Error) -> Option<io::Error> {
    error.source().map(|source| io::Error::other(source.to_string()))
}

impl From<StorageError> for HypervisorError {
    fn from(error: StorageError) -> Self {
        // Where the sentence already holds what the program said, the cause would say it again.
        let cause = if matches!(error, StorageError::Unpack { .. }) { None } else { cause(&error) };
        failed(error.to_string(), error.hint(), cause)
    }
}

impl From<NetworkError> for HypervisorError {
    fn from(error: NetworkError) -> Self {
        failed(error.to_string(), error.hint(), cause(&error))
    }
}
