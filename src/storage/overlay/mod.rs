//! What VMs write of their root file systems, one for each VM and image version. There are three ways to make it of an image
//! that stays as it is (`Way`); which of them is chosen by what the file systems can do.

mod btrfs;
mod layer;
mod overlayfs;
mod reflink;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::{debug, warn};

pub(super) use btrfs::{create_dir, remove_dir_all};
pub use layer::Layer;

use super::{Storage, StorageError, Unpacked, names, volume};
use crate::{
    model::{DiId, VmId, config::UnionKind},
    process::blocking,
};

/// Begins the names of layers that are marked for removal.
pub(super) const DISCARDED: &str = "deleteme-";
/// How long that waits: crowds of VMs have mostly been launched by then.
const REMOVAL_DELAY: Duration = Duration::from_secs(2);
/// Ends the names of copies of images, whatever made them.
pub(super) const COPY: &str = "rootfs";

/// A way to let a VM write into what looks like its image.
trait Way {
    /// Ends the names of what it makes.
    const SUFFIX: &'static str;

    /// Makes it at `place`, unless it is there. A copy appears whole or not at all. It is for a VM whose user 0 is `owner` here.
    async fn make(&self, image: &Unpacked, place: &Path, owner: u32) -> Result<Layer, StorageError>;
}

/// The way that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    Layer,
    Snapshot,
    Copy,
}

/// What the choice depends on besides what is wanted.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// The directory of layers takes those of overlayfs.
    carries_layers: bool,
    /// It can have files in common with that of unpacked images.
    shares: bool,
    /// The image was unpacked into a subvolume of btrfs.
    image_is_subvolume: bool,
}

/// A snapshot costs nothing, a layer next to nothing; a copy is made file by file, so it is for where there is nothing else.
fn choose(wanted: UnionKind, facts: impl FnOnce() -> Facts) -> Result<Chosen, &'static str> {
    Ok(match wanted {
        UnionKind::Overlayfs => Chosen::Layer,
        UnionKind::Auto => match facts() {
            Facts { image_is_subvolume: true, shares: true, .. } => Chosen::Snapshot,
            Facts { carries_layers: false, shares: true, .. } => Chosen::Copy,
            _ => Chosen::Layer,
        },
        UnionKind::Btrfs => match facts() {
            Facts { shares: false, .. } => return Err("it is not on the same file system as the unpacked images"),
            Facts { image_is_subvolume: false, .. } => {
                return Err("the image was not unpacked into a subvolume of btrfs");
            }
            _ => Chosen::Snapshot,
        },
        UnionKind::Reflink if facts().shares => Chosen::Copy,
        UnionKind::Reflink => return Err("its files cannot have blocks in common with those of unpacked images"),
    })
}

impl Storage {
    /// The file whose lock says that somebody uses the layers of a VM.
    pub fn overlay_lock(&self, vm: VmId) -> PathBuf {
        self.overlayfs.join(format!("lock.{vm}"))
    }

    /// What a run of `vm` on image version `di` writes to: empty, unless `keep` and there is something already, which stays what
    /// it is. Older ones are removed in the background. It is for a VM whose user 0 is `owner` here; `limited`: it must be
    /// possible to hold it to a size. To be called with the VM's lock held, to the end.
    pub async fn overlay(
        &self,
        (vm, di): (VmId, DiId),
        image: &Unpacked,
        keep: bool,
        owner: u32,
        limited: bool,
    ) -> Result<Layer, StorageError> {
        let place = |suffix| self.overlayfs.join(format!("{di}-{vm}-{suffix}"));
        let (this, of) = (self.clone(), image.clone());
        let [layer, copy] = [overlayfs::Layers::SUFFIX, COPY].map(place);
        let there = [layer.clone(), copy.clone()];
        let chosen = blocking(move || {
            if !keep {
                this.discard_overlays(vm)?;
            }
            match there.map(|place| place.is_dir()) {
                [true, _] => return Ok(Chosen::Layer),
                [false, true] => return Ok(Chosen::Copy),
                [false, false] => {}
            }
            let wanted = if limited && this.union == UnionKind::Auto { UnionKind::Overlayfs } else { this.union };
            let facts = || Facts {
                carries_layers: overlayfs::carries_layers(&this.overlayfs),
                shares: reflink::can_share(&this.basefs, &this.overlayfs),
                image_is_subvolume: btrfs::is_subvolume(of.top()).unwrap_or(false),
            };
            choose(wanted, facts).map_err(|problem| StorageError::Overlay { path: this.overlayfs.clone(), problem })
        })
        .await?;
        match chosen {
            Chosen::Layer => overlayfs::Layers.make(image, &layer, owner).await,
            Chosen::Snapshot | Chosen::Copy if limited => Err(StorageError::Unlimited { path: copy }),
            Chosen::Snapshot => btrfs::Snapshots.make(image, &copy, owner).await,
            Chosen::Copy => reflink::Copies { kept: keep }.make(image, &copy, owner).await,
        }
    }

