//! Attacks that use up what a router has: connections, time, space. Each is held against three things: what the router
//! keeps for it, whether another client is served meanwhile, and whether the administrator can see it.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::yield_now,
    time::{interval, timeout},
};

use super::{
    elsewhere::Elsewhere,
    stage::{Desktop, PASSWORD, PATIENCE, SIEGE_HANDSHAKE, Stage, Tunnel, User, besieged},
    strangers::{client, counted, counter, list, tcp},
};

/// Connections of an attack.
const MANY: usize = 10_000;
/// What the router may hold besides what connections cost, in KiB: its heap grows in steps, and lists with it.
const SLACK: usize = 6 * 1024;
/// What all tunnels together keep of what their VMs do not take, in KiB.
const READ_AHEAD: usize = 16 * 1024;
/// Within this a client is missed whose VM reads nothing. The kernel would give up the VM after a minute.
pub const SOON: Duration = Duration::from_secs(20);
/// Silence after which a writer counts as blocked.
pub const BLOCKED: Duration = Duration::from_secs(1);
/// No queue between two ends of a tunnel may take this much.
pub const ENDLESS: usize = 64 << 20;

/// What a process has written to and not given back, in KiB.
fn held(pid: i32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What the router holds, and a client who is served whatever happens.
struct Watch {
    stage: &'static Stage,
    pid: i32,
    before: usize,
    bystander: User,
}

impl Watch {
    async fn begin(stage: &'static Stage) -> Self {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let (bystander, pid) = (stage.user().await, stage.l7r_pid().await);
        let watch = Self { stage, pid, before: 0, bystander };
        watch.others_are_served().await;
        let mut look = interval(Duration::from_millis(5));
        let mut before = held(pid);
        for _ in 0..20 {
            look.tick().await;
            before = before.min(held(pid));
        }
        Self { before, ..watch }
    }

    /// A new client from elsewhere logs in and gets its list.
    async fn others_are_served(&self) {
        let served = async {
            let mut client = client(self.stage, 200).await;
            client.ask(list(&self.bystander.login, PASSWORD)).await.status
        };
        assert_eq!(timeout(PATIENCE, served).await.expect("others wait"), 200);
    }

    /// The router holds at most this for each of so many. What a password was checked in goes back a moment after the
    /// answer.
    async fn costs(&self, number: usize, kib: usize) {
        let more = || held(self.pid).saturating_sub(self.before);
        let settled = async {
            while more() > number * kib + SLACK {
                yield_now().await;
            }
        };
        let settled = timeout(BLOCKED, settled).await;
        println!("{number} cost {} KiB, {:.1} KiB each", more(), more() as f64 / number as f64);
        settled.unwrap_or_else(|_| panic!("the router holds {} KiB for {number}", more()));
    }

    /// Waits until the router holds so much, in KiB.
    async fn holds(&self, kib: usize) {
        let grown = async {
            while held(self.pid) < self.before + kib {
                yield_now().await;
            }
        };
        timeout(PATIENCE, grown).await.unwrap_or_else(|_| panic!("the router never holds {kib} KiB"));
    }
}

/// Waits until the router has closed a connection, whatever it said before.
async fn closed(mut tcp: TcpStream) {
    let mut space = [0; 4096];
    let end = async { while matches!(tcp.read(&mut space).await, Ok(read) if read > 0) {} };
    timeout(PATIENCE, end).await.expect("the connection stays open");
}

/// Connections from as many addresses as it takes, each of which has sent this.
async fn crowd(stage: &Stage, number: usize, first: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for place in 0..number {
        let mut tcp = tcp(stage, 20 + (place % 100) as u8).await;
        tcp.write_all(first).await.unwrap();
        crowd.push(tcp);
    }
    crowd
}

/// The first message of a TLS client.
fn hello() -> Vec<u8> {
    use rustls::crypto::aws_lc_rs;
    let config = rustls::ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut tls = rustls::ClientConnection::new(config.into(), "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn ten_thousand_connections_from_one_address_are_turned_away_but_for_a_few() {
    let (stage, _alone) = besieged().await;
    let watch = Watch::begin(stage).await;
    let before = counter(stage, "refused_connections").await;
    let mut crowd = Vec::new();
    for number in 1..=MANY {
        crowd.push(tcp(stage, 20).await);
        if number % 1000 == 0 {
            watch.others_are_served().await;
        }
    }
    // 512 may stay; more, if the first have had their time meanwhile.
    counted(stage, "refused_connections", &before, MANY as i64 * 9 / 10).await;
    watch.costs(512, 16).await;
    watch.others_are_served().await;
}

#[tokio::test]
async fn ten_thousand_handshakes_that_stop_cost_little_and_end_at_their_limit() {
    let (stage, _alone) = besieged().await;
    let hello = hello();
    // Nothing, the beginning of a record, all that a client says first.
    for (number, sent, kib) in [(MANY, 0, 16), (MANY, 20, 16), (1000, hello.len(), 24)] {
        let watch = Watch::begin(stage).await;
        let before = counter(stage, "failed_handshakes").await;
        let began = Instant::now();
        let crowd = crowd(stage, number, &hello[..sent]).await;
        watch.others_are_served().await;
        if began.elapsed() < SIEGE_HANDSHAKE {
            watch.costs(number, kib).await;
        }
        for tcp in crowd {
            closed(tcp).await;
        }
        counted(stage, "failed_handshakes", &before, number as i64).await;
        watch.others_are_served().await;
    }
}

#[tokio::test]
async fn a_storm_of_logins_leaves_nothing_in_memory() {
    let (stage, _alone) = besieged().await;
    let watch = Watch::begin(stage).await;
    for _ in 0..12 {
        let [one, two] = [watch.others_are_served(), watch.others_are_served()];
        tokio::join!(one, two);
    }
    // Each takes 19 MiB while its password is checked.
    watch.costs(24, 64).await;
}

#[tokio::test]
async fn a_byte_per_second_on_many_connections_buys_no_more_time_than_silence() {
    let (stage, _alone) = besieged().await;
    let watch = Watch::begin(stage).await;
    let (handshakes, slow) = (counter(stage, "failed_handshakes").await, counter(stage, "slow_clients").await);
    let hello = hello();
    let mut shaking = crowd(stage, 300, &[]).await;
    let mut asking = Vec::new();
    for number in 0..100 {
        asking.push(client(stage, 120 + number % 50).await);
    }
    let mut second = interval(Duration::from_secs(1));
    for byte in hello.iter().take(SIEGE_HANDSHAKE.as_secs() as usize - 2) {
        second.tick().await;
        for tcp in &mut shaking {
            tcp.write_all(&[*byte]).await.unwrap();
        }
        // Who is told that it took too long may still send.
        for client in &mut asking {
            client.try_send(b"G").await;
        }
        watch.others_are_served().await;
    }
    watch.costs(400, 40).await;
    for mut client in asking {
        assert_eq!(client.answer().await.status, 408);
    }
    for tcp in shaking {
        closed(tcp).await;
    }
    counted(stage, "slow_clients", &slow, 100).await;
    counted(stage, "failed_handshakes", &handshakes, 300).await;
}

/// Writes until the other side takes no more, and says how much it took.
pub async fn fill(to: &mut TcpStream) -> usize {
    let (chunk, mut sent) = (vec![7; 64 * 1024], 0);
    while let Ok(Ok(taken)) = timeout(BLOCKED, to.write(&chunk)).await {
        sent += taken;
        assert!(sent < ENDLESS, "the router swallows all that it is given");
    }
    sent
}

/// The same through TLS. Afterwards the client can only listen.
async fn fill_up(tunnel: &mut Tunnel) {
    let (chunk, mut sent) = (vec![7; 64 * 1024], 0);
    while timeout(BLOCKED, tunnel.client.send(&chunk)).await.is_ok() {
        sent += chunk.len();
        assert!(sent < ENDLESS, "the router swallows all that it is given");
    }
}

async fn tunnels(stage: &'static Stage, number: usize) -> Vec<(Desktop, Tunnel)> {
    let mut tunnels = Vec::new();
    for _ in 0..number {
        let mut desktop = stage.running().await;
        let tunnel = desktop.connected().await;
        tunnels.push((desktop, tunnel));
    }
    tunnels
}

#[tokio::test]
async fn vms_that_send_and_never_read_hold_up_only_their_own_client_and_only_one_way() {
    let (stage, _alone) = besieged().await;
    let mut tunnels = tunnels(stage, 8).await;
    let watch = Watch::begin(stage).await;
    for (_, tunnel) in &mut tunnels {
        fill_up(tunnel).await;
    }
    watch.others_are_served().await;
    // After a while the router reads on a little, to see whether they are still there; perhaps into memory that it had kept.
    let _ = timeout(SOON, watch.holds(READ_AHEAD / 2)).await;
    watch.costs(1, READ_AHEAD + tunnels.len() * 320).await;
    for (_, tunnel) in &mut tunnels {
        tunnel.nx.write_all(b"still drawing").await.unwrap();
        assert_eq!(tunnel.client.read(13).await, b"still drawing");
    }
}

#[tokio::test]
async fn clients_that_send_and_never_read_hold_up_only_their_own_vm_and_only_one_way() {
    let (stage, _alone) = besieged().await;
    let mut tunnels = tunnels(stage, 8).await;
    let watch = Watch::begin(stage).await;
    for (_, tunnel) in &mut tunnels {
        fill(&mut tunnel.nx).await;
    }
    watch.costs(tunnels.len(), 320).await;
    watch.others_are_served().await;
    for (_, tunnel) in &mut tunnels {
        tunnel.client.send("keystroke").await;
        let mut heard = [0; 9];
        timeout(PATIENCE, tunnel.nx.read_exact(&mut heard)).await.expect("nothing passes").unwrap();
        assert_eq!(&heard, b"keystroke");
    }
}

#[tokio::test]
async fn a_client_that_reads_and_never_sends_gets_everything_and_costs_nothing() {
    let (stage, _alone) = besieged().await;
    let (_desktop, tunnel) = tunnels(stage, 1).await.pop().unwrap();
    let Tunnel { mut client, mut nx, .. } = tunnel;
    let watch = Watch::begin(stage).await;
    let sending = tokio::spawn(async move {
        nx.write_all(&vec![5; ENDLESS]).await.unwrap();
        nx
    });
    let mut heard = 0;
    while heard < ENDLESS {
        heard += client.data().await.expect("the router closed the connection").len();
    }
    assert_eq!(heard, ENDLESS);
    watch.costs(1, 320).await;
    watch.others_are_served().await;
    sending.await.unwrap();
}

#[tokio::test]
async fn a_client_that_vanishes_while_its_vm_reads_nothing_is_missed_soon() {
    let (stage, _alone) = besieged().await;
    let (desktop, mut tunnel) = tunnels(stage, 1).await.pop().unwrap();
    fill_up(&mut tunnel).await;
    let Tunnel { client, nx: _nx, .. } = tunnel;
    client.cut();
    let took = desktop.freed().await;
    assert!(took < SOON, "the desktop was freed only after {took:?}");
    assert_eq!(desktop.end_reason().await, "the client left");
}

#[tokio::test]
async fn a_client_that_closes_behind_more_than_its_vm_takes_is_missed_soon() {
    let (stage, _alone) = besieged().await;
    let (desktop, mut tunnel) = tunnels(stage, 1).await.pop().unwrap();
    fill_up(&mut tunnel).await;
    let Tunnel { client, nx: _nx, .. } = tunnel;
    // Its kernel holds the end back until there is room for what comes before it.
    drop(client);
    let took = desktop.freed().await;
    assert!(took < SOON, "the desktop was freed only after {took:?}");
    assert_eq!(desktop.end_reason().await, "the client left");
}

#[tokio::test]
async fn half_open_connections_end_by_the_time_limit_and_in_a_tunnel_by_the_keepalive() {
    let (stage, _alone) = besieged().await;
    let elsewhere = Elsewhere::new(2).await;
    let port = stage.site.port();
    let watch = Watch::begin(stage).await;
    let mut silent = stage.running().await;
    let mut drawing = stage.running().await;
    let _silent_ends = silent.connected_over(elsewhere.connections(port, 1).remove(0)).await;
    let mut drawing_ends = drawing.connected_over(elsewhere.connections(port, 1).remove(0)).await;
    let before = counter(stage, "failed_handshakes").await;
    let mut crowd = elsewhere.connections(port, 500);
    for tcp in &mut crowd {
        tcp.write_all(&hello()[..20]).await.unwrap();
    }
    elsewhere.go_dark().await;
    let began = Instant::now();
    // Nobody hears that they close, either.
    drop(crowd);
    drawing_ends.nx.write_all(&[9; 100_000]).await.unwrap();
    watch.costs(500, 40).await;
    watch.others_are_served().await;
    counted(stage, "failed_handshakes", &before, 500).await;
    for desktop in [silent, drawing] {
        desktop.freed().await;
        println!("a tunnel ended {:?} later", began.elapsed());
        assert!(desktop.end_reason().await.starts_with("the connection to the client failed"));
    }
}
