//! The keys of a session as the kernel wants them, and whether it wants them.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream as StdStream},
    os::fd::AsFd,
};

use nix::{
    libc,
    sys::socket::{
        setsockopt,
        sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo},
    },
};
use rustls::{
    ConnectionTrafficSecrets, ProtocolVersion, SupportedCipherSuite,
    crypto::cipher::{AeadKey, Iv},
};

/// Which half of a connection keys are for.
#[derive(Clone, Copy, Debug)]
pub enum Direction {
    Send,
    Receive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

/// What this kernel can do.
#[derive(Debug)]
pub struct Able {
    encrypts: Vec<(ProtocolVersion, Cipher)>,
    /// Whether a connection may get keys in place of those it has.
    pub other_keys: bool,
}

impl Able {
    /// Whether the kernel can do what was agreed with a client.
    pub fn supports(&self, suite: SupportedCipherSuite) -> bool {
        use rustls::CipherSuite as S;
        let cipher = match suite.suite() {
            S::TLS13_AES_128_GCM_SHA256
            | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Cipher::Aes128Gcm,
            S::TLS13_AES_256_GCM_SHA384
            | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Cipher::Aes256Gcm,
            S::TLS13_CHACHA20_POLY1305_SHA256
            | S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::Chacha20Poly1305,
            _ => return false,
        };
        self.encrypts.contains(&(suite.version().version, cipher))
    }
}

/// Gives keys that nobody uses to connections of its own.
pub fn probe() -> io::Result<Able> {
    attach(&pair()?.0)?;
    let mut encrypts = Vec::new();
    let mut other_keys = false;
    for version in [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2] {
        for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305] {
            let (near, _far) = pair()?;
            attach(&near)?;
            let give = |direction| {
                let key = AeadKey::from([0; 32]);
                let iv = Iv::from([0; 12]);
                let secrets = match cipher {
                    Cipher::Aes128Gcm => ConnectionTrafficSecrets::Aes128Gcm { key, iv },
                    Cipher::Aes256Gcm => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
                    Cipher::Chacha20Poly1305 => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
                };
                install(&near, direction, version, (0, secrets)).is_ok()
            };
            if give(Direction::Send) && give(Direction::Receive) {
                encrypts.push((version, cipher));
                // Only for TLS 1.3, which knows of such a change.
                other_keys |= version == ProtocolVersion::TLSv1_3 && give(Direction::Send);
            }
        }
    }
    if encrypts.is_empty() { Err(io::ErrorKind::Unsupported.into()) } else { Ok(Able { encrypts, other_keys }) }
}

fn pair() -> io::Result<(StdStream, StdStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = StdStream::connect(listener.local_addr()?)?;
    Ok((near, listener.accept()?.0))
}

/// Prepares a connected socket for keys.
pub fn attach(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, TcpUlp::default(), b"tls")?)
}

/// Gives the kernel the keys of one direction and the number of the next record. Where keys are already, only recent
/// kernels take others.
pub fn install(
    socket: &impl AsFd,
    direction: Direction,
    version: ProtocolVersion,
    (sequence, secrets): (u64, ConnectionTrafficSecrets),
) -> io::Result<()> {
    let info = info(direction, version, sequence, &secrets).ok_or(io::ErrorKind::Unsupported)?;
    match direction {
        Direction::Send => setsockopt(socket, TcpTlsTx, &info)?,
        Direction::Receive => setsockopt(socket, TcpTlsRx, &info)?,
    }
    Ok(())
}

/// In TLS 1.2 a nonce of AES-GCM travels with its record: the sender only must not use one twice. Ours so far were the
/// initial one and a record's number combined by exclusive or, the kernel counts from what it is given; with the highest
/// bit turned over the two cannot meet.
const ELSEWHERE: u8 = 0x80;

fn info(
    direction: Direction,
    version: ProtocolVersion,
    sequence: u64,
    secrets: &ConnectionTrafficSecrets,
) -> Option<TlsCryptoInfo> {
    let version = match version {
        ProtocolVersion::TLSv1_2 => libc::TLS_1_2_VERSION,
        ProtocolVersion::TLSv1_3 => libc::TLS_1_3_VERSION,
        _ => return None,
    };
    let nonce = |iv: &Iv| -> Option<([u8; 4], [u8; 8])> {
        let (salt, rest) = iv.as_ref().split_first_chunk::<4>()?;
        let mut rest = *rest.first_chunk::<8>()?;
        if version == libc::TLS_1_2_VERSION && matches!(direction, Direction::Send) {
            rest[0] ^= ELSEWHERE;
        }
        Some((*salt, rest))
    };
    let rec_seq = sequence.to_be_bytes();
    let of = |cipher_type| libc::tls_crypto_info { version, cipher_type };
    Some(match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
            let (salt, iv) = nonce(iv)?;
            let key = *key.as_ref().first_chunk()?;
            let info = of(libc::TLS_CIPHER_AES_GCM_128);
            TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 { info, iv, key, salt, rec_seq })
        }
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
            let (salt, iv) = nonce(iv)?;
            let key = *key.as_ref().first_chunk()?;
            let info = of(libc::TLS_CIPHER_AES_GCM_256);
            TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 { info, iv, key, salt, rec_seq })
        }
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            let iv = *iv.as_ref().first_chunk()?;
            let key = *key.as_ref().first_chunk()?;
            let info = of(libc::TLS_CIPHER_CHACHA20_POLY1305);
            let salt = [];
            TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 { info, iv, key, salt, rec_seq })
        }
        _ => return None,
    })
}
