//! The server's side of TLS without a buffer of its own while nothing moves: rustls' unbuffered interface over
//! borrowed space. Records are decrypted where they were received; what is sent costs the copies that rustls makes and
//! no other. Key updates, alerts and fragments are rustls' business. The client's side is `tokio_rustls`.

mod handshake;
mod relay;
mod session;
mod stream;
#[cfg(test)]
mod tests;

pub use handshake::{AcceptError, accept, accept_with};
pub(super) use relay::carry;
pub use stream::TlsStream;
