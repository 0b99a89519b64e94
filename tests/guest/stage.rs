//! A router's side of tunnels, a client that trusts it, and a VM that says what it hears.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use qvd::tunnel::{Counters, Ended, Kernel, relay, tls};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `future`, but not for ever.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

pub struct Stage {
    pub kernel: Arc<Kernel>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    listener: TcpListener,
    vms: TcpListener,
}

/// The two ends of a tunnel, and how it ended.
pub struct Tunnel<C> {
    pub client: C,
    pub vm: TcpStream,
    pub ended: JoinHandle<Ended>,
}

impl Stage {
    /// A listener with a switch of its own.
    pub async fn open(suite: Option<SupportedCipherSuite>) -> Self {
        let default = aws_lc_rs::default_provider();
        // Without the post-quantum exchange, which emulation makes slow.
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suite.map_or(default.cipher_suites.clone(), |suite| vec![suite]),
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..default
        });
        let versions: &[_] = match suite {
            Some(suite) => &[suite.version()],
            None => rustls::ALL_VERSIONS,
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            kernel: Kernel::probe().expect("the kernel has TLS"),
            server: Arc::new(server),
            client: Arc::new(client),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            vms: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Serves the next client that connects, whoever that is.
    pub async fn serve(&self) -> (TcpStream, JoinHandle<Ended>) {
        let (tcp, _) = self.listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let outer = tls::accept_with(tcp, self.server.clone(), PATIENCE, Some(self.kernel.clone())).await.unwrap();
        let (inner, vm) = tokio::join!(TcpStream::connect(self.vms.local_addr().unwrap()), async {
            self.vms.accept().await.unwrap().0
        });
        let inner = inner.unwrap();
        inner.set_nodelay(true).unwrap();
        vm.set_nodelay(true).unwrap();
        let ended = tokio::spawn(async move {
            relay(outer.into(), inner, Vec::new(), &Counters::default(), &Default::default()).await
        });
        (vm, ended)
    }

    /// A tunnel of a client that is as the router's own.
    pub async fn tunnel(&self) -> Tunnel<TlsStream<TcpStream>> {
        let client = async {
            let tcp = TcpStream::connect(self.address()).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            TlsConnector::from(self.client.clone()).connect(name, tcp).await.unwrap()
        };
        let (client, (vm, ended)) = soon("a tunnel", async { tokio::join!(client, self.serve()) }).await;
        Tunnel { client, vm, ended }
    }
}
