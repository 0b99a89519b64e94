//! What checking passwords takes, 19 MiB a thread, goes back to the system as soon as it is freed: one call of the C
//! library that no crate of ours wraps. Left alone, its allocator learns from the first such block to keep the next ones in a heap,
//! where smaller blocks soon lie between them, and every login takes 19 MiB more.
#![allow(unsafe_code)]

/// Blocks of this size or more, in bytes, are mapped by themselves.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 1 << 20;

/// Has large blocks mapped by themselves from now on, so that nothing is left of them when they are freed.
pub fn give_large_blocks_back() {
    // SAFETY: the call takes two integers and changes a setting of the allocator.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE);
    }
}
