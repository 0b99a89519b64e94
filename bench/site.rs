//! The installation that a scenario measures: durable database, everything in a directory that is removed at the end.

use std::path::PathBuf;

use anyhow::Context;
use qvd::demo::{
    postgres::Durability,
    site::{Site, SiteOptions},
};
use tempfile::TempDir;

/// An installation of its own.
pub struct BenchSite {
    pub site: Site,
    pub directory: TempDir,
}

impl BenchSite {
    /// Node `name` with VMs in 10.250.`network`.0/24.
    pub async fn open(
        name: &str,
        network: u8,
        hypervisor: &'static str,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("qvdb").tempdir_in("/var/tmp")?;
        let site = Site::open(SiteOptions {
            directory: directory.path().to_owned(),
            program: program()?,
            node: name.to_owned(),
            network: (250, network),
            hypervisor,
            durability: Durability::Durable,
            port: None,
            settings: settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        })
        .await?;
        Ok(Self { site, directory })
    }

    /// Ends it and removes every file.
    pub async fn close(self) -> anyhow::Result<()> {
        self.site.close().await?;
        self.directory.close()?;
        Ok(())
    }
}

/// The `qvd` beside this program.
pub fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("qvd");
    anyhow::ensure!(program.exists(), "{} is missing; run `make build`", program.display());
    program.canonicalize().context("qvd cannot be found")
}
