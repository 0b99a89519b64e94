//! How a new router gets the port of the one that runs: over a unix socket, as descriptors, so that no client is
//! refused in between. The old one goes on accepting until the new one says that it does, and then serves what it has
//! to its end; a newcomer that fails changes nothing.
//!
//! ```text
//! new: connects ──▶ old: sends the line and the descriptors ──▶ new: starts, accepts, writes READY ──▶ old: drains
//! ```
//!
//! Every router has a socket of its own name, since several may be serving their last clients.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::TcpListener as StdListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio_util::sync::CancellationToken;

/// What is sent, in the order of the descriptors. Another line means another version of this dialogue.
const LINE: &[u8] = b"qvd-l7r 1 tcp\n";
const READY: u8 = b'R';
/// For the other side to answer. Both are on this machine.
const ANSWER: Duration = Duration::from_secs(5);
/// For a newcomer to come to serve clients: it may have to wait for the database.
const START: Duration = Duration::from_secs(120);
const PREFIX: &str = "l7r.";
const SUFFIX: &str = ".handover";

/// A port that was given to this process, and the way to tell the giver.
#[derive(Debug)]
pub struct Taken {
    /// The port.
    pub tcp: StdListener,
    /// Whom it is from.
    pub giver: Giver,
}

/// The router that gave its port away and still accepts clients.
#[derive(Debug)]
pub struct Giver(UnixStream);

impl Giver {
    /// Says that clients are served here now.
    pub fn ready(mut self) {
        if let Err(error) = self.0.write_all(&[READY]) {
            tracing::warn!(%error, "the router before this one could not be told to drain");
        }
    }
}

impl Taken {
    /// Asks the routers of this node for the port, one after the other. Sockets of dead ones are removed.
    pub fn from_running(directory: &Path) -> Option<Self> {
        sockets(directory).into_iter().find_map(|path| match UnixStream::connect(&path) {
            Ok(stream) => receive(stream)
                .inspect_err(|error| tracing::debug!(path = %path.display(), %error, "no port from here"))
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(path);
                None
            }
            Err(_) => None,
        })
    }
}

fn sockets(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            (name.starts_with(PREFIX) && name.ends_with(SUFFIX)).then(|| directory.join(name))
        })
        .collect()
}

fn receive(giver: UnixStream) -> io::Result<Taken> {
    giver.set_read_timeout(Some(ANSWER))?;
    let mut line = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(&giver, &mut [IoSliceMut::new(&mut line)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    match (&line[..message.bytes], descriptors.pop()) {
        (LINE, Some(tcp)) if descriptors.is_empty() => Ok(Taken { tcp: tcp.into(), giver: Giver(giver) }),
        ([], _) => Err(io::Error::other("the router has no port to give any more")),
        _ => Err(io::Error::other("the router speaks another version of the hand-over")),
    }
}

/// The socket on which this process gives its port away. Bound while there are rights to do so.
#[derive(Debug)]
pub struct Offer {
    socket: UnixListener,
    path: PathBuf,
}

impl Offer {
    /// Binds the socket; only root may connect.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub fn bind(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("{PREFIX}{}{SUFFIX}", std::process::id()));
        let _ = fs::remove_file(&path);
        let socket = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { socket, path })
    }

    /// Gives `port` to newcomers until one of them serves clients, which cancels `taken`.
    pub fn serve(self, port: OwnedFd, taken: CancellationToken) {
        // A thread, because the dialogue is rare, short, and about blocking sockets.
        let named = std::thread::Builder::new().name("handover".to_owned());
        let started = named.spawn(move || {
            for newcomer in self.socket.incoming() {
                let given = newcomer.and_then(|newcomer| give(newcomer, &port));
                match given {
                    Ok(true) => break,
                    Ok(false) => tracing::warn!("a router that wanted to replace this one did not come to run"),
                    Err(error) => tracing::warn!(%error, "the port could not be given to another router"),
                }
            }
            // Removed where there still are rights to do so; otherwise the next newcomer does it.
            let _ = fs::remove_file(&self.path);
            taken.cancel();
        });
        if let Err(error) = started {
            tracing::warn!(%error, "this router cannot be replaced without a pause");
        }
    }
}

/// Whether the newcomer came to serve clients.
fn give(mut newcomer: UnixStream, port: &OwnedFd) -> io::Result<bool> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [port.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&newcomer, &[IoSlice::new(LINE)], &mut control, SendFlags::NOSIGNAL)?;
    newcomer.set_read_timeout(Some(START))?;
    let mut answer = [0];
    Ok(newcomer.read(&mut answer)? == 1 && answer == [READY])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> StdListener {
        StdListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn a_port_is_taken_over_and_the_giver_told() {
        let directory = tempfile::tempdir().unwrap();
        let (old, taken) = (port(), CancellationToken::new());
        let address = old.local_addr().unwrap();
        Offer::bind(directory.path()).unwrap().serve(old.into(), taken.clone());
        let newcomer = Taken::from_running(directory.path()).unwrap();
        assert_eq!(newcomer.tcp.local_addr().unwrap(), address);
        assert!(!taken.is_cancelled(), "the old one serves until the new one does");
        newcomer.giver.ready();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(taken.cancelled());
        assert!(Taken::from_running(directory.path()).is_none(), "it has no port to give any more");
    }

    #[test]
    fn a_newcomer_that_dies_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let taken = CancellationToken::new();
        Offer::bind(directory.path()).unwrap().serve(port().into(), taken.clone());
        drop(Taken::from_running(directory.path()).unwrap());
        let next = Taken::from_running(directory.path()).unwrap();
        assert!(!taken.is_cancelled());
        next.giver.ready();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(taken.cancelled());
    }

    #[test]
    fn the_socket_of_a_dead_router_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        drop(Offer::bind(directory.path()).unwrap());
        assert_eq!(sockets(directory.path()).len(), 1);
        assert!(Taken::from_running(directory.path()).is_none());
        assert!(sockets(directory.path()).is_empty());
    }
}
