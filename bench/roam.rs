//! A client of QUIC that changes its address in the middle of a transfer, and again and again: how long no byte comes,
//! and whether it had to connect again. Beside it TCP with TLS, which always has to, at its best: it notices at once that
//! its address is gone, its session of TLS is resumed, and there is no dialogue and no desktop to wait for. Then, without moving, what each congestion control makes of a link with
//! delay and loss (a process in between plays it), since that is what the default is chosen by.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket as StdSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use quinn::{
    Endpoint, EndpointConfig, TokioRuntime, crypto::rustls::QuicClientConfig, crypto::rustls::QuicServerConfig,
};
use qvd::tunnel::{
    self, Counters,
    quic::{ALPN, QuicStream},
    tls,
    udp::{self, Congestion},
};
use rand::RngExt;
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::{mpsc, watch},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::report::{Report, Samples};

const IDLE: Duration = Duration::from_secs(60);
/// Bytes moved between two changes of the address.
const PART: usize = 16 * 1024 * 1024;
/// Bytes moved over the bad link.
const OVER_LINK: usize = 6 * 1024 * 1024;
const LINK_BITS_PER_SECOND: f64 = 50e6;
const LINK_DELAY: Duration = Duration::from_millis(20);
/// What the link holds back before it drops.
const LINK_QUEUE: Duration = Duration::from_millis(100);

pub async fn run(repetitions: usize) -> anyhow::Result<Report> {
    let mut report = Report { scenario: "roam", repetitions, ..Report::default() };
    let (stalls, reconnects) = roam(repetitions).await?;
    report.figure("reconnects", reconnects as f64);
    report.figure("stall_ms", stalls.ms(1.0));
    report.figure("stall_p50_ms", stalls.ms(0.5));
    report.spread.insert("stall_ms".to_owned(), stalls.spread());
    let again = connect_again(repetitions).await?;
    report.peer("tcp", "reconnects", repetitions as f64);
    report.peer("tcp", "stall_ms", again.ms(1.0));
    report.peer("tcp", "stall_p50_ms", again.ms(0.5));
    report.spread.insert("tcp_stall_ms".to_owned(), again.spread());
    for loss in [0.0, 0.01] {
        let mut rates: [Vec<f64>; 2] = Default::default();
        for _ in 0..repetitions.min(5) {
            for (congestion, rates) in [Congestion::Cubic, Congestion::Bbr].into_iter().zip(&mut rates) {
                rates.push(over_link(congestion, loss).await?);
            }
        }
        for (name, rates) in ["cubic", "bbr"].into_iter().zip(&mut rates) {
            rates.sort_by(f64::total_cmp);
            report.figure(format!("{name}_mbit_s_loss_{}_percent", loss * 100.0), rates[rates.len() / 2]);
        }
    }
    Ok(report)
}

/// The longest silence at each change of the address, and how often the client had to connect again.
async fn roam(changes: usize) -> anyhow::Result<(Samples, u64)> {
    let pair = Pair::open(Congestion::Cubic, None).await?;
    let Pair { server, client, mut stream, vm } = pair;
    let total = PART * (changes + 1);
    let sending = tokio::spawn(send(vm, total));
    let mut stalls = Samples::default();
    let mut space = vec![0; 64 * 1024];
    let (mut received, mut next, mut part, mut longest) = (0, PART / 2, 0_u64, Duration::ZERO);
    let mut last = Instant::now();
    loop {
        let read = stream.read(&mut space).await?;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if read == 0 {
            break;
        }
        for (i, byte) in space[..read].iter().enumerate() {
            ensure!(*byte == pattern(received + i), "byte {} arrived changed", received + i);
        }
        received += read;
        if received >= next && part < changes as u64 {
            if part > 0 {
                stalls.add(longest);
            }
            let host = if part % 2 == 0 { 2 } else { 1 };
            client.rebind(StdSocket::bind((Ipv4Addr::new(127, 0, 0, host), 0))?)?;
            longest = Duration::ZERO;
            part += 1;
            next += PART;
        }
    }
    stalls.add(longest);
    sending.await??;
    ensure!(received == total, "{received} of {total} bytes arrived");
    Ok((stalls, server.stats().accepted_handshakes - 1))
}

