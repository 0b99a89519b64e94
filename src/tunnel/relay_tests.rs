use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;
use crate::tunnel::testing::{soon, tcp_pair, tls_pair};

/// A tunnel between two real connections, and what its users hold.
struct Setup<C> {
    client: C,
    vm: TcpStream,
    counters: Arc<Counters>,
    cancel: CancellationToken,
    ended: JoinHandle<Ended>,
}

async fn start<C>(client: C, outer: Conn, leftover: &[u8]) -> Setup<C> {
    let (inner, vm) = tcp_pair().await;
    let counters = Arc::new(Counters::default());
    let cancel = CancellationToken::new();
    let ended = tokio::spawn({
        let (counters, cancel, leftover) = (counters.clone(), cancel.clone(), leftover.to_vec());
        async move { relay(outer, inner, leftover, &counters, &cancel).await }
    });
    Setup { client, vm, counters, cancel, ended }
}

async fn plain(leftover: &[u8]) -> Setup<TcpStream> {
    let (client, outer) = tcp_pair().await;
    start(client, outer.into(), leftover).await
}

async fn tls(leftover: &[u8]) -> Setup<tokio_rustls::client::TlsStream<TcpStream>> {
    let (client, outer) = tls_pair().await;
    start(client, outer.into(), leftover).await
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

async fn client_may_close_first<C: AsyncRead + AsyncWrite + Unpin>(mut setup: Setup<C>) {
    setup.client.write_all(b"last words").await.unwrap();
    soon(setup.client.shutdown()).await.unwrap();
    let mut heard = Vec::new();
    soon(setup.vm.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"last words");

    let answer = pattern(1_000_000);
    let (wrote, read) = tokio::join!(
        async {
            setup.vm.write_all(&answer).await.unwrap();
            setup.vm.shutdown().await
        },
        async {
            let mut heard = Vec::new();
            soon(setup.client.read_to_end(&mut heard)).await.unwrap();
            heard
        }
    );
    wrote.unwrap();
    assert!(read == answer, "the other direction goes on after a half-close");
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterClosed), "{:?}", ended.reason);
    assert_eq!((ended.up, ended.down), (10, 1_000_000));
}

async fn vm_may_close_first<C: AsyncRead + AsyncWrite + Unpin>(mut setup: Setup<C>) {
    setup.vm.write_all(b"good bye").await.unwrap();
    setup.vm.shutdown().await.unwrap();
    let mut heard = Vec::new();
    // With TLS, an end without close_notify would be an error here.
    soon(setup.client.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"good bye");

    let sent = pattern(700_001);
    let (_, received) = tokio::join!(
        async {
            setup.client.write_all(&sent).await.unwrap();
            setup.client.shutdown().await.unwrap();
        },
        async {
            let mut heard = Vec::new();
            soon(setup.vm.read_to_end(&mut heard)).await.unwrap();
            heard
        }
    );
    assert!(received == sent, "the other direction goes on after a half-close");
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::InnerClosed), "{:?}", ended.reason);
    assert_eq!((ended.up, ended.down), (700_001, 8));
}

#[tokio::test]
async fn a_plain_client_may_close_first() {
    client_may_close_first(plain(b"").await).await;
}

#[tokio::test]
async fn a_tls_client_may_close_first() {
    client_may_close_first(tls(b"").await).await;
}

#[tokio::test]
async fn the_vm_may_close_first_towards_a_plain_client() {
    vm_may_close_first(plain(b"").await).await;
}

#[tokio::test]
async fn the_vm_may_close_first_towards_a_tls_client() {
    vm_may_close_first(tls(b"").await).await;
}

async fn leftover_first<C: AsyncRead + AsyncWrite + Unpin>(mut setup: Setup<C>) {
    setup.client.write_all(b"3.5.0 ").await.unwrap();
    let mut heard = [0; 14];
    soon(setup.vm.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"NXPROXY-3.5.0 ");
    assert_eq!(setup.counters.up(), 14, "counters are live");
}

#[tokio::test]
async fn what_was_read_before_is_delivered_first() {
    leftover_first(tls(b"NXPROXY-").await).await;
    leftover_first(plain(b"NXPROXY-").await).await;
}

async fn blocked_then_cancelled<C: AsyncRead + AsyncWrite + Unpin>(mut setup: Setup<C>) {
    // Nobody reads at the VM, so the tunnel fills up until the client cannot write any more.
    let block = pattern(256 * 1024);
    while let Ok(result) = tokio::time::timeout(std::time::Duration::from_millis(300), setup.client.write(&block)).await
    {
        result.unwrap();
    }
    setup.cancel.cancel();
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::Cancelled), "{:?}", ended.reason);
    assert!(ended.up > 0);
}

