//! Start, run and end of the router process. The ports are bound first; then rights are dropped for good.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use nix::unistd::{Uid, User};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::{Chain, Hashing},
    certificate::TlsError,
    db::{Connector, Database, DbError, Role},
    events::{self, Channel, Polls},
    logging,
    model::{
        InstanceId,
        config::{Config, keys},
    },
    process::{began_at, boot_id, is_gone},
};

use super::{
    accept::{Quic, serve_quic, serve_tcp},
    certificates::{Follower, Own},
    handover::{Giver, Offer, Ports},
    limits::Crowd,
    listener::{BindError, Listener},
    memory,
    metrics::Metrics,
    nodes::{self, Nodes, NodesError, Sockets},
    port::Port,
    quic::QuicPort,
    router::{Counts, Process, Refused, Router, Sessions, count},
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
    /// The schema is of another version.
    #[error(
        "the schema of the database has version {found}, this router knows {known}; install the program that made it"
    )]
    Schema {
        /// What the database has.
        found: String,
        /// What this program has.
        known: i32,
    },
    /// The routers of other nodes cannot be talked to.
    #[error("this node cannot be reached from others")]
    Nodes(#[from] NodesError),
    /// The runtime cannot watch the port.
    #[error("the port cannot be watched")]
    Io(#[from] io::Error),
}

/// Sessions may take this long to be ended when the process stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// Lets no program that this process begins gain rights. To be called while there is one thread: the kernel notes it for
/// each.
pub fn forgo_new_privileges() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// Runs the router until `stop`.
pub async fn run(mut config: Config, stop: CancellationToken) -> Result<(), L7rError> {
    let path_run = config.get(&keys::PATH_RUN);
    let mut port = Port::get(&config, &path_run)?;
    raise_descriptor_limit();
    memory::give_large_blocks_back();
    let own = if config.get(&keys::L7R_USE_SSL) { Some(Own::read(&config)?) } else { None };
    let offer = Offer::bind(&path_run)
        .inspect_err(|error| tracing::warn!(%error, "this router cannot be replaced without a pause"))
        .ok();
    let quic = own.as_ref().and_then(|_| QuicPort::get(&config, port.bound.local_addr().ok()?, port.udp.take()));
    let sockets = Sockets::prepare(&config.get(&keys::PATH_L7R_SSL)).map_err(NodesError::from)?;
    drop_rights(&config.get(&keys::L7R_AS_USER))?;

    let connector = Connector::from_config(&config, Role::L7r)?;
    let database = Database::new(&connector, config.get(&keys::DATABASE_POOL_SIZE) as usize)?;
    while let Err(error) = database.reachable(Duration::from_secs(5)).await {
        tracing::warn!(%error, "waiting for the database");
        if stop.is_cancelled() {
            return Ok(());
        }
    }
    database.schema_is_ours().await.map_err(|(found, known)| match found {
        Ok(found) => L7rError::Schema { found, known },
        Err(error) => error.into(),
    })?;
    let boot_id = boot_id()?;
    let pid = std::process::id() as i32;
    let node = config.get(&keys::NODENAME);
    let process = Process { node, boot_id, pid, began: began_at(pid).unwrap_or_default() };
    let started = process.announce(&database).await?;
    let gone: Vec<InstanceId> = database
        .l7r_instances(started.host)
        .await?
        .into_iter()
        .filter(|other| other.instance != started.instance && is_gone(&other.boot_id, other.pid, other.pid_start))
        .map(|other| other.instance)
        .collect();
    let ended = database.l7r_gone(&gone, "its router died").await?;
    if ended > 0 {
        tracing::warn!(host = %started.host, sessions = ended, "ended what an earlier router left");
    }
    for refused in config.add_rows(database.config_rows().await?) {
        tracing::warn!(host = %started.host, "{refused}; ignored");
    }
    let nodes = Nodes::open(sockets, &config, &database, &started).await?;
    let certificates = match own {
        Some(own) => {
            tracing::info!(fingerprint = own.fingerprint(), "own certificate");
            Some(Follower::new(own, &config, database.l7r_certificates().await?)?)
        }
        None => None,
    };

    let (polls, followed) = watch::channel(polls(&config));
    let hub = events::follow(path_run.join("relay.sock"), followed, stop.clone());
    let hashers = match config.get(&keys::L7R_HASH_LIMIT) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        limit => limit as usize,
    };
    let handshake = config.get(&keys::L7R_TIMEOUT_HANDSHAKE);
    let router = Arc::new(Router {
        authenticators: Chain::new(database.clone(), Hashing::new(hashers)?, &config),
        database: database.clone(),
        hub,
        config: ArcSwap::from_pointee(config.clone()),
        host: started.host,
        process,
        instance: started.instance.into(),
        sessions: Sessions::default(),
        nodes: nodes.clone(),
        counts: Counts::default(),
        refused: Refused::default(),
        metrics: Metrics::default(),
        limits: Arc::default(),
        strangers: Arc::default(),
        outdated: AtomicBool::new(false),
        replaced: CancellationToken::new(),
        stop: stop.clone(),
    });
    router.authenticators.configure(&config, database.tenant_config_rows().await?);
    let after = match offer {
        Some(offer) => {
            let ports = Ports { tcp: port.bound.try_clone()?, udp: quic.as_ref().and_then(QuicPort::share) };
            Some(offer.serve(ports, router.replaced.clone()))
        }
        None => None,
    };
    let tls = certificates.as_ref().map(Follower::tls);
    let listener = Listener::new(port.bound, tls.clone(), handshake)?;
    let flusher = tokio::spawn(router.clone().flush());
    tokio::spawn(router.clone().obey_aborts());
    tokio::spawn(router.clone().keep_limits());
    tokio::spawn(follow_config(router.clone(), config, polls, certificates));
    tracing::info!(host = %started.host, instance = %started.instance, address = %listener.address()?, "l7r runs");

    let before = port.giver.map(Giver::ready);

    let connections = TaskTracker::new();
    let nodes = nodes.map(|nodes| tokio::spawn(nodes::serve(router.clone(), nodes, connections.clone())));
    let quic = quic
        .zip(tls)
        .filter(|_| router.config.load().get(&keys::L7R_QUIC))
        .map(|(port, tls)| Quic { port, tls, before, after })
        .map(|quic| tokio::spawn(serve_quic(router.clone(), quic, connections.clone())));
    loop {
        let incoming = tokio::select! {
            incoming = listener.accept() => incoming,
            () = stop.cancelled() => break,
            () = router.replaced.cancelled() => break,
        };
        let Some(stranger) = router.strangers.enter(Crowd::from_config(&router.config.load())) else {
            count(&router.refused.crowd);
            continue;
        };
        connections.spawn(serve_tcp(router.clone(), incoming, stranger));
    }
    drop(listener);
    connections.close();
    if router.replaced.is_cancelled() {
        tracing::info!(host = %started.host, connections = connections.len(), "another router accepts now; draining");
        tokio::select! {
            () = connections.wait() => stop.cancel(),
            () = stop.cancelled() => {}
        }
    }
    let _ = tokio::time::timeout(FAREWELL, connections.wait()).await;
    for endpoint in [quic, nodes].into_iter().flatten() {
        let _ = tokio::time::timeout(FAREWELL, endpoint).await;
    }
    let _ = flusher.await;
    // Those that ended just now count, too.
    router.write_counts().await;
    database.l7r_gone(&[*router.instance.lock().await], "the router was stopped").await?;
    tracing::info!(host = %started.host, "l7r ends");
    Ok(())
}

