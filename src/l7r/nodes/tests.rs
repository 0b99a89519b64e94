use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use quinn::{ClientConfig, ConnectionError, crypto::rustls::QuicClientConfig};

use super::{identity::ALPN, *};
use crate::{
    db::NodeRouter,
    tunnel::{
        testing::{AnyCertificate, soon},
        udp::{Congestion, shared_transport},
    },
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn transport() -> Arc<TransportConfig> {
    Arc::new(shared_transport(Congestion::Cubic, Duration::from_secs(15), Duration::from_secs(3)))
}

/// A node that lets others in, with the one who runs here.
struct Host {
    known: Arc<Known>,
    identity: Identity,
    endpoint: Endpoint,
}

impl Host {
    fn new() -> Self {
        let (known, identity) = (Arc::<Known>::default(), Identity::generate().unwrap());
        let server = identity.server(known.clone(), transport()).unwrap();
        Self { known, identity, endpoint: Endpoint::server(server, SocketAddr::new(HERE, 0)).unwrap() }
    }

    /// What each side makes of a client.
    async fn meet(
        &self,
        config: ClientConfig,
    ) -> (Result<Connection, ConnectionError>, Result<Connection, ConnectionError>) {
        let client = Endpoint::client(SocketAddr::new(HERE, 0)).unwrap();
        let connecting = client.connect_with(config, self.endpoint.local_addr().unwrap(), "node").unwrap();
        let accepting = async { self.endpoint.accept().await.unwrap().await };
        soon(async { tokio::join!(connecting, accepting) }).await
    }
}

fn router(host: i32, identity: &Identity) -> NodeRouter {
    let reach = Reach { instance: InstanceId(host.into()), at: SocketAddr::new(HERE, 8444), key: identity.public() };
    NodeRouter { host: HostId(host), address: HERE, reach: Some(reach) }
}

#[tokio::test]
async fn routers_that_are_known_to_each_other_meet() {
    let (host, guest) = (Host::new(), Identity::generate().unwrap());
    host.known.learn(&[router(7, &guest)]);
    let (here, there) = host.meet(guest.client(host.identity.public(), transport()).unwrap()).await;
    let (here, there) = (here.unwrap(), there.unwrap());
    assert_eq!(serve::key_of(&there), Some(guest.public()));
    assert_eq!(host.known.router(&guest.public()).map(|(host, _)| host), Some(HostId(7)));

    // Until its node is taken off the record; that another comes or goes changes nothing.
    host.known.welcome(HostId(7), &there);
    host.known.learn(&[router(7, &guest), router(8, &Identity::generate().unwrap())]);
    assert!(there.close_reason().is_none());
    host.known.learn(&[]);
    assert!(matches!(soon(here.closed()).await, ConnectionError::ApplicationClosed(_)));
    assert!(host.meet(guest.client(host.identity.public(), transport()).unwrap()).await.1.is_err());
}

#[tokio::test]
async fn who_shows_no_key_or_one_that_is_not_known_does_not_get_past_the_handshake() {
    let (host, guest) = (Host::new(), Identity::generate().unwrap());
    host.known.learn(&[router(7, &guest)]);
    let stranger = Identity::generate().unwrap();
    let unknown = stranger.client(host.identity.public(), transport()).unwrap();
    assert!(host.meet(unknown).await.1.is_err());
    // The database is asked who that may be.
    soon(host.known.stranger()).await;

    let mut tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let nothing = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    assert!(host.meet(nothing).await.1.is_err());
}

#[tokio::test]
async fn a_router_goes_to_nobody_but_the_owner_of_the_key() {
    let (host, guest) = (Host::new(), Identity::generate().unwrap());
    host.known.learn(&[router(7, &guest)]);
    let other = Identity::generate().unwrap();
    let (here, there) = host.meet(guest.client(other.public(), transport()).unwrap()).await;
    assert!(here.is_err() && there.is_err());
}

#[test]
fn packets_from_addresses_of_nodes_are_looked_at_and_no_others() {
    let known = Known::default();
    known.learn(&[router(7, &Identity::generate().unwrap())]);
    let [four, mapped, other]: [IpAddr; 3] =
        ["127.0.0.1", "::ffff:127.0.0.1", "127.0.0.2"].map(|text| text.parse().unwrap());
    assert_eq!([four, mapped, other].map(|address| known.has_address(address)), [true, true, false]);
}
