//! What every TCP socket of a tunnel is set to: keystrokes leave at once, and a peer that vanished without a word is
//! noticed.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence after which the peer is asked whether it still lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Pause between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long sent bytes, or questions, may stay without an answer. The kernel then ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Sets `TCP_NODELAY`, keepalive and, where the system has it, `TCP_USER_TIMEOUT`.
///
/// # Errors
/// Fails when the peer is gone already.
pub fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::testing::tcp_pair;

    #[tokio::test]
    async fn keystrokes_leave_at_once_and_a_dead_peer_is_noticed_within_a_minute_or_so() {
        let (near, far) = tcp_pair().await;
        near.set_nodelay(false).unwrap();
        tune(&near).unwrap();
        let socket = SockRef::from(&near);
        assert!(near.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        drop(far);
    }
}
