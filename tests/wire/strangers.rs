//! Clients that are not what they should be: too many, too slow, too often wrong, or not speaking TLS at all. Each
//! comes from an address of its own, so that nobody else is taken for it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    client::Client,
    proofs::{bearer, status, token},
    stage::{PASSWORD, PATIENCE, Stage, authorization, calm, rough_alone},
};

/// A TCP connection from this address of the loopback network.
pub async fn tcp(stage: &Stage, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 77, last), 0).into()).unwrap();
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, stage.site.port()))).await.unwrap()
}

pub async fn client(stage: &Stage, last: u8) -> Client {
    Client::over(tcp(stage, last).await, &rustls::version::TLS13).await
}

pub fn list(login: &str, password: &str) -> String {
    format!("GET /qvd/list_of_vm HTTP/1.1\r\n{}\r\n", authorization(login, password))
}

/// What comes until the other side closes; a reset is an end, too.
async fn rest(mut tcp: TcpStream) -> String {
    let mut heard = Vec::new();
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut heard)).await.expect("the connection stays open");
    String::from_utf8_lossy(&heard).into_owned()
}

/// Waits until a counter has grown by this much.
pub async fn counted(stage: &Stage, counter: &str, before: &str, more: i64) {
    let wanted = before.parse::<i64>().unwrap() + more;
    stage
        .until(
            &format!("select {counter} >= {wanted} from host_counters where host_id = (select min(id) from hosts)"),
            "t",
        )
        .await;
}

pub async fn counter(stage: &Stage, counter: &str) -> String {
    stage.sql(&format!("select {counter} from host_counters where host_id = (select min(id) from hosts)")).await
}

#[tokio::test]
async fn a_user_who_fails_too_often_waits_and_nobody_else_does() {
    let stage = calm().await;
    let (alice, bob) = (stage.user().await, stage.user().await);
    let before = counter(stage, "limited_logins").await;
    let mut first = client(stage, 1).await;
    assert_eq!(first.ask(list(&alice.login, PASSWORD)).await.status, 200);
    let mut client_of = client(stage, 1).await;
    let mut failed = 0;
    let refusal = loop {
        // Written differently it is the same account.
        let login =
            if failed % 2 == 0 { alice.login.clone() } else { format!("{}@default", alice.login.to_uppercase()) };
        let answer = client_of.ask(list(&login, "wrong")).await;
        if answer.status == 429 {
            break answer;
        }
        assert_eq!(answer.status, 401);
        failed += 1;
        assert!(failed < 40, "nobody counts");
    };
    assert!(failed >= 10, "{failed}");
    let wait: u64 = refusal.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    // The right password is not even looked at, wherever it comes from; who has logged in is not disturbed.
    assert_eq!(client(stage, 2).await.ask(list(&alice.login, PASSWORD)).await.status, 429);
    assert_eq!(first.ask(list(&alice.login, PASSWORD)).await.status, 200);
    assert_eq!(client(stage, 1).await.ask(list(&bob.login, PASSWORD)).await.status, 200);
    counted(stage, "limited_logins", &before, 2).await;
}

#[tokio::test]
async fn an_address_that_fails_too_often_waits_whoever_it_tries_to_be() {
    let (stage, _alone) = rough_alone().await;
    stage.sql("select config_set('l7r.auth.failures.address', '5')").await;
    let alice = stage.user().await;
    let mut guesser = client(stage, 3).await;
    let limited = async {
        let mut number = 0;
        while guesser.ask(list(&format!("guess{number}"), "wrong")).await.status != 429 {
            number += 1;
        }
    };
    timeout(PATIENCE, limited).await.expect("no end of guesses");
    assert_eq!(client(stage, 3).await.ask(list(&alice.login, PASSWORD)).await.status, 429);
    assert_eq!(client(stage, 4).await.ask(list(&alice.login, PASSWORD)).await.status, 200);
    stage.sql("select config_reset('l7r.auth.failures.address')").await;
}

#[tokio::test]
async fn tokens_that_are_none_keep_nobody_else_with_a_token_out() {
    let stage = calm().await;
    let user = stage.user().await;
    let mut guesser = client(stage, 62).await;
    for number in 0..20 {
        assert_eq!(status(&mut guesser, &bearer(&format!("guess{number}"))).await, 401, "{number}");
    }
    let token = token(stage, user.id, None, "5 minutes", false).await;
    assert_eq!(status(&mut client(stage, 63).await, &bearer(&token)).await, 200);
}

