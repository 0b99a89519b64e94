//! Whether this machine can be a node: looks at all that a node stands on, and judges it line by line. Each module looks
//! (`look`, at the edge) and judges what was found (`judge`, which touches nothing). What is tried is tried with files of its
//! own, which are removed, and in namespaces of its own, which end with a thread: the machine stays as it was. Nothing is
//! mended here.

mod adjtimex;
mod certificates;
mod clock;
mod configuration;
mod database;
mod finding;
mod kernel;
mod limits;
mod network;
mod nodes;
mod page;
mod ports;
mod programs;
mod storage;
mod trial;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::time::timeout;

use crate::model::config::{Config, keys};

use configuration::Facts as File;
use finding::Subject;
pub use finding::{Finding, Grade};
pub use page::{Style, page};

/// For everything that is looked at together; most of it side by side.
const LIMIT: Duration = Duration::from_secs(10);

/// What stands together on the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its lines.
    pub findings: Vec<Finding>,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The node, if the configuration names it.
    pub node: Option<String>,
    /// In the order of the page.
    pub sections: Vec<Section>,
}

impl Report {
    /// Every line.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.sections.iter().flat_map(|section| &section.findings)
    }

    /// That of the worst.
    pub fn grade(&self) -> Grade {
        self.findings().map(|finding| finding.grade).max().unwrap_or(Grade::Good)
    }
}

/// Looks at this machine, as `file` says that it shall be a node. `own` is the directory of the running program.
pub async fn examine(file: &Path, own: &Path) -> Report {
    let found = configuration::look(file);
    let read = match &found {
        File::Read { config, .. } => Some(config.as_ref()),
        _ => None,
    };
    let config = read.cloned().unwrap_or_default();
    let account = config.get(&keys::L7R_AS_USER);
    let guests = config.get(&keys::VM_HYPERVISOR) == "kvm";
    let dhcp = config.get(&keys::VM_DHCP);
    // They hold homes and layers to a size.
    let volumes = !guests && (config.get(&keys::VM_LXC_HOME_LIMIT) || config.get(&keys::VM_LXC_OVERLAY_SIZE) > 0);
    let emulated = config.get(&keys::VM_KVM_ACCELERATION) == "tcg";
    let bin = Some(config.get(&keys::PATH_QVD_BIN)).filter(|bin| !bin.is_empty()).map_or(own.into(), PathBuf::from);
    let (kernel, programs, limits, (rows, mut rest)) = tokio::join!(
        section("Kernel", async { Some(kernel::judge(&kernel::look(guests && !emulated, volumes).await)) }),
        section("Programs", async { Some(programs::judge(&programs::look(bin.clone(), guests, dhcp, volumes).await)) }),
        section("Limits", async { Some(limits::judge(&blocking(|| limits::look(account)).await?)) }),
        with_database(read, file, &bin),
    );
    let findings = configuration::judge(&found, file).into_iter().chain(rows).collect();
    let mut sections = vec![kernel, programs, limits, Section { title: "Configuration", findings }];
    sections.append(&mut rest);
    Report { node: Some(config.get(&keys::NODENAME)).filter(|name| !name.is_empty()), sections }
}

/// What depends on what the database says; where it says nothing, on the file alone. Beside it stands what is said of its
/// configuration.
async fn with_database(read: Option<&Config>, file: &Path, bin: &Path) -> (Option<Finding>, Vec<Section>) {
    let facts = database::look(read, LIMIT).await;
    // The router has read what it listens on and shows before it knows the database.
    let of_file = read.cloned().unwrap_or_default();
    let mut config = of_file.clone();
    let mut sections =
        vec![Section { title: "Database", findings: database::judge(&facts, &database::Names::new(&config, file)) }];
    let hkd = facts.hkd.as_ref().ok();
    let rows = hkd.and_then(|node| node.rows.as_ref().ok()).map(|rows| {
        let refused: Vec<String> = config.add_rows(rows.clone()).iter().map(ToString::to_string).collect();
        configuration::judge_rows(rows.len(), &refused)
    });
    let address = hkd.and_then(|node| node.address.clone().ok().flatten());
    let recorded = hkd.and_then(|node| node.storage.clone().ok());
    let stored = facts.l7r.as_ref().ok().and_then(|router| router.certificates.clone().ok()).unwrap_or_default();
    let standing = hkd.map(|node| &node.standing);
    let ahead = standing.map(|standing| (standing.clock_ahead, standing.round_trip));
    let (time, storage, network, certificates) = tokio::join!(
        section("Time", async { Some(clock::judge(adjtimex::look(), ahead)) }),
        section("Storage", async {
            let wanted = storage::Wanted::new(&config, file, recorded);
            Some(storage::judge(&storage::look(&config, bin).await, &wanted))
        }),
        section("Network", async {
            let ports = ports::Wanted::new(&of_file, file);
            let number = ports.port;
            let of_cluster = config.clone();
            let (network, held, nodes) = tokio::join!(
                network::look(&config, address),
                blocking(move || ports::look(number)),
                blocking(move || nodes::look(&of_cluster, address))
            );
            let mut findings = network::judge(&network, &network::Wanted::new(&config, &ports));
            findings.push(nodes::judge(nodes?.as_ref(), &ports.file));
            findings.extend(ports::judge(&held?, &ports));
            Some(findings)
        }),
        section("Certificates", async {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let required = config.get(&keys::L7R_CLIENT_CERT);
            let of_file = of_file.clone();
            let found = blocking(move || certificates::look(&of_file, &stored, required)).await?;
            Some(certificates::judge(&found, now, file))
        }),
    );
    sections.extend([time, storage, network, certificates]);
    (rows, sections)
}

const LATE: Subject = Subject { name: "everything", why: "What hangs here will hang a node, too." };

/// A section, which says that it hangs when it does.
async fn section(title: &'static str, looked: impl Future<Output = Option<Vec<Finding>>>) -> Section {
    let late = || vec![LATE.bad(format!("no answer within {} s", LIMIT.as_secs()), "dmesg | tail")];
    Section { title, findings: timeout(LIMIT, looked).await.ok().flatten().unwrap_or_else(late) }
}

/// For what may wait on files and name services.
async fn blocking<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(look).await.ok()
}
