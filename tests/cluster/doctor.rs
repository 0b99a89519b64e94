//! `qvd doctor` on this machine: it says what is wrong where something is, and leaves everything as it was.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

use super::{
    database::Db,
    host::{Host, QVD},
    remote::{Pooler, Remote},
};

/// In which the database of a test has its node.
const NETWORK: (&str, &str) = ("vm.network.ip.start", "10.9.0.100");

/// What it said.
struct Page(Value);

impl Page {
    fn of(output: &Output) -> Self {
        let page: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let expected = i32::from(page["grade"] == "bad");
        assert_eq!(output.status.code(), Some(expected), "{page:#}");
        assert!(output.stderr.is_empty(), "{output:?}");
        Self(page)
    }

    /// Of a node.
    fn of_node(host: &Host<'_>) -> Self {
        Self::of(&host.qvd(&["doctor", "--json"]))
    }

    /// Of a node, looked at by a program that starts another one.
    fn through(host: &Host<'_>, wrapper: &[&str]) -> Self {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).args([QVD, "doctor", "--json", "--config"]).arg(host.config());
        Self::of(&command.env_remove("QVD_LOG").output().unwrap())
    }

    fn section(&self, title: &str) -> &Vec<Value> {
        let sections = self.0["sections"].as_array().unwrap();
        sections.iter().find(|section| section["title"] == title).unwrap()["findings"].as_array().unwrap()
    }

    fn line(&self, title: &str, name: &str) -> &Value {
        let lines = self.section(title);
        lines.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("no {name} in {lines:#?}"))
    }

    /// The line has that grade and these words; what is not good has a reason and a command.
    #[track_caller]
    fn says(&self, title: &str, name: &str, grade: &str, words: &str) {
        let line = self.line(title, name);
        let found = line["found"].as_str().unwrap();
        assert!(line["grade"] == grade && found.contains(words), "{line:#}");
        assert!(!line["why"].as_str().unwrap().is_empty());
        assert_eq!(line["mend"].is_null(), grade == "good", "{line:#}");
    }
}

/// Everything below a directory, with what is in it.
fn tree(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(tree(&path));
        }
        found.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
    }
    found.sort();
    found
}

fn printed(program: &str, arguments: &[&str]) -> String {
    String::from_utf8(Command::new(program).args(arguments).output().unwrap().stdout).unwrap()
}

#[tokio::test]
async fn what_stands_is_good_and_the_machine_stays_as_it_was() {
    let db = Db::with_vms(0).await;
    let host = Host::new(&db, &[("storage.local", "0"), ("l7r.port", "18441"), ("fence.reboot", "1"), NETWORK]);
    fs::create_dir(host.storage()).unwrap();
    let traces = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let rows = [printed("ip", &["-br", "link"]), printed("nft", &["list", "ruleset"]), mounts];
        (tree(host.config().parent().unwrap()), rows)
    };
    let before = traces();
    let page = Page::of_node(&host);
    assert_eq!(traces(), before);
    for section in ["Configuration", "Database", "Programs", "Certificates"] {
        assert!(page.section(section).iter().all(|line| line["grade"] == "good"), "{:#?}", page.section(section));
    }
    page.says("Database", "this node", "good", "n1, 10.9.0.1");
    page.says("Database", "notifications", "good", "arrive after");
    page.says("Time", "database's clock", "good", "");
    page.says("Storage", "identity", "tolerable", "none yet");
    for name in ["writing", "locks", "layers"] {
        page.says("Storage", name, "good", "");
    }
    page.says("Network", "isolation", "good", "trial network");
    page.says("Network", "TCP port", "good", "18441 is free");
}

