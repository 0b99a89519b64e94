//! A router is replaced while people work.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    net::TcpStream,
    process::{Child, Command},
    task::{JoinHandle, JoinSet},
    time::{interval, timeout},
};

use super::{
    client::Client,
    stage::{PASSWORD, PATIENCE, Stage, Tunnel, rough_alone},
};

const TUNNELS: usize = 200;
/// Between two of a user's actions. All together make two thousand a second.
const TYPING: Duration = Duration::from_millis(100);
/// New connections come this often, in milliseconds.
const ARRIVAL: u64 = 20;

/// What nxagent is sent comes back.
fn echo(nx: TcpStream) {
    let (mut from, mut to) = split(nx);
    tokio::spawn(async move {
        let _ = copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    });
}

/// A user who types and looks until told to stop, and compares every byte.
fn works(mut client: Client, number: usize, stop: Arc<AtomicBool>) -> JoinHandle<Client> {
    tokio::spawn(async move {
        let mut pause = interval(TYPING);
        for round in 0_usize.. {
            if stop.load(Relaxed) {
                break;
            }
            let length = 1 + (round * 997 + number * 31) % 3000;
            let typed: Vec<u8> = (0..length).map(|at| (at * 7 + round + number) as u8).collect();
            client.send(&typed).await;
            assert_eq!(client.read(length).await, typed, "tunnel {number}, round {round}");
            pause.tick().await;
        }
        client
    })
}

/// Another router of the same node.
pub fn successor(stage: &Stage) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qvd"));
    command.args(["l7r", "--config"]).arg(stage.site.config_file());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_is_replaced_without_a_refused_connection_or_a_lost_byte() {
    let (stage, _alone) = rough_alone().await;
    let old = stage.sql("select id from l7r_instances where ended_at is null").await;
    let stop = Arc::new(AtomicBool::new(false));

    let mut desktops = Vec::new();
    for _ in 0..TUNNELS {
        desktops.push(stage.desktop().await);
    }
    let ids: Vec<_> = desktops.iter().map(|desktop| desktop.id.to_string()).collect();
    stage.sql(&format!("select vm_start(id) from vms where id in ({})", ids.join(", "))).await;
    let opening = desktops.into_iter().enumerate().map(|(number, mut desktop)| {
        let stop = stop.clone();
        async move {
            stage.site.wait_vm(&desktop.name(), "running").await.unwrap();
            let Tunnel { client, nx, .. } = desktop.connected().await;
            echo(nx);
            (desktop, works(client, number, stop))
        }
    });
    let mut tunnels: Vec<_> = stream::iter(opening).buffer_unordered(16).collect().await;

    // Others come all the time.
    let (port, come) = (stage.site.port(), Arc::new(AtomicU32::new(0)));
    let (counted, ends) = (come.clone(), stop.clone());
    let arrivals = tokio::spawn(async move {
        let mut clock = interval(Duration::from_millis(ARRIVAL));
        let mut clients = JoinSet::new();
        while !ends.load(Relaxed) {
            clock.tick().await;
            let counted = counted.clone();
            clients.spawn(async move {
                let mut client = Client::connect(port).await;
                assert_eq!(client.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await.status, 200);
                counted.fetch_add(1, Relaxed);
            });
        }
        clients.join_all().await;
    });
    let arrived = async |more: u32| {
        let wanted = come.load(Relaxed) + more;
        let mut clock = interval(Duration::from_millis(ARRIVAL));
        while come.load(Relaxed) < wanted {
            assert!(!arrivals.is_finished(), "a client was refused");
            clock.tick().await;
        }
    };
    arrived(20).await;
    let mut successor = successor(stage);
    stage.until("select count(*) from l7r_instances where ended_at is null", "2").await;
    arrived(50).await;
    assert!(tunnels.iter().all(|(_, works)| !works.is_finished()), "nobody was interrupted");

    // One who draws on the old router can still be disconnected; the others leave when they like.
    let (victim, working) = tunnels.pop().unwrap();
    stage.sql(&format!("select vm_disconnect({})", victim.id)).await;
    assert!(working.await.is_err(), "the connection was closed under the user's hands");
    victim.freed().await;

    stop.store(true, Relaxed);
    arrivals.await.unwrap();
    for (desktop, working) in tunnels {
        let mut client = working.await.unwrap();
        client.finish().await;
        assert!(client.ended().await);
        desktop.freed().await;
    }
    stage.until(&format!("select ended_at is not null from l7r_instances where id = {old}"), "t").await;
    let unclean = format!("select count(*) from user_sessions where l7r_instance = {old} and end_reason ~ 'router'");
    assert_eq!(stage.sql(&unclean).await, "0", "every session ended as its user or administrator wanted");
    // Whoever keeps the first one running starts another, which takes over in turn.
    assert!(timeout(PATIENCE, successor.wait()).await.expect("the successor is replaced").unwrap().success());
    stage.until("select count(*) from l7r_instances where ended_at is null", "1").await;
    assert_eq!(Client::connect(port).await.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await.status, 200);
    // The UDP port went with it.
    let login = stage.user().await.login;
    assert!(lists(port, &login, "quic").await, "QUIC is served by the last of them");
}

/// Whether our client gets its list this way.
async fn lists(port: u16, login: &str, transport: &str) -> bool {
    let home = tempfile::tempdir().unwrap();
    let mut client = Command::new(env!("CARGO_BIN_EXE_qvd"));
    client.args(["client", "--host", "localhost", "--port", &port.to_string(), "--user", login, "--list"]);
    client.args(["--transport", transport, "--ssl-errors", "continue"]);
    client.env("HOME", home.path()).env("QVDPASSWORD", PASSWORD);
    client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    client.status().await.unwrap().success()
}

/// A newcomer that cannot run leaves everything to the one that does.
#[tokio::test]
async fn a_router_goes_on_when_its_successor_dies() {
    let (stage, _alone) = rough_alone().await;
    let directory = stage.site.run_directory();
    let pid = stage.l7r_pid().await;
    let socket = directory.join(format!("l7r.{pid}.handover"));
    let mut newcomer = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let mut line = [0; 64];
    let length = newcomer.read(&mut line).await.unwrap();
    assert_eq!(&line[..length], b"qvd-l7r 2 tcp udp\n");
    newcomer.shutdown().await.unwrap();
    drop(newcomer);
    let mut client = stage.client().await;
    assert_eq!(client.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await.status, 200);
    assert_eq!(stage.l7r_pid().await, pid);
}
