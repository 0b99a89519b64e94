//! `qvd config`: the keys that exist and their values; the certificates that routers show and ask for.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{ArgGroup, Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use crate::{
    certificate::Identity,
    db::{Certificates, Role},
    l7r::tls::Clients,
    model::config::{Config, KEYS, Origin},
};

use super::settings::{ConfigFile, DatabaseArg};

#[derive(Subcommand)]
pub enum Command {
    /// List every key with its unit, default and meaning, and its value where the file sets one
    List {
        /// Only keys that contain this text
        filter: Option<String>,
        #[command(flatten)]
        file: ConfigFile,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Store the certificates of all routers, after checking that they can be used
    Ssl(Ssl),
}

#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["cert", "ca", "reset"]))]
pub struct Ssl {
    /// Certificate chain that clients are shown (PEM, the router's own first)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of the certificate (PEM, without password)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Authorities of client certificates (PEM); see l7r.client.cert.require
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Client certificates that were revoked (PEM)
    #[arg(long, value_name = "FILE", requires = "ca")]
    crl: Option<PathBuf>,
    /// Forget all that is stored: every node shows its own certificate again
    #[arg(long, conflicts_with_all = ["cert", "ca", "crl"])]
    reset: bool,
    #[command(flatten)]
    database: DatabaseArg,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { filter, file, json } => list(filter, &file, json),
        Command::Ssl(arguments) => ssl(arguments).await,
    }
}

/// Stores nothing unless all of it can be used.
async fn ssl(arguments: Ssl) -> anyhow::Result<()> {
    let connector = arguments.database.connector(Role::Admin)?;
    if arguments.reset {
        connector.forget_certificates().await?;
        println!("every node shows its own certificate");
        return Ok(());
    }
    let mut new = Certificates::default();
    if let (Some(certificate), Some(key)) = (&arguments.cert, &arguments.key) {
        let identity = Identity::load(certificate, key)?;
        (new.certificate, new.key) = (Some(text(certificate)?), Some(text(key)?));
        println!("certificate {}", identity.fingerprint());
    }
    if let Some(authorities) = &arguments.ca {
        new.authorities = Some(text(authorities)?);
        new.revoked = arguments.crl.as_deref().map(text).transpose()?;
        let named = |pem: &Option<String>, path: &Path| (pem.clone().unwrap_or_default(), path.display().to_string());
        let (ca, ca_place) = named(&new.authorities, authorities);
        let crl = arguments.crl.as_deref().map(|path| named(&new.revoked, path));
        let crl = crl.as_ref().map(|(pem, place)| (pem.as_bytes(), place.as_str()));
        Clients::from_pem((ca.as_bytes(), &ca_place), crl, true)?;
    }
    connector.store_certificates(&new).await?;
    println!("stored");
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn list(filter: Option<String>, file: &ConfigFile, json: bool) -> anyhow::Result<()> {
    let config = if file.config.exists() { file.read()? } else { Config::default() };
    let shown: Vec<_> =
        KEYS.iter().filter(|key| filter.as_deref().is_none_or(|text| key.name.contains(text))).collect();
    if json {
        let keys: Vec<_> = shown
            .iter()
            .map(|key| {
                serde_json::json!({
                    "key": key.name, "unit": key.unit.to_string(), "default": key.default,
                    "value": config.text(key.name), "set": config.origin(key.name).is_some(),
                    "meaning": key.meaning.trim(), "needs_restart": key.needs_restart(),
                })
            })
            .collect();
        println!("{}", serde_json::Value::Array(keys));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["KEY", "VALUE", "UNIT", "CHANGES", "MEANING"]);
    for key in shown {
        let value = match config.origin(key.name) {
            Some(Origin::File { line, .. }) => {
                format!("{} (line {line})", config.text(key.name).unwrap_or_default())
            }
            _ => key.default.to_owned(),
        };
        let changes = if key.needs_restart() { "restart" } else { "live" };
        table.add_row([key.name, &value, &key.unit.to_string(), changes, key.meaning.trim()]);
    }
    println!("{table}");
    Ok(())
}
