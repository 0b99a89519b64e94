//! A few numbers in a file that several processes map, so that each sees at once what another wrote, without a call that
//! could wait.
#![allow(unsafe_code, reason = "mmap has no safe form")]

use std::{
    fs::{File, OpenOptions},
    io,
    num::NonZeroUsize,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// `N` numbers, mapped for as long as this lives.
#[derive(Debug)]
pub struct SharedWords<const N: usize> {
    base: NonNull<AtomicU64>,
}

impl<const N: usize> SharedWords<N> {
    const BYTES: NonZeroUsize = NonZeroUsize::new(N * size_of::<AtomicU64>()).expect("words are wanted");

    /// Maps the file for reading and writing, made with zeroes when it is missing. It must never be made shorter.
    pub fn writable(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() < Self::BYTES.get() as u64 {
            file.set_len(Self::BYTES.get() as u64)?;
        }
        Self::map(&file, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// Maps a file that is there. The numbers must not be written.
    pub fn readable(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() < Self::BYTES.get() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::map(&file, ProtFlags::PROT_READ)
    }

    /// Numbers in no file, which only this process sees.
    #[cfg(test)]
    pub fn in_memory() -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the place.
        let base = unsafe { nix::sys::mman::mmap_anonymous(None, Self::BYTES, protection, MapFlags::MAP_PRIVATE) }?;
        Ok(Self { base: base.cast() })
    }

    fn map(file: &File, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses the place, and the file is as long as the mapping.
        let base = unsafe { mmap(None, Self::BYTES, protection, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { base: base.cast() })
    }

    /// The numbers.
    pub fn words(&self) -> &[AtomicU64; N] {
        // SAFETY: the mapping is page-aligned, long enough, lives as long as `self`, and is only touched atomically.
        unsafe { self.base.cast().as_ref() }
    }
}

impl<const N: usize> Drop for SharedWords<N> {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length and nothing refers to it any more.
        let _ = unsafe { munmap(self.base.cast(), Self::BYTES.get()) };
    }
}

// SAFETY: atomic numbers may be used from any thread, and the mapping belongs to the process.
unsafe impl<const N: usize> Send for SharedWords<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for SharedWords<N> {}
