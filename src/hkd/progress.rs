//! Tells the database about VMs that take long, so that `vm_why` can say what they wait for; and the states of all VMs of
//! the node in one line, for whoever asks the daemon. Written only when something changed, and nobody is woken.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    db::{DbError, VmProgress},
    model::{VmId, config::keys},
};

use super::{
    fleet::Node,
    machine::{Phase, Progress},
};

/// A VM that is on its way for less is nobody's concern.
const LONG: Duration = Duration::from_secs(3);

/// Reports until the node stops.
pub async fn report(node: Arc<Node>) {
    // What a daemon before wrote is history.
    let mut written = None;
    loop {
        let now = Instant::now();
        let slow: Vec<_> =
            node.fleet.progress().into_iter().filter(|(_, progress)| takes_long(progress, now)).collect();
        if written.as_ref() != Some(&slow) {
            match node.database.node_progress(node.host, node.epoch, &rows(&slow, now)).await {
                Ok(()) => written = Some(slow),
                Err(DbError::Revoked(message)) => {
                    tracing::error!(host = %node.host, "{message}");
                    node.stop.cancel();
                }
                Err(error) => tracing::debug!(host = %node.host, %error, "cannot say how VMs get on"),
            }
        }
        let pause = node.config.load().get(&keys::HKD_LEASE_RENEW);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.stop.cancelled() => return,
        }
    }
}

/// How many VMs are in which phase.
pub fn histogram(node: &Node) -> BTreeMap<String, usize> {
    let mut phases = BTreeMap::new();
    for (_, progress) in node.fleet.progress() {
        *phases.entry(format!("{:?}", progress.phase)).or_default() += 1;
    }
    phases
}

fn takes_long(progress: &Progress, now: Instant) -> bool {
    match progress.phase {
        Phase::Running => progress.attempts > 0,
        Phase::Debugging | Phase::Zombie => true,
        Phase::Gone => false,
        _ => {
            progress.attempts > 0 && progress.phase != Phase::Booting
                || now.saturating_duration_since(progress.since) >= LONG
        }
    }
}

fn rows(slow: &[(VmId, Progress)], now: Instant) -> Vec<VmProgress> {
    let row = |(vm, progress): &(VmId, Progress)| VmProgress {
        vm: *vm,
        phase: format!("{:?}", progress.phase),
        age: now.saturating_duration_since(progress.since),
        left: progress.until.map(|until| until.saturating_duration_since(now)),
        attempts: progress.attempts,
        note: progress.note.clone(),
    };
    slow.iter().map(row).collect()
}
