//! Clients of QUIC, when something moves: their machine to another address, or the port to another router. Then they
//! finish, are told to connect again, and find the next one.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use quinn::{ApplicationClose, ConnectionError, VarInt};
use qvd::{auth::Totp, model::config::Config};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::{interval, timeout},
};

use super::{
    elsewhere::Elsewhere,
    handover::successor,
    outage::kill_router,
    proofs::{give_secret, now, status},
    quic::{Quic, connected},
    stage::{Desktop, PASSWORD, PATIENCE, Stage, authorization, calm, rough_alone},
};

/// Stands for nxproxy: greets, and says what it hears until the server ends.
const NXPROXY: &str = r#"#!/bin/bash
for display; do :; done
exec 3<>"/dev/tcp/127.0.0.1/$((4000 + ${display#localhost:}))"
printf 'NXPROXY-3.5.0 ' >&3
cat <&3 >>"$HOME/drawn"
"#;

/// `qvd client` with a home of its own.
struct Visitor {
    home: TempDir,
    process: Child,
}

impl Visitor {
    fn new(stage: &Stage, login: &str, from: Option<&Elsewhere>) -> Self {
        Self::with(stage, login, PASSWORD, from)
    }

    fn with(stage: &Stage, login: &str, password: &str, from: Option<&Elsewhere>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let nxproxy = home.path().join("nxproxy");
        fs::write(&nxproxy, NXPROXY).unwrap();
        fs::set_permissions(&nxproxy, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(home.path().join(".qvd")).unwrap();
        let settings = format!("command.nxproxy = {}\n", nxproxy.display());
        fs::write(home.path().join(".qvd/client.conf"), settings).unwrap();
        let program = env!("CARGO_BIN_EXE_qvd");
        let (mut client, host) = match from {
            None => (Command::new(program), "localhost".to_owned()),
            Some(elsewhere) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", elsewhere.name(), program]);
                (command, elsewhere.router().to_string())
            }
        };
        client.args(["client", "--host", &host, "--port", &stage.site.port().to_string(), "--user", login]);
        client.args(["--transport", "quic", "--ssl-errors", "continue"]);
        client.env("HOME", home.path()).env("QVDPASSWORD", password).env("DISPLAY", ":77").env("QVD_LOG", "info");
        client.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let process = client.stderr(fs::File::create(said_file(home.path())).unwrap()).spawn().unwrap();
        Self { home, process }
    }

    fn said(&self) -> String {
        fs::read_to_string(said_file(self.home.path())).unwrap()
    }

    /// What reached nxproxy, in all its lives.
    fn drawn(&self) -> String {
        fs::read_to_string(self.home.path().join("drawn")).unwrap_or_default()
    }
}

fn said_file(home: &Path) -> PathBuf {
    home.join("said")
}

/// Waits for nxproxy to come to the desktop.
async fn comes(desktop: &mut Desktop, visitor: &Visitor) -> TcpStream {
    let greeted = async {
        let mut nx = desktop.vm.nx().await;
        let mut greeting = [0; 14];
        nx.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"NXPROXY-3.5.0 ");
        nx
    };
    timeout(PATIENCE / 2, greeted).await.unwrap_or_else(|_| panic!("nxproxy does not come: {}", visitor.said()))
}