fn polls(config: &Config) -> Polls {
    Polls { relaxed: config.get(&keys::HKD_POLL_RELAXED), urgent: config.get(&keys::HKD_POLL_URGENT) }
}

async fn follow_config(
    router: Arc<Router>,
    file: Config,
    told: watch::Sender<Polls>,
    mut certificates: Option<Follower>,
) {
    let mut watch = router.hub.watch(Channel::Config).await;
    loop {
        let outdated = matches!(router.database.schema_is_ours().await, Err((Ok(_), _)));
        if outdated != router.outdated.swap(outdated, Relaxed) {
            match outdated {
                true => tracing::error!(
                    "too old for the schema of the database; no new users until another router replaces it"
                ),
                false => tracing::info!("the schema of the database will do again"),
            }
        }
        if let Ok(rows) = router.database.config_rows().await
            && let Ok(of_tenants) = router.database.tenant_config_rows().await
        {
            let mut config = file.clone();
            for refused in config.add_rows(rows) {
                tracing::warn!("{refused}; ignored");
            }
            router.authenticators.configure(&config, of_tenants);
            logging::follow(&config);
            told.send_replace(polls(&config));
            router.config.store(Arc::new(config));
        }
        if let Some(certificates) = &mut certificates {
            match router.database.l7r_certificates().await {
                Ok(stored) => certificates.follow(&router.config.load(), stored),
                Err(error) => tracing::warn!(%error, "cannot ask for the certificate"),
            }
            let instance = *router.instance.lock().await;
            certificates.tell(&router.database, instance).await;
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
        .and_then(|()| nix::unistd::setuid(user.uid));
    dropped.map_err(|source| L7rError::Rights { account: account.to_owned(), source })
}

fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
