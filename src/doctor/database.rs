//! The database as the node's two roles meet it.

use std::{net::IpAddr, path::Path, time::Duration};

use tokio::time::timeout;

use crate::{
    db::{Certificates, Connector, Database, DbError, Role, Standing, Way},
    model::{
        StorageId,
        config::{Config, keys},
    },
};

use super::{
    configuration::JOIN,
    finding::{Finding, Grade, Subject},
};

/// For a notification to come back.
const ECHO: Duration = Duration::from_secs(2);
/// Versions as the server counts them.
const SINCE: i32 = 150_000;
/// What a node takes, and some for administrators.
const CONNECTIONS: i64 = 20;
const FAR: Duration = Duration::from_millis(20);

const SERVER: Subject = Subject {
    name: "server",
    why: "It is where nodes meet: without it nobody connects and no VM starts; what runs goes on.",
};
const HKD: Subject = Subject { name: "role of hkd", why: "Starting and stopping VMs takes the rights of qvd_node." };
const L7R: Subject = Subject {
    name: "role of l7r",
    why: "Serving users takes the rights of qvd_l7r, and strangers reach the router, so it shall have no others.",
};
const SCHEMA: Subject = Subject {
    name: "schema",
    why: "Programs stop when the schema is older than they know, or newer than they may use.",
};
const NODE: Subject = Subject { name: "this node", why: "Only a node on record gets VMs." };
const NOTIFICATIONS: Subject = Subject {
    name: "notifications",
    why: "A node is told by them what to do; it asks every second where they do not arrive.",
};
const CONNECTIONS_LEFT: Subject =
    Subject { name: "connections", why: "A node keeps about ten, and cannot start when the server gives none." };

/// An answer that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The server's SQLSTATE, when it was the server that refused.
    pub state: Option<String>,
    pub said: String,
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Self {
        let said = error.to_string();
        let said = ["the database cannot be reached: ", "the database refused a statement: "]
            .iter()
            .find_map(|preface| said.strip_prefix(preface))
            .unwrap_or(&said);
        Self { state: error.sqlstate().map(str::to_owned), said: said.to_owned() }
    }
}

/// What hkd meets.
pub struct Node {
    pub standing: Standing,
    /// Whether the schema can be used; otherwise its version, and ours.
    pub schema: Result<(), (String, i32)>,
    /// Whether something gives every transaction another session.
    pub pooled: bool,
    /// How long a notification took; `None`: it did not arrive.
    pub echo: Result<Option<Duration>, Failure>,
    /// Rows of `configs`.
    pub rows: Result<Vec<(String, String)>, Failure>,
    /// `None`: it is not on record.
    pub address: Result<Option<IpAddr>, Failure>,
    /// Which it had before, if it had one.
    pub storage: Result<Option<StorageId>, Failure>,
}

/// What l7r meets.
pub struct Router {
    pub standing: Standing,
    pub certificates: Result<Certificates, Failure>,
}

/// What was found.
pub struct Facts {
    pub hkd: Result<Node, Failure>,
    pub l7r: Result<Router, Failure>,
}

/// Logs in as both roles and looks around, as far as the configuration says where.
pub async fn look(config: Option<&Config>, limit: Duration) -> Facts {
    let Some(config) = config else {
        let unknown = Failure { state: None, said: "not known; the configuration says where it is".to_owned() };
        return Facts { hkd: Err(unknown.clone()), l7r: Err(unknown) };
    };
    let mut config = config.clone();
    // So that each server is named that does not answer.
    let patience = config.get(&keys::DATABASE_CONNECT_TIMEOUT).min(limit / 2).as_secs_f64();
    let _ = config.set(keys::DATABASE_CONNECT_TIMEOUT.name, patience.to_string());
    let (hkd, l7r) = tokio::join!(within(limit, node(&config)), within(limit, router(&config)));
    Facts { hkd, l7r }
}

async fn within<T>(limit: Duration, looked: impl Future<Output = Result<T, DbError>>) -> Result<T, Failure> {
    match timeout(limit, looked).await {
        Ok(looked) => looked.map_err(Failure::from),
        Err(_) => Err(Failure { state: None, said: format!("no answer within {} s", limit.as_secs()) }),
    }
}