#[tokio::test]
async fn our_client_goes_on_when_its_machine_gets_another_address() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let elsewhere = Elsewhere::new(1).await;
    let mut visitor = Visitor::new(stage, &desktop.login, Some(&elsewhere));
    let mut nx = comes(&mut desktop, &visitor).await;
    nx.write_all(b"one,").await.unwrap();
    elsewhere.leave().await;
    nx.write_all(b"two,").await.unwrap();
    elsewhere.arrive(77).await;
    let notices = async {
        let mut clock = interval(Duration::from_millis(50));
        while !visitor.said().contains("going on from another address") {
            clock.tick().await;
        }
    };
    timeout(PATIENCE, notices).await.unwrap_or_else(|_| panic!("the client does not notice: {}", visitor.said()));
    nx.write_all(b"three").await.unwrap();
    nx.shutdown().await.unwrap();
    // The session ends in good order only if all of it arrived.
    assert_eq!(timeout(PATIENCE, nx.read(&mut [0])).await.expect("the client is lost").unwrap(), 0);
    drop(nx);
    let left = timeout(PATIENCE, visitor.process.wait()).await.expect("the client stays").unwrap();
    assert!(left.success(), "{}", visitor.said());
    assert_eq!(visitor.drawn(), "one,two,three");
    let sessions = format!("select count(*) from user_sessions where vm_id = {}", desktop.id);
    assert_eq!(stage.sql(&sessions).await, "1", "it never connected again");
}

/// The router that has the desktop's newest session, and how it is reached.
async fn router_of(desktop: &Desktop) -> String {
    let query = "select concat_ws(' ', l7r_instance, tunnel) from user_sessions where vm_id =";
    desktop.stage.sql(&format!("{query} {} order by id desc limit 1", desktop.id)).await
}

/// The last word of a router that is replaced.
fn told() -> ConnectionError {
    ConnectionError::ApplicationClosed(ApplicationClose {
        error_code: VarInt::from_u32(1),
        reason: b"this server is being replaced; connect again"[..].into(),
    })
}

#[tokio::test]
async fn who_knocks_while_the_router_is_replaced_is_answered_and_told_to_connect_again() {
    const PING: &str = "GET /qvd/ping HTTP/1.1\r\n\r\n";
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    // On a busy machine a second may pass before anybody has a turn.
    for _ in 0..4 {
        let (mut slow, _nx) = connected(&mut desktop).await;
        let mut next = successor(stage);
        // The router waits for this client's goodbye, for a second.
        assert!(slow.ended().await);
        let newcomer = tokio::select! {
            biased;
            newcomer = Quic::connect(stage) => Some(newcomer),
            _ = slow.connection.closed() => None,
        };
        if let Some(newcomer) = &newcomer {
            assert_eq!(timeout(PATIENCE, newcomer.connection.closed()).await.expect("the client is not told"), told());
        }
        assert_eq!(Quic::connect(stage).await.ask(PING).await.status, 200);
        assert!(timeout(PATIENCE, next.wait()).await.expect("the successor is replaced").unwrap().success());
        stage.until("select count(*) from l7r_instances where ended_at is null", "1").await;
        desktop.freed().await;
        if newcomer.is_some() {
            return;
        }
    }
    panic!("nobody is answered before the change is over");
}

#[tokio::test]
async fn who_came_with_a_one_time_password_comes_back_without_when_the_router_is_replaced_or_killed() {
    let (stage, _alone) = rough_alone().await;
    let settings = [("l7r.auth.plugins", "TOTP"), ("l7r.auth.plugin.totp.interval", "100000000")];
    let mut desktop = stage.running_in_tenant(&settings).await;
    let secret = give_secret(stage, &desktop.login).await;
    let mut config = Config::default();
    config.set("l7r.auth.plugin.totp.interval", "100000000").unwrap();
    let totp = Totp::from_config(&config);
    let password = format!("{PASSWORD}{}", totp.code(&secret, totp.step(now())));
    // One of TCP stays with the old router, which therefore stays.
    let stays = stage.running().await.connected().await;

    let mut visitor = Visitor::with(stage, &desktop.login, &password, None);
    let mut seen = comes(&mut desktop, &visitor).await;
    seen.write_all(b"one,").await.unwrap();
    assert_eq!(status(&mut stage.client().await, &authorization(&desktop.login, &password)).await, 401);

    let mut next = successor(stage);
    assert_eq!(seen.read(&mut [0]).await.unwrap(), 0, "the desktop's program sees the link end");
    drop(seen);
    let mut seen = comes(&mut desktop, &visitor).await;
    seen.write_all(b"two,").await.unwrap();
    drop(stays);
    assert!(timeout(PATIENCE, next.wait()).await.expect("the successor is replaced").unwrap().success());
    drop(seen);
    let mut seen = comes(&mut desktop, &visitor).await;
    seen.write_all(b"three,").await.unwrap();

    kill_router(stage).await;
    drop(seen);
    let mut last = comes(&mut desktop, &visitor).await;
    last.write_all(b"four").await.unwrap();
    drop(last);
    let left = timeout(PATIENCE, visitor.process.wait()).await.expect("the client stays").unwrap();
    assert!(left.success(), "{}", visitor.said());
    assert_eq!(visitor.drawn(), "one,two,three,four");
}

