use rustls::crypto::aws_lc_rs::default_provider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::certificate::Identity;
use crate::tunnel::Way;
use crate::tunnel::testing::{AnyCertificate, soon};

fn identity() -> Identity {
    let directory = tempfile::tempdir().unwrap();
    Identity::load_or_generate(directory.path(), &["node1".to_owned()]).unwrap()
}

fn listener(tls: &Tls, secret: &Secret) -> (QuicListener, SocketAddr) {
    let bound = udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr().unwrap();
    (QuicListener::new(bound, tls.clone(), secret, &Config::default(), CancellationToken::new()).unwrap(), address)
}

fn client(alpn: &[u8]) -> Endpoint {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}

fn shown(connection: &quinn::Connection) -> Vec<u8> {
    let identity = connection.peer_identity().unwrap();
    identity.downcast_ref::<Vec<rustls::pki_types::CertificateDer<'static>>>().unwrap()[0].to_vec()
}

#[tokio::test]
async fn the_certificate_is_that_of_tcp_and_is_replaced_with_it() {
    let tls = Tls::new(&identity().into()).unwrap();
    let (listener, address) = listener(&tls, &Secret::random());
    let server = tokio::spawn(async move {
        loop {
            let Some(incoming) = listener.accept().await else { return };
            let mut conn = incoming.handshake().await.unwrap();
            assert_eq!((conn.way(), conn.read_u8().await.unwrap()), (Way::Quic, b'x'));
            conn.write_all(b"hello").await.unwrap();
            conn.shutdown().await.unwrap();
        }
    });
    let near = client(ALPN);
    let mut seen = Vec::new();
    for round in 0..3 {
        if round == 2 {
            tls.replace(&identity().into()).unwrap();
        }
        let connection = soon(near.connect(address, "node1").unwrap()).await.unwrap();
        seen.push(shown(&connection));
        let mut stream = QuicStream::open(connection).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let mut heard = String::new();
        soon(stream.read_to_string(&mut heard)).await.unwrap();
        assert_eq!(heard, "hello");
    }
    assert!(seen[0] == seen[1] && seen[1] != seen[2]);
    server.abort();
}

#[tokio::test]
async fn with_many_handshakes_under_way_a_client_must_prove_its_address() {
    let (listener, address) = listener(&Tls::new(&identity().into()).unwrap(), &Secret::random());
    let near = client(ALPN);
    let (mut connecting, mut pending) = (Vec::new(), Vec::new());
    for _ in 0..TRUSTED_HANDSHAKES {
        connecting.push(near.connect(address, "node1").unwrap());
        let incoming = soon(listener.accept()).await.unwrap();
        assert!(!incoming.incoming.remote_address_validated());
        pending.push(incoming);
    }
    let late = near.connect(address, "node1").unwrap();
    let incoming = soon(listener.accept()).await.unwrap();
    assert!(incoming.incoming.remote_address_validated());
    // The proof costs a round trip and nothing else.
    let serving = tokio::spawn(incoming.handshake());
    soon(late).await.unwrap();
    serving.abort();
    pending.pop();
    drop((pending, connecting));
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let (listener, address) = listener(&Tls::new(&identity().into()).unwrap(), &Secret::random());
    let near = client(b"h3");
    let connecting = near.connect(address, "node1").unwrap();
    let incoming = soon(listener.accept()).await.unwrap();
    let (server, client) = tokio::join!(soon(incoming.handshake()), soon(connecting));
    assert!(matches!(server, Err(HandshakeError::Tls { .. })), "{server:?}");
    assert!(client.is_err());
}

#[tokio::test]
async fn a_client_of_a_router_that_died_is_told_so_by_the_next_one() {
    let scratch = tempfile::tempdir().unwrap();
    let secret = Secret::load_or_generate(scratch.path()).unwrap();
    let tls = Tls::new(&identity().into()).unwrap();
    // A process of its own in all that counts: when it ends, nobody says goodbye.
    let process = tokio::runtime::Runtime::new().unwrap();
    let (address, serving) = {
        let _entered = process.enter();
        let (first, address) = listener(&tls, &secret);
        let serving = process.spawn(async move { (first.accept().await.unwrap().incoming.await.unwrap(), first) });
        (address, serving)
    };
    let near = client(ALPN);
    let connection = soon(near.connect(address, "node1").unwrap()).await.unwrap();
    let died = soon(serving).await.unwrap();
    process.shutdown_background();
    drop(died);

    let again = Secret::load_or_generate(scratch.path()).unwrap();
    let bound = loop {
        // The runtime ends in its own time.
        match udp::bind(address) {
            Ok(bound) => break bound,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let second = QuicListener::new(bound, tls, &again, &Config::default(), CancellationToken::new()).unwrap();
    // Something long enough to be answered with a reset.
    let mut stream = QuicStream::open(connection.clone()).await.unwrap();
    stream.write_all(&[7; 1000]).await.unwrap();
    assert_eq!(soon(connection.closed()).await, quinn::ConnectionError::Reset);
    drop(second);
}

#[test]
fn the_secret_is_kept_private_and_replaced_when_it_is_none() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let first = Secret::load_or_generate(scratch.path()).unwrap().0;
    assert_eq!(Secret::load_or_generate(scratch.path()).unwrap().0, first);
    let path = scratch.path().join(SECRET_FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&path, "short").unwrap();
    assert_ne!(Secret::load_or_generate(scratch.path()).unwrap().0, first);
}
