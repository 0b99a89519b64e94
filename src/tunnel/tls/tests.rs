use std::{io::Write, time::Duration};

use rustls::{
    ClientConnection, ProtocolVersion,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::tunnel::{
    Conn, Counters, Reason, relay as tunnel_relay,
    testing::{PATIENCE, soon, tcp_pair, tls_configs, tls_configs_of, tls_pair, tls_pair_of},
};

#[tokio::test]
async fn both_versions_carry_bulk_and_half_closes() {
    for version in [&TLS12, &TLS13] {
        let (mut client, mut server) = tls_pair_of(version).await;
        assert_eq!(server.agreed().unwrap().0, version.version);
        let data: Vec<u8> = (0..1_500_000_u32).map(|i| (i * 7 / 3) as u8).collect();
        let (mut heard, mut back) = (Vec::new(), Vec::new());
        soon(async {
            tokio::join!(
                async {
                    client.write_all(&data).await.unwrap();
                    client.shutdown().await.unwrap();
                    client.read_to_end(&mut back).await.unwrap();
                },
                async {
                    server.read_to_end(&mut heard).await.unwrap();
                    server.write_all(&heard).await.unwrap();
                    server.shutdown().await.unwrap();
                }
            )
        })
        .await;
        assert!(heard == data && back == data, "{version:?}");
    }
}

#[tokio::test]
async fn an_idle_stream_holds_no_space() {
    let (mut client, mut server) = tls_pair().await;
    let mut heard = [0; 3];
    for _ in 0..3 {
        client.write_all(b"abc").await.unwrap();
        soon(server.read_exact(&mut heard)).await.unwrap();
        server.write_all(&heard).await.unwrap();
        server.flush().await.unwrap();
        soon(client.read_exact(&mut heard)).await.unwrap();
    }
    assert!(futures_util::FutureExt::now_or_never(server.read(&mut heard)).is_none());
    assert_eq!(server.plain.held() + server.session.incoming.held() + server.session.outgoing.held(), 0);
}

#[tokio::test]
async fn keys_may_be_changed_in_the_middle_of_a_tunnel() {
    let (mut client, server) = tls_pair().await;
    let (inner, mut vm) = tcp_pair().await;
    let tunnel = tokio::spawn(async move {
        tunnel_relay(Conn::from(server), inner, Vec::new(), &Counters::default(), &Default::default()).await
    });
    let mut heard = [0; 5];
    for _ in 0..20 {
        // Asks the server to change its keys, too.
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(b"hello").await.unwrap();
        soon(vm.read_exact(&mut heard)).await.unwrap();
        vm.write_all(b"world").await.unwrap();
        soon(client.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"world");
    }
    drop(vm);
    soon(client.read_to_end(&mut Vec::new())).await.expect("a goodbye");
    client.shutdown().await.unwrap();
    let ended = soon(tunnel).await.unwrap();
    assert_eq!((ended.up, ended.down), (100, 100), "{:?}", ended.reason);
}

#[tokio::test]
async fn a_session_that_may_owe_an_answer_is_not_at_rest_before_it_has_sent_data() {
    let (mut client, mut server) = tls_pair_of(&TLS13).await;
    server.session.by_record = true;
    assert!(server.is_at_rest());
    let mut heard = [0; 5];
    for _ in 0..3 {
        client.write_all(b"hello").await.unwrap();
        soon(server.read_exact(&mut heard)).await.unwrap();
        assert!(server.is_at_rest(), "data asks for nothing");
    }
    // Asks the server to change its keys, too.
    client.get_mut().1.refresh_traffic_keys().unwrap();
    client.write_all(b"hello").await.unwrap();
    soon(server.read_exact(&mut heard)).await.unwrap();
    assert!(!server.is_at_rest());
    server.write_all(b"world").await.unwrap();
    server.flush().await.unwrap();
    assert!(server.is_at_rest());
    soon(client.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"world");
}

#[tokio::test]
async fn bytes_may_come_one_by_one_while_others_are_sent() {
    let (server_config, client_config) = tls_configs();
    let (mut tcp, far) = tcp_pair().await;
    let accepting = tokio::spawn(accept(far, server_config, PATIENCE));
    let mut client = ClientConnection::new(client_config, ServerName::try_from("localhost").unwrap()).unwrap();
    while client.is_handshaking() {
        trickle(&mut client, &mut tcp).await;
        if client.is_handshaking() {
            hear(&mut client, &mut tcp).await;
        }
    }
    trickle(&mut client, &mut tcp).await;
    let mut server = soon(accepting).await.unwrap().unwrap();
    client.writer().write_all(b"question").unwrap();
    client.refresh_traffic_keys().unwrap();
    client.writer().write_all(b"?").unwrap();
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    let mut question = Vec::new();
    for byte in wire {
        tcp.write_all(&[byte]).await.unwrap();
        tcp.flush().await.unwrap();
        // Takes in what is there; the half record stays.
        let mut space = [0; 16];
        if let Some(read) = futures_util::FutureExt::now_or_never(server.read(&mut space)) {
            question.extend_from_slice(&space[..read.unwrap()]);
        }
        server.write_all(b"x").await.unwrap();
    }
    while question.len() < 9 {
        let mut space = [0; 16];
        let read = soon(server.read(&mut space)).await.unwrap();
        question.extend_from_slice(&space[..read]);
    }
    assert_eq!(question, b"question?");
}

/// Sends what the client has to say byte by byte.
async fn trickle(client: &mut ClientConnection, tcp: &mut TcpStream) {
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    for byte in wire {
        tcp.write_all(&[byte]).await.unwrap();
    }
}

async fn hear(client: &mut ClientConnection, tcp: &mut TcpStream) {
    let mut space = vec![0; 4096];
    let read = soon(tcp.read(&mut space)).await.unwrap();
    let mut rest = &space[..read];
    while !rest.is_empty() {
        client.read_tls(&mut rest).unwrap();
        client.process_new_packets().unwrap();
    }
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_told_so_and_has_failed() {
    let (client, server) = tls_pair().await;
    let (inner, _vm) = tcp_pair().await;
    let tunnel = tokio::spawn(async move {
        tunnel_relay(Conn::from(server), inner, Vec::new(), &Counters::default(), &Default::default()).await
    });
    let (mut tcp, mut session) = client.into_inner();
    tcp.write_all(b"\x17\x03\x03\x00\x20no record of this session......").await.unwrap();
    tcp.write_all(b"..").await.unwrap();
    let ended = soon(tunnel).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterFailed(_)), "{:?}", ended.reason);
    let mut wire = Vec::new();
    soon(tcp.read_to_end(&mut wire)).await.unwrap();
    session.read_tls(&mut wire.as_slice()).unwrap();
    let error = session.process_new_packets().unwrap_err();
    assert!(matches!(error, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac)), "{error:?}");
}

#[tokio::test]
async fn a_client_too_slow_or_without_terms_in_common_is_refused() {
    let (server, _) = tls_configs();
    let (_near, far) = tcp_pair().await;
    let result = soon(accept(far, server, Duration::from_millis(20))).await;
    assert!(matches!(result, Err(AcceptError::TimedOut)), "{result:?}");

    let ((only_13, _), (_, only_12)) = (tls_configs_of(&TLS13), tls_configs_of(&TLS12));
    let (near, far) = tcp_pair().await;
    let name = ServerName::try_from("localhost").unwrap();
    let (client, server) =
        tokio::join!(tokio_rustls::TlsConnector::from(only_12).connect(name, near), accept(far, only_13, PATIENCE));
    let error = client.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "the alert names the cause: {error}");
    assert!(matches!(server, Err(AcceptError::Failed(_))), "{server:?}");
    assert_eq!(TLS12.version, ProtocolVersion::TLSv1_2);
}
