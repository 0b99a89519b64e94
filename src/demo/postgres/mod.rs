//! A private PostgreSQL for demo, tests and benchmarks, from the distribution's own binaries.
//!
//! A *cluster* here is one data directory with one server that listens on a unix socket, and on nothing else unless a
//! setting says so. The directory stays when the server ends, and is opened again by the next run. A cluster may be made
//! as the standby of another. Roles, schema and queries are not made here.

mod binaries;
mod directory;
mod leftovers;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
    unistd::Uid,
};
use thiserror::Error;
use tokio::{sync::Mutex, time};

use self::binaries::Binaries;
use super::attached::{Account, Attached, attached_command};
use crate::process::{ProcessError, Program, last_lines};

/// The port is part of the socket's name, and where a setting makes the server listen.
pub const PORT: u16 = 5432;
/// Crash recovery of a demo's database is a matter of seconds.
const START_LIMIT: Duration = Duration::from_secs(60);
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);
/// What a fast shutdown may take before it becomes an immediate one.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(10);

/// Whether a commit survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As in production: demo and benchmarks.
    Durable,
    /// Nothing is forced to disk: tests.
    Volatile,
}

/// Who may log in through the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// root as `postgres` and as every role of ours, `nobody` (which the router runs as) as `qvd_l7r` only.
    Peer,
    /// Every local user as anybody, and over TCP whoever has a password and uses TLS: tests.
    Trust,
    /// The same, and everybody whose network the machine is in: nodes that have one each.
    Network,
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The data directory; made if missing, kept at the end. A lock file with suffix `.lock` lies beside it.
    pub data_dir: PathBuf,
    /// The directory of the socket; made if missing. Its path must be short, see [`ClusterError::SocketPath`].
    pub socket_dir: PathBuf,
    /// Whether a commit survives a power cut.
    pub durability: Durability,
    /// Who may log in.
    pub access: Access,
    /// Further settings of the server, `name=value`.
    pub settings: Vec<String>,
}

/// A running server and its data directory. The server ends with this value, and with this process.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    binaries: Binaries,
    account: Account,
    server: Mutex<Option<Attached>>,
    /// Held as long as the data directory is ours.
    _lock: Flock<File>,
}