async fn node(config: &Config) -> Result<Node, DbError> {
    let connector = Connector::from_config(config, Role::Node)?;
    let database = Database::new(&connector, 2)?;
    let standing = database.standing().await?;
    let name = config.get(&keys::NODENAME);
    let channel = format!("qvd_doctor_{:016x}", rand::random::<u64>());
    let (schema, echo, rows, address, storage) = tokio::join!(
        database.schema_is_ours(),
        database.echo_on(&channel, ECHO),
        database.config_rows(),
        database.node_address(&name),
        database.node_storage(&name),
    );
    Ok(Node {
        standing,
        schema: schema.map_err(|(found, known)| (found.unwrap_or_else(|error| Failure::from(error).said), known)),
        pooled: connector.is_pooled(),
        echo: echo.map_err(Failure::from),
        rows: rows.map_err(Failure::from),
        address: address.map_err(Failure::from),
        storage: storage.map_err(Failure::from),
    })
}

async fn router(config: &Config) -> Result<Router, DbError> {
    let database = Database::new(&Connector::from_config(config, Role::L7r)?, 1)?;
    let standing = database.standing().await?;
    Ok(Router { standing, certificates: database.l7r_certificates().await.map_err(Failure::from) })
}

/// What the judgement depends on beside the facts.
#[derive(Clone, Debug)]
pub struct Names<'a> {
    /// The configuration file.
    pub file: &'a Path,
    pub node: String,
    pub database: String,
    pub hosts: String,
    /// Roles of hkd and l7r as configured.
    pub roles: [String; 2],
}

impl<'a> Names<'a> {
    pub fn new(config: &Config, file: &'a Path) -> Self {
        let role =
            |configured: String, default: &str| if configured.is_empty() { default.to_owned() } else { configured };
        Self {
            file,
            node: config.get(&keys::NODENAME),
            database: config.get(&keys::DATABASE_NAME),
            hosts: config.get(&keys::DATABASE_HOST).join(", "),
            roles: [
                role(config.get(&keys::DATABASE_USER), "qvd_node"),
                role(config.get(&keys::DATABASE_L7R_USER), "qvd_l7r"),
            ],
        }
    }
}

/// Judges it.
pub fn judge(facts: &Facts, names: &Names<'_>) -> Vec<Finding> {
    let [hkd, l7r] = &names.roles;
    let mut findings = Vec::new();
    let seen = facts.hkd.as_ref().map(|node| &node.standing).or(facts.l7r.as_ref().map(|router| &router.standing));
    findings.extend(seen.ok().map(|standing| server(standing, names)));
    match &facts.hkd {
        Ok(node) => findings.extend(of_node(node, names)),
        Err(failure) => findings.push(refused(HKD, failure, (hkd, "database.password"), names)),
    }
    match &facts.l7r {
        Ok(router) => findings.push(role_of_router(&router.standing)),
        // What is true of both is said once.
        Err(failure) if facts.hkd.as_ref().is_err_and(|of_hkd| of_hkd == failure) => {}
        Err(failure) => findings.push(refused(L7R, failure, (l7r, "database.l7r.password"), names)),
    }
    findings
}

/// A server that refuses somebody is there.
fn refused(subject: Subject, failure: &Failure, login: (&str, &str), names: &Names<'_>) -> Finding {
    if subject.name == L7R.name && is_peer(failure) {
        // Where the socket's peer is trusted, only the router's account could tell.
        let test = format!("runuser -u … -- psql -h {} -U {} {} -c 'select 1'", names.hosts, login.0, names.database);
        return L7R.tolerable("not known: it logs in by its account, and root is not let in as it", test);
    }
    let subject = if failure.state.is_some() { subject } else { SERVER };
    subject.bad(&failure.said, mend(failure, login, names))
}

