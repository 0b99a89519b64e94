//! Stops a node with all its VMs, because it was told to by `host_stop`. First the sessions of its routers end, then its
//! VMs, in good order as far as they do within their time, by force after it. A daemon that merely ends leaves both alone;
//! see `daemon`.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::model::config::keys;

use super::{fleet::Node, supervisor::Order};

/// How often it is asked whether sessions have ended.
const LOOK: Duration = Duration::from_millis(200);
/// For taking bridge and packet filter away, which nobody waits for.
const RELEASE_LIMIT: Duration = Duration::from_secs(30);

/// Returns when nothing of the node is left but its daemons.
pub async fn stop_all(node: &Arc<Node>) {
    let host = node.host;
    tracing::info!(%host, "told to stop; ending sessions and VMs");
    let (sessions, vms, again) = {
        let config = node.config.load();
        let limits = [&keys::HKD_STOPPING_L7RS, &keys::HKD_STOPPING_VMS, &keys::HKD_KILLING_VMS];
        let [sessions, vms, again] = limits.map(|key| config.get(key));
        (sessions, vms, again)
    };
    let begin = Instant::now();
    while stopping(node, false).await.is_some_and(|left| left > 0) {
        if begin.elapsed() > sessions {
            tracing::warn!(%host, "a router does not end its sessions; going on without it");
            break;
        }
        sleep(LOOK).await;
    }
    stopping(node, true).await;
    let mut limit = vms;
    while timeout(limit, node.fleet.emptied()).await.is_err() {
        let left = node.fleet.supervised();
        tracing::warn!(%host, vms = left.len(), "VMs do not stop in time; killing them");
        for vm in left {
            // One that has ended meanwhile needs none.
            let _ = node.fleet.order(vm, Order::Kill);
        }
        limit = again;
    }
    match timeout(RELEASE_LIMIT, node.hypervisor.release_node()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%host, %error, "the network of the node stays"),
        Err(_) => tracing::warn!(%host, "the network of the node is not taken away in time"),
    }
}

async fn stopping(node: &Node, vms: bool) -> Option<i32> {
    node.retrying("say that the node stops", || node.database.node_stopping(node.host, node.epoch, vms)).await
}
