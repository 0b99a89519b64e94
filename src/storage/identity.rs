//! Which storage this is. A share that is not mounted looks like an empty directory, and a node that took it for its
//! storage would start every desktop with an empty home.

use std::{fs, io, path::Path};

use super::{Storage, StorageError};
use crate::model::StorageId;

impl Storage {
    /// The identity that the root carries; `None` where there is none, which a share that is not mounted looks like.
    pub fn identity(&self) -> Result<Option<StorageId>, StorageError> {
        read_identity(&self.root).map_err(StorageError::file("read the identity of", &self.root))
    }

    /// The identity of the storage. `recorded` is the one that this node had before; without it, a storage that has none
    /// is given one, and one that has keeps its own.
    pub fn identify(&self, recorded: Option<&StorageId>) -> Result<StorageId, StorageError> {
        let root = &self.root;
        match (recorded, self.identity()?) {
            (Some(recorded), Some(found)) if *recorded == found => Ok(found),
            (Some(recorded), found) => {
                Err(StorageError::Identity { path: root.clone(), recorded: recorded.clone(), found })
            }
            (None, Some(found)) => Ok(found),
            (None, None) => {
                fs::create_dir_all(root).map_err(StorageError::file("make the directory", root))?;
                fresh()
                    .and_then(|fresh| give(&fresh, root))
                    .map_err(StorageError::file("write the identity of", root))?;
                // Another node may have been quicker.
                match self.identity()? {
                    Some(id) => Ok(id),
                    None => Err(StorageError::file("find the identity in", root)(io::ErrorKind::NotFound.into())),
                }
            }
        }
    }
}

fn read_identity(root: &Path) -> io::Result<Option<StorageId>> {
    match fs::read_to_string(root.join(StorageId::FILE)) {
        Ok(text) => text.trim().parse().map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn fresh() -> io::Result<StorageId> {
    fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().parse().map_err(io::Error::other)
}

/// Writes the identity where there is none. Whole or not at all: a link is made only while the name is free.
fn give(id: &StorageId, root: &Path) -> io::Result<()> {
    let unfinished = root.join(format!("{}.{id}", StorageId::FILE));
    fs::write(&unfinished, format!("{id}\n"))?;
    fs::File::open(&unfinished)?.sync_all()?;
    let linked = fs::hard_link(&unfinished, root.join(StorageId::FILE));
    fs::remove_file(&unfinished)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;

    fn storage(dir: &Path) -> Storage {
        let mut config = Config::default();
        config.set("path.storage.root", dir.join("root").to_str().unwrap()).unwrap();
        Storage::new(&config)
    }

    #[test]
    fn a_new_storage_gets_an_identity_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = storage(dir.path()).identify(None).unwrap();
        assert_eq!(storage(dir.path()).identify(None).unwrap(), first, "a second node finds the same");
        assert_eq!(storage(dir.path()).identify(Some(&first)).unwrap(), first);
        assert_eq!(fs::read_dir(dir.path().join("root")).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn an_empty_directory_is_not_taken_for_the_storage_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let recorded = storage(dir.path()).identify(None).unwrap();
        fs::remove_dir_all(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let error = storage(dir.path()).identify(Some(&recorded)).unwrap_err();
        assert!(matches!(&error, StorageError::Identity { found: None, .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path().join("root")).unwrap().count(), 0, "and it is left empty");
    }

    #[test]
    fn nodes_that_start_at_once_agree() {
        let dir = tempfile::tempdir().unwrap();
        let found: Vec<StorageId> = std::thread::scope(|scope| {
            let nodes: Vec<_> = (0..8).map(|_| scope.spawn(|| storage(dir.path()).identify(None).unwrap())).collect();
            nodes.into_iter().map(|node| node.join().unwrap()).collect()
        });
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
    }
}