#[tokio::test]
async fn a_crowd_of_silent_connections_from_one_address_disturbs_nobody_else() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let stage = calm().await;
    let before = counter(stage, "refused_connections").await;
    let mut crowd = Vec::new();
    for _ in 0..1500 {
        crowd.push(tcp(stage, 5).await);
    }
    let alice = stage.user().await;
    assert_eq!(client(stage, 6).await.ask(list(&alice.login, PASSWORD)).await.status, 200);
    // 512 may stay, the others are closed.
    counted(stage, "refused_connections", &before, 900).await;
    drop(crowd);
    let again = async {
        loop {
            let mut tcp = tcp(stage, 5).await;
            tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            if rest(tcp).await.contains("400") {
                break;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("who has left still counts");
}

#[tokio::test]
async fn http_in_the_clear_gets_one_helpful_line_and_is_counted() {
    let stage = calm().await;
    let before = counter(stage, "plain_http").await;
    let mut browser = tcp(stage, 7).await;
    browser.write_all(b"GET /qvd/ping HTTP/1.1\r\nHost: qvd\r\n\r\n").await.unwrap();
    let answer = rest(browser).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && answer.contains("This port speaks TLS"), "{answer}");
    counted(stage, "plain_http", &before, 1).await;
}

#[tokio::test]
async fn garbage_and_broken_handshakes_are_closed_and_counted() {
    let stage = calm().await;
    let before = counter(stage, "failed_handshakes").await;
    let beginnings: [&[u8]; 4] = [
        &[0; 64],
        &[0x16, 3, 1, 0, 4, 9, 9, 9, 9],
        &[0x16, 3, 1, 255, 255, 1],
        &[0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16],
    ];
    for first in beginnings {
        let mut tcp = tcp(stage, 8).await;
        tcp.write_all(first).await.unwrap();
        tcp.shutdown().await.unwrap();
        rest(tcp).await;
    }
    counted(stage, "failed_handshakes", &before, 4).await;
}

#[tokio::test]
async fn a_request_that_does_not_come_ends_the_connection_unless_its_client_has_logged_in() {
    let (stage, _alone) = rough_alone().await;
    let alice = stage.user().await;
    let before = counter(stage, "slow_clients").await;
    stage.sql("select config_set('internal.l7r.timeout.head', '0.5')").await;
    let known = async {
        let mut known = client(stage, 9).await;
        (known.ask(list(&alice.login, PASSWORD)).await.status == 200).then_some(known)
    };
    let mut known = known.await.unwrap();
    let taken_over = async {
        loop {
            let mut silent = client(stage, 9).await;
            let mut half = client(stage, 9).await;
            half.send("GET /qvd/ping HTTP/1.1\r\nX-Slow: a").await;
            if let Ok(answer) = timeout(PATIENCE / 4, silent.answer()).await {
                assert_eq!(answer.status, 408);
                assert_eq!(half.answer().await.status, 408);
                assert!(silent.ended().await && half.ended().await);
                break;
            }
        }
    };
    timeout(PATIENCE, taken_over).await.expect("slow clients are not noticed");
    counted(stage, "slow_clients", &before, 2).await;
    assert_eq!(known.ask(list(&alice.login, PASSWORD)).await.status, 200);
    known.send("GET /qvd/ping HTTP/1.1\r\n").await;
    assert_eq!(known.answer().await.status, 408);
    stage.sql("select config_reset('internal.l7r.timeout.head')").await;
}

#[tokio::test]
async fn behind_a_listed_balancer_the_address_is_that_of_its_client() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    stage.sql("select config_set('l7r.proxy.from', '127.0.77.10, 127.0.77.11/32')").await;
    let mut version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    version_2.extend([198, 51, 100, 7, 192, 0, 2, 1, 0x12, 0x67, 0x20, 0xfb]);
    let introduced = async {
        loop {
            let mut tcp = tcp(stage, 10).await;
            tcp.write_all(&version_2).await.unwrap();
            // Until the setting has arrived the header is garbage, after which nobody listens.
            if tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.is_ok() && rest(tcp).await.contains("400 Bad Request") {
                return;
            }
        }
    };
    timeout(PATIENCE, introduced).await.expect("the header is not taken");
    let mut tcp_of = tcp(stage, 10).await;
    tcp_of.write_all(&version_2).await.unwrap();
    let mut tunnel = Client::over(tcp_of, &rustls::version::TLS13).await;
    tunnel.send(desktop.connect_request("")).await;
    assert_eq!(tunnel.conclusion().await.1.status, 101);
    let _nx = desktop.vm.nx().await;
    let address = format!("select client_address from user_sessions where vm_id = {} and ended_at is null", desktop.id);
    assert_eq!(stage.sql(&address).await, "198.51.100.7");

    // From anybody else it is not looked at, and who is listed must say it.
    let before = counter(stage, "failed_handshakes").await;
    let mut stranger = tcp(stage, 12).await;
    stranger.write_all(&version_2).await.unwrap();
    assert_eq!(rest(stranger).await, "");
    let mut silent = tcp(stage, 11).await;
    silent.write_all(b"GET /qvd/ping HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(rest(silent).await, "");
    counted(stage, "failed_handshakes", &before, 2).await;
    stage.sql("select config_reset('l7r.proxy.from')").await;
}
