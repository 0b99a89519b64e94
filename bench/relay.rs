//! The tunnel of this project as a process of its own with one thread, so that it can be measured beside other proxies:
//! accepts, does the handshake, connects to the far side, and lets the room `tunnel` do the rest. Its peer that only
//! copies is here, too.

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use qvd::tunnel::{Conn, Counters, Kernel, relay, tls::accept_with, tune};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Space for each direction of the peer that copies, as large as that of the tunnel in user space.
const COPY: usize = 64 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub struct Arguments {
    /// Port of 127.0.0.1 to listen on
    #[arg(long)]
    listen: u16,
    /// Port of 127.0.0.1 to connect to
    #[arg(long)]
    connect: u16,
    /// Certificate and key in one file; without it clients speak in the clear
    #[arg(long)]
    pem: Option<PathBuf>,
    /// Copy in place of what the tunnel would do
    #[arg(long)]
    copy: bool,
    /// Give the keys of TLS to the kernel
    #[arg(long)]
    ktls: bool,
}

/// Serves until the process is killed.
pub fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let kernel = if arguments.ktls { Some(Kernel::probe().context("the kernel has no TLS")?) } else { None };
    let tls = arguments.pem.as_deref().map(tls).transpose()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.listen)).await?;
        loop {
            let (near, _) = listener.accept().await?;
            let (tls, kernel, far, copy) = (tls.clone(), kernel.clone(), arguments.connect, arguments.copy);
            // A client that leaves during its handshake is not worth a word.
            tokio::spawn(async move { session(near, tls, kernel, far, copy).await });
        }
    })
}

fn tls(pem: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    };
    let certificates = CertificateDer::pem_file_iter(pem)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_file(pem).context("no key")?)?;
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

async fn session(
    mut near: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    kernel: Option<Arc<Kernel>>,
    far: u16,
    copy: bool,
) -> io::Result<()> {
    tune(&near)?;
    let connect = async {
        let far = TcpStream::connect((Ipv4Addr::LOCALHOST, far)).await?;
        tune(&far)?;
        io::Result::Ok(far)
    };
    if copy {
        let mut far = connect.await?;
        tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, COPY, COPY).await?;
        return Ok(());
    }
    let outer: Conn = match tls {
        Some(tls) => accept_with(near, tls, HANDSHAKE, kernel).await.map_err(io::Error::other)?.into(),
        None => near.into(),
    };
    relay(outer, connect.await?, Vec::new(), &Counters::default(), &CancellationToken::new()).await;
    Ok(())
}
