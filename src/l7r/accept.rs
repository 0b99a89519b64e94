//! From a client that knocks to its conversation: over TCP one at a time, over QUIC for as long as the port is ours.
//! Crowds are turned away and failures written down; what is talked about is not known here.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::{model::config::keys, tunnel::Conn};

use super::{
    handover::{Release, Successor},
    limits::{Crowd, Stranger},
    listener::{HandshakeError, Incoming},
    quic::QuicPort,
    requests::Connection,
    router::{Router, count},
    tls::Tls,
};

/// Serves one client of TCP to its end.
pub(super) async fn serve_tcp(router: Arc<Router>, mut incoming: Incoming, stranger: Stranger) {
    let introduced = incoming.introduce(&router.config.load_full().get(&keys::L7R_PROXY_FROM)).await;
    let client = incoming.peer();
    match introduced {
        Ok(()) => serve(router, client, stranger, incoming.handshake()).await,
        Err(error) => log_failure(&router, client, &error),
    }
}

/// Where QUIC is served, and who else has the port.
pub(super) struct Quic {
    pub(super) port: QuicPort,
    pub(super) tls: Tls,
    /// The process before this one, while it reads from the port.
    pub(super) before: Option<Release>,
    /// The one after it, when it comes.
    pub(super) after: Option<oneshot::Receiver<Successor>>,
}

/// Accepts clients of QUIC until the process ends or another takes over. Until the port is free, TCP serves alone.
pub(super) async fn serve_quic(router: Arc<Router>, quic: Quic, connections: TaskTracker) {
    let Quic { port, tls, before, after } = quic;
    let ended = async {
        tokio::select! {
            () = router.stop.cancelled() => {}
            () = router.replaced.cancelled() => {}
        }
    };
    tokio::pin!(ended);
    let config = router.config.load_full();
    let listener = tokio::select! {
        listener = port.listen(tls, &config, before, router.replaced.clone()) => listener,
        () = &mut ended => return,
    };
    drop(config);
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            return tracing::warn!(error, "QUIC cannot be served; users are served over TCP alone");
        }
    };
    let clients = TaskTracker::new();
    loop {
        let incoming = tokio::select! {
            Some(incoming) = listener.accept() => incoming,
            () = &mut ended => break,
        };
        match router.strangers.enter(Crowd::from_config(&router.config.load())) {
            Some(stranger) => {
                let client = incoming.peer();
                let serving = serve(router.clone(), client, stranger, incoming.handshake());
                connections.spawn(clients.track_future(serving));
            }
            None => count(&router.refused.crowd),
        }
    }
    if router.replaced.is_cancelled() {
        let moving = clients.len();
        listener.move_on(&clients).await;
        tracing::info!(clients = moving, late = clients.len(), "clients of QUIC were told to connect again");
        if let Some(after) = after
            && let Ok(successor) = after.await
        {
            successor.release();
        }
    }
    listener.close().await;
}

async fn serve(
    router: Arc<Router>,
    client: SocketAddr,
    mut stranger: Stranger,
    handshake: impl Future<Output = Result<Conn, HandshakeError>>,
) {
    if !stranger.comes_from(client.ip(), Crowd::from_config(&router.config.load())) {
        tracing::debug!(%client, "too many connections");
        return count(&router.refused.crowd);
    }
    let conn = match handshake.await {
        Ok(conn) => conn,
        Err(error) => return log_failure(&router, client, &error),
    };
    // Apart, for it is large, and who has not finished a handshake should not hold room for it.
    let conversation = Box::pin(Connection::new(router, client.ip(), stranger).serve(conn));
    if let Err(error) = conversation.await {
        tracing::info!(%client, error = &error as &dyn std::error::Error, "connection ended");
    }
}

fn log_failure(router: &Router, client: SocketAddr, error: &HandshakeError) {
    match error {
        // Balancers look in like this, every second.
        HandshakeError::Gone(_) => return tracing::debug!(%client, %error, "no connection"),
        HandshakeError::PlainHttp => count(&router.refused.plain_http),
        _ => count(&router.refused.handshakes),
    }
    tracing::info!(%client, error = error as &dyn std::error::Error, "no connection");
}
