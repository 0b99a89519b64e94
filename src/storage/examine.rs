//! Whether a file will do as a disk image, before anybody starts from it: a tar archive that is whole and holds a desktop, or
//! a qcow2 disk that stands by itself. What is inside a disk is not looked at.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use super::{StorageError, image};
use crate::process::{ProcessError, Program};

/// For reading an image from end to end.
const LIMIT: Duration = Duration::from_secs(2 * 3600);
const TAR_MAGIC: usize = 257;
/// As much as tells one kind from another, and all of a qcow2 header that is looked at.
const HEAD: usize = 512;
const SECTOR: u64 = 512;

/// Where boot sectors, also those of disks with a GPT, have their mark.
const BOOT_MAGIC: usize = 510;

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tar archive.
    Tar,
    /// One compressed with gzip.
    TarGz,
    /// With bzip2.
    TarBz2,
    /// With xz.
    TarXz,
    /// With zstd.
    TarZst,
    /// A disk of QEMU.
    Qcow2,
    /// A disk as it is, with a boot sector.
    Raw,
}

impl Kind {
    /// Of a file that begins like this; `None`: nothing that could be a disk image.
    pub fn of(head: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 5] = [
            (b"\x1f\x8b", Self::TarGz),
            (b"BZh", Self::TarBz2),
            (b"\xfd7zXZ\0", Self::TarXz),
            (b"\x28\xb5\x2f\xfd", Self::TarZst),
            (b"QFI\xfb", Self::Qcow2),
        ];
        let is_tar = head.get(TAR_MAGIC..).is_some_and(|rest| rest.starts_with(b"ustar"));
        let packed = magics.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| kind);
        let boots = head.get(BOOT_MAGIC..).is_some_and(|rest| rest.starts_with(b"\x55\xaa"));
        packed.or(is_tar.then_some(Self::Tar)).or(boots.then_some(Self::Raw))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tar => "tar",
            Self::TarGz => "tar.gz",
            Self::TarBz2 => "tar.bz2",
            Self::TarXz => "tar.xz",
            Self::TarZst => "tar.zst",
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        })
    }
}

/// What was found. The file will do when there are no problems.
#[derive(Debug, Default)]
pub struct Examination {
    /// What it is.
    pub kind: Option<Kind>,
    /// Bytes.
    pub size: u64,
    /// Why no VM can start from it, as sentences without a full stop.
    pub problems: Vec<String>,
    /// What may surprise.
    pub warnings: Vec<String>,
}

/// Reads a file from end to end and says what is wrong with it. An error is one of reading it at all.
pub async fn examine(path: &Path) -> Result<Examination, StorageError> {
    // So that no program takes it for an option or for a file elsewhere.
    let path = &std::path::absolute(path).map_err(StorageError::file("find", path))?;
    let (head, size) = head(path).map_err(StorageError::file("read", path))?;
    let mut found = Examination { kind: Kind::of(&head), size, ..Examination::default() };
    match found.kind {
        None if size == 0 => found.problems.push("it is empty".to_owned()),
        None => {
            found.problems.push(
                "it is neither a tar archive (plain or gz, bz2, xz, zst) nor a disk (qcow2, or raw with a boot sector)"
                    .to_owned(),
            );
        }
        Some(Kind::Qcow2) => examine_disk(path, &head, &mut found).await,
        Some(Kind::Raw) => found.problems.extend(problems_of_raw(size)),
        // tar takes the end of a file for the end of an archive.
        Some(Kind::Tar) if !ends_in_zeros(path, size).map_err(StorageError::file("read", path))? => {
            found.problems.push("it is cut off: the end of the archive is missing".to_owned());
        }
        Some(_) => examine_archive(path, &mut found).await,
    }
    Ok(found)
}

/// What keeps a disk from being used by itself, as far as its header tells.
pub(super) fn problems_of_disk(path: &Path) -> io::Result<Vec<String>> {
    let (head, size) = head(path)?;
    Ok(match Qcow2::read(&head).filter(|_| Kind::of(&head) == Some(Kind::Qcow2)) {
        Some(header) => header.problems(size),
        None => vec!["it is no qcow2 disk".to_owned()],
    })
}

