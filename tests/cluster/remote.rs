//! A database over the network: certificates and passwords, and a pooler between.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use qvd::{
    db::{Connector, Role},
    model::config::Config,
};
use tempfile::TempDir;

use super::{
    database::{Db, open_directory},
    host::Host,
    patience::until,
};

/// A server that listens on the network, with a certificate for the first of its addresses, and a password for the nodes.
pub struct Remote {
    pub db: Db,
    addresses: [String; 2],
    /// Holds the authority that it is of, and another.
    directory: TempDir,
}

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Remote {
    /// On addresses of its own, so that servers may have the same port.
    pub async fn new(number: u8) -> Self {
        let directory = open_directory();
        let addresses = [1, 2].map(|n| format!("127.77.{number}.{n}"));
        let path = directory.path();
        let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        for authority in ["ours", "other"] {
            openssl(path, &format!("{key} -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"));
        }
        let name = format!("-subj /CN=db -addext subjectAltName=IP:{} -addext basicConstraints=CA:FALSE", addresses[0]);
        openssl(path, &format!("{key} {name} -CA ours.pem -CAkey ours.key -keyout server.key -out server.pem"));
        let postgres = nix::unistd::User::from_name("postgres").unwrap().unwrap();
        std::os::unix::fs::chown(path.join("server.key"), Some(postgres.uid.as_raw()), None).unwrap();
        let file = |name: &str| path.join(name).display().to_string();
        let settings = [
            format!("listen_addresses={}", addresses.join(",")),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", file("server.pem")),
            format!("ssl_key_file={}", file("server.key")),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let db = Db::alone(&settings).await;
        db.connector().migrate().await.unwrap();
        db.sql("set search_path = qvd, public").await;
        db.sql("alter role qvd_node password 'open sesame'").await;
        db.fill(1).await;
        Self { db, addresses, directory }
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// A node with that password.
    pub fn host(&self, settings: &[(&str, &str)]) -> Host<'_> {
        let basic = [("database.host", self.addresses[0].as_str()), ("database.password", "open sesame")];
        Host::new(&self.db, &[&basic, settings].concat())
    }
}

#[tokio::test]
async fn a_database_elsewhere_is_trusted_for_its_certificate_and_trusts_for_the_password() {
    let remote = Remote::new(1).await;
    let ca = remote.file("ours.pem");
    let host = remote.host(&[("database.sslmode", "verify-full"), ("database.sslrootcert", &ca)]);
    let _hkd = host.started().await;
    let encrypted = "select bool_and(ssl) and count(*) > 1 from pg_stat_activity join pg_stat_ssl using (pid)
                     where application_name like 'qvd hkd%'";
    assert_eq!(remote.db.sql(encrypted).await.unwrap(), "t");
    remote.db.sql("select vm_start('alice/d1')").await;
    remote.db.wait_vm("d1", "running").await;
}

#[tokio::test]
async fn what_of_a_certificate_is_wrong_is_said_and_how_to_put_it_right() {
    let remote = Remote::new(2).await;
    let answer = async |settings: &[(&str, &str)]| {
        let mut config = Config::default();
        let text = fs::read_to_string(remote.host(settings).config()).unwrap();
        config.add_file("node.conf", &text).unwrap();
        match Connector::from_config(&config, Role::Node) {
            Ok(connector) => connector.value("select 1").await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    let (ours, other) = (remote.file("ours.pem"), remote.file("other.pem"));
    let [by_name, by_address] = &remote.addresses;
    let cases: [(&str, &str, &str, Option<&str>); 9] = [
        ("verify-full", &ours, by_name, None),
        ("require", &ours, by_name, None),
        ("verify-ca", &ours, by_address, None),
        ("prefer", "", by_address, None),
        ("verify-full", &other, by_name, Some("is of an authority that is not trusted here; name the file")),
        ("verify-ca", &other, by_name, Some("is of an authority that is not trusted here; name the file")),
        ("require", "", by_name, Some("is of an authority that is not trusted here; name the file")),
        ("verify-full", &ours, by_address, Some("write the name of the certificate in database.host")),
        ("disable", "", by_name, Some("no encryption")),
    ];
    for (mode, ca, address, refusal) in cases {
        let settings = [("database.sslmode", mode), ("database.sslrootcert", ca), ("database.host", address)];
        match (answer(&settings).await, refusal) {
            (Ok(_), None) => {}
            (Err(said), Some(words)) => assert!(said.contains(words), "{mode} {ca} {address}: {said}"),
            (answer, _) => panic!("{mode} {ca} {address}: {answer:?}"),
        }
    }
    for (file, words) in
        [("server.key", "no certificate of an authority is in it"), ("none.pem", "database.sslrootcert = ")]
    {
        let said = answer(&[("database.sslmode", "verify-full"), ("database.sslrootcert", &remote.file(file))]).await;
        assert!(said.as_ref().is_err_and(|said| said.contains(words)), "{said:?}");
    }
    let said = answer(&[("database.password", "guess")]).await;
    assert!(said.as_ref().is_err_and(|said| said.contains("password authentication failed")), "{said:?}");
}

/// A running PgBouncer. It ends when it is dropped.
pub struct Pooler {
    child: Child,
    directory: TempDir,
}

impl Pooler {
    pub async fn start(db: &Db, mode: &str, settings: &str) -> Self {
        let directory = open_directory();
        let path = directory.path().display();
        let text = format!(
            "[databases]\n* = host={} port=5432\n\
             [pgbouncer]\npool_mode = {mode}\nunix_socket_dir = {path}\nlisten_port = 5432\nauth_type = trust\n\
             auth_file = {path}/users\nlogfile = {path}/log\nadmin_users = postgres\ndefault_pool_size = 4\n{settings}\n",
            db.socket()
        );
        fs::write(directory.path().join("pgbouncer.ini"), text).unwrap();
        fs::write(directory.path().join("users"), "\"qvd_node\" \"\"\n").unwrap();
        let postgres = nix::unistd::User::from_name("postgres").unwrap().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(postgres.uid.as_raw()), None).unwrap();
        let child = Command::new("pgbouncer")
            .args(["-q", "-u", "postgres"])
            .arg(directory.path().join("pgbouncer.ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("install package pgbouncer");
        let pooler = Self { child, directory };
        let socket = pooler.socket().join(".s.PGSQL.5432");
        until("pgbouncer listens", async || std::os::unix::net::UnixStream::connect(&socket).ok()).await;
        pooler
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().to_owned()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.directory.path().join("log")).unwrap_or_default());
        }
    }
}

#[tokio::test]
async fn through_a_pooler_in_transaction_mode_polls_take_over_and_the_reason_is_told() {
    for settings in ["", "ignore_startup_parameters = options"] {
        let db = Db::with_vms(2).await;
        let pooler = Pooler::start(&db, "transaction", settings).await;
        let socket = pooler.socket().display().to_string();
        let host = Host::new(
            &db,
            &[
                ("database.host", socket.as_str()),
                ("internal.hkd.poll.relaxed", "600"),
                ("internal.hkd.poll.urgent", "0.3"),
                ("internal.hkd.beat", "1"),
            ],
        );
        let hkd = host.start();
        db.wait_for("select state from host_list", "running").await;
        hkd.says("a pooler in transaction mode stands before the database").await;
        let reason = "select events_degraded_reason ~ 'does a pooler in transaction mode stand' from host_list";
        db.wait_for(reason, "t").await;
        for command in ["start", "stop", "start"] {
            db.sql(&format!("select vm_{command}(id) from vms")).await;
            for vm in ["d1", "d2"] {
                db.wait_vm(vm, if command == "stop" { "stopped" } else { "running" }).await;
            }
        }
        assert_eq!(host.status().unwrap()["poll_interval_s"], 0.3);
        let said = hkd.said();
        assert!(!said.contains("prepared statement"), "{said}");
        assert_eq!(said.contains("takes no settings of sessions"), settings.is_empty(), "{said}");
    }
}

#[tokio::test]
async fn through_a_pooler_in_session_mode_notifications_come() {
    let db = Db::with_vms(1).await;
    // Every connection of the node keeps one to the server.
    let settings = "default_pool_size = 20\nignore_startup_parameters = options";
    let pooler = Pooler::start(&db, "session", settings).await;
    let socket = pooler.socket().display().to_string();
    let host = Host::new(&db, &[("database.host", socket.as_str()), ("internal.hkd.poll.relaxed", "600")]);
    let hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    assert!(!hkd.said().contains("pooler"), "{}", hkd.said());
}