/// What a client of TCP makes of the same changes: the time from each until the next byte.
async fn connect_again(changes: usize) -> anyhow::Result<Samples> {
    let Keys { certificate, key } = Keys::make()?;
    let versions = &[&rustls::version::TLS13];
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (connector, server) = (TlsConnector::from(Arc::new(config)), Arc::new(server));

    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (listener, desktop) = (TcpListener::bind(loopback).await?, TcpListener::bind(loopback).await?);
    let (address, behind) = (listener.local_addr()?, desktop.local_addr()?);
    let drawing = tokio::spawn(async move {
        while let Ok((vm, _)) = desktop.accept().await {
            // Its client leaves before it has all.
            tokio::spawn(send(vm, usize::MAX / 64));
        }
    });
    let serving = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                let (outer, inner) =
                    (tls::accept(tcp, server, IDLE).await.ok()?, TcpStream::connect(behind).await.ok()?);
                let (counters, cancel) = (Counters::default(), CancellationToken::new());
                Some(tunnel::relay(outer.into(), inner, Vec::new(), &counters, &cancel).await)
            });
        }
    });
    let connect = async |host| {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into())?;
        let tcp = socket.connect(address).await?;
        tunnel::tune(&tcp)?;
        anyhow::Ok(connector.connect("localhost".try_into()?, tcp).await?)
    };
    let mut stalls = Samples::default();
    let mut stream = connect(1).await?;
    let mut space = vec![0; 64 * 1024];
    for change in 0..changes {
        let mut received = 0;
        while received < PART {
            let read = stream.read(&mut space).await?;
            ensure!(read > 0, "the tunnel over TCP ended");
            received += read;
        }
        let began = Instant::now();
        stream = connect(if change % 2 == 0 { 2 } else { 1 }).await?;
        ensure!(stream.read(&mut space).await? > 0, "the tunnel over TCP ended");
        stalls.add(began.elapsed());
    }
    serving.abort();
    drawing.abort();
    Ok(stalls)
}

/// A certificate for localhost.
struct Keys {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Keys {
    fn make() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        Ok(Self { certificate: made.cert.der().clone(), key })
    }
}

/// Megabits per second from the VM to the client.
async fn over_link(congestion: Congestion, loss: f64) -> anyhow::Result<f64> {
    let Pair { server, client, mut stream, vm } = Pair::open(congestion, Some(loss)).await?;
    let began = Instant::now();
    let sending = tokio::spawn(send(vm, OVER_LINK));
    let mut received = 0;
    let mut space = vec![0; 64 * 1024];
    while received < OVER_LINK {
        let read = stream.read(&mut space).await?;
        ensure!(read > 0, "{received} of {OVER_LINK} bytes arrived");
        received += read;
    }
    let seconds = began.elapsed().as_secs_f64();
    sending.await??;
    drop((server, client));
    Ok(OVER_LINK as f64 * 8.0 / 1e6 / seconds)
}

fn pattern(at: usize) -> u8 {
    (at * 31 + at / 251) as u8
}

async fn send(mut vm: TcpStream, total: usize) -> io::Result<()> {
    let mut sent = 0;
    while sent < total {
        let end = (sent + 256 * 1024).min(total);
        let block: Vec<u8> = (sent..end).map(pattern).collect();
        vm.write_all(&block).await?;
        sent = end;
    }
    vm.shutdown().await
}

/// A client, the tunnel's relay, and the VM behind it.
struct Pair {
    server: Endpoint,
    client: Endpoint,
    stream: QuicStream,
    vm: TcpStream,
}

