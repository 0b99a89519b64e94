//! The same dialogue over QUIC, with a client that is written from the protocol and knows nothing of ours. It listens
//! on 127.0.0.0/8 and goes from one address to another as a laptop goes from one network to another.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::signal::{Signal, kill},
    unistd::{Pid, close},
};
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt, crypto::rustls::QuicClientConfig};
use qvd::demo::site::free_port;
use rustls::{crypto::aws_lc_rs, pki_types::CertificateDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    besieged::{BLOCKED, ENDLESS, SOON},
    certificate::made,
    client::{Answer, Client, Presented},
    outage::kill_router,
    stage::{Desktop, PATIENCE, Stage, calm, rough_alone},
};

pub struct Quic {
    endpoint: Endpoint,
    pub connection: Connection,
    pub send: SendStream,
    recv: RecvStream,
}

impl Quic {
    pub async fn connect(stage: &Stage) -> Self {
        Self::connect_to(stage.site.port()).await
    }

    async fn connect_to(port: u16) -> Self {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Presented::default()))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"qvd".to_vec()];
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let crypto = QuicClientConfig::try_from(config).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        let connecting = endpoint.connect((Ipv4Addr::LOCALHOST, port).into(), "localhost").unwrap();
        let connection = timeout(PATIENCE, connecting).await.expect("nobody answers over UDP").unwrap();
        let (send, recv) = connection.open_bi().await.unwrap();
        Self { endpoint, connection, send, recv }
    }

    fn certificate(&self) -> Vec<u8> {
        let identity = self.connection.peer_identity().unwrap();
        identity.downcast_ref::<Vec<CertificateDer<'static>>>().unwrap()[0].to_vec()
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.send.write_all(bytes.as_ref())).await.expect("the server does not read").unwrap();
    }

    pub async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        timeout(PATIENCE, self.recv.read_exact(&mut bytes)).await.expect("the server says nothing").unwrap();
        bytes
    }

    async fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.read(1).await);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned()));
        let mut answer = Answer { status, headers: headers.collect(), body: Vec::new() };
        if let Some(length) = answer.header("Content-Length") {
            answer.body = self.read(length.parse().unwrap()).await;
        }
        answer
    }

    async fn conclusion(&mut self) -> (Vec<String>, Answer) {
        let mut texts = Vec::new();
        loop {
            let answer = self.answer().await;
            match answer.header("X-QVD-VM-Info") {
                Some(text) if answer.status == 102 => texts.push(text.to_owned()),
                _ => return (texts, answer),
            }
        }
    }

    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.conclusion().await.1
    }

    /// Waits until the server has said that nothing more comes, and that there was nothing before.
    pub async fn ended(&mut self) -> bool {
        matches!(timeout(PATIENCE, self.recv.read(&mut [0])).await, Ok(Ok(None)))
    }

    fn move_to(&self, host: u8) {
        self.endpoint.rebind(UdpSocket::bind((Ipv4Addr::new(127, 0, 0, host), 0)).unwrap()).unwrap();
    }
}

/// Both ends of a tunnel over QUIC.
pub async fn connected(desktop: &mut Desktop) -> (Quic, tokio::net::TcpStream) {
    let mut client = Quic::connect(desktop.stage).await;
    client.send(desktop.connect_request("")).await;
    let (_, answer) = client.conclusion().await;
    assert_eq!(answer.status, 101, "{}", answer.text());
    (client, desktop.vm.nx().await)
}

#[tokio::test]
async fn a_client_that_vanishes_while_its_vm_reads_nothing_is_missed_soon() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let (mut client, mut nx) = connected(&mut desktop).await;
    let mut sent = 0;
    while let Ok(taken) = timeout(BLOCKED, client.send.write(&[7; 16 * 1024])).await {
        sent += taken.unwrap();
        assert!(sent < ENDLESS, "the router swallows all that it is given");
    }
    // Blocked is one way only.
    nx.write_all(b"still drawing").await.unwrap();
    assert_eq!(client.read(13).await, b"still drawing");
    client.connection.close(VarInt::from_u32(0), b"");
    let took = desktop.freed().await;
    assert!(took < SOON, "the desktop was freed only after {took:?}");
    assert_eq!(desktop.end_reason().await, "the client left");
}

#[tokio::test]
async fn requests_are_answered_as_over_tls() {
    let stage = calm().await;
    let desktop = stage.desktop().await;
    let (mut quic, mut tls) = (Quic::connect(stage).await, stage.client().await);
    for request in [
        "GET /qvd/ping HTTP/1.1\r\n\r\n".to_owned(),
        "GET /qvd/list_of_vm HTTP/1.1\r\n\r\n".to_owned(),
        desktop.get("/qvd/list_of_vm"),
        desktop.get("/qvd/connect_to_vm?id=1"),
        desktop.get("/qvd/nonsense"),
    ] {
        let (ours, theirs) = (quic.ask(&request).await, tls.ask(&request).await);
        assert_eq!(
            (ours.status, ours.headers.clone(), ours.text()),
            (theirs.status, theirs.headers.clone(), theirs.text())
        );
    }
    assert_eq!(quic.certificate(), tls.certificate());
    // What is no request is refused, and the connection ended in good order.
    assert_eq!(quic.ask("nonsense\r\n\r\n").await.status, 400);
    assert!(quic.ended().await);
}

