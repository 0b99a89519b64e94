//! Whether this node must leave its storage alone: VMs were ended here because others may have started them, and what their
//! writes left in the machine's memory may still be on its way. It lasts until the storage was mounted anew, or the machine
//! started anew. Shims impose it; hkd and keeper mind it. How the storage is mounted is not known here.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::process_table;

/// A file below `path.run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine(PathBuf);

impl Quarantine {
    /// That of the node with this `path.run`, in this boot of its machine.
    pub fn of_node(run: &Path) -> io::Result<Self> {
        Ok(Self(run.join(format!("fenced.{}", process_table::boot_id()?))))
    }

    /// The file, for those who are told to remove it.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// From now on the storage is not to be used.
    pub fn impose(&self) -> io::Result<()> {
        fs::write(&self.0, "VMs were ended here because others may have started them\n")
    }

    /// Whether the storage is not to be used.
    pub fn is_imposed(&self) -> bool {
        self.0.exists()
    }

    /// The storage was mounted anew.
    pub fn lift(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_until_it_is_lifted() {
        let run = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::of_node(run.path()).unwrap();
        assert!(!quarantine.is_imposed());
        quarantine.impose().unwrap();
        assert!(Quarantine::of_node(run.path()).unwrap().is_imposed());
        quarantine.lift().unwrap();
        quarantine.lift().unwrap();
        assert!(!quarantine.is_imposed());
    }
}
