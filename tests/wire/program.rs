//! `qvd client` as a process: its exit status for each way a session can end or not begin. A script stands for
//! nxproxy.

use std::{fs, os::unix::fs::symlink, process::Stdio};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use super::stage::{Desktop, PASSWORD, PATIENCE, Stage, calm, rough_alone};

/// A user's machine.
struct Machine {
    home: tempfile::TempDir,
    port: u16,
}

impl Machine {
    /// With an nxproxy that behaves like this.
    fn new(stage: &Stage, nxproxy: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let fake = concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/testdata/fake-nxproxy");
        symlink(fake, home.path().join("nxproxy")).unwrap();
        fs::create_dir(home.path().join(".qvd")).unwrap();
        fs::write(home.path().join(".qvd/client.conf"), format!("client.nxproxy.extra_args = {nxproxy}\n")).unwrap();
        Self { home, port: stage.site.port() }
    }

    fn client(&self, login: &str, password: Option<&str>, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qvd"));
        command.args(["client", "--host", "localhost", "--user", login]).args(arguments).env_clear();
        if !arguments.contains(&"--port") {
            command.args(["--port", &self.port.to_string()]);
        }
        if !arguments.contains(&"--ca") && !arguments.contains(&"--ssl-errors") {
            command.args(["--ssl-errors", "continue"]);
        }
        command.envs(password.map(|password| ("QVDPASSWORD", password)));
        command.env("HOME", self.home.path()).env("DISPLAY", ":99");
        command.env("PATH", format!("{}:/usr/bin:/bin", self.home.path().display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    }

    /// Runs it to its end: status, standard output, standard error.
    async fn run(&self, login: &str, password: Option<&str>, arguments: &[&str]) -> (i32, String, String) {
        ended(self.client(login, password, arguments)).await
    }
}

async fn ended(client: Child) -> (i32, String, String) {
    let output = timeout(PATIENCE, client.wait_with_output()).await.expect("the client does not end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn it_lists_the_desktops_of_a_user_over_a_verified_connection() {
    let stage = calm().await;
    let desktop = stage.desktop().await;
    let machine = Machine::new(stage, "");
    let certificate = stage.site.certificate();
    let ca = ["--list", "--json", "--ca", certificate.to_str().unwrap()];
    let (status, out, said) = machine.run(&desktop.login, Some(PASSWORD), &ca).await;
    assert_eq!(status, 0, "{said}");
    let expected = format!(r#"[{{"id":{},"name":"desk","state":"stopped","blocked":0}}]"#, desktop.id);
    assert_eq!((out.trim(), said.as_str()), (expected.as_str(), ""));
}

#[tokio::test]
async fn its_exit_status_says_why_there_is_no_session() {
    let stage = calm().await;
    let desktop = stage.desktop().await;
    let login = desktop.login.as_str();
    let machine = Machine::new(stage, "");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let missing = ["--config", "/dev/null"];
    stage.sql(&format!("select vm_block('{}')", desktop.name())).await;
    for (password, arguments, wanted, text) in [
        (None, &[][..], 1, "password"),
        (Some(PASSWORD), &["--geometry", "big"], 1, "--geometry"),
        (Some(PASSWORD), &["--port", &free], 2, "cannot connect to localhost"),
        (Some(PASSWORD), &["--ssl-errors", "abort"], 3, "certificate"),
        (Some("wrong"), &[], 4, "the server rejected the login"),
        (Some(PASSWORD), &["--vm", "other"], 5, "you have no desktop \"other\""),
        (Some(PASSWORD), &[], 5, "offline for maintenance"),
    ] {
        let (status, _, said) = machine.run(login, password, arguments).await;
        assert_eq!(status, wanted, "{arguments:?}: {said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("qvd client: ") && last.contains(text), "{said}");
    }
    fs::remove_file(machine.home.path().join("nxproxy")).unwrap();
    fs::write(machine.home.path().join(".qvd/client.conf"), "command.nxproxy = /nonexistent/nxproxy\n").unwrap();
    let (status, _, said) = machine.run(login, Some(PASSWORD), &[]).await;
    assert!(status == 6 && said.contains("/nonexistent/nxproxy is not installed"), "{said}");
    // Where another file is named, that of the user does not count.
    let (status, _, said) = machine.run(login, Some(PASSWORD), &missing).await;
    assert_ne!(status, 1, "{said}");
}

#[tokio::test]
async fn a_session_that_the_user_ends_is_a_success_and_its_progress_is_told() {
    let stage = calm().await;
    let mut desktop = stage.desktop().await;
    let machine = Machine::new(stage, "leave");
    let client = machine.client(&desktop.login, Some(PASSWORD), &["--geometry", "800x600", "--vm", "desk"]);
    let mut nx = desktop.vm.nx().await;
    let mut greeting = [0; 14];
    nx.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"NXPROXY-3.5.0 ");
    assert_eq!(desktop.vm.called("x_start", 1).await.parameter("qvd.client.geometry"), Some("800x600"));
    nx.write_all(b"hello").await.unwrap();
    // The client goes first, then nxagent.
    assert_eq!(nx.read(&mut [0]).await.unwrap(), 0);
    drop(nx);
    let (status, _, said) = ended(client).await;
    assert_eq!(status, 0, "{said}");
    for text in ["Starting virtual machine", "Connection established", "5 bytes received, 14 sent"] {
        assert!(said.contains(text), "{said}");
    }
}

#[tokio::test]
async fn an_nxproxy_that_fails_has_its_own_exit_status() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let (status, _, said) = Machine::new(stage, "fail").run(&desktop.login, Some(PASSWORD), &[]).await;
    desktop.vm.nx_follows().await;
    assert!(status == 6 && said.contains("cannot open display"), "{status}: {said}");
    desktop.freed().await;
}

async fn in_session(
    stage: &'static Stage,
    nxproxy: &str,
    transport: &str,
) -> (Child, Desktop, tokio::net::TcpStream, Machine) {
    let mut desktop = stage.running().await;
    let machine = Machine::new(stage, nxproxy);
    let client = machine.client(&desktop.login, Some(PASSWORD), &["--transport", transport]);
    let mut nx = desktop.vm.nx().await;
    nx.read_exact(&mut [0; 14]).await.unwrap();
    nx.write_all(b"hello").await.unwrap();
    (client, desktop, nx, machine)
}

#[tokio::test]
async fn a_session_that_somebody_takes_over_ends_with_a_word() {
    let stage = calm().await;
    let (client, mut desktop, _nx, _machine) = in_session(stage, "broken", "auto").await;
    let tunnel = desktop.connected().await;
    let (status, _, said) = ended(client).await;
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("another client took it over"), "{said}");
    drop(tunnel);
}

#[tokio::test]
async fn a_session_over_tls_whose_router_dies_is_lost() {
    let (stage, _alone) = rough_alone().await;
    let (client, _desktop, _nx, _machine) = in_session(stage, "broken", "tls").await;
    super::outage::kill_router(stage).await;
    let (status, _, said) = ended(client).await;
    assert_eq!(status, 7, "{said}");
    assert!(said.contains("was lost"), "{said}");
}

#[tokio::test]
async fn it_goes_the_way_it_is_told_or_the_one_that_answers_first_and_remembers_that() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let machine = Machine::new(stage, "leave");
    for (arguments, way) in
        [(&["--transport", "tls"][..], "user"), (&["--transport", "quic"], "quic"), (&["--transport", "auto"], "quic")]
    {
        let client = machine.client(&desktop.login, Some(PASSWORD), arguments);
        let mut nx = desktop.vm.nx().await;
        nx.read_exact(&mut [0; 14]).await.unwrap();
        nx.write_all(b"hello").await.unwrap();
        assert_eq!(nx.read(&mut [0]).await.unwrap(), 0);
        drop(nx);
        let (status, _, said) = ended(client).await;
        assert_eq!(status, 0, "{said}");
        // A client that is gone has said so, whichever way.
        desktop.freed().await;
        let tunnel = format!(
            "select tunnel || ' ' || end_reason from user_sessions where vm_id = {} order by id desc limit 1",
            desktop.id
        );
        assert_eq!(stage.sql(&tunnel).await, format!("{way} the client left"));
    }
    let memory = fs::read_to_string(machine.home.path().join(".qvd/transports.json")).unwrap();
    assert!(memory.contains(&format!("localhost:{}", machine.port)) && memory.contains("quic"), "{memory}");
    let (status, _, said) = machine.run(&desktop.login, Some(PASSWORD), &["--transport", "pigeon"]).await;
    assert!(status == 1 && said.contains("--transport"), "{said}");
}
