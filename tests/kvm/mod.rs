//! Real QEMU guests, emulated: from start to the last trace, with a disk of nothing where no system is needed. A whole
//! desktop in one is in `desktop`.

mod booted;
mod disk;
mod guests;
mod node;

pub use disk::desktop_disk;
