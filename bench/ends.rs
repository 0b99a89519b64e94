//! Both ends of the tunnels that are measured. They cost as little as possible, so that the proxy between them is what
//! limits: what goes up is encrypted beforehand, what comes down is only counted by the lengths of its records.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nix::sys::socket::{MsgFlags, recv};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

const SPACE: usize = 256 * 1024;
/// A transfer that takes longer has failed.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));
/// Header of a TLS record.
const HEADER: usize = 5;
/// What a record of TLS 1.3 holds besides its data: the kind and the tag.
const OVERHEAD: usize = 17;

/// What the far end is asked to do.
#[derive(Clone, Copy)]
pub enum Order {
    /// Send so many bytes.
    Down(u64),
    /// Take so many bytes.
    Up(u64),
    /// Whenever so many bytes came, send so many, in that many pieces.
    Answer { up: u32, down: u32, pieces: u32 },
    /// Send a little and be silent.
    Hold,
}

const ORDER: usize = 17;
/// What `Order::Hold` sends.
pub const GREETING: u64 = 1024;

impl Order {
    /// As it is sent.
    pub fn to_bytes(self) -> [u8; ORDER] {
        let (kind, a, b, c) = match self {
            Self::Down(bytes) => (b'd', bytes, 0, 0),
            Self::Up(bytes) => (b'u', bytes, 0, 0),
            Self::Answer { up, down, pieces } => (b'a', u64::from(up), down, pieces),
            Self::Hold => (b'h', 0, 0, 0),
        };
        let mut bytes = [0; ORDER];
        bytes[0] = kind;
        bytes[1..9].copy_from_slice(&a.to_le_bytes());
        bytes[9..13].copy_from_slice(&b.to_le_bytes());
        bytes[13..].copy_from_slice(&c.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; ORDER]) -> Option<Self> {
        let a = u64::from_le_bytes(bytes[1..9].try_into().ok()?);
        let b = u32::from_le_bytes(bytes[9..13].try_into().ok()?);
        let c = u32::from_le_bytes(bytes[13..].try_into().ok()?);
        Some(match bytes[0] {
            b'd' => Self::Down(a),
            b'u' => Self::Up(a),
            b'a' => Self::Answer { up: a as u32, down: b, pieces: c },
            b'h' => Self::Hold,
            _ => return None,
        })
    }
}

/// The far end: what stands for nxagent.
pub struct Far {
    pub port: u16,
    taken: mpsc::Receiver<Instant>,
    held: Arc<Mutex<Vec<TcpStream>>>,
}

