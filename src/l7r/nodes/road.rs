//! The way of one session to its VM: from here when the VM runs on this node, else by a stream to the router of its node. That
//! router may just be started again or replaced: then it is looked for until the caller's time is over.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use crate::{
    db::NodeRouter,
    model::{SessionId, VmId},
    tunnel::{self, Inner},
    vma::client::{Connect, Connection},
};

use super::{Failure, Header, Nodes, Refusal};

/// Before the way is tried again, at first; it doubles up to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// How often it is asked, while a router does not answer, whether another has taken its place.
const LOOK: Duration = Duration::from_millis(250);

/// The way of a session to its VM.
pub struct Road {
    nodes: Arc<Nodes>,
    session: SessionId,
    vm: VmId,
    /// How it was gone last.
    last: Mutex<Option<NodeRouter>>,
}

impl Road {
    /// For a session that has the VM.
    pub fn new(nodes: Arc<Nodes>, session: SessionId, vm: VmId) -> Self {
        Self { nodes, session, vm, last: Mutex::default() }
    }

    /// Connects to a port of the VM, which has this address on its node.
    pub async fn connect(&self, to: SocketAddr, deadline: Instant) -> io::Result<Inner> {
        let header = Header { vm: self.vm, port: to.port() };
        let [mut pause, longest] = PAUSES;
        let mut remembered = self.last().take();
        loop {
            let stale = remembered.is_some();
            let node = match remembered.take() {
                Some(node) => node,
                None => self.ask().await?,
            };
            if node.host == self.nodes.host {
                return direct(to, deadline).await.map(Inner::Tcp);
            }
            let failed = match self.attempt(&node, header, deadline).await {
                Ok(stream) => {
                    *self.last() = Some(node);
                    return Ok(stream);
                }
                Err(Failure::Refused(Refusal::Refused)) => {
                    *self.last() = Some(node);
                    return Err(io::Error::new(io::ErrorKind::ConnectionRefused, Refusal::Refused));
                }
                Err(Failure::Refused(refusal)) if refusal != Refusal::Database && !stale => {
                    return Err(io::Error::other(refusal));
                }
                Err(Failure::Refused(refusal)) => io::Error::other(refusal),
                Err(Failure::Lost(error)) => error,
            };
            if Instant::now() + pause >= deadline {
                return Err(failed);
            }
            tracing::debug!(vm = %self.vm, host = %node.host, error = %failed, "the router of another node is not reached; trying again");
            if !stale {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        }
    }

    /// Where the VM is, and who leads there.
    async fn ask(&self) -> io::Result<NodeRouter> {
        match self.nodes.database.l7r_road(self.session).await {
            Ok(Some(node)) => Ok(node),
            Ok(None) => Err(io::Error::new(io::ErrorKind::NotFound, "it is on no node any more")),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Given up as soon as another router leads there.
    async fn attempt(&self, node: &NodeRouter, header: Header, deadline: Instant) -> Result<Inner, Failure> {
        let none =
            || Failure::Lost(io::Error::new(io::ErrorKind::NotConnected, "its node has no router for other nodes"));
        let reach = node.reach.as_ref().ok_or_else(none)?;
        let mut opening = pin!(self.nodes.open_stream(reach, header));
        loop {
            tokio::select! {
                opened = &mut opening => return opened.map(Inner::Shared),
                () = tokio::time::sleep_until(deadline.into()) => {
                    return Err(Failure::Lost(io::Error::new(io::ErrorKind::TimedOut, "its node does not answer")));
                }
                () = tokio::time::sleep(LOOK) => {
                    if self.ask().await.is_ok_and(|now| now != *node) {
                        return Err(Failure::Lost(io::Error::new(io::ErrorKind::NotConnected, "the router of its node has gone")));
                    }
                }
            }
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<NodeRouter>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to a VM from here.
pub async fn direct(to: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect(to);
    let stream = tokio::time::timeout_at(tokio::time::Instant::from_std(deadline), connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tunnel::tune(&stream)?;
    Ok(stream)
}

/// The way to the agent of a VM. Whoever asks an agent has a limit, which is for all of it.
pub struct ToAgent {
    /// To the VM.
    pub road: Arc<Road>,
    /// Of the agent, on the VM's node.
    pub address: SocketAddr,
    /// For the connection.
    pub limit: Duration,
}

impl fmt::Debug for ToAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the agent of VM {} at {}", self.road.vm, self.address)
    }
}

impl Connect for ToAgent {
    fn connect(&self) -> BoxFuture<'_, io::Result<Box<dyn Connection>>> {
        Box::pin(async {
            Ok(match self.road.connect(self.address, Instant::now() + self.limit).await? {
                Inner::Tcp(tcp) => Box::new(tcp) as Box<dyn Connection>,
                Inner::Shared(stream) => Box::new(stream),
            })
        })
    }
}
