//! Nodes that share no network with VMs: each has its VMs for itself, this machine routes between the nodes, and a router reaches
//! VMs of other nodes through theirs.

use std::{
    net::{IpAddr, Ipv4Addr},
    process,
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use quinn::{Connection, ConnectionError, Endpoint, ReadError, ReadToEndError, TransportConfig, VarInt};
use qvd::{
    demo::{
        hosts::{Hosts, HostsOptions, Node, Tunnel},
        postgres::Durability,
    },
    l7r::{Header, Identity, Refusal},
    model::{VmId, config::NetworkMode},
    network::Family,
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of the agent, and of nxagent.
const AGENT: u16 = 3030;
const X: u16 = 4100;
/// On which the routers here listen for other nodes.
const NODE_PORT: u16 = 8444;

/// Two nodes, and a desktop that runs on one of them.
struct Stage {
    hosts: Hosts,
    vm: VmId,
    _directory: TempDir,
}

impl Stage {
    async fn open(name: char, desktops: usize) -> Self {
        let directory = tempfile::Builder::new().prefix("qvd-routed-").tempdir().unwrap();
        let number = process::id();
        let options = HostsOptions {
            directory: directory.path().to_owned(),
            program: env!("CARGO_BIN_EXE_qvd").into(),
            name: format!("{name}{:03}", number % 1000),
            network: (150 + u8::try_from(number / 100 % 40).unwrap(), u8::try_from(number % 100).unwrap() + name as u8),
            family: Family::V4,
            mode: NetworkMode::Routed,
            count: 2,
            durability: Durability::Volatile,
            settings: vec![("internal.hkd.poll.urgent".to_owned(), "0.3".to_owned())],
        };
        let hosts = Hosts::open(options).await.unwrap();
        let vm = hosts.desktops(desktops).await.unwrap()[0];
        let stage = Self { hosts, vm, _directory: directory };
        stage.start().await;
        stage
    }

    async fn start(&self) {
        self.sql(&format!("select vm_start({})", self.vm)).await;
        self.wait(&format!("select vm_state from vm_runtimes where vm_id = {}", self.vm), "running").await;
    }

    async fn sql(&self, statement: &str) -> String {
        self.hosts.sql(statement).await.unwrap().unwrap_or_default()
    }

    async fn wait(&self, query: &str, wanted: &str) {
        self.hosts.wait_for(query, query, wanted).await.unwrap();
    }

    /// The node of the desktop, and the other one.
    async fn nodes(&self) -> (&Node, &Node) {
        let query = format!("select h.name from hosts h join vm_runtimes on host_id = h.id where vm_id = {}", self.vm);
        let at = self.sql(&query).await;
        let (own, others): (Vec<_>, Vec<_>) = self.hosts.nodes().iter().partition(|node| node.name() == at);
        (own[0], others[0])
    }

    async fn tunnel(&self, through: &Node) -> Tunnel {
        let mut tunnel = Tunnel::open(through, self.hosts.token(1), self.vm).await.unwrap();
        tunnel.ping(PATIENCE).await.unwrap();
        tunnel
    }

    async fn id(&self, node: &Node) -> String {
        self.sql(&format!("select id from hosts where name = '{}'", node.name())).await
    }

    /// Why the last session ended.
    async fn last_reason(&self) -> String {
        let last = "from user_sessions where ended_at is not null order by ended_at desc limit 1";
        self.sql(&format!("select end_reason {last}")).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.hosts.nodes() {
                eprintln!("{} said:\n{}", node.name(), node.said());
            }
        }
    }
}

/// A machine that may be a node: it has an address, and a key.
struct Machine {
    address: Ipv4Addr,
    identity: Identity,
    endpoint: Endpoint,
}

impl Machine {
    /// This one, which has the database's address in the network that leads to nodes.
    fn beside(node: &Node) -> Self {
        let IpAddr::V4(of_node) = node.address() else { unreachable!() };
        let [a, b, c, _] = of_node.octets();
        let address = Ipv4Addr::new(a, b, c, 99);
        let endpoint = Endpoint::client((address, 0).into()).unwrap();
        Self { address, identity: Identity::generate().unwrap(), endpoint }
    }

    /// Makes it a node with a router.
    async fn settle(&self, stage: &Stage) {
        stage.sql(&format!("select host_create('machine', '{}')", self.address)).await;
        let instance = stage.sql("select instance from l7r_start('machine', gen_random_uuid(), 1, 1)").await;
        let key: String = self.identity.public().iter().map(|byte| format!("{byte:02x}")).collect();
        stage.sql(&format!("select l7r_listens({instance}, 8444, '\\x{key}')")).await;
    }

    async fn connect(&self, stage: &Stage, node: &Node) -> Result<Connection, ConnectionError> {
        let query = "select encode(node_key, 'hex') from l7r_instances where ended_at is null and host_id";
        let key = stage.sql(&format!("{query} = {}", stage.id(node).await)).await;
        let key = (0..key.len()).step_by(2).map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap()).collect();
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(VarInt::from_u32(3000).into()))
            .keep_alive_interval(Some(Duration::from_secs(1)));
        let config = self.identity.client(key, Arc::new(transport)).unwrap();
        self.endpoint.connect_with(config, (node.address(), NODE_PORT).into(), "node").unwrap().await
    }

    /// Until it is let in: that a node has come is heard of a moment later.
    async fn be_let_in(&self, stage: &Stage, node: &Node) -> Connection {
        let trying = async {
            loop {
                match self.connect(stage, node).await {
                    Ok(connection) if !is_refused(&connection).await => return connection,
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, trying).await.unwrap()
    }
}

/// A server that does not like a client's key says so only after the client believes to be connected.
async fn is_refused(connection: &Connection) -> bool {
    ask(connection, &[9; 7]).await.is_none()
}

/// What a node answers on a stream; `None`: nothing, the connection is gone.
async fn ask(connection: &Connection, header: &[u8]) -> Option<u8> {
    let (mut send, mut recv) = connection.open_bi().await.ok()?;
    send.write_all(header).await.ok()?;
    timeout(PATIENCE, recv.read_u8()).await.unwrap().ok()
}

#[tokio::test]
async fn a_user_reaches_a_desktop_of_another_node_with_which_nothing_is_shared_but_routes() {
    let stage = Stage::open('p', 1).await;
    let (own, other) = stage.nodes().await;
    let address = stage.sql(&format!("select host(ip) from vms where id = {}", stage.vm)).await;
    let agent = format!("TCP:{address}:{AGENT},connect-timeout=2");
    let answers = |node: &Node| node.run("socat", &["-u", "OPEN:/dev/null", &agent]).unwrap().status.success();
    assert!(answers(own) && !answers(other), "the VM network of a node is its own");

    let tunnel = stage.tunnel(other).await;
    let session = "from user_sessions where ended_at is null";
    assert_eq!(stage.sql(&format!("select tunnel {session}")).await, "user", "bytes go through the router");
    drop(tunnel);
    stage.wait(&format!("select count(*) {session}"), "0").await;
    assert_eq!(stage.last_reason().await, "the client left");
    let carried = "select coalesce(sum(bytes_up) > 0 and sum(bytes_down) > 0, false)::text from tunnel_counters where tunnel = 'node'";
    stage.wait(carried, "true").await;

    // Through its own node nothing takes a detour.
    let tunnel = stage.tunnel(own).await;
    assert_eq!(stage.sql(&format!("select tunnel {session}")).await, "splice");
    drop(tunnel);

    // It keeps its address when it comes to another node.
    let id = stage.id(other).await;
    stage.sql(&format!("select vm_stop({})", stage.vm)).await;
    stage.wait(&format!("select vm_state from vm_runtimes where vm_id = {}", stage.vm), "stopped").await;
    stage.sql(&format!("select host_block('{}')", own.name())).await;
    stage.start().await;
    assert_eq!(stage.sql(&format!("select host_id from vm_runtimes where vm_id = {}", stage.vm)).await, id);
    stage.tunnel(other).await;
    assert!(answers(other) && !answers(own));
}

#[tokio::test]
async fn a_router_that_dies_ends_the_sessions_through_it_and_the_next_attempt_finds_the_new_one() {
    let stage = Stage::open('q', 1).await;
    let (own, other) = stage.nodes().await;
    let mut tunnel = stage.tunnel(other).await;
    assert!(own.signal("l7r", Signal::SIGKILL));
    assert!(tunnel.ping(PATIENCE).await.is_err());
    stage.wait("select count(*) from user_sessions where ended_at is null", "0").await;
    let reason = stage.last_reason().await;
    assert!(reason.starts_with("the connection to the desktop failed: "), "{reason}");
    stage.tunnel(other).await;
    stage.wait("select count(*) from user_sessions where ended_at is null", "0").await;

    // Nobody waits for one that is being replaced: the old one serves who is there.
    let mut tunnel = stage.tunnel(other).await;
    let before = own.daemons("l7r");
    assert!(own.signal("node", Signal::SIGHUP));
    stage
        .wait(
            &format!("select count(*) from l7r_instances where ended_at is null and host_id = {}", stage.id(own).await),
            "2",
        )
        .await;
    tunnel.ping(PATIENCE).await.unwrap();
    assert!(own.daemons("l7r").iter().any(|pid| before.contains(pid)));
    drop(tunnel);
    stage
        .wait(
            &format!("select count(*) from l7r_instances where ended_at is null and host_id = {}", stage.id(own).await),
            "1",
        )
        .await;
    stage.tunnel(other).await;
}

#[tokio::test]
async fn only_nodes_on_record_come_in_and_only_to_ports_of_desktops_that_are_there() {
    let stage = Stage::open('s', 2).await;
    let (own, _) = stage.nodes().await;
    let machine = Machine::beside(own);
    assert!(machine.connect(&stage, own).await.is_err(), "the packet filter lets no stranger in");

    machine.settle(&stage).await;
    let connection = machine.be_let_in(&stage, own).await;
    let asked = async |vm: VmId, port| ask(&connection, &Header { vm, port }.to_bytes()).await.unwrap();
    assert_eq!(asked(stage.vm, AGENT).await, 0);
    assert_eq!(asked(stage.vm, 22).await, Refusal::Port.code());
    assert_eq!(asked(VmId(stage.vm.0 + 1), X).await, Refusal::NotHere.code());
    assert_eq!(asked(VmId(-1), X).await, Refusal::NotHere.code());
    assert_eq!(ask(&connection, &[2, 0, 0, 0, 1, 0, 1]).await, Some(Refusal::Version.code()));

    // Another key at that address.
    let stranger = Machine::beside(own);
    let refused = match stranger.connect(&stage, own).await {
        Ok(connection) => is_refused(&connection).await,
        Err(_) => true,
    };
    assert!(refused);

    stage.sql("select host_block('machine')").await;
    assert_eq!(asked(stage.vm, AGENT).await, Refusal::Peer.code());
    stage.sql("select host_block('machine', false)").await;
    assert_eq!(asked(stage.vm, AGENT).await, 0);

    // One that is taken off the record is cut off, and not let in again.
    stage.sql("delete from hosts where name = 'machine'").await;
    let why = timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(matches!(&why, ConnectionError::ApplicationClosed(_) | ConnectionError::TimedOut), "{why}");
    assert!(machine.connect(&stage, own).await.is_err());
}

#[tokio::test]
async fn a_stream_is_cut_when_its_desktop_has_left_the_node() {
    let stage = Stage::open('t', 1).await;
    let (own, _) = stage.nodes().await;
    let machine = Machine::beside(own);
    machine.settle(&stage).await;
    let connection = machine.be_let_in(&stage, own).await;
    // As if an X session listened there. The VM itself goes on, so that nothing else ends the stream.
    stage.sql(&format!("update vm_runtimes set vm_x_port = vm_vma_port where vm_id = {}", stage.vm)).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&Header { vm: stage.vm, port: AGENT }.to_bytes()).await.unwrap();
    assert_eq!(recv.read_u8().await.unwrap(), 0);
    stage.sql(&format!("update vm_runtimes set vm_state = 'stopped' where vm_id = {}", stage.vm)).await;
    let end = timeout(PATIENCE, recv.read_to_end(1000)).await.unwrap().unwrap_err();
    assert_eq!(end, ReadToEndError::Read(ReadError::Reset(VarInt::from_u32(2))), "2: it has gone");
    assert!(connection.close_reason().is_none(), "others go on");
}

#[tokio::test]
async fn a_node_that_is_cut_off_ends_the_sessions_through_it_and_is_reached_again_when_it_is_back() {
    let stage = Stage::open('u', 1).await;
    let (own, other) = stage.nodes().await;
    let mut tunnel = stage.tunnel(other).await;
    own.plug(false).unwrap();
    assert!(tunnel.ping(PATIENCE).await.is_err());
    stage.wait("select count(*) from user_sessions where ended_at is null", "0").await;
    assert_eq!(stage.last_reason().await, "the connection to the desktop failed: its node does not answer");
    own.plug(true).unwrap();
    let trying = async {
        loop {
            if let Ok(mut tunnel) = Tunnel::open(other, stage.hosts.token(1), stage.vm).await
                && tunnel.ping(PATIENCE).await.is_ok()
            {
                return;
            }
        }
    };
    timeout(PATIENCE, trying).await.unwrap();
}
