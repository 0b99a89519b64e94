use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::certificate::Identity;
use crate::tunnel::testing::soon;

const LIMIT: Duration = Duration::from_secs(20);

fn identity() -> Identity {
    let directory = tempfile::tempdir().unwrap();
    Identity::load_or_generate(directory.path(), &["node1".to_owned()]).unwrap()
}

fn listener(tls: Option<Tls>, limit: Duration) -> (Listener, SocketAddr) {
    let listener = Listener::new(bind("127.0.0.1", 0).unwrap(), tls, limit).unwrap();
    let address = listener.address().unwrap();
    (listener, address)
}

async fn connect(address: SocketAddr, version: &'static rustls::SupportedProtocolVersion) -> TlsStream<TcpStream> {
    // Only the certificate's fingerprint is looked at.
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.dangerous().set_certificate_verifier(Arc::new(crate::tunnel::testing::AnyCertificate));
    let tcp = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("node1").unwrap(), tcp).await.unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_certificates_replaced_between_handshakes() {
    let tls = Tls::new(&identity().into()).unwrap();
    let (listener, address) = listener(Some(tls.clone()), LIMIT);
    let server = tokio::spawn(async move {
        let mut protections = Vec::new();
        for _ in 0..3 {
            let mut conn = listener.accept().await.handshake().await.unwrap();
            conn.write_all(b"hello").await.unwrap();
            conn.shutdown().await.unwrap();
            protections.push(conn.protection());
        }
        protections
    });
    let mut seen = Vec::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13, &rustls::version::TLS13] {
        if seen.len() == 2 {
            tls.replace(&identity().into()).unwrap();
        }
        let mut stream = soon(connect(address, version)).await;
        seen.push(shown(&stream));
        let mut heard = String::new();
        soon(stream.read_to_string(&mut heard)).await.unwrap();
        assert_eq!(heard, "hello");
    }
    assert!(seen[0] == seen[1] && seen[1] != seen[2]);
    let protections = soon(server).await.unwrap();
    assert!(protections[0].starts_with("TLSv1_2") && protections[1].starts_with("TLSv1_3"), "{protections:?}");
}

#[tokio::test]
async fn without_tls_the_bytes_are_those_of_tcp() {
    let (listener, address) = listener(None, LIMIT);
    let mut client = TcpStream::connect(address).await.unwrap();
    let incoming = soon(listener.accept()).await;
    assert_eq!(incoming.peer(), client.local_addr().unwrap());
    let mut conn = incoming.handshake().await.unwrap();
    assert!(conn.tcp().unwrap().nodelay().unwrap());
    conn.write_all(b"x").await.unwrap();
    assert_eq!(soon(client.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn a_silent_client_is_given_up() {
    let (listener, address) = listener(Some(Tls::new(&identity().into()).unwrap()), Duration::from_millis(50));
    let _client = TcpStream::connect(address).await.unwrap();
    let result = soon(listener.accept().await.handshake()).await;
    assert!(matches!(result, Err(HandshakeError::TimedOut { .. })), "{result:?}");
}

/// What a client gets that says this at once, and what is made of it.
async fn refused(first: &[u8]) -> (String, HandshakeError) {
    let (listener, address) = listener(Some(Tls::new(&identity().into()).unwrap()), LIMIT);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(first).await.unwrap();
    let server = tokio::spawn(async move { listener.accept().await.handshake().await.unwrap_err() });
    let mut heard = Vec::new();
    let _ = soon(client.read_to_end(&mut heard)).await;
    drop(client);
    (String::from_utf8_lossy(&heard).into_owned(), soon(server).await.unwrap())
}

#[tokio::test]
async fn http_in_the_clear_is_told_that_this_port_speaks_tls() {
    for request in ["GET / HTTP/1.1\r\n\r\n", "g", "POST / HTTP/1.0\r\nContent-Length: 9\r\n\r\n"] {
        let (answer, error) = refused(request.as_bytes()).await;
        assert!(matches!(error, HandshakeError::PlainHttp), "{error:?}");
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && answer.contains("This port speaks TLS"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn what_is_no_tls_is_closed_without_a_word() {
    let (answer, error) = refused(b"\0\0\0\x2a????").await;
    assert!(answer.is_empty() && matches!(error, HandshakeError::Garbage), "{error:?} {answer}");
    let (_, error) = refused(b"\x16\x03\x01\x00\x05hello").await;
    assert!(matches!(error, HandshakeError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_trusted_balancer_says_who_its_client_is_and_nobody_else_does() {
    let (listener, address) = listener(Some(Tls::new(&identity().into()).unwrap()), LIMIT);
    let trusted = Networks::parse(["127.0.0.0/8"]).unwrap();
    let header = "PROXY TCP4 198.51.100.7 192.0.2.1 4711 8443\r\n";
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(header.as_bytes()).await.unwrap();
    let mut incoming = soon(listener.accept()).await;
    soon(incoming.introduce(&trusted)).await.unwrap();
    assert_eq!(incoming.peer(), "198.51.100.7:4711".parse().unwrap());

    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(header.as_bytes()).await.unwrap();
    let mut incoming = soon(listener.accept()).await;
    soon(incoming.introduce(&Networks::parse(["192.0.2.0/24"]).unwrap())).await.unwrap();
    assert_eq!(incoming.peer(), client.local_addr().unwrap());
    // To somebody who is not trusted it is the beginning of HTTP.
    drop(client);
    assert!(matches!(soon(incoming.handshake()).await, Err(HandshakeError::PlainHttp)));

    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00").await.unwrap();
    let mut incoming = soon(listener.accept()).await;
    let result = soon(incoming.introduce(&trusted)).await;
    assert!(matches!(result, Err(HandshakeError::Proxy(ProxyError::Missing))), "{result:?}");
}

#[tokio::test]
async fn a_session_is_resumed_until_the_settings_change() {
    let settings = identity().into();
    let tls = Tls::new(&settings).unwrap();
    let (listener, address) = listener(Some(tls.clone()), LIMIT);
    let server = tokio::spawn(async move {
        loop {
            let mut conn = listener.accept().await.handshake().await.unwrap();
            conn.write_all(b"x").await.unwrap();
        }
    });
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.dangerous().set_certificate_verifier(Arc::new(crate::tunnel::testing::AnyCertificate));
        let connector = TlsConnector::from(Arc::new(config));
        let mut resumed = Vec::new();
        for round in 0..3 {
            if round == 2 {
                tls.replace(&settings).unwrap();
            }
            let tcp = TcpStream::connect(address).await.unwrap();
            let mut stream = connector.connect(ServerName::try_from("node1").unwrap(), tcp).await.unwrap();
            assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
            resumed.push(stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed));
        }
        assert_eq!(resumed, [false, true, false], "{version:?}");
    }
    server.abort();
}

#[test]
fn a_port_that_cannot_be_had_is_explained_in_one_sentence() {
    let taken = bind("127.0.0.1", 0).unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = |address: &str, port: u16| bind(address, port).unwrap_err().to_string();
    assert_eq!(text("127.0.0.1", port), format!("port {port} of 127.0.0.1 is taken by another process"));
    assert_eq!(text("192.0.2.1", 8443), "192.0.2.1 is not an address of this machine");
    assert_eq!(text("office", 8443), "\"office\" is not an address to listen on; use * or an IP address");
}

#[tokio::test]
async fn a_star_means_every_address_and_peers_look_like_what_they_are() {
    let listener = Listener::new(bind("*", 0).unwrap(), None, LIMIT).unwrap();
    let port = listener.address().unwrap().port();
    let _client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(soon(listener.accept()).await.peer().ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
}