#[tokio::test]
async fn a_desktop_is_started_used_and_left() {
    let stage = calm().await;
    let mut desktop = stage.desktop().await;
    let mut client = Quic::connect(stage).await;
    client.send(desktop.connect_request("")).await;
    let (texts, answer) = client.conclusion().await;
    assert_eq!(answer.status, 101, "{}", answer.text());
    assert!(texts.contains(&"Starting virtual machine".to_owned()), "{texts:?}");
    let session = answer.header("X-QVD-Session-Id").unwrap().to_owned();
    let mut nx = desktop.vm.nx().await;
    let up = vec![7; 100_000];
    client.send(&up).await;
    let mut heard = vec![0; up.len()];
    nx.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, up);
    nx.write_all(&[9; 5000]).await.unwrap();
    assert_eq!(client.read(5000).await, [9; 5000]);
    let row = format!("select concat_ws(' ', client, tunnel) from session_list where id = {session}");
    assert_eq!(stage.sql(&row).await, "127.0.0.1 quic");
    // Each direction ends on its own.
    client.send.finish().unwrap();
    assert_eq!(nx.read(&mut [0]).await.unwrap(), 0);
    nx.write_all(b"bye").await.unwrap();
    drop(nx);
    assert_eq!(client.read(3).await, b"bye");
    assert!(client.ended().await);
    desktop.freed().await;
    let end = format!("select concat_ws(' ', bytes_up, bytes_down, end_reason) from session_list where id = {session}");
    assert_eq!(stage.sql(&end).await, "100000 5003 the client left");
}

#[tokio::test]
async fn a_client_that_leaves_at_any_step_frees_its_desktop() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    for politely in [true, false] {
        desktop.vm.x("starting");
        let mut client = Quic::connect(stage).await;
        client.send(desktop.connect_request("")).await;
        while !client.answer().await.header("X-QVD-VM-Info").unwrap().starts_with("Waiting for X") {}
        leave(client, politely);
        desktop.freed().await;
        assert_eq!(desktop.end_reason().await, "the client left while it was connecting");
        desktop.vm.x("listening");

        let (client, mut nx) = connected(&mut desktop).await;
        leave(client, politely);
        assert_eq!(nx.read(&mut [0]).await.unwrap(), 0);
        drop(nx);
        desktop.freed().await;
        assert_eq!(desktop.end_reason().await, "the client left");
    }
}

fn leave(mut client: Quic, politely: bool) {
    if politely {
        client.send.finish().unwrap();
    }
    client.connection.close(VarInt::from_u32(0), b"");
}

#[tokio::test]
async fn a_session_that_is_taken_over_ends_in_good_order() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let (mut first, _nx) = connected(&mut desktop).await;
    let second = desktop.connected().await;
    assert!(first.ended().await);
    drop(second);
    desktop.freed().await;
    let (mut third, nx) = connected(&mut desktop).await;
    drop(nx);
    assert!(third.ended().await);
}

#[tokio::test]
async fn the_client_may_change_its_address_in_the_middle_of_a_transfer() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let (client, nx) = connected(&mut desktop).await;
    let data: Vec<u8> = (0..6_000_001_usize).map(|i| (i * 31 + i / 251) as u8).collect();
    let (mut nx_in, mut nx_out) = nx.into_split();
    let Quic { endpoint, connection: _connection, mut send, mut recv } = client;
    let rebind = |host| endpoint.rebind(UdpSocket::bind((Ipv4Addr::new(127, 0, 0, host), 0)).unwrap()).unwrap();
    let up = async {
        for (part, host) in data.chunks(data.len() / 3).zip([2, 3, 2, 1]) {
            send.write_all(part).await.unwrap();
            rebind(host);
        }
        send.finish().unwrap();
    };
    let down = async {
        nx_out.write_all(&data).await.unwrap();
        nx_out.shutdown().await.unwrap();
    };
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let hear_up = async { nx_in.read_to_end(&mut got_up).await.unwrap() };
    let hear_down = async { got_down = recv.read_to_end(data.len()).await.unwrap() };
    timeout(PATIENCE, async { tokio::join!(up, down, hear_up, hear_down) }).await.expect("the transfer stalls");
    assert!(got_up == data && got_down == data);
    drop((nx_in, nx_out));
    desktop.freed().await;
    let sessions = format!(
        "select count(*) || ' ' || min(host(client)) from session_list where vm = '{}@default/desk'",
        desktop.login
    );
    assert_eq!(stage.sql(&sessions).await, "1 127.0.0.1");
}

