//! Makes a machine a node: on record in the database, with logins of its own, on the storage that the other nodes share,
//! with a configuration file and a certificate. Nothing that is there is overwritten, and what fails can be repeated.
//! The node is not started here.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rand::{RngExt, distr::Alphanumeric};
use thiserror::Error;

use crate::{
    certificate::{Identity, TlsError},
    db::{Connector, Database, DbError, Joined, Role},
    model::{
        HostId, StorageId,
        config::{Config, ConfigError, keys},
    },
    network::{Network, NetworkError},
    storage::{Storage, StorageError},
};

/// Characters of a password, of 62 kinds each.
const PASSWORD: usize = 32;

/// What the machine shall be.
pub struct Plan {
    /// Name of the node.
    pub name: String,
    /// By which other nodes know it: in the VM network unless that is routed.
    pub address: IpAddr,
    /// Whom it shares its storage with.
    pub sharing: Sharing,
    /// Further lines of its configuration.
    pub settings: Vec<(String, String)>,
    /// Where its configuration is written.
    pub file: PathBuf,
}

/// Whom a node shares its storage with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The nodes that are there; the first one begins a storage.
    Others,
    /// Nobody yet: a second storage begins.
    Begin,
    /// Nobody ever.
    Alone,
}

/// What has become of it.
pub struct Report {
    /// Its number.
    pub host: HostId,
    /// The storage that it shares.
    pub storage: Option<StorageId>,
    /// SHA-256 of the certificate that users are shown.
    pub fingerprint: String,
    /// Whether all nodes show that certificate, or this one alone.
    pub certificate_of_all: bool,
    /// Roles of hkd and l7r.
    pub roles: [String; 2],
}

/// Why a machine cannot be a node.
#[derive(Debug, Error)]
pub enum JoinError {
    /// There is a configuration already.
    #[error("{} exists: move it away, or name another file", .0.display())]
    FileExists(PathBuf),
    /// A value that a configuration cannot have.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The name cannot stand in the file.
    #[error("the name of a node cannot be {0:?}")]
    Name(String),
    /// Address or network.
    #[error("the node does not fit into the VM network{hint}")]
    Network {
        /// What to do, in parentheses.
        hint: String,
        /// Why.
        #[source]
        source: NetworkError,
    },
    /// The database is not that of this program.
    #[error("the schema of the database has version {found}, this program needs {known}")]
    Schema {
        /// What the database has.
        found: String,
        /// What this program has.
        known: i32,
    },
    /// The database refused.
    #[error("the database does not take the node")]
    Db(#[from] DbError),
    /// The storage does not answer as one.
    #[error("the storage cannot be used")]
    Storage(#[from] StorageError),
    /// Not what the other nodes have.
    #[error(
        "{} {}, but the nodes on record share {in_use}: mount what they have; a storage of another kind is begun with --new-storage, one for this node alone with --local-storage",
        .root.display(), .found.as_ref().map_or("is no storage yet".to_owned(), |found| format!("is storage {found}"))
    )]
    OtherStorage {
        /// Its root.
        root: PathBuf,
        /// What is there.
        found: Option<StorageId>,
        /// What the others have.
        in_use: String,
    },
    /// The configuration file.
    #[error("cannot write {}", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate.
    #[error("the certificate of the node cannot be made")]
    Certificate(#[from] TlsError),
    /// The logins that were made do not let the node in.
    #[error(
        "the node is on record and {} is written, but the database does not let {role} in; allow it in pg_hba.conf of the \
         database, for instance: {line}",
        .file.display()
    )]
    NotAdmitted {
        /// Where the configuration is.
        file: PathBuf,
        /// Who was refused.
        role: String,
        /// What would let it in.
        line: String,
        /// Why.
        #[source]
        source: Box<DbError>,
    },
}