/// The same of an image, which may be raw; what it is.
pub(super) fn problems_of_image(path: &Path) -> io::Result<(Kind, Vec<String>)> {
    let (head, size) = head(path)?;
    Ok(match Kind::of(&head) {
        Some(Kind::Raw) => (Kind::Raw, problems_of_raw(size).into_iter().collect()),
        _ => (Kind::Qcow2, problems_of_disk(path)?),
    })
}

/// The bytes that such a disk has for its guest; `None`: it is no such disk.
pub(super) fn room_of_disk(path: &Path) -> io::Result<Option<u64>> {
    Ok(Qcow2::read(&head(path)?.0).map(|header| header.virtual_size))
}

fn problems_of_raw(size: u64) -> Option<String> {
    (!size.is_multiple_of(SECTOR)).then(|| "it is cut off: its size is no multiple of 512 bytes".to_owned())
}

/// The first bytes of a file and its size.
pub(super) fn head(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut head = Vec::with_capacity(HEAD);
    file.take(HEAD as u64).read_to_end(&mut head)?;
    Ok((head, size))
}

/// As archives do, by two blocks of 512 bytes or more (POSIX, pax interchange format).
fn ends_in_zeros(path: &Path, size: u64) -> io::Result<bool> {
    let mut end = [1; 1024];
    let Some(at) = size.checked_sub(end.len() as u64) else { return Ok(false) };
    File::open(path)?.read_exact_at(&mut end, at)?;
    Ok(end.iter().all(|byte| *byte == 0))
}

async fn examine_archive(path: &Path, found: &mut Examination) {
    // All of it is read, whatever is asked for. Each file is asked for at every place where it may lie, so some are always
    // missing: tar fails, and names them.
    let spellings = |file: &str| ["", "./", "rootfs/", "./rootfs/"].map(|place| format!("{place}{file}"));
    let wanted = image::NEEDED.into_iter().chain(image::AGENTS).chain(image::INITS).chain([XSESSION]).chain(PRIVILEGED);
    let members = wanted.flat_map(spellings);
    let list = Program::new("tar").args(["--list", "--force-local", "--file"]).args([path]).args(members).limit(LIMIT);
    let said = match list.run().await {
        Ok(output) => output.stderr,
        Err(error) if error.stderr().is_empty() => return found.problems.push(error.to_string()),
        Err(error) => error.stderr().to_owned(),
    };
    let (absent, rest): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.ends_with(NOT_FOUND));
    if let Some(damage) = image::verdict(&rest.join("\n")) {
        return found.problems.push(format!("it is damaged: {damage}"));
    }
    let lacks =
        |file: &str| spellings(file).iter().all(|name| absent.contains(&format!("tar: {name}{NOT_FOUND}").as_str()));
    let brought = |files: &[&'static str]| files.iter().copied().find(|file| !lacks(file));
    let powerless: Vec<&str> = PRIVILEGED.into_iter().filter(|file| !lacks(file)).collect();
    if !powerless.is_empty() {
        found.warnings.push(format!(
            "it has {}, which in containers do nothing for users unless vm.lxc.no_new_privs is 0",
            powerless.join(", ")
        ));
    }
    if let (Some(agent), Some(init)) = (brought(&image::AGENTS), brought(&image::INITS)) {
        return found.warnings.push(format!("it brings an agent, {agent}, so containers boot its own {init}"));
    }
    for missing in image::NEEDED.into_iter().filter(|file| lacks(file)) {
        found.problems.push(format!("it has no {missing}; install it (Debian: packages nxagent and xinit)"));
    }
    if lacks(XSESSION) {
        found.warnings.push(format!("it has no {XSESSION}, by which the agent starts desktops unless told otherwise"));
    }
}

