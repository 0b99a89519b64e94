//! What a file or a tree takes of the disk.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::Progress;

/// What the kernel counts blocks in, whatever the file system's are.
const BLOCK: u64 = 512;
/// How many files are looked at between two words about it.
const OFTEN: u32 = 1000;

/// Bytes on disk. What vanishes meanwhile, or cannot be read, takes none.
pub fn on_disk(path: &Path, progress: Progress<'_>) -> u64 {
    let (mut bytes, mut seen, mut left) = (0, 0_u32, vec![path.to_owned()]);
    progress(path, bytes);
    while let Some(next) = left.pop() {
        let Ok(found) = fs::symlink_metadata(&next) else { continue };
        bytes += found.blocks() * BLOCK;
        seen = seen.wrapping_add(1);
        if seen.is_multiple_of(OFTEN) {
            progress(path, bytes);
        }
        if found.is_dir() {
            left.extend(fs::read_dir(&next).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    bytes
}
