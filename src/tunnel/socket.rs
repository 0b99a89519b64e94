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
