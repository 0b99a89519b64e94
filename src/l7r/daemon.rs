//! Start, run and end of the router process. The ports are bound first; then rights are dropped for good.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use nix::unistd::{Uid, User};
use thiserror::Error;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::LocalAuthenticator,
    db::{Connector, Database, DbError, Instance, Role},
    events::{self, Channel},
    model::{
        InstanceId,
        config::{Config, keys},
    },
    tunnel::Conn,
};

use super::{
    listener::{self, BindError, HandshakeError, Listener},
    quic::{self, QuicListener, Secret},
    requests::Connection,
    router::{Counts, Router, Sessions},
    tls::{Identity, Tls, TlsError},
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
    let bound = listener::bind(&config.get(&keys::L7R_ADDRESS), config.get(&keys::L7R_PORT))?;
    raise_descriptor_limit();
    let path_run = config.get(&keys::PATH_RUN);
    let own = if config.get(&keys::L7R_USE_SSL) {
        let names = vec![config.get(&keys::NODENAME), "localhost".to_owned(), "127.0.0.1".to_owned()];
        Some(Identity::load_or_generate(&config.get(&keys::PATH_L7R_SSL), &names)?)
    } else {
        None
    };
    let udp = if own.is_some() { bind_udp(&config, bound.local_addr()?) } else { None };
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
    let tls = match own {
        Some(own) => {
            tracing::info!(fingerprint = own.fingerprint(), "own certificate");
            Some(Tls::new(own)?)
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
        authenticator: LocalAuthenticator::new(database.clone(), slots),
        database: database.clone(),
        hub,
        config: ArcSwap::from_pointee(config.clone()),
        host: started.host,
        instance: started.instance,
        sessions: Sessions::default(),
        counts: Counts::default(),
        stop: stop.clone(),
    });
    let listener = Listener::new(bound, tls.clone(), handshake)?;
    let quic = serve_quic(udp, tls.as_ref(), &config);
    load_certificate(&router, tls.as_ref()).await;
    let flusher = tokio::spawn(router.clone().flush());
    tokio::spawn(router.clone().obey_aborts());
    tokio::spawn(follow_config(router.clone(), config, tls));
    tracing::info!(host = %started.host, instance = %started.instance, address = %listener.address()?, "l7r runs");

    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            incoming = listener.accept() => {
                connections.spawn(serve(router.clone(), incoming.peer(), incoming.handshake()));
            }
            Some(incoming) = accept(quic.as_ref()) => {
                connections.spawn(serve(router.clone(), incoming.peer(), incoming.handshake()));
            }
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(FAREWELL, connections.wait()).await;
    if let Some(quic) = quic {
        let _ = tokio::time::timeout(FAREWELL, quic.close()).await;
    }
    let _ = flusher.await;
    // Those that ended just now count, too.
    router.write_counts().await;
    database.l7r_gone(&[started.instance], "the router was stopped").await?;
    tracing::info!(host = %started.host, "l7r ends");
    Ok(())
}

/// The UDP port beside the TCP port, and the secret that goes with it. Whatever is in the way, TCP serves.
fn bind_udp(config: &Config, tcp: SocketAddr) -> Option<(UdpSocket, Secret)> {
    if !config.get(&keys::L7R_QUIC) {
        return None;
    }
    let socket = quic::bind(tcp).inspect_err(|error| {
        tracing::warn!(address = %tcp, %error, "the UDP port cannot be had; users are served over TCP alone");
    });
    let secret = Secret::load_or_generate(&config.get(&keys::PATH_L7R_SSL)).unwrap_or_else(|error| {
        tracing::warn!(%error, "the key of QUIC cannot be kept; clients will notice a restart only late");
        Secret::random()
    });
    Some((socket.ok()?, secret))
}

fn serve_quic(bound: Option<(UdpSocket, Secret)>, tls: Option<&Tls>, config: &Config) -> Option<QuicListener> {
    // The database may say so, too.
    let (socket, secret) = bound.filter(|_| config.get(&keys::L7R_QUIC))?;
    let listener = QuicListener::new(socket, tls?, &secret, config).inspect_err(|error| {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, "QUIC cannot be served; users are served over TCP alone");
    });
    listener.ok()
}

/// The next client of QUIC, where that is served.
async fn accept(quic: Option<&QuicListener>) -> Option<quic::Incoming> {
    match quic {
        Some(quic) => quic.accept().await,
        None => None,
    }
}

async fn serve(router: Arc<Router>, client: SocketAddr, handshake: impl Future<Output = Result<Conn, HandshakeError>>) {
    let conn = match handshake.await {
        Ok(conn) => conn,
        Err(error @ HandshakeError::Gone(_)) => return tracing::debug!(%client, %error, "no connection"),
        Err(error) => {
            return tracing::info!(%client, error = &error as &dyn std::error::Error, "no connection");
        }
    };
    if let Err(error) = Connection::new(router, client.ip()).serve(conn).await {
        tracing::info!(%client, error = &error as &dyn std::error::Error, "connection ended");
    }
}

async fn follow_config(router: Arc<Router>, file: Config, tls: Option<Tls>) {
    let mut watch = router.hub.watch(Channel::Config).await;
    loop {
        tokio::select! {
            _ = watch.changed() => {}
            () = router.stop.cancelled() => return,
        }
        if let Ok(rows) = router.database.config_rows().await {
            let mut config = file.clone();
            for refused in config.add_rows(rows) {
                tracing::warn!("{refused}; ignored");
            }
            router.config.store(Arc::new(config));
        }
        load_certificate(&router, tls.as_ref()).await;
    }
}

/// The certificate in the database wins over the generated one. One that does not load leaves the old one in place.
async fn load_certificate(router: &Router, tls: Option<&Tls>) {
    let Some(tls) = tls else { return };
    match router.database.l7r_certificate().await {
        Ok(Some((certificate, key))) => {
            let loaded = Identity::from_pem((certificate.as_bytes(), "l7r.ssl.cert"), (key.as_bytes(), "l7r.ssl.key"));
            match loaded {
                Ok(identity) => tls.replace(identity),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the certificate in the database cannot be used; the old one stays"
                ),
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "cannot ask for the certificate"),
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