fn of_node(node: &Node, names: &Names<'_>) -> Vec<Finding> {
    let Standing { role, is_node, superuser, connections_left, .. } = &node.standing;
    let migrate = format!("qvd db migrate --database 'host=… user=postgres dbname={}'", names.database);
    let grant = format!("psql {} -c 'grant qvd_node to {role}'", names.database);
    let mut findings = vec![match (is_node, superuser) {
        (true, true) => {
            HKD.tolerable(format!("{role}, a superuser"), format!("psql -c 'alter role {role} nosuperuser'"))
        }
        (true, false) => HKD.good(role),
        (false, _) => HKD.bad(format!("{role} has not the rights of qvd_node"), grant),
    }];
    findings.push(match &node.schema {
        Ok(()) => SCHEMA.good("the one that this program knows"),
        Err((found, known)) => match found.parse::<i32>() {
            Ok(found) if found > *known => {
                SCHEMA.bad(format!("{found}, newer than {known} of this program"), "install the newer programs")
            }
            Ok(found) => SCHEMA.bad(format!("{found}, older than {known} of this program"), migrate.clone()),
            Err(_) => SCHEMA.bad(found, migrate.clone()),
        },
    });
    let Ok(()) = node.schema else { return findings };
    findings.push(match (&node.address, names.node.as_str()) {
        (_, "") => NODE.bad("it has no name", format!("echo 'nodename = …' >> {}", names.file.display())),
        (Ok(Some(address)), name) => NODE.good(format!("{name}, {address}")),
        (Ok(None), name) => NODE.bad(
            format!("no node is named {name}"),
            format!(
                "psql {} -c \"select host_create('{name}', '…')\"  # its address, in the VM network unless that is routed",
                names.database
            ),
        ),
        (Err(failure), _) => NODE.bad(&failure.said, migrate),
    });
    let direct =
        format!("let database.host in {} name the server itself, or set pool_mode = session", names.file.display());
    findings.push(match &node.echo {
        _ if node.pooled => NOTIFICATIONS.tolerable("a pooler in transaction mode swallows them", direct),
        Ok(Some(took)) => NOTIFICATIONS.good(format!("arrive after {}", milliseconds(*took))),
        Ok(None) => NOTIFICATIONS.tolerable("do not arrive; does a pooler stand before the database?", direct),
        Err(failure) => NOTIFICATIONS.tolerable(format!("cannot be listened to: {}", failure.said), direct),
    });
    findings.push(CONNECTIONS_LEFT.graded(
        match *connections_left {
            ..1 => Grade::Bad,
            1..CONNECTIONS => Grade::Tolerable,
            _ => Grade::Good,
        },
        format!("{connections_left} left"),
        "psql -c 'alter system set max_connections = 500'  # and restart PostgreSQL",
    ));
    findings
}

fn role_of_router(standing: &Standing) -> Finding {
    let Standing { role, superuser, is_node, is_l7r, .. } = standing;
    match (is_l7r, superuser, is_node) {
        (false, ..) => {
            L7R.bad(format!("{role} has not the rights of qvd_l7r"), format!("psql -c 'grant qvd_l7r to {role}'"))
        }
        (_, true, _) => L7R.bad(format!("{role}, a superuser"), format!("psql -c 'alter role {role} nosuperuser'")),
        (.., true) => {
            L7R.bad(format!("{role} has the rights of qvd_node, too"), format!("psql -c 'revoke qvd_node from {role}'"))
        }
        _ => L7R.good(role),
    }
}

fn server(standing: &Standing, names: &Names<'_>) -> Finding {
    let Standing { version, way, round_trip, .. } = standing;
    let how = match way {
        Way::Socket => "by socket",
        Way::Encrypted => "encrypted",
        Way::Plain => "unencrypted",
    };
    let found = format!(
        "PostgreSQL {}.{} at {}, {how}, {} away",
        version / 10_000,
        version % 10_000,
        names.hosts,
        milliseconds(*round_trip)
    );
    let file = names.file.display();
    match way {
        _ if *version < SINCE => SERVER.bad(format!("{found}; 15 or newer is needed"), "apt-get install postgresql-15"),
        Way::Plain => SERVER.tolerable(found, format!("echo 'database.sslmode = require' >> {file}")),
        _ if *round_trip > FAR => SERVER.tolerable(found, "move the node and its database closer together"),
        _ => SERVER.good(found),
    }
}

fn is_peer(failure: &Failure) -> bool {
    failure.state.as_deref() == Some("28000") && failure.said.contains("Peer authentication")
}

