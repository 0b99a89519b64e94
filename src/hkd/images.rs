//! What a node does with disk images on its storage: it lists the staging directory, makes images of files, removes those of
//! deleted ones, and unpacked ones that nothing needs. The database gives each piece of work to one of the nodes that share
//! the storage; what one had begun that died is given to another.
//!
//! ```text
//!  claimed ──► bring (copy or link, sha256) ──► examine ──► place (fsync, rename) ──► ready, published
//!                    └──────────────────────────────┴────────────┴──────────────────► fail, with the reason
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    db::{Database, DbError, ImageFate, ImportOrder, StagedFile},
    events::{Channel, Hub},
    model::{Epoch, HostId, config::keys, in_one_line},
    process::blocking,
    storage::{Brought, Course, Examination, ImageName, Import, Storage, StorageError, examine},
};

use super::{fleet::Node, signs::Signs};

/// How often it is said how far an image is.
const REPORT: Duration = Duration::from_secs(1);
/// How long the end of the daemon waits for a storage that hangs.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(5);
/// Between attempts to get a lock that a dead one's storage has not given back yet.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// Works until the node stops.
pub async fn go_on(node: Arc<Node>, hub: Hub, signs: Option<Arc<Signs>>) {
    let storage = Storage::new(&node.config.load());
    let mut watch = hub.watch(Channel::Node(node.host)).await;
    let mut import: Option<Making> = None;
    let mut collected: Option<Instant> = None;
    loop {
        let config = node.config.load_full();
        if signs.as_ref().is_some_and(|signs| signs.quarantine.is_imposed()) {
            // What is written now may be lost when the storage is mounted anew. The claim stays.
            if let Some(making) = import.take() {
                making.give_up().await;
            }
        } else {
            let interval = config.get(&keys::HKD_STAGING_INTERVAL);
            match node.database.node_images(node.host, node.epoch, interval, import.is_none()).await {
                Ok(work) => {
                    if work.list {
                        list(&node, &storage).await;
                    }
                    let removed = remove(&node, &storage, work.leftovers).await;
                    let interval = config.get(&keys::HKD_BASEFS_INTERVAL);
                    if removed || work.list && collected.is_none_or(|at| at.elapsed() >= interval) {
                        collect(&node, &storage).await;
                        collected = Some(Instant::now());
                    }
                    if let Some(order) = work.import {
                        import = Some(Making::begin(&node, &storage, order));
                    }
                }
                Err(DbError::Revoked(message)) => {
                    tracing::error!(host = %node.host, "{message}");
                    node.stop.cancel();
                }
                Err(error) => tracing::debug!(host = %node.host, %error, "cannot ask what to do with images"),
            }
        }
        tokio::select! {
            _ = watch.changed() => {}
            () = ended(&mut import) => import = None,
            () = tokio::time::sleep(config.get(&keys::HKD_POLL_RELAXED)) => {}
            () = node.stop.cancelled() => break,
        }
    }
    if let Some(making) = import {
        making.give_up().await;
    }
}

/// An image that is being made.
struct Making {
    course: Arc<Course>,
    task: JoinHandle<()>,
}

impl Making {
    fn begin(node: &Arc<Node>, storage: &Storage, order: ImportOrder) -> Self {
        let course = Arc::new(Course::default());
        let task = tokio::spawn(make(node.clone(), storage.clone(), order, course.clone()));
        Self { course, task }
    }

    /// Returns when nothing is written any more, or the storage does not answer.
    async fn give_up(self) {
        self.course.give_up();
        let _ = tokio::time::timeout(GIVE_UP_LIMIT, self.task).await;
    }
}

async fn ended(import: &mut Option<Making>) {
    match import {
        Some(making) => drop((&mut making.task).await),
        None => std::future::pending().await,
    }
}

/// Makes an image and says what came of it.
async fn make(node: Arc<Node>, storage: Storage, order: ImportOrder, course: Arc<Course>) {
    let (host, epoch, di) = (node.host, node.epoch, order.di);
    tracing::info!(%host, %di, file = order.source, "making a disk image");
    let begin = Instant::now();
    let why = match bring(&node, &storage, &order, &course).await {
        Ok((brought, found)) => {
            let warnings = (!found.warnings.is_empty()).then(|| found.warnings.join("; "));
            let ready =
                || node.database.node_di_ready(host, epoch, di, &brought.sha256, brought.size, warnings.as_deref());
            match node.retrying("say that an image is ready", ready).await {
                Some(ImageFate::Ready) => {
                    tracing::info!(%host, %di, seconds = begin.elapsed().as_secs_f32(), "a disk image is ready");
                    if let Err(error) = blocking(move || brought.remove_source()).await {
                        tracing::warn!(%host, %di, %error, "the file that it was made of stays");
                    }
                }
                Some(ImageFate::Deleted) => match blocking(move || brought.withdraw()).await {
                    Ok(()) => tracing::info!(%host, %di, "a disk image was deleted while it was made"),
                    Err(error) => tracing::warn!(%host, %di, %error, "a disk image was deleted but its file stays"),
                },
                Some(ImageFate::AnothersToMake) => tracing::warn!(%host, %di, "a disk image is another node's to make"),
                // It lies in its place; the next who is given it finds it there.
                None => {}
            }
            return;
        }
        Err(Undone::GivenUp) => return,
        Err(Undone::Unfit(why)) => why,
        Err(Undone::Storage(error)) => {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            in_one_line(&error) + &hint
        }
    };
    tracing::warn!(%host, %di, why, "a disk image cannot be made");
    node.retrying("say that an image cannot be made", || node.database.node_di_failed(host, epoch, di, &why)).await;
}