    /// Whether what VMs write to can have blocks in common with their images; tried with files that leave nothing. Directories that
    /// are not there yet will lie below the root.
    pub fn shares_blocks(&self) -> bool {
        let there = |dir: &PathBuf| if dir.is_dir() { dir.clone() } else { self.root.clone() };
        reflink::can_share(&there(&self.basefs), &there(&self.overlayfs))
    }

    fn discard_overlays(&self, vm: VmId) -> Result<(), StorageError> {
        let suffixes = [overlayfs::Layers::SUFFIX, COPY].map(|suffix| format!("-{vm}-{suffix}"));
        let mut any = false;
        for name in names(&self.overlayfs)? {
            let stem = name.strip_suffix(volume::SUFFIX).unwrap_or(&name);
            let is_image = |di: &str| di.bytes().all(|c| c.is_ascii_digit());
            if !suffixes.iter().any(|suffix| stem.strip_suffix(suffix.as_str()).is_some_and(is_image)) {
                continue;
            }
            let from = self.overlayfs.join(&name);
            fs::rename(&from, discarded(&from, SystemTime::now())).map_err(StorageError::file("rename", &from))?;
            any = true;
        }
        if any {
            self.remove_discarded();
        }
        Ok(())
    }

    /// Removes layers marked for removal, on a thread of its own and a little later: nobody waits for that, but those whose start
    /// marked them want the processors now. Other nodes may do the same at the same time.
    pub(super) fn remove_discarded(&self) {
        if self.removal_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let (dir, due) = (self.overlayfs.clone(), self.removal_due.clone());
        thread::spawn(move || {
            thread::sleep(REMOVAL_DELAY);
            // Whatever is marked from now on is for the next thread.
            due.swap(false, Ordering::AcqRel);
            for name in names(&dir).unwrap_or_default().into_iter().filter(|name| name.starts_with(DISCARDED)) {
                let path = dir.join(&name);
                let is_volume = path.is_file();
                match if is_volume { fs::remove_file(&path) } else { remove_dir_all(&path) } {
                    Ok(()) => debug!(layer = name, "removed a discarded layer"),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => warn!(layer = name, %error, "a discarded layer cannot be removed yet"),
                }
            }
        });
    }
}

