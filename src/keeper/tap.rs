//! The node's end of a guest's cable, for a command that may not make it itself. It goes when nobody has it open any more. See
//! <https://docs.kernel.org/networking/tuntap.html>
#![allow(unsafe_code, reason = "the control call of these devices has no safe form")]

use std::{fs::File, io, os::fd::AsRawFd};

use nix::{errno::Errno, libc};

const DEVICE: &str = "/dev/net/tun";

/// Makes the interface `name`. Frames are as on a cable, each behind a header with which the kernel leaves checksums and cutting
/// to others.
pub fn open(name: &str) -> io::Result<File> {
    let device = File::options().read(true).write(true).open(DEVICE)?;
    // SAFETY: all zeros are a value of this structure, which holds numbers alone.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // Room is left for the zero at the end.
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open, and the structure is the one that this call reads and writes.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(device)
}
