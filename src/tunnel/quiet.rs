//! A socket that is not to be read for now, and does not wake anybody either. Whoever reports events at their edges, as
//! the runtime does, reports each segment that comes in, also to one who waits for something else: to a tunnel whose
//! sink takes nothing, as often as the source sends.

use nix::{
    libc, setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt::SetUsize},
};
use socket2::SockRef;
use tokio::net::TcpStream;

sockopt_impl!(
    /// Bytes that must be there before a socket counts as readable (socket(7)). Its end, and failures, count always.
    LowWater,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    usize,
    SetUsize
);

/// While this lives, nothing is heard of a socket until its space is half full, except that it has ended or failed.
#[derive(Debug)]
pub struct Quiet<'a>(&'a TcpStream);

impl<'a> Quiet<'a> {
    /// Of half of the space, because the kernel gives a socket more space when it is asked to wait for more.
    pub fn new(socket: &'a TcpStream) -> Self {
        if let Ok(space) = SockRef::from(socket).recv_buffer_size() {
            // Without it, there are wake-ups for nothing, and that is all.
            let _ = setsockopt(socket, LowWater, &(space / 2));
        }
        Self(socket)
    }
}

impl Drop for Quiet<'_> {
    /// What has come meanwhile is reported by the kernel now.
    fn drop(&mut self) {
        let _ = setsockopt(self.0, LowWater, &1);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::{AsFd, AsRawFd},
        time::Duration,
    };

    use nix::{
        poll::{PollFd, PollFlags, PollTimeout, poll},
        sys::socket::{MsgFlags, recv},
    };
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::tunnel::testing::{soon, tcp_pair};

    fn space(socket: &TcpStream) -> usize {
        SockRef::from(socket).recv_buffer_size().unwrap()
    }

    fn is_reported(socket: &TcpStream) -> bool {
        let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut asked, PollTimeout::ZERO).unwrap() > 0
    }

    /// Waits until so many bytes are there, or none will come any more.
    async fn arrived(socket: &TcpStream, bytes: usize) {
        let mut seen = vec![0; bytes.max(1)];
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        soon(async {
            while recv(socket.as_raw_fd(), &mut seen, look) != Ok(bytes) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn of_a_quiet_socket_nothing_is_heard_until_it_is_half_full_and_afterwards_what_has_come() {
        let (near, mut far) = tcp_pair().await;
        let before = space(&near);
        let quiet = Quiet::new(&near);
        far.write_all(b"key").await.unwrap();
        arrived(&near, 3).await;
        assert!(!is_reported(&near));
        assert_eq!(space(&near), before, "it was given more space");
        drop(quiet);
        assert!(is_reported(&near));

        let quiet = Quiet::new(&near);
        soon(async {
            while !is_reported(&near) {
                far.write_all(&[7; 16 * 1024]).await.unwrap();
            }
        })
        .await;
        drop(quiet);
    }

    #[tokio::test]
    async fn the_end_of_a_quiet_socket_is_heard() {
        let (near, far) = tcp_pair().await;
        let _quiet = Quiet::new(&near);
        drop(far);
        arrived(&near, 0).await;
        assert!(is_reported(&near));
    }
}
