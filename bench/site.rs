//! The installation that a scenario measures: durable database, everything in a directory that is removed at the end.

use std::{ffi::OsStr, path::PathBuf};

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
    run: TempDir,
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
        // In memory, as `/run` is on every node. It has the same name, by which what belongs to the installation is found.
        let same = directory.path().file_name().context("a directory without a name")?;
        let run = tempfile::Builder::new().prefix(same).rand_bytes(0).tempdir_in("/dev/shm")?;
        let run_path = [("path.run", run.path().display().to_string())].into_iter();
        let settings = settings.iter().map(|(key, value)| (*key, (*value).to_owned()));
        let site = Site::open(SiteOptions {
            directory: directory.path().to_owned(),
            program: program()?,
            node: name.to_owned(),
            network: (250, network),
            hypervisor,
            durability: Durability::Durable,
            port: None,
            settings: run_path.chain(settings).map(|(key, value)| (key.to_owned(), value)).collect(),
        })
        .await?;
        Ok(Self { site, directory, run })
    }

    /// Whether a path or a line of words is about one of its files.
    pub fn owns(&self, text: &str) -> bool {
        self.directory.path().file_name().and_then(OsStr::to_str).is_some_and(|name| text.contains(name))
    }

    /// Ends it and removes every file.
    pub async fn close(self) -> anyhow::Result<()> {
        self.site.close().await?;
        self.run.close()?;
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
