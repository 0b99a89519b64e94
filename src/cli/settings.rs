//! Where a command finds its configuration and its database.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use crate::{
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