impl Pair {
    /// Over a link with this loss, if one is given.
    async fn open(congestion: Congestion, loss: Option<f64>) -> anyhow::Result<Self> {
        let Keys { certificate, key } = Keys::make()?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = &[&rustls::version::TLS13];
        let mut tls = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        server.transport_config(Arc::new(udp::transport(congestion, IDLE, None)));
        let mut roots = RootCertStore::empty();
        roots.add(certificate)?;
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(udp::transport(Congestion::Cubic, IDLE, Some(Duration::from_secs(10)))));

        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = |server| -> io::Result<Endpoint> {
            let (socket, _) = udp::adopt(udp::bind(loopback)?)?;
            Endpoint::new_with_abstract_socket(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))
        };
        let (server, client) = (endpoint(Some(server))?, endpoint(None)?);
        let address = match loss {
            Some(loss) => link(server.local_addr()?, loss).await?,
            None => server.local_addr()?,
        };
        let connecting = client.connect_with(config, address, "localhost")?;
        let opening = async {
            let mut stream = QuicStream::open(connecting.await?).await?;
            stream.write_all(b"!").await?;
            anyhow::Ok(stream)
        };
        let accepting = async {
            let incoming = server.accept().await.context("the server is closed")?;
            let mut stream = QuicStream::accept(incoming.await?).await?;
            stream.read_u8().await?;
            anyhow::Ok(stream)
        };
        let (stream, outer) = tokio::try_join!(opening, accepting)?;
        let listener = TcpListener::bind(loopback).await?;
        let (vm, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
        let (vm, inner) = (vm?, accepted?.0);
        tokio::spawn(async move {
            tunnel::relay(outer.into(), inner, Vec::new(), &Counters::default(), &CancellationToken::new()).await
        });
        Ok(Self { server, client, stream, vm })
    }
}

/// A link to `server` that delays, drops and limits in both directions; where it begins.
async fn link(server: SocketAddr, loss: f64) -> io::Result<SocketAddr> {
    let near = Arc::new(UdpSocket::from_std(udp::bind((Ipv4Addr::LOCALHOST, 0).into())?)?);
    let far = Arc::new(UdpSocket::from_std(udp::bind((Ipv4Addr::LOCALHOST, 0).into())?)?);
    far.connect(server).await?;
    let begins = near.local_addr()?;
    let (first, known) = watch::channel(None);
    let (out, outer) = (far.clone(), near.clone());
    let mut up = Lane::new(loss, move |bytes| {
        let out = out.clone();
        async move { drop(out.send(&bytes).await) }
    });
    let mut down = Lane::new(loss, move |bytes| {
        let (outer, client) = (outer.clone(), *known.borrow());
        async move {
            if let Some(client) = client {
                drop(outer.send_to(&bytes, client).await);
            }
        }
    });
    tokio::spawn(async move {
        let (mut from_near, mut from_far) = (vec![0; 65536], vec![0; 65536]);
        loop {
            tokio::select! {
                Ok((length, client)) = near.recv_from(&mut from_near) => {
                    first.send_replace(Some(client));
                    up.carry(&from_near[..length]);
                }
                Ok(length) = far.recv(&mut from_far) => down.carry(&from_far[..length]),
                else => return,
            }
        }
    });
    Ok(begins)
}

/// One direction of a link. Packets stay in order.
struct Lane {
    loss: f64,
    /// When the packet before has left.
    free: Instant,
    packets: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
}

impl Lane {
    fn new<F>(loss: f64, mut deliver: impl FnMut(Vec<u8>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let (packets, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
        tokio::spawn(async move {
            while let Some((arrives, bytes)) = under_way.recv().await {
                tokio::time::sleep_until(arrives.into()).await;
                deliver(bytes).await;
            }
        });
        Self { loss, free: Instant::now(), packets }
    }

    fn carry(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        let begins = self.free.max(now);
        if begins - now > LINK_QUEUE || rand::rng().random_bool(self.loss) {
            return;
        }
        self.free = begins + Duration::from_secs_f64(bytes.len() as f64 * 8.0 / LINK_BITS_PER_SECOND);
        let _ = self.packets.send((self.free + LINK_DELAY, bytes.to_vec()));
    }
}
