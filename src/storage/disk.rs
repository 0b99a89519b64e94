//! Disks of KVM guests: the image, a layer over it that takes what the guest writes, and the disk with the user's home.
//! All are qcow2, but images may be raw. Which of them QEMU has open is locked by QEMU itself; whose they are, by the lock files beside them.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::OFlag;
use tracing::warn;

use super::{
    ImageName, Storage, StorageError,
    examine::{Kind, problems_of_disk, problems_of_image, room_of_disk},
    home, remove_file,
};
use crate::{
    model::{DiId, HomeOf, VmId},
    process::{ProcessError, Program, blocking},
};

/// `qemu-img` only writes a header here, but the storage may be slow.
const LIMIT: Duration = Duration::from_secs(60);

/// A disk that QEMU can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its file.
    pub path: PathBuf,
    /// What QEMU calls its format.
    pub format: &'static str,
    /// Whether its file can be read and written past the page cache (`O_DIRECT`).
    pub takes_direct_io: bool,
}

impl Storage {
    /// Makes the directories of disks.
    pub fn prepare_disks(&self) -> Result<(), StorageError> {
        for dir in [&self.overlays, &self.homes] {
            fs::create_dir_all(dir).map_err(StorageError::file("make the directory", dir))?;
        }
        Ok(())
    }

    /// The image of this name. One that names another file is refused: it would show that to the guest.
    pub async fn disk_image(&self, image: &ImageName) -> Result<Disk, StorageError> {
        let path = self.images.join(image.to_string());
        blocking(move || if path.is_file() { Disk::image(path) } else { Err(StorageError::ImageMissing { path }) })
            .await
    }

    /// The file whose lock says that somebody uses the layers of a guest.
    pub fn disk_layer_lock(&self, vm: VmId) -> PathBuf {
        self.overlays.join(format!("lock.{vm}"))
    }

    /// The layer for a run of `vm` on image version `di`: an empty one, unless `keep` and there is one already. Those of
    /// other versions are removed. To be called with the guest's lock held.
    pub async fn disk_layer(&self, vm: VmId, di: DiId, image: &Disk, keep: bool) -> Result<Disk, StorageError> {
        let path = self.overlays.join(format!("{di}-{vm}-overlay.qcow2"));
        let (this, kept) = (self.clone(), keep.then(|| path.clone()));
        blocking(move || this.discard_layers(vm, kept.as_deref())).await?;
        let format = image.format;
        let image = std::path::absolute(&image.path).map_err(StorageError::file("find", &image.path))?;
        create(&path, &["-F".as_ref(), format.as_ref(), "-b".as_ref(), image.as_os_str()], None).await?;
        blocking(move || Ok(Disk::at(path))).await
    }

    fn discard_layers(&self, vm: VmId, kept: Option<&Path>) -> Result<(), StorageError> {
        let suffix = format!("-{vm}-overlay.qcow2");
        let failed = |source| StorageError::File { doing: "read", path: self.overlays.clone(), source };
        for entry in fs::read_dir(&self.overlays).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let of_vm = name.strip_suffix(&suffix).is_some_and(|di| di.bytes().all(|c| c.is_ascii_digit()));
            if of_vm && kept != Some(entry.path().as_path()) {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The file whose lock says that somebody uses a home of guests.
    pub fn disk_home_lock(&self, of: HomeOf) -> PathBuf {
        self.homes.join(format!("lock.{}", home::name(of)))
    }

    /// The disk with a home of guests, made when missing, with room for `size_mb`. The agent makes the file system. To be
    /// called with the guest's lock held.
    pub async fn disk_home(&self, of: HomeOf, size_mb: u32) -> Result<Disk, StorageError> {
        let path = self.homes.join(format!("{}-data.qcow2", home::name(of)));
        create(&path, &[], Some(format!("{size_mb}M"))).await?;
        blocking(move || {
            let disk = Disk::whole(path)?;
            let room = room_of_disk(&disk.path).map_err(StorageError::file("read", &disk.path))?;
            if let Some(room) = room.filter(|room| *room != u64::from(size_mb) << 20) {
                warn!(home = %disk.path.display(), has_mb = room >> 20, wanted_mb = size_mb, "this home keeps the size that \
                    it was made with; qemu-img resize makes the disk larger, the guest its partition and file system");
            }
            Ok(disk)
        })
        .await
    }
}

impl Disk {
    /// A disk that stands by itself.
    fn whole(path: PathBuf) -> Result<Self, StorageError> {
        let problems = problems_of_disk(&path).map_err(StorageError::file("read", &path))?;
        Self::at(path).without(&problems)
    }

    /// The same of an image, which may be raw. No guest writes to it, so none can make it look like another kind.
    fn image(path: PathBuf) -> Result<Self, StorageError> {
        let (kind, problems) = problems_of_image(&path).map_err(StorageError::file("read", &path))?;
        let format = if kind == Kind::Raw { "raw" } else { "qcow2" };
        Self { format, ..Self::at(path) }.without(&problems)
    }

    fn without(self, problems: &[String]) -> Result<Self, StorageError> {
        match problems {
            [] => Ok(self),
            some => Err(StorageError::Disk { path: self.path, problem: some.join(", ") }),
        }
    }

    fn at(path: PathBuf) -> Self {
        let direct = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(&path);
        // Anything else that is wrong QEMU says better.
        let takes_direct_io = !direct.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EINVAL));
        Self { path, format: "qcow2", takes_direct_io }
    }
}

