//! Finds PostgreSQL's programs, which the distribution keeps off the search path, one directory for each version.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::ClusterError;

const ROOT: &str = "/usr/lib/postgresql";

/// The programs of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// The version that made `data_dir`; for a directory that is still to be made, the newest.
    pub fn for_directory(data_dir: &Path) -> Result<Self, ClusterError> {
        let version = fs::read_to_string(data_dir.join("PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
        Self::below(Path::new(ROOT), data_dir, version)
    }

    fn below(root: &Path, data_dir: &Path, version: Option<u32>) -> Result<Self, ClusterError> {
        let found = match version {
            Some(version) => Some(version).filter(|version| is_complete(&bin(root, *version))),
            None => newest(root),
        };
        match (found, version) {
            (Some(found), _) => Ok(Self { dir: bin(root, found) }),
            (None, Some(version)) => Err(ClusterError::OtherVersion { path: data_dir.to_owned(), version }),
            (None, None) => Err(ClusterError::NotInstalled { root: root.to_owned() }),
        }
    }

    /// The path of one program.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn newest(root: &Path) -> Option<u32> {
    let entries = fs::read_dir(root).ok()?.flatten();
    let versions = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    versions.filter(|version| is_complete(&bin(root, *version))).max()
}

fn bin(root: &Path, version: u32) -> PathBuf {
    root.join(version.to_string()).join("bin")
}

/// The client package alone has the same directory, without a server in it.
fn is_complete(bin: &Path) -> bool {
    ["postgres", "initdb"].iter().all(|name| bin.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine_with(versions: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for version in versions {
            let bin = root.path().join(version).join("bin");
            fs::create_dir_all(&bin).unwrap();
            for program in ["postgres", "initdb"] {
                fs::write(bin.join(program), "").unwrap();
            }
        }
        root
    }

    #[test]
    fn the_newest_version_is_the_greatest_number_not_the_last_word() {
        let root = machine_with(&["9", "15", "17", "common"]);
        let binaries = Binaries::below(root.path(), Path::new("/d"), None).unwrap();
        assert_eq!(binaries.path("psql"), root.path().join("17/bin/psql"));
    }

    #[test]
    fn a_directory_is_served_by_the_version_that_made_it() {
        let root = machine_with(&["15", "17"]);
        let binaries = Binaries::below(root.path(), Path::new("/d"), Some(15)).unwrap();
        assert_eq!(binaries.path("psql"), root.path().join("15/bin/psql"));
        let error = Binaries::below(root.path(), Path::new("/d"), Some(16)).unwrap_err();
        assert!(error.to_string().contains("install package postgresql-16"), "{error}");
    }

    #[test]
    fn a_machine_with_clients_only_has_no_postgresql() {
        let root = machine_with(&[]);
        fs::create_dir_all(root.path().join("15/bin")).unwrap();
        let error = Binaries::below(root.path(), Path::new("/d"), None).unwrap_err();
        assert!(error.to_string().contains("install package postgresql"), "{error}");
    }
}
