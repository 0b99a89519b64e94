//! Connected pairs of real sockets for the tests of every room that speaks over a tunnel.

use std::{future::Future, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client};

use super::tls::{self, TlsStream};

/// How long any test waits for something that must happen. A peer over QUIC is given up after three times what a probe
/// may take, which is long when the machine was busy while the round trip was measured, and doubles with each probe.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Waits for `future`, but not for ever.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("this should have happened by now")
}

/// Two ends of a TCP connection over loopback.
pub async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// A certificate for `localhost` and 127.0.0.1 with its key.
pub fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    (made.cert.der().clone(), PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap())
}

/// A server that shows a new certificate, and a client that trusts it.
pub fn tls_configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    configs(rustls::ALL_VERSIONS)
}

/// The same with one version only.
pub fn tls_configs_of(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    configs(&[version])
}

fn configs(versions: &[&'static SupportedProtocolVersion]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (certificate, key) = certificate();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    server.send_tls13_tickets = 0;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// The client's and the server's end of a TLS connection over loopback.
pub async fn tls_pair() -> (client::TlsStream<TcpStream>, TlsStream) {
    pair(tls_configs()).await
}

/// The same in one version.
pub async fn tls_pair_of(version: &'static SupportedProtocolVersion) -> (client::TlsStream<TcpStream>, TlsStream) {
    pair(tls_configs_of(version)).await
}

async fn pair((server, client): (Arc<ServerConfig>, Arc<ClientConfig>)) -> (client::TlsStream<TcpStream>, TlsStream) {
    let (near, far) = tcp_pair().await;
    let connector = TlsConnector::from(client);
    let (client, server) = tokio::join!(
        connector.connect(ServerName::try_from("localhost").unwrap(), near),
        tls::accept(far, server, PATIENCE),
    );
    (client.unwrap(), server.unwrap())
}

/// Accepts whatever certificate a server shows.
#[derive(Debug)]
pub struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client and a server of QUIC over loopback, with an idle limit, or with these parameters.
pub fn quic_endpoints(
    idle: Duration,
    given: Option<Arc<quinn::TransportConfig>>,
) -> (quinn::Endpoint, quinn::Endpoint) {
    use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

    use super::{quic::ALPN, udp};
    let (server, client) = tls_configs();
    let (mut server, mut client) = (ServerConfig::clone(&server), ClientConfig::clone(&client));
    server.alpn_protocols = vec![ALPN.to_vec()];
    client.alpn_protocols = vec![ALPN.to_vec()];
    let made = |keep_alive| Arc::new(udp::transport(udp::Congestion::Cubic, idle, keep_alive));
    let transport = |keep_alive| given.clone().unwrap_or_else(|| made(keep_alive));
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap()));
    server.transport_config(transport(None));
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()));
    client.transport_config(transport(Some(idle / 4)));
    let loopback = "127.0.0.1:0".parse().unwrap();
    let server = quinn::Endpoint::server(server, loopback).unwrap();
    let mut near = quinn::Endpoint::client(loopback).unwrap();
    near.set_default_client_config(client);
    (near, server)
}

/// The client's and the server's end of a QUIC stream. The server knows of it already, for the client has said `!`.
pub async fn quic_pair(
    near: &quinn::Endpoint,
    far: &quinn::Endpoint,
) -> (super::quic::QuicStream, super::quic::QuicStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::quic::QuicStream;
    let connecting = near.connect(far.local_addr().unwrap(), "localhost").unwrap();
    let client = async {
        let mut stream = QuicStream::open(connecting.await.unwrap()).await.unwrap();
        stream.write_all(b"!").await.unwrap();
        stream
    };
    let server = async {
        let incoming = far.accept().await.unwrap();
        let mut stream = QuicStream::accept(incoming.await.unwrap()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'!');
        stream
    };
    soon(async { tokio::join!(client, server) }).await
}
