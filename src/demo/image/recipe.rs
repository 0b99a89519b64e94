//! What the desktop image is made of and how: the packages, the commands, the name of the result.

use std::{path::Path, process::Command};

use sha2::{Digest, Sha256};

use super::{
    builder,
    machine::{Mirror, System},
    progress::Stage,
    root,
};

/// To be raised when the image changes for a reason that the hash does not see.
const VERSION: u32 = 1;

/// A desktop that looks like one and is small: window manager with task bar and menu, terminal, process viewer.
const PACKAGES: &[&str] = &[
    // The X server of the session and what starts it.
    "nxagent",
    "x11-common",
    "xauth",
    "xinit",
    // nxagent asks for the fonts `fixed` and `cursor`; everything else is drawn with DejaVu.
    "fonts-dejavu-core",
    "xfonts-base",
    // What the user sees.
    "htop",
    "jwm",
    "xterm",
    // What the agent and the user work with.
    "iproute2",
    "passwd",
    "procps",
    // Keeps Perl, half as large as all the rest, out of the image.
    "usr-is-merged",
];

/// Not needed on a screen, and much work to unpack.
const LEFT_OUT: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// The stages in order and their usual share of the time, in percent.
pub const STAGES: &[(Stage, u8)] = &[
    (Stage::Waiting, 0),
    (Stage::Lists, 10),
    (Stage::Fetching, 5),
    (Stage::Unpacking, 25),
    (Stage::Installing, 50),
    (Stage::Furnishing, 3),
    (Stage::Packing, 7),
    (Stage::Done, 0),
];

/// The file name of the image that this recipe makes; another recipe has another name.
pub fn file_name(system: &System) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(&VERSION.to_le_bytes());
    for part in PACKAGES.iter().chain(&LEFT_OUT) {
        add(part.as_bytes());
    }
    for file in root::FILES {
        add(file.path.as_bytes());
        add(file.text.as_bytes());
    }
    let hash: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let System { release, architecture } = system;
    format!("desktop-{release}-{architecture}-{hash}.tar.zst")
}

/// Installs the packages into `root`. Mounts and processes live in namespaces that end with the command.
pub fn install(system: &System, mirror: &Mirror, root: &Path) -> Command {
    let mut command = builder("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "mmdebstrap"]);
    command.args(["--mode=root", "--variant=minbase", "--format=directory", "--verbose"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    // What is lost in a power cut is thrown away anyhow.
    command.arg("--dpkgopt=force-unsafe-io");
    command.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    command.arg("--aptopt=Acquire::Languages \"none\"");
    command.args(mirror.settings.iter().map(|setting| format!("--aptopt={}", setting.trim_end_matches(';'))));
    if Path::new(MERGED_USR).is_dir() {
        command.arg(format!("--hook-dir={MERGED_USR}"));
    }
    command.arg(&system.release).arg(root).args(&mirror.sources);
    command
}

/// Packs `root` into one file.
pub fn pack(root: &Path, image: &Path) -> Command {
    let mut command = builder("tar");
    command.args(["--create", "--numeric-owner", "--sort=name", "--xattrs", "--use-compress-program=zstd -3 -T2"]);
    command.arg("--file").arg(image).arg("--directory").arg(root).arg(".");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_release_architecture_and_recipe() {
        let system = System { release: "trixie".to_owned(), architecture: "amd64".to_owned() };
        let name = file_name(&system);
        assert_eq!(name, file_name(&system));
        assert!(name.starts_with("desktop-trixie-amd64-") && name.ends_with(".tar.zst"), "{name}");
        assert_eq!(name.len(), "desktop-trixie-amd64-.tar.zst".len() + 12);
    }

    #[test]
    fn the_stages_take_all_of_the_time() {
        assert_eq!(STAGES.iter().map(|(_, share)| share).sum::<u8>(), 100);
    }
}
