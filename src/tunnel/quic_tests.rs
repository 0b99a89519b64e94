use std::{net::UdpSocket, sync::Arc, time::Instant};

use quinn::Endpoint;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tunnel::{
    Counters, Ended, Reason, relay,
    testing::{quic_endpoints, quic_pair, soon, tcp_pair},
};

const IDLE: Duration = Duration::from_secs(15);

/// A tunnel between a QUIC client and a VM.
struct Setup {
    near: Endpoint,
    far: Endpoint,
    client: QuicStream,
    vm: TcpStream,
    cancel: CancellationToken,
    ended: JoinHandle<Ended>,
}

async fn setup(idle: Duration) -> Setup {
    let (near, far) = quic_endpoints(idle, None);
    let (client, outer) = quic_pair(&near, &far).await;
    let (inner, vm) = tcp_pair().await;
    let cancel = CancellationToken::new();
    let cancelled = cancel.clone();
    let ended = tokio::spawn(async move {
        let counters = Arc::new(Counters::default());
        relay(outer.into(), inner, Vec::new(), &counters, &cancelled).await
    });
    Setup { near, far, client, vm, cancel, ended }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

async fn rest<R: AsyncRead + Unpin>(mut stream: R) -> Vec<u8> {
    let mut heard = Vec::new();
    soon(stream.read_to_end(&mut heard)).await.unwrap();
    heard
}

#[tokio::test]
async fn the_client_may_close_first() {
    let mut setup = setup(IDLE).await;
    setup.client.write_all(b"last words").await.unwrap();
    soon(setup.client.shutdown()).await.unwrap();
    let mut heard = Vec::new();
    soon(setup.vm.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"last words");
    let answer = pattern(3_000_000);
    let send = async {
        setup.vm.write_all(&answer).await.unwrap();
        setup.vm.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(send, rest(&mut setup.client));
    assert!(read == answer, "the other direction goes on after a half-close");
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterClosed), "{:?}", ended.reason);
    assert_eq!((ended.up, ended.down), (10, 3_000_000));
}

#[tokio::test]
async fn the_vm_may_close_first() {
    let mut setup = setup(IDLE).await;
    setup.vm.write_all(b"good bye").await.unwrap();
    setup.vm.shutdown().await.unwrap();
    assert_eq!(rest(&mut setup.client).await, b"good bye");
    let sent = pattern(3_000_001);
    let send = async {
        setup.client.write_all(&sent).await.unwrap();
        setup.client.shutdown().await.unwrap();
    };
    let (_, received) = tokio::join!(send, rest(&mut setup.vm));
    assert!(received == sent);
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::InnerClosed), "{:?}", ended.reason);
    assert_eq!((ended.up, ended.down), (3_000_001, 8));
}

#[tokio::test]
async fn what_was_written_last_arrives_although_the_stream_is_dropped_at_once() {
    let (near, far) = quic_endpoints(IDLE, None);
    let (client, mut server) = quic_pair(&near, &far).await;
    let sent = pattern(1_000_000);
    server.write_all(&sent).await.unwrap();
    drop(server);
    assert!(rest(client).await == sent);
    soon(far.wait_idle()).await;
}

#[tokio::test]
async fn a_client_that_closes_without_a_goodbye_is_cut() {
    let mut setup = setup(IDLE).await;
    setup.client.write_all(b"x").await.unwrap();
    assert_eq!(soon(setup.vm.read_u8()).await.unwrap(), b'x');
    setup.near.close(VarInt::from_u32(1), b"");
    assert_eq!(soon(setup.vm.read(&mut [0])).await.unwrap(), 0);
    drop(setup.vm);
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterCut), "{:?}", ended.reason);
}

#[tokio::test]
async fn a_client_that_falls_silent_is_given_up() {
    let setup = setup(Duration::from_secs(2)).await;
    // A socket that nobody answers from.
    let silence = UdpSocket::bind("127.0.0.1:0").unwrap();
    silence.connect("127.0.0.1:9").unwrap();
    setup.near.rebind(silence).unwrap();
    let ended = soon(setup.ended).await.unwrap();
    let Reason::OuterFailed(error) = &ended.reason else { panic!("{:?}", ended.reason) };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn cancellation_ends_a_blocked_tunnel_at_once_and_the_client_hears_a_goodbye() {
    let mut setup = setup(IDLE).await;
    // Nobody reads at the VM, so the tunnel fills up until the client cannot write any more: memory is bounded.
    let block = pattern(256 * 1024);
    let mut written = 0;
    while let Ok(result) = tokio::time::timeout(Duration::from_millis(300), setup.client.write(&block)).await {
        written += result.unwrap();
    }
    assert!(written < 32 * 1024 * 1024, "{written}");
    let began = Instant::now();
    setup.cancel.cancel();
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::Cancelled), "{:?}", ended.reason);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(rest(&mut setup.client).await, b"");
}

#[tokio::test]
async fn the_client_may_change_its_address_in_the_middle_of_a_transfer() {
    let setup = setup(IDLE).await;
    let data = pattern(8_000_003);
    let first = setup.near.local_addr().unwrap();
    let (mut client_in, mut client_out) = tokio::io::split(setup.client);
    let (mut vm_in, mut vm_out) = setup.vm.into_split();
    let half = data.len() / 2;
    let roam = async {
        for host in [2, 3, 1] {
            let socket = UdpSocket::bind((std::net::Ipv4Addr::new(127, 0, 0, host), 0)).unwrap();
            setup.near.rebind(socket).unwrap();
            tokio::task::yield_now().await;
        }
    };
    let send_up = async {
        client_out.write_all(&data[..half]).await.unwrap();
        roam.await;
        client_out.write_all(&data[half..]).await.unwrap();
        client_out.shutdown().await.unwrap();
    };
    let send_down = async {
        vm_out.write_all(&data).await.unwrap();
        vm_out.shutdown().await.unwrap();
    };
    let (_, _, up, down) =
        soon(async { tokio::join!(send_up, send_down, rest(&mut vm_in), rest(&mut client_in)) }).await;
    assert!(up == data && down == data);
    assert_ne!(setup.near.local_addr().unwrap(), first);
    assert_eq!(soon(setup.ended).await.unwrap().up, data.len() as u64);
    assert_eq!(setup.far.stats().accepted_handshakes, 1, "it was one connection");
}
