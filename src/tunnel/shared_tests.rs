use std::{sync::Arc, time::Duration};

use quinn::Endpoint;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;
use crate::tunnel::{
    Conn, Way,
    relay::Settled,
    testing::{quic_endpoints, soon, tcp_pair},
    udp::{Congestion, shared_transport},
};

const IDLE: Duration = Duration::from_secs(15);

/// Two nodes with a connection between them.
struct Nodes {
    near: Connection,
    far: Connection,
    _endpoints: (Endpoint, Endpoint),
}

impl Nodes {
    async fn new() -> Self {
        let transport = Arc::new(shared_transport(Congestion::Cubic, IDLE, IDLE / 4));
        let (near, far) = quic_endpoints(IDLE, Some(transport));
        let connecting = near.connect(far.local_addr().unwrap(), "localhost").unwrap();
        let (here, there) = soon(async { tokio::join!(connecting, async { far.accept().await.unwrap().await }) }).await;
        Self { near: here.unwrap(), far: there.unwrap(), _endpoints: (near, far) }
    }

    /// Both ends of a stream.
    async fn stream(&self) -> (SharedStream, SharedStream) {
        let mut near = SharedStream::new(self.near.clone(), self.near.open_bi().await.unwrap());
        near.write_all(b"!").await.unwrap();
        let mut far = SharedStream::new(self.far.clone(), soon(self.far.accept_bi()).await.unwrap());
        assert_eq!(far.read_u8().await.unwrap(), b'!');
        (near, far)
    }
}

/// A client, the node that it came to, the node of its VM, and the VM.
struct Chain {
    client: TcpStream,
    vm: TcpStream,
    here: JoinHandle<Ended>,
    there: JoinHandle<(Ended, SharedStream)>,
    cancel: CancellationToken,
    leave: CancellationToken,
}

async fn chain(nodes: &Nodes) -> Chain {
    let (near, mut far) = nodes.stream().await;
    let ((client, outer), (inner, vm)) = (tcp_pair().await, tcp_pair().await);
    let (cancel, leave) = (CancellationToken::new(), CancellationToken::new());
    let (cancelled, left) = (cancel.clone(), leave.clone());
    let here = tokio::spawn(async move {
        let tunnel = Settled::new(Conn::from(outer), near.into());
        assert_eq!(tunnel.way(), Way::User);
        tunnel.relay(b"left over, ".to_vec(), &Counters::default(), &cancelled, std::future::pending()).await
    });
    let there = tokio::spawn(async move {
        let ended = far.forward(inner, &Counters::default(), &left).await;
        (ended, far)
    });
    Chain { client, vm, here, there, cancel, leave }
}

async fn rest<R: AsyncRead + Unpin>(stream: &mut R) -> Vec<u8> {
    let mut heard = Vec::new();
    soon(stream.read_to_end(&mut heard)).await.unwrap();
    heard
}

#[tokio::test]
async fn each_end_may_say_its_last_word_and_go_on_listening() {
    let nodes = Nodes::new().await;
    let Chain { mut client, mut vm, here, there, .. } = chain(&nodes).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut vm).await, b"left over, last words");
    let answer: Vec<u8> = (0..5_000_000u32).map(|i| (i * 31 + i / 251) as u8).collect();
    let (written, heard) = tokio::join!(
        async {
            vm.write_all(&answer).await.unwrap();
            vm.shutdown().await.unwrap();
        },
        rest(&mut client)
    );
    let () = written;
    assert!(heard == answer);
    let (here, (there, _)) = (soon(here).await.unwrap(), soon(there).await.unwrap());
    assert!(matches!((&here.reason, &there.reason), (Reason::OuterClosed, Reason::OuterClosed)), "{here:?} {there:?}");
    assert_eq!((here.up, here.down, there.up, there.down), (21, 5_000_000, 21, 5_000_000));
}

#[tokio::test]
async fn a_vm_that_closes_ends_the_tunnel_in_good_order() {
    let nodes = Nodes::new().await;
    let Chain { mut client, vm, here, there, .. } = chain(&nodes).await;
    drop(vm);
    rest(&mut client).await;
    drop(client);
    let (here, (there, _)) = (soon(here).await.unwrap(), soon(there).await.unwrap());
    assert!(matches!(here.reason, Reason::InnerClosed), "{here:?}");
    assert!(matches!(there.reason, Reason::InnerClosed | Reason::InnerFailed(_)), "{there:?}");
}

#[tokio::test]
async fn a_stream_that_is_cut_says_why() {
    let nodes = Nodes::new().await;
    for cut in [Cut::Failed, Cut::Gone, Cut::Dropped] {
        let Chain { client: _client, vm: _vm, here, there, leave, .. } = chain(&nodes).await;
        leave.cancel();
        let (ended, mut far) = soon(there).await.unwrap();
        assert!(matches!(ended.reason, Reason::Cancelled));
        match cut {
            Cut::Dropped => drop(far),
            cut => far.cut(cut),
        }
        let ended = soon(here).await.unwrap();
        assert!(
            matches!(&ended.reason, Reason::InnerFailed(error) if error.to_string() == cut.to_string()),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn what_ends_the_tunnel_on_one_node_ends_it_on_the_other() {
    let nodes = Nodes::new().await;
    let Chain { client: _client, mut vm, here, there, cancel, .. } = chain(&nodes).await;
    cancel.cancel();
    assert!(matches!(soon(here).await.unwrap().reason, Reason::Cancelled));
    let (ended, _) = soon(there).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterFailed(_)), "{ended:?}");
    rest(&mut vm).await;
}

#[tokio::test]
async fn a_stream_that_nobody_reads_from_holds_back_its_writer_and_no_other() {
    let nodes = Nodes::new().await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let (mut near, far) = nodes.stream().await;
        // As much as its window holds, all together eight times as much.
        soon(near.write_all(&vec![0; (2 << 20) - 1])).await.unwrap();
        let held_back = tokio::time::timeout(Duration::ZERO, near.write_all(&vec![0; 1 << 20])).await;
        assert!(held_back.is_err());
        stalled.push((near, far));
    }
    let (mut near, mut far) = nodes.stream().await;
    let block = vec![7; 4 << 20];
    let (written, heard) = soon(async {
        tokio::join!(
            async {
                near.write_all(&block).await.unwrap();
                near.shutdown().await.unwrap();
            },
            rest(&mut far)
        )
    })
    .await;
    let () = written;
    assert!(heard == block);
}

#[tokio::test]
async fn a_node_that_ends_the_connection_is_named_as_the_cause() {
    let nodes = Nodes::new().await;
    let Chain { client: _client, vm: _vm, here, .. } = chain(&nodes).await;
    nodes.far.close(VarInt::from_u32(0), b"the router was stopped");
    let ended = soon(here).await.unwrap();
    let said = "its node ended the connection: the router was stopped";
    assert!(matches!(&ended.reason, Reason::InnerFailed(error) if error.to_string() == said), "{ended:?}");
}