/// Makes a disk that is not there yet, which appears whole or not at all.
async fn create(path: &Path, options: &[&OsStr], size: Option<String>) -> Result<(), StorageError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let (path, unfinished) = (path.to_owned(), PathBuf::from(unfinished));
    let (there, leftover) = (path.clone(), unfinished.clone());
    let begin = move || match there.exists() {
        true => Ok(false),
        false => remove_file(&leftover).map(|()| true),
    };
    if !blocking(begin).await? {
        return Ok(());
    }
    let program = Program::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(options);
    let made = program.args([&unfinished]).args(size).limit(LIMIT).run().await;
    made.map_err(|error| StorageError::Disk { path: path.clone(), problem: problem(&error) })?;
    blocking(move || {
        File::open(&unfinished)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(StorageError::file("make the disk", &path))
    })
    .await
}

/// What `qemu-img` says is wrong: the end of its sentence, since the file is named already.
fn problem(error: &ProcessError) -> String {
    match error.stderr().lines().find(|line| !line.trim().is_empty()) {
        Some(line) => line.rsplit_once("': ").map_or(line, |(_, end)| end).trim().to_owned(),
        None if error.is_missing() => "qemu-img is not installed".to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::model::config::Config;

    fn storage(dir: &Path) -> Storage {
        let mut config = Config::default();
        config.set("path.storage.root", dir.to_str().unwrap()).unwrap();
        let storage = Storage::new(&config);
        storage.prepare().unwrap();
        storage.prepare_disks().unwrap();
        storage
    }

    fn qemu_img(arguments: &[&str]) {
        assert!(Command::new("qemu-img").args(arguments).status().unwrap().success(), "{arguments:?}");
    }

    async fn image(storage: &Storage) -> Disk {
        let path = storage.images.join("desk.qcow2");
        qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "8M"]);
        storage.disk_image(&ImageName::parse("desk.qcow2").unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_layer_is_fresh_at_each_start_unless_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path());
        let image = image(&storage).await;
        let (vm, di) = (VmId(3), DiId(1));
        let layer = storage.disk_layer(vm, di, &image, false).await.unwrap().path;
        let written = || fs::metadata(&layer).unwrap().len() > 1 << 20;
        qemu_img_write(&layer);
        assert!(written());
        storage.disk_layer(VmId(13), di, &image, false).await.unwrap();
        storage.disk_layer(vm, di, &image, true).await.unwrap();
        assert!(written(), "kept");
        storage.disk_layer(vm, di, &image, false).await.unwrap();
        assert!(!written(), "fresh");
        storage.disk_layer(vm, DiId(2), &image, true).await.unwrap();
        assert!(!layer.exists(), "that of another version goes");
        assert!(storage.overlays.join("1-13-overlay.qcow2").exists(), "that of another guest stays");
    }

    fn qemu_img_write(disk: &Path) {
        let command = ["-f", "qcow2", "-c", "write -P 7 0 2M", disk.to_str().unwrap()];
        assert!(Command::new("qemu-io").args(command).output().unwrap().status.success());
    }

    #[tokio::test]
    async fn a_home_is_made_once_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path());
        let home = storage.disk_home(HomeOf::Vm(VmId(1)), 64).await.unwrap().path;
        assert_eq!(room_of_disk(&home).unwrap(), Some(64 << 20));
        qemu_img_write(&home);
        let bytes = fs::read(&home).unwrap();
        storage.disk_home(HomeOf::Vm(VmId(1)), 64).await.unwrap();
        assert_eq!(fs::read(&home).unwrap(), bytes);

        fs::write(&home, "garbage").unwrap();
        let error = storage.disk_home(HomeOf::Vm(VmId(1)), 64).await.unwrap_err().to_string();
        assert!(error.contains("1-data.qcow2 cannot be used: it is no qcow2 disk"), "{error}");
        assert_eq!(fs::read_to_string(&home).unwrap(), "garbage", "nothing is put in its place");
    }

    #[tokio::test]
    async fn an_image_that_would_read_another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path());
        let name = |name| ImageName::parse(name).unwrap();
        let whole = image(&storage).await.path;
        let layer = storage.images.join("layer.qcow2");
        let (whole, layer) = (whole.to_str().unwrap(), layer.to_str().unwrap());
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", whole, layer]);
        let error = storage.disk_image(&name("layer.qcow2")).await.unwrap_err().to_string();
        assert!(error.contains("layer over another file"), "{error}");
        fs::write(storage.images.join("tar.qcow2"), [1; 4096]).unwrap();
        let error = storage.disk_image(&name("tar.qcow2")).await.unwrap_err().to_string();
        assert!(error.contains("it is no qcow2 disk"), "{error}");
        let error = storage.disk_image(&name("none.qcow2")).await.unwrap_err();
        assert!(matches!(error, StorageError::ImageMissing { .. }), "{error}");
    }

    #[test]
    fn where_nothing_can_be_read_past_the_page_cache_that_is_known() {
        assert!(!Disk::at("/proc/version".into()).takes_direct_io);
    }
}
