//! `qvd wat`: the web administration tool.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use clap::Args;
use rustls::ServerConfig;

use crate::{
    auth::Rates,
    certificate::{self, Identity},
    db::{Connector, Role},
    model::config::{Config, keys},
    node, wat,
};

use super::{daemons::until_told_to_end, settings::ConfigFile};

#[derive(Args)]
pub struct Wat {
    #[command(flatten)]
    file: ConfigFile,
    /// Where to listen, in place of what the configuration says
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Where files are uploaded to, in place of what the configuration says: the staging directory of the nodes' storage
    #[arg(long, value_name = "DIR")]
    staging: Option<PathBuf>,
}

pub async fn run(arguments: Wat) -> anyhow::Result<()> {
    let config = arguments.file.read()?;
    let url = arguments.url.unwrap_or_else(|| config.get(&keys::API_URL));
    let (address, encrypted) =
        place(&url).with_context(|| format!("“{url}” is not like https://*:8444/ or http://127.0.0.1:8080/"))?;
    // Said by hand, it is meant to be there.
    if let Some(staging) = arguments.staging.as_ref().filter(|staging| !staging.is_dir()) {
        anyhow::bail!("{} is not a directory", staging.display());
    }
    let settings = wat::Settings {
        address,
        tls: if encrypted { Some(tls(&config)?) } else { None },
        connector: Connector::from_config(&config, Role::Wat)?,
        connections: config.get(&keys::DATABASE_POOL_SIZE) as usize,
        rates: Rates::from_config(&config),
        staging: arguments.staging.unwrap_or_else(|| config.get(&keys::PATH_STORAGE_STAGING)),
        private_downloads: config.get(&keys::WAT_DOWNLOAD_PRIVATE),
        most_downloads: config.get(&keys::WAT_DOWNLOAD_LIMIT) as usize,
        novnc: config.get(&keys::WAT_NOVNC_DIR),
    };
    let stop = until_told_to_end()?;
    tokio::spawn(node::lifeline(stop.clone()));
    wat::run(settings, async move { stop.cancelled().await }).await
}

/// Address and port, and whether TLS is spoken there.
fn place(url: &str) -> Option<(SocketAddr, bool)> {
    let (scheme, rest) = url.split_once("://")?;
    let encrypted = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.is_empty() {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, if encrypted { 443 } else { 80 }),
    };
    let address = match host.trim_start_matches('[').trim_end_matches(']') {
        // Of both protocols.
        "*" => Ipv6Addr::UNSPECIFIED.into(),
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        host => host.parse().ok()?,
    };
    Some((SocketAddr::new(address, port), encrypted))
}

fn tls(config: &Config) -> anyhow::Result<Arc<ServerConfig>> {
    let identity = Identity::of_wat(config)?;
    tracing::info!(fingerprint = identity.fingerprint(), "certificate");
    let mut tls = ServerConfig::builder_with_provider(Arc::new(certificate::provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.certified())));
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_says_where_to_listen_and_whether_with_tls() {
        let at = |address: &str, encrypted| Some((address.parse().unwrap(), encrypted));
        assert_eq!(place("https://*:443/"), at("[::]:443", true));
        assert_eq!(place("https://*"), at("[::]:443", true));
        assert_eq!(place("http://127.0.0.1:8080"), at("127.0.0.1:8080", false));
        assert_eq!(place("http://[::1]/"), at("[::1]:80", false));
        for wrong in ["", "*:443", "ftp://*:21/", "https://*:443/wat", "https://*:port", "https://a.example:1"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }
}