async fn examine_disk(path: &Path, head: &[u8], found: &mut Examination) {
    found.problems.extend(
        Qcow2::read(head)
            .map_or_else(|| vec!["its header is cut off".to_owned()], |header| header.problems(found.size)),
    );
    found.warnings.push("it is a disk for KVM guests, so containers cannot start from it".to_owned());
    if !found.problems.is_empty() {
        return;
    }
    // It names no other file, so nothing but itself is opened.
    let check = Program::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).args([path]).limit(LIMIT);
    match check.run().await {
        Ok(_) => {}
        Err(error) if error.is_missing() => {
            found.warnings.push("qemu-img is not installed here, so only its header was looked at".to_owned());
        }
        Err(ProcessError::Failed { status, .. }) if status.code() == Some(LEAKED) => {
            found.warnings.push("it holds space that nothing uses; qemu-img check -r leaks frees it".to_owned());
        }
        Err(error) => found.problems.push(format!("it is damaged: {error}")),
    }
}

/// The header of a disk, as <https://www.qemu.org/docs/master/interop/qcow2.html> has it.
struct Qcow2 {
    version: u32,
    backing_file: u64,
    cluster_bits: u32,
    virtual_size: u64,
    encryption: u32,
    tables: [u64; 2],
    incompatible: u64,
}

impl Qcow2 {
    fn read(head: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_be_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let version = word(4)?;
        Some(Self {
            version,
            backing_file: long(8)?,
            cluster_bits: word(20)?,
            virtual_size: long(24)?,
            encryption: word(32)?,
            tables: [long(40)?, long(48)?],
            incompatible: if version >= 3 { long(72)? } else { 0 },
        })
    }

    fn problems(&self, size: u64) -> Vec<String> {
        const CORRUPT: u64 = 1 << 1;
        const DATA_ELSEWHERE: u64 = 1 << 2;
        let wrong = [
            (!(2..=3).contains(&self.version), format!("it is qcow2 of version {}, not 2 or 3", self.version)),
            // Whatever file of the node it names would be shown to the guest.
            (self.backing_file != 0, "it is a layer over another file; qemu-img convert makes it whole".to_owned()),
            (self.incompatible & DATA_ELSEWHERE != 0, "its data lie in another file".to_owned()),
            (self.encryption != 0, "it is encrypted".to_owned()),
            (self.incompatible & CORRUPT != 0, "it is marked as corrupt; see qemu-img check".to_owned()),
            (self.virtual_size == 0, "it has no room".to_owned()),
            (
                !(9..=21).contains(&self.cluster_bits) || self.tables.iter().any(|at| *at >= size),
                "it is damaged or cut off".to_owned(),
            ),
        ];
        wrong.into_iter().filter(|(wrong, _)| *wrong).map(|(_, sentence)| sentence).collect()
    }
}

const XSESSION: &str = "etc/X11/Xsession";
/// What is good for nothing without set-user-id, and not in every image.
const PRIVILEGED: [&str; 5] =
    ["usr/bin/sudo", "usr/bin/doas", "usr/bin/pkexec", "usr/bin/fusermount", "usr/bin/fusermount3"];
