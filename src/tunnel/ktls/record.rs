//! Single records of a connection whose TLS is in the kernel, by `recvmsg` and `sendmsg`, with their type in a control
//! message. What the types mean is for others to know, except for the goodbye, which is the same everywhere.

#![allow(unsafe_code, reason = "nix has no control message for the type of a record to be sent")]

use std::{
    io,
    io::IoSliceMut,
    mem,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, TlsGetRecordType, recvmsg},
};

/// Type of an alert.
pub const ALERT: u8 = 21;
/// Type of a message of the handshake, those after it included.
pub const HANDSHAKE: u8 = 22;
/// The alert that says goodbye.
pub const CLOSE_NOTIFY: &[u8] = &[1, 0];

/// A record that was received.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// What a tunnel is there for.
    Data(Vec<u8>),
    /// Level and description.
    Alert(Vec<u8>),
    /// One or more messages, or a part of one.
    Handshake(Vec<u8>),
    /// The connection has ended without a goodbye.
    End,
    /// Anything else.
    Other(String),
}

/// Takes the next record off a socket.
///
/// # Errors
/// `WouldBlock` when none has come.
pub fn receive(socket: &impl AsFd) -> io::Result<Record> {
    let mut body = vec![0; 16 * 1024];
    let mut control = nix::cmsg_space!(u8);
    let mut parts = [IoSliceMut::new(&mut body)];
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let read = message.bytes;
    let kind = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::TlsGetRecordType(kind) => Some(kind),
        _ => None,
    });
    body.truncate(read);
    Ok(match kind {
        None | Some(TlsGetRecordType::ApplicationData) if read == 0 => Record::End,
        None | Some(TlsGetRecordType::ApplicationData) => Record::Data(body),
        Some(TlsGetRecordType::Alert) => Record::Alert(body),
        Some(TlsGetRecordType::Handshake) => Record::Handshake(body),
        Some(kind) => Record::Other(format!("{kind:?}")),
    })
}

/// Room for one control message with one byte, aligned as its header wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends a record.
///
/// # Errors
/// `WouldBlock` when the kernel takes nothing now.
pub fn send(socket: &impl AsFd, kind: u8, body: &[u8]) -> io::Result<()> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: body.as_ptr().cast_mut().cast(), iov_len: body.len() };
    // SAFETY: all zeroes is a valid `msghdr`: no name, no parts, no control message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: these two only compute; `Control` has more room than a header and one byte need.
    let (space, length) = unsafe { (libc::CMSG_SPACE(1), libc::CMSG_LEN(1)) };
    message.msg_controllen = space as _;
    // SAFETY: `msg_control` points to `control`, which is aligned for a header, large enough, and outlives the call, so
    // the header and its one byte of data lie within it. `sendmsg` only reads what `part` points to, which `body`
    // keeps alive and initialised.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = length as _;
        ptr::write(libc::CMSG_DATA(header), kind);
        libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    Errno::result(sent)?;
    Ok(())
}