/// Why there is no image.
enum Undone {
    /// Somebody else is to make it, or nobody.
    GivenUp,
    /// The file will not do.
    Unfit(String),
    Storage(StorageError),
}

impl From<StorageError> for Undone {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::GivenUp => Self::GivenUp,
            error => Self::Storage(error),
        }
    }
}

async fn bring(
    node: &Node,
    storage: &Storage,
    order: &ImportOrder,
    course: &Arc<Course>,
) -> Result<(Brought, Examination), Undone> {
    let (source, target) = (ImageName::parse(&order.source)?, ImageName::parse(&order.target)?);
    let import = Import { di: order.di, source, target, moves: order.moves };
    blocking({
        let storage = storage.clone();
        move || storage.prepare_images()
    })
    .await?;
    let brought = loop {
        let (storage, import, on) = (storage.clone(), import.clone(), course.clone());
        let work = blocking(move || storage.bring(&import, &on));
        match reporting(node, order, course, false, work).await {
            Err(StorageError::InUse { .. }) if !course.is_given_up() => tokio::time::sleep(LOCK_PAUSE).await,
            brought => break brought?,
        }
    };
    let found = reporting(node, order, course, true, examine(&brought.path)).await?;
    if !found.problems.is_empty() {
        return Err(Undone::Unfit(found.problems.join("; ")));
    }
    if course.is_given_up() {
        return Err(Undone::GivenUp);
    }
    let brought = blocking(move || {
        let mut brought = brought;
        brought.place().map(|()| brought)
    });
    Ok((brought.await?, found))
}

/// Says now and then how far the work is. Gives it up when it is nobody's any more, or another's.
async fn reporting<T>(
    node: &Node,
    order: &ImportOrder,
    course: &Course,
    verifying: bool,
    work: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    tokio::pin!(work);
    loop {
        match node.database.node_di_progress(node.host, node.epoch, order.di, verifying, course.percent()).await {
            Ok(true) => {}
            Ok(false) => course.give_up(),
            Err(DbError::Revoked(message)) => {
                tracing::error!(host = %node.host, "{message}");
                course.give_up();
                node.stop.cancel();
            }
            Err(error) => tracing::debug!(host = %node.host, %error, "cannot say how far an image is"),
        }
        tokio::select! {
            result = &mut work => return result,
            () = tokio::time::sleep(REPORT) => {}
        }
        // A program ends with its future; a thread sees it by itself.
        if verifying && course.is_given_up() {
            return Err(StorageError::GivenUp);
        }
    }
}

async fn list(node: &Node, storage: &Storage) {
    let on = storage.clone();
    let (files, problem) = match blocking(move || on.staged()).await {
        Ok(files) => (files, None),
        Err(error) => (Vec::new(), Some(in_one_line(&error))),
    };
    let reported: Vec<_> = files
        .into_iter()
        .map(|file| StagedFile {
            kind: file.kind.map_or_else(|| "unknown".to_owned(), |kind| kind.to_string()),
            name: file.name,
            size: file.size,
            modified: file.modified,
        })
        .collect();
    if let Err(error) = node.database.node_staging(node.host, node.epoch, &reported, problem.as_deref()).await {
        tracing::debug!(host = %node.host, %error, "cannot say what is in the staging directory");
    }
}

/// Removes the files of deleted images; whether one went.
async fn remove(node: &Node, storage: &Storage, paths: Vec<String>) -> bool {
    let mut removed = false;
    for path in paths {
        // What no image could be made of has no file of ours.
        if let Ok(image) = ImageName::parse(&path) {
            let on = storage.clone();
            if let Err(error) = blocking(move || on.remove_image(&image)).await {
                tracing::warn!(host = %node.host, path, %error, "the file of a deleted image cannot be removed yet");
                continue;
            }
        }
        tracing::info!(host = %node.host, path, "the file of a deleted image is gone");
        removed = true;
        if let Err(error) = node.database.node_di_removed(node.host, node.epoch, &path).await {
            tracing::debug!(host = %node.host, %error, "cannot say that a file is gone");
        }
    }
    removed
}

/// Why unpacked images were not looked through.
#[derive(Debug, Error)]
enum CollectError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Db(#[from] DbError),
}

async fn collect(node: &Node, storage: &Storage) {
    let (storage, handle) = (storage.clone(), Handle::current());
    let (database, host, epoch): (Database, HostId, Epoch) = (node.database.clone(), node.host, node.epoch);
    let known = move || Ok::<_, CollectError>(handle.block_on(database.node_di_paths(host, epoch))?);
    let keep = node.config.load().get(&keys::HKD_BASEFS_KEEP);
    match blocking(move || storage.collect(keep, known)).await {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => tracing::info!(%host, images = ?gone, "unpacked images that nothing needs are gone"),
        Err(error) => tracing::warn!(%host, %error, "cannot look for unpacked images that nothing needs"),
    }
}