/// How tar ends the line about a file that it was asked for.
const NOT_FOUND: &str = ": Not found in archive";
/// Exit status of `qemu-img check` for space that is lost and nothing worse.
const LEAKED: i32 = 3;

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    fn packed(dir: &Path, name: &str, files: &[&str], option: &str) -> std::path::PathBuf {
        let tree = dir.join(format!("tree-{name}"));
        for file in files {
            let file = tree.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "program").unwrap();
        }
        let archive = dir.join(name);
        let made = Command::new("tar").arg(option).arg("-cf").arg(&archive).arg("-C").arg(&tree).arg(".").status();
        assert!(made.unwrap().success());
        archive
    }

    async fn problems(path: &Path) -> String {
        examine(path).await.unwrap().problems.join("; ")
    }

    #[tokio::test]
    async fn a_desktop_will_do_however_it_is_packed_and_wherever_it_lies_in_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let options = [
            ("-v", Kind::Tar),
            ("-z", Kind::TarGz),
            ("-j", Kind::TarBz2),
            ("-J", Kind::TarXz),
            ("--zstd", Kind::TarZst),
        ];
        for (option, kind) in options {
            for below in ["", "rootfs/"] {
                let files = ["usr/bin/nxagent", "usr/bin/xinit", XSESSION].map(|file| format!("{below}{file}"));
                let files = files.each_ref().map(String::as_str);
                let found =
                    examine(&packed(dir.path(), &format!("{kind}{}", below.len()), &files, option)).await.unwrap();
                assert_eq!((found.kind, found.problems, found.warnings), (Some(kind), vec![], vec![]));
            }
        }
    }

    #[tokio::test]
    async fn an_archive_that_is_cut_off_will_not_do_wherever_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        for option in ["-v", "-z", "-j", "-J", "--zstd"] {
            let archive = packed(dir.path(), &format!("desk{option}"), &["usr/bin/nxagent", "usr/bin/xinit"], option);
            let whole = fs::read(&archive).unwrap();
            // What follows the two blocks of zeros that end an archive may be missing.
            let end = if option == "-v" { 3584 } else { whole.len() - 1 };
            for length in [end, end / 2, end / 3] {
                fs::write(&archive, &whole[..length]).unwrap();
                assert_ne!(problems(&archive).await, "", "{option} cut to {length} of {}", whole.len());
            }
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_named_and_what_may_surprise_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let found = examine(&packed(dir.path(), "bare.tar", &["usr/bin/xinit"], "-v")).await.unwrap();
        assert_eq!(found.problems.len(), 1);
        assert!(found.problems[0].contains("usr/bin/nxagent") && found.warnings[0].contains(XSESSION), "{found:?}");
        let classic = packed(dir.path(), "classic.tar", &["rootfs/sbin/init", "rootfs/usr/lib/qvd/bin/qvd-vma"], "-v");
        let found = examine(&classic).await.unwrap();
        assert_eq!(found.problems, Vec::<String>::new());
        assert!(found.warnings[0].contains("boot its own sbin/init"), "{found:?}");
        let files = ["usr/bin/nxagent", "usr/bin/xinit", XSESSION, "usr/bin/sudo", "usr/bin/fusermount3"];
        let found = examine(&packed(dir.path(), "admin.tar", &files, "-v")).await.unwrap();
        assert_eq!(found.problems, Vec::<String>::new());
        assert!(
            found.warnings[0].starts_with("it has usr/bin/sudo, usr/bin/fusermount3, which in containers"),
            "{found:?}"
        );
        fs::write(dir.path().join("empty"), "").unwrap();
        assert_eq!(problems(&dir.path().join("empty")).await, "it is empty");
        assert!(examine(&dir.path().join("absent")).await.is_err());
    }

    /// A disk as far as its header.
    fn disk(change: impl FnOnce(&mut [u8])) -> Qcow2 {
        let mut head = vec![0; HEAD];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        head[23] = 16;
        head[28] = 1;
        head[46] = 1;
        head[54] = 2;
        change(&mut head);
        Qcow2::read(&head).unwrap()
    }

    #[test]
    fn a_disk_that_would_read_another_file_or_none_will_not_do() {
        let size = 1 << 20;
        assert_eq!(disk(|_| ()).problems(size), Vec::<String>::new());
        let changes: [(&str, usize, u8); 7] = [
            ("version", 7, 9),
            ("a layer over another file", 15, 1),
            ("data lie in another file", 79, 4),
            ("encrypted", 35, 1),
            ("corrupt", 79, 2),
            ("no room", 28, 0),
            ("cut off", 40, 1),
        ];
        for (why, at, value) in changes {
            let found = disk(|head| head[at] = value).problems(size);
            assert!(found.len() == 1 && found[0].contains(why), "{why}: {found:?}");
        }
        assert!(Qcow2::read(b"QFI\xfb\0\0\0\x03").is_none());
    }
}
