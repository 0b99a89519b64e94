//! How a machine becomes a node and stops being one, as somebody who sets it up types it.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    database::{Db, open_directory},
    host::QVD,
};

/// A machine with nothing on it.
struct Machine<'a> {
    db: &'a Db,
    name: &'static str,
    address: &'static str,
    directory: TempDir,
}

impl<'a> Machine<'a> {
    fn new(db: &'a Db, name: &'static str, address: &'static str) -> Self {
        Self { db, name, address, directory: open_directory() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `qvd node join` with everything of the machine in its directory but the storage.
    fn join(&self, storage: &str, more: &[&str]) -> Output {
        let set = |key: &str, value: &str| format!("{key}={value}");
        let [run, ssl] = ["run", "ssl"].map(|name| self.path(name).display().to_string());
        Command::new(QVD)
            .args(["node", "join", "--json", "--name", self.name, "--address", self.address, "--storage", storage])
            .args(["--database", &self.db.url("postgres")])
            .arg("--config")
            .arg(self.path("etc/node.conf"))
            .args(["--set", &set("path.run", &run), "--set", &set("path.l7r.ssl", &ssl)])
            .args(["--set", "vm.hypervisor=nothing"])
            .args(more)
            .env_remove("QVD_CONFIG")
            .output()
            .unwrap()
    }

    fn joined(&self, storage: &str, more: &[&str]) -> Value {
        let output = self.join(storage, more);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What is said when it cannot be.
    fn refused(&self, storage: &str, more: &[&str]) -> String {
        let output = self.join(storage, more);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn configuration(&self) -> String {
        fs::read_to_string(self.path("etc/node.conf")).unwrap()
    }

    fn value(&self, key: &str) -> String {
        let text = self.configuration();
        text.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap().to_owned()
    }

    fn start_hkd(&self) -> Hkd {
        let child = Command::new(QVD)
            .args(["hkd", "--config"])
            .arg(self.path("etc/node.conf"))
            .env("QVD_LIFELINE", "stdin")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Hkd(child.unwrap())
    }
}

struct Hkd(Child);

impl Drop for Hkd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_machine_that_joins_is_a_node_that_runs_under_a_login_of_its_own() {
    let db = Db::new().await;
    let shared = open_directory();
    let storage = shared.path().join("storage").display().to_string();
    let first = Machine::new(&db, "n1", "10.0.0.1");
    let told = first.joined(&storage, &[]);
    assert_eq!(first.value("nodename"), "n1");
    assert_eq!(first.value("database.user"), told["roles"][0].as_str().unwrap());
    assert_eq!(told["fingerprint"].as_str().unwrap().len(), 64, "its certificate is made");
    assert!(first.path("ssl/cert.pem").exists());
    let id = fs::read_to_string(shared.path().join("storage/storage.id")).unwrap();
    assert_eq!(told["storage"].as_str(), Some(id.trim()), "the first node begins the storage");
    assert_eq!(db.sql("select storage_id from hosts").await.as_deref(), Some(id.trim()));

    let _hkd = first.start_hkd();
    db.wait_for("select state from host_list", "running").await;
    let users = "select string_agg(distinct usename, ' ') from pg_stat_activity
                 where datname = current_database() and application_name like 'qvd hkd%'";
    assert_eq!(db.sql(users).await.as_deref(), told["roles"][0].as_str());

    let second = Machine::new(&db, "n2", "10.0.0.2").joined(&storage, &[]);
    assert_eq!(second["storage"].as_str(), Some(id.trim()));
    assert_ne!(second["roles"], told["roles"]);
}

#[tokio::test]
async fn the_passwords_of_a_node_are_its_own_and_nowhere_but_in_its_file() {
    let db = Db::new().await;
    let machine = Machine::new(&db, "n1", "10.0.0.1");
    let storage = machine.path("storage").display().to_string();
    let told = machine.joined(&storage, &[]);
    let (hkd, l7r) = (machine.value("database.password"), machine.value("database.l7r.password"));
    assert!(hkd.len() == 32 && l7r.len() == 32 && hkd != l7r);
    for (role, password, group) in [(&told["roles"][0], &hkd, "qvd_node"), (&told["roles"][1], &l7r, "qvd_l7r")] {
        let role = role.as_str().unwrap();
        let kept = db.sql(&format!("select rolpassword from pg_authid where rolname = '{role}'")).await.unwrap();
        assert!(kept.starts_with("SCRAM-SHA-256$") && !kept.contains(password.as_str()), "{kept}");
        let member = db.sql(&format!("select pg_has_role('{role}', '{group}', 'usage')")).await.unwrap();
        assert_eq!(member, "t");
    }
    let logged = db.sql("select count(*) from log where log::text like '%SCRAM%'").await.unwrap();
    assert_eq!(logged, "0");

    // Made anew under its old name and address it gets others.
    fs::remove_file(machine.path("etc/node.conf")).unwrap();
    assert_eq!(machine.joined(&storage, &[])["roles"], told["roles"]);
    assert_ne!(machine.value("database.password"), hkd);
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_is_done() {
    let db = Db::new().await;
    let shared = open_directory();
    let storage = shared.path().join("storage").display().to_string();
    Machine::new(&db, "n1", "10.0.0.1").joined(&storage, &[]);

    let machine = Machine::new(&db, "n2", "10.0.0.2");
    let empty = machine.path("not-mounted").display().to_string();
    let told = machine.refused(&empty, &[]);
    assert!(told.contains("is no storage yet") && told.contains("--new-storage"), "{told}");
    assert!(!machine.path("not-mounted").exists(), "and it is left alone");
    let told = Machine::new(&db, "n2", "10.0.0.200").refused(&storage, &[]);
    assert!(told.contains("is not among those of nodes"), "{told}");
    let told = Machine::new(&db, "n2", "10.0.0.1").refused(&storage, &[]);
    assert!(told.contains("a host named n2 or with address 10.0.0.1 exists already"), "{told}");
    let told = machine.refused(&storage, &["--set", "l7r.port=many"]);
    assert!(told.contains("l7r.port"), "{told}");
    fs::create_dir(machine.path("etc")).unwrap();
    fs::write(machine.path("etc/node.conf"), "mine").unwrap();
    let told = machine.refused(&storage, &[]);
    assert!(told.contains("node.conf exists"), "{told}");
    assert_eq!(machine.configuration(), "mine");
    assert_eq!(db.sql("select string_agg(name, ' ') from hosts").await.as_deref(), Some("n1"));
    assert_eq!(
        db.sql("select count(*) from pg_roles where rolname like current_database() || '\\_%'").await.unwrap(),
        "2"
    );

    fs::remove_file(machine.path("etc/node.conf")).unwrap();
    let told = machine.joined(&empty, &["--new-storage"]);
    assert!(told["storage"].is_string());
    let alone = Machine::new(&db, "n3", "10.0.0.3");
    assert!(alone.joined(&empty, &["--local-storage"])["storage"].is_null());
    assert_eq!(alone.value("storage.local"), "1");
}

#[tokio::test]
async fn a_node_leaves_when_it_is_stopped_and_its_logins_go_with_it() {
    let db = Db::new().await;
    let machine = Machine::new(&db, "n1", "10.0.0.1");
    machine.joined(&machine.path("storage").display().to_string(), &[]);
    let leave = || {
        let database = db.url("postgres");
        Command::new(QVD).args(["node", "leave", "n1", "--database", &database]).output().unwrap()
    };
    let mut hkd = machine.start_hkd();
    db.wait_for("select state from host_list", "running").await;
    let refused = leave();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("host n1 is in use"), "{refused:?}");

    drop(hkd.0.stdin.take());
    hkd.0.wait().unwrap();
    assert!(leave().status.success());
    assert_eq!(db.sql("select count(*) from hosts").await.unwrap(), "0");
    assert_eq!(
        db.sql("select count(*) from pg_roles where rolname like current_database() || '\\_%'").await.unwrap(),
        "0"
    );
    assert_eq!(leave().status.code(), Some(1), "it is not there any more");
}
