use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{super::tls::Identity, *};
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
    let tls = Tls::new(identity()).unwrap();
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
            tls.replace(identity());
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
    let (listener, address) = listener(Some(Tls::new(identity()).unwrap()), Duration::from_millis(50));
    let _client = TcpStream::connect(address).await.unwrap();
    let result = soon(listener.accept().await.handshake()).await;
    assert!(matches!(result, Err(HandshakeError::TimedOut { .. })), "{result:?}");
}

#[tokio::test]
async fn a_client_that_does_not_speak_tls_is_refused() {
    let (listener, address) = listener(Some(Tls::new(identity()).unwrap()), LIMIT);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let result = soon(listener.accept().await.handshake()).await;
    assert!(matches!(result, Err(HandshakeError::Tls(_))), "{result:?}");
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
