//! TLS whose keys are in the kernel: after the handshake, and when nothing is left to be sent, the session's secrets go
//! into the socket, and bytes are spliced as between plain sockets. Records that are not data are taken off by hand.
//! Whether the kernel can do it is tried at start, not read from its version. A failure on this way sends later
//! connections to user space; when it happens before the keys are given away, this connection, too.

mod keys;
mod record;
mod relay;
mod wear;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{SupportedCipherSuite, kernel::KernelConnection, server::ServerConnectionData};
use tokio::net::TcpStream;

pub(super) use relay::carry;
use wear::Wear;

use super::{buffers::Buffer, tls::TlsStream};

/// The switch of one listener: whether its connections may give their keys to the kernel.
#[derive(Debug)]
pub struct Kernel {
    on: AtomicBool,
    able: keys::Able,
}

impl Kernel {
    /// Tries on connections of its own what the kernel can do.
    ///
    /// # Errors
    /// Why it can do nothing of it.
    pub fn probe() -> io::Result<Arc<Self>> {
        let able = keys::probe()?;
        Ok(Arc::new(Self { on: AtomicBool::new(true), able }))
    }

    /// Whether new connections should prepare for it.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Whether it takes other keys on a living connection.
    pub fn follows_key_updates(&self) -> bool {
        self.able.other_keys
    }

    /// Whether it would take what was agreed with a client.
    pub(super) fn would_take(&self, suite: SupportedCipherSuite) -> bool {
        self.is_on() && self.able.supports(suite)
    }

    /// Later connections stay in user space. Said once.
    fn give_up(&self, doing: &str, error: &io::Error) {
        if self.on.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "{doing}: from now on TLS stays in user space");
        }
    }
}

/// A connection whose kernel has the keys.
pub struct KernelTls {
    tcp: TcpStream,
    /// Shared by both directions of the tunnel; nobody has it while waiting.
    keys: Mutex<Keys>,
    /// What was decrypted before.
    plain: Buffer,
    said_goodbye: bool,
    kernel: Arc<Kernel>,
}

/// What makes keys out of those in use, and how much these have encrypted.
struct Keys {
    session: KernelConnection<ServerConnectionData>,
    worn: Wear,
}

impl KernelTls {
    /// Gives the keys of a connection to the kernel. The connection comes back when it has to stay in user space.
    ///
    /// # Errors
    /// When the kernel takes the keys only in part: the connection is lost.
    pub fn new(stream: TlsStream) -> io::Result<Result<Self, TlsStream>> {
        let Some(kernel) = stream.kernel().filter(|kernel| kernel.is_on()).cloned() else { return Ok(Err(stream)) };
        let Some(suite) = stream.agreed().map(|(_, suite)| suite).filter(|suite| kernel.would_take(*suite)) else {
            return Ok(Err(stream));
        };
        if !stream.is_at_rest() {
            return Ok(Err(stream));
        }
        // With no keys the socket is one of plain TCP as before.
        if let Err(error) = keys::attach(stream.tcp()) {
            // A client that has closed its direction already is no failure of the kernel, which wants both open.
            if error.kind() != io::ErrorKind::NotConnected {
                kernel.give_up("TLS cannot be given to the kernel", &error);
            }
            return Ok(Err(stream));
        }
        let (tcp, session, plain) = stream.into_parts();
        let installed = session.into_secrets().map_err(io::Error::other).and_then(|(secrets, session)| {
            let version = session.protocol_version();
            let worn = Wear::of(suite, secrets.tx.0);
            keys::install(&tcp, keys::Direction::Send, version, secrets.tx)?;
            keys::install(&tcp, keys::Direction::Receive, version, secrets.rx)?;
            Ok(Keys { session, worn })
        });
        match installed {
            Ok(keys) => Ok(Ok(Self { tcp, keys: Mutex::new(keys), plain, said_goodbye: false, kernel })),
            Err(error) => {
                kernel.give_up("the kernel does not take the keys", &error);
                Err(error)
            }
        }
    }

    /// Tells the client that nothing more will be sent, if that can be done without waiting.
    pub fn try_goodbye(&mut self) {
        if !std::mem::replace(&mut self.said_goodbye, true) {
            let _ = record::send(&self.tcp, record::ALERT, record::CLOSE_NOTIFY);
        }
    }
}
