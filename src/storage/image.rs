//! Disk images: tar archives that are unpacked once for all nodes that share the storage.
//!
//! An unpacked image appears by a rename, so it is either whole or not there. Whoever holds the image's lock may
//! remove what a crashed unpacking left. An image never changes under its name; a new version is a new file.

use std::{
    fmt, fs,
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::info;

use super::{Storage, StorageError, StorageLock, overlay};
use crate::{
    model::Agent,
    process::{Program, blocking},
};

/// Files without which an image is no desktop for our agent, from its root.
pub(super) const NEEDED: [&str; 2] = ["usr/bin/nxagent", "usr/bin/xinit"];

/// Where images have an agent of their own: that of classic QVD, and ours.
pub(super) const AGENTS: [&str; 3] = ["usr/lib/qvd/bin/qvd-vma", "usr/lib/qvd/qvd-vma", "usr/bin/qvd-vma"];

/// What starts it: in an image, `sbin` may be a link.
pub(super) const INITS: [&str; 2] = ["sbin/init", "usr/sbin/init"];

/// Begins the names of images that are being unpacked; no image has such a name.
pub(super) const UNPACKING: &str = ".untar-";

/// An image of many gigabytes on slow storage takes its time; one that takes longer is stuck.
const UNPACK_LIMIT: Duration = Duration::from_secs(2 * 3600);

const SUFFIXES: [&str; 9] = [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst"];

/// The file name of an image: one component, without characters that mean something to mount options.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName(pub(super) String);

impl ImageName {
    /// Checks a name that an administrator gave.
    pub fn parse(name: &str) -> Result<Self, StorageError> {
        let harmless = |c: char| c.is_ascii_alphanumeric() || "._+-~@".contains(c);
        // The last two would be taken for files of our own beside the unpacked images.
        let reserved = name.is_empty() || name.starts_with('.') || name.starts_with("lock.");
        if reserved || !name.chars().all(harmless) {
            return Err(StorageError::ImageName { name: name.to_owned() });
        }
        Ok(Self(name.to_owned()))
    }

    /// The name without what says how it is packed.
    pub fn stem(&self) -> &str {
        SUFFIXES
            .iter()
            .filter_map(|suffix| self.0.strip_suffix(suffix))
            .min_by_key(|stem| stem.len())
            .unwrap_or(&self.0)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image that was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    image: ImageName,
    /// Its root file system.
    pub root: PathBuf,
    /// What lies beside that in images of the *extended* kind: hooks and settings of containers.
    pub metadata: Option<PathBuf>,
}

impl Storage {
    /// An image, unpacked if no node did that yet. Waits while another does.
    pub async fn unpacked(&self, image: &ImageName) -> Result<Unpacked, StorageError> {
        let target = self.basefs.join(image.stem());
        if !target.is_dir() {
            self.unpack(image, &target).await?;
        }
        Unpacked::find(&target, image)
    }

    async fn unpack(&self, image: &ImageName, target: &Path) -> Result<(), StorageError> {
        let archive = self.images.join(&image.0);
        if !archive.is_file() {
            return Err(StorageError::ImageMissing { path: archive });
        }
        let lock_path = self.tree_lock(image.stem());
        let _lock = blocking(move || StorageLock::wait(&lock_path)).await?;
        if target.is_dir() {
            return Ok(());
        }
        let begin = std::time::Instant::now();
        info!(image = %image, "unpacking a disk image");
        let unfinished = self.basefs.join(format!("{UNPACKING}{}", image.stem()));
        discard(&unfinished).await?;
        let result = extract(image, &archive, &unfinished, target).await;
        if result.is_err() {
            discard(&unfinished).await?;
        } else {
            info!(image = %image, seconds = begin.elapsed().as_secs_f32(), "unpacked");
        }
        result
    }
}

async fn extract(image: &ImageName, archive: &Path, unfinished: &Path, target: &Path) -> Result<(), StorageError> {
    // On btrfs it can be copied whole.
    overlay::create_dir(unfinished).map_err(StorageError::file("make the directory", unfinished))?;
    let tar = Program::new("tar")
        .args(["--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--file"])
        .args([archive])
        .args(["--directory".as_ref(), unfinished])
        .limit(UNPACK_LIMIT);
    tar.run().await.map_err(|source| {
        let problem = verdict(source.stderr()).unwrap_or_else(|| source.to_string());
        StorageError::Unpack { image: image.clone(), problem, source }
    })?;
    let (unfinished, target) = (unfinished.to_owned(), target.to_owned());
    blocking(move || {
        // The rename must not reach the disk before the files do.
        let flushed = File::open(&unfinished).and_then(|dir| Ok(nix::unistd::syncfs(&dir)?));
        flushed.map_err(StorageError::file("write out", &unfinished))?;
        fs::rename(&unfinished, &target).map_err(StorageError::file("rename", &unfinished))
    })
    .await
}

/// The last line of `tar` that says what is wrong, rather than that something is.
pub(super) fn verdict(stderr: &str) -> Option<String> {
    const EMPTY_WORDS: [&str; 3] = ["Error is not recoverable", "Exiting with failure status", "Child returned status"];
    let telling = |line: &&str| !line.trim().is_empty() && !EMPTY_WORDS.iter().any(|empty| line.contains(empty));
    stderr.lines().rfind(telling).map(|line| line.trim().to_owned())
}

impl Unpacked {
    /// Finds out where the system lies: at the top, or in `rootfs` beside metadata.
    fn find(unpacked: &Path, image: &ImageName) -> Result<Self, StorageError> {
        let kinds = [(unpacked.to_owned(), None), (unpacked.join("rootfs"), Some(unpacked.to_owned()))];
        let (root, metadata) = kinds
            .into_iter()
            // Through a link the container would see the node's files.
            .find(|(root, _)| root.symlink_metadata().is_ok_and(|found| found.is_dir()) && root.join("usr").is_dir())
            .ok_or_else(|| StorageError::ImageLacks { image: image.clone(), missing: "root file system" })?;
        Ok(Self { image: image.clone(), root, metadata })
    }

    /// All that was unpacked.
    pub(super) fn top(&self) -> &Path {
        self.metadata.as_deref().unwrap_or(&self.root)
    }

    /// The root file system in a copy of all that was unpacked.
    pub(super) fn root_in(&self, copy: &Path) -> PathBuf {
        match self.root.strip_prefix(self.top()) {
            Ok(below) if self.metadata.is_some() => copy.join(below),
            _ => copy.to_owned(),
        }
    }

    /// Whether a container boots the image's own init, for the agent that it brings, rather than ours. Refused is an image
    /// that lacks what that takes.
    pub fn boots_itself(&self, agent: Agent) -> Result<bool, StorageError> {
        // Not followed: an absolute link would be looked up on the node.
        let has = |file: &&str| self.root.join(file).symlink_metadata().is_ok();
        let has_init = INITS.iter().any(has);
        let itself = match agent {
            Agent::Auto => has_init && AGENTS.iter().any(has),
            Agent::Ours => false,
            Agent::Image => true,
        };
        let missing = match itself {
            true => INITS.first().copied().filter(|_| !has_init),
            false => NEEDED.into_iter().find(|file| !has(file)),
        };
        match missing {
            Some(missing) => Err(StorageError::ImageLacks { image: self.image.clone(), missing }),
            None => Ok(itself),
        }
    }
}

async fn discard(dir: &Path) -> Result<(), StorageError> {
    let dir = dir.to_owned();
    blocking(move || match overlay::remove_dir_all(&dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StorageError::file("remove", &dir)(error)),
        _ => Ok(()),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::model::config::Config;

    struct Fixture {
        dir: tempfile::TempDir,
        storage: Storage,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.set("path.storage.root", dir.path().to_str().unwrap()).unwrap();
        let storage = Storage::new(&config);
        storage.prepare().unwrap();
        Fixture { dir, storage }
    }

    impl Fixture {
        fn pack(&self, name: &str, files: &[&str], options: &[&str]) -> ImageName {
            let tree = self.dir.path().join(format!("tree-{name}"));
            for file in files {
                let file = tree.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "program").unwrap();
            }
            let packed = Command::new("tar")
                .args(options)
                .arg("-cf")
                .arg(self.storage.images.join(name))
                .arg("-C")
                .arg(&tree)
                .arg(".")
                .status();
            assert!(packed.unwrap().success());
            ImageName::parse(name).unwrap()
        }

        fn leftovers(&self) -> usize {
            let entries = fs::read_dir(&self.storage.basefs).unwrap();
            entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".untar")).count()
        }
    }

    #[tokio::test]
    async fn every_kind_of_archive_is_unpacked() {
        let fixture = fixture();
        for (suffix, option) in [
            ("tar", "--no-auto-compress"),
            ("tar.gz", "-z"),
            ("tgz", "-z"),
            ("tar.bz2", "-j"),
            ("tar.xz", "-J"),
            ("tar.zst", "--zstd"),
        ] {
            let image = fixture.pack(&format!("desk-{}.{suffix}", suffix.replace('.', "")), &NEEDED, &[option]);
            let root = fixture.storage.unpacked(&image).await.unwrap().root;
            assert_eq!(fs::read_to_string(root.join(NEEDED[0])).unwrap(), "program");
            assert_eq!(root.file_name().unwrap().to_str().unwrap(), image.stem());
        }
    }

    #[tokio::test]
    async fn many_that_want_an_image_unpack_it_once() {
        let fixture = fixture();
        let image = fixture.pack("desk.tar", &NEEDED, &[]);
        fs::create_dir(fixture.storage.basefs.join(".untar-desk")).unwrap();
        let wanted = (0..8).map(|_| fixture.storage.unpacked(&image));
        for root in futures_util::future::join_all(wanted).await {
            assert!(root.unwrap().root.join(NEEDED[1]).is_file());
        }
        assert_eq!(fixture.leftovers(), 0);
    }

    #[tokio::test]
    async fn a_damaged_image_is_named_with_what_tar_said_and_leaves_nothing() {
        let fixture = fixture();
        let image = fixture.pack("desk.tar.gz", &NEEDED, &["-z"]);
        let path = fixture.storage.images.join("desk.tar.gz");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = fixture.storage.unpacked(&image).await.unwrap_err().to_string();
        assert!(error.contains("desk.tar.gz") && error.contains("nexpected"), "{error}");
        assert_eq!(fixture.leftovers(), 0);
        assert!(!fixture.storage.basefs.join("desk").exists());
    }

    #[tokio::test]
    async fn an_image_without_nxagent_or_without_a_file_is_refused_by_name() {
        let fixture = fixture();
        let image = fixture.pack("bare.tar", &["usr/bin/xinit"], &[]);
        let error = fixture.storage.unpacked(&image).await.unwrap().boots_itself(Agent::Auto).unwrap_err();
        assert_eq!(error.to_string(), "disk image bare.tar has no usr/bin/nxagent");
        let absent = ImageName::parse("absent.tar").unwrap();
        assert!(matches!(fixture.storage.unpacked(&absent).await, Err(StorageError::ImageMissing { .. })));
    }

    #[tokio::test]
    async fn an_image_of_the_classic_shape_boots_itself_unless_told_otherwise() {
        let fixture = fixture();
        let files = ["rootfs/usr/lib/qvd/bin/qvd-vma", "rootfs/usr/sbin/init", "hooks/prestart"];
        let classic = fixture.storage.unpacked(&fixture.pack("classic.tar", &files, &[])).await.unwrap();
        assert!(classic.boots_itself(Agent::Auto).unwrap() && classic.root.ends_with("classic/rootfs"));
        assert!(classic.boots_itself(Agent::Ours).unwrap_err().to_string().ends_with("has no usr/bin/nxagent"));
        assert!(classic.metadata.unwrap().join("hooks/prestart").is_file());

        let link = fixture.dir.path().join("tree-link.tar");
        fs::create_dir(&link).unwrap();
        std::os::unix::fs::symlink("/", link.join("rootfs")).unwrap();
        let error = fixture.storage.unpacked(&fixture.pack("link.tar", &[], &[])).await.unwrap_err();
        assert!(error.to_string().ends_with("has no root file system"), "the root of the node is none: {error}");

        let plain = [NEEDED[0], NEEDED[1], "usr/lib/qvd/bin/qvd-vma"];
        let plain = fixture.storage.unpacked(&fixture.pack("plain.tar", &plain, &[])).await.unwrap();
        assert_eq!(plain.metadata, None);
        assert!(!plain.boots_itself(Agent::Auto).unwrap(), "nothing would start the agent");
        assert!(plain.boots_itself(Agent::Image).unwrap_err().to_string().ends_with("has no sbin/init"));
    }

    #[tokio::test]
    async fn a_full_disk_is_reported_and_nothing_stays_behind() {
        let fixture = fixture();
        let image = fixture.pack("big.tar", &NEEDED, &[]);
        let tree = fixture.dir.path().join("tree-big.tar");
        fs::write(tree.join("ballast"), vec![7; 4 << 20]).unwrap();
        let image = {
            fixture.pack("big.tar", &[], &[]);
            image
        };
        let basefs = &fixture.storage.basefs;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(basefs).status();
        assert!(mounted.unwrap().success());
        let error = fixture.storage.unpacked(&image).await;
        let leftovers = fixture.leftovers();
        assert!(Command::new("umount").arg(basefs).status().unwrap().success());
        let error = error.unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!((leftovers, error.hint()), (0, Some("make room on the storage")));
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in
            ["", ".", "..", "../x.tar", "/etc/passwd", "a/b.tar", "a:b.tar", "a b.tar", "lock.x", ".untar-x", "ä"]
        {
            assert!(ImageName::parse(name).is_err(), "{name}");
        }
        assert_eq!(ImageName::parse("7-desk.tar.zst").unwrap().stem(), "7-desk");
        assert_eq!(ImageName::parse("plain").unwrap().stem(), "plain");
    }
}