/// Makes this machine a node of the cluster whose database that is. The connection must be its owner's.
pub async fn join(connector: &Connector, plan: &Plan) -> Result<Report, JoinError> {
    if plan.file.exists() {
        return Err(JoinError::FileExists(plan.file.clone()));
    }
    if plan.name.is_empty() || !plan.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)) {
        return Err(JoinError::Name(plan.name.clone()));
    }
    let database = Database::new(connector, 1)?;
    database.schema_is_ours().await.map_err(|(found, known)| match found {
        Ok(found) => JoinError::Schema { found, known },
        Err(error) => error.into(),
    })?;
    let mut config = Config::default();
    // What the cluster has and this version refuses is told by the daemons.
    let _ = config.add_rows(database.config_rows().await?);
    let mut lines = vec![("nodename", plan.name.clone())];
    lines.extend(connector.place());
    lines.extend(plan.settings.iter().map(|(key, value)| (key.as_str(), value.clone())));
    if plan.sharing == Sharing::Alone {
        lines.push(("storage.local", "1".to_owned()));
    }
    for (key, value) in &lines {
        config.set(key, value)?;
    }
    Network::new(&config, plan.address).map_err(|source| JoinError::Network {
        hint: source.hint().map(|hint| format!(" ({hint})")).unwrap_or_default(),
        source,
    })?;
    let storage = match plan.sharing {
        Sharing::Alone => None,
        sharing => Some(storage(&Storage::new(&config), &connector.storages().await?, sharing)?),
    };

    let passwords = [(); 2].map(|()| rand::rng().sample_iter(Alphanumeric).take(PASSWORD).map(char::from).collect());
    let joined = connector.node_join((&plan.name, plan.address), storage.as_ref(), passwords).await?;
    let Joined { host, node, l7r } = joined;
    for (key, value) in [
        ("database.user", &node.role),
        ("database.password", &node.password),
        ("database.l7r.user", &l7r.role),
        ("database.l7r.password", &l7r.password),
    ] {
        config.set(key, value)?;
        lines.push((key, value.clone()));
    }
    write(&plan.file, &lines).map_err(|source| JoinError::File { path: plan.file.clone(), source })?;
    let (fingerprint, certificate_of_all) = certificate(&config, &database).await?;
    for (role, login) in [(Role::Node, &node), (Role::L7r, &l7r)] {
        admitted(&config, role).await.map_err(|source| JoinError::NotAdmitted {
            file: plan.file.clone(),
            role: login.role.clone(),
            line: format!(
                "hostssl {} {} {}/{} scram-sha-256",
                config.get(&keys::DATABASE_NAME),
                login.role,
                plan.address,
                if plan.address.is_ipv4() { 32 } else { 128 }
            ),
            source: Box::new(source),
        })?;
    }
    Ok(Report { host, storage, fingerprint, certificate_of_all, roles: [node.role, l7r.role] })
}

/// The storage that the node will have; made when it is the first one.
fn storage(storage: &Storage, in_use: &[StorageId], sharing: Sharing) -> Result<StorageId, JoinError> {
    let found = storage.identity()?;
    if !fits(found.as_ref(), in_use, sharing) {
        let in_use = in_use.iter().map(StorageId::to_string).collect::<Vec<_>>().join(", ");
        return Err(JoinError::OtherStorage { root: storage.root().to_owned(), found, in_use });
    }
    Ok(storage.identify(found.as_ref())?)
}

/// Whether a node may have the storage that was found, when others have `in_use`. An empty directory is most often a share
/// that is not mounted.
fn fits(found: Option<&StorageId>, in_use: &[StorageId], sharing: Sharing) -> bool {
    in_use.is_empty() || sharing == Sharing::Begin || found.is_some_and(|found| in_use.contains(found))
}

/// The certificate that users will be shown: that of all nodes, else one of this node's own, which is made unless there is
/// one.
async fn certificate(config: &Config, database: &Database) -> Result<(String, bool), JoinError> {
    let stored = database.l7r_certificates().await?;
    if let (Some(certificate), Some(key)) = (&stored.certificate, &stored.key) {
        let place = "table ssl_configs";
        let identity = Identity::from_pem((certificate.as_bytes(), place), (key.as_bytes(), place))?;
        return Ok((identity.fingerprint(), true));
    }
    Ok((Identity::of_node(config)?.fingerprint(), false))
}

async fn admitted(config: &Config, role: Role) -> Result<(), DbError> {
    let database = Database::new(&Connector::from_config(config, role)?, 1)?;
    database.config_rows().await.map(drop)
}

/// Whole or not at all, and for its owner alone.
fn write(file: &Path, lines: &[(&str, String)]) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let unfinished = file.with_extension("conf.new");
    let mut new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    for (key, value) in lines {
        writeln!(new, "{key} = {value}")?;
    }
    new.sync_all()?;
    // A file that has appeared meanwhile is somebody's.
    let linked = std::fs::hard_link(&unfinished, file);
    std::fs::remove_file(&unfinished)?;
    linked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_that_the_others_do_not_have_needs_to_be_meant() {
        let id = |digit: char| -> StorageId {
            format!("{0}{0}{0}{0}{0}{0}{0}{0}-0000-0000-0000-000000000000", digit).parse().unwrap()
        };
        let (theirs, other) = (id('a'), id('b'));
        let in_use = [theirs.clone()];
        assert!(fits(None, &[], Sharing::Others), "the first node begins a storage");
        assert!(fits(Some(&other), &[], Sharing::Others));
        assert!(fits(Some(&theirs), &in_use, Sharing::Others));
        assert!(!fits(Some(&other), &in_use, Sharing::Others));
        assert!(!fits(None, &in_use, Sharing::Others), "a share that is not mounted");
        assert!(fits(None, &in_use, Sharing::Begin) && fits(Some(&other), &in_use, Sharing::Begin));
    }

    #[test]
    fn a_configuration_is_for_its_owner_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("etc/node.conf");
        write(&file, &[("nodename", "n1".to_owned())]).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&file, &[("nodename", "n2".to_owned())]).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "nodename = n1\n");
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
