//! Start, run and end of the router process. The ports are bound first; then rights are dropped for good.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use listenfd::ListenFd;
use nix::unistd::{Uid, User};
use thiserror::Error;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::Chain,
    db::{Connector, Database, DbError, Instance, Role},
    events::{self, Channel},
    model::{
        InstanceId,
        config::{Config, keys},
    },
    tunnel::Conn,
};

use super::{
    certificates::{Follower, Own},
    handover::{Giver, Offer, Taken},
    limits::{Crowd, Stranger},
    listener::{self, BindError, HandshakeError, Incoming, Listener},
    metrics::Metrics,
    quic::QuicPort,
    requests::Connection,
    router::{Counts, Refused, Router, Sessions, count},
    tls::{Tls, TlsError},
};

/// Why the router cannot run.
#[derive(Debug, Error)]
pub enum L7rError {
    /// The port cannot be had.
    #[error("users cannot be served")]
    Bind(#[from] BindError),
    /// The certificate cannot be used.
    #[error("the certificate cannot be used")]
    Tls(#[from] TlsError),
    /// The account to become does not exist.
    #[error("there is no account {0} to run as; set l7r.as_user")]
    Account(String),
    /// Rights could not be dropped.
    #[error("cannot become {account}")]
    Rights {
        /// Who to become.
        account: String,
        /// Why not.
        #[source]
        source: nix::Error,
    },
    /// The database refused.
    #[error("the database does not let this router start")]
    Db(#[from] DbError),
    /// The runtime cannot watch the port.
    #[error("the port cannot be watched")]
    Io(#[from] io::Error),
}

/// Sessions may take this long to be ended when the process stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// Runs the router until `stop`.
pub async fn run(mut config: Config, stop: CancellationToken) -> Result<(), L7rError> {
    let path_run = config.get(&keys::PATH_RUN);
    let port = Port::get(&config, &path_run)?;
    raise_descriptor_limit();
    let own = if config.get(&keys::L7R_USE_SSL) { Some(Own::read(&config)?) } else { None };
    let offer = Offer::bind(&path_run)
        .inspect_err(|error| tracing::warn!(%error, "this router cannot be replaced without a pause"))
        .ok();
    let quic = own.as_ref().and_then(|_| QuicPort::get(&config, port.bound.local_addr().ok()?));
    drop_rights(&config.get(&keys::L7R_AS_USER))?;

    let connector = Connector::from_config(&config, Role::L7r)?;
    let database = Database::new(&connector, config.get(&keys::DATABASE_POOL_SIZE) as usize)?;
    while let Err(error) = database.reachable(Duration::from_secs(5)).await {
        tracing::warn!(%error, "waiting for the database");
        if stop.is_cancelled() {
            return Ok(());
        }
    }
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let pid = std::process::id() as i32;
    let started =
        database.l7r_start(&config.get(&keys::NODENAME), &boot_id, pid, process_start(pid).unwrap_or_default()).await?;
    let gone: Vec<InstanceId> = database
        .l7r_instances(started.host)
        .await?
        .into_iter()
        .filter(|other| other.instance != started.instance && is_gone(other, &boot_id))
        .map(|other| other.instance)
        .collect();
    let ended = database.l7r_gone(&gone, "its router died").await?;
    if ended > 0 {
        tracing::warn!(host = %started.host, sessions = ended, "ended what an earlier router left");
    }
    for refused in config.add_rows(database.config_rows().await?) {
        tracing::warn!(host = %started.host, "{refused}; ignored");
    }
    let certificates = match own {
        Some(own) => {
            tracing::info!(fingerprint = own.fingerprint(), "own certificate");
            Some(Follower::new(own, &config, database.l7r_certificates().await?)?)
        }
        None => None,
    };

    let hub = events::follow(
        path_run.join("relay.sock"),
        config.get(&keys::HKD_POLL_RELAXED),
        config.get(&keys::HKD_POLL_URGENT),
        stop.clone(),
    );
    let slots = match config.get(&keys::L7R_HASH_LIMIT) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        limit => limit as usize,
    };
    let handshake = config.get(&keys::L7R_TIMEOUT_HANDSHAKE);
    let router = Arc::new(Router {
        authenticators: Chain::new(database.clone(), slots, &config),
        database: database.clone(),
        hub,
        config: ArcSwap::from_pointee(config.clone()),
        host: started.host,
        instance: started.instance,
        sessions: Sessions::default(),
        counts: Counts::default(),
        refused: Refused::default(),
        metrics: Metrics::default(),
        limits: Arc::default(),
        strangers: Arc::default(),
        stop: stop.clone(),
    });
    router.authenticators.configure(&config, database.tenant_config_rows().await?);
    let replaced = CancellationToken::new();
    if let Some(offer) = offer {
        offer.serve(port.bound.try_clone()?.into(), replaced.clone());
    }
    let tls = certificates.as_ref().map(Follower::tls);
    let listener = Listener::new(port.bound, tls.clone(), handshake)?;
    let flusher = tokio::spawn(router.clone().flush());
    tokio::spawn(router.clone().obey_aborts());
    tokio::spawn(router.clone().keep_limits());
    tokio::spawn(follow_config(router.clone(), config, certificates));
    tracing::info!(host = %started.host, instance = %started.instance, address = %listener.address()?, "l7r runs");

    if let Some(giver) = port.giver {
        giver.ready();
    }

    let connections = TaskTracker::new();
    let quic = quic
        .zip(tls)
        .filter(|_| router.config.load().get(&keys::L7R_QUIC))
        .map(|(port, tls)| tokio::spawn(serve_quic(router.clone(), port, tls, connections.clone(), replaced.clone())));
    loop {
        let incoming = tokio::select! {
            incoming = listener.accept() => incoming,
            () = stop.cancelled() => break,
            () = replaced.cancelled() => break,
        };
        let Some(stranger) = router.strangers.enter(Crowd::from_config(&router.config.load())) else {
            count(&router.refused.crowd);
            continue;
        };
        connections.spawn(serve_tcp(router.clone(), incoming, stranger));
    }
    drop(listener);
    connections.close();
    if replaced.is_cancelled() {
        tracing::info!(host = %started.host, connections = connections.len(), "another router accepts now; draining");
        tokio::select! {
            () = connections.wait() => stop.cancel(),
            () = stop.cancelled() => {}
        }
    }
    let _ = tokio::time::timeout(FAREWELL, connections.wait()).await;
    if let Some(quic) = quic {
        let _ = tokio::time::timeout(FAREWELL, quic).await;
    }
    let _ = flusher.await;
    // Those that ended just now count, too.
    router.write_counts().await;
    database.l7r_gone(&[started.instance], "the router was stopped").await?;
    tracing::info!(host = %started.host, "l7r ends");
    Ok(())
}

/// The port that clients connect to, and whom it was taken over from.
struct Port {
    bound: StdListener,
    giver: Option<Giver>,
}

impl Port {
    /// From the service manager, from the router that runs, or bound here.
    fn get(config: &Config, path_run: &Path) -> Result<Self, L7rError> {
        if let Ok(Some(bound)) = ListenFd::from_env().take_tcp_listener(0) {
            return Ok(Self { bound, giver: None });
        }
        let (address, number) = (config.get(&keys::L7R_ADDRESS), config.get(&keys::L7R_PORT));
        match Taken::from_running(path_run) {
            Some(Taken { tcp, giver })
                if tcp.local_addr().is_ok_and(|taken| listener::is_at(taken, &address, number)) =>
            {
                Ok(Self { bound: tcp, giver: Some(giver) })
            }
            // It serves another port than is wanted now; it is told all the same, since this one follows it.
            Some(Taken { giver, .. }) => Ok(Self { bound: listener::bind(&address, number)?, giver: Some(giver) }),
            None => Ok(Self { bound: listener::bind(&address, number)?, giver: None }),
        }
    }
}

async fn serve_tcp(router: Arc<Router>, mut incoming: Incoming, stranger: Stranger) {
    let introduced = incoming.introduce(&router.config.load_full().get(&keys::L7R_PROXY_FROM)).await;
    let client = incoming.peer();
    match introduced {
        Ok(()) => serve(router, client, stranger, incoming.handshake()).await,
        Err(error) => log_failure(&router, client, &error),
    }
}

/// Accepts clients of QUIC until the process ends or another takes over. Where another process has the UDP port still,
/// as the router before this one has while its clients are connected, TCP serves alone until it is free.
async fn serve_quic(
    router: Arc<Router>,
    port: QuicPort,
    tls: Tls,
    connections: TaskTracker,
    replaced: CancellationToken,
) {
    let ended = async {
        tokio::select! {
            () = router.stop.cancelled() => {}
            () = replaced.cancelled() => {}
        }
    };
    tokio::pin!(ended);
    let config = router.config.load_full();
    let listener = tokio::select! {
        listener = port.listen(tls, &config) => listener,
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
    loop {
        let incoming = tokio::select! {
            Some(incoming) = listener.accept() => incoming,
            () = &mut ended => break,
        };
        match router.strangers.enter(Crowd::from_config(&router.config.load())) {
            Some(stranger) => {
                let client = incoming.peer();
                connections.spawn(serve(router.clone(), client, stranger, incoming.handshake()));
            }
            None => count(&router.refused.crowd),
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
    if let Err(error) = Connection::new(router, client.ip(), stranger).serve(conn).await {
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

async fn follow_config(router: Arc<Router>, file: Config, mut certificates: Option<Follower>) {
    let mut watch = router.hub.watch(Channel::Config).await;
    loop {
        if let Ok(rows) = router.database.config_rows().await
            && let Ok(of_tenants) = router.database.tenant_config_rows().await
        {
            let mut config = file.clone();
            for refused in config.add_rows(rows) {
                tracing::warn!("{refused}; ignored");
            }
            router.authenticators.configure(&config, of_tenants);
            router.config.store(Arc::new(config));
        }
        if let Some(certificates) = &mut certificates {
            match router.database.l7r_certificates().await {
                Ok(stored) => certificates.follow(&router.config.load(), stored),
                Err(error) => tracing::warn!(%error, "cannot ask for the certificate"),
            }
            certificates.tell(&router.database, router.instance).await;
        }
        tokio::select! {
            _ = watch.changed() => {}
            () = router.stop.cancelled() => return,
        }
    }
}

/// Becomes an account without rights, for good. Without root there is nothing to drop.
fn drop_rights(account: &str) -> Result<(), L7rError> {
    if !Uid::effective().is_root() || account == "root" {
        return Ok(());
    }
    let user = User::from_name(account).ok().flatten().ok_or_else(|| L7rError::Account(account.to_owned()))?;
    let dropped = nix::unistd::setgroups(&[user.gid])
        .and_then(|()| nix::unistd::setgid(user.gid))
        .and_then(|()| nix::unistd::setuid(user.uid))
        .and_then(|()| nix::sys::prctl::set_no_new_privs());
    dropped.map_err(|source| L7rError::Rights { account: account.to_owned(), source })
}

fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// An instance is gone when the machine was booted since, or no process has its number and start time.
fn is_gone(other: &Instance, boot_id: &str) -> bool {
    other.boot_id != boot_id || process_start(other.pid) != Some(other.pid_start)
}

/// Start time of a process in clock ticks since boot: field 22 of its `stat`, counted behind the name in parentheses.
fn process_start(pid: i32) -> Option<i64> {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let state = after_name.split_whitespace().next()?;
    if state == "Z" {
        return None;
    }
    after_name.split_whitespace().nth(19)?.parse().ok()
}