#[tokio::test]
async fn a_page_without_database_or_configuration_has_bad_lines_and_all_the_others() {
    let db = Db::empty().await;
    let host = Host::new(&db, &[("database.host", "/nowhere")]);
    let page = Page::of_node(&host);
    page.says("Database", "server", "bad", "");
    assert_eq!(page.section("Database").len(), 1, "what is true of both roles is said once");
    page.says("Network", "isolation", "good", "");

    // It takes connections, and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let patience = ("internal.database.client.connect.timeout", "0.2");
    let page = Page::of_node(&Host::new(&db, &[("database.host", &address), patience]));
    page.says("Database", "server", "bad", "no answer within 0.2 s");

    fs::write(host.config(), "nodename = n1\nl7r.port = many\n").unwrap();
    Page::of_node(&host).says("Configuration", "file", "bad", "node.conf:2");
    fs::remove_file(host.config()).unwrap();
    let page = Page::of_node(&host);
    page.says("Configuration", "file", "bad", "there is no");
    page.says("Database", "server", "bad", "the configuration says where it is");
    page.says("Network", "isolation", "good", "");

    let text = host.qvd(&["doctor"]);
    assert_eq!(text.status.code(), Some(1));
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.ends_with("this machine cannot be a node as it is.\n") && !text.contains('\x1b'), "{text}");
    let wide = |line: &&str| line.chars().count() > 80 && !line.contains("mend: ");
    assert_eq!(text.lines().filter(wide).collect::<Vec<_>>(), [""; 0]);
}

#[tokio::test]
async fn a_database_that_will_not_do_is_told_by_what_is_wrong_with_it() {
    let empty = Db::empty().await;
    let page = Page::of_node(&Host::new(&empty, &[]));
    // Roles belong to the server, and another database on it has them.
    page.says("Database", "schema", "bad", "0, older than");

    let db = Db::with_vms(0).await;
    let elsewhere = Host::named(&db, "n9", &[]);
    Page::of_node(&elsewhere).says("Database", "this node", "bad", "no node is named n9");
    db.sql("insert into qvd.migrations (number, name) values (9999, 'future')").await;
    db.sql("update qvd.versions set version = '9999' where component in ('schema', 'schema_oldest')").await;
    Page::of_node(&Host::new(&db, &[])).says("Database", "schema", "bad", "9999, newer than");
    let swapped = Host::new(&db, &[("database.user", "qvd_l7r"), ("database.l7r.user", "postgres")]);
    let page = Page::of_node(&swapped);
    page.says("Database", "role of hkd", "bad", "qvd_l7r has not the rights of qvd_node");
    page.says("Database", "role of l7r", "bad", "postgres, a superuser");
}

#[tokio::test]
async fn a_wrong_password_is_told_with_the_way_to_set_it() {
    let remote = Remote::new(3).await;
    let page = Page::of_node(&remote.host(&[("database.password", "guess")]));
    page.says("Database", "role of hkd", "bad", "password authentication failed");
    let mend = page.line("Database", "role of hkd")["mend"].as_str().unwrap();
    assert!(mend.contains("alter role qvd_node password"), "{mend}");
    let page = Page::of_node(&remote.host(&[]));
    page.says("Database", "role of hkd", "good", "qvd_node");
    page.says("Database", "server", "good", "encrypted");
    let page = Page::of_node(&remote.host(&[("database.sslmode", "disable")]));
    page.says("Database", "role of hkd", "bad", "no encryption");
}

#[tokio::test]
async fn a_pooler_is_noticed_in_transaction_mode_and_not_in_session_mode() {
    for (mode, settings, grade, words) in [
        ("transaction", "", "tolerable", "a pooler in transaction mode"),
        ("session", "default_pool_size = 20\nignore_startup_parameters = options", "good", "arrive after"),
    ] {
        let db = Db::with_vms(0).await;
        let pooler = Pooler::start(&db, mode, settings).await;
        let socket = pooler.socket().display().to_string();
        let page = Page::of_node(&Host::new(&db, &[("database.host", socket.as_str())]));
        page.says("Database", "notifications", grade, words);
    }
}

