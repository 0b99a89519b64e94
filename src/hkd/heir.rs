//! The wait of a machine for the node whose name it has. What it sees is judged by `succession`.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::{
    db::{Database, DbError, Former, Peer},
    process::boot_id,
};

use super::{
    signs::Signs,
    succession::{Machine, Seen, Succession, Watch, succession},
};

impl Machine {
    /// This machine.
    pub fn own() -> Self {
        let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
        let has_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        Self { id: has_one.then_some(id), boot_id: boot_id().unwrap_or_default() }
    }
}

/// Waits until this machine may be the node `name`, as far as it can see that. Returns whom it saw dead.
pub async fn wait(
    name: &str,
    machine: &Machine,
    signs: Option<&Signs>,
    database: &Database,
    stop: &CancellationToken,
) -> Result<Option<Peer>, DbError> {
    let (_, former) = database.node_former(name).await?;
    let (peer, signs) = match (succession(former.as_ref(), machine, signs.is_some()), signs) {
        (Succession::Watch(peer), Some(signs)) => (peer, signs),
        // The database has the last word, and says what to do.
        _ => return Ok(None),
    };
    tracing::warn!(name, patience = ?peer.patience, "another machine is this node; waiting until it is certainly dead");
    let dead = tokio::select! {
        dead = watch(name, machine, signs, database, peer) => Some(dead),
        () = stop.cancelled() => None,
    };
    signs.forget_beats(&machine.boot_id, Duration::from_secs(1)).await;
    Ok(dead)
}

async fn watch(name: &str, machine: &Machine, signs: &Signs, database: &Database, peer: Peer) -> Peer {
    let limit = peer.patience / 4;
    let mut watch = Watch::new(peer.clone(), Instant::now());
    let mut told = false;
    for number in 0.. {
        let began = Instant::now();
        let shown = tokio::time::timeout(limit, database.node_former(name)).await;
        let shown = shown.ok().and_then(Result::ok).and_then(|(source, former)| Some((source, as_peer(former?)?)));
        let beats = signs.beats_of_another(&machine.boot_id, number, &peer, limit).await;
        match watch.look(began, Instant::now(), shown, beats) {
            Seen::Dead(peer) => return peer,
            Seen::Alive if !std::mem::replace(&mut told, true) => {
                tracing::error!(
                    name,
                    "the other machine lives; give this one a name of its own, or switch the other off"
                );
            }
            Seen::Alive | Seen::Silence => {}
        }
        tokio::time::sleep(watch.pause()).await;
    }
    peer
}

fn as_peer(former: Former) -> Option<Peer> {
    let Former { host, name, epoch, lease, patience, .. } = former;
    Some(Peer { host, name, epoch, lease, patience: patience? })
}
