//! Desktop images, the demo's and variants of it: built once from Debian packages of the machine's own mirror, then taken from the cache.
//!
//! An image is a tar of a root file system, compressed with zstd. Its name carries a hash of everything that it is
//! made of, so a newer recipe makes a newer image. Unpacking it and starting VMs from it is not done here.

mod machine;
mod progress;
mod recipe;
mod root;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, pipe},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe::Receiver,
    time,
};

use self::{
    machine::{Mirror, System},
    progress::Tracker,
    root::RootError,
};
pub use self::{
    progress::{Progress, Stage},
    recipe::{NoPackage, PackageName, Recipe},
};
use super::attached::{Account, Attached, attached_command};
use crate::process::ProcessError;

/// Where images are kept.
pub const CACHE: &str = "/var/cache/qvd/images";

/// The callback is called at least this often, with news or without.
const HEARTBEAT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(200);
/// How much of what the builder said is kept for an error.
const SAID: usize = 12;

/// Why there is no image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A file or directory of the cache could not be used.
    #[error("cannot use {} for the desktop image", .path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the machine is could not be found out.
    #[error("cannot find out which packages this machine uses")]
    Machine(#[source] ProcessError),
    /// The machine is no Debian, or knows no mirror.
    #[error("apt knows no mirror of Debian {release} (main): the demo's image is built from it; try apt-get update")]
    NoMirror {
        /// Code name of the release, from `/etc/os-release`.
        release: String,
    },
    /// A program of the recipe could not be run.
    #[error("cannot run {program} to build the desktop image")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program of the recipe failed.
    #[error("cannot build the desktop image: {program} failed: {said}")]
    Build {
        /// The program.
        program: &'static str,
        /// The end of what it said.
        said: String,
    },
    /// The files of the desktop could not be put into the image.
    #[error("cannot furnish the desktop image")]
    Furnish(#[source] RootError),
}

/// The desktop image in `cache`, built if it is not there. Needs root, the package mirror, and about a minute; another
/// process that builds it already is waited for. `report` hears about every step, and every two seconds anyway.
/// A build that fails or is dropped leaves nothing behind.
pub async fn desktop_image(cache: &Path, report: impl FnMut(Progress)) -> Result<PathBuf, ImageError> {
    built(cache, &Recipe::default(), report).await
}

/// The same for an image of another recipe.
pub async fn built(cache: &Path, recipe: &Recipe, mut report: impl FnMut(Progress)) -> Result<PathBuf, ImageError> {
    let system = System::look().await?;
    let image = cache.join(recipe::file_name(&system, recipe));
    if image.is_file() {
        return Ok(image);
    }
    fs::create_dir_all(cache).map_err(on(cache))?;
    let mut tracker = Tracker::new(recipe::STAGES);
    let _lock = lock(cache, || report(tracker.enter(Stage::Waiting))).await?;
    remove_unfinished(cache)?;
    if image.is_file() {
        return Ok(image);
    }
    let mirror = Mirror::look(&system).await?;
    tracing::info!(image = %image.display(), "building the desktop image");
    let workshop = Workshop::open(cache)?;
    let (root, packed) = (workshop.path().join("root"), workshop.path().join("image"));

    report(tracker.enter(Stage::Lists));
    let install = recipe::install(&system, recipe, &mirror, &root);
    follow("mmdebstrap", install, |line| tracker.line(line), &mut report).await?;
    report(tracker.enter(Stage::Furnishing));
    root::clean(&root).map_err(ImageError::Furnish)?;
    root::furnish(&root).map_err(ImageError::Furnish)?;
    report(tracker.enter(Stage::Packing));
    follow("tar", recipe::pack(recipe, &root, &packed), |line| tracker.line(line), &mut report).await?;

    File::open(&packed).and_then(|file| file.sync_all()).map_err(on(&packed))?;
    fs::rename(&packed, &image).map_err(on(&image))?;
    report(tracker.enter(Stage::Done));
    Ok(image)
}

/// Runs a program of the recipe to its end; every line that it says, and the passing of time, becomes a report.
async fn follow(
    program: &'static str,
    mut command: Command,
    mut read: impl FnMut(&str) -> Progress,
    report: &mut impl FnMut(Progress),
) -> Result<(), ImageError> {
    let run = |source| ImageError::Run { program, source };
    tracing::debug!(?command, "running");
    let (said, output) = pipe().map_err(run)?;
    let errors = output.try_clone().map_err(run)?;
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let child = Attached::start(command, Signal::SIGKILL).map_err(run)?;
    let mut lines = BufReader::new(Receiver::from_owned_fd(OwnedFd::from(said)).map_err(run)?).lines();
    let mut last = Vec::new();
    loop {
        match time::timeout(HEARTBEAT, lines.next_line()).await {
            Err(_) => report(read("")),
            // A line that is not text is not worth failing for.
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {}
            Ok(Err(_) | Ok(None)) => break,
            Ok(Ok(Some(line))) => {
                report(read(&line));
                if last.len() == SAID {
                    last.remove(0);
                }
                last.push(line);
            }
        }
    }
    match child.exited().await {
        Some(status) if status.success() => Ok(()),
        _ => Err(ImageError::Build { program, said: progress::complaint(&last) }),
    }
}

/// One builder at a time; the kernel gives the lock back however that one ends.
async fn lock(cache: &Path, mut waiting: impl FnMut()) -> Result<Flock<File>, ImageError> {
    let path = cache.join("lock");
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let mut since_report = Duration::ZERO;
    loop {
        match Flock::lock(file.map_err(on(&path))?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = Ok(back),
            Err((_, error)) => return Err(on(&path)(error.into())),
        }
        if since_report.is_zero() || since_report >= HEARTBEAT {
            since_report = Duration::ZERO;
            waiting();
        }
        time::sleep(LOCK_POLL).await;
        since_report += LOCK_POLL;
    }
}

/// Removes what builders left that were killed. Only who holds the lock may.
fn remove_unfinished(cache: &Path) -> Result<(), ImageError> {
    for entry in fs::read_dir(cache).map_err(on(cache))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(entry.path()).map_err(on(&entry.path()))?;
        }
    }
    Ok(())
}

const UNFINISHED: &str = "unfinished-";

/// The directory of a build, gone with it.
struct Workshop(PathBuf);

impl Workshop {
    fn open(cache: &Path) -> Result<Self, ImageError> {
        let dir = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(cache).map_err(on(cache))?;
        Ok(Self(dir.keep()))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // The last processes of a builder that was killed may still write for a moment.
        for _ in 0..100 {
            match fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        tracing::warn!(path = %self.0.display(), "cannot remove an unfinished image");
    }
}

/// A command of the recipe: as ourselves, and gone with us.
fn builder(program: &str) -> Command {
    // We are root, whose name does not matter here.
    let own = Account { name: String::new(), uid: nix::unistd::Uid::effective(), gid: nix::unistd::Gid::effective() };
    attached_command(program, &own, Signal::SIGKILL)
}

fn on(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    |source| ImageError::Cache { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