/// What lets a role in.
fn mend(failure: &Failure, (role, password): (&str, &str), names: &Names<'_>) -> String {
    let (file, database) = (names.file.display(), &names.database);
    match failure.state.as_deref() {
        Some("28P01") => format!("psql -c \"alter role {role} password '…'\"  # that of {password} in {file}"),
        Some("28000") if failure.said.contains("pg_hba.conf") => {
            format!("echo 'hostssl {database} +qvd_node,+qvd_l7r …/32 scram-sha-256' >> pg_hba.conf  # of the server")
        }
        Some("28000") if is_peer(failure) => {
            format!("echo 'qvd root {role}' >> pg_ident.conf  # map=qvd in pg_hba.conf")
        }
        Some("28000") => format!("qvd db migrate --database 'host=… user=postgres dbname={database}'"),
        Some("3D000") => format!("createdb {database} && qvd db migrate --database 'host=… dbname={database}'"),
        _ if failure.said.contains("qvd db restored") => {
            format!("qvd db restored --database 'host=… user=postgres dbname={database}'")
        }
        _ if names.node.is_empty() => JOIN.to_owned(),
        _ => format!("systemctl start postgresql  # on {}, or correct database.host in {file}", names.hosts),
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(role: &str) -> Standing {
        Standing {
            role: role.to_owned(),
            superuser: false,
            is_node: role == "qvd_node",
            is_l7r: role == "qvd_l7r",
            version: 150_014,
            way: Way::Encrypted,
            round_trip: Duration::from_millis(1),
            clock_ahead: 0.0,
            connections_left: 90,
        }
    }

    fn whole() -> Facts {
        Facts {
            hkd: Ok(Node {
                standing: standing("qvd_node"),
                schema: Ok(()),
                pooled: false,
                echo: Ok(Some(Duration::from_millis(2))),
                rows: Ok(vec![]),
                address: Ok(Some([10, 0, 0, 1].into())),
                storage: Ok(None),
            }),
            l7r: Ok(Router { standing: standing("qvd_l7r"), certificates: Ok(Certificates::default()) }),
        }
    }

    fn names() -> Names<'static> {
        Names {
            file: Path::new("/etc/qvd/node.conf"),
            node: "n1".to_owned(),
            database: "qvd".to_owned(),
            hosts: "db1".to_owned(),
            roles: ["qvd_node".to_owned(), "qvd_l7r".to_owned()],
        }
    }

    fn other_than_good(change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Grade)> {
        let mut facts = whole();
        change(&mut facts);
        let findings = judge(&facts, &names()).into_iter().filter(|finding| finding.grade != Grade::Good);
        findings.map(|finding| (finding.name, finding.grade)).collect()
    }

    fn node(facts: &mut Facts) -> &mut Node {
        facts.hkd.as_mut().unwrap()
    }

    #[test]
    fn a_database_is_judged_line_by_line() {
        use Grade::{Bad, Tolerable};
        assert_eq!(other_than_good(|_| {}), []);
        assert_eq!(other_than_good(|facts| node(facts).pooled = true), [("notifications", Tolerable)]);
        assert_eq!(other_than_good(|facts| node(facts).echo = Ok(None)), [("notifications", Tolerable)]);
        assert_eq!(other_than_good(|facts| node(facts).address = Ok(None)), [("this node", Bad)]);
        assert_eq!(other_than_good(|facts| node(facts).schema = Err(("9".to_owned(), 8))), [("schema", Bad)]);
        assert_eq!(other_than_good(|facts| node(facts).standing.connections_left = 3), [("connections", Tolerable)]);
        assert_eq!(other_than_good(|facts| node(facts).standing.connections_left = 0), [("connections", Bad)]);
        assert_eq!(other_than_good(|facts| node(facts).standing.is_node = false), [("role of hkd", Bad)]);
        assert_eq!(other_than_good(|facts| node(facts).standing.way = Way::Plain), [("server", Tolerable)]);
        assert_eq!(other_than_good(|facts| node(facts).standing.version = 140_001), [("server", Bad)]);
    }

    #[test]
    fn a_router_with_more_rights_than_it_needs_is_bad() {
        fn router(facts: &mut Facts) -> &mut Standing {
            &mut facts.l7r.as_mut().unwrap().standing
        }
        for change in [
            (|facts| router(facts).superuser = true) as fn(&mut Facts),
            |facts| router(facts).is_node = true,
            |facts| router(facts).is_l7r = false,
        ] {
            assert_eq!(other_than_good(change), [("role of l7r", Grade::Bad)]);
        }
    }

    #[test]
    fn who_is_not_let_in_is_told_how_to_be() {
        let failure = |state: &str, said: &str| Failure { state: Some(state.to_owned()), said: said.to_owned() };
        for (state, said, mend) in [
            ("28P01", "password authentication failed for user \"qvd_node\"", "alter role qvd_node password"),
            ("28000", "no pg_hba.conf entry for host \"10.0.0.1\"", "hostssl qvd +qvd_node,+qvd_l7r"),
            ("28000", "role \"qvd_node\" does not exist", "qvd db migrate"),
            ("3D000", "database \"qvd\" does not exist", "createdb qvd"),
        ] {
            let facts = Facts { hkd: Err(failure(state, said)), ..whole() };
            let findings = judge(&facts, &names());
            let refused = findings.iter().find(|finding| finding.grade == Grade::Bad).unwrap();
            assert_eq!((refused.name, refused.found.as_str()), ("role of hkd", said));
            assert!(refused.mend.as_ref().unwrap().contains(mend), "{refused:?}");
        }
        let peer = || Err(failure("28000", "Peer authentication failed for user \"qvd_l7r\""));
        let findings = judge(&Facts { l7r: peer(), ..whole() }, &names());
        assert_eq!(findings.iter().map(|finding| finding.grade).max(), Some(Grade::Tolerable), "only nobody knows");
        let gone = Failure { state: None, said: "connection refused".to_owned() };
        let facts = Facts { hkd: Err(gone.clone()), l7r: Err(gone) };
        assert_eq!(judge(&facts, &names()).len(), 1, "what is true of both is said once");
    }
}