#[tokio::test]
async fn clients_of_quic_are_told_to_connect_again_and_lose_nothing_that_was_said() {
    let (stage, _alone) = rough_alone().await;
    let old = stage.sql("select id from l7r_instances where ended_at is null").await;
    let (mut draws, mut theirs, mut ours) = (stage.running().await, stage.running().await, stage.running().await);
    // One of TCP stays with the old router, which therefore stays.
    let mut stays = draws.connected().await;
    let mut idle = Quic::connect(stage).await;
    assert_eq!(idle.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await.status, 200);
    let (mut client, mut nx) = connected(&mut theirs).await;
    let mut visitor = Visitor::new(stage, &ours.login, None);
    let mut seen = comes(&mut ours, &visitor).await;
    seen.write_all(b"one,").await.unwrap();
    assert_eq!(router_of(&ours).await, format!("{old} quic"));

    let said = vec![7; 200_000];
    client.send(&said).await;
    nx.write_all(&said).await.unwrap();
    let mut next = successor(stage);
    assert_eq!(client.read(said.len()).await, said);
    assert!(client.ended().await);
    // What is said before the answer to the goodbye still arrives.
    client.send("late").await;
    client.send.finish().unwrap();
    let mut heard = Vec::new();
    timeout(PATIENCE, nx.read_to_end(&mut heard)).await.expect("the desktop is not left").unwrap();
    assert!(heard[..said.len()] == said && &heard[said.len()..] == b"late");
    for connection in [&client.connection, &idle.connection] {
        assert_eq!(timeout(PATIENCE, connection.closed()).await.expect("nobody tells the client"), told());
    }
    // Who is told finds the next router at once.
    let mut again = Quic::connect(stage).await;
    assert_eq!(again.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await.status, 200);

    // Our client does so by itself.
    assert_eq!(seen.read(&mut [0]).await.unwrap(), 0, "the desktop's program sees the link end");
    drop(seen);
    let mut seen = comes(&mut ours, &visitor).await;
    seen.write_all(b"two,").await.unwrap();
    assert!(visitor.said().contains("the server was replaced; connecting again"), "{}", visitor.said());
    assert_ne!(router_of(&ours).await, format!("{old} quic"));
    let first = format!("select end_reason from user_sessions where vm_id = {} order by id limit 1", ours.id);
    assert_eq!(stage.sql(&first).await, "the router was replaced, and the client told to connect again");

    // Who uses TCP noticed nothing of all that. With its end, the next router is replaced in turn.
    stays.client.send("still here").await;
    let mut heard = [0; 10];
    stays.nx.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
    drop(stays);
    assert!(timeout(PATIENCE, next.wait()).await.expect("the successor is replaced").unwrap().success());
    let mut last = comes(&mut ours, &visitor).await;
    last.write_all(b"three").await.unwrap();
    drop(last);

    let left = timeout(PATIENCE, visitor.process.wait()).await.expect("the client stays").unwrap();
    assert!(left.success(), "{}", visitor.said());
    assert_eq!(visitor.drawn(), "one,two,three");
    drop(again);
}