#[tokio::test]
async fn a_storage_that_takes_nothing_or_is_another_is_bad() {
    let db = Db::with_vms(0).await;
    let host = Host::new(&db, &[("storage.local", "0")]);
    let root = host.storage().display().to_string();
    fs::create_dir(&root).unwrap();
    let read_only = format!("mount --bind {root} {root} && mount -o remount,bind,ro {root} && exec \"$@\"");
    let page = Page::through(&host, &["unshare", "--mount", "sh", "-c", &read_only, "sh"]);
    page.says("Storage", "writing", "bad", "Read-only file system");
    page.says("Storage", "layers", "bad", "Read-only file system");
    let mend = page.line("Storage", "writing")["mend"].as_str().unwrap();
    assert_eq!(mend, format!("mount -o remount,rw {root}"));

    db.sql("update hosts set storage_id = '11111111-1111-1111-1111-111111111111'").await;
    Page::of_node(&host).says("Storage", "identity", "bad", "none, but 11111111");
    fs::write(format!("{root}/storage.id"), "22222222-2222-2222-2222-222222222222\n").unwrap();
    Page::of_node(&host).says("Storage", "identity", "bad", "22222222-2222-2222-2222-222222222222, but 1111");
    fs::remove_dir_all(&root).unwrap();
    Page::of_node(&host).says("Storage", "root", "bad", "does not exist");
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_bad_wherever_it_is_kept() {
    let db = Db::with_vms(0).await;
    let made = |year: i32| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let ssl = super::database::open_directory();
    let directory = ssl.path().display().to_string();
    let host = Host::new(&db, &[("path.l7r.ssl", directory.as_str())]);
    Page::of_node(&host).says("Certificates", "router's", "good", "made when the router starts");
    assert_eq!(fs::read_dir(ssl.path()).unwrap().count(), 0, "and it is not made by looking");

    let (certificate, key) = made(2020);
    fs::write(ssl.path().join("cert.pem"), &certificate).unwrap();
    fs::write(ssl.path().join("key.pem"), &key).unwrap();
    Page::of_node(&host).says("Certificates", "router's", "bad", "this node's own, expired on 2020-01-01");
    let (certificate, key) = made(3000);
    db.sql(&format!("select config_ssl('{certificate}', '{key}')")).await;
    Page::of_node(&host).says("Certificates", "router's", "good", "that of all routers, until 3000-01-01");
    let (_, other_key) = made(3000);
    db.sql(&format!("select config_ssl('{certificate}', '{other_key}')")).await;
    Page::of_node(&host).says("Certificates", "router's", "bad", "does not belong to the certificate");
}

#[tokio::test]
async fn what_the_machine_does_not_let_a_node_have_is_said() {
    let db = Db::with_vms(0).await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let settings = [("l7r.port", port.as_str()), ("l7r.address", "192.0.2.1"), ("l7r.as_user", "no-such-account")];
    let host = Host::new(&db, &settings);
    let page = Page::of_node(&host);
    page.says("Network", "address", "bad", "no interface has 192.0.2.1");
    page.says("Network", "TCP port", "good", "is free");
    page.says("Network", "VM network", "bad", "10.9.0.1 of this node is not among those of nodes");
    page.says("Limits", "router's account", "bad", "no-such-account");
    let host = Host::new(&db, &[settings[0], NETWORK]);
    Page::of_node(&host).says("Network", "TCP port", "bad", &format!("(process {})", std::process::id()));

    // Without this right a socket has no more room than the system gives everybody.
    let poor = ["setpriv", "--inh-caps", "-net_admin", "--bounding-set", "-net_admin"];
    let page = Page::through(&host, &poor);
    let limit: usize = fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
    let grade = if limit < 1024 * 1024 { "tolerable" } else { "good" };
    page.says("Limits", "UDP buffers", grade, &format!("{} KiB in", limit.min(8 * 1024 * 1024) / 1024));
    page.says("Network", "isolation", "bad", "");
    let page = Page::through(&host, &["prlimit", "--nofile=512:512"]);
    page.says("Limits", "open files", "bad", "up to 512");

    let bin = super::database::open_directory();
    fs::copy("/bin/true", bin.path().join("qvd-vma")).unwrap();
    fs::write(bin.path().join("qvd-keeper"), "").unwrap();
    fs::set_permissions(bin.path().join("qvd-keeper"), fs::Permissions::from_mode(0o644)).unwrap();
    let page = Page::of_node(&Host::new(&db, &[("path.qvd.bin", bin.path().to_str().unwrap())]));
    page.says("Programs", "qvd-vma", "bad", "needs a loader");
    page.says("Programs", "qvd-keeper", "bad", "cannot be executed");
}
