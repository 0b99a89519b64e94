//! How a new router gets the ports of the one that runs: over a unix socket, as descriptors, so that no client is
//! refused in between. The old one goes on accepting until the new one says that it does, and then serves what it has
//! to its end; a newcomer that fails changes nothing.
//!
//! ```text
//! new: connects ──▶ old: sends the line and the descriptors ──▶ new: starts, accepts, writes READY ──▶ old: drains
//! new: reads from the UDP port ◀── old: reads from it no more, writes RELEASED ◀── its clients of QUIC have said all
//! ```
//!
//! The UDP port is one socket for all its clients, so only one process may read from it. What comes in between waits in
//! the socket.
//! Every router has a socket of its own name, since several may be serving their last clients.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    iter,
    mem::MaybeUninit,
    net::{TcpListener as StdListener, UdpSocket},
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
use tokio::{io::AsyncReadExt, sync::oneshot};
use tokio_util::sync::CancellationToken;

/// What is sent, in the order of the descriptors. Another line means another version of this dialogue.
const LINE: &[u8] = b"qvd-l7r 1 tcp\n";
const LINE_WITH_UDP: &[u8] = b"qvd-l7r 2 tcp udp\n";
const READY: u8 = b'R';
const RELEASED: u8 = b'U';
/// For the other side to answer. Both are on this machine.
const ANSWER: Duration = Duration::from_secs(5);
/// For a newcomer to come to serve clients: it may have to wait for the database.
const START: Duration = Duration::from_secs(120);
/// For the old router to stop reading from the UDP port.
const RELEASE: Duration = Duration::from_secs(5);
const PREFIX: &str = "l7r.";
const SUFFIX: &str = ".handover";

/// The ports of a router.
#[derive(Debug)]
pub struct Ports {
    /// Where clients of TCP connect to.
    pub tcp: StdListener,
    /// Where those of QUIC do, if they can.
    pub udp: Option<UdpSocket>,
}

/// Ports that were given to this process, and the way to tell the giver.
#[derive(Debug)]
pub struct Taken {
    /// The ports.
    pub ports: Ports,
    /// Whom it is from.
    pub giver: Giver,
}

/// The router that gave its port away and still accepts clients.
#[derive(Debug)]
pub struct Giver(UnixStream);

impl Giver {
    /// Says that clients are served here now. The UDP port follows.
    pub fn ready(mut self) -> Release {
        if let Err(error) = self.0.write_all(&[READY]) {
            tracing::warn!(%error, "the router before this one could not be told to drain");
        }
        Release(self.0)
    }
}

/// A UDP port that another process still reads from.
#[derive(Debug)]
pub struct Release(UnixStream);

impl Release {
    /// Waits until it does not any more, because it says so or has ended.
    pub async fn wait(self) {
        let heard = async {
            self.0.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(self.0)?.read_u8().await
        };
        match tokio::time::timeout(RELEASE, heard).await {
            Ok(Ok(RELEASED)) => {}
            Ok(_) => tracing::debug!("the router before this one left without a word about the UDP port"),
            Err(_) => tracing::warn!("the router before this one does not let go of the UDP port"),
        }
    }
}

/// The router that took the ports over and waits for the UDP port.
#[derive(Debug)]
pub struct Successor(UnixStream);

impl Successor {
    /// Says that nobody reads from the UDP port here any more.
    pub fn release(mut self) {
        // One that is gone does not need to know.
        let _ = self.0.write_all(&[RELEASED]);
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
    let mut descriptors = descriptors.into_iter();
    let ports = match (&line[..message.bytes], descriptors.next(), descriptors.next()) {
        (LINE, Some(tcp), None) => Ports { tcp: tcp.into(), udp: None },
        (LINE_WITH_UDP, Some(tcp), Some(udp)) => Ports { tcp: tcp.into(), udp: Some(udp.into()) },
        ([], _, _) => return Err(io::Error::other("the router has no port to give any more")),
        _ => return Err(io::Error::other("the router speaks another version of the hand-over")),
    };
    Ok(Taken { ports, giver: Giver(giver) })
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

    /// Gives `ports` to newcomers until one of them serves clients, which cancels `taken`. That one comes back.
    pub fn serve(self, ports: Ports, taken: CancellationToken) -> oneshot::Receiver<Successor> {
        let (send, successor) = oneshot::channel();
        // A thread, because the dialogue is rare, short, and about blocking sockets.
        let named = std::thread::Builder::new().name("handover".to_owned());
        let started = named.spawn(move || {
            for newcomer in self.socket.incoming() {
                let given = newcomer.and_then(|newcomer| give(newcomer, &ports));
                match given {
                    Ok(Some(successor)) => {
                        // Where there was no QUIC, nobody waits for it.
                        let _ = send.send(successor);
                        break;
                    }
                    Ok(None) => tracing::warn!("a router that wanted to replace this one did not come to run"),
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
        successor
    }
}

/// The newcomer, if it came to serve clients.
fn give(mut newcomer: UnixStream, ports: &Ports) -> io::Result<Option<Successor>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = iter::once(ports.tcp.as_fd()).chain(ports.udp.as_ref().map(AsFd::as_fd)).collect();
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let line = if ports.udp.is_some() { LINE_WITH_UDP } else { LINE };
    sendmsg(&newcomer, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    newcomer.set_read_timeout(Some(START))?;
    let mut answer = [0];
    let ready = newcomer.read(&mut answer)? == 1 && answer == [READY];
    Ok(ready.then_some(Successor(newcomer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        let udp = Some(UdpSocket::bind("127.0.0.1:0").unwrap());
        Ports { tcp: StdListener::bind("127.0.0.1:0").unwrap(), udp }
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn ports_are_taken_over_and_the_giver_told() {
        let directory = tempfile::tempdir().unwrap();
        let (old, taken) = (ports(), CancellationToken::new());
        let addresses =
            |ports: &Ports| (ports.tcp.local_addr().unwrap(), ports.udp.as_ref().unwrap().local_addr().unwrap());
        let wanted = addresses(&old);
        let successor = Offer::bind(directory.path()).unwrap().serve(old, taken.clone());
        let newcomer = Taken::from_running(directory.path()).unwrap();
        assert_eq!(addresses(&newcomer.ports), wanted);
        assert!(!taken.is_cancelled(), "the old one serves until the new one does");
        let release = newcomer.giver.ready();
        wait(async {
            taken.cancelled().await;
            let waiting = tokio::spawn(release.wait());
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished(), "the old one reads from the UDP port until it says otherwise");
            successor.await.unwrap().release();
            waiting.await.unwrap();
        });
        assert!(Taken::from_running(directory.path()).is_none(), "it has no port to give any more");
    }

    #[test]
    fn a_newcomer_that_dies_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let taken = CancellationToken::new();
        let _successor = Offer::bind(directory.path()).unwrap().serve(ports(), taken.clone());
        drop(Taken::from_running(directory.path()).unwrap());
        let next = Taken::from_running(directory.path()).unwrap();
        assert!(!taken.is_cancelled());
        next.giver.ready();
        wait(taken.cancelled());
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