/// Why there is no database.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// The distribution's package is missing.
    #[error("no PostgreSQL found below {}: install package postgresql", .root.display())]
    NotInstalled {
        /// Where it was looked for.
        root: PathBuf,
    },
    /// The data directory was made by a version that is gone.
    #[error("{} was made by PostgreSQL {version}: install package postgresql-{version} or remove the directory", .path.display())]
    OtherVersion {
        /// The data directory.
        path: PathBuf,
        /// Its major version.
        version: u32,
    },
    /// PostgreSQL refuses to run as root, and its own account is missing.
    #[error("there is no user postgres to run the database as: install package postgresql")]
    NoAccount,
    /// The kernel limits the path of a unix socket to 107 bytes.
    #[error("the database socket would be {}, longer than 107 bytes: choose a shorter directory", .path.display())]
    SocketPath {
        /// The path of the socket.
        path: PathBuf,
    },
    /// A directory above ours is closed.
    #[error("user {user} may not enter {}: allow it (chmod a+x) or choose another directory", .path.display())]
    Unreachable {
        /// The directory that is closed.
        path: PathBuf,
        /// Who stands before it.
        user: String,
    },
    /// Another process of ours uses the data directory.
    #[error("the database in {} is in use by another process", .path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// There is something else in the data directory.
    #[error("{} is not empty and not a PostgreSQL data directory", .path.display())]
    NotACluster {
        /// The data directory.
        path: PathBuf,
    },
    /// A file or directory could not be made ready.
    #[error("cannot prepare {}", .path.display())]
    Prepare {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of PostgreSQL's programs failed.
    #[error("cannot {what}")]
    Program {
        /// What was to be done to which object.
        what: String,
        /// What the program said.
        #[source]
        source: ProcessError,
    },
    /// The server could not be started at all.
    #[error("cannot start the database server in {}", .path.display())]
    Start {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server ended while it was starting, or did not get ready in time.
    #[error("the database server in {} did not start: {said}", .path.display())]
    NotReady {
        /// The data directory.
        path: PathBuf,
        /// The end of its log.
        said: String,
    },
}

impl Cluster {
    /// Makes the data directory if it is missing, ends what an earlier run may have left, starts the server and
    /// waits until it accepts connections.
    pub async fn open(mut options: ClusterOptions) -> Result<Self, ClusterError> {
        // The server works in its data directory, so what was said relative to ours would mean another place.
        for path in [&mut options.data_dir, &mut options.socket_dir] {
            *path = std::path::absolute(&*path).map_err(prepare(path))?;
        }
        let account = if Uid::effective().is_root() { Account::named("postgres") } else { Account::own().map(Some) };
        let account = account
            .map_err(|source| ClusterError::Prepare { path: options.data_dir.clone(), source })?
            .ok_or(ClusterError::NoAccount)?;
        let binaries = Binaries::for_directory(&options.data_dir)?;
        directory::prepare_parents(&options, &account)?;
        let lock = lock(&options.data_dir)?;
        leftovers::end(&options.data_dir).await.map_err(prepare(&options.data_dir))?;
        if directory::is_missing(&options.data_dir)? {
            directory::initialise(&options, &binaries, &account).await?;
        }
        directory::write_access_rules(&options, &account)?;
        let cluster = Self { options, binaries, account, server: Mutex::new(None), _lock: lock };
        cluster.start().await?;
        Ok(cluster)
    }

    /// Makes a standby that follows this server from now on, with a data directory of its own, and starts it.
    pub async fn standby(&self, options: ClusterOptions) -> Result<Self, ClusterError> {
        directory::prepare_parents(&options, &self.account)?;
        directory::make_empty(&options.data_dir, &self.account)?;
        let mut command = self.client_command("pg_basebackup");
        command.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&options.data_dir);
        self.run(command, format!("copy the database to {}", options.data_dir.display())).await?;
        Self::open(options).await
    }

    /// Stops every process of the server in its tracks, or lets them go on, for tests of a server that does not answer.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        leftovers::freeze(&self.options.data_dir, frozen)
    }

    /// Starts the server after [`Cluster::stop`]; does nothing while it runs.
    pub async fn start(&self) -> Result<(), ClusterError> {
        let mut server = self.server.lock().await;
        if server.as_ref().is_some_and(|server| server.pid().is_some()) {
            return Ok(());
        }
        // Backends of a server that was killed end by themselves, but a moment later.
        leftovers::end(&self.options.data_dir).await.map_err(prepare(&self.options.data_dir))?;
        let started = Attached::start(self.server_command()?, Signal::SIGINT)
            .map_err(|source| ClusterError::Start { path: self.options.data_dir.clone(), source })?;
        self.wait_until_ready(&started).await?;
        tracing::debug!(data_dir = %self.options.data_dir.display(), "database is ready");
        *server = Some(started);
        Ok(())
    }

    /// Stops the server in an orderly way: sessions are ended, data is complete on disk. Repeatable.
    pub async fn stop(&self) {
        let Some(server) = self.server.lock().await.take() else { return };
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            server.signal(signal);
            if time::timeout(STOP_LIMIT, server.exited()).await.is_ok() {
                return;
            }
        }
    }

    /// Stops and starts the server.
    pub async fn restart(&self) -> Result<(), ClusterError> {
        self.stop().await;
        self.start().await
    }

    /// Kills the server, for tests of what happens when it dies. [`Cluster::start`] recovers.
    pub async fn kill(&self) {
        let Some(server) = self.server.lock().await.take() else { return };
        server.signal(Signal::SIGKILL);
        server.exited().await;
    }

    /// Makes an empty database; one that exists is left as it is.
    pub async fn create_database(&self, name: &str) -> Result<(), ClusterError> {
        match self.createdb(name, "template1").await {
            Err(ClusterError::Program { source: ProcessError::Failed { stderr: said, .. }, .. })
                if said.contains("already exists") =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Makes a database as a copy of `template`, which nobody may be connected to. The name must be free.
    pub async fn copy_database(&self, name: &str, template: &str) -> Result<(), ClusterError> {
        self.createdb(name, template).await
    }

    /// Removes a database and ends the sessions in it; one that is not there is no error.
    pub async fn drop_database(&self, name: &str) -> Result<(), ClusterError> {
        let mut command = self.client_command("dropdb");
        command.args(["--force", "--if-exists", "--", name]);
        self.run(command, format!("drop database {name}")).await
    }

    /// What a client needs to connect, as `key=value` words that libpq and `tokio_postgres` understand.
    pub fn connection_string(&self, database: &str, role: &str) -> String {
        let host = self.options.socket_dir.to_string_lossy();
        let words = [("host", &*host), ("port", "5432"), ("user", role), ("dbname", database)];
        words.map(|(key, value)| format!("{key}={}", quoted(value))).join(" ")
    }

    /// The directory of the socket, which is what `psql -h` wants.
    pub fn socket_dir(&self) -> &Path {
        &self.options.socket_dir
    }

    /// The server's log of this run.
    pub fn log(&self) -> PathBuf {
        log_path(&self.options.data_dir)
    }

    async fn createdb(&self, name: &str, template: &str) -> Result<(), ClusterError> {
        let mut command = self.client_command("createdb");
        command.arg(format!("--template={template}")).args(["--", name]);
        self.run(command, format!("create database {name}")).await
    }

    async fn run(&self, command: Command, what: String) -> Result<(), ClusterError> {
        match Program::from(command).limit(PROGRAM_LIMIT).run().await {
            Ok(_) => Ok(()),
            Err(source) => Err(ClusterError::Program { what, source }),
        }
    }

    /// One of PostgreSQL's own clients, run as the server's account.
    fn client_command(&self, name: &str) -> Command {
        let mut command = attached_command(self.binaries.path(name), &self.account, Signal::SIGKILL);
        command.arg("--host").arg(&self.options.socket_dir).args(["--port", "5432", "--username", "postgres"]);
        if name != "pg_isready" {
            command.arg("--no-password");
        }
        command
    }

    fn server_command(&self) -> Result<Command, ClusterError> {
        let path = self.log();
        let log = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path);
        let log = log.map_err(prepare(&path))?;
        let mut command = attached_command(self.binaries.path("postgres"), &self.account, Signal::SIGINT);
        command.arg("-D").arg(&self.options.data_dir).arg("-k").arg(&self.options.socket_dir);
        for setting in settings(self.options.durability).iter().chain(&self.options.settings) {
            command.arg("-c").arg(setting);
        }
        let output = log.try_clone().map_err(prepare(&path))?;
        command.stdin(Stdio::null()).stdout(output).stderr(log);
        Ok(command)
    }

    async fn wait_until_ready(&self, server: &Attached) -> Result<(), ClusterError> {
        let ready = async {
            while Program::from(self.client_command("pg_isready")).run().await.is_err() {
                time::sleep(READY_POLL).await;
            }
        };
        tokio::select! {
            () = ready => Ok(()),
            _ = server.exited() => Err(self.not_ready("")),
            () = time::sleep(START_LIMIT) => Err(self.not_ready("it took too long; ")),
        }
    }

    fn not_ready(&self, why: &str) -> ClusterError {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let said = format!("{why}{}", last_lines(&log, 4));
        ClusterError::NotReady { path: self.options.data_dir.clone(), said }
    }
}

fn settings(durability: Durability) -> Vec<String> {
    let mut settings = vec![
        format!("port={PORT}"),
        "listen_addresses=".to_owned(),
        "unix_socket_permissions=0777".to_owned(),
        "max_connections=200".to_owned(),
        "logging_collector=off".to_owned(),
    ];
    if durability == Durability::Volatile {
        settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned));
    }
    settings
}

/// One process at a time has the directory; the kernel gives the lock back however that process ends.
fn lock(data_dir: &Path) -> Result<Flock<File>, ClusterError> {
    let path = beside(data_dir, "lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(prepare(&path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| ClusterError::InUse { path: data_dir.to_owned() })
}

fn log_path(data_dir: &Path) -> PathBuf {
    beside(data_dir, "log")
}

/// The path of a file that belongs to the data directory but cannot lie in it.
fn beside(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    data_dir.with_file_name(name)
}

/// A value of a connection string, quoted when it has to be.
fn quoted(value: &str) -> String {
    if !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

fn prepare(path: &Path) -> impl FnOnce(io::Error) -> ClusterError {
    |source| ClusterError::Prepare { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
