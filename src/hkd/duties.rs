//! What a node does apart from commands of VMs: it obeys an order about itself, and its VMs expire. A timer wakes exactly
//! when the next one is due by the clock of the database; a wake-up or a poll asks again, so that neither a changed time
//! nor a clock that was set is missed. What expires for good is told to stop by the database, like by an administrator.

use std::{sync::Arc, time::Duration};

use crate::{
    db::DbError,
    events::{Channel, Hub},
    model::config::keys,
};

use super::{fleet::Node, supervisor::Order};

/// Does so until the node stops.
pub async fn go_on(node: Arc<Node>, hub: Hub) {
    let mut watch = hub.watch(Channel::Node(node.host)).await;
    loop {
        let config = node.config.load_full();
        let wait = match node.database.node_duties(node.host, node.epoch, config.get(&keys::HKD_EXPIRATION)).await {
            Ok(duties) => {
                if duties.stop {
                    node.told_to_stop.cancel();
                }
                for (vm, expiry) in duties.expiring {
                    tracing::info!(%vm, host = %node.host, soft = expiry.soft, hard = expiry.hard, "expires");
                    // One without a supervisor is about to get one, and due again.
                    let _ = node.fleet.order(vm, Order::Expire(expiry));
                }
                duties.next
            }
            Err(DbError::Revoked(message)) => {
                tracing::error!(host = %node.host, "{message}");
                node.stop.cancel();
                None
            }
            Err(error) => {
                tracing::warn!(host = %node.host, %error, "cannot ask what is due");
                Some(config.get(&keys::HKD_POLL_URGENT))
            }
        };
        tokio::select! {
            _ = watch.changed() => {}
            // A moment more, so that it is due even if the two clocks differ in their steps.
            () = tokio::time::sleep(wait.unwrap_or_default() + Duration::from_millis(1)), if wait.is_some() => {}
            () = node.stop.cancelled() => return,
        }
    }
}
