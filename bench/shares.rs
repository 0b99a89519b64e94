//! Which processes of an installation used the processor: this program, which plays clients and VMs, the router, hkd, and
//! the database. On one machine they share what belongs to many elsewhere.

use std::{fs, path::Path};

use anyhow::Context;
use nix::unistd::{SysconfVar, sysconf};

use crate::{report::Report, site::BenchSite};

/// Where to look.
pub struct Processes {
    router: u32,
    hkd: u32,
    postmaster: u32,
}

/// Milliseconds of processor time.
#[derive(Clone, Copy, Default)]
pub struct Shares {
    clients: f64,
    router: f64,
    hkd: f64,
    database: f64,
}

impl Processes {
    /// Of the node that runs.
    pub async fn find(bench: &BenchSite) -> anyhow::Result<Self> {
        let number = async |query: &str| -> anyhow::Result<u32> {
            Ok(bench.site.sql(query).await?.context("no such process")?.parse()?)
        };
        let file = fs::read_to_string(bench.directory.path().join("database/postmaster.pid"))?;
        Ok(Self {
            router: number("select pid from l7r_instances where ended_at is null").await?,
            hkd: number("select pid from host_runtimes").await?,
            postmaster: file.lines().next().context("an empty process id file")?.trim().parse()?,
        })
    }

    /// What they have used since they began.
    pub fn used(&self) -> anyhow::Result<Shares> {
        let postmaster = self.postmaster;
        // Backends that have ended are in the account of their parent.
        let mut database = used(postmaster, true)?;
        for backend in fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?.split_whitespace()
        {
            // One may have ended just now.
            database += used(backend.parse()?, false).unwrap_or_default();
        }
        Ok(Shares {
            clients: used(std::process::id(), true)?,
            router: used(self.router, false)?,
            hkd: used(self.hkd, false)?,
            database,
        })
    }
}

impl Shares {
    /// Adds what was used between two looks.
    pub fn add(&mut self, before: Self, after: Self) {
        self.clients += after.clients - before.clients;
        self.router += after.router - before.router;
        self.hkd += after.hkd - before.hkd;
        self.database += after.database - before.database;
    }

    /// Sets a figure for each, for one of `count`.
    pub fn report(&self, prefix: &str, count: usize, report: &mut Report) {
        let shares =
            [("clients", self.clients), ("router", self.router), ("hkd", self.hkd), ("database", self.database)];
        for (who, used) in shares {
            report.figure(format!("{prefix}_cpu_{who}_ms"), used / count as f64);
        }
    }
}

/// Fields 14 to 17 of a process's `stat`, counted behind the name in parentheses.
fn used(pid: u32, with_children: bool) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(Path::new(&path)).with_context(|| format!("cannot read {path}"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(if with_children { 4 } else { 2 });
    let ticks = ticks.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    let second = sysconf(SysconfVar::CLK_TCK)?.context("the clock has no ticks")?;
    Ok(ticks * 1000.0 / second as f64)
}
