//! `qvd admin storage`: looks through the storage that this machine has mounted, and mends what can be mended by a program.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::{runtime::Handle, task::spawn_blocking};

use crate::{
    db::{Connector, Database, DbError, Role},
    model::config::{Config, keys},
    storage::{CheckOptions, Finding, FindingKind, Outcome, Remedy, Storage, StorageError},
};

use super::settings::DatabaseArg;

/// The exit status when something was found, and when nothing could be found out.
const FOUND: u8 = 1;
const FAILED: u8 = 2;
/// How often a terminal is told what is being looked at.
const OFTEN: Duration = Duration::from_millis(100);

#[derive(Subcommand)]
pub enum Command {
    /// Look for what nobody uses and for what is missing; on a node, as root
    ///
    /// Exits with 0 when nothing was found or all of it is mended, with 1 when something is left, with 2 when the storage or the
    /// database could not be asked.
    Check(Check),
}

#[derive(Args)]
pub struct Check {
    /// Act on what is dead by the database, by its lock and by its owner: set homes aside, remove what can be made again
    #[arg(long)]
    repair: bool,
    /// Read disk images from end to end and compare their checksums
    #[arg(long)]
    checksums: bool,
    #[command(flatten)]
    database: DatabaseArg,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(command: Command) -> ExitCode {
    let Command::Check(check) = command;
    match run_check(check).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => FOUND.into(),
        Err(error) => {
            eprintln!("qvd: {error:#}");
            FAILED.into()
        }
    }
}

/// Why a storage was not looked through.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Whether nothing is left to be done.
async fn run_check(check: Check) -> anyhow::Result<bool> {
    let mut config = check.database.node_config()?;
    let connector = check.database.connector(Role::Admin)?;
    let _ = config.add_rows(Database::new(&connector, 1)?.config_rows().await?);
    let storage = Storage::new(&config);
    make_sure(&config, &storage, &connector).await?;
    let options = CheckOptions {
        repair: check.repair,
        checksums: check.checksums,
        keeps_layers: config.get(&keys::VM_OVERLAY_PERSISTENT),
        keeps_trees: config.get(&keys::HKD_BASEFS_KEEP),
    };
    let root = storage.root().to_owned();
    let (handle, mut shown) = (Handle::current(), Shown::default());
    let looked = spawn_blocking(move || {
        let census = || Ok::<_, CheckError>(handle.block_on(connector.census())?);
        let findings = storage.check(options, census, &mut |path, bytes| shown.show(path, bytes));
        shown.end();
        findings
    });
    let findings = looked.await??;
    let is_done = findings.iter().all(Finding::is_mended);
    match check.json {
        true => println!("{}", serde_json::to_string_pretty(&json!({ "root": root, "findings": findings }))?),
        false => tell(&root, &findings, check.repair),
    }
    Ok(is_done)
}

/// Makes sure that database, storage and this machine belong together: to another database everything here is unknown.
async fn make_sure(config: &Config, storage: &Storage, connector: &Connector) -> anyhow::Result<()> {
    let node = config.get(&keys::NODENAME);
    let recorded = connector.recorded_storage(&node).await?;
    let Some(recorded) = recorded else {
        bail!("the database has no node {node}, which this machine is by its configuration")
    };
    let root = storage.root().to_owned();
    ensure!(root.is_dir(), "{} does not exist", root.display());
    match recorded.identity {
        Some(identity) => {
            let storage = storage.clone();
            let found = spawn_blocking(move || storage.identity()).await??;
            if found.as_ref() != Some(&identity) {
                let wrong = StorageError::Identity { path: root, recorded: identity, found };
                let hint = wrong.hint().unwrap_or_default();
                return Err(anyhow::Error::from(wrong).context(hint)).context("this is not the storage of the node");
            }
        }
        None => ensure!(
            config.get(&keys::STORAGE_LOCAL),
            "node {node} has never started with a storage that it shares, so nobody knows whether this is it"
        ),
    }
    Ok(())
}

/// Says where there is a terminal what is being looked at, in a line that is written over.
#[derive(Default)]
struct Shown {
    at: Option<Instant>,
}

impl Shown {
    fn show(&mut self, path: &Path, bytes: u64) {
        let is_due = self.at.is_none_or(|at| at.elapsed() >= OFTEN);
        if is_due && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{:>9}  {}", amount(bytes), path.display());
            let _ = std::io::stderr().flush();
            self.at = Some(Instant::now());
        }
    }

    fn end(&self) {
        if self.at.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn tell(root: &Path, findings: &[Finding], repair: bool) {
    for finding in findings {
        println!("{}: {} ({})", title(finding.kind), finding.path.display(), amount(finding.bytes));
        println!("    {}", finding.why);
        println!("    {}", next(finding));
    }
    let bytes: u64 = findings.iter().map(|finding| finding.bytes).sum();
    let mended = findings.iter().filter(|finding| finding.is_mended()).count();
    let can_be = findings.iter().filter(|finding| !matches!(finding.remedy, Remedy::Nobody(_))).count();
    let root = root.display();
    match findings.len() {
        0 => println!("{root} is as it should be."),
        found if repair => println!("{root}: {found} found, {mended} mended."),
        found => println!("{root}: {found} found, {} in all; --repair acts on {can_be}.", amount(bytes)),
    }
}

fn title(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::OrphanHome => "home of no VM",
        FindingKind::OrphanLayer => "layer of no VM",
        FindingKind::OldLayer => "layer of no image",
        FindingKind::DiscardedLayer => "layer that was discarded",
        FindingKind::UnfinishedDisk => "disk that is half made",
        FindingKind::StaleLock => "lock that nobody holds",
        FindingKind::UnusedTree => "unpacked image that nobody uses",
        FindingKind::UnfinishedTree => "image that is half unpacked",
        FindingKind::UnfinishedImage => "image that is half copied",
        FindingKind::UnknownImage => "file of no image",
        FindingKind::UnfinishedStaging => "file in staging that is half copied",
        FindingKind::MissingImage => "image without its file",
        FindingKind::WrongSize => "image of another size",
        FindingKind::WrongChecksum => "image of another content",
    }
}

/// What was done, or what is to be done.
fn next(finding: &Finding) -> String {
    match (&finding.outcome, &finding.remedy) {
        (Some(Outcome::SetAside(place)), _) => format!("set aside: {}", place.display()),
        (Some(Outcome::Removed), _) => "removed".to_owned(),
        (Some(Outcome::Disowned), _) => "the owner was taken out".to_owned(),
        (Some(Outcome::Left(why)), _) => format!("left as it is: {why}"),
        (None, Remedy::SetAside) => "--repair moves it into lost-and-found, beside it".to_owned(),
        (None, Remedy::Remove) => "--repair removes it".to_owned(),
        (None, Remedy::Disown) => "--repair takes the owner out".to_owned(),
        (None, Remedy::Nobody(advice)) => format!("for you: {advice}"),
    }
}

fn amount(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}