#[tokio::test]
async fn cancellation_ends_even_a_blocked_tunnel_at_once() {
    blocked_then_cancelled(tls(b"").await).await;
    blocked_then_cancelled(plain(b"").await).await;
}

#[tokio::test]
async fn a_tls_client_that_dies_without_a_goodbye_is_cut() {
    let mut setup = tls(b"").await;
    setup.client.write_all(b"x").await.unwrap();
    let (tcp, _session) = setup.client.into_inner();
    drop(tcp);
    let mut heard = Vec::new();
    soon(setup.vm.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"x");
    // Nobody waits for the VM to close, too.
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterCut), "{:?}", ended.reason);
}

#[tokio::test]
async fn a_reset_of_the_vm_reaches_the_client_as_an_orderly_end() {
    let mut setup = tls(b"").await;
    setup.client.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    soon(setup.vm.read_exact(&mut heard)).await.unwrap();
    socket2::SockRef::from(&setup.vm).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(setup.vm);
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::InnerFailed(_)), "{:?}", ended.reason);
    let mut rest = Vec::new();
    soon(setup.client.read_to_end(&mut rest)).await.expect("close_notify was sent");
}

async fn bulk_both_ways<C: AsyncRead + AsyncWrite + Unpin>(setup: Setup<C>) {
    let data = pattern(5_000_003);
    let (mut client_in, mut client_out) = tokio::io::split(setup.client);
    let (mut vm_in, mut vm_out) = setup.vm.into_split();
    let send_up = async {
        client_out.write_all(&data).await.unwrap();
        client_out.shutdown().await.unwrap();
    };
    let send_down = async {
        vm_out.write_all(&data).await.unwrap();
        vm_out.shutdown().await.unwrap();
    };
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let receive_up = async { vm_in.read_to_end(&mut up).await.unwrap() };
    let receive_down = async { client_in.read_to_end(&mut down).await.unwrap() };
    soon(async { tokio::join!(send_up, send_down, receive_up, receive_down) }).await;
    assert!(up == data && down == data);
    let ended = soon(setup.ended).await.unwrap();
    assert_eq!((ended.up, ended.down), (data.len() as u64, data.len() as u64));
}

#[tokio::test]
async fn bulk_in_both_directions_arrives_unchanged_under_back_pressure() {
    bulk_both_ways(tls(b"").await).await;
    bulk_both_ways(plain(b"").await).await;
}

fn pattern_from(start: usize, length: usize) -> Vec<u8> {
    (start..start + length).map(|i| (i * 31 + i / 251) as u8).collect()
}

async fn what_is_read_on_arrives_in_order<C: AsyncRead + AsyncWrite + Unpin>(mut setup: Setup<C>) {
    const PIECE: usize = 64 * 1024;
    let mut sent = 0;
    let silence = std::time::Duration::from_millis(300);
    while let Ok(taken) = tokio::time::timeout(silence, setup.client.write(&pattern_from(sent, PIECE))).await {
        sent += taken.unwrap();
    }
    // More is taken while the desktop takes nothing. On a busy machine it may not have come to that yet.
    loop {
        let before = setup.counters.up();
        for _ in 0..8 {
            soon(setup.client.write_all(&pattern_from(sent, PIECE))).await.unwrap();
            sent += PIECE;
        }
        if setup.counters.up() == before {
            break;
        }
    }
    let (mut heard, mut space) = (0, vec![0; PIECE]);
    let reading = async {
        loop {
            let read = soon(setup.vm.read(&mut space)).await.unwrap();
            if read == 0 {
                break;
            }
            assert!(space[..read] == pattern_from(heard, read), "behind {heard} bytes");
            heard += read;
        }
    };
    let (closed, ()) = tokio::join!(setup.client.shutdown(), reading);
    closed.unwrap();
    drop(setup.vm);
    let ended = soon(setup.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterClosed), "{:?}", ended.reason);
    assert_eq!((heard, ended.up), (sent, sent as u64));
}

#[tokio::test]
async fn a_desktop_that_takes_nothing_for_a_while_loses_nothing_of_what_was_read_on() {
    tokio::join!(async { what_is_read_on_arrives_in_order(plain(b"").await).await }, async {
        what_is_read_on_arrives_in_order(tls(b"").await).await
    },);
}
