//! A router's side of tunnels, a client that trusts it, and a VM that says what it hears.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use qvd::tunnel::{Conn, Counters, Ended, Kernel, Settled, Way, tls};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::{
    io::AsyncReadExt,
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

/// The router's part of a tunnel.
pub struct Served {
    /// What was to be expected, and how it came.
    pub ways: [Way; 2],
    pub vm: TcpStream,
    pub ended: JoinHandle<Ended>,
}

/// The two ends of a tunnel, and how it ended.
pub struct Tunnel<C> {
    pub client: C,
    pub ways: [Way; 2],
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

    /// Serves the next client that connects, whoever that is. What it says first, so many bytes, is read before the
    /// tunnel begins.
    pub async fn serve(&self, first: usize) -> Served {
        let (tcp, _) = self.listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut outer = tls::accept_with(tcp, self.server.clone(), PATIENCE, Some(self.kernel.clone())).await.unwrap();
        let mut leftover = vec![0; first];
        outer.read_exact(&mut leftover).await.unwrap();
        let (inner, vm) = tokio::join!(TcpStream::connect(self.vms.local_addr().unwrap()), async {
            self.vms.accept().await.unwrap().0
        });
        let inner = inner.unwrap();
        inner.set_nodelay(true).unwrap();
        vm.set_nodelay(true).unwrap();
        let outer = Conn::from(outer);
        let expected = outer.way();
        let tunnel = Settled::new(outer, inner.into());
        let ways = [expected, tunnel.way()];
        let ended = tokio::spawn(async move {
            tunnel.relay(leftover, &Counters::default(), &Default::default(), std::future::pending()).await
        });
        Served { ways, vm, ended }
    }

    /// A tunnel of a client that is as the router's own.
    pub async fn tunnel(&self) -> Tunnel<TlsStream<TcpStream>> {
        let (client, Served { ways, vm, ended }) =
            soon("a tunnel", async { tokio::join!(self.client(), self.serve(0)) }).await;
        Tunnel { client, ways, vm, ended }
    }

    /// Its client alone.
    pub async fn client(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.client.clone()).connect(name, tcp).await.unwrap()
    }
}
