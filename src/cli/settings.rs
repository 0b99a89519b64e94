//! Where a command finds its configuration and its database, or the web tool that is asked in place of one.

use std::{io::IsTerminal, path::PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::{
    admin::{access::Administration, remote::Client},
    db::{Connector, Role},
    model::config::{Config, keys},
};

/// Configuration file of a node.
#[derive(Args, Clone)]
pub struct ConfigFile {
    /// Configuration file of the node
    #[arg(long, env = "QVD_CONFIG", default_value = "/etc/qvd/node.conf")]
    pub config: PathBuf,
}

impl ConfigFile {
    /// Reads the file. Warnings about unknown keys are logged.
    pub fn read(&self) -> anyhow::Result<Config> {
        let file = self.config.display().to_string();
        let text = std::fs::read_to_string(&self.config).with_context(|| format!("{file} cannot be read"))?;
        let mut config = Config::default();
        for warning in config.add_file(&file, &text)? {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }

    /// Reads the file of a daemon, which must say who the node is.
    pub fn read_node(&self) -> anyhow::Result<Config> {
        let config = self.read()?;
        if config.get(&keys::NODENAME).is_empty() {
            bail!("{} does not set nodename, the name of this node in table hosts", self.config.display());
        }
        Ok(config)
    }
}

/// A database for administration.
#[derive(Args, Clone)]
pub struct DatabaseArg {
    /// Connection string: host=… dbname=… user=… or postgresql://…; without it the node's configuration is used
    #[arg(long, env = "QVD_DATABASE", value_name = "STRING")]
    database: Option<String>,
    #[command(flatten)]
    file: ConfigFile,
}

impl DatabaseArg {
    /// The configuration of the node that this machine is.
    pub fn node_config(&self) -> anyhow::Result<Config> {
        self.file.read_node()
    }

    /// How to connect; as `role` when the node's configuration says where.
    pub fn connector(&self, role: Role) -> anyhow::Result<Connector> {
        match &self.database {
            Some(url) => Ok(Connector::from_url(url, "qvd admin")?),
            None => {
                let config = self.file.read().context("no --database given, and the node's configuration")?;
                Ok(Connector::from_config(&config, role)?)
            }
        }
    }
}

/// A web tool for administration.
#[derive(Args, Clone)]
pub struct WebTool {
    /// Ask this web tool (https://wat.example/) in place of a database, as the administrator of QVD_ADMIN_USER and
    /// QVD_ADMIN_PASSWORD, which are asked for when they are not set
    #[arg(long, global = true, value_name = "URL", help_heading = "Over the web tool")]
    url: Option<String>,
    /// Trust the authorities in this file (PEM) and not those of the system
    #[arg(long, global = true, value_name = "FILE", help_heading = "Over the web tool")]
    ca: Option<PathBuf>,
}

impl WebTool {
    /// Begins to administer: over the web tool, or, if none is named, over the database.
    pub async fn administration(&self, database: &DatabaseArg) -> anyhow::Result<Administration> {
        let Some(url) = &self.url else {
            ensure!(self.ca.is_none(), "--ca is for the certificate of a web tool, which --url names");
            return Ok(Administration::of_database(database.connector(Role::Admin)?).await?);
        };
        // Before anybody types a password in vain.
        Client::check(url)?;
        let name = said("QVD_ADMIN_USER", || {
            eprint!("Administrator: ");
            let mut name = String::new();
            std::io::stdin().read_line(&mut name).map(|_| name.trim_end_matches(['\r', '\n']).to_owned())
        })?;
        let password = said("QVD_ADMIN_PASSWORD", || rpassword::prompt_password("Password: "))?;
        Ok(Administration::of_api(url, self.ca.clone(), &name, &password)?)
    }

    /// Refuses what cannot be asked of a web tool.
    pub fn only_with_a_database(&self, what: &str) -> anyhow::Result<()> {
        ensure!(self.url.is_none(), "{what} works with the database and on a node alone, not with --url");
        Ok(())
    }
}

/// What a variable says, or whoever sits at the terminal. Never an argument, which everybody on the machine can read.
fn said(variable: &str, ask: impl FnOnce() -> std::io::Result<String>) -> anyhow::Result<String> {
    match std::env::var(variable) {
        Ok(said) => Ok(said),
        Err(std::env::VarError::NotUnicode(_)) => bail!("{variable} is not UTF-8"),
        Err(std::env::VarError::NotPresent) => {
            ensure!(std::io::stdin().is_terminal(), "--url needs {variable}, since there is no terminal to ask at");
            ask().with_context(|| format!("{variable} is not set and cannot be asked for"))
        }
    }
}
