//! Volumes of a VM: files with a file system in them, mounted where only the shim and what it starts see them. They end with the
//! last of those, so nobody has to unmount what a dead shim left. A mounted volume has the lock of its file, until the last
//! byte is written: the loop device has the open file, and with it the lock.
#![allow(unsafe_code, reason = "the control calls of loop devices and of ext4 have no safe form")]

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
};
use serde::{Deserialize, Serialize};

use super::root;

/// How long what an earlier run of the VM wrote may take to reach the file; less than whoever starts the shim waits.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
/// Until a file system is told to write nothing more. That it then waits for its storage matters to nobody.
const SHUT_DOWN_WITHIN: Duration = Duration::from_millis(500);
/// How often another may be given the loop device that was free.
const RACES: u32 = 100;

/// A volume and the directory that it is mounted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The file, which holds an ext4 file system.
    pub file: PathBuf,
    /// The directory.
    pub at: PathBuf,
}

/// Volumes that are mounted, from their VM's start until what it wrote is in their files.
#[derive(Debug)]
pub struct Volumes {
    at: Vec<PathBuf>,
    unmounting: Option<JoinHandle<io::Result<()>>>,
    /// Since when nothing more is to be written, and who sees to it.
    forsaken: Option<(Instant, io::Result<JoinHandle<()>>)>,
}

impl Volumes {
    /// Mounts them. From here on the process sees mounts of its own, if there are any to be mounted; those that the node
    /// makes later still appear.
    pub fn mount(volumes: &[Volume]) -> io::Result<Self> {
        if !volumes.is_empty() {
            root::see_own_mounts()?;
        }
        for volume in volumes {
            volume
                .mount()
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", volume.file.display())))?;
        }
        Ok(Self { at: volumes.iter().map(|volume| volume.at.clone()).collect(), unmounting: None, forsaken: None })
    }

    /// Whether all that was written is in the files, once nobody writes any more; begins to see to that when it is asked first.
    /// `None`: not yet. A storage that hangs holds up nobody here. When it was forsaken, whether that has been seen to: this
    /// process must not end before, since the kernel would write out what it unmounts.
    pub fn are_written(&mut self) -> Option<io::Result<()>> {
        if let Some((since, shutting_down)) = &self.forsaken {
            let is_over =
                shutting_down.as_ref().map_or(true, JoinHandle::is_finished) || since.elapsed() > SHUT_DOWN_WITHIN;
            return is_over.then_some(Ok(()));
        }
        let at = std::mem::take(&mut self.at);
        if at.is_empty() && self.unmounting.is_none() {
            return Some(Ok(()));
        }
        if !at.is_empty() {
            match thread::Builder::new().spawn(move || unmount(&at)) {
                Ok(unmounting) => self.unmounting = Some(unmounting),
                Err(error) => return Some(Err(error)),
            }
        }
        let unmounting = self.unmounting.take_if(|thread| thread.is_finished())?;
        Some(unmounting.join().unwrap_or_else(|_| Err(io::Error::other("a thread died"))))
    }

    /// Lets nothing be written any more that is not on its way yet: others may use the files from now on. What the file
    /// systems were about to say they make good at their next mount, as after a loss of power.
    pub fn forsake(&mut self) {
        if self.forsaken.is_none() {
            let at = self.at.clone();
            // The storage may be what hangs.
            let shut_down = move || at.iter().for_each(|at| drop(shut_down(at)));
            self.forsaken = Some((Instant::now(), thread::Builder::new().spawn(shut_down)));
        }
    }
}

impl Drop for Volumes {
    /// A VM that did not get started; there is nobody to tell of a failure.
    fn drop(&mut self) {
        if self.forsaken.is_none() && !self.at.is_empty() {
            let _ = unmount(&self.at);
        }
    }
}

fn unmount(at: &[PathBuf]) -> io::Result<()> {
    root::let_go();
    at.iter().rev().try_for_each(|at| Ok(umount2(at, MntFlags::UMOUNT_NOFOLLOW)?))
}

impl Volume {
    fn mount(&self) -> io::Result<()> {
        let device = attach(&locked(&self.file)?)?;
        fs::create_dir_all(&self.at)?;
        let options = Some("errors=remount-ro,discard");
        mount(Some(&device.path), &self.at, Some("ext4"), MsFlags::empty(), options).map_err(|error| {
            let what = format!("{}; see what e2fsck -n says", error.desc());
            io::Error::new(io::Error::from(error).kind(), what)
        })?;
        // Nobody misses it, and users would wonder.
        let _ = fs::remove_dir(self.at.join("lost+found"));
        Ok(())
    }
}

/// The file, with its lock. Whoever had it mounted before may still be writing.
fn locked(path: &PathBuf) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begin.elapsed() < WRITTEN_WITHIN => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "somebody still writes to it"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// A loop device, which frees itself when it is neither open nor mounted.
struct LoopDevice {
    path: PathBuf,
    _open: File,
}

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    unused: [u64; 5],
    number: u32,
    unused_too: [u32; 2],
    flags: u32,
    file_name: [u8; 64],
    rest: [u8; 64 + 32 + 16],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Past the page cache of the machine: what is in the volume is cached by its own file system already.
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// `_IOR('X', 125, __u32)`, and that not even the journal is to be written.
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587D;
const NOT_EVEN_THE_JOURNAL: u32 = 2;

fn attach(file: &File) -> io::Result<LoopDevice> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(|error| {
        io::Error::new(error.kind(), format!("a volume needs loop devices, and /dev/loop-control says: {error}"))
    })?;
    for _ in 0..RACES {
        // SAFETY: the call takes no argument.
        let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(true).open(&path)?;
        let info = LoopInfo {
            unused: [0; 5],
            number: 0,
            unused_too: [0; 2],
            flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
            file_name: [0; 64],
            rest: [0; 112],
        };
        let config = LoopConfig { fd: file.as_raw_fd().cast_unsigned(), block_size: 0, info, reserved: [0; 8] };
        match control_call(device.as_raw_fd(), LOOP_CONFIGURE, &config) {
            Ok(()) => return Ok(LoopDevice { path, _open: device }),
            // Somebody was quicker.
            Err(Errno::EBUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "every loop device is taken at once"))
}

fn shut_down(at: &PathBuf) -> io::Result<()> {
    Ok(control_call(File::open(at)?.as_raw_fd(), EXT4_IOC_SHUTDOWN, &NOT_EVEN_THE_JOURNAL)?)
}

fn control_call<T>(fd: RawFd, call: libc::Ioctl, argument: &T) -> Result<(), Errno> {
    // SAFETY: each of the calls above reads an argument of exactly the type that it is given here, and keeps none.
    Errno::result(unsafe { libc::ioctl(fd, call, &raw const *argument) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_is_given_has_the_kernels_sizes() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
