//! Streams of other nodes to VMs of this one. Who is not known does not get past the handshake; every stream is checked by the
//! database besides, and cut when its VM leaves this node.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, Incoming};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    db::Passage,
    events::Channel,
    model::{VmId, config::keys},
    tunnel::{self, Counters, Cut, Ended, Reason, SharedStream, Way},
};

use super::{
    super::router::Router,
    Nodes,
    header::{CONNECTED, Header, LENGTH, Refusal},
    identity::PublicKey,
};

/// How long a node may take to say whom it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// Handshakes under way at once before a node must prove its address first, which costs it a round trip.
const TRUSTED_HANDSHAKES: usize = 64;
/// How often what streams carry is added up.
const COUNT: Duration = Duration::from_secs(5);
/// The database is asked no sooner again who the nodes are.
const BREATH: Duration = Duration::from_millis(200);

/// Lets other nodes in until the process ends. Their streams are tracked like connections of clients.
pub async fn serve(router: Arc<Router>, nodes: Arc<Nodes>, connections: TaskTracker) {
    let following = follow(&router, &nodes);
    let accepting = async {
        let guests = TaskTracker::new();
        while let Some(incoming) = nodes.listening.accept().await {
            if !nodes.expects(incoming.remote_address().ip()) {
                incoming.ignore();
            } else if guests.len() > TRUSTED_HANDSHAKES && incoming.may_retry() {
                // It cannot fail: that is what was just asked.
                let _ = incoming.retry();
            } else {
                let (router, nodes) = (router.clone(), nodes.clone());
                let connections = connections.clone();
                let greeting = guests.track_future(greet(router.clone(), nodes.clone(), incoming));
                tokio::spawn(async move {
                    if let Some((key, connection)) = greeting.await {
                        host(router, nodes, key, connection, connections).await;
                    }
                });
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = accepting => {}
        () = router.stop.cancelled() => {}
    }
    nodes.close().await;
}

/// Learns who the nodes are when one comes or goes, and when somebody knocks who is not known.
async fn follow(router: &Router, nodes: &Nodes) {
    let mut changes = router.hub.watch(Channel::Config).await;
    loop {
        if let Err(error) = nodes.learn().await {
            tracing::debug!(%error, "cannot ask who the other nodes are");
        }
        tokio::time::sleep(BREATH).await;
        tokio::select! {
            _ = changes.changed() => {}
            () = nodes.known.stranger() => {}
        }
    }
}

/// The handshake.
async fn greet(router: Arc<Router>, nodes: Arc<Nodes>, incoming: Incoming) -> Option<(PublicKey, Connection)> {
    let peer = incoming.remote_address();
    let limit = router.config.load().get(&keys::L7R_TIMEOUT_HANDSHAKE);
    let shaken = timeout(limit, async { incoming.accept()?.await }).await;
    let connection = match shaken {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::info!(%peer, %error, "another node was not let in");
            return None;
        }
        Err(_) => return None,
    };
    let key = key_of(&connection)?;
    let (host, instance) = nodes.known.router(&key)?;
    tracing::info!(%peer, %host, router = %instance, "the router of another node has connected");
    nodes.known.welcome(host, &connection);
    Some((key, connection))
}

pub(super) fn key_of(connection: &Connection) -> Option<PublicKey> {
    let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    shown.first().map(|key| key.as_ref().to_vec())
}

/// Serves a node as long as its connection lasts.
async fn host(
    router: Arc<Router>,
    nodes: Arc<Nodes>,
    key: PublicKey,
    connection: Connection,
    connections: TaskTracker,
) {
    let key = Arc::new(key);
    while let Ok(streams) = connection.accept_bi().await {
        let stream = SharedStream::new(connection.clone(), streams);
        let passenger = Passenger { router: router.clone(), nodes: nodes.clone(), key: key.clone() };
        connections.spawn(passenger.carry(stream));
    }
    tracing::info!(peer = %connection.remote_address(), why = ?connection.close_reason(), "the router of another node is gone");
}

/// One stream of another node.
struct Passenger {
    router: Arc<Router>,
    nodes: Arc<Nodes>,
    /// Of the other node's router.
    key: Arc<PublicKey>,
}

impl Passenger {
    async fn carry(self, mut stream: SharedStream) {
        let mut asked = [0; LENGTH];
        // Who says nothing is told nothing: a stream that is dropped is cut.
        let Ok(Ok(_)) = timeout(PATIENCE, stream.read_exact(&mut asked)).await else { return };
        let opened = tokio::select! {
            opened = self.open(asked) => opened,
            () = stream.abandoned() => return,
        };
        let (header, inner) = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                tracing::info!(?asked, reason = %refusal, "a stream of another node was refused");
                let _ = stream.write_all(&[refusal.code()]).await;
                return drop(stream.shutdown().await);
            }
        };
        if stream.write_all(&[CONNECTED]).await.is_err() {
            return;
        }
        self.router.metrics.tunnel(Way::Node);
        let ended = self.forward(header, inner, &mut stream).await;
        tracing::debug!(vm = %header.vm, port = header.port, up = ended.up, down = ended.down, reason = %ended.reason, "a stream of another node ended");
        match ended.reason {
            Reason::InnerFailed(_) => stream.cut(Cut::Failed),
            Reason::Cancelled => stream.cut(Cut::Gone),
            Reason::OuterClosed | Reason::OuterCut | Reason::OuterFailed(_) | Reason::InnerClosed => {}
        }
    }

    async fn open(&self, asked: [u8; LENGTH]) -> Result<(Header, TcpStream), Refusal> {
        let header = Header::parse(asked)?;
        let passage = self.passage(header.vm).await?;
        let to = allowed(header, passage)?;
        let limit = self.router.config.load().get(&keys::L7R_TIMEOUT_X_START);
        match timeout(limit, TcpStream::connect(to)).await {
            Ok(Ok(inner)) if tunnel::tune(&inner).is_ok() => Ok((header, inner)),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err(Refusal::Refused),
            _ => Err(Refusal::Unreachable),
        }
    }

    async fn passage(&self, vm: VmId) -> Result<Passage, Refusal> {
        // By what the database calls the other router now.
        let (_, peer) = self.nodes.known.router(&self.key).ok_or(Refusal::Peer)?;
        self.router.database.l7r_passage(peer, self.nodes.host, vm).await.map_err(|error| {
            tracing::debug!(%vm, %error, "cannot ask whether another node may come to a VM");
            Refusal::Database
        })
    }

    /// Until an end closes or the VM has left this node. What is carried is counted now and then.
    async fn forward(&self, header: Header, inner: TcpStream, stream: &mut SharedStream) -> Ended {
        let (counters, gone) = (Counters::default(), CancellationToken::new());
        let mut counted = (0, 0);
        let mut count = |up, down| {
            self.router.metrics.moved(Way::Node, up - counted.0, down - counted.1);
            counted = (up, down);
        };
        let mut clock = interval(COUNT);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forwarding = std::pin::pin!(stream.forward(inner, &counters, &gone));
        let mut leaving = std::pin::pin!(self.left(header));
        let ended = loop {
            tokio::select! {
                ended = &mut forwarding => break ended,
                () = &mut leaving, if !gone.is_cancelled() => gone.cancel(),
                _ = clock.tick() => count(counters.up(), counters.down()),
            }
        };
        count(ended.up, ended.down);
        ended
    }

    /// Resolves when the VM does not run here any more. What is said to an agent is short, and has its own limit.
    async fn left(&self, header: Header) {
        let mut changes = None;
        loop {
            match self.passage(header.vm).await {
                Ok(Passage { vm: None, .. }) => return,
                Ok(Passage { vm: Some((_, ports)), .. }) if ports.x != header.port => std::future::pending().await,
                // A VM does not need the database.
                _ => {}
            }
            match &mut changes {
                None => changes = Some(self.router.hub.watch(Channel::Vm(header.vm)).await),
                Some(changes) => drop(changes.changed().await),
            }
        }
    }
}

/// Where to, if it is allowed.
fn allowed(header: Header, passage: Passage) -> Result<SocketAddr, Refusal> {
    if !passage.admitted {
        return Err(Refusal::Peer);
    }
    let (address, ports) = passage.vm.ok_or(Refusal::NotHere)?;
    header.allowed(ports)?;
    Ok(SocketAddr::new(address, header.port))
}