impl Far {
    pub fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1024)?)?;
        let port = listener.local_addr()?.port();
        let (done, taken) = mpsc::channel();
        let held = Arc::new(Mutex::new(Vec::new()));
        let keep = held.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (done, held) = (done.clone(), keep.clone());
                // Whoever asked will miss the answer; there is nobody else to tell.
                std::thread::spawn(move || obey(stream, &done, &held));
            }
        });
        Ok(Self { port, taken, held })
    }

    /// When an `Order::Up` was done.
    pub fn taken(&self) -> anyhow::Result<Instant> {
        self.taken.recv_timeout(PATIENCE.unwrap_or_default()).context("the bytes do not arrive")
    }

    /// Connections that are held.
    pub fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Far {
    /// The thread that accepts goes on, and what it keeps would stay open.
    fn drop(&mut self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn obey(mut stream: TcpStream, done: &mpsc::Sender<Instant>, held: &Mutex<Vec<TcpStream>>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut order = [0; ORDER];
    stream.read_exact(&mut order)?;
    let mut space = vec![0; SPACE];
    match Order::from_bytes(order).context("not an order")? {
        Order::Down(mut bytes) => {
            while bytes > 0 {
                let part = space.len().min(bytes as usize);
                stream.write_all(&space[..part])?;
                bytes -= part as u64;
            }
            let _ended = stream.read(&mut space)?;
        }
        Order::Up(mut bytes) => {
            while bytes > 0 {
                // With this flag the kernel throws away what it would otherwise copy.
                let taken = recv(stream.as_raw_fd(), &mut space, MsgFlags::MSG_TRUNC)?;
                ensure!(taken > 0, "the proxy closed too early");
                bytes -= taken as u64;
            }
            done.send(Instant::now())?;
            let _ended = stream.read(&mut space)?;
        }
        Order::Answer { up, down, pieces } => {
            let piece = vec![7; (down / pieces.max(1)) as usize];
            loop {
                stream.read_exact(&mut space[..up as usize])?;
                for _ in 0..pieces {
                    stream.write_all(&piece)?;
                }
            }
        }
        Order::Hold => {
            stream.write_all(&[7; GREETING as usize])?;
            held.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
    }
    Ok(())
}

/// The near end: what stands for a client.
pub struct Near {
    tcp: TcpStream,
    tls: Option<ClientConnection>,
    space: Vec<u8>,
    filled: usize,
}

/// How clients speak to a port.
#[derive(Clone)]
pub struct Dialler {
    tls: Option<Arc<ClientConfig>>,
}

impl Dialler {
    pub fn new(tls: bool) -> anyhow::Result<Self> {
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            ..aws_lc_rs::default_provider()
        };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        Ok(Self { tls: tls.then(|| Arc::new(config)) })
    }

    /// How it speaks TLS.
    pub fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls.clone()
    }

    /// A connection whose far end waits for its order.
    pub fn dial(&self, port: u16) -> anyhow::Result<Near> {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(PATIENCE)?;
        tcp.set_write_timeout(PATIENCE)?;
        let tls = match &self.tls {
            Some(config) => {
                let mut tls = ClientConnection::new(config.clone(), ServerName::try_from("localhost")?)?;
                tls.set_buffer_limit(None);
                Some(tls)
            }
            None => None,
        };
        let mut near = Near { tcp, tls, space: Vec::new(), filled: 0 };
        near.handshake()?;
        Ok(near)
    }
}

impl Near {
    fn handshake(&mut self) -> anyhow::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.is_handshaking() {
            while tls.wants_write() {
                tls.write_tls(&mut self.tcp)?;
            }
            // Not a byte more than the record, so that what follows begins with one.
            let mut record = vec![0; HEADER];
            self.tcp.read_exact(&mut record)?;
            let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
            record.resize(HEADER + length, 0);
            self.tcp.read_exact(&mut record[HEADER..])?;
            let mut rest = record.as_slice();
            while !rest.is_empty() {
                tls.read_tls(&mut rest)?;
                tls.process_new_packets()?;
            }
        }
        while tls.wants_write() {
            tls.write_tls(&mut self.tcp)?;
        }
        Ok(())
    }

    /// Bytes as they go over the wire.
    pub fn sealed(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        let Some(tls) = &mut self.tls else { return Ok(bytes.to_vec()) };
        let mut sealed = Vec::with_capacity(bytes.len() + bytes.len() / 512 + 64);
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut sealed)?;
        }
        Ok(sealed)
    }

    /// Sends what was sealed.
    pub fn send(&mut self, sealed: &[u8]) -> anyhow::Result<()> {
        self.tcp.write_all(sealed).context("the proxy does not take the bytes")
    }

    /// Takes records until they hold so many bytes of data, and says how many it were. Tickets count as data: some
    /// hundred bytes, once.
    pub fn count(&mut self, wanted: u64) -> anyhow::Result<u64> {
        self.space.resize(SPACE, 0);
        let mut counted = 0;
        while counted < wanted {
            let taken = self.tcp.read(&mut self.space[self.filled..]).context("the bytes do not arrive")?;
            ensure!(taken > 0, "the proxy closed after {counted} of {wanted} bytes");
            if self.tls.is_none() {
                counted += taken as u64;
                continue;
            }
            self.filled += taken;
            let mut at = 0;
            while self.filled - at >= HEADER {
                let length = usize::from(u16::from_be_bytes([self.space[at + 3], self.space[at + 4]]));
                if self.filled - at < HEADER + length {
                    break;
                }
                counted += length.saturating_sub(OVERHEAD) as u64;
                at += HEADER + length;
            }
            self.space.copy_within(at..self.filled, 0);
            self.filled -= at;
        }
        Ok(counted)
    }

    /// Takes the tickets that a server sends after the handshake, so that they are not counted later.
    pub fn take_tickets(&mut self) -> anyhow::Result<()> {
        self.tcp.set_read_timeout(Some(Duration::from_millis(20)))?;
        let outcome = self.count(u64::MAX);
        self.tcp.set_read_timeout(PATIENCE)?;
        let silent = |error: &anyhow::Error| {
            error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        };
        match outcome {
            Err(error) if !silent(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// What an idle client keeps: its connection.
    pub fn into_tcp(self) -> TcpStream {
        self.tcp
    }
}

/// Which certificate a proxy of ours shows is not what is measured.
#[derive(Debug)]
struct AnyCertificate;

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
