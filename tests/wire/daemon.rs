//! The router as a process: what it may do, and what it says when it cannot run.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use qvd::demo::site::free_port;

use super::stage::calm;

#[tokio::test]
async fn the_router_runs_without_any_right() {
    let stage = calm().await;
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    // The kernel keeps all of it for each thread.
    for thread in fs::read_dir(format!("/proc/{}/task", stage.l7r_pid().await)).unwrap() {
        let Ok(status) = fs::read_to_string(thread.unwrap().path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(field("Uid"), vec![nobody.uid.to_string(); 4]);
        assert_eq!(field("Gid"), vec![nobody.gid.to_string(); 4]);
        assert_eq!(field("Groups"), [nobody.gid.to_string()]);
        assert_eq!(field("NoNewPrivs"), ["1"]);
        for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(capabilities), ["0000000000000000"], "{capabilities}");
        }
    }
}

/// Runs a router that cannot start, and gives what it says.
fn complaint(directory: &Path, settings: &str) -> String {
    let file = directory.join("node.conf");
    fs::write(
        &file,
        format!(
            "nodename = nowhere\npath.run = {0}/run\npath.l7r.ssl = {0}/run/l7r/ssl\n{settings}",
            directory.display()
        ),
    )
    .unwrap();
    let output = Command::new("timeout")
        .args(["--signal=KILL", "30", env!("CARGO_BIN_EXE_qvd"), "l7r", "--config"])
        .arg(file)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap().to_owned();
    assert!(last.starts_with("qvd: l7r ends: "), "{said}");
    last
}

#[test]
fn a_router_whose_port_is_taken_or_whose_address_is_not_its_own_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let said = complaint(scratch.path(), &format!("l7r.address = 127.0.0.1\nl7r.port = {port}\n"));
    assert!(said.ends_with(&format!("port {port} of 127.0.0.1 is taken by another process")), "{said}");
    let said = complaint(scratch.path(), "l7r.address = 203.0.113.9\nl7r.port = 8443\n");
    assert!(said.ends_with("203.0.113.9 is not an address of this machine"), "{said}");
    let said = complaint(scratch.path(), "l7r.address = everywhere\n");
    assert!(said.contains("\"everywhere\" is not an address"), "{said}");
}

#[test]
fn a_router_whose_certificate_cannot_be_used_names_the_file_and_keeps_it() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("run/l7r/ssl");
    fs::create_dir_all(&directory).unwrap();
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    fs::write(&certificate, "hello").unwrap();
    let free = own_port();
    let said = complaint(scratch.path(), &free);
    assert!(said.contains(&format!("cannot read the private key from {}", key.display())), "{said}");
    fs::write(&key, "hello").unwrap();
    let said = complaint(scratch.path(), &free);
    assert!(said.contains(&format!("{} cannot be used", certificate.display())), "{said}");
    assert_eq!(fs::read_to_string(certificate).unwrap(), "hello");
}

#[test]
fn a_router_whose_account_does_not_exist_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let said = complaint(scratch.path(), &format!("{}l7r.as_user = qvd-nobody-at-all\n", own_port()));
    assert!(said.ends_with("there is no account qvd-nobody-at-all to run as; set l7r.as_user"), "{said}");
}

#[tokio::test]
async fn a_router_whose_node_is_not_registered_says_so() {
    let stage = calm().await;
    let scratch = tempfile::tempdir().unwrap();
    let socket = stage.site.cluster().socket_dir().display();
    let settings = format!("{}database.host = {socket}\n", own_port());
    let said = tokio::task::spawn_blocking(move || complaint(scratch.path(), &settings)).await.unwrap();
    assert!(said.contains("no host is named nowhere"), "{said}");
}

fn own_port() -> String {
    let port = free_port().unwrap();
    format!("l7r.address = 127.0.0.1\nl7r.port = {port}\n")
}
