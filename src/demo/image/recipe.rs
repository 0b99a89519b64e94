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

const JWM: &str = "jwm";

/// What is to be built. The default is the demo's desktop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    window_manager: Option<PackageName>,
    packages: Vec<PackageName>,
    epoch: Option<u64>,
}

impl Recipe {
    /// With this window manager, which is started as Debian's alternative `x-window-manager`.
    pub fn window_manager(mut self, package: PackageName) -> Self {
        self.window_manager = (package.0 != JWM).then_some(package);
        self
    }

    /// With more packages.
    pub fn packages(mut self, packages: Vec<PackageName>) -> Self {
        self.packages = packages;
        self.packages.sort();
        self.packages.dedup();
        self
    }

    /// No file is younger than this, in seconds since 1970, and nothing depends on when the image is built.
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = Some(epoch);
        self
    }

    fn all_packages(&self) -> Vec<&str> {
        let manager = self.window_manager.as_ref().map_or(JWM, |package| &package.0);
        let usual = PACKAGES.iter().map(|package| if *package == JWM { manager } else { package });
        usual.chain(self.packages.iter().map(|package| package.0.as_str())).collect()
    }
}

/// The name of a Debian package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageName(String);

/// No package has such a name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no name of a Debian package: small letters, digits and +-. after a letter or digit")]
pub struct NoPackage(String);

impl std::str::FromStr for PackageName {
    type Err = NoPackage;

    fn from_str(name: &str) -> Result<Self, NoPackage> {
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        match begins && name.len() >= 2 && name.chars().all(harmless) {
            true => Ok(Self(name.to_owned())),
            false => Err(NoPackage(name.to_owned())),
        }
    }
}

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
    JWM,
    "xterm",
    // Shows the desktop to administrators.
    "x11vnc",
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
pub fn file_name(system: &System, recipe: &Recipe) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(&VERSION.to_le_bytes());
    for part in recipe.all_packages().iter().chain(&LEFT_OUT) {
        add(part.as_bytes());
    }
    for file in root::FILES {
        add(file.path.as_bytes());
        add(file.text.as_bytes());
    }
    if let Some(epoch) = recipe.epoch {
        add(&epoch.to_le_bytes());
    }
    let hash: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let System { release, architecture } = system;
    format!("desktop-{release}-{architecture}-{hash}.tar.zst")
}

/// Installs the packages into `root`. Mounts and processes live in namespaces that end with the command.
pub fn install(system: &System, recipe: &Recipe, mirror: &Mirror, root: &Path) -> Command {
    let mut command = builder("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "mmdebstrap"]);
    command.args(["--mode=root", "--variant=minbase", "--format=directory", "--verbose"]);
    command.arg(format!("--include={}", recipe.all_packages().join(",")));
    // What is lost in a power cut is thrown away anyhow.
    command.arg("--dpkgopt=force-unsafe-io");
    command.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    command.arg("--aptopt=Acquire::Languages \"none\"");
    command.args(mirror.settings.iter().map(|setting| format!("--aptopt={}", setting.trim_end_matches(';'))));
    if Path::new(MERGED_USR).is_dir() {
        command.arg(format!("--hook-dir={MERGED_USR}"));
    }
    // Programs that write dates into files ask this for them.
    command.envs(recipe.epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch.to_string())));
    command.arg(&system.release).arg(root).args(&mirror.sources);
    command
}

/// Packs `root` into one file.
pub fn pack(recipe: &Recipe, root: &Path, image: &Path) -> Command {
    let mut command = builder("tar");
    if let Some(epoch) = recipe.epoch {
        command.arg(format!("--mtime=@{epoch}")).arg("--clamp-mtime");
    }
    // Neither when files were looked at nor which process packed them.
    command.arg("--format=posix").arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime");
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
        let name = file_name(&system, &Recipe::default());
        assert_eq!(name, file_name(&system, &Recipe::default()));
        assert!(name.starts_with("desktop-trixie-amd64-") && name.ends_with(".tar.zst"), "{name}");
        assert_eq!(name.len(), "desktop-trixie-amd64-.tar.zst".len() + 12);
    }

    #[test]
    fn what_is_built_differently_has_another_name() {
        let system = System { release: "trixie".to_owned(), architecture: "amd64".to_owned() };
        let package = |name: &str| name.parse::<PackageName>().unwrap();
        let recipes = [
            Recipe::default(),
            Recipe::default().window_manager(package("icewm")),
            Recipe::default().packages(vec![package("nano")]),
            Recipe::default().epoch(0),
        ];
        let names: std::collections::BTreeSet<_> = recipes.iter().map(|recipe| file_name(&system, recipe)).collect();
        assert_eq!(names.len(), recipes.len());
        let swapped = |names: [&str; 2]| Recipe::default().packages(names.map(package).to_vec());
        assert_eq!(swapped(["nano", "mc"]), swapped(["mc", "nano"]), "the order is not part of it");
    }

    #[test]
    fn what_could_be_an_option_or_a_path_is_no_package() {
        for name in ["", "a", "-o", "a b", "a,b", "../x", "Nano", "?essential", "a=1"] {
            assert!(name.parse::<PackageName>().is_err(), "{name}");
        }
    }

    #[test]
    fn the_stages_take_all_of_the_time() {
        assert_eq!(STAGES.iter().map(|(_, share)| share).sum::<u8>(), 100);
    }
}