/// The name by which a layer is removed, since that may take long. It ends with the time, which makes it new.
pub(super) fn discarded(layer: &Path, now: SystemTime) -> PathBuf {
    let since = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let name = layer.file_name().unwrap_or_default().to_string_lossy();
    layer.with_file_name(format!("{DISCARDED}{name}-{since}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{model::config::Config, storage::ImageName};

    fn storage(dir: &Path, union: &str) -> Storage {
        let mut config = Config::default();
        config.set("path.storage.root", dir.to_str().unwrap()).unwrap();
        config.set("vm.lxc.unionfs.type", union).unwrap();
        let storage = Storage::new(&config);
        storage.prepare().unwrap();
        storage
    }

    /// An image of the extended kind, unpacked.
    async fn image(storage: &Storage) -> Unpacked {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("rootfs/usr/bin")).unwrap();
        fs::create_dir_all(tree.path().join("rootfs/etc")).unwrap();
        fs::write(tree.path().join("rootfs/etc/motd"), "hello").unwrap();
        let archive = storage.images.join("desk.tar");
        let packed =
            std::process::Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(tree.path()).arg(".").status();
        assert!(packed.unwrap().success());
        storage.unpacked(&ImageName::parse("desk.tar").unwrap()).await.unwrap()
    }

    #[test]
    fn a_copy_is_for_where_there_is_nothing_better() {
        use Chosen::{Copy, Layer, Snapshot};
        let with = |wanted, [carries_layers, shares, image_is_subvolume]: [bool; 3]| {
            choose(wanted, || Facts { carries_layers, shares, image_is_subvolume }).ok()
        };
        for (facts, auto, btrfs, copy) in [
            ([true, false, false], Layer, None, None),
            ([true, true, false], Layer, None, Some(Copy)),
            ([true, true, true], Snapshot, Some(Snapshot), Some(Copy)),
            ([true, false, true], Layer, None, None),
            ([false, true, false], Copy, None, Some(Copy)),
            ([false, false, false], Layer, None, None),
        ] {
            assert_eq!(with(UnionKind::Auto, facts), Some(auto), "{facts:?}");
            assert_eq!(with(UnionKind::Btrfs, facts), btrfs, "{facts:?}");
            assert_eq!(with(UnionKind::Reflink, facts), copy, "{facts:?}");
            assert_eq!(with(UnionKind::Overlayfs, facts), Some(Layer), "{facts:?}");
        }
    }

    #[tokio::test]
    async fn a_layer_is_empty_at_each_start_unless_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path(), "auto");
        let image = image(&storage).await;
        let (vm, di) = (VmId(3), DiId(1));
        let layer = async |vm, di, keep| storage.overlay((vm, di), &image, keep, 0, false).await.unwrap().root();
        fs::write(layer(vm, di, false).await.join("note"), "x").unwrap();
        assert!(layer(vm, di, true).await.join("note").exists());
        layer(VmId(13), di, false).await;
        fs::write(layer(vm, DiId(2), true).await.join("note"), "x").unwrap();
        assert!(!layer(vm, di, false).await.join("note").exists());
        assert!(!storage.overlayfs.join("2-3-overlayfs").exists(), "layers of other versions go too");
        assert!(storage.overlayfs.join("1-13-overlayfs").exists(), "layers of other VMs stay");
    }

    #[tokio::test]
    async fn a_discarded_layer_is_removed_while_the_next_one_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path(), "auto");
        let image = image(&storage).await;
        let discarded = || names(&storage.overlayfs).unwrap().iter().filter(|name| name.starts_with(DISCARDED)).count();
        // Those of a crowd are removed by one thread, those of later starts by another.
        for crowd in [3, 1] {
            for vm in (0..crowd).map(VmId) {
                storage.overlay((vm, DiId(1)), &image, false, 0, false).await.unwrap();
                let layer = storage.overlay((vm, DiId(1)), &image, false, 0, false).await.unwrap().root();
                fs::write(layer.join("note"), "x").unwrap();
            }
            let began = std::time::Instant::now();
            while discarded() > 0 {
                assert!(began.elapsed() < Duration::from_secs(60), "{:?}", names(&storage.overlayfs));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(
                storage.overlayfs.join("1-0-overlayfs").join("upper/note").exists(),
                "{:?}",
                names(&storage.overlayfs)
            );
        }
    }

    /// A file system of its own, for it can do what that of the machine may not.
    struct Disk(tempfile::TempDir);

    impl Disk {
        fn of(kind: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("disk");
            fs::File::create(&file).unwrap().set_len(512 << 20).unwrap();
            let at = dir.path().join("at");
            fs::create_dir(&at).unwrap();
            for (program, arguments) in [(format!("mkfs.{kind}"), vec!["-q"]), ("mount".to_owned(), vec!["-o", "loop"])]
            {
                let mut command = std::process::Command::new(&program);
                command.args(arguments).arg(&file);
                if program == "mount" {
                    command.arg(&at);
                }
                let ran = command.output().unwrap();
                assert!(ran.status.success(), "{program}: {ran:?}");
            }
            Self(dir)
        }

        fn at(&self) -> PathBuf {
            self.0.path().join("at")
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.at()).status();
        }
    }

    #[tokio::test]
    async fn a_copy_has_all_of_the_image_which_stays_as_it_is() {
        for (kind, union, is_snapshot) in [("btrfs", "auto", true), ("btrfs", "reflink", false), ("xfs", "xfs", false)]
        {
            let disk = Disk::of(kind);
            let storage = storage(&disk.at(), union);
            let image = image(&storage).await;
            let of = (VmId(3), DiId(1));
            fs::create_dir(storage.overlayfs.join("1-3-rootfs.new")).unwrap();
            let layer = storage.overlay(of, &image, false, 1 << 20, false).await.unwrap();
            assert_eq!(
                (layer.over_image(), layer.root()),
                (None, storage.overlayfs.join("1-3-rootfs/rootfs")),
                "{kind}"
            );
            assert_eq!(
                btrfs::is_subvolume(&storage.overlayfs.join("1-3-rootfs")).unwrap(),
                is_snapshot,
                "{kind} {union}"
            );
            assert_eq!(fs::read_to_string(layer.root().join("etc/motd")).unwrap(), "hello");
            layer.put("etc", "motd", "mine").unwrap();
            assert_eq!(fs::read_to_string(image.root.join("etc/motd")).unwrap(), "hello");
            let kept = storage.overlay(of, &image, true, 0, false).await.unwrap();
            assert_eq!(fs::read_to_string(kept.root().join("etc/motd")).unwrap(), "mine");
            let refused = storage.overlay(of, &image, true, 0, true).await.unwrap_err();
            assert!(matches!(refused, StorageError::Unlimited { .. }), "{refused}");
            // As a user of the VM may have made one.
            create_dir(&kept.root().join("nested")).unwrap();
            fs::write(kept.root().join("nested/file"), "x").unwrap();
            let fresh = storage.overlay(of, &image, false, 0, false).await.unwrap();
            assert_eq!(fs::read_to_string(fresh.root().join("etc/motd")).unwrap(), "hello", "{kind} {union}");
            while names(&storage.overlayfs).unwrap().iter().any(|name| name.starts_with(DISCARDED)) {
                tokio::task::yield_now().await;
            }
            let gone = storage.collect::<StorageError>(std::time::Duration::ZERO, || Ok(vec![])).unwrap();
            assert_eq!((gone, storage.basefs.join("desk").exists()), (vec!["desk".to_owned()], false), "{kind}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_refused_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for union in ["btrfs", "reflink"] {
            // In memory nothing can be shared.
            let disk = dir.path().join(union);
            fs::create_dir(&disk).unwrap();
            let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&disk).status();
            assert!(mounted.unwrap().success());
            let storage = storage(&disk, union);
            let image = image(&storage).await;
            let refused = storage.overlay((VmId(3), DiId(1)), &image, false, 0, false).await;
            assert!(std::process::Command::new("umount").arg("-l").arg(&disk).status().unwrap().success());
            let refused = refused.unwrap_err();
            assert!(matches!(refused, StorageError::Overlay { .. }) && refused.hint().is_some(), "{refused}");
        }
    }

    #[tokio::test]
    async fn links_planted_in_a_kept_layer_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("hosts"), "mine").unwrap();
        let storage = storage(dir.path(), "overlayfs");
        let overlay = storage.overlay((VmId(1), DiId(1)), &image(&storage).await, true, 0, false).await.unwrap();
        symlink(&outside, overlay.root().join("etc")).unwrap();
        overlay.put("etc", "hosts", "theirs").unwrap();
        assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "mine");

        fs::remove_file(overlay.root().join("etc/hosts")).unwrap();
        symlink(outside.join("hosts"), overlay.root().join("etc/hosts")).unwrap();
        overlay.put("etc", "hosts", "theirs").unwrap();
        assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(overlay.root().join("etc/hosts")).unwrap(), "theirs");
    }
}