#[tokio::test]
async fn a_silent_client_on_a_new_address_gets_what_the_desktop_sends() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let (mut client, mut nx) = connected(&mut desktop).await;
    client.move_to(4);
    nx.write_all(b"still there?").await.unwrap();
    assert_eq!(client.read(12).await, b"still there?");
    client.send("yes").await;
    let mut heard = [0; 3];
    nx.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"yes");
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_clients_and_tunnels_stay() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    let (mut client, mut nx) = connected(&mut desktop).await;
    let (certificate, key, der) = made();
    assert_ne!(client.certificate(), der);
    stage.sql(&format!("select config_ssl('{certificate}', '{key}')")).await;
    let change = async { while Quic::connect(stage).await.certificate() != der {} };
    timeout(PATIENCE, change).await.expect("the new certificate is not used");
    nx.write_all(b"yes").await.unwrap();
    assert_eq!(client.read(3).await, b"yes");
    stage.sql("delete from ssl_configs").await;
}

#[tokio::test]
async fn a_client_whose_router_was_killed_is_told_by_the_next_one() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    let (mut client, _nx) = connected(&mut desktop).await;
    kill_router(stage).await;
    client.send([7; 1000]).await;
    let why = timeout(PATIENCE, client.connection.closed()).await.expect("the client does not learn of it");
    assert_eq!(why, quinn::ConnectionError::Reset);
}

/// The configuration of a router of its own.
fn configuration(stage: &Stage, directory: &Path, node: &str, port: u16) -> PathBuf {
    let file = directory.join("node.conf");
    let settings = format!(
        "nodename = {node}\npath.run = {0}/run\npath.l7r.ssl = {0}/ssl\nl7r.address = 127.0.0.1\nl7r.port = {port}\n\
         database.host = {1}\n",
        directory.display(),
        stage.site.cluster().socket_dir().display()
    );
    fs::write(&file, settings).unwrap();
    file
}

#[tokio::test]
async fn a_service_manager_may_hold_both_ports_in_any_order() {
    let stage = calm().await;
    let scratch = tempfile::tempdir().unwrap();
    stage.sql("select host_create('activated', '10.98.0.2')").await;
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = tcp.local_addr().unwrap().port();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    // For the process that comes next, where those are not that it is to find them at.
    let held = [udp.as_fd(), tcp.as_fd()].map(|socket| fcntl(socket, FcntlArg::F_DUPFD(5)).unwrap());
    // As systemd passes them: from descriptor 3 on, to the process that was promised them.
    let passed = format!("export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\" 3<&{} 4<&{}", held[0], held[1]);
    let log = scratch.path().join("log");
    let mut router = tokio::process::Command::new("bash")
        .args(["-c", &passed, "-", env!("CARGO_BIN_EXE_qvd"), "l7r", "--config"])
        .arg(configuration(stage, scratch.path(), "activated", port))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    held.into_iter().for_each(|socket| close(socket).unwrap());
    let request = "GET /qvd/ping HTTP/1.1\r\n\r\n";
    let asked = async {
        assert_eq!(Client::connect(port).await.ask(request).await.text(), "Server is stopped");
        assert_eq!(Quic::connect_to(port).await.ask(request).await.text(), "Server is stopped");
    };
    tokio::select! {
        () = asked => {}
        ended = router.wait() => panic!("the router has ended: {ended:?}, {}", fs::read_to_string(log).unwrap()),
    }
    stage.sql("delete from hosts where name = 'activated'").await;
}

#[tokio::test]
async fn where_the_udp_port_is_taken_users_are_served_over_tcp() {
    let stage = calm().await;
    let scratch = tempfile::tempdir().unwrap();
    stage.sql("select host_create('udpless', '10.98.0.1')").await;
    let port = free_port().unwrap();
    let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (file, log) = (configuration(stage, scratch.path(), "udpless", port), scratch.path().join("log"));
    let mut router = tokio::process::Command::new(env!("CARGO_BIN_EXE_qvd"))
        .args(["l7r", "--config"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let listening = async { while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {} };
    timeout(PATIENCE, listening).await.expect("the router does not listen");
    let answer = Client::connect(port).await.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "Server is stopped"));
    // Without its host a router has nothing to say to anybody.
    stage.sql("delete from hosts where name = 'udpless'").await;
    for request in ["/qvd/ping", "/qvd/list_of_vm"] {
        let answer = Client::connect(port).await.ask(format!("GET {request} HTTP/1.1\r\n\r\n")).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (503, "Host is not registered in the database"),
            "{request}"
        );
    }
    kill(Pid::from_raw(router.id().unwrap() as i32), Signal::SIGTERM).unwrap();
    assert!(timeout(PATIENCE, router.wait()).await.expect("the router does not end").unwrap().success());
    let said = fs::read_to_string(log).unwrap();
    assert!(said.contains("users are served over TCP alone"), "{said}");
}
